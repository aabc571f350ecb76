"""The first process of a node: sets up its namespaces from a JSON file, then keeps its programs running.

Run as `python -I -S init.py SPEC LIFELINE` in fresh namespaces; it uses the standard library only and imports
nothing of the test bed, so that it starts fast and stays small. LIFELINE is the reading end of a pipe: the
byte `k` means keep running without it, its end means that whoever started the node is gone. When this process
ends, the kernel ends every process of the node with it.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any


def main(spec_path: str, lifeline: int) -> None:
    os.set_inheritable(lifeline, False)
    threading.Thread(target=watch_lifeline, args=(lifeline,), daemon=True).start()
    spec: dict[str, Any] = json.loads(Path(spec_path).read_text(encoding="utf-8"))
    socket.sethostname(spec["name"])
    mount_everything(spec)
    connect_network(spec["network"])
    programs = Programs(spec["logs"])
    threading.Thread(target=start_in_order, args=(spec["stages"], programs), daemon=True).start()
    programs.reap_forever()


def watch_lifeline(lifeline: int) -> None:
    if os.read(lifeline, 1) != b"k":
        os._exit(1)


def mount_everything(spec: dict[str, Any]) -> None:
    call("mount", "--make-rprivate", "/")
    for target in spec["scratch"]:
        call("mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", target)
    for source, target in spec["folders"]:
        call("mount", "--bind", source, target)
    # The kubelet hands mounts below its folder on to containers.
    call("mount", "--bind", "/var/lib/kubelet", "/var/lib/kubelet")
    call("mount", "--make-rshared", "/var/lib/kubelet")
    call("mount", "-t", "proc", "proc", "/proc")
    for source, target in spec["settings"]:
        call("mount", "--bind", source, target)


def connect_network(network: dict[str, Any]) -> None:
    call("ip", "link", "set", "lo", "up")
    while "eth0" not in (name for _, name in socket.if_nameindex()):
        time.sleep(0.02)
    call("ip", "address", "add", network["address"], "dev", "eth0")
    call("ip", "link", "set", "eth0", "up")
    call("ip", "route", "add", "default", "via", network["gateway"])
    for destination, via in network["routes"]:
        call("ip", "route", "add", destination, "via", via)
    for local in network["local"]:
        # The node answers for the whole range, as a load balancer in front of it would.
        call("ip", "route", "add", "local", local, "dev", "eth0")
    for setting in ("net/ipv4/ip_forward", "net/ipv4/conf/all/route_localnet"):
        Path(f"/proc/sys/{setting}").write_text("1", encoding="ascii")
    call("nft", "-f", network["ruleset"])


def start_in_order(stages: list[dict[str, Any]], programs: Programs) -> None:
    for stage in stages:
        for name, argv in stage["commands"]:
            programs.start(name, argv)
        if stage["ready"]:
            wait_for(**stage["ready"])


def wait_for(url: str, authority: str, certificate: str, key: str) -> None:
    context: ssl.SSLContext | None = None
    while True:
        try:
            if context is None:
                context = ssl.create_default_context(cafile=authority)
                context.load_cert_chain(certificate, key)
            with urllib.request.urlopen(url, timeout=5, context=context) as answer:  # noqa: S310 - https
                if answer.status == 200:
                    return
        except (OSError, urllib.error.URLError):
            pass
        time.sleep(0.1)


class Programs:
    """The node's programs by process id; one that ends is started again a second later."""

    def __init__(self, logs: str) -> None:
        self._logs = logs
        self._running: dict[int, tuple[str, list[str]]] = {}
        self._lock = threading.Lock()

    def start(self, name: str, argv: list[str]) -> None:
        log = f"{self._logs}/{name}.log"
        with self._lock:
            # Not subprocess: its objects reap children themselves, and the loop below would miss their end.
            pid = os.posix_spawnp(
                argv[0],
                argv,
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                ],
                setsid=True,
            )
            self._running[pid] = (name, argv)

    def reap_forever(self) -> None:
        """Reaps the programs and every orphan of the node."""
        while True:
            try:
                pid, status = os.waitpid(-1, 0)
            except ChildProcessError:
                time.sleep(0.05)
                continue
            with self._lock:
                ended = self._running.pop(pid, None)
            if ended:
                print(
                    f"{ended[0]} ended with code {os.waitstatus_to_exitcode(status)}",
                    file=sys.stderr,
                    flush=True,
                )
                threading.Timer(1.0, self.start, ended).start()


def call(*argv: str) -> None:
    """One set-up command; before programs are started, because then the loop above reaps everything."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(f"{' '.join(argv)}: {done.stderr.strip()}", file=sys.stderr, flush=True)
        os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
