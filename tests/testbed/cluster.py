"""Beds: one to three clusters side by side on a bridge, from nothing to ready nodes and DNS, and back.

A bed lives in one of two ways. *Detached* (`up`): it stays until `down`. *Owned* (`owned_bed`): it ends with
the process that started it, even if that is killed without warning; what then remains of it (a bridge,
folders, control groups) is swept away by the next start.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from . import cgroups, images, network, node, pki, prerequisites, programs, seed
from .config import NODE_FOLDERS, NODE_SCRATCH
from .console import TestbedError, run, say, step
from .images import DEFAULT_ISTIO, IstioImages
from .plan import BEDS, SERVICE_ADDRESS, BedPlan, ClusterPlan, plan_bed
from .rest import Client, wait_until
from .state import (
    BedState,
    Process,
    all_beds,
    bed_folder,
    forget,
    make_mount_points,
    registry_lock,
)

_MANIFESTS = Path(__file__).parent


@dataclass(frozen=True)
class Cluster:
    """A running cluster, as tests and the command line use it."""

    bed: str
    plan: ClusterPlan
    host_address: str  # of the host on the bed's bridge: how pods and the API server reach programs outside

    @property
    def name(self) -> str:
        return self.plan.name

    @property
    def folder(self) -> Path:
        return bed_folder(self.bed) / self.name

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    @property
    def address(self) -> str:
        """The first node's address: of the API server, of node ports, and of load balancers."""
        return self.plan.nodes[0].address

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout: float = 60) -> str:
        command: list[str | Path] = [programs.kubectl(), "--kubeconfig", self.kubeconfig, *arguments]
        # Discovery results are cached by server address, and the next cluster may have the same one.
        environment = {**os.environ, "KUBECACHEDIR": str(self.folder / "kubectl-cache")}
        return run(command, stdin=stdin, env=environment, timeout=timeout)

    def apply(self, manifests: str) -> None:
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=manifests)

    def client(self) -> Client:
        return Client(self.kubeconfig)

    def enter(self, *argv: str) -> str:
        """Runs a program on the first node, in its network."""
        return node.enter(_running(self.bed).processes[self.plan.nodes[0].name].init, *argv)

    def enter_all(self, *argv: str) -> None:
        """Runs a program on every node, in its network."""
        for entry in self.plan.nodes:
            node.enter(_running(self.bed).processes[entry.name].init, *argv)

    def load_image(self, archive: Path) -> None:
        """Imports an archive into every node; pods find the images under their names in the archive."""
        state = _running(self.bed)
        nodes = [state.processes[entry.name].init for entry in self.plan.nodes]
        _in_parallel([partial(node.load_image, init, archive) for init in nodes])

    def assign_load_balancer(self, namespace: str, service: str, address: str | None = None) -> str:
        """Does what a cloud would for a LoadBalancer Service: fills in an address, or else the first node's.

        Two Services with a port in common need two addresses: `load_balancer_addresses` has more.
        """
        address = address or self.address
        path = f"/api/v1/namespaces/{namespace}/services/{service}/status"
        self.client().merge_patch(path, {"status": {"loadBalancer": {"ingress": [{"ip": address}]}}})
        return address

    def load_balancer_addresses(self) -> list[str]:
        """Addresses that the first node answers for besides its own."""
        prefix, _, last = self.plan.load_balancer_cidr.partition("/")[0].rpartition(".")
        return [f"{prefix}.{int(last) + offset}" for offset in range(16)]

    def assign_load_balancers(self) -> dict[str, str]:
        """Gives every LoadBalancer Service that waits for one an address of its own; by namespace/name."""
        services: list[dict[str, Any]] = self.client().get("/api/v1/services")["items"]
        wanting = [entry for entry in services if entry["spec"].get("type") == "LoadBalancer"]
        used = {ingress.get("ip") for entry in wanting for ingress in _ingresses(entry)}
        free = (address for address in self.load_balancer_addresses() if address not in used)
        assigned = {}
        for entry in wanting:
            if not _ingresses(entry):
                name, namespace = entry["metadata"]["name"], entry["metadata"]["namespace"]
                assigned[f"{namespace}/{name}"] = self.assign_load_balancer(namespace, name, next(free))
        return assigned


@dataclass(frozen=True)
class Bed:
    """Clusters side by side, and one kubeconfig with a context for each, named like the cluster."""

    name: str
    clusters: tuple[Cluster, ...]

    @property
    def kubeconfig(self) -> Path:
        return bed_folder(self.name) / "kubeconfig"


def up(
    name: str = "meshwright",
    *,
    clusters: int = 1,
    nodes: int = 1,
    flat: bool = False,
    istio: IstioImages = DEFAULT_ISTIO,
    metrics_server: bool = False,
    owned: bool = False,
) -> Bed:
    """Starts a bed; returns when its nodes and DNS are ready. Interrupted or failed, it removes what it made.

    `flat` routes pods of one cluster to those of another; without it clusters reach each other's nodes only.
    """
    prerequisites.check()
    kubernetes = programs.kubernetes_programs()
    root = seed.seed(images.cluster_archive(istio))
    metrics_archive = images.metrics_server_archive() if metrics_server else None
    sweep()
    state = _claim(name, clusters=clusters, nodes=nodes, flat=flat)
    try:
        with step(f"bed {name}: {clusters} cluster(s) of {nodes} node(s)"):
            bed = _start(state, kubernetes, root)
            if metrics_archive:
                for cluster in bed.clusters:
                    cluster.load_image(metrics_archive)
                    cluster.apply((_MANIFESTS / "metrics-server.yaml").read_text())
            if not owned:
                for running in _lifelines.pop(name):
                    running.detach()
                state.owner = None
                state.save()
    except BaseException as error:
        with _undisturbed():
            if isinstance(error, TestbedError):
                for entry in state.plan.nodes:
                    for line in node.diagnosis(state.folder / entry.name):
                        say(f"{entry.name}: {line}")
            say(f"bed {name}: removing what was started")
            down(name)
        raise
    return bed


@contextmanager
def owned_bed(
    name: str,
    *,
    clusters: int = 1,
    nodes: int = 1,
    flat: bool = False,
    istio: IstioImages = DEFAULT_ISTIO,
    metrics_server: bool = False,
) -> Iterator[Bed]:
    """A bed for the time of a `with` block or of this process, whichever ends first."""
    options: dict[str, Any] = {"clusters": clusters, "nodes": nodes, "flat": flat, "istio": istio}
    bed = up(name, **options, metrics_server=metrics_server, owned=True)
    try:
        yield bed
    finally:
        with _undisturbed():
            down(name)


def down(name: str) -> bool:
    """Removes every trace of a bed, also of one that crashed half-way. Returns whether there was one."""
    with registry_lock():
        for running in _lifelines.pop(name, []):
            running.end()
        state = BedState.load(name)
        if state is None:
            there = bed_folder(name).is_dir()
            forget(name)
            return there
        _remove(state)
    return True


def find(name: str) -> Bed:
    """A bed that is running already."""
    return _bed(_running(name).plan)


def is_running(name: str) -> bool:
    state = BedState.load(name)
    return state is not None and state.running()


def sweep() -> None:
    """Removes the beds whose owner is gone."""
    with registry_lock():
        for state in all_beds():
            if state.orphaned():
                say(f"bed {state.name}: the process it lived by is gone; removing the rest")
                _remove(state)


# The pipes that running nodes live by, for as long as this process does.
_lifelines: dict[str, list[node.RunningNode]] = {}


def _claim(name: str, *, clusters: int, nodes: int, flat: bool) -> BedState:
    """Gives the bed an index that no other bed and no route of the machine uses, and records it."""
    plan_bed(name, 0, clusters=clusters, nodes=nodes, flat=flat)  # refuses what cannot be, before anything is made
    with registry_lock():
        if BedState.load(name) is not None:
            raise TestbedError(f"bed {name} exists", f"python -m testbed down --name {name}")
        used = {state.index for state in all_beds()}
        for index in range(BEDS):
            if index not in used and not network.taken(f"10.231.{index}.0/24"):
                break
        else:
            raise TestbedError("every node network of the address plan is in use", "python -m testbed status")
        state = BedState(name, index, clusters, nodes, flat, owner=Process.of(os.getpid()))
        state.save()
        try:
            make_mount_points([*NODE_FOLDERS.values(), *NODE_SCRATCH])
        except BaseException:
            forget(name)
            raise
        return state


def _start(state: BedState, kubernetes: Path, root: Path) -> Bed:
    plan = state.plan
    bed = _bed(plan)
    network.create_bridge(plan)
    started = _lifelines.setdefault(state.name, [])
    for cluster in bed.clusters:
        _issue(cluster)
        for entry in cluster.plan.nodes:
            folder = state.folder / entry.name
            folder.mkdir()
            seed.plant(root, folder / "containerd")
            running = node.start(
                plan, cluster.plan, entry, folder=folder, pki=cluster.folder / "pki", programs=kubernetes
            )
            started.append(running)
            state.processes[entry.name] = running.processes
            state.save()
    _write_kubeconfig(bed)
    # A removal in between, as after Ctrl-C, ends the nodes and with them the waiting.
    _in_parallel([partial(_make_ready, cluster, state.running) for cluster in bed.clusters])
    return bed


def _make_ready(cluster: Cluster, alive: Callable[[], bool]) -> None:
    """Waits for the API server, brings DNS up, and waits for every node and DNS."""
    client = cluster.client()
    with step(f"{cluster.name}: API server"):
        wait_until(client.ready, "a ready API server", seconds=90, pause=0.1, alive=alive)
    cluster.apply((_MANIFESTS / "coredns.yaml").read_text())

    def nodes_ready() -> bool:
        entries = client.get("/api/v1/nodes")["items"]
        return len(entries) == len(cluster.plan.nodes) and all(_condition(entry, "Ready") for entry in entries)

    def dns_ready() -> bool:
        return _condition(client.get("/apis/apps/v1/namespaces/kube-system/deployments/coredns"), "Available")

    with step(f"{cluster.name}: nodes"):
        wait_until(nodes_ready, f"readiness of the nodes of {cluster.name}", seconds=90, alive=alive)
    with step(f"{cluster.name}: DNS"):
        wait_until(dns_ready, f"DNS in {cluster.name}", seconds=120, alive=alive)


def _issue(cluster: Cluster) -> None:
    """The cluster's keys and certificates, and the kubeconfig files of its components."""
    folder = cluster.folder / "pki"
    pki.issue_control_plane(folder, ["127.0.0.1", SERVICE_ADDRESS, cluster.address, cluster.host_address])
    for user in ("controller-manager", "scheduler", "kube-proxy"):
        identity = pki.Identity(folder / f"{user}.crt", folder / f"{user}.key")
        pki.write_kubeconfig(
            folder / f"{user}.kubeconfig", cluster.name, cluster.plan.server, folder / "ca.crt", identity
        )
    admin = pki.Identity(folder / "admin.crt", folder / "admin.key")
    pki.write_kubeconfig(cluster.kubeconfig, cluster.name, cluster.plan.server, folder / "ca.crt", admin)


def _write_kubeconfig(bed: Bed) -> None:
    merged = pki.merge_kubeconfigs([cluster.kubeconfig.read_text() for cluster in bed.clusters])
    pki.write_secret(bed.kubeconfig, merged.encode())


def _remove(state: BedState) -> None:
    """In the order that leaves nothing dangling: processes, interfaces, control groups, files."""
    for entry in state.processes.values():
        entry.init.kill()
    for entry in state.processes.values():
        entry.parent.kill()
    network.remove(state.plan)
    cgroups.remove(state.name)
    forget(state.name)


def _bed(plan: BedPlan) -> Bed:
    return Bed(plan.name, tuple(Cluster(plan.name, cluster, plan.host_address) for cluster in plan.clusters))


def _running(name: str) -> BedState:
    state = BedState.load(name)
    if state is None:
        known = ", ".join(bed.name for bed in all_beds()) or "none"
        raise TestbedError(f"there is no bed {name} (there is: {known})", f"python -m testbed up --name {name}")
    if not state.running():
        raise TestbedError(f"bed {name} is not running any more", f"python -m testbed down --name {name}")
    return state


def _condition(entry: dict[str, Any], kind: str) -> bool:
    conditions = entry.get("status", {}).get("conditions", [])
    return any(condition["type"] == kind and condition["status"] == "True" for condition in conditions)


def _ingresses(service: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service.get("status", {}).get("loadBalancer", {}).get("ingress") or []
    return found


def _in_parallel(tasks: Sequence[partial[None]]) -> None:
    """Runs all at once and raises the first failure, or an interrupt, without waiting for the others."""
    pool = ThreadPoolExecutor(max_workers=max(1, len(tasks)))
    try:
        for future in [pool.submit(task) for task in tasks]:
            future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C must not interrupt the removal that the first one began."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
