"""The status, its conditions, and Events."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest

from meshes import NOW, TRUST, VERSION, injector, istiod, mesh, observed
from meshwright.api.conditions import NOT_OBSERVED, PARTS, REASONS, TYPES
from meshwright.api.meshinstall import (
    ClusterStatus,
    ControlPlaneStatus,
    MeshInstall,
    MeshStatus,
    RefusedSize,
    Resources,
    Size,
)
from meshwright.cluster.apply import Outcome
from meshwright.controller import report
from meshwright.controller.report import MESSAGE_LIMIT, NOTE_LIMIT, Attempt
from meshwright.mesh.census import Answer, Earliest
from meshwright.mesh.desired import decide
from meshwright.mesh.enrolment import Injection
from meshwright.mesh.evidence import Replies
from meshwright.mesh.findings import Finding
from meshwright.mesh.observed import Cluster, GatewayPods
from meshwright.mesh.sizing import size_of

Json = dict[str, Any]

PART_TYPES = {part.type for part in PARTS}
THEN, WHEN = "2026-03-01T12:00:00Z", "2026-03-01T13:00:00Z"
LATER = NOW + dt.timedelta(hours=1)
SEEN = Cluster("primary", kubernetes="v1.36.1", istiods=(istiod(),), injectors=(injector(),), proxies=3)


def attempt(subject: MeshInstall | None = None, **parts: Any) -> Attempt:
    return Attempt(**{"mesh": subject or mesh(), "clusters": (SEEN,), "outcomes": {"primary": Outcome()}, **parts})


def conditions(status: Json) -> dict[str, Json]:
    return {each["type"]: each for each in status["conditions"]}


def statuses(status: Json) -> dict[str, str]:
    return {name: each["status"] for name, each in conditions(status).items()}


def after(status: Json, **spec: Any) -> MeshInstall:
    """The mesh with `status` as what was written last."""
    return mesh(status=MeshStatus.model_validate(status), **spec)


# Conditions


def test_installed() -> None:
    status = report.status_of(attempt(trusts={"primary": TRUST}), now=NOW)
    assert [each["type"] for each in status["conditions"]] == list(TYPES)
    assert statuses(status) == dict.fromkeys(TYPES, "Unknown") | {
        "Ready": "True", "Reconciling": "False", "Stalled": "False",
        "ControlPlaneReady": "True", "WebhooksConfigured": "True",  # seen, also when nothing was decided
    }  # fmt: skip
    assert {each["reason"] for each in status["conditions"]} == {"Installed", "Available", "Trusted", NOT_OBSERVED}
    assert status["clusters"] == [{
        "name": "primary", "ready": True, "kubernetesVersion": "v1.36.1", "proxies": 3, "proxyVersions": [],
        "controlPlane": {"replicas": 2, "readyReplicas": 2}, "objects": 0, "notReconciled": 0, "gateways": [],
        "injection": {"expected": 0, "missing": 0, "outdated": 0, "pods": []},
        "trust": {
            "rootFingerprint": TRUST.root_fingerprint, "rootExpires": "2036-02-27T12:00:00Z",
            "intermediateFingerprint": TRUST.intermediate_fingerprint, "intermediateExpires": "2027-03-01T12:00:00Z",
        },
    }]  # fmt: skip
    assert (status["clustersReady"], status["proxies"], status["version"]) == ("1/1", 3, VERSION)
    assert status["observedGeneration"] == 1


@pytest.mark.parametrize("reason", REASONS)
def test_the_three_conditions_agree_for_every_reason(reason: str) -> None:
    """kstatus reads Reconciling and Stalled; both at once, or Ready beside either, would contradict itself."""
    status = report.status_of(attempt(finding=None if reason == "Installed" else Finding(reason, "words")), now=NOW)
    found = statuses(status)
    assert found["Ready"] == REASONS[reason].ready
    assert found["Stalled"] == str(REASONS[reason].stalled)
    assert (found["Reconciling"], found["Stalled"]) != ("True", "True")
    if found["Ready"] == "True":
        assert (found["Reconciling"], found["Stalled"]) == ("False", "False")
    if found["Ready"] == "False":
        assert "True" in {found["Reconciling"], found["Stalled"]}
    if found["Ready"] == "Unknown":
        assert (found["Reconciling"], found["Stalled"]) == ("False", "False")
    assert {conditions(status)[kind]["reason"] for kind in ("Ready", "Reconciling", "Stalled")} == {reason}
    part = REASONS[reason].part
    false = {kind for kind in statuses(status) if kind in PART_TYPES and statuses(status)[kind] == "False"}
    assert false == ({part} if part in PART_TYPES else set())
    assert all(each["observedGeneration"] == 1 for each in status["conditions"])
    MeshStatus.model_validate(status)


BUT = "the mesh is as declared, but for what an annotation excepts: Service n/a"
LEFT = ["Service n/a", "Service n/b", "Service n/c", "Service n/d", "Service n/e"]


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (Outcome(), "the mesh is as declared"),
        (Outcome(left=LEFT[:1]), BUT),
        (Outcome(left=LEFT[:3]), f"{BUT}, Service n/b, Service n/c"),
        (Outcome(left=LEFT), f"{BUT}, Service n/b, Service n/c and 2 more"),
        (Outcome(notes=["CRD x lacks y", "CRD z lacks y"]), "the mesh is as declared; CRD x lacks y"),
        (Outcome(left=LEFT[:1], notes=["CRD x lacks y"]), f"{BUT}; CRD x lacks y"),
    ],
)
def test_ready_says_what_is_not_as_declared_and_yet_fine(outcome: Outcome, message: str) -> None:
    status = report.status_of(attempt(outcomes={"primary": outcome}), now=NOW)
    assert (statuses(status)["Ready"], conditions(status)["Ready"]["message"]) == ("True", message)


@pytest.mark.parametrize("reason", [name for name, row in REASONS.items() if row.stalled])
def test_stalled_says_the_next_step(reason: str) -> None:
    status = report.status_of(attempt(finding=Finding(reason, "what happened")), now=NOW)
    assert conditions(status)["Stalled"]["message"] == f"what happened. {REASONS[reason].next_step}"
    assert conditions(status)["Ready"]["message"] == "what happened"


@pytest.mark.parametrize(
    ("before", "then", "kept"),
    [
        # the finding before and now; which of the three keep their date because their status stays
        (None, None, {"Ready", "Reconciling", "Stalled"}),
        ("Progressing", "Progressing", {"Ready", "Reconciling", "Stalled"}),
        ("Progressing", "ControlPlaneNotReady", {"Ready", "Reconciling", "Stalled"}),
        ("Progressing", None, {"Stalled"}),
        (None, "Progressing", {"Stalled"}),
        ("Progressing", "PermissionDenied", {"Ready"}),
        (None, "PermissionDenied", {"Reconciling"}),
        (None, "Paused", {"Reconciling", "Stalled"}),
    ],
)
def test_a_condition_keeps_its_date_while_its_status_stays(
    before: str | None, then: str | None, kept: set[str]
) -> None:
    def finding(reason: str | None) -> Finding | None:
        return Finding(reason, "words") if reason else None

    first = report.status_of(attempt(finding=finding(before)), now=NOW)
    assert {each["lastTransitionTime"] for each in first["conditions"]} == {THEN}
    second = report.status_of(attempt(after(first), finding=finding(then)), now=LATER)
    old = {name for name, each in conditions(second).items() if each["lastTransitionTime"] == THEN}
    assert old - PART_TYPES == kept
    assert old & PART_TYPES == {kind for kind in PART_TYPES if statuses(first)[kind] == statuses(second)[kind]}
    assert {each["lastTransitionTime"] for each in second["conditions"]} <= {THEN, WHEN}


def test_a_very_long_message_is_cut() -> None:
    status = report.status_of(attempt(finding=Finding("ObjectRejected", "ü" * 40_000)), now=NOW)
    assert len(conditions(status)["Ready"]["message"]) == MESSAGE_LIMIT
    MeshStatus.model_validate(status)


def test_the_same_again_needs_no_write() -> None:
    first = report.status_of(attempt(trusts={"primary": TRUST}), now=NOW)
    second = report.status_of(attempt(after(first), trusts={"primary": TRUST}), now=LATER)
    assert not report.differs(after(first), second)
    assert report.differs(mesh(), first)
    assert report.differs(
        after(first), report.status_of(attempt(after(first), finding=Finding("Paused", "x")), now=LATER)
    )


# The parts


def parts(status: Json) -> dict[str, tuple[str, str]]:
    return {name: (each["status"], each["reason"]) for name, each in conditions(status).items() if name in PART_TYPES}


ANSWERED = Replies((Answer(pod="istiod-1", mesh_config={}),))
WELL = {part.type: ("True", part.well) for part in PARTS}


def looked_at(*found: Finding, **more: Any) -> Attempt:
    """All of the cluster was looked at, and this is what was found."""
    return attempt(**{"findings": {"primary": found}, "replies": {"primary": ANSWERED}, **more})


def test_every_part_is_well_when_nothing_is_found() -> None:
    status = report.status_of(looked_at(), now=NOW)
    assert parts(status) == WELL
    assert conditions(status)["GatewaysReady"]["message"] == "no gateway is asked for"
    asked = report.status_of(looked_at(mesh=mesh(gateways=[{"name": "in"}])), now=NOW)
    assert conditions(asked)["GatewaysReady"]["message"] == "every replica of every gateway is up to date and available"


@pytest.mark.parametrize("reason", [name for name, row in REASONS.items() if row.part in PART_TYPES])
def test_a_finding_is_the_word_of_its_part_and_of_no_other(reason: str) -> None:
    found = parts(report.status_of(looked_at(Finding(reason, "words")), now=NOW))
    assert found == WELL | {REASONS[reason].part: ("False", reason)}


def test_of_several_findings_of_a_part_what_ready_tells_comes_first() -> None:
    found = (Finding("Progressing", "moving"), Finding("DisruptionBudgetConflict", "two budgets"))
    status = report.status_of(looked_at(*found), now=NOW)
    assert conditions(status)["ControlPlaneReady"]["message"] == "moving"
    status = report.status_of(looked_at(*found, finding=found[1]), now=NOW)
    assert conditions(status)["ControlPlaneReady"]["message"] == conditions(status)["Ready"]["message"] == "two budgets"


@pytest.mark.parametrize(
    ("replies", "why"),
    [
        ({}, "no replica of istiod is ready to be asked what it runs"),
        ({"primary": Replies()}, "no replica of istiod is ready to be asked what it runs"),
        ({"primary": Replies((ANSWERED.answers[0], Answer(pod="b", trouble="b is silent")))}, "b is silent"),
    ],
)
def test_a_configuration_that_nobody_vouches_for_is_in_force_for_all_we_know(
    replies: dict[str, Replies], why: str
) -> None:
    status = report.status_of(looked_at(replies=replies), now=NOW)
    assert parts(status) == WELL | {"ConfigurationAccepted": ("Unknown", NOT_OBSERVED)}
    assert conditions(status)["ConfigurationAccepted"]["message"] == why
    assert statuses(status)["Ready"] == "True"


def test_a_part_that_was_not_looked_at_stays_as_it_was_known() -> None:
    known = report.status_of(looked_at(Finding("GatewayNotReady", "words")), now=NOW)
    blind = attempt(after(known), clusters=(), outcomes={}, finding=Finding("ClusterUnreachable", "no answer"))
    status = report.status_of(blind, now=LATER)
    assert parts(status) == parts(known) == WELL | {"GatewaysReady": ("False", "GatewayNotReady")}
    assert {conditions(status)[kind]["lastTransitionTime"] for kind in PART_TYPES} == {THEN}


def test_what_only_warns_leaves_ready_as_it_is() -> None:
    status = report.status_of(looked_at(Finding("CertificateExpiring", "soon")), now=NOW)
    assert (statuses(status)["Ready"], statuses(status)["CertificatesValid"]) == ("True", "False")
    assert status["clusters"][0]["ready"]


# What runs


def decided(size: str = "Medium", **parts: Any) -> Attempt:
    """istiod was declared to be of a size, in a cluster where Small was rolled out before."""
    before = ControlPlaneStatus(size=Size.SMALL, resources=size_of(Size.SMALL, Resources()).share.resources)
    subject = mesh(
        status=MeshStatus(clusters=[ClusterStatus(name="primary", control_plane=before)]), controlPlane={"size": size}
    )
    (plane,) = decide(observed(subject)).control_planes
    return attempt(subject, planes={"primary": plane}, **parts)


def test_the_size_in_the_status_is_the_one_that_was_rolled_out_last() -> None:
    medium = size_of(Size.MEDIUM, Resources()).share.resources
    wire = {"requests": {"cpu": "1", "memory": "8Gi"}, "limits": {"cpu": "4", "memory": "8Gi"}}
    for istiod_parts, size in (
        ({"resources": medium}, "Medium"),
        ({"resources": Resources.model_validate({**wire, "limits": {"cpu": "4000m", "memory": "8192Mi"}})}, "Medium"),
        ({"resources": medium, "available": 1}, "Small"),
        ({"resources": medium, "generation": 2}, "Small"),
        ({"resources": size_of(Size.SMALL, Resources()).share.resources}, "Small"),
        ({"resources": None}, "Small"),
    ):
        status = report.status_of(decided(clusters=(seen(**istiod_parts),)), now=NOW)
        found = status["clusters"][0]["controlPlane"]
        assert found["size"] == size
        assert (found["resources"] == wire) is (size == "Medium")


def test_a_size_that_was_refused_is_remembered_until_something_else_is_decided() -> None:
    refused = RefusedSize(size=Size.LARGE, message="no room")
    known = report.status_of(
        attempt(mesh(status=MeshStatus(clusters=[
            ClusterStatus(name="primary", control_plane=ControlPlaneStatus(refused=refused))
        ])), finding=Finding("Paused", "x")),
        now=NOW,
    )  # fmt: skip
    assert known["clusters"][0]["controlPlane"]["refused"]["message"] == "no room"
    assert "refused" not in report.status_of(decided(), now=NOW)["clusters"][0]["controlPlane"]


def test_what_istiods_and_proxies_say_is_told_and_kept_while_nobody_asks() -> None:
    earliest = Earliest(pod="shop/a", expires=NOW + dt.timedelta(hours=3, minutes=59), read=2, of=3)
    answers = (
        Answer(pod="a", mesh_config={}, proxies_by_version={"1.31.4": 2, "1.30.0": 1}),
        Answer(pod="b", mesh_config={}, proxies_by_version={"1.31.4": 3}),
    )
    told = report.status_of(looked_at(replies={"primary": Replies(answers, earliest)}), now=NOW)
    (cluster,) = told["clusters"]
    assert cluster["proxyVersions"] == [
        {"version": "1.30.0", "revision": "default", "count": 1},
        {"version": "1.31.4", "revision": "default", "count": 5},
    ]
    assert cluster["workloadCertificates"] == {
        "earliest": "shop/a", "expires": "2026-03-01T15:59:00Z", "hoursLeft": 3, "read": 2, "of": 3,
    }  # fmt: skip
    later = report.status_of(attempt(after(told), finding=Finding("Paused", "x")), now=LATER)
    assert later["clusters"] == told["clusters"]
    over = Replies((), Earliest(pod="shop/a", expires=NOW - dt.timedelta(hours=5), read=1, of=1))
    status = report.status_of(looked_at(replies={"primary": over}), now=NOW)
    assert status["clusters"][0]["workloadCertificates"]["hoursLeft"] == 0
    unknown = report.status_of(looked_at(replies={"primary": Replies((), Earliest(of=3))}), now=NOW)
    assert "workloadCertificates" not in unknown["clusters"][0]


def test_gateways_of_this_mesh_are_told_with_their_addresses() -> None:
    ours = GatewayPods(
        namespace="edge", name="in", owner="demo", replicas=2, available=1, addresses=("192.0.2.1", "lb.example")
    )
    theirs = GatewayPods(namespace="edge", name="x", owner="other")
    status = report.status_of(attempt(clusters=(replace(SEEN, gateways=(ours, theirs)),)), now=NOW)
    assert status["clusters"][0]["gateways"] == [{
        "name": "in", "namespace": "edge", "replicas": 2, "readyReplicas": 1, "addresses": ["192.0.2.1", "lb.example"],
    }]  # fmt: skip


def test_who_made_nothing_yet_counts_nobodys_proxies() -> None:
    injection = Injection(expected=4, missing=1, outdated=2, pods=("shop/a: no sidecar",))
    there = replace(SEEN, injection=injection)
    status = report.status_of(attempt(clusters=(there,)), now=NOW)
    assert status["clusters"][0]["injection"] == {
        "expected": 4, "missing": 1, "outdated": 2, "pods": ["shop/a: no sidecar"],
    }  # fmt: skip
    nobody = mesh().model_copy(update={"finalizers": ()})
    status = report.status_of(attempt(nobody, clusters=(there,)), now=NOW)
    assert (status["clusters"][0]["proxies"], status["proxies"]) == (0, 0)
    assert status["clusters"][0]["injection"]["expected"] == 0


# The rest of the status


@pytest.mark.parametrize(
    ("reason", "mode", "applied", "version"),
    [
        (None, "Apply", True, VERSION),
        ("Progressing", "Apply", True, VERSION),
        ("UnsupportedVersion", "Apply", False, "1.30.9"),
        ("InvalidSpec", "Apply", False, "1.30.9"),
        ("ClusterUnreachable", "Apply", False, "1.30.9"),
        ("Planned", "Plan", False, "1.30.9"),
        ("Paused", "Paused", False, "1.30.9"),
    ],
)
def test_the_version_is_the_one_that_was_applied(reason: str | None, mode: str, applied: bool, version: str) -> None:  # noqa: FBT001
    subject = mesh(status=MeshStatus(version="1.30.9"), mode=mode)
    finding = Finding(reason, "words") if reason else None
    outcomes = {"primary": Outcome()} if applied else {}
    assert report.status_of(attempt(subject, finding=finding, outcomes=outcomes), now=NOW)["version"] == version


def test_what_could_not_be_read_stays_as_it_was_known_but_is_not_ready() -> None:
    known = report.status_of(attempt(trusts={"primary": TRUST}), now=NOW)
    finding = Finding("ClusterUnreachable", "no answer")
    status = report.status_of(attempt(after(known), clusters=(), outcomes={}, finding=finding), now=LATER)
    assert status["clusters"] == [known["clusters"][0] | {"ready": False}]
    assert status["clustersReady"] == "0/1"
    assert status["proxies"] == 3


def test_a_known_trust_stays_when_this_attempt_did_not_come_to_it() -> None:
    known = report.status_of(attempt(trusts={"primary": TRUST}), now=NOW)
    status = report.status_of(attempt(after(known), finding=Finding("RevisionConflict", "x")), now=LATER)
    assert status["clusters"][0]["trust"] == known["clusters"][0]["trust"]


def test_objects_are_counted_and_of_them_those_that_are_not_reconciled() -> None:
    outcome = Outcome(created=2, changed=3, deleted=5, unchanged=7, left=LEFT)
    status = report.status_of(attempt(outcomes={"primary": outcome}), now=NOW)
    (cluster,) = status["clusters"]
    assert (cluster["objects"], cluster["notReconciled"]) == (2 + 3 + 7 + 5, 5)  # what was deleted is no more
    later = report.status_of(attempt(after(status), outcomes={}, finding=Finding("Paused", "x")), now=LATER)
    assert later["clusters"] == status["clusters"]


def seen(*, injects: bool = True, **parts: Any) -> Cluster:
    """A cluster with an istiod that differs from a healthy one by `parts`."""
    return replace(SEEN, istiods=(istiod(**parts),), injectors=(injector(trusted=injects),))


@pytest.mark.parametrize("reason", REASONS)
@pytest.mark.parametrize(
    ("cluster", "ready"),
    [
        (SEEN, True),
        (seen(available=1), False),
        (seen(generation=2), False),
        (seen(existing=3), False),
        (seen(injects=False), False),
        (seen(namespace="other"), False),
        (seen(owner="other"), False),
        (seen(owner=None), False),
        (Cluster("primary"), False),
    ],
)
def test_a_cluster_is_ready_when_its_control_plane_is_whatever_else_is_found(
    reason: str,
    cluster: Cluster,
    ready: bool,  # noqa: FBT001
) -> None:
    finding = None if reason == "Installed" else Finding(reason, "words")
    status = report.status_of(attempt(clusters=(cluster,), finding=finding), now=NOW)
    assert status["clusters"][0]["ready"] is ready
    assert status["clustersReady"] == f"{int(ready)}/1"


@pytest.mark.parametrize("reason", REASONS)
def test_a_cluster_is_ready_when_nothing_that_was_found_in_it_says_otherwise(reason: str) -> None:
    found = {"primary": (Finding(reason, "words"),)}
    status = report.status_of(attempt(findings=found), now=NOW)
    assert status["clusters"][0]["ready"] is (REASONS[reason].ready != "False")
    assert report.status_of(attempt(findings={"primary": ()}), now=NOW)["clusters"][0]["ready"]


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_cluster_is_ready_with_as_many_replicas_as_an_autoscaler_wants(count: int) -> None:
    scaled = replace(seen(replicas=count, existing=count, updated=count, available=count), autoscaled=True)
    for missing in (0, 1):
        present = replace(scaled, istiods=(replace(scaled.istiods[0], available=count - missing),))
        status = report.status_of(attempt(clusters=(present,)), now=NOW)
        assert status["clusters"][0]["ready"] is (missing == 0)


def test_a_cluster_is_ready_with_the_replicas_that_an_autoscaler_left() -> None:
    kept = seen(replicas=5, existing=5, updated=5, available=5, replicas_annotation="5/size 2")
    assert report.status_of(attempt(clusters=(kept,)), now=NOW)["clusters"][0]["ready"]


def test_a_mesh_that_was_never_read_has_no_cluster_that_is_ready() -> None:
    status = report.status_of(attempt(clusters=(), outcomes={}, finding=Finding("InvalidSpec", "x")), now=NOW)
    assert (status["clusters"], status["clustersReady"], status["proxies"]) == ([], "0/1", 0)


def test_several_clusters_are_summed_up() -> None:
    west = Cluster("west", proxies=4)
    status = report.status_of(
        attempt(clusters=(SEEN, west), outcomes={"primary": Outcome(), "west": Outcome()}), now=NOW
    )
    assert (status["clustersReady"], status["proxies"]) == ("1/2", 7)
    assert [each["name"] for each in status["clusters"]] == ["primary", "west"]
    assert status["clusters"][1]["controlPlane"] == {"replicas": 0, "readyReplicas": 0}
    both = (SEEN, replace(SEEN, name="west"))
    assert report.status_of(attempt(clusters=both), now=NOW)["clustersReady"] == "2/2"


def test_a_plan_is_told_in_the_mode_plan_alone() -> None:
    outcome = Outcome(created=2, changed=1, deleted=4, unchanged=3, objects=["create Service n/a"] * 25)
    finding = Finding("Planned", "words")
    planned = report.status_of(
        attempt(mesh(mode="Plan"), outcomes={}, planned={"primary": outcome}, finding=finding), now=NOW
    )
    assert planned["plan"] == {
        "create": 2, "change": 1, "delete": 4, "unchanged": 3, "objects": ["create Service n/a"] * 20,
    }  # fmt: skip
    assert "plan" not in report.status_of(attempt(outcomes={"primary": outcome}), now=NOW)


def test_nothing_on_the_wire_is_null() -> None:
    status = report.status_of(attempt(mesh(generation=0), clusters=(Cluster("primary"),)), now=NOW)
    assert None not in status.values()
    assert None not in status["clusters"][0].values()
    assert "observedGeneration" not in status


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (NOW, "2026-03-01T12:00:00Z"),
        (NOW.replace(microsecond=999_999), "2026-03-01T12:00:00Z"),
        (NOW.astimezone(dt.timezone(dt.timedelta(hours=5))), "2026-03-01T12:00:00Z"),
    ],
)
def test_times_are_utc_and_whole_seconds(moment: dt.datetime, text: str) -> None:
    assert report.timestamp(moment) == text


# Events


@pytest.mark.parametrize(
    ("before", "then", "turned"),
    [
        ("Progressing", "Progressing", False),
        ("Progressing", "ControlPlaneNotReady", True),
        ("Progressing", "Installed", True),
        ("Installed", "Progressing", True),
        ("Installed", "Installed", False),
    ],
)
def test_a_transition_is_another_reason_or_status_of_ready(before: str, then: str, turned: bool) -> None:  # noqa: FBT001
    def status(reason: str, subject: MeshInstall | None = None) -> Json:
        finding = None if reason == "Installed" else Finding(reason, "words differ")
        return report.status_of(attempt(subject, finding=finding), now=NOW)

    found = [each for each in report.transitions(after(status(before)), status(then)) if each.type == "Ready"]
    assert [each.reason for each in found] == ([then] if turned else [])


def test_a_part_that_breaks_or_is_well_again_is_told_unless_ready_tells_it() -> None:
    def status(*reasons: str, ready: str) -> Json:
        findings = {"primary": tuple(Finding(each, "words") for each in reasons)}
        main = None if ready == "Installed" else Finding(ready, "words")
        return report.status_of(attempt(findings=findings, finding=main), now=NOW)

    well, broken = status(ready="Installed"), status("GatewayNotReady", "Progressing", ready="Progressing")
    told = [(each.type, each.status) for each in report.transitions(after(well), broken)]
    assert told == [("Ready", "False"), ("GatewaysReady", "False")]
    told = [(each.type, each.status) for each in report.transitions(after(broken), well)]
    assert told == [("Ready", "True"), ("ControlPlaneReady", "True"), ("GatewaysReady", "True")]
    assert report.transitions(after(well), well) == []


def test_the_first_status_is_a_transition() -> None:
    (found,) = report.transitions(mesh(), report.status_of(attempt(), now=NOW))
    assert (found.type, found.status) == ("Ready", "True")


def turned(reason: str, message: str = "words") -> Json:
    finding = None if reason == "Installed" else Finding(reason, message)
    condition = report.transitions(mesh(), report.status_of(attempt(finding=finding), now=NOW))[0]
    return report.event(mesh(), condition, now=NOW, reporter="meshwright-" + "x" * 200)


def test_an_event_has_what_the_api_asks_for() -> None:
    event = turned("PermissionDenied")
    assert event["metadata"] == {"generateName": "demo-", "namespace": "default"}
    assert event["eventTime"] == "2026-03-01T12:00:00.000000Z"
    assert event["regarding"]["name"] == "demo"
    assert event["regarding"]["uid"] == "uid-of-demo"
    assert (event["reason"], event["type"], event["note"]) == ("PermissionDenied", "Warning", "words")
    assert len(event["reportingInstance"]) <= 128


@pytest.mark.parametrize("reason", REASONS)
def test_a_warning_is_what_somebody_must_act_on(reason: str) -> None:
    assert turned(reason)["type"] == ("Warning" if REASONS[reason].stalled else "Normal")


@pytest.mark.parametrize("message", ["x" * 5000, "ü" * 5000, "x" + "𝄞" * 5000])
def test_a_note_fits_however_its_letters_are_counted(message: str) -> None:
    note = turned("ObjectRejected", message)["note"]
    assert NOTE_LIMIT - 4 < len(note.encode()) <= NOTE_LIMIT
    assert message.startswith(note)
