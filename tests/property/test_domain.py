"""Laws of the domain: quantities, sizes, merging, and checks that have an answer to everything."""

from __future__ import annotations

import copy
from contextlib import suppress
from fractions import Fraction
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from meshes import NOW
from meshwright.api.conditions import REASONS
from meshwright.api.errors import InvalidSpec
from meshwright.api.meshinstall import API_VERSION, KIND, MeshInstall, MeshSpec, MeshStatus, Resources, Size
from meshwright.cluster.apply import Outcome
from meshwright.controller import report
from meshwright.controller.report import Attempt
from meshwright.mesh import quantity
from meshwright.mesh.checks import CHECKS, first_finding
from meshwright.mesh.findings import Finding
from meshwright.mesh.desired import decide, replicas_for
from meshwright.mesh.health import control_plane_finding, own_istiod
from meshwright.mesh.meshconfig import DEFAULTS, computed, computed_keys, merge, mesh_config, misspelt_keys
from meshwright.mesh.names import Names
from meshwright.mesh.observed import Cluster, Injector, Istiod, Neighbour, Observed, Trouble
from meshwright.mesh.sizing import ROWS, contradictions, size_of
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
    assert abs(quantity.parse(quantity.cpu(cores)) - cores) <= Fraction(1, 2000)


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


@given(st.sampled_from(Size), pair, pair)
def test_what_the_checks_let_pass_never_requests_more_than_its_limit(size: Size, requests: Any, limits: Any) -> None:
    override = resources(requests, limits)
    assume(not contradictions(size, override))
    sizing = size_of(size, override)
    assert quantity.parse(sizing.requests.cpu) <= quantity.parse(sizing.limits.cpu)
    assert quantity.parse(sizing.requests.memory) <= quantity.parse(sizing.limits.memory)
    assert sizing.replicas == ROWS[size].replicas


@given(st.sampled_from(Size), pair)
def test_limits_alone_contradict_nothing_unless_they_are_zero(size: Size, limits: Any) -> None:
    zero = any(each is not None and quantity.parse(each) == 0 for each in limits)
    assert bool(contradictions(size, resources((None, None), limits))) is zero


@given(st.sampled_from(Size), pair, pair)
def test_what_is_set_is_taken_word_for_word(size: Size, requests: Any, limits: Any) -> None:
    sizing = size_of(size, resources(requests, limits))
    for demand, given_values in ((sizing.requests, requests), (sizing.limits, limits)):
        for found, value in zip((demand.cpu, demand.memory), given_values, strict=True):
            assert not value or found == str(value)


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
        assert not twice(merge(DEFAULTS, computed(spec)), found)
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
)  # fmt: skip
injectors = st.builds(
    Injector, name=word, revision=revisions, owner=owner, managers=managers, trusted=st.booleans(),
    tag=st.one_of(st.none(), revisions, word),
)  # fmt: skip
clusters = st.builds(
    Cluster, name=word, kubernetes=word, namespace_terminating=st.booleans(),
    istiods=st.lists(istiods, max_size=3).map(tuple), injectors=st.lists(injectors, max_size=2).map(tuple),
    troubles=st.lists(st.builds(Trouble, word, word, word, word), max_size=2).map(tuple), proxies=count,
    autoscaled=st.booleans(),
)  # fmt: skip
specs = st.builds(
    MeshSpec, version=st.one_of(versions, st.just("1.31.4")), namespace=namespaces, revision=revisions,
    mesh_config=configs, mesh_id=st.none(), mode=st.sampled_from(["Apply", "Plan"]),
    control_plane=st.builds(
        lambda size, requests, limits: {"size": size, "resources": resources(requests, limits)},
        st.sampled_from(Size), pair, pair,
    ),
)  # fmt: skip
statuses = st.builds(MeshStatus, version=st.one_of(st.none(), versions))
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
    decision = replicas_for(cluster, spec)
    assert (decision.replicas is None) is cluster.autoscaled
    assert decision.replicas is None or decision.replicas >= ROWS[spec.control_plane.size].replicas


@given(st.one_of(versions, st.just("1.31.4")), st.one_of(st.none(), versions))
def test_every_transition_has_an_answer(wanted: str, installed: str | None) -> None:
    found = objection(wanted, installed)
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


@given(
    meshes,
    st.lists(clusters, max_size=2, unique_by=lambda each: each.name),
    st.sampled_from(sorted(REASONS)),
    st.text(),
    outcomes,
)
def test_every_attempt_can_be_reported_and_is_read_again(
    mesh: MeshInstall, seen: list[Cluster], reason: str, message: str, outcome: Outcome
) -> None:
    finding = None if reason == "Installed" else Finding(reason, message)
    attempt = Attempt(
        mesh=mesh, clusters=tuple(seen), outcomes={each.name: outcome for each in seen[:1]}, finding=finding
    )
    status = report.status_of(attempt, now=NOW)
    for cluster in status["clusters"]:
        assert 0 <= cluster["notReconciled"] <= cluster["objects"]
    after = mesh.model_copy(update={"status": MeshStatus.model_validate(status)})
    assert not report.differs(after, status)
    assert report.transition(after, status) is None
    turned = report.transition(mesh, status)
    assert turned is not None
    assert report.event(mesh, turned, now=NOW, reporter="r")["reason"] == reason
