"""Several real clusters, one of them with the operator, which has a kubeconfig of each other one."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from e2e import howto, workloads
from testbed import backends
from testbed.backends import LocalBackend
from testbed.cluster import Cluster
from testbed.product import NAMESPACE, Product

Manifest = dict[str, Any]
SYSTEM, SHOP = "istio-system", "shop"
REQUESTS = 60

# Each on a connection of its own. Envoy repeats what fails, so who answered counts, not that somebody did.
ASK = """
import collections, json, sys, urllib.request
seen = collections.Counter()
for _ in range(int(sys.argv[2])):
    try:
        with urllib.request.urlopen(sys.argv[1], timeout=5) as answer:
            seen[json.load(answer)["cluster"]] += 1
    except Exception as error:
        seen[f"failed: {error}"] += 1
print(json.dumps(seen))
"""


@dataclass(frozen=True)
class One:
    """A cluster of a bed, as `Product` wants it."""

    kubeconfig: Path


@dataclass(frozen=True)
class Clusters:
    """By name; the operator runs in the first."""

    all: dict[str, Product]
    backend: LocalBackend

    @property
    def east(self) -> Product:
        return self.all["east"]

    @property
    def west(self) -> Product:
        return self.all["west"]

    def status(self, mesh: str) -> dict[str, Manifest]:
        """Of each cluster."""
        return {each["name"]: each for each in self.east.get("mesh", mesh)["status"].get("clusters", [])}

    def open_shop(self) -> None:
        """The same Service in all clusters, and who answers says where it runs."""
        for name, cluster in self.all.items():
            environment = [{"name": "CLUSTER", "value": name}]
            cluster.apply(
                workloads.namespace(SHOP),
                workloads.deployment("echo", SHOP, containers=[workloads.container(env=environment)]),
                workloads.service("echo", SHOP),
                workloads.deployment("client", SHOP),
            )
        for cluster in self.all.values():
            for name in ("echo", "client"):
                cluster.kubectl("-n", SHOP, "rollout", "status", f"deployment/{name}", "--timeout=90s", timeout=100)


@contextmanager
def clusters_of(bed: str, *names: str, flat: bool = False) -> Iterator[Clusters]:
    """Real ones with the operator in the first, while the block is open."""
    backend = backends.choose(bed, clusters=len(names), flat=flat)
    assert isinstance(backend, LocalBackend), "packets between clusters are dropped here: this needs the local back end"
    backend.up()
    try:
        products = [Product(backend), *(Product(One(each.kubeconfig)) for each in backend.members[1:])]  # type: ignore[arg-type]
        found = Clusters(dict(zip(names, products, strict=True)), backend)
        found.east.install()
        kubeconfigs = {name: each.kubeconfig for name, each in zip(names, backend.members, strict=True)}
        for name in names[1:]:
            howto.let_in(kubeconfigs, own=found.east, name=name)
        with ExitStack() as stack:
            if not flat:
                stack.enter_context(cloud(backend))
            yield found
    finally:
        backend.down()


def kubeconfig_secret(name: str, admin: Path, *, token: str) -> Manifest:
    """With the server of an administrator's kubeconfig, and another credential."""
    there = yaml.safe_load(admin.read_text())["clusters"][0]["cluster"]
    kubeconfig = {
        "apiVersion": "v1", "kind": "Config", "current-context": name,
        "clusters": [{"name": name, "cluster": there}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": "meshwright"}}],
        "users": [{"name": "meshwright", "user": {"token": token}}],
    }  # fmt: skip
    return {
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE},
        "stringData": {"kubeconfig": json.dumps(kubeconfig)},
    }  # fmt: skip


def until(holds: Callable[[], Any], *, seconds: float = 60, what: str) -> Any:
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.5)
    return found


@contextmanager
def cloud(backend: LocalBackend) -> Iterator[None]:
    """Gives LoadBalancer Services their addresses while the block is open."""
    done = threading.Event()

    def work() -> None:
        while not done.wait(1):
            with suppress(OSError):  # an API server that is stopped on purpose
                backend.assign_load_balancers()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=30)


def ask(cluster: Product, *, requests: int = REQUESTS) -> Counter[str]:
    """Who answered requests from this cluster."""
    command = ("-n", SHOP, "exec", "deployment/client", "-c", "app", "--", "python3", "-c", ASK)
    return Counter(json.loads(cluster.kubectl(*command, f"http://echo.{SHOP}", str(requests), timeout=300)))


def answered_by(cluster: Product, *names: str) -> bool:
    """Whether all of these answer a client in the cluster, and nobody else."""
    return set(names) == ask(cluster, requests=20).keys()


def bound(cluster: Product) -> set[str]:
    """By name and uid, the Secrets that tokens for this cluster's reader are bound to."""
    items = cluster.get("secrets", "-n", SYSTEM)["items"]
    return {
        f"{each['metadata']['name']} {each['metadata']['uid']}"
        for each in items
        if each["metadata"]["name"].startswith("istio-reader-")
    }


@contextmanager
def cut_off(clusters: Clusters) -> Iterator[None]:
    """Between the two clusters no packet passes, while the block is open; the tests themselves reach both."""
    east, west = clusters.backend.bed.clusters
    places = f"{{ {west.address}, {west.plan.load_balancer_cidr} }}"
    rules = (
        "table inet cutoff {"
        f" chain from {{ type filter hook prerouting priority -400; ip saddr {places} drop; }};"
        f" chain to {{ type filter hook postrouting priority 400; ip daddr {places} drop; }};"
        " }"
    )
    east.enter("nft", rules)
    try:
        yield
    finally:
        east.enter("nft", "delete table inet cutoff")


@contextmanager
def api_server_stopped(cluster: Cluster) -> Iterator[None]:
    """Nobody reaches it while the block is open, its own kubelet and istiod included."""
    drop = "type filter hook input priority -400; tcp dport 6443 drop;"
    cluster.enter("nft", f"table inet stopped {{ chain in {{ {drop} }}; }}")
    try:
        yield
    finally:
        cluster.enter("nft", "delete table inet stopped")
