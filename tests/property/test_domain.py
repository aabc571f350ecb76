"""Laws of the domain: quantities, sizes, merging, and checks that have an answer to everything."""

from __future__ import annotations

import copy
import datetime as dt
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from meshes import NOW
from meshwright.api.conditions import NOT_OBSERVED, PARTS, REASONS, TYPES
from meshwright.api.errors import InvalidSpec
from meshwright.api.meshinstall import (
    API_VERSION,
    CNI,
    KIND,
    Autoscaling,
    ClusterStatus,
    ControlPlane,
    ControlPlaneStatus,
    DataPlane,
    DisruptionBudget,
    Gateway,
    MeshInstall,
    MeshSpec,
    MeshStatus,
    RefusedSize,
    Resources,
    Size,
)
from meshwright.cluster.apply import Outcome
from meshwright.controller import report
from meshwright.controller.report import Attempt
from meshwright.mesh import availability, quantity
from meshwright.mesh.checks import CHECKS, first_finding
from meshwright.mesh.dataplane import UNITS, as_proto, seconds
from meshwright.mesh.desired import bounds_of, decide, replicas_for
from meshwright.mesh.findings import Finding
from meshwright.mesh.health import cluster_findings, control_plane_finding, own_istiod
from meshwright.mesh.meshconfig import computed, computed_keys, defaults, merge, mesh_config, misspelt_keys
from meshwright.mesh.names import Names
from meshwright.mesh.observed import (
    Agents,
    Budget,
    Cluster,
    GatewayPods,
    Injector,
    Istiod,
    Neighbour,
    Node,
    Observed,
    Trouble,
)
from meshwright.mesh.resize import chosen, decide_size
from meshwright.mesh.sizing import PROXY, ROWS, Share, contradictions, limits_of, proxy_share, size_for, size_of
from meshwright.mesh.versions import objection

Json = dict[str, Any]

# Quantities

suffix = st.sampled_from(list(quantity.SUFFIXES))
number = st.one_of(
    st.integers(0, 10**12).map(str),
    st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)).map(lambda pair: f"{pair[0]}.{pair[1]}"),
)
quantities = st.tuples(number, suffix).map("".join)
amount = st.one_of(st.none(), quantities, st.integers(0, 100))


@given(number, suffix)
def test_a_quantity_is_its_number_times_its_suffix(digits: str, unit: str) -> None:
    assert quantity.parse(digits + unit) == Fraction(digits) * quantity.SUFFIXES[unit]


@given(st.integers(0, 10**6))
def test_millicores_survive_writing_and_reading(milli: int) -> None:
    assert quantity.parse(quantity.cpu(Fraction(milli, 1000))) == Fraction(milli, 1000)


@given(st.fractions(min_value=0, max_value=10**4))
def test_cores_are_written_to_the_millicore(cores: Fraction) -> None:
    written = quantity.parse(quantity.cpu(cores))
    assert abs(written - cores) <= (Fraction(1, 2000) if cores >= Fraction(1, 1000) else Fraction(1, 1000))
    assert (written == 0) is (cores == 0)  # a limit of nothing would be none


@given(st.text(max_size=12))
def test_any_text_is_a_quantity_or_a_value_error(text: str) -> None:
    with suppress(ValueError):
        assert quantity.parse(text) >= 0


# Sizes


def resources(requests: tuple[Any, Any], limits: tuple[Any, Any]) -> Resources:
    names = ("cpu", "memory")
    return Resources.model_validate({
        "requests": dict(zip(names, requests, strict=True)), "limits": dict(zip(names, limits, strict=True)),
    })  # fmt: skip


pair = st.tuples(amount, amount)
sizes = st.sampled_from(list(ROWS))


def within(share: Share) -> bool:
    """Whether no request exceeds its limit."""
    pairs = ((share.requests.cpu, share.limits.cpu), (share.requests.memory, share.limits.memory))
    return all(quantity.parse(request) <= quantity.parse(limit) for request, limit in pairs)


@given(st.integers(0, 10**6), st.integers(0, 10**4))
def test_more_pods_never_ask_for_less(pods: int, more: int) -> None:
    rows = list(ROWS)
    assert rows.index(size_for(pods)) <= rows.index(size_for(pods + more))
    row = ROWS[size_for(pods)]
    assert pods < row.below_pods or row is ROWS[rows[-1]]


@given(sizes, pair, pair)
def test_what_the_checks_let_pass_never_requests_more_than_its_limit(size: Size, requests: Any, limits: Any) -> None:
    override = resources(requests, limits)
    assume(not contradictions("spec", override, limits_of(size)))
    sizing = size_of(size, override)
    assert within(sizing.share)
    assert sizing.replicas == ROWS[size].replicas


@given(pair, pair)
def test_what_the_checks_let_pass_of_a_proxy_never_requests_more_than_its_limit(requests: Any, limits: Any) -> None:
    override = resources(requests, limits)
    assume(not contradictions("spec", override, PROXY.limits))
    assert within(proxy_share(override))


@given(sizes, pair, pair)
def test_what_auto_lets_pass_fits_whatever_it_comes_to(size: Size, requests: Any, limits: Any) -> None:
    override = resources(requests, limits)
    assume(not contradictions("spec", override, limits_of(Size.AUTO)))
    assert within(size_of(size, override).share)


@given(sizes, pair)
def test_limits_alone_contradict_nothing_unless_they_are_zero(size: Size, limits: Any) -> None:
    zero = any(each is not None and quantity.parse(each) == 0 for each in limits)
    assert bool(contradictions("spec", resources((None, None), limits), limits_of(size))) is zero


@given(sizes, pair, pair)
def test_what_is_set_is_taken_word_for_word(size: Size, requests: Any, limits: Any) -> None:
    share = size_of(size, resources(requests, limits)).share
    for demand, given_values in ((share.requests, requests), (share.limits, limits)):
        for found, value in zip((demand.cpu, demand.memory), given_values, strict=True):
            assert not value or found == str(value)


# Availability

replicas = st.integers(1, 100)
autoscalings = st.builds(
    Autoscaling, enabled=st.booleans(), min_replicas=st.none() | replicas, max_replicas=st.none() | replicas
)
budgets = st.builds(DisruptionBudget, max_unavailable=st.none() | replicas, min_available=st.none() | replicas)
cpus = st.integers(1, 10**5).map(lambda milli: f"{milli}m")


@given(autoscalings, budgets, replicas, cpus)
def test_what_the_checks_let_pass_has_bounds_in_order_and_always_a_pod_to_evict(
    autoscaling: Autoscaling, spec: DisruptionBudget, count: int, limit: str
) -> None:
    assume(not availability.contradictions("spec", autoscaling, spec, replicas=count))
    found = availability.bounds(autoscaling, replicas=count, cpu_limit=limit)
    lowest = availability.fewest(autoscaling, replicas=count)
    assert (found is None) is not autoscaling.enabled
    if found:
        assert found.minimum == lowest
        assert 1 <= found.minimum <= found.maximum
        assert 0 < quantity.parse(found.busy_cpu) <= quantity.parse(limit)
    asked_for = {"minAvailable": spec.min_available, "maxUnavailable": spec.max_unavailable or 1}
    ((field, number),) = availability.budget(spec, lowest=lowest).items()
    assert number == asked_for[field]


@given(budgets, replicas)
def test_a_budget_always_lets_a_pod_go_however_few_there_are(spec: DisruptionBudget, lowest: int) -> None:
    ((field, number),) = availability.budget(spec, lowest=lowest).items()
    assert number >= 1
    assert (number if field == "minAvailable" else lowest - number) < lowest


@given(autoscalings, replicas, st.none() | st.integers(0, 200))
def test_declared_replicas_are_never_too_few_and_only_ours_while_they_have_to_be(
    autoscaling: Autoscaling, count: int, live: int | None
) -> None:
    found = availability.bounds(autoscaling, replicas=count, cpu_limit="1")
    declared = availability.declared(found, replicas=count, live=live)
    if found is None:
        assert declared == count
    elif declared is None:
        assert live is None or live >= found.minimum
    else:
        assert live is not None
        assert live < declared == found.minimum


# Durations

parts = st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(["h", "m", "s", "ms"])), min_size=1, max_size=4)


@given(parts)
def test_a_duration_is_the_sum_of_its_parts_and_survives_writing_and_reading(given_parts: Any) -> None:
    text = "".join(f"{number}{unit}" for number, unit in given_parts)
    value = seconds(text)
    assert value == sum(Fraction(number) * UNITS[unit] for number, unit in given_parts)
    assert as_proto(text).endswith("s")
    assert seconds(as_proto(text)) == value
    assert as_proto(as_proto(text)) == as_proto(text)


# Merging

leaf = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.lists(st.integers(), max_size=2))
maps = st.recursive(
    st.dictionaries(st.sampled_from("abc"), leaf, max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), st.one_of(leaf, inner), max_size=3),
    max_leaves=8,
)


@given(maps)
def test_nothing_above_or_below_changes_nothing(value: Json) -> None:
    assert merge(value, {}) == value == merge({}, value)


@given(maps, maps)
def test_merging_again_changes_nothing(below: Json, above: Json) -> None:
    once = merge(below, above)
    assert merge(once, above) == once
    assert merge(below, below) == below


@given(maps, maps, maps)
def test_layers_may_be_merged_from_either_end(bottom: Json, middle: Json, top: Json) -> None:
    # But where the middle wipes a map out that the top brings back: then what lies under it shows or not.
    assume(not wiped(bottom, middle, top))
    assert merge(merge(bottom, middle), top) == merge(bottom, merge(middle, top))


def wiped(bottom: Any, middle: Any, top: Any) -> bool:
    if not isinstance(bottom, dict) or not isinstance(top, dict):
        return False
    if not isinstance(middle, dict):
        return True
    absent: Json = {}
    return any(wiped(bottom[key], middle.get(key, absent), top[key]) for key in bottom.keys() & top.keys())


@given(maps, maps)
def test_the_upper_layer_wins_and_what_it_does_not_say_stays(below: Json, above: Json) -> None:
    before = copy.deepcopy((below, above))
    merged = merge(below, above)
    assert merged.keys() == below.keys() | above.keys()
    for key, value in merged.items():
        if key not in above:
            assert value == below[key]
        elif not (isinstance(above[key], dict) and isinstance(below.get(key), dict)):
            assert value == above[key]
    assert (below, above) == before


COMPUTED = st.sampled_from([
    "trustDomain", "rootNamespace", "defaultConfig", "meshId", "discoveryAddress", "other", "trust_domain", "mesh_id",
    "default_config", "enable_prometheus_merge",
])  # fmt: skip
configs = st.dictionaries(COMPUTED, st.one_of(leaf, st.dictionaries(COMPUTED, leaf, max_size=3)), max_size=4)


@given(configs)
def test_a_config_that_passes_the_check_is_kept_whole(config: Json) -> None:
    spec = MeshSpec(version="1.31.4", mesh_config=config)
    found = mesh_config(spec)
    if not computed_keys(spec):
        assert merge(found, config) == found
    if not misspelt_keys(spec):
        assert not twice(merge(defaults(spec), computed(spec)), found)
    assert found["trustDomain"] == "cluster.local"
    assert found["defaultConfig"]["meshId"] == "cluster.local"


def twice(ours: Json, found: Json) -> list[str]:
    """Keys of ours that protobuf's JSON would find under a second name beside them."""
    plain = [key.replace("_", "").lower() for key in found]
    return [key for key in ours if plain.count(key.lower()) > 1] + [
        key for name, value in ours.items() if isinstance(value, dict) for key in twice(value, found[name])
    ]


# Snapshots

word = st.text(max_size=8)
owner = st.one_of(st.none(), st.sampled_from(["demo", "other"]), word)
namespaces = st.sampled_from(["istio-system", "mesh"])
revisions = st.sampled_from(["default", "canary"])
versions = st.tuples(*[st.integers(0, 40)] * 3).map(lambda parts: ".".join(map(str, parts)))
managers = st.lists(word, max_size=2).map(tuple)
count = st.integers(0, 6)

istiods = st.builds(
    Istiod, namespace=namespaces, name=st.sampled_from(["istiod", "istiod-canary", "x"]), revision=revisions,
    owner=owner, managers=managers, generation=count, observed_generation=count, replicas=count, existing=count,
    updated=count, available=count, failure=st.one_of(st.just(""), word),
    replicas_annotation=st.one_of(st.none(), st.just("autoscaled"), st.just("5/size 2"), word),
    size=st.none() | sizes, resources=st.none() | sizes.map(lambda size: size_of(size, Resources()).share.resources),
)  # fmt: skip
injectors = st.builds(
    Injector, name=word, revision=revisions, owner=owner, managers=managers, trusted=st.booleans(),
    tag=st.one_of(st.none(), revisions, word),
)  # fmt: skip
troubles = st.lists(
    st.builds(
        Trouble, word, word, word | st.just("Unschedulable"), word,
        st.none() | st.integers(0, 600).map(lambda ago: NOW - dt.timedelta(seconds=ago)),
        st.none() | sizes.map(lambda size: size_of(size, Resources()).share.resources),
    ),
    max_size=2,
).map(tuple)  # fmt: skip
amounts = st.fractions(0, 2**36)
nodes = st.lists(st.builds(Node, word, st.fractions(0, 64), amounts), max_size=2).map(tuple)
gateway_pods = st.builds(
    GatewayPods, namespace=namespaces, name=st.sampled_from(["in", "out"]), owner=owner, replicas=count, existing=count,
    updated=count, available=count, troubles=troubles, addresses=st.lists(word, max_size=2).map(tuple),
)  # fmt: skip
clusters = st.builds(
    Cluster, name=word, kubernetes=word, namespace_terminating=st.booleans(),
    istiods=st.lists(istiods, max_size=3).map(tuple), injectors=st.lists(injectors, max_size=2).map(tuple),
    troubles=troubles, proxies=count, autoscaled=st.booleans(), nodes=nodes, enrolled=st.sampled_from([0, 500, 10**4]),
    budgets=st.lists(st.builds(Budget, namespaces, word, managers), max_size=1).map(tuple),
    gateways=st.lists(gateway_pods, max_size=2).map(tuple),
    agents=st.none() | st.builds(Agents, wanted=count, updated=count, ready=count, current=st.booleans()),
)  # fmt: skip
gateways = st.lists(
    st.builds(
        Gateway, name=st.sampled_from(["in", "out", "istiod"]), namespace=st.none() | namespaces, replicas=replicas,
        autoscaling=autoscalings, pod_disruption_budget=budgets,
    ),
    max_size=2,
)  # fmt: skip
specs = st.builds(
    MeshSpec, version=st.one_of(versions, st.just("1.31.4")), namespace=namespaces, revision=revisions,
    mesh_config=configs, mesh_id=st.none(), mode=st.sampled_from(["Apply", "Plan"]),
    control_plane=st.builds(
        lambda size, requests, limits, autoscaling, budget: {
            "size": size, "resources": resources(requests, limits), "autoscaling": autoscaling,
            "pod_disruption_budget": budget,
        },
        st.sampled_from(Size), pair, pair, autoscalings, budgets,
    ),
    gateways=gateways, allow_untested_version=st.booleans(),
    data_plane=st.builds(
        DataPlane, cni=st.sampled_from(CNI), certificate_ttl=st.none() | st.sampled_from(["1s", "1h", "10m0.5s"]),
        idle_timeout=st.none() | st.sampled_from(["0s", "1h"]), delta_xds=st.booleans(),
    ),
)  # fmt: skip
refusals = st.none() | st.builds(
    lambda size, message: RefusedSize(
        size=size, resources=size_of(size, Resources()).share.resources, message=message
    ),
    sizes, st.text(max_size=9),
)  # fmt: skip
planes = st.builds(
    lambda size, refused: ControlPlaneStatus(
        size=size, resources=size_of(size, Resources()).share.resources, refused=refused
    ),
    sizes, refusals,
)  # fmt: skip
statuses = st.builds(
    MeshStatus, version=st.one_of(st.none(), versions),
    clusters=st.lists(
        st.builds(ClusterStatus, name=word, control_plane=st.just(ControlPlaneStatus()) | planes), max_size=1
    ),
)  # fmt: skip
meshes = st.builds(MeshInstall, name=st.just("demo"), uid=word, generation=count, spec=specs, status=statuses)
snapshots = st.builds(
    Observed, now=st.just(NOW), mesh=meshes, created=word,
    neighbours=st.lists(st.builds(Neighbour, word, revisions, word, st.booleans()), max_size=2).map(tuple),
    clusters=st.lists(clusters, max_size=2).map(tuple),
)  # fmt: skip


@given(snapshots)
def test_every_snapshot_has_an_answer(observed: Observed) -> None:
    findings = [check(observed) for check in CHECKS]
    for finding in findings:
        assert finding is None or (finding.reason in REASONS and finding.message)
    assert first_finding(observed) == next((each for each in findings if each), None)


@given(snapshots)
def test_a_decision_is_a_function_of_the_snapshot(observed: Observed) -> None:
    desired = decide(observed)
    assert decide(copy.deepcopy(observed)) == desired
    assert bool(desired.finding) or len(desired.control_planes) == len(observed.clusters)
    assert not (desired.finding and desired.control_planes)


# Resizing


@given(clusters.filter(lambda each: each.name), planes, sizes, sizes)
def test_a_resize_ends_at_the_size_that_is_asked_for_or_at_the_former_one(
    cluster: Cluster, before: ControlPlaneStatus, size: Size, now: Size
) -> None:
    """`now` is what istiod's Deployment asks for at this moment: under way, or not begun."""
    istiod = Istiod(
        namespace="istio-system", name="istiod", revision="default", owner="demo", managers=(), size=now,
        resources=size_of(now, Resources()).share.resources,
    )  # fmt: skip
    cluster = replace(cluster, istiods=(istiod,))
    status = MeshStatus(clusters=[ClusterStatus(name=cluster.name, control_plane=before)])
    mesh = MeshInstall(
        name="demo", uid="u", generation=1, status=status,
        spec=MeshSpec(version="1.31.4", control_plane=ControlPlane(size=size)),
    )  # fmt: skip
    decision = decide_size(mesh, cluster, now=NOW)
    assert not decision.nowhere
    assert decision.sizing.size in {size, before.size}
    assert decision.sizing == size_of(decision.sizing.size, Resources())
    if decision.sizing.size is not size:
        assert decision.finding
        assert decision.finding.reason in {"NoNodeLargeEnough", "SizeTakenBack"}
    if before.refused and before.refused.size is size:
        assert (decision.sizing.size, decision.refused) == (before.size, before.refused)
    elif decision.refused:
        assert decision.refused.size is size
        after = before.model_copy(update={"refused": decision.refused})
        again = mesh.model_copy(update={"status": MeshStatus(
            clusters=[ClusterStatus(name=cluster.name, control_plane=after)]
        )})  # fmt: skip
        later = decide_size(again, replace(cluster, troubles=()), now=NOW + dt.timedelta(days=1))
        assert (later.sizing, later.refused) == (decision.sizing, decision.refused)


@given(sizes, st.lists(st.integers(0, 20_000), min_size=1, max_size=5))
def test_auto_never_changes_once_it_is_decided(size: Size, pods: list[int]) -> None:
    istiod = Istiod(namespace="istio-system", name="istiod", revision="default", owner="demo", managers=(), size=size)
    done = ControlPlaneStatus(size=size)
    for before, live in ((ControlPlaneStatus(), istiod), (done, istiod), (done, None)):
        assert {chosen(Size.AUTO, before, live, number) for number in pods} == {size}


@given(clusters, namespaces, revisions, st.one_of(st.none(), count))
def test_health_has_an_answer_to_every_cluster(
    cluster: Cluster, namespace: str, revision: str, replicas: int | None
) -> None:
    names = Names(namespace, revision)
    finding = control_plane_finding(cluster, names, replicas)
    assert finding is None or finding.reason in {"Progressing", "ControlPlaneNotReady"}
    istiod = own_istiod(cluster, names)
    if finding is None:
        assert istiod
        assert istiod.available == istiod.replicas
        assert replicas in (None, istiod.replicas)
    if istiod and replicas == istiod.replicas:  # as many as are asked for are as good as any number
        assert finding == control_plane_finding(cluster, names, None)


@given(clusters, specs)
def test_replicas_are_an_autoscalers_exactly_while_there_is_one_and_else_at_least_the_sizes(
    cluster: Cluster, spec: MeshSpec
) -> None:
    istiod = own_istiod(cluster, Names(spec.namespace, spec.revision))
    size = chosen(spec.control_plane.size, ControlPlaneStatus(), istiod, cluster.enrolled)
    sizing = size_of(size, Resources())
    bounds = bounds_of(spec, sizing, cluster)
    decision = replicas_for(cluster, spec, sizing, bounds)
    assert not (bounds and cluster.autoscaled)
    too_few = bounds is not None and istiod is not None and istiod.replicas < bounds.minimum
    assert (decision.replicas is None) is (cluster.autoscaled or (bounds is not None and not too_few))
    assert decision.replicas is None or decision.replicas >= (bounds.minimum if bounds else sizing.replicas)


@given(st.one_of(versions, st.just("1.31.4")), st.one_of(st.none(), versions), st.booleans())
def test_every_transition_has_an_answer(wanted: str, installed: str | None, untested: bool) -> None:  # noqa: FBT001
    found = objection(wanted, installed, allow_untested=untested)
    assert found is None or wanted in found


# What is read

json_value = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=8,
)
field = st.sampled_from([*(str(each.alias) for each in MeshSpec.model_fields.values()), "nonsense"])


@given(st.dictionaries(field, json_value, max_size=4), json_value)
def test_any_spec_is_read_or_refused_as_ours(spec: Json, status: Any) -> None:
    document = {
        "apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "demo"}, "spec": {"version": "1.31.4", **spec},
        "status": status,
    }  # fmt: skip
    with suppress(InvalidSpec):
        assert MeshInstall.parse(document).name == "demo"


# What is reported

outcomes = st.builds(
    Outcome, created=count, changed=count, deleted=count, unchanged=count, left=st.lists(word, max_size=5),
    objects=st.lists(word, max_size=3), notes=st.lists(word, max_size=2),
)  # fmt: skip


findings = st.none() | st.lists(st.builds(Finding, st.sampled_from(sorted(REASONS)), word), max_size=4).map(tuple)


@given(
    meshes,
    st.lists(clusters, max_size=2, unique_by=lambda each: each.name),
    st.builds(Finding, st.sampled_from(sorted(REASONS)), st.text()),
    outcomes,
    findings,
)
def test_every_attempt_can_be_reported_and_is_read_again(
    mesh: MeshInstall, seen: list[Cluster], told: Finding, outcome: Outcome, found: tuple[Finding, ...] | None
) -> None:
    reason = told.reason
    finding = None if reason == "Installed" else told
    attempt = Attempt(
        mesh=mesh,
        clusters=tuple(seen),
        outcomes={each.name: outcome for each in seen[:1]},
        finding=finding,
        findings={} if found is None else {each.name: found for each in seen[:1]},
    )
    status = report.status_of(attempt, now=NOW)
    said = {each["type"]: each for each in status["conditions"]}
    assert tuple(said) == TYPES
    names = Names(mesh.spec.namespace, mesh.spec.revision)
    seen_of = [each for cluster in seen for each in cluster_findings(cluster, names, replicas=None)]
    known = seen_of if found is None or not seen else found  # nothing was decided, but what runs was seen
    false = {each.reason for each in known} | ({reason} if finding else set())
    for part in PARTS:
        condition = said[part.type]
        match condition["status"]:
            case "True":
                assert condition["reason"] == part.well
            case "False":  # by what was found, and Ready's own word where that is about this part
                assert REASONS[condition["reason"]].part == part.type
                assert condition["reason"] in false
                assert REASONS[reason].part != part.type or condition["reason"] == reason
            case _:
                assert condition["reason"] == NOT_OBSERVED
    for cluster in status["clusters"]:
        assert 0 <= cluster["notReconciled"] <= cluster["objects"]
    after = mesh.model_copy(update={"status": MeshStatus.model_validate(status)})
    assert not report.differs(after, status)
    assert report.transitions(after, status) == []
    turned = report.transitions(mesh, status)[0]
    assert report.event(mesh, turned, now=NOW, reporter="r")["reason"] == reason
