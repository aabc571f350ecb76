"""report: what happened becomes a status, and Events where something turned."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from meshwright.api.conditions import (
    CLUSTERS_JOINED,
    CONFIGURATION_ACCEPTED,
    CONTROL_PLANE_READY,
    GATEWAYS_READY,
    NOT_OBSERVED,
    PARTS,
    READY,
    REASONS,
    RECONCILING,
    STALLED,
    TYPES,
    WEBHOOKS_CONFIGURED,
    Part,
)
from meshwright.api.meshaction import MeshAction, Phase
from meshwright.api.meshinstall import (
    API_VERSION,
    FINALIZER,
    KIND,
    ActionsStatus,
    CheckStatus,
    ClusterStatus,
    Condition,
    ControlPlaneStatus,
    GatewayStatus,
    InjectionStatus,
    MeshInstall,
    MeshSpec,
    MeshStatus,
    Mode,
    PlanStatus,
    ProxyVersion,
    ReachStatus,
    RemoteStatus,
    TrustStatus,
    WorkloadCertificates,
)
from meshwright.api.scaling import ReconnectStatus, RuleState, RuleStatus, ScalingStatus
from meshwright.cluster.apply import Outcome
from meshwright.mesh import locality, remotes
from meshwright.mesh.census import Earliest
from meshwright.mesh.desired import ControlPlane
from meshwright.mesh.enrolment import Injection
from meshwright.mesh.evidence import Replies
from meshwright.mesh.findings import Finding
from meshwright.mesh.health import cluster_findings, own_istiod
from meshwright.mesh.meshconfig import KEEPALIVE
from meshwright.mesh.names import Names
from meshwright.mesh.observed import Absent, Cluster, Istiod, listed
from meshwright.mesh.preflight import Result
from meshwright.mesh.scaling import Verdict
from meshwright.mesh.trust import Remote, Trust
from meshwright.mesh.verification import Passage, wanted

SEEN = (CONTROL_PLANE_READY, WEBHOOKS_CONFIGURED)  # parts that are judged also where nothing was decided
NAMED_PLAN = 20
NAMED_LEFT = 3
NOTE_LIMIT = 1024  # bytes, not characters: the API server refuses a longer one
POD_LIMIT, VERSION_LIMIT, FAILURE_LIMIT, LATENCY_LIMIT = 400, 128, 1024, 32  # characters: pods say what they like
MESSAGE_LIMIT = 4096  # a condition may hold 32768; what people read in one line is far less


@dataclass(frozen=True)
class Scaled:
    """What the scaling rules say of a cluster."""

    verdicts: tuple[Verdict, ...]
    next_size: str
    estimate: str
    reconnects: ReconnectStatus


@dataclass
class Attempt:
    """What a reconcile came to, gathered as it goes: also the one that fails half way is reported."""

    mesh: MeshInstall
    clusters: tuple[Cluster, ...] = ()
    absent: tuple[Absent, ...] = ()
    trusts: dict[str, Trust] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)  # of what was carried out, by cluster
    planned: dict[str, Outcome] = field(default_factory=dict)  # of dry runs, by cluster
    planes: dict[str, ControlPlane] = field(default_factory=dict)  # what was carried out, by cluster
    findings: dict[str, tuple[Finding, ...]] = field(default_factory=dict)  # by cluster, once all of it was looked at
    replies: dict[str, Replies] = field(default_factory=dict)  # what istiods and proxies say of themselves, by cluster
    remotes: dict[tuple[str, str], Remote] = field(default_factory=dict)  # by who reads, and what
    hindered: dict[str, Finding] = field(
        default_factory=dict
    )  # why a cluster is not as declared, and was not looked at
    passages: dict[str, Mapping[str, Passage]] = field(default_factory=dict)  # requests to others, by whence
    scaled: dict[str, Scaled] = field(default_factory=dict)  # by cluster
    journal: tuple[MeshAction, ...] = ()
    acted: bool = False  # something was decided that is to be carried out now
    verified: str | None = None  # what requests between all clusters have just passed for
    checks: tuple[Result, ...] = ()  # whether the clusters can be joined
    joined: set[str] = field(default_factory=set)  # clusters in which something is about to be made
    leaving: dict[str, Finding] = field(default_factory=dict)  # who is still there in a cluster that is to leave
    departed: set[str] = field(default_factory=set)  # clusters that have left
    finding: Finding | None = None  # why Ready is not True

    def saw(self, cluster: Cluster) -> Cluster:
        """A member cluster as it is now."""
        self.clusters = tuple(cluster if each.name == cluster.name else each for each in self.clusters)
        return cluster


def status_of(attempt: Attempt, *, now: dt.datetime) -> dict[str, Any]:
    """The whole status as a dict for the wire, from the attempt and the status before it."""
    mesh, before = attempt.mesh, attempt.mesh.status
    finding = attempt.finding or Finding("Installed", "the mesh is as declared")
    if not REASONS[finding.reason].stalled:
        finding = Finding(finding.reason, finding.message + _but_for(attempt))
    clusters = [_cluster(attempt, cluster, now) for cluster in attempt.clusters]
    clusters += [_absent(attempt, absent) for absent in attempt.absent]
    clusters = [each for each in clusters if each.name not in attempt.departed]
    if not clusters:  # nothing could be read: what was known, but ready no more
        clusters = [cluster.model_copy(update={"ready": False}) for cluster in before.clusters]
    status = MeshStatus(
        observed_generation=mesh.generation or None,
        version=mesh.spec.version if attempt.outcomes else before.version,
        conditions=_conditions(attempt, finding, now),
        proxies=sum(cluster.proxies for cluster in clusters),
        clusters_ready=f"{sum(cluster.ready for cluster in clusters)}/{max(len(clusters), 1)}",
        clusters=clusters,
        checks=_checks(attempt),
        verified=(attempt.verified or before.verified) if wanted(mesh) else None,
        scaling=_actions(attempt.journal),
        plan=_plan(attempt) if mesh.spec.mode is Mode.PLAN else None,
    )
    return status.model_dump(by_alias=True, exclude_none=True)


def _checks(attempt: Attempt) -> list[CheckStatus] | None:
    """None where there is nothing to join."""
    if len(attempt.mesh.spec.members) == 1:
        return None
    return [
        CheckStatus(name=each.name, passed=each.passed, message=each.message[:MESSAGE_LIMIT] or None)
        for each in attempt.checks
    ] or attempt.mesh.status.checks


def _but_for(attempt: Attempt) -> str:
    """What is not as declared because somebody asked for that, and CRDs that are not ours."""
    outcomes = [*attempt.outcomes.values(), *attempt.planned.values()]
    left = [key for outcome in outcomes for key in outcome.left]
    notes = [
        *(note for outcome in outcomes for note in outcome.notes),
        *remotes.notes(attempt.remotes),
        *locality.notes(attempt.mesh.spec, attempt.clusters),
    ]
    disabled = f", but for what an annotation excepts: {listed(left[:NAMED_LEFT], of=len(left))}" if left else ""
    return "; ".join([disabled, *notes[:1]] if notes else [disabled])


def _conditions(attempt: Attempt, finding: Finding, now: dt.datetime) -> list[Condition]:
    mesh, row = attempt.mesh, REASONS[finding.reason]
    moving = row.ready != "True" and not row.stalled and finding.reason not in ("Paused", "Planned")
    message = finding.message[:MESSAGE_LIMIT]
    stuck = f"{message}. {row.next_step}" if row.stalled else "nothing is stuck"
    wanted = (
        (READY, row.ready, finding.reason, message),
        (RECONCILING, str(moving), finding.reason, message if moving else "nothing is under way"),
        (STALLED, str(row.stalled), finding.reason, stuck),
        *_parts(attempt, finding),
    )
    before = {condition.type: condition for condition in mesh.status.conditions}
    looked = [
        Condition(
            type=kind,
            status=status,
            reason=reason,
            message=text,
            last_transition_time=_since(before.get(kind), status, now),
            observed_generation=mesh.generation or None,
        )
        for kind, status, reason, text in wanted
    ]
    # A part that was not looked at stays as it was, for the generation that it was about.
    known = before | {each.type: each for each in looked}
    return [known[kind] for kind in TYPES]


def _parts(attempt: Attempt, finding: Finding) -> Iterator[tuple[str, str, str, str]]:
    """Type, status, reason and message of each part that was looked at, or of which nothing is known."""
    told = [finding, *_all_findings(attempt), *attempt.hindered.values(), *(each.why for each in attempt.absent)]
    found = {REASONS[each.reason].part: each for each in reversed(told)}
    before = {condition.type for condition in attempt.mesh.status.conditions}
    for part in PARTS:
        if (wrong := found.get(part.type)) and part.type != READY:
            yield part.type, "False", wrong.reason, wrong.message[:MESSAGE_LIMIT]
        elif part.type == CONFIGURATION_ACCEPTED and attempt.findings and (why := _unasked(attempt)):
            yield part.type, "Unknown", NOT_OBSERVED, why
        elif attempt.findings or (part.type in SEEN and _is_ours(attempt)):
            yield part.type, "True", part.well, _well(part, attempt)
        elif part.type not in before:
            yield part.type, "Unknown", NOT_OBSERVED, "not looked at yet"


def _unasked(attempt: Attempt) -> str:
    """Why nobody knows whether the configuration is in force."""
    replies = attempt.replies.values()
    if not any(each.answers for each in replies):
        return "no replica of istiod is ready to be asked what it runs"
    return next((each.trouble for each in replies if each.trouble), "")


def _is_ours(attempt: Attempt) -> bool:
    """Whether what runs in every cluster is this mesh's."""
    names = Names(attempt.mesh.spec.namespace, attempt.mesh.spec.revision)
    spec = attempt.mesh.spec
    istiods = [own_istiod(each, names) for each in attempt.clusters if not spec.primary(each.name)]
    return bool(istiods) and all(each and each.owner == attempt.mesh.name for each in istiods)


def _well(part: Part, attempt: Attempt) -> str:
    spec = attempt.mesh.spec
    if part.type == GATEWAYS_READY and not spec.gateways and len(spec.members) == 1:
        return "no gateway is asked for"
    if part.type == CLUSTERS_JOINED and len(spec.members) == 1:
        return "the mesh has one cluster"
    return part.message


def _all_findings(attempt: Attempt) -> list[Finding]:
    if attempt.findings:
        return [each for findings in attempt.findings.values() for each in findings]
    # Nothing was decided, but what runs was seen.
    names = Names(attempt.mesh.spec.namespace, attempt.mesh.spec.revision)
    primary = attempt.mesh.spec.primary
    return [
        each
        for cluster in attempt.clusters
        for each in cluster_findings(cluster, names, replicas=None, primary=primary(cluster.name))
    ]


def _since(before: Condition | None, status: str, now: dt.datetime) -> str:
    return before.last_transition_time if before and before.status == status else timestamp(now)


def timestamp(moment: dt.datetime) -> str:
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _cluster(attempt: Attempt, cluster: Cluster, now: dt.datetime) -> ClusterStatus:
    spec = attempt.mesh.spec
    names = Names(spec.namespace, spec.revision)
    istiod = own_istiod(cluster, names)
    trust = attempt.trusts.get(cluster.name)
    primary = spec.primary(cluster.name)
    # Another's istiod, in our place, is not this mesh's; a remote cluster has none.
    ours = bool(primary) or (istiod is not None and istiod.owner == attempt.mesh.name)
    outcome = attempt.outcomes.get(cluster.name)
    none = ClusterStatus(name=cluster.name)
    before = next((each for each in attempt.mesh.status.clusters if each.name == cluster.name), none)
    findings = attempt.findings.get(cluster.name)
    if findings is None:  # nothing was decided: as it runs
        findings = cluster_findings(cluster, names, replicas=None, primary=primary)
    made = FINALIZER in attempt.mesh.finalizers  # else its proxies are somebody else's, who has the same revision
    replies = attempt.replies.get(cluster.name)
    return ClusterStatus(
        name=cluster.name,
        **_member(spec, cluster.name, before),
        remotes=_remotes(attempt, cluster.name, before),
        reaches=_reaches(attempt, cluster.name, before, now),
        uid=cluster.uid or None,
        joined=before.joined or cluster.name in attempt.joined or None,
        ready=ours
        and cluster.name not in attempt.hindered
        and not any(REASONS[each.reason].ready == "False" for each in findings),
        kubernetes_version=cluster.kubernetes or None,
        control_plane=_control_plane(attempt.planes.get(cluster.name), istiod, before.control_plane),
        proxies=cluster.proxies if made else 0,
        proxy_versions=_versions(replies.versions, spec.revision) if replies else before.proxy_versions,
        injection=_injection(cluster.injection) if made else InjectionStatus(),
        gateways=[
            GatewayStatus(
                name=each.name, namespace=each.namespace, replicas=each.replicas, ready_replicas=each.available,
                addresses=list(each.addresses),
            )
            for each in cluster.gateways
            if each.owner == attempt.mesh.name
        ],
        workload_certificates=_certificates(replies.earliest, now) if replies else before.workload_certificates,
        scaling=_scaling(attempt.scaled.get(cluster.name), before.scaling, now),
        objects=_total(outcome) if outcome else before.objects,
        not_reconciled=len(outcome.left) if outcome else before.not_reconciled,
        trust=TrustStatus(
            root_fingerprint=trust.root_fingerprint,
            root_expires=timestamp(trust.root_expires),
            intermediate_fingerprint=trust.intermediate_fingerprint,
            intermediate_expires=timestamp(trust.intermediate_expires),
        ) if trust else before.trust,
    )  # fmt: skip


def _member(spec: MeshSpec, name: str, before: ClusterStatus) -> dict[str, Any]:
    """The primary is the one with which it was joined: another one is refused."""
    secret = next((each.kubeconfig_secret for each in spec.members if each.name == name), None)
    network, primary = spec.network(name), before.primary if before.joined else spec.primary(name)
    return {"network": network or None, "primary": primary or None, "kubeconfig_secret": secret}


def _remotes(attempt: Attempt, name: str, before: ClusterStatus) -> list[RemoteStatus] | None:
    """One that is not looked at now is as it was."""
    known, replies = {each.name: each for each in before.remotes or ()}, attempt.replies.get(name, Replies())
    looked = {
        source: RemoteStatus(name=source, synced=replies.sync(source), token_expires=timestamp(remote.expires))
        for (reader, source), remote in attempt.remotes.items()
        if reader == name
    }
    others = {each.name for each in attempt.mesh.spec.members} - {name}
    return [each for source, each in sorted((known | looked).items()) if source in others] or None


def _reaches(attempt: Attempt, name: str, before: ClusterStatus, now: dt.datetime) -> list[ReachStatus] | None:
    """What is not verified now is as it was verified last."""
    if not wanted(attempt.mesh):
        return None
    known = {each.name: each for each in before.reaches or ()}
    for other, passage in attempt.passages.get(name, {}).items():
        last = known.get(other)
        known[other] = ReachStatus(
            name=other,
            passed=passage.passed,
            latency=None if passage.median_ms is None else f"{passage.median_ms:g}ms"[:LATENCY_LIMIT],
            last_pass=timestamp(now) if passage.passed else last and last.last_pass,
            message=None if passage.passed else passage.failure[:FAILURE_LIMIT] or None,
        )
    others = {each.name for each in attempt.mesh.spec.members} - {name}
    return [each for other, each in sorted(known.items()) if other in others] or None


def _absent(attempt: Attempt, absent: Absent) -> ClusterStatus:
    """What was known of it, and why nothing is known now."""
    none = ClusterStatus(name=absent.name)
    before = next((each for each in attempt.mesh.status.clusters if each.name == absent.name), none)
    news = _member(attempt.mesh.spec, absent.name, before) | {
        "ready": False,
        "away": absent.why.message[:MESSAGE_LIMIT],
    }
    return before.model_copy(update=news)


def _control_plane(plane: ControlPlane | None, istiod: Istiod | None, before: ControlPlaneStatus) -> ControlPlaneStatus:
    """Size and resources are those that were rolled out last: what a size that finds no room goes back to."""
    size, resources, keepalive = before.size, before.resources, before.keepalive
    if plane and istiod and istiod.rolled_out:
        keepalive = KEEPALIVE
    if plane and istiod and istiod.rolled_out and plane.sizing.share.is_that_of(istiod.resources):
        size, resources = plane.sizing.size, plane.sizing.share.resources
    return ControlPlaneStatus(
        replicas=istiod.replicas if istiod else 0,
        ready_replicas=istiod.available if istiod else 0,
        size=size,
        resources=resources,
        keepalive=keepalive,
        refused=plane.resize.refused if plane else before.refused,
    )


def _injection(injection: Injection) -> InjectionStatus:
    return InjectionStatus(
        expected=injection.expected,
        missing=injection.missing,
        outdated=injection.outdated,
        pods=[each[:POD_LIMIT] for each in injection.pods],
    )


def _versions(versions: Mapping[str, int], revision: str) -> list[ProxyVersion]:
    return [
        ProxyVersion(version=each[:VERSION_LIMIT], revision=revision, count=count)
        for each, count in sorted(versions.items())
    ]


def _scaling(scaled: Scaled | None, before: ScalingStatus | None, now: dt.datetime) -> ScalingStatus | None:
    """Written when a rule turns; what merely moves is brought up to date from time to time."""
    if scaled is None:
        return before
    rules = [
        RuleStatus(
            action=each.action, state=each.state, unit=each.unit, message=each.message[:MESSAGE_LIMIT],
            value=None if each.value is None else _rounded(each.value), threshold=each.threshold,
            since=timestamp(each.since) if each.since else None,
        )
        for each in scaled.verdicts
    ]  # fmt: skip
    if before and before.written and [_turn(each) for each in rules] == [_turn(each) for each in before.rules]:
        moving = any(each.state in MOVING for each in rules)
        if now - dt.datetime.fromisoformat(before.written) < (SOON if moving else SELDOM):
            return before
    return ScalingStatus(
        rules=rules, next_size=scaled.next_size, estimate=scaled.estimate, reconnects=scaled.reconnects,
        written=timestamp(now),
    )  # fmt: skip


FIRING = (RuleState.ACTING, RuleState.STANDING, RuleState.RECOMMENDED)
MOVING = (RuleState.PENDING, RuleState.ACTING, RuleState.HELD, RuleState.CLEARING)
SOON, SELDOM = dt.timedelta(minutes=1), dt.timedelta(minutes=5)


def _turn(rule: RuleStatus) -> tuple[str, str, str | None]:
    return rule.action, rule.state, rule.since


def _rounded(value: float) -> float:
    """Two digits, and no part of what is counted or a percentage."""
    return round(value) if abs(value) >= TWO_DIGITS else float(f"{value:.2g}")


TWO_DIGITS = 10


def _actions(journal: Iterable[MeshAction]) -> ActionsStatus | None:
    journal = list(journal)
    if not journal:
        return None
    return ActionsStatus(
        in_flight=sum(each.in_flight for each in journal),
        standing=sum(each.in_force and not each.in_flight for each in journal),
        recommended=sum(each.phase is Phase.RECOMMENDED for each in journal),
        last=f"{journal[-1].spec.action} ({journal[-1].phase}): {journal[-1].spec.reason}"[:MESSAGE_LIMIT],
    )


def _certificates(earliest: Earliest | None, now: dt.datetime) -> WorkloadCertificates | None:
    if earliest is None or earliest.expires is None:
        return None
    return WorkloadCertificates(
        earliest=earliest.pod, expires=timestamp(earliest.expires), read=earliest.read, of=earliest.of,
        hours_left=max(int((earliest.expires - now) / dt.timedelta(hours=1)), 0),
    )  # fmt: skip


def _total(outcome: Outcome) -> int:
    return outcome.created + outcome.changed + outcome.unchanged + len(outcome.left)


def _plan(attempt: Attempt) -> PlanStatus:
    outcomes = attempt.planned.values()
    return PlanStatus(
        create=sum(each.created for each in outcomes),
        change=sum(each.changed for each in outcomes),
        delete=sum(each.deleted for each in outcomes),
        unchanged=sum(each.unchanged for each in outcomes),
        objects=[line for each in outcomes for line in each.objects][:NAMED_PLAN],
    )


def differs(mesh: MeshInstall, status: Mapping[str, Any]) -> bool:
    return mesh.status.model_dump(by_alias=True, exclude_none=True) != status


def transitions(mesh: MeshInstall, status: Mapping[str, Any]) -> list[Condition]:
    """What is worth an Event: Ready, if its reason or status turned, and parts that broke or are well again.

    What Ready says already is not said again.
    """
    new = {each["type"]: Condition.model_validate(each) for each in status["conditions"]}
    old = {each.type: each for each in mesh.status.conditions}
    ready, before = new[READY], old.get(READY)
    turned = [] if before and (before.status, before.reason) == (ready.status, ready.reason) else [ready]
    return turned + [
        new[part.type]
        for part in PARTS
        if {new[part.type].status, old[part.type].status if part.type in old else ""} == {"True", "False"}
        and new[part.type].reason != ready.reason
    ]


def _severity(condition: Condition) -> str:
    row = REASONS.get(condition.reason)  # a part that is well has a reason of its own
    broken = row and (row.stalled or (condition.type != READY and condition.status == "False"))
    return "Warning" if broken else "Normal"


def event(mesh: MeshInstall, condition: Condition, *, now: dt.datetime, reporter: str) -> dict[str, Any]:
    return note(
        mesh, reason=condition.reason, text=condition.message, now=now, reporter=reporter,
        severity=_severity(condition),
    )  # fmt: skip


def note(
    mesh: MeshInstall, *, reason: str, text: str, now: dt.datetime, reporter: str, severity: str = "Normal",
    action: str = "Reconcile",
) -> dict[str, Any]:  # fmt: skip
    """An Event about a cluster-scoped object lives in the namespace `default`, as kubectl expects."""
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"generateName": f"{mesh.name}-", "namespace": "default"},
        "eventTime": now.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": "meshwright.dev/operator",
        "reportingInstance": reporter[:128],
        "action": action,
        "reason": reason,
        "type": severity,
        "note": text.encode()[:NOTE_LIMIT].decode(errors="ignore"),
        "regarding": {"apiVersion": API_VERSION, "kind": KIND, "name": mesh.name, "uid": mesh.uid},
    }
