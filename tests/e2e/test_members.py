"""One MeshInstall over two real clusters on two networks: joined, proven by who answers, cut apart, healed, removed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from e2e import howto
from e2e.members import (
    REQUESTS,
    SHOP,
    SYSTEM,
    Clusters,
    answered_by,
    ask,
    bound,
    clusters_of,
    cut_off,
    kubeconfig_secret,
    until,
)
from testbed.product import NAMESPACE, ROOT, Product

Manifest = dict[str, Any]
MESH = "two-clusters"


@pytest.fixture(scope="module")
def pair() -> Iterator[Clusters]:
    with clusters_of("pair", "east", "west") as pair:
        yield pair


@pytest.fixture(scope="module")
def joined(pair: Clusters) -> Clusters:
    mesh = pair.east.mesh(howto.mesh(MESH))
    mesh["spec"]["controlPlane"] |= {"autoscaling": {"enabled": False}}
    mesh["spec"]["topology"] = {"eastWestGateway": {"autoscaling": {"enabled": False}}}
    pair.east.apply(mesh)
    pair.east.wait_ready(MESH, seconds=120)
    return pair


@pytest.fixture(scope="module")
def shop(joined: Clusters) -> Clusters:
    joined.open_shop()
    return joined


def test_both_clusters_are_ready_and_read_each_other(joined: Clusters) -> None:
    status = joined.status(MESH)
    assert {name: (each["ready"], each["network"]) for name, each in status.items()} == {
        "east": (True, "east"),
        "west": (True, "west"),
    }
    assert {name: [(r["name"], r["synced"]) for r in each["remotes"]] for name, each in status.items()} == {
        "east": [("west", "2/2")],
        "west": [("east", "2/2")],
    }
    assert joined.east.condition(MESH, "ClustersJoined")["status"] == "True"


def test_it_was_verified_by_traffic_before_it_was_ready(joined: Clusters) -> None:
    status = joined.status(MESH)
    assert {name: [(r["name"], r["passed"]) for r in each["reaches"]] for name, each in status.items()} == {
        "east": [("west", True)],
        "west": [("east", True)],
    }
    until(lambda: not any(probe_pods(each) for each in joined.all.values()), what="that the probes are gone")
    assert all(each["proxies"] == 0 for each in joined.status(MESH).values())


def probe_pods(cluster: Product) -> list[str]:
    return cluster.kubectl(
        "-n", SYSTEM, "get", "deploy,svc,pods", "-l", "app=meshwright-probe", "--output=name"
    ).split()


def test_traffic_that_does_not_pass_is_told_by_its_direction(joined: Clusters) -> None:
    """The gateway of west takes no one in, though its API server answers."""
    west = joined.backend.bed.clusters[1]
    way_in = f"ip daddr {west.plan.load_balancer_cidr} tcp dport 15443"
    rules = f"table inet shut {{ chain in {{ type filter hook prerouting priority -400; {way_in} drop; }}; }}"
    west.enter("nft", rules)
    try:
        joined.east.kubectl("annotate", "mesh", MESH, "meshwright.dev/rotate-access=verify", "--overwrite")
        until(lambda: joined.east.condition(MESH)["reason"] == "TrafficNotVerified", what="that it is told")
        said = "requests from cluster east to west pass: "
        until(lambda: said in joined.east.condition(MESH)["message"], what="which direction")
        until(lambda: joined.status(MESH)["west"]["reaches"][0]["passed"], what="that the other direction passes")
        (reach,) = joined.status(MESH)["east"]["reaches"]
        assert not reach["passed"], reach
        assert probe_pods(joined.west)
    finally:
        west.enter("nft", "delete table inet shut")
    joined.east.wait_ready(MESH, seconds=90)
    until(lambda: not any(probe_pods(each) for each in joined.all.values()), what="that the probes are gone")


def test_from_each_side_both_versions_answer(shop: Clusters) -> None:
    for name, cluster in shop.all.items():
        until(lambda cluster=cluster: answered_by(cluster, "east", "west"), what=f"both answer a client in {name}")  # type: ignore[misc]
        seen = ask(cluster)
        assert seen.keys() == {"east", "west"}, seen
        assert sum(seen.values()) == REQUESTS
        assert min(seen.values()) >= REQUESTS // 6, seen


def test_one_root_and_an_intermediate_for_each_cluster(shop: Clusters) -> None:
    roots = {
        cluster.get("configmap", "istio-ca-root-cert", "-n", SHOP)["data"]["root-cert.pem"]
        for cluster in shop.all.values()
    }
    assert len(roots) == 1
    trust = [each["trust"] for each in shop.status(MESH).values()]
    assert len({each["rootFingerprint"] for each in trust}) == 1
    assert len({each["intermediateFingerprint"] for each in trust}) == 2
    # The root's key is in the operator's cluster, and in no Secret of the other one.
    key = shop.east.get("secret", f"meshwright-root-{MESH}", "-n", NAMESPACE)["data"]["root-key.pem"]
    assert key not in shop.west.kubectl("get", "secrets", "-A", "--output=json")


def test_istioctl_agrees(joined: Clusters) -> None:
    from testbed import programs

    istioctl = programs.build(programs.istioctl())
    for name, other in (("east", "west"), ("west", "east")):
        command = [str(istioctl), "remote-clusters", "--istioNamespace", SYSTEM]
        said = subprocess.run(
            command, env=joined.all[name].environment, capture_output=True, text=True, timeout=60, check=True
        ).stdout
        rows = [line.split() for line in said.splitlines()[1:]]
        assert {(row[0], "synced" in row) for row in rows} >= {(other, True)}, said


def test_new_access_on_demand_without_a_gap(shop: Clusters) -> None:
    """The former token is revoked only when the new one is in use."""
    before = bound(shop.west)
    shop.east.kubectl("annotate", "mesh", MESH, "meshwright.dev/rotate-access=now", "--overwrite")
    until(lambda: bound(shop.west) not in (before, set()) and len(bound(shop.west)) == 1, seconds=90, what="a new one")
    assert not bound(shop.west) & before
    assert ask(shop.east).keys() == {"east", "west"}
    assert shop.status(MESH)["east"]["remotes"][0]["synced"] == "2/2"


def test_a_cluster_that_is_cut_off_is_away_and_comes_back(shop: Clusters) -> None:
    there = shop.west.get("deployments", "-n", SYSTEM)["items"]
    with cut_off(shop):
        until(lambda: shop.status(MESH)["west"].get("away"), what="that west is away")
        until(lambda: shop.east.condition(MESH)["reason"] == "ClusterAway", what="that it is told")
        # The other one is looked after as ever.
        shop.east.kubectl("-n", SYSTEM, "delete", "service", "istio-eastwestgateway")
        until(lambda: shop.east.exists("service", "istio-eastwestgateway", "-n", SYSTEM), what="a repair in east")
        until(lambda: shop.status(MESH)["east"]["ready"], what="that east is ready")
        assert shop.east.exists("secret", "istio-remote-secret-west", "-n", SYSTEM)
    shop.east.wait_ready(MESH, seconds=90)
    assert not shop.status(MESH)["west"].get("away")
    after = shop.west.get("deployments", "-n", SYSTEM)["items"]
    assert {each["metadata"]["uid"] for each in after} == {each["metadata"]["uid"] for each in there}
    for cluster in shop.all.values():
        until(lambda cluster=cluster: answered_by(cluster, "east", "west"), what="both answer again")  # type: ignore[misc]


def test_a_kubeconfig_that_cannot_be_used_is_said_by_its_field(joined: Clusters) -> None:
    mine = joined.east.get("secret", "west", "-n", NAMESPACE)
    wrong = {"stringData": {"kubeconfig": "apiVersion: v1\nkind: Config\ncurrent-context: nowhere\n"}}
    joined.east.kubectl("-n", NAMESPACE, "patch", "secret", "west", "-p", json.dumps(wrong))
    try:
        until(lambda: joined.east.condition(MESH)["reason"] == "KubeconfigNotUsable", what="that it is told")
        message = joined.east.condition(MESH)["message"]
        assert "Secret meshwright-system/west, key kubeconfig: contexts has no entry" in message
        assert joined.status(MESH)["east"]["ready"]
    finally:
        right = json.dumps({"data": mine["data"]})
        joined.east.kubectl("-n", NAMESPACE, "patch", "secret", "west", "-p", right)
    joined.east.wait_ready(MESH, seconds=90)


def test_what_is_checked_is_in_the_status_and_at_the_terminal(joined: Clusters) -> None:
    checks = joined.east.get("mesh", MESH)["status"]["checks"]
    assert len(checks) == 8
    assert all(each["passed"] for each in checks), checks
    assert {each["uid"] for each in joined.status(MESH).values()} == {
        cluster.get("namespace", "kube-system")["metadata"]["uid"] for cluster in joined.all.values()
    }
    done = check(joined, joined.east.get("mesh", MESH)["spec"])
    assert done.returncode == 0, done.stderr
    assert "All 9 checks pass. Nothing was written." in done.stdout


def test_the_plan_is_about_all_clusters(joined: Clusters) -> None:
    spec = joined.east.get("mesh", MESH)["spec"]
    done = typed(joined, "plan", spec)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("east", "west"):
        assert f"in cluster {name}" in done.stdout
    done = typed(joined, "plan", spec | {"mtls": "Strict"})
    assert done.returncode == 2
    assert done.stdout.count("~ change PeerAuthentication istio-system/default") == 2, done.stdout


def typed(clusters: Clusters, verb: str, spec: Manifest) -> subprocess.CompletedProcess[str]:
    """`kubectl mesh VERB -f -` of a mesh like ours."""
    written = {
        "apiVersion": "meshwright.dev/v1alpha1", "kind": "MeshInstall", "metadata": {"name": MESH}, "spec": spec,
    }  # fmt: skip
    command = [str(ROOT / ".venv/bin/kubectl-mesh"), verb, "-f", "-"]
    return subprocess.run(
        command, input=json.dumps(written), env=clusters.east.environment, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip


def check(clusters: Clusters, spec: Manifest) -> subprocess.CompletedProcess[str]:
    """`kubectl mesh check` of a mesh like ours."""
    written = {
        "apiVersion": "meshwright.dev/v1alpha1", "kind": "MeshInstall", "metadata": {"name": MESH}, "spec": spec,
    }  # fmt: skip
    command = [str(ROOT / ".venv/bin/kubectl-mesh"), "check", "-"]
    return subprocess.run(
        command, input=json.dumps(written), env=clusters.east.environment, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip


def test_clusters_that_cannot_be_joined_are_named_and_hold_up_nobody(joined: Clusters) -> None:
    """One cluster under two names, one by a kubeconfig that only reads, and one whose credential was taken back."""
    admin = joined.backend.members[1].kubeconfig
    right = joined.east.get("secret", "west", "-n", NAMESPACE)["data"]["kubeconfig"]
    twin = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "twin", "namespace": NAMESPACE}}
    joined.east.apply(
        {**twin, "data": {"kubeconfig": right}},
        kubeconfig_secret("reader", admin, token=reader_token(joined.west)),
        kubeconfig_secret("ended", admin, token="ey.ey.ey"),
    )
    listed = joined.east.get("mesh", MESH)["spec"]["clusters"]
    more = [{"name": name, "kubeconfigSecret": name} for name in ("twin", "reader", "ended")]
    try:
        done = check(joined, joined.east.get("mesh", MESH)["spec"] | {"clusters": [*listed, *more]})
        assert done.returncode == 2
        assert "clusters twin and west are one and the same" in done.stdout
        name_them(joined, [*listed, *more])
        until(lambda: {"twin", "reader", "ended"} <= joined.status(MESH).keys(), what="that all are known")
        said = until(
            lambda: failing(joined, "DistinctClusters", "Permissions", "Reachable"), seconds=90, what="what fails"
        )
        assert "clusters twin and west are one and the same" in said["DistinctClusters"]
        assert "cluster reader: the kubeconfig's user may not patch services" in said["Permissions"]
        assert "cluster ended: " in said["Reachable"]
        assert "does not accept the kubeconfig's credential" in said["Reachable"]
        status = joined.status(MESH)
        assert {name: each["ready"] for name, each in status.items()} == {
            "east": True, "west": True, "twin": False, "reader": False, "ended": False,
        }  # fmt: skip
        assert not joined.west.exists("secret", "istio-remote-secret-twin", "-n", SYSTEM)
    finally:
        name_them(joined, listed)
    until(lambda: joined.status(MESH).keys() == {"east", "west"}, seconds=120, what="that the others are forgotten")
    joined.east.wait_ready(MESH, seconds=90)
    joined.east.kubectl("-n", NAMESPACE, "delete", "secret", "twin", "reader", "ended")


def reader_token(cluster: Product) -> str:
    for command in (
        ("create", "serviceaccount", "looker", "-n", "default"),
        ("create", "clusterrole", "looker", "--verb=get,list,watch", "--resource=*.*"),
        ("create", "clusterrolebinding", "looker", "--clusterrole=looker", "--serviceaccount=default:looker"),
    ):
        cluster.kubectl(*command)
    return cluster.kubectl("create", "token", "looker", "-n", "default").strip()


def failing(clusters: Clusters, *names: str) -> dict[str, str]:
    """The messages of checks that fail, once all of these do."""
    checks = clusters.east.get("mesh", MESH)["status"].get("checks", [])
    found = {each["name"]: each["message"] for each in checks if not each["passed"]}
    return found if set(names) <= found.keys() else {}


def test_a_cluster_that_is_listed_no_more_is_left_when_nobody_is_there(shop: Clusters) -> None:
    listed = shop.east.get("mesh", MESH)["spec"]["clusters"]
    name_them(shop, listed[:1])
    try:
        until(lambda: shop.east.condition(MESH)["reason"] == "ClusterLeaving", what="that sidecars are in west")
        assert f"{SHOP}/" in shop.east.condition(MESH)["message"]
        assert ask(shop.west).keys() == {"east", "west"}  # until they are gone, nothing is cut
        shop.west.kubectl("delete", "namespace", SHOP, "--timeout=90s", timeout=100)
        until(lambda: "west" not in shop.status(MESH), seconds=120, what="that west has left")
        assert ours(shop.west) == []
        assert bound(shop.east) == set() == bound(shop.west)
        assert not shop.east.exists("secret", "istio-remote-secret-west", "-n", SYSTEM)
        assert ask(shop.east).keys() == {"east"}
    finally:
        name_them(shop, listed)
    until(lambda: shop.status(MESH).get("west", {}).get("ready"), seconds=120, what="that it has joined again")


def name_them(pair: Clusters, clusters: list[Manifest]) -> None:
    patch = json.dumps({"spec": {"clusters": clusters}})
    pair.east.kubectl("patch", "mesh", MESH, "--type=merge", "-p", patch)


def ours(cluster: Product) -> list[str]:
    """What of the mesh is there, but for Secrets."""
    kinds = "deploy,svc,cm,sa,role,rolebinding,clusterrole,clusterrolebinding,pdb,hpa,mutatingwebhookconfiguration"
    return cluster.kubectl("get", kinds, "-A", "-l", "meshwright.dev/mesh", "--output=name").split()


def test_a_deletion_takes_everything_away_everywhere(shop: Clusters) -> None:
    for cluster in shop.all.values():
        cluster.kubectl("delete", "namespace", SHOP, "--ignore-not-found", "--timeout=90s", timeout=100)
    shop.east.delete_mesh(MESH, seconds=150)
    for name, cluster in shop.all.items():
        assert ours(cluster) == [], name
        secrets = cluster.get("secrets", "-n", SYSTEM)["items"]
        assert [each["metadata"]["name"] for each in secrets] == ["cacerts"], name  # kept, as the policy says
        labels = cluster.get("namespace", SYSTEM)["metadata"]["labels"]
        assert "topology.istio.io/network" not in labels
