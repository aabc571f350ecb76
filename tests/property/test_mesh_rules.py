"""Laws of the rules about what is shared: CRDs, replicas, managed fields, and what istiod leaves behind."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from meshes import istiod
from meshwright.mesh.crds import hindrance
from meshwright.mesh.leftovers import LEADER, LEFTOVERS, ROOT_CERTIFICATE, leftovers
from meshwright.mesh.names import Names
from meshwright.mesh.objects import Key
from meshwright.mesh.ownership import fields_of, owners, owns, restricted
from meshwright.mesh.replicas import AUTOSCALED, declared
from meshwright.render.templates import istio_crds

Json = dict[str, Any]

# CRDs: theirs is ours with any number of harmless changes, and then with one that is not

KEEPS_UNKNOWN = "x-kubernetes-preserve-unknown-fields"

Node = tuple[str, str, Json]  # version, path, schema
Change = Callable[[Json, int], str | None]  # changes a schema; what is named, below its path; None: it does not apply


def nodes(crd: Json) -> list[Node]:
    def walk(version: str, path: str, schema: Json) -> Iterator[Node]:
        yield version, path, schema
        for name in sorted(schema.get("properties") or ()):
            yield from walk(version, f"{path}.{name}", schema["properties"][name])
        for key, step in (("additionalProperties", ".*"), ("items", "[]")):
            if key in schema:
                yield from walk(version, path + step, schema[key])

    return [
        node for each in crd["spec"]["versions"] for node in walk(each["name"], "", each["schema"]["openAPIV3Schema"])
    ]


def without_a_field(schema: Json, pick: int) -> str | None:
    names = sorted(schema.get("properties") or ())
    return str(schema["properties"].pop(names[pick % len(names)])) if names else None


def without_a_value(schema: Json, pick: int) -> str | None:
    values = schema.get("enum")
    return str(values.pop(pick % len(values))) if values and len(values) > 1 else None


def never_null(schema: Json, _pick: int) -> str | None:
    return str(schema.pop("nullable")) if "nullable" in schema else None


def with_another_rule(schema: Json, pick: int) -> str | None:
    schema["x-kubernetes-validations"] = [{"rule": f"self != {pick}"}]
    schema["description"] = f"number {pick}"
    for name in ("pattern", "minimum", "maximum", "maxLength", "oneOf", "anyOf", "format"):
        schema.pop(name, None)
    return ""


def with_all_required(schema: Json, _pick: int) -> str | None:
    schema["required"] = sorted(schema.get("properties") or ())
    return ""


def with_a_field(schema: Json, pick: int) -> str | None:
    if "properties" not in schema or schema.get(KEEPS_UNKNOWN):
        return None
    schema["properties"][f"their{pick}"] = {"type": "string"}
    return f".their{pick} is missing in ours"


def with_another_type(schema: Json, _pick: int) -> str | None:
    if (schema.get("type") or "object") == "object":
        return None
    schema["type"] = "boolean" if schema["type"] != "boolean" else "string"
    return " is "


def with_null(schema: Json, _pick: int) -> str | None:
    if schema.get("nullable"):
        return None
    schema["nullable"] = True
    return " may be null"


def with_a_value(schema: Json, pick: int) -> str | None:
    if "enum" not in schema:
        return None
    schema["enum"].append(f"THEIR_{pick}")
    return f" may be 'THEIR_{pick}'"


def with_unknown_fields(schema: Json, _pick: int) -> str | None:
    if schema.get(KEEPS_UNKNOWN) or schema.get("type") != "object":
        return None
    schema[KEEPS_UNKNOWN] = True
    return " keeps unknown fields"


harmless = st.sampled_from([without_a_field, without_a_value, never_null, with_another_rule, with_all_required])
lossy = st.sampled_from([with_a_field, with_another_type, with_null, with_a_value, with_unknown_fields])
number = st.integers(0, 10**4)
crd_changed_harmlessly = st.tuples(
    st.sampled_from(range(15)), st.lists(st.tuples(harmless, number, number), max_size=12)
)


def changed(index: int, changes: list[tuple[Change, int, int]]) -> tuple[Json, Json]:
    ours = istio_crds()[1][index]
    theirs = json.loads(json.dumps(ours))
    for change, place, pick in changes:
        found = nodes(theirs)
        change(found[place % len(found)][2], pick)
    return ours, theirs


def places_for(change: Change, crd: Json, pick: int) -> list[Node]:
    """Where `change` applies, tried on copies."""
    return [node for node in nodes(crd) if change(copy.deepcopy(node[2]), pick) is not None]


@given(crd_changed_harmlessly)
def test_what_theirs_lacks_never_hinders(case: tuple[int, list[tuple[Change, int, int]]]) -> None:
    assert hindrance(*changed(*case)) is None


@given(crd_changed_harmlessly, lossy, number, number)
def test_whatever_theirs_has_more_is_named(
    case: tuple[int, list[tuple[Change, int, int]]], change: Change, place: int, pick: int
) -> None:
    ours, theirs = changed(*case)
    places = places_for(change, theirs, pick)
    if not places:
        return
    version, path, schema = places[place % len(places)]
    named = f"{path}{change(schema, pick)}".removeprefix(".")
    if not path:
        named = named if named.startswith("their") else f"the object itself{named}"
    expected = f"CustomResourceDefinition {ours['metadata']['name']}, version {version}: {named}"
    assert (hindrance(ours, theirs) or "").startswith(expected)


# Replicas

replicas = st.integers(0, 12)
event = st.one_of(
    st.tuples(st.just("switch"), st.none()),  # the autoscaler comes or goes
    st.tuples(st.just("scale"), replicas),  # by it, or by hand
    st.tuples(st.just("resize"), replicas),  # the MeshInstall's size changes
    st.tuples(st.just("scribble"), st.sampled_from([None, AUTOSCALED, "3/size 2", "9/size 2", "2/size 9", "x"])),
)


@given(replicas, st.lists(event, max_size=30))
def test_an_autoscaler_comes_and_goes_and_replicas_never_go_down_with_it(
    size: int, events: list[tuple[str, Any]]
) -> None:
    live, autoscaled, annotation = size, False, None
    for what, value in events:
        before = live
        match what:
            case "switch":
                autoscaled = not autoscaled
            case "scale":
                live = value
            case "resize":
                size = value
            case "scribble":
                annotation = value
        decision = declared(size=size, live=live, autoscaled=autoscaled, annotation=annotation)
        live = live if decision.replicas is None else decision.replicas
        annotation = decision.annotation
        if what == "switch":
            assert live >= before
        if what == "scale" and not autoscaled:
            assert live == before  # drift
        if not autoscaled:
            assert live >= size
        assert declared(size=size, live=live, autoscaled=autoscaled, annotation=annotation) == decision


@given(replicas, st.none() | replicas, st.booleans(), st.text(max_size=12))
def test_any_text_may_stand_in_the_annotation(
    size: int,
    live: int | None,
    autoscaled: bool,  # noqa: FBT001 - drawn
    text: str,
) -> None:
    decision = declared(size=size, live=live, autoscaled=autoscaled, annotation=text)
    assert (decision.replicas is None) is autoscaled
    assert decision.replicas is None or decision.replicas >= size


# Managed fields

keys = st.sampled_from(["f:a", "f:b", "f:replicas", "f:failurePolicy", 'k:{"name":"x"}', 'k:{"name":"y"}', 'v:"z"'])
tree: st.SearchStrategy[Json] = st.recursive(
    st.just({}),
    lambda below: st.builds(
        lambda owned, fields: {**({".": {}} if owned else {}), **fields},
        st.booleans(),
        st.dictionaries(keys, below, min_size=1, max_size=4),
    ),
    max_leaves=20,
)
manager = st.sampled_from(["birth", "apply"])
entries = st.lists(
    st.fixed_dictionaries(
        {"manager": manager, "operation": st.sampled_from(["Apply", "Update"]), "fieldsV1": tree},
        optional={"subresource": st.just("status")},
    ),
    max_size=5,
)
leaves = st.frozensets(st.sampled_from(["replicas", "failurePolicy", "a"]))


def owned(fields: Json, path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """The set that a fieldsV1 stands for."""
    found = {path} if path and (not fields or "." in fields) else set()
    return found.union(*(owned(node, (*path, key)) for key, node in fields.items() if key != "."))


def is_birth(entry: Json) -> bool:
    return (entry["manager"], "subresource" in entry) == ("birth", False)


@given(entries, leaves)
def test_a_birth_keeps_exactly_the_leaves_and_others_keep_all(before: list[Json], names: frozenset[str]) -> None:
    untouched = copy.deepcopy(before)
    after = restricted(before, manager="birth", leaves=names)
    assert before == untouched
    if after is None:
        after = before
    else:
        assert after != before
    assert restricted(after, manager="birth", leaves=names) is None
    assert [each for each in after if not is_birth(each)] == [each for each in before if not is_birth(each)]
    expected = [
        {path for path in owned(each["fieldsV1"]) if path[-1] in {f"f:{name}" for name in names}}
        for each in before
        if is_birth(each)
    ]
    assert [owned(each["fieldsV1"]) for each in after if is_birth(each)] == [paths for paths in expected if paths]


@given(entries, st.lists(st.sampled_from(["a", "b", "replicas"]), min_size=1, max_size=4).map(tuple))
def test_who_owns_a_field_is_in_the_set(managed: list[Json], path: tuple[str, ...]) -> None:
    live = {"metadata": {"managedFields": managed}}
    member = tuple(f"f:{name}" for name in path)
    having = [each for each in managed if member in owned(each["fieldsV1"])]
    assert owners(live, path) == {each["manager"] for each in having}
    for who in ("birth", "apply", "nobody"):
        assert owns(live, who, path) is any(each["manager"] == who for each in having)
        applied = [each for each in having if (each["manager"], each["operation"]) == (who, "Apply")]
        assert owns(live, who, path, operation="Apply") is bool(applied)
        if member in owned(fields_of(live, who)):
            assert applied


# What istiod leaves behind

PEMS = {
    "ours": "-----BEGIN CERTIFICATE-----\nb3Vycw==\n-----END CERTIFICATE-----\n",
    "theirs": "-----BEGIN CERTIFICATE-----\ndGhlaXJz\n-----END CERTIFICATE-----\n",
}
ROOTS = frozenset({hashlib.sha256(b"ours").hexdigest()})
NAMES = Names("istio-system", "default")
namespaces = st.sampled_from(["istio-system", "shop", "other"])


def thing(row: int, namespace: str, pems: list[str], *, theirs: bool) -> Json:
    """An object of a row's name; with `theirs`, made by somebody else."""
    leftover = LEFTOVERS[row]
    manifest: Json = {
        "apiVersion": leftover.api_version, "kind": leftover.kind,
        "metadata": {"name": leftover.name.format(revision="canary" if theirs else "default")},
    }  # fmt: skip
    if leftover.kind == "GatewayClass":
        return {**manifest, "spec": {"controllerName": "example.org/x" if theirs else "istio.io/x"}}
    manifest["metadata"]["namespace"] = namespace
    if not theirs:
        manifest["metadata"]["annotations"] = {LEADER: "{}"}
    if leftover.name == ROOT_CERTIFICATE:
        manifest["data"] = {"root-cert.pem": "".join(PEMS[each] for each in pems)}
    return manifest


things = st.builds(
    thing,
    st.sampled_from(range(len(LEFTOVERS))) | st.sampled_from([0, 1]),
    namespaces,
    st.lists(st.sampled_from(list(PEMS)), max_size=2),
    theirs=st.booleans(),
)
lives = st.lists(things, max_size=20, unique_by=Key.of)
istiods = st.lists(st.builds(lambda namespace: istiod(namespace=namespace, owner=None), namespaces), max_size=2)


def going(live: list[Json], others: list[Any]) -> list[Json]:
    return leftovers(live, names=NAMES, roots=ROOTS, others=others)


@given(lives, istiods, st.integers(0, 20), st.randoms())
def test_a_removal_that_was_interrupted_goes_on_where_it_was(
    live: list[Json], others: list[Any], done: int, random: Any
) -> None:
    gone = going(live, others)
    left = [each for each in live if each not in gone[:done]]
    random.shuffle(left)
    assert going(left, others) == gone[done:]


@given(lives, istiods, namespaces)
def test_one_more_istiod_never_lets_more_go(live: list[Json], others: list[Any], namespace: str) -> None:
    fewer = going(live, [*others, istiod(namespace=namespace, owner=None)])
    assert [each for each in going(live, others) if each in fewer] == fewer


@given(lives, istiods)
def test_what_goes_is_never_somebody_elses(live: list[Json], others: list[Any]) -> None:
    for each in going(live, others):
        key = Key.of(each)
        if key.kind == "GatewayClass":
            assert not others
            assert each["spec"]["controllerName"].startswith("istio.io/")
        elif key.name == ROOT_CERTIFICATE:
            bundle = each["data"]["root-cert.pem"]
            assert PEMS["ours"] in bundle
            assert PEMS["theirs"] not in bundle or not others
        elif key.name != "istio-ca-crl":
            assert key.namespace == NAMES.namespace
            assert "canary" not in key.name
