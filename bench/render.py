"""How long the objects of one mesh take to render: in the operator, and as a command beside istioctl's."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

from bench.figure import Figure
from meshwright.api.meshinstall import API_VERSION, KIND, MeshInstall
from meshwright.cli.render import meshes, objects
from testbed import programs
from testbed.product import ROOT

ROUNDS = 30
GATEWAYS, PORTS, LABELS, VARIABLES, SELECTORS = 32, 64, 28, 64, 500
QUICKSTART = ROOT / "examples/quickstart.yaml"


def figures() -> Iterator[Figure]:
    (mesh,) = meshes(str(QUICKSTART))
    list(objects(mesh, crds=True))  # templates are compiled once in a process
    inside = typical(lambda: list(objects(mesh, crds=True)))
    large = largest()
    most = typical(lambda: list(objects(large, crds=True)))

    ours = [Path(sys.executable).with_name("kubectl-mesh"), "render", "--crds", QUICKSTART]
    theirs = [programs.build(programs.istioctl()), "manifest", "generate", "--set", "profile=minimal"]
    command, peer = (typical(lambda argv=argv: run(argv)) for argv in (ours, theirs))  # type: ignore[misc]
    yield Figure("render", inside * 1000, "ms", "≤ 30 ms", "none: Istio's renderer has no warm form")
    yield Figure("render-largest", most * 1000, "ms", "≤ 50 ms", f"the quick start's mesh {inside * 1000:.3g} ms")
    yield Figure("render-command", command / peer, "× peer", "none", f"istioctl manifest generate {peer * 1000:.0f} ms")


def largest() -> MeshInstall:
    """As many gateways, ports, labels and variables as a MeshInstall may have, and a mesh config of some length."""
    ports = [{"name": f"tcp-{number}", "port": 20000 + number} for number in range(PORTS)]
    gateway = {"labels": {f"team-{number}": "shop" for number in range(LABELS)}, "service": {"ports": ports}}
    spec = {
        "version": "1.31.4",
        "controlPlane": {"env": {f"PILOT_SETTING_{number}": "true" for number in range(VARIABLES)}},
        "dataPlane": {"cni": "Enabled"},
        "gateways": [{"name": f"gateway-{number}", **gateway} for number in range(GATEWAYS)],
        "meshConfig": {
            "discoverySelectors": [{"matchLabels": {"team": f"team-{number}"}} for number in range(SELECTORS)]
        },
    }
    return MeshInstall.parse({"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "largest"}, "spec": spec})


def typical(action: Callable[[], object]) -> float:
    """The median of several rounds, in seconds."""
    durations = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        action()
        durations.append(time.perf_counter() - begin)
    return median(durations)


def run(argv: list[str | Path]) -> None:
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, timeout=60)
