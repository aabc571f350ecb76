"""The operator as a process on a bare API server, and the smallest kopf operator that could stand in its place."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from api.world import Cluster, Mesh
from campaign.play import play
from meshwright.cluster.kinds import Kind
from testbed.apiserver import ApiServer
from testbed.console import TestbedError
from testbed.product import ROOT

# What an operator on kopf costs before it does anything: one handler, the same resource. CHILDREN: more of them.
NOTHING = """
import json, kopf, os, time, pathlib
@kopf.on.login()
def login(**kw): return kopf.login_via_client(**kw)
@kopf.on.event('meshwright.dev', 'v1alpha1', 'meshinstalls')
async def seen(**_): pathlib.Path(os.environ['SEEN']).write_text(str(time.time()))
async def child_seen(type, **_):
    if type == 'DELETED': pathlib.Path(os.environ['GONE']).touch()
for group, version, plural in json.loads(os.environ['CHILDREN']):
    kopf.on.event(group, version, plural, labels={'meshwright.dev/mesh': kopf.PRESENT})(child_seen)
"""
SECONDS = 60.0
TICKS = os.sysconf("SC_CLK_TCK")
T = TypeVar("T")


@dataclass(frozen=True)
class Running:
    """A process that has started, and what the machine says of it."""

    process: subprocess.Popen[bytes]

    def resident_mebibytes(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
        assert found
        return int(found[1]) / 1024

    def processor_seconds(self) -> float:
        after_name = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        user, system = after_name[11:13]
        return (int(user) + int(system)) / TICKS


@dataclass(frozen=True)
class Operator(Running):
    """Ours, with what it says of itself."""

    port: int

    def ready(self) -> bool:
        return self._ask("readyz") == "ok"

    def first_reconcile(self) -> float | None:
        """Seconds from the operator's start to the end of its first reconcile, as it says itself; None before that."""
        return self._metric("meshwright_start_to_first_reconcile_seconds") or None

    def queue_depth(self) -> float:
        return self._metric("workqueue_depth")

    def _metric(self, name: str) -> float:
        """One that has no labels; 0 before the process serves it."""
        found = re.search(rf"^{name} (\S+)", self._ask("metrics"), re.MULTILINE)
        return float(found[1]) if found else 0.0

    def _ask(self, path: str) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=2) as answer:
                text: str = answer.read().decode()
        except OSError:
            return ""
        return text


def prepare(api: ApiServer) -> None:
    """The CRD, the operator's namespace, and the quick start's mesh."""
    api.kubectl("apply", "--server-side", "-k", str(ROOT / "manifests/crd"))
    api.kubectl("wait", "--for=condition=Established", "crd/meshinstalls.meshwright.dev", "--timeout=30s")
    api.kubectl("create", "namespace", "meshwright-system")
    api.kubectl("apply", "-f", str(ROOT / "examples/quickstart.yaml"))


def quickstart(cluster: Cluster) -> Mesh:
    return Mesh(cluster, "quickstart", "istio-system", "default")


def install(*meshes: Mesh) -> None:
    """Until an operator that runs has installed them, with a Deployment controller and an istiod that are played."""

    def all_installed() -> bool:
        for mesh in meshes:
            play(mesh)
        return all(mesh.condition().get("reason") == "Installed" for mesh in meshes)

    until(all_installed, pause=0.2)


@contextmanager
def running(argv: Sequence[str | Path], **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        argv, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def replica(api: ApiServer) -> Iterator[Operator]:
    """The operator as soon as it leads, or could."""
    port = free_port()
    argv: list[str | Path] = [Path(sys.executable).with_name("meshwright"), f"--port={port}"]
    with running(argv, KUBECONFIG=str(api.kubeconfig)) as process:
        operator = Operator(process, port)
        until(operator.ready)
        yield operator


@contextmanager
def meshwright(api: ApiServer) -> Iterator[tuple[Operator, float]]:
    """The operator after its first reconcile, with the seconds that it took to get there."""
    with replica(api) as operator:
        yield operator, until(operator.first_reconcile)


@contextmanager
def nothing(api: ApiServer, folder: Path, *, children: Sequence[Kind] = ()) -> Iterator[tuple[Running, float]]:
    """The kopf operator that does nothing, after its first event; it can watch a mesh's objects, too."""
    (folder / "nothing.py").write_text(NOTHING)
    seen = folder / "seen"
    seen.unlink(missing_ok=True)
    argv: list[str | Path] = [sys.executable, "-m", "kopf", "run", "-A", "--standalone", folder / "nothing.py"]
    watched = json.dumps([(kind.group, kind.api_version.rpartition("/")[2], kind.plural) for kind in children])
    begin = time.time()
    environment = {"SEEN": str(seen), "GONE": str(folder / "gone"), "CHILDREN": watched}
    with running(argv, KUBECONFIG=str(api.kubeconfig), **environment) as process:
        first_event = until(lambda: seen.read_text() if seen.exists() else None)
        yield Running(process), float(first_event) - begin


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def until(probe: Callable[[], T | None], *, pause: float = 0.02) -> T:
    """What the probe gives as soon as that is something."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        if value := probe():
            return value
        time.sleep(pause)
    raise TestbedError(f"an operator did not get there within {SECONDS:.0f} s")
