"""The operator as a process on a bare API server, and the smallest kopf operator that could stand in its place."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testbed.apiserver import ApiServer
from testbed.console import TestbedError
from testbed.product import ROOT

# What an operator on kopf costs before it does anything: one handler, the same resource.
NOTHING = """
import kopf, os, time, pathlib
@kopf.on.login()
def login(**kw): return kopf.login_via_client(**kw)
@kopf.on.event('meshwright.dev', 'v1alpha1', 'meshinstalls')
async def seen(**_): pathlib.Path(os.environ['SEEN']).write_text(str(time.time()))
"""
SECONDS = 60.0


def prepare(api: ApiServer) -> None:
    """The CRD, the operator's namespace, and the quick start's mesh."""
    api.kubectl("apply", "--server-side", "-k", str(ROOT / "manifests/crd"))
    api.kubectl("wait", "--for=condition=Established", "crd/meshinstalls.meshwright.dev", "--timeout=30s")
    api.kubectl("create", "namespace", "meshwright-system")
    api.kubectl("apply", "-f", str(ROOT / "examples/quickstart.yaml"))


@contextmanager
def running(argv: list[str | Path], api: ApiServer, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "KUBECONFIG": str(api.kubeconfig), **environment}
    process = subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
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
def meshwright(api: ApiServer) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """The operator after its first reconcile, with the seconds that it took to get there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    argv: list[str | Path] = [Path(sys.executable).with_name("meshwright"), f"--port={port}"]
    begin = time.time()
    with running(argv, api) as process:
        yield process, until(lambda: first_reconcile(port), begin)


@contextmanager
def nothing(api: ApiServer, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """The kopf operator that does nothing, after its first event."""
    (folder / "nothing.py").write_text(NOTHING)
    seen = folder / "seen"
    seen.unlink(missing_ok=True)
    argv: list[str | Path] = [sys.executable, "-m", "kopf", "run", "-A", "--standalone", folder / "nothing.py"]
    begin = time.time()
    with running(argv, api, SEEN=str(seen)) as process:
        yield process, until(lambda: float(seen.read_text()) - begin if seen.exists() else None, begin)


def first_reconcile(port: int) -> float | None:
    """Seconds from the operator's start to the end of its first reconcile, as it says itself; None before that."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2) as answer:
            text = answer.read().decode()
    except OSError:
        return None
    found = re.search(r"^meshwright_start_to_first_reconcile_seconds (\S+)", text, re.MULTILINE)
    return float(found[1]) or None if found else None


def until(probe: object, begin: float) -> float:
    while time.time() - begin < SECONDS:
        if (value := probe()) is not None:  # type: ignore[operator]
            return float(value)
        time.sleep(0.02)
    raise TestbedError(f"the operator did not get to its first object within {SECONDS:.0f} s")


def resident_mebibytes(process: subprocess.Popen[bytes]) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    assert found
    return int(found[1]) / 1024
