"""The checks: from a snapshot to the reason why nothing is written, or to none."""

from __future__ import annotations

from typing import Any

import pytest

from meshes import cluster, injector, istiod, mesh, observed
from meshwright.api.meshinstall import MeshStatus, Mode
from meshwright.mesh.checks import CHECKS, first_finding
from meshwright.mesh.desired import decide, owner_of, replicas_for, trust_intent
from meshwright.mesh.objects import Owner
from meshwright.mesh.observed import Cluster, Neighbour, Observed
from meshwright.mesh.replicas import Decision

Json = dict[str, Any]

CREATED = "2026-02-01T00:00:00Z"


def with_cluster(**parts: Any) -> Observed:
    return observed(clusters=(cluster(**parts),))


def with_neighbour(
    name: str, revision: str, created: str, *, installed: bool = False, running: str | None = None
) -> Observed:
    """The mesh itself is installed when something is `running`."""
    subject = mesh(status=MeshStatus(version=running))
    return observed(subject, neighbours=(Neighbour(name, revision, created, installed=installed),))


def of(*, running: str | None = None, **spec: Any) -> Observed:
    return observed(mesh(status=MeshStatus(version=running), **spec))


HEALTHY = {"istiods": (istiod(),), "injectors": (injector(),)}
HELM: Json = {"owner": None, "managers": ("helm", "kubectl")}
BEFORE, AFTER = "2026-01-01T00:00:00Z", "2026-03-01T00:00:00Z"


def with_tag(tag: str, points_to: str, **spec: Any) -> Observed:
    """With a revision tag as `istioctl tag set` makes it."""
    theirs = injector(name=f"istio-revision-tag-{tag}", revision=points_to, tag=tag, owner=None, managers=("istioctl",))
    return observed(mesh(**spec), clusters=(cluster(injectors=(theirs,)),))


TABLE: list[tuple[str, Observed, str | None, str]] = [
    # case, snapshot, reason, a part of the message
    ("an empty cluster", observed(), None, ""),
    ("our own control plane", with_cluster(**HEALTHY), None, ""),
    ("no cluster at all", observed(clusters=()), None, ""),
    ("version unknown to us", of(version="1.30.3"), "UnsupportedVersion", "choose a patch of 1.31"),
    ("a minor skipped", of(running="1.29.0"), "UnsupportedVersion", "running 1.29.0"),
    ("a request above its limit", of(controlPlane={"resources": {"requests": {"cpu": 9}}}), "InvalidSpec", "cpu"),
    ("a trust domain too long for a label", of(trustDomain=f"{'a' * 62}.b"), "InvalidSpec",
     "becomes a label of at most 63 characters: set spec.meshID, too"),
    ("a trust domain as long as a label", of(trustDomain=f"{'a' * 61}.b"), None, ""),
    ("a long trust domain with a mesh ID", of(trustDomain=f"{'a' * 62}.b", meshID="m"), None, ""),
    ("no quantity", of(controlPlane={"resources": {"limits": {"cpu": "x"}}}), "InvalidSpec", "'x' is not a quantity"),
    ("a computed variable", of(controlPlane={"env": {"REVISION": "x"}}), "InvalidSpec", "env.REVISION follows from"),
    ("no variable's name", of(controlPlane={"env": {"A-B": "x"}}), "InvalidSpec", "'A-B' is no name of an environment"),
    ("a computed key, spelled otherwise", of(meshConfig={"trust_domain": "a"}), "InvalidSpec", "meshConfig.trust_dom"),
    ("a computed key", of(meshConfig={"trustDomain": "a"}), "InvalidSpec", "spec.meshConfig.trustDomain: follows from"),
    ("a default of ours in snake_case", of(meshConfig={"enable_prometheus_merge": False}), "InvalidSpec",
     "spec.meshConfig.enable_prometheus_merge is another spelling of enablePrometheusMerge: remove it"),
    ("a map of ours in snake_case", of(meshConfig={"default_config": {"concurrency": 2}}), "InvalidSpec",
     "spec.meshConfig.default_config is another spelling of defaultConfig: remove it"),
    ("a computed key in a map, in snake_case", of(meshConfig={"defaultConfig": {"mesh_id": "x"}}), "InvalidSpec",
     "spec.meshConfig.defaultConfig.mesh_id is another spelling of meshId: remove it"),
    ("a key that is not ours, in snake_case", of(meshConfig={"access_log_file": "x"}), None, ""),
    ("an installed mesh and an older twin that never was", with_neighbour("a", "default", BEFORE, running="1.31.4"),
     None, ""),
    ("a younger twin that is installed", with_neighbour("z", "default", AFTER, installed=True), "RevisionConflict",
     "MeshInstall z has revision default already"),
    ("two that are installed, the other older",
     with_neighbour("z", "default", BEFORE, installed=True, running="1.31.4"), "RevisionConflict", "z has"),
    ("two that are installed, the other younger",
     with_neighbour("a", "default", AFTER, installed=True, running="1.31.4"), None, ""),
    ("an installed neighbour of another revision", with_neighbour("a", "canary", BEFORE, installed=True), None, ""),
    ("an older twin", with_neighbour("other", "default", "2026-01-01T00:00:00Z"), "RevisionConflict", "other has"),
    ("a younger twin", with_neighbour("other", "default", "2026-03-01T00:00:00Z"), None, ""),
    ("a twin of the same second, before us by name", with_neighbour("a", "default", CREATED), "RevisionConflict", "a"),
    ("a twin of the same second, after us by name", with_neighbour("z", "default", CREATED), None, ""),
    ("a neighbour of another revision", with_neighbour("other", "canary", "2026-01-01T00:00:00Z"), None, ""),
    ("a namespace that goes", with_cluster(namespace_terminating=True), "NamespaceTerminating", "is being"),
    ("an istiod of Helm's", with_cluster(istiods=(istiod(**HELM),)), "ForeignControlPlane", "by helm and kubectl"),
    ("an istiod of nobody's", with_cluster(istiods=(istiod(owner=None, managers=()),)), "ForeignControlPlane", "body"),
    ("a foreign istiod of another revision in our namespace",
     with_cluster(istiods=(istiod(name="istiod-x", revision="x", **HELM),)), "ForeignControlPlane", "of revision x"),
    ("a foreign istiod of our revision elsewhere",
     with_cluster(istiods=(istiod(namespace="mesh", **HELM),)), "ForeignControlPlane", "mesh/istiod"),
    ("a foreign istiod of another revision elsewhere",
     with_cluster(istiods=(istiod(namespace="mesh", revision="x", **HELM),)), None, ""),
    ("another mesh's istiod elsewhere",
     with_cluster(istiods=(istiod(namespace="mesh", revision="x", owner="other"),)), None, ""),
    ("a foreign injector of our revision",
     with_cluster(injectors=(injector(**HELM),)), "ForeignControlPlane", "inject every pod twice"),
    ("another mesh's injector of our revision",
     with_cluster(injectors=(injector(owner="other"),)), "ForeignControlPlane", "two would inject"),
    ("a foreign injector of another revision", with_cluster(injectors=(injector(revision="x", **HELM),)), None, ""),
    ("a tag of another name that points to our revision", with_tag("prod", "default"), None, ""),
    ("a tag that is named like our revision", with_tag("canary", "x", revision="canary"), "ForeignControlPlane",
     "istio-revision-tag-canary injects canary already, installed by istioctl"),
    ("the tag default, which points elsewhere", with_tag("default", "x"), "ForeignControlPlane", "injects default"),
    ("the tag default, which points to us", with_tag("default", "default"), "ForeignControlPlane", "injects default"),
    ("the tag default for us, who are canary", with_tag("default", "canary", revision="canary"), None, ""),
    ("trouble in the second cluster",
     observed(clusters=(cluster(), Cluster("west", namespace_terminating=True))), "NamespaceTerminating", "is being"),
]  # fmt: skip


@pytest.mark.parametrize(("snapshot", "reason", "says"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_a_snapshot_leads_to_a_reason(snapshot: Observed, reason: str | None, says: str) -> None:
    finding = first_finding(snapshot)
    assert (finding.reason if finding else None) == reason
    assert finding is None or says in finding.message


@pytest.mark.parametrize(("snapshot", "reason"), [(row[1], row[2]) for row in TABLE], ids=[row[0] for row in TABLE])
def test_with_a_finding_nothing_is_wanted_in_any_cluster(snapshot: Observed, reason: str | None) -> None:
    desired = decide(snapshot)
    assert desired.finding == first_finding(snapshot)
    assert len(desired.control_planes) == (0 if reason else len(snapshot.clusters))


def test_every_check_is_in_the_table() -> None:
    caught = {check for check in CHECKS for row in TABLE if check(row[1])}
    assert caught == set(CHECKS)


def test_the_first_of_several_is_told() -> None:
    everything = observed(
        mesh(version="1.30.3", meshConfig={"trustDomain": "a"}),
        clusters=(cluster(namespace_terminating=True, istiods=(istiod(**HELM),)),),
    )
    assert [finding.reason for check in CHECKS if (finding := check(everything))] == [
        "UnsupportedVersion", "InvalidSpec", "NamespaceTerminating", "ForeignControlPlane",
    ]  # fmt: skip
    finding = first_finding(everything)
    assert finding is not None
    assert finding.reason == "UnsupportedVersion"


@pytest.mark.parametrize("row", [row for row in TABLE if row[2]], ids=[row[0] for row in TABLE if row[2]])
def test_a_message_tells_the_next_step(row: tuple[str, Observed, str, str]) -> None:
    finding = first_finding(row[1])
    assert finding is not None
    words = (
        "choose",
        "delete",
        "remove",
        "lower",
        "wait",
        "uninstall",
        "go to",
        "leave it out",
        "not a quantity such as",
        "use letters",
        "set spec.",
    )
    assert any(word in finding.message for word in words), finding.message
    assert "\n" not in finding.message


def test_decide_takes_every_cluster_and_the_mode() -> None:
    desired = decide(observed(mesh(mode="Plan", meshID="one"), clusters=(cluster(), Cluster("west"))))
    assert (desired.mesh, desired.mesh_id, desired.mode) == ("demo", "one", Mode.PLAN)
    assert [each.cluster for each in desired.control_planes] == ["primary", "west"]
    assert [each.trust.cluster for each in desired.control_planes] == ["primary", "west"]
    assert {each.trust.root_secret for each in desired.control_planes} == {"meshwright-root-demo"}


def test_each_cluster_decides_its_own_replicas() -> None:
    own = cluster(istiods=(istiod(replicas=7, replicas_annotation="autoscaled"),))
    desired = decide(observed(clusters=(own, Cluster("west", autoscaled=True), Cluster("east"))))
    assert [each.replicas for each in desired.control_planes] == [
        Decision(7, "7/size 2"), Decision(None, "autoscaled"), Decision(2),
    ]  # fmt: skip


def test_the_replicas_of_another_istiod_decide_nothing() -> None:
    others = istiod(namespace="mesh", revision="x", replicas=7, replicas_annotation="autoscaled", owner="other")
    assert replicas_for(cluster(istiods=(others,)), mesh().spec) == Decision(2)


def test_objects_are_labelled_with_the_mesh_and_its_id() -> None:
    subject = mesh(meshID="m")
    (plane,) = decide(observed(subject)).control_planes
    assert plane.owner == owner_of(subject) == Owner("demo", "m")
    assert plane.trust == trust_intent(subject, "primary")
    assert str(plane.owner) == "mesh demo (mesh ID m)"


@pytest.mark.parametrize(
    ("spec", "mesh_id"), [({}, "cluster.local"), ({"trustDomain": "a.b"}, "a.b"), ({"meshID": "m"}, "m")]
)
def test_the_mesh_id_is_the_trust_domain_unless_it_is_said(spec: Json, mesh_id: str) -> None:
    assert decide(observed(mesh(**spec))).mesh_id == mesh_id
