"""One node: a network, mount, process and host name namespace with containerd, kubelet and kube-proxy inside.

The first node of a cluster runs its control plane as well. Ending the node's first process ends everything in
it, containers included, and the kernel takes the namespaces and the mounts in them away.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import cgroups, config, network
from .console import TestbedError, run
from .pki import Authority, write_kubeconfig
from .plan import BedPlan, ClusterPlan, NodePlan, routes
from .state import DEATH_SECONDS, NodeProcesses, Process

MARK = "MESHWRIGHT_TESTBED"  # in the environment of every process of a bed: its name


@dataclass
class RunningNode:
    """A node and the pipe that it lives by: it ends when the writing end is closed without a word."""

    plan: NodePlan
    processes: NodeProcesses
    lifeline: int
    parent: subprocess.Popen[bytes]

    def detach(self) -> None:
        """From now on the node lives without the process that started it."""
        os.write(self.lifeline, b"k")
        os.close(self.lifeline)
        _detached.append(self.parent)

    def end(self) -> None:
        """The node is ending, because the word that it may live on was never said; waits for its end."""
        os.close(self.lifeline)
        self.processes.init.kill()
        self.parent.wait(DEATH_SECONDS)


# Kept from the garbage collector, which warns of processes that nobody waited for.
_detached: list[subprocess.Popen[bytes]] = []


def start(
    bed: BedPlan, cluster: ClusterPlan, node: NodePlan, *, folder: Path, pki: Path, programs: Path
) -> RunningNode:
    """Starts a node in `folder`; returns when its namespaces are connected, before its programs are ready."""
    spec = _write_files(bed, cluster, node, folder=folder, pki=pki, programs=programs)
    cgroups.create(bed.name, node.name)
    reading, lifeline = os.pipe()
    try:
        process, init = _spawn(bed.name, spec, folder, reading)
    except BaseException:
        os.close(lifeline)
        raise
    finally:
        os.close(reading)
    running = RunningNode(node, NodeProcesses(init, Process.of(process.pid)), lifeline, process)
    try:
        network.attach(bed, node, init.pid)
    except BaseException:
        running.end()
        raise
    return running


def enter(init: Process, *argv: str | Path, timeout: float = 60) -> str:
    """Runs a program inside a node."""
    if not init.alive():
        raise TestbedError("the node is not running")
    return run(
        ["nsenter", "--target", str(init.pid), "--mount", "--net", "--pid", "--uts", "--", *argv],
        timeout=timeout,
    )


def load_image(init: Process, archive: Path) -> None:
    """Imports an archive with one or more images into a node's containerd."""
    socket = Path(f"/proc/{init.pid}/root{config.CONTAINERD_SOCKET}")
    deadline = time.monotonic() + 30
    while not socket.exists():
        if time.monotonic() > deadline or not init.alive():
            raise TestbedError("containerd does not answer", "see containerd.log of the node")
        time.sleep(0.05)
    ctr = ["ctr", "--address", config.CONTAINERD_SOCKET, "--namespace", "k8s.io"]
    enter(init, *ctr, "images", "import", str(archive), timeout=300)


def diagnosis(folder: Path) -> list[str]:
    """Why a node may not come up: which of its programs ended, and the last that each of those said."""
    logs = folder / "logs"
    said = _last_lines(logs / "init.log", 5)
    for name in sorted({line.split()[0] for line in said if " ended with code " in line}):
        said += _last_lines(logs / f"{name}.log", 2)
    return said


def _last_lines(path: Path, count: int) -> list[str]:
    return path.read_text(errors="replace").splitlines()[-count:] if path.exists() else []


def _spawn(bed: str, spec: Path, folder: Path, reading: int) -> tuple[subprocess.Popen[bytes], Process]:
    program = [sys.executable, "-I", "-S", str(Path(__file__).with_name("init.py")), str(spec), str(reading)]
    with (folder / "logs" / "init.log").open("ab") as log:
        process = subprocess.Popen(
            ["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", *program],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[reading],
            env={**os.environ, MARK: bed},
            start_new_session=True,  # Ctrl-C at the terminal is for `up`, which removes the node in order
        )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 10
    while process.poll() is None and time.monotonic() < deadline:
        if pids := children.read_text().split():
            return process, Process.of(int(pids[0]))
        time.sleep(0.01)
    process.kill()
    process.wait()
    raise TestbedError(f"the namespaces of a node could not be made: {(folder / 'logs' / 'init.log').read_text()}")


def _write_files(
    bed: BedPlan, cluster: ClusterPlan, node: NodePlan, *, folder: Path, pki: Path, programs: Path
) -> Path:
    for name in (*config.NODE_FOLDERS, "logs", "settings", "etcd"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    ways = routes(bed, cluster, node)
    _write(folder / "containerd.toml", config.containerd_config())
    _write(folder / "cni-config" / "10-testbed.conflist", config.cni_config(node))
    for program in config.CNI_PROGRAMS.iterdir():
        (folder / "cni-programs" / program.name).symlink_to(program)
    _write(folder / "ruleset.nft", config.node_ruleset(node, ways))
    authority = Authority.load(pki, "ca")
    identity = authority.issue(
        node.name, f"system:node:{node.name}", groups=["system:nodes"], hosts=[node.name, node.address]
    )
    write_kubeconfig(folder / "kubelet.kubeconfig", cluster.name, cluster.server, pki / "ca.crt", identity)
    _write(folder / "kubelet.json", config.kubelet_config(node, pki, cgroups.cgroup_of(bed.name, node.name)))
    proxy = config.kube_proxy_config(node, cluster, pki / "kube-proxy.kubeconfig")
    _write(folder / "kube-proxy.json", proxy)
    spec = {
        "name": node.name,
        "logs": str(folder / "logs"),
        "scratch": config.NODE_SCRATCH,
        "folders": [[str(folder / name), target] for name, target in config.NODE_FOLDERS.items()],
        "settings": [[str(_setting(folder, name)), f"/proc/sys/{name}"] for name in config.KERNEL_SETTINGS],
        "network": {
            "address": f"{node.address}/24",
            "gateway": bed.host_address,
            "routes": ways.via,
            "local": [cluster.load_balancer_cidr] if node.control_plane else [],
            "ruleset": str(folder / "ruleset.nft"),
        },
        "stages": _stages(cluster, node, folder, pki, programs),
    }
    _write(folder / "spec.json", json.dumps(spec, indent=2))
    return folder / "spec.json"


def _stages(cluster: ClusterPlan, node: NodePlan, folder: Path, pki: Path, programs: Path) -> list[dict[str, Any]]:
    """The programs in order: the API server first, because a client without one waits longer each time."""
    at = config.Endpoints(cluster.nodes[0].address, 6443, 2379, 2380)
    runtime = config.containerd(folder / "containerd.toml")
    agents = [
        config.kubelet(programs, node, folder / "kubelet.json", folder / "kubelet.kubeconfig"),
        config.kube_proxy(programs, folder / "kube-proxy.json"),
    ]
    first = [runtime]
    if node.control_plane:
        first = [
            config.etcd(programs, folder / "etcd", pki, at),
            config.kube_apiserver(programs, pki, at),
            runtime,
        ]
        agents += [
            config.kube_controller_manager(programs, pki, pki / "controller-manager.kubeconfig"),
            config.kube_scheduler(programs, pki, pki / "scheduler.kubeconfig"),
        ]
    ready = {
        "url": f"{cluster.server}/readyz",
        "authority": str(pki / "ca.crt"),
        "certificate": str(pki / f"{node.name}.crt"),
        "key": str(pki / f"{node.name}.key"),
    }
    return [
        {"commands": [[command.name, command.argv] for command in first], "ready": ready},
        {"commands": [[command.name, command.argv] for command in agents], "ready": None},
    ]


def _setting(folder: Path, name: str) -> Path:
    path = folder / "settings" / name.replace("/", ".")
    _write(path, config.KERNEL_SETTINGS[name] + "\n")
    return path


def _write(path: Path, content: str) -> None:
    path.write_text(content)
