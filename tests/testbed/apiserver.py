"""A bare API server for tests: etcd and kube-apiserver as child processes on loopback. Needs no root.

    with api_server() as api:
        api.kubectl("get", "namespaces")
        reader = api.kubeconfig_for("alice", groups=["readers"])
        api.pause()       # connections are refused
        api.resume()      # the same port, the same data

Everything ends with the process that started it, also when that is killed without warning.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

from . import config, pki, programs
from .console import TestbedError, run
from .plan import SERVICE_ADDRESS
from .processes import Child
from .rest import Client
from .state import Process

READY_SECONDS = 60
_PREFIX = "meshwright-api-"


class ApiServer:
    """A running API server; make one with `api_server`."""

    def __init__(self, folder: Path, extra_args: Sequence[str], controllers: Sequence[str]) -> None:
        self.folder = folder
        self._pki = folder / "pki"
        port, etcd_port, peer_port, manager_port = _free_ports(4)
        self._at = config.Endpoints("127.0.0.1", port, etcd_port, peer_port)
        self._authority = pki.issue_control_plane(self._pki, ["127.0.0.1", SERVICE_ADDRESS])
        self.kubeconfig = folder / "kubeconfig"
        pki.write_kubeconfig(self.kubeconfig, "api", self.url, self.authority, pki.Identity(self.certificate, self.key))
        binaries = programs.kubernetes_programs()
        self._etcd = self._child(config.etcd(binaries, folder / "etcd", self._pki, self._at))
        self._apiserver = self._child(config.kube_apiserver(binaries, self._pki, self._at, tuple(extra_args)))
        self._controllers: Child | None = None
        if controllers:
            flags = (f"--controllers={','.join(controllers)}", f"--secure-port={manager_port}")
            manager = config.kube_controller_manager(binaries, self._pki, self.kubeconfig, flags)
            self._controllers = self._child(manager)
        self._frozen = False

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._at.port}"

    @property
    def authority(self) -> Path:
        """The certificate that the server's own is signed with."""
        return self._pki / "ca.crt"

    @property
    def certificate(self) -> Path:
        """The administrator's client certificate (group system:masters)."""
        return self._pki / "admin.crt"

    @property
    def key(self) -> Path:
        return self._pki / "admin.key"

    def kubeconfig_for(self, user: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig with a client certificate for any user, who may do what RBAC lets them."""
        name = "user-" + "".join(letter if letter.isalnum() else "-" for letter in "-".join([user, *groups]))
        identity = self._authority.issue(name, user, groups=groups)
        return pki.write_kubeconfig(self.folder / f"{name}.kubeconfig", "api", self.url, self.authority, identity)

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout: float = 60) -> str:
        environment = {**os.environ, "KUBECACHEDIR": str(self.folder / "kubectl-cache")}
        argv: list[str | Path] = [programs.kubectl(), "--kubeconfig", self.kubeconfig, *arguments]
        return run(argv, stdin=stdin, env=environment, timeout=timeout)

    def client(self) -> Client:
        return Client(self.kubeconfig)

    def pause(self, *, hang: bool = False) -> None:
        """Takes the server away: connections are refused, or with `hang` accepted and never answered."""
        if hang:
            self._apiserver.freeze()
            self._frozen = True
        else:
            self._apiserver.kill()
            self._frozen = False

    def resume(self) -> None:
        """Brings it back on the same port with the same data; returns when it is ready."""
        if self._frozen:
            self._apiserver.thaw()
            self._frozen = False
        else:
            self._apiserver.kill()
            self._apiserver.start()
        self._wait()

    def start(self) -> None:
        self._etcd.start()
        self._apiserver.start()
        self._wait()
        if self._controllers is not None:
            self._controllers.start()

    def stop(self) -> None:
        """Ends everything and removes its files."""
        for child in (self._controllers, self._apiserver, self._etcd):
            if child is not None:
                child.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _child(self, command: config.Command) -> Child:
        return Child(command.argv, self.folder / f"{command.name}.log")

    def _wait(self) -> None:
        client = self.client()
        deadline = time.monotonic() + READY_SECONDS
        while not client.ready():
            self._etcd.check()
            self._apiserver.check()
            if time.monotonic() > deadline:
                raise TestbedError(f"the API server was not ready within {READY_SECONDS} seconds")
            time.sleep(0.05)


@contextmanager
def api_server(*, extra_args: Sequence[str] = (), controllers: Sequence[str] = ()) -> Iterator[ApiServer]:
    """An API server for the time of a `with` block, or of this process.

    `controllers` names those of kube-controller-manager that should run beside it (`namespace-controller`,
    `garbage-collector-controller`, …); by default there are none, so nothing is collected, and a deleted
    namespace stays Terminating.
    """
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    (folder / "owner.json").write_text(json.dumps(asdict(Process.of(os.getpid()))))
    server = ApiServer(folder, extra_args, controllers)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def _sweep() -> None:
    """Removes the files of servers whose process was killed; the servers ended with it."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            owner = Process(**json.loads((folder / "owner.json").read_text()))
        except (OSError, ValueError):  # just being made, or not ours to read
            continue
        if not owner.alive():
            shutil.rmtree(folder, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(entry.getsockname()[1]) for entry in sockets]
