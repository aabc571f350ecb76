"""One MeshInstall over two real clusters on two networks: joined, proven by who answers, cut apart, healed, removed."""

from __future__ import annotations

import base64
import json
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e import workloads
from testbed import backends
from testbed.backends import LocalBackend
from testbed.product import NAMESPACE, ROOT, Product

Manifest = dict[str, Any]
EXAMPLE = ROOT / "examples/two-clusters.yaml"
MESH, SYSTEM, SHOP = "two-clusters", "istio-system", "shop"
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
class Pair:
    east: Product  # the operator runs here
    west: Product
    backend: LocalBackend

    @property
    def both(self) -> dict[str, Product]:
        return {"east": self.east, "west": self.west}

    def status(self) -> dict[str, Manifest]:
        """Of each cluster."""
        return {each["name"]: each for each in self.east.get("mesh", MESH)["status"].get("clusters", [])}


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
            backend.assign_load_balancers()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=30)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    backend = backends.choose("pair", clusters=2)
    assert isinstance(backend, LocalBackend), "packets between clusters are dropped here: this needs the local back end"
    backend.up()
    try:
        clusters = [Product(One(member.kubeconfig)) for member in backend.members]  # type: ignore[arg-type]
        pair = Pair(Product(backend), clusters[1], backend)
        pair.east.install()
        member_of(pair)
        with cloud(backend):
            yield pair
    finally:
        backend.down()


def member_of(pair: Pair) -> None:
    """What docs/how-to/clusters.md says: manifests/member there, and a Secret with its kubeconfig here."""
    pair.west.kubectl("apply", "--server-side", "-k", str(ROOT / "manifests/member"))
    secret = ("secret", "meshwright-token", "-n", NAMESPACE)
    data = until(lambda: pair.west.get(*secret).get("data"), what="the token")
    there = yaml.safe_load(pair.backend.members[1].kubeconfig.read_text())["clusters"][0]["cluster"]
    kubeconfig = {
        "apiVersion": "v1", "kind": "Config", "current-context": "west",
        "clusters": [{"name": "west", "cluster": {
            "server": there["server"], "certificate-authority-data": data["ca.crt"],
        }}],
        "contexts": [{"name": "west", "context": {"cluster": "west", "user": "meshwright"}}],
        "users": [{"name": "meshwright", "user": {"token": base64.b64decode(data["token"]).decode()}}],
    }  # fmt: skip
    pair.east.apply({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "west", "namespace": NAMESPACE},
        "stringData": {"kubeconfig": json.dumps(kubeconfig)},
    })  # fmt: skip


@pytest.fixture(scope="module")
def joined(pair: Pair) -> Pair:
    mesh = pair.east.mesh(yaml.safe_load(EXAMPLE.read_text()))
    mesh["spec"]["controlPlane"] |= {"autoscaling": {"enabled": False}}
    mesh["spec"]["topology"] = {"eastWestGateway": {"autoscaling": {"enabled": False}}}
    pair.east.apply(mesh)
    pair.east.wait_ready(MESH, seconds=120)
    return pair


@pytest.fixture(scope="module")
def shop(joined: Pair) -> Pair:
    """The same Service in both clusters, and who answers says where it runs."""
    for name, cluster in joined.both.items():
        environment = [{"name": "CLUSTER", "value": name}]
        cluster.apply(
            workloads.namespace(SHOP),
            workloads.deployment("echo", SHOP, containers=[workloads.container(env=environment)]),
            workloads.service("echo", SHOP),
            workloads.deployment("client", SHOP),
        )
    for cluster in joined.both.values():
        for name in ("echo", "client"):
            cluster.kubectl("-n", SHOP, "rollout", "status", f"deployment/{name}", "--timeout=90s", timeout=100)
    return joined


def ask(cluster: Product, *, requests: int = REQUESTS) -> Counter[str]:
    """Who answered requests from this cluster."""
    command = ("-n", SHOP, "exec", "deployment/client", "-c", "app", "--", "python3", "-c", ASK)
    return Counter(json.loads(cluster.kubectl(*command, f"http://echo.{SHOP}", str(requests), timeout=300)))


def fully_answered(cluster: Product) -> bool:
    return {"east", "west"} == ask(cluster, requests=20).keys()


def test_both_clusters_are_ready_and_read_each_other(joined: Pair) -> None:
    status = joined.status()
    assert {name: (each["ready"], each["network"]) for name, each in status.items()} == {
        "east": (True, "east"),
        "west": (True, "west"),
    }
    assert {name: [(r["name"], r["synced"]) for r in each["remotes"]] for name, each in status.items()} == {
        "east": [("west", "2/2")],
        "west": [("east", "2/2")],
    }
    assert joined.east.condition(MESH, "ClustersJoined")["status"] == "True"


def test_from_each_side_both_versions_answer(shop: Pair) -> None:
    for name, cluster in shop.both.items():
        until(lambda cluster=cluster: fully_answered(cluster), what=f"both answer a client in {name}")  # type: ignore[misc]
        seen = ask(cluster)
        assert seen.keys() == {"east", "west"}, seen
        assert sum(seen.values()) == REQUESTS
        assert min(seen.values()) >= REQUESTS // 6, seen


def test_one_root_and_an_intermediate_for_each_cluster(shop: Pair) -> None:
    roots = {
        cluster.get("configmap", "istio-ca-root-cert", "-n", SHOP)["data"]["root-cert.pem"]
        for cluster in shop.both.values()
    }
    assert len(roots) == 1
    trust = [each["trust"] for each in shop.status().values()]
    assert len({each["rootFingerprint"] for each in trust}) == 1
    assert len({each["intermediateFingerprint"] for each in trust}) == 2
    # The root's key is in the operator's cluster, and in no Secret of the other one.
    key = shop.east.get("secret", f"meshwright-root-{MESH}", "-n", NAMESPACE)["data"]["root-key.pem"]
    assert key not in shop.west.kubectl("get", "secrets", "-A", "--output=json")


def test_istioctl_agrees(joined: Pair) -> None:
    from testbed import programs

    istioctl = programs.build(programs.istioctl())
    for name, other in (("east", "west"), ("west", "east")):
        command = [str(istioctl), "remote-clusters", "--istioNamespace", SYSTEM]
        said = subprocess.run(
            command, env=joined.both[name].environment, capture_output=True, text=True, timeout=60, check=True
        ).stdout
        rows = [line.split() for line in said.splitlines()[1:]]
        assert {(row[0], "synced" in row) for row in rows} >= {(other, True)}, said


def test_new_access_on_demand_without_a_gap(shop: Pair) -> None:
    """The former token is revoked only when the new one is in use."""
    before = bound(shop.west)
    shop.east.kubectl("annotate", "mesh", MESH, "meshwright.dev/rotate-access=now", "--overwrite")
    until(lambda: bound(shop.west) not in (before, set()) and len(bound(shop.west)) == 1, seconds=90, what="a new one")
    assert not bound(shop.west) & before
    assert ask(shop.east).keys() == {"east", "west"}
    assert shop.status()["east"]["remotes"][0]["synced"] == "2/2"


def bound(cluster: Product) -> set[str]:
    """By name and uid, the Secrets that tokens for this cluster's reader are bound to."""
    items = cluster.get("secrets", "-n", SYSTEM)["items"]
    return {
        f"{each['metadata']['name']} {each['metadata']['uid']}"
        for each in items
        if each["metadata"]["name"].startswith("istio-reader-")
    }


def test_a_cluster_that_is_cut_off_is_away_and_comes_back(shop: Pair) -> None:
    there = shop.west.get("deployments", "-n", SYSTEM)["items"]
    with cut_off(shop):
        until(lambda: shop.status()["west"].get("away"), what="that west is away")
        until(lambda: shop.east.condition(MESH)["reason"] == "ClusterAway", what="that it is told")
        # The other one is looked after as ever.
        shop.east.kubectl("-n", SYSTEM, "delete", "service", "istio-eastwestgateway")
        until(lambda: shop.east.exists("service", "istio-eastwestgateway", "-n", SYSTEM), what="a repair in east")
        until(lambda: shop.status()["east"]["ready"], what="that east is ready")  # its gateway needs an address again
        assert shop.east.exists("secret", "istio-remote-secret-west", "-n", SYSTEM)
    shop.east.wait_ready(MESH, seconds=90)
    assert not shop.status()["west"].get("away")
    after = shop.west.get("deployments", "-n", SYSTEM)["items"]
    assert {each["metadata"]["uid"] for each in after} == {each["metadata"]["uid"] for each in there}
    for cluster in shop.both.values():
        until(lambda cluster=cluster: fully_answered(cluster), what="both answer again")  # type: ignore[misc]


@contextmanager
def cut_off(pair: Pair) -> Iterator[None]:
    """Between the two clusters no packet passes, while the block is open; the tests themselves reach both."""
    east, west = pair.backend.bed.clusters
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


def test_a_kubeconfig_that_cannot_be_used_is_said_by_its_field(joined: Pair) -> None:
    mine = joined.east.get("secret", "west", "-n", NAMESPACE)
    wrong = {"stringData": {"kubeconfig": "apiVersion: v1\nkind: Config\ncurrent-context: nowhere\n"}}
    joined.east.kubectl("-n", NAMESPACE, "patch", "secret", "west", "-p", json.dumps(wrong))
    try:
        until(lambda: joined.east.condition(MESH)["reason"] == "KubeconfigNotUsable", what="that it is told")
        message = joined.east.condition(MESH)["message"]
        assert "Secret meshwright-system/west, key kubeconfig: contexts has no entry" in message
        assert joined.status()["east"]["ready"]
    finally:
        right = json.dumps({"data": mine["data"]})
        joined.east.kubectl("-n", NAMESPACE, "patch", "secret", "west", "-p", right)
    joined.east.wait_ready(MESH, seconds=90)


def test_a_cluster_that_is_listed_no_more_is_left_when_nobody_is_there(shop: Pair) -> None:
    listed = shop.east.get("mesh", MESH)["spec"]["clusters"]
    name_them(shop, listed[:1])
    try:
        until(lambda: shop.east.condition(MESH)["reason"] == "ClusterLeaving", what="that sidecars are in west")
        assert f"{SHOP}/" in shop.east.condition(MESH)["message"]
        assert ask(shop.west).keys() == {"east", "west"}  # until they are gone, nothing is cut
        shop.west.kubectl("delete", "namespace", SHOP, "--timeout=90s", timeout=100)
        until(lambda: "west" not in shop.status(), seconds=120, what="that west has left")
        assert ours(shop.west) == []
        assert bound(shop.east) == set() == bound(shop.west)
        assert not shop.east.exists("secret", "istio-remote-secret-west", "-n", SYSTEM)
        assert ask(shop.east).keys() == {"east"}
    finally:
        name_them(shop, listed)
    until(lambda: shop.status().get("west", {}).get("ready"), seconds=120, what="that it has joined again")


def name_them(pair: Pair, clusters: list[Manifest]) -> None:
    patch = json.dumps({"spec": {"clusters": clusters}})
    pair.east.kubectl("patch", "mesh", MESH, "--type=merge", "-p", patch)


def ours(cluster: Product) -> list[str]:
    """What of the mesh is there, but for Secrets."""
    kinds = "deploy,svc,cm,sa,role,rolebinding,clusterrole,clusterrolebinding,pdb,hpa,mutatingwebhookconfiguration"
    return cluster.kubectl("get", kinds, "-A", "-l", "meshwright.dev/mesh", "--output=name").split()


def test_a_deletion_takes_everything_away_everywhere(shop: Pair) -> None:
    for cluster in shop.both.values():
        cluster.kubectl("delete", "namespace", SHOP, "--ignore-not-found", "--timeout=90s", timeout=100)
    shop.east.delete_mesh(MESH, seconds=150)
    for name, cluster in shop.both.items():
        assert ours(cluster) == [], name
        secrets = cluster.get("secrets", "-n", SYSTEM)["items"]
        assert [each["metadata"]["name"] for each in secrets] == ["cacerts"], name  # kept, as the policy says
        labels = cluster.get("namespace", SYSTEM)["metadata"]["labels"]
        assert "topology.istio.io/network" not in labels
