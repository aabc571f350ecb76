"""Whether our CRDs may replace others: Istio's real ones, changed in one place each."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from meshwright.mesh.crds import hindrance
from meshwright.render.templates import istio_crds

Json = dict[str, Any]
Change = Callable[[Json], object]

NAME = "telemetries.telemetry.istio.io"
# A schema with one field of each sort, in version v1 of an otherwise real CRD.
FIELDS: Json = {
    "text": {"type": "string"},
    "count": {"type": "integer"},
    "level": {"type": "string", "enum": ["LOW", "HIGH"]},
    "port": {"x-kubernetes-int-or-string": True},
    "ratio": {"type": "number", "nullable": True},
    "labels": {"type": "object", "additionalProperties": {"type": "string"}},
    "bag": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    "any": {"x-kubernetes-preserve-unknown-fields": True},
    "list": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}},
    "group": {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
}


def crds() -> list[Json]:
    """As they are read from a cluster."""
    live = copy.deepcopy(list(istio_crds()[1]))
    for crd in live:
        crd["spec"]["conversion"] = {"strategy": "None"}
        stored = [version["name"] for version in crd["spec"]["versions"] if version["storage"]]
        crd["status"] = {"storedVersions": stored, "conditions": []}
    return live


def one() -> Json:
    (crd,) = (each for each in crds() if each["metadata"]["name"] == NAME)
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"] = copy.deepcopy(FIELDS)
    return crd


def version(crd: Json, name: str) -> Json:
    return next(each for each in crd["spec"]["versions"] if each["name"] == name)


def field(crd: Json, *path: str) -> Json:
    """The schema of a field of v1's spec."""
    found: Json = version(crd, "v1")["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    for key in path:
        found = found[key]
    return found


def schemas(schema: Json, path: str = "") -> Iterator[tuple[str, Json]]:
    yield path, schema
    for name, below in (schema.get("properties") or {}).items():
        yield from schemas(below, f"{path}.{name}")
    if values := schema.get("additionalProperties"):
        yield from schemas(values, f"{path}.*")
    if items := schema.get("items"):
        yield from schemas(items, f"{path}[]")


def versions_with_schemas(crd: Json) -> Iterator[tuple[str, str, Json]]:
    for each in crd["spec"]["versions"]:
        for path, schema in schemas(each["schema"]["openAPIV3Schema"]):
            yield each["name"], path, schema


def test_istios_own_crds_may_replace_themselves() -> None:
    assert len(istio_crds()[1]) == 15
    assert [hindrance(ours, theirs) for ours, theirs in zip(istio_crds()[1], crds(), strict=True)] == [None] * 15


def test_all_crds_are_compared_in_50_ms() -> None:
    pairs = list(zip(istio_crds()[1], crds(), strict=True))
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        for ours, theirs in pairs:
            hindrance(ours, theirs)
        taken.append(time.perf_counter() - start)
    print(f"15 CRDs: {min(taken) * 1000:.1f} ms")
    assert min(taken) < 0.05


def test_a_field_more_anywhere_in_theirs_is_named() -> None:
    tried = 0
    for ours, theirs in zip(istio_crds()[1], crds(), strict=True):
        for name, path, schema in versions_with_schemas(theirs):
            if "properties" not in schema:
                continue
            schema["properties"]["theirOwn"] = {"type": "string"}
            lack = f", version {name}: {f'{path}.theirOwn'.removeprefix('.')} is missing in ours"
            keeps_it = schema.get("x-kubernetes-preserve-unknown-fields")
            expected = None if keeps_it else f"CustomResourceDefinition {theirs['metadata']['name']}{lack}"
            assert hindrance(ours, theirs) == expected
            del schema["properties"]["theirOwn"]
            tried += 1
    assert tried > 800


def test_a_field_less_anywhere_in_theirs_is_none() -> None:
    tried = 0
    for ours, theirs in zip(istio_crds()[1], crds(), strict=True):
        for _, path, schema in versions_with_schemas(theirs):
            for name in list(schema.get("properties") or ()):
                removed = schema["properties"].pop(name)
                assert hindrance(ours, theirs) is None, f"{path}.{name}"
                schema["properties"][name] = removed
                tried += 1
    assert tried > 2500


# case, what is different in theirs, how the sentence goes on after the CRD's name
HINDRANCES: list[tuple[str, Change, str]] = [
    ("group", lambda crd: crd["spec"].update(group="x.io"), ": group is x.io, and telemetry.istio.io in ours"),
    ("scope", lambda crd: crd["spec"].update(scope="Cluster"), ": scope is Cluster, and Namespaced in ours"),
    ("kind", lambda crd: crd["spec"]["names"].update(kind="T"), ": names.kind is T, and Telemetry in ours"),
    ("plural", lambda crd: crd["spec"]["names"].update(plural="ts"), ": names.plural is ts, and telemetries in ours"),
    ("converted", lambda crd: crd["spec"].update(conversion={"strategy": "Webhook", "webhook": {}}),
     ": its objects are converted by a Webhook, and not at all by ours"),
    ("unpruned", lambda crd: crd["spec"].update(preserveUnknownFields=True),
     ": it keeps unknown fields everywhere, and ours does not"),
    ("storage version", lambda crd: (version(crd, "v1").update(storage=True),
                                     version(crd, "v1alpha1").update(storage=False)),
     ": its objects are stored in version v1, and in v1alpha1 by ours"),
    ("once stored", lambda crd: crd["status"]["storedVersions"].insert(0, "v1alpha0"),
     ", version v1alpha0: objects may be stored in it, and ours does not have it"),
    ("a version more", lambda crd: crd["spec"]["versions"].append(
        {**version(crd, "v1"), "name": "v2"}), ", version v2: ours does not serve it"),
    ("a subresource more", lambda crd: version(crd, "v1")["subresources"].update(scale={"specReplicasPath": ".spec.n"}),
     ", version v1: ours does not have its subresource scale"),
    ("a field more", lambda crd: field(crd).update(extra={"type": "string"}),
     ", version v1: spec.extra is missing in ours"),
    ("a field more in a list", lambda crd: field(crd, "list", "items", "properties").update(b={"type": "string"}),
     ", version v1: spec.list[].b is missing in ours"),
    ("another type", lambda crd: field(crd, "text").update(type="integer"),
     ", version v1: spec.text is integer, and string in ours"),
    ("a wider number", lambda crd: field(crd, "count").update(type="number"),
     ", version v1: spec.count is number, and integer in ours"),
    ("int-or-string", lambda crd: field(crd).update(text={"x-kubernetes-int-or-string": True}),
     ", version v1: spec.text is int-or-string, and string in ours"),
    ("no type", lambda crd: field(crd).update(text={"x-kubernetes-preserve-unknown-fields": True}),
     ", version v1: spec.text is of any type, and string in ours"),
    ("null", lambda crd: field(crd, "text").update(nullable=True), ", version v1: spec.text may be null, and not in"),
    ("a value more", lambda crd: field(crd, "level")["enum"].append("MEDIUM"),
     ", version v1: spec.level may be 'MEDIUM', and not in ours"),
    ("any value", lambda crd: field(crd, "level").pop("enum"),
     ", version v1: spec.level may have any value, and only 2 in ours"),
    ("optional", lambda crd: field(crd, "group").pop("required"),
     ", version v1: spec.group.a may be left out, and not in ours"),
    ("unknown fields", lambda crd: field(crd, "group").update({"x-kubernetes-preserve-unknown-fields": True}),
     ", version v1: spec.group keeps unknown fields, and not in ours"),
    ("an embedded object", lambda crd: field(crd, "group").update({"x-kubernetes-embedded-resource": True}),
     ", version v1: spec.group keeps a whole object, and not in ours"),
    ("a map", lambda crd: field(crd).update(group={"type": "object", "required": ["a"],
                                                   "additionalProperties": {"type": "string"}}),
     ", version v1: spec.group.* is missing in ours"),
    ("a map of anything", lambda crd: field(crd, "labels").update(additionalProperties=True),
     ", version v1: spec.labels.* is of any type, and string in ours"),
    ("a map of numbers", lambda crd: field(crd, "labels").update(additionalProperties={"type": "integer"}),
     ", version v1: spec.labels.* is integer, and string in ours"),
    ("a field beside a map", lambda crd: field(crd).update(labels={"type": "object",
                                                                   "properties": {"a": {"type": "integer"}}}),
     ", version v1: spec.labels.a is integer, and string in ours"),
]  # fmt: skip

HARMLESS: list[tuple[str, Change]] = [
    ("no status yet", lambda crd: crd.pop("status")),
    ("no conversion", lambda crd: crd["spec"].pop("conversion")),
    ("other labels and columns", lambda crd: (crd["metadata"].update(labels={"helm": "x"}),
                                              version(crd, "v1").update(additionalPrinterColumns=[]))),
    ("a version less", lambda crd: crd["spec"]["versions"].remove(version(crd, "v1"))),
    ("a version that is neither served nor stored",
     lambda crd: crd["spec"]["versions"].append({**version(crd, "v1"), "name": "v0", "served": False})),
    ("a version not served", lambda crd: version(crd, "v1").update(served=False)),
    ("no subresource", lambda crd: version(crd, "v1").pop("subresources")),
    ("the fields that every object has", lambda crd: version(crd, "v1")["schema"]["openAPIV3Schema"][
        "properties"].update(apiVersion={"type": "string"}, kind={"type": "string"},
                             metadata={"type": "object", "properties": {"name": {"type": "string"}}})),
    ("a narrower number", lambda crd: field(crd, "ratio").update(type="integer")),
    ("a string for int-or-string", lambda crd: field(crd).update(port={"type": "string"})),
    ("a type for any", lambda crd: field(crd).update(any={"type": "array", "items": {"type": "string"}})),
    ("known fields for unknown ones", lambda crd: field(crd).update(
        bag={"type": "object", "properties": {"a": {"type": "array", "items": {"type": "string", "nullable": True}}}})),
    ("an embedded object for unknown fields",
     lambda crd: field(crd, "bag").update({"x-kubernetes-embedded-resource": True})),
    ("a map of anything for unknown fields",
     lambda crd: field(crd).update(bag={"type": "object", "additionalProperties": True})),
    ("a field for a map", lambda crd: field(crd).update(
        labels={"type": "object", "properties": {"a": {"type": "string"}}})),
    ("never null", lambda crd: field(crd, "ratio").pop("nullable")),
    ("a value less", lambda crd: field(crd, "level")["enum"].pop()),
    ("fewer values", lambda crd: field(crd, "text").update(enum=["a"])),
    ("required", lambda crd: field(crd, "list", "items").update(required=["a"])),
    ("no validation", lambda crd: field(crd, "text").update(pattern="^a$", maxLength=9, format="uri")),
    ("a rule", lambda crd: field(crd, "group").update({"x-kubernetes-validations": [{"rule": "has(self.a)"}]})),
]  # fmt: skip


@pytest.mark.parametrize(("change", "goes_on"), [row[1:] for row in HINDRANCES], ids=[row[0] for row in HINDRANCES])
def test_hindrances(change: Change, goes_on: str) -> None:
    ours, theirs = one(), one()
    change(theirs)
    assert (hindrance(ours, theirs) or "").startswith(f"CustomResourceDefinition {NAME}{goes_on}")


@pytest.mark.parametrize("change", [row[1] for row in HARMLESS], ids=[row[0] for row in HARMLESS])
def test_what_theirs_lacks_is_no_hindrance(change: Change) -> None:
    ours, theirs = one(), one()
    change(theirs)
    assert ours != theirs
    assert hindrance(ours, theirs) is None


def test_a_version_that_ours_no_longer_serves_is_a_hindrance() -> None:
    ours = one()
    version(ours, "v1")["served"] = False
    assert hindrance(ours, one()) == f"CustomResourceDefinition {NAME}, version v1: ours does not serve it"


def test_nothing_is_changed_by_looking() -> None:
    ours, theirs = one(), one()
    hindrance(ours, theirs)
    assert (ours, theirs) == (one(), one())
