"""The operator as it is run: the real process, with kopf, signals, and the things that are wrong at its start."""

from __future__ import annotations

import http.client
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from api.conftest import install_crd
from api.world import CRDS, OPERATOR_NAMESPACE, Cluster, Mesh, RefusedError, path_of_item
from testbed.console import TestbedError
from testbed.rest import wait_until

LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{OPERATOR_NAMESPACE}/leases/meshwright"
SOON = 25  # seconds, on a machine that is busy with other things


class Process:
    """A `meshwright` that runs, and what it says."""

    def __init__(self, kubeconfig: Path | None, log: Path, *arguments: str) -> None:
        self.port = free_port()
        self.log = log
        environment = {name: value for name, value in os.environ.items() if name not in ("KUBECONFIG", "POD_NAMESPACE")}
        environment |= {"HOME": str(log.parent)}  # where no kubeconfig is
        if kubeconfig:
            environment["KUBECONFIG"] = str(kubeconfig)
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "meshwright.controller", "--port", str(self.port), *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )

    def said(self) -> str:
        return self.log.read_text()

    def ask(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def await_start(self) -> None:
        wait_until(lambda: self.ask("/healthz")[0] == 200, "the operator's start", seconds=SOON, pause=0.05)

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def terminate(self) -> int:
        self.send(signal.SIGTERM)
        return self._process.wait(SOON)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(SOON)

    def end(self) -> int:
        """The exit code of a process that ends by itself."""
        return self._process.wait(SOON)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


Run = Callable[..., Process]


@pytest.fixture
def run(cluster: Cluster, tmp_path: Path) -> Iterator[Run]:
    with ExitStack() as stack:
        stack.callback(cluster.delete, LEASE)  # which a killed process leaves, and the next would wait for

        def start(kubeconfig: Path | None = cluster.api.kubeconfig, *arguments: str) -> Process:
            process = Process(kubeconfig, tmp_path / "log", *arguments)
            stack.callback(process.kill)
            return process

        yield start


def reason(mesh: Mesh) -> str:
    return str(mesh.condition().get("reason", ""))


def play_along(mesh: Mesh) -> bool:
    """The world does its part of the installation. True once the mesh is Ready."""
    if mesh.cluster.get(mesh.deployment_path):
        mesh.istiod_becomes_available()
    if mesh.cluster.get(mesh.injector_path):
        mesh.istiod_writes_its_ca()
    return reason(mesh) == "Installed"


def await_installed(mesh: Mesh) -> None:
    wait_until(lambda: play_along(mesh), "the installation", seconds=40, pause=0.2)


def test_a_life(run: Run, mesh: Mesh, tmp_path: Path) -> None:
    """Started, asked for a mesh, watched, and ended, without a key byte anywhere outside the Secrets."""
    process = run()
    process.await_start()
    before = time.monotonic()
    mesh.cluster.api.kubectl("apply", "-f", "-", stdin=manifest_text(mesh))
    wait_until(lambda: reason(mesh) == "Progressing", "the first status", seconds=SOON, pause=0.05)
    assert time.monotonic() - before < 15
    await_installed(mesh)

    # A child that changes wakes it.
    service = f"/api/v1/namespaces/{mesh.namespace}/services/{mesh.names.istiod}"
    mesh.cluster.delete(service)
    wait_until(lambda: mesh.cluster.get(service) is not None, "the repair", seconds=SOON, pause=0.05)

    assert process.ask("/healthz") == (200, "ok")
    assert process.ask("/readyz") == (200, "ok")
    status, metrics = process.ask("/metrics")
    assert status == 200
    for name in (
        "meshwright_reconcile_total",
        "meshwright_reconcile_duration_seconds_bucket",
        "workqueue_depth",
        f'meshwright_mesh_condition{{mesh="{mesh.name}",status="True",type="Ready"}} 1.0',
        f'meshwright_certificate_expiry_timestamp_seconds{{certificate="root",cluster="primary",mesh="{mesh.name}"}}',
    ):
        assert name in metrics

    before = time.monotonic()
    assert process.terminate() == 0
    assert time.monotonic() - before < 5
    said = process.said()
    assert "Traceback" not in said
    assert "error" not in said.lower()

    keys = mesh.cluster.private_keys()
    assert len(keys) >= 2
    outside = [said, metrics, str(mesh.read()), str(mesh.events()), rendered(mesh, tmp_path)]
    outside += [str(item) for item in mesh.objects() if item["kind"] != "Secret"]
    outside += [str(item["metadata"]) for item in mesh.objects() if item["kind"] == "Secret"]
    for text in outside:
        assert "PRIVATE KEY" not in text
        assert not [key for key in keys if key in text or key[:64] in text.replace("\\n", "").replace("\n", "")]


def manifest_text(mesh: Mesh) -> str:
    return (
        f"apiVersion: meshwright.dev/v1alpha1\nkind: MeshInstall\nmetadata: {{name: {mesh.name}}}\n"
        f"spec: {{version: 1.31.4, namespace: {mesh.namespace}, revision: {mesh.revision}}}\n"
    )


def rendered(mesh: Mesh, folder: Path) -> str:
    file = folder / "mesh.yaml"
    file.write_text(manifest_text(mesh))
    argv = [sys.executable, "-m", "meshwright.cli.main", "render", str(file)]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def test_killed_at_some_moment(run: Run, mesh: Mesh) -> None:
    process = run()
    process.await_start()
    mesh.create()
    time.sleep(random.uniform(0.1, 1.2))  # noqa: S311
    process.kill()
    root = mesh.cluster.get(mesh.root_path)
    mesh.cluster.delete(LEASE)
    run()
    await_installed(mesh)
    if root:
        assert mesh.cluster.must_get(mesh.root_path)["data"] == root["data"]
    secrets = mesh.cluster.list(f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/secrets", f"meshwright.dev/mesh={mesh.name}")
    assert len(secrets) == 1


def test_removed_by_the_process(run: Run, mesh: Mesh) -> None:
    mesh.create()
    run()
    wait_until(lambda: mesh.cluster.get(mesh.deployment_path) is not None, "istiod", seconds=SOON)
    mesh.cluster.api.kubectl("delete", "mesh", mesh.name, "--timeout=30s")
    assert mesh.cluster.get(mesh.deployment_path) is None
    assert sorted(each["kind"] for each in mesh.objects()) == ["Namespace", "Secret", "Secret"]


def test_a_stalled_mesh_is_not_worked_on_all_the_time(run: Run, mesh: Mesh) -> None:
    mesh.create(version="1.30.0")
    process = run()
    wait_until(lambda: reason(mesh) == "UnsupportedVersion", "the condition", seconds=SOON)
    time.sleep(1)  # for its own write's event to come round
    before = mesh.read()["metadata"]["resourceVersion"], reconciles(process)
    time.sleep(2.5)
    after = mesh.read()["metadata"]["resourceVersion"], reconciles(process)
    assert after == before
    assert len(mesh.events()) == 1


def reconciles(process: Process) -> float:
    lines = process.ask("/metrics")[1].splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("meshwright_reconcile_total{"))


# -- what can be wrong at the start


def ends_with(process: Process, *words: str) -> None:
    """It gives up with a sentence, and without showing its insides."""
    assert process.end() == 1
    said = process.said()
    assert "Traceback" not in said, said
    *_, last = said.splitlines()
    assert last.startswith("error: ")
    for word in words:
        assert word in last


def test_no_kubeconfig(run: Run) -> None:
    process = run(None)
    ends_with(process, "KUBECONFIG")


def test_kubeconfig_that_is_none(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text("just: text")
    process = run(file)
    ends_with(process, "kube")


def test_port_that_is_taken(run: Run, cluster: Cluster) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:  # noqa: S104
        port = str(taken.getsockname()[1])
        process = run(cluster.api.kubeconfig, "--port", port)
        ends_with(process, port)


def test_api_server_that_is_away_at_the_start(run: Run, mesh: Mesh, cluster: Cluster) -> None:
    """It waits, says so in lines, and goes on when the server is back."""
    mesh.create()
    cluster.api.pause()
    try:
        process = run()
        wait_until(lambda: "connect" in process.said().lower(), "a word about it", seconds=SOON)
        time.sleep(1)
        assert process.alive
    finally:
        cluster.api.resume()
    wait_until(lambda: reason(mesh) == "Progressing", "the first status", seconds=40)
    assert "Traceback" not in process.said()
    assert process.terminate() == 0


def test_crd_that_comes_later(run: Run, new_mesh: Callable[..., Mesh], cluster: Cluster) -> None:
    """The operator may be there first: it says what is missing and waits."""
    path = f"{CRDS}/meshinstalls.meshwright.dev"
    for left in cluster.list("/apis/meshwright.dev/v1alpha1/meshinstalls"):
        cluster.merge(path_of_item(left), {"metadata": {"finalizers": None}})
    cluster.delete(path)
    wait_until(lambda: cluster.get(path) is None, "its end", seconds=30, pause=0.05)
    process = run()
    try:
        wait_until(lambda: "meshinstalls" in process.said(), "a word about it", seconds=SOON)
        assert process.alive
    finally:
        install_crd(cluster)
    mesh = new_mesh()

    def created() -> bool:
        try:
            mesh.create()
        except RefusedError as refused:
            raise TestbedError(str(refused)) from refused
        return True

    wait_until(created, "the new CRD", seconds=20, pause=0.1)
    wait_until(lambda: reason(mesh) == "Progressing", "the first status", seconds=60)
    assert "Traceback" not in process.said()
    assert process.terminate() == 0
