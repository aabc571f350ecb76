"""The CRD: what the API server needs of it, and what people read in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from meshes import REPOSITORY
from meshwright.api.crd import COLUMNS, definition, root_schema
from meshwright.api.meshinstall import (
    COMPUTED_ENV,
    DNS_LABEL,
    GROUP,
    KIND,
    PLURAL,
    VERSION,
    ControlPlane,
    MeshSpec,
    MeshStatus,
)

Json = dict[str, Any]

STORED = REPOSITORY / "crds" / f"{PLURAL}.{GROUP}.yaml"
SIZE_LIMIT = 100_000  # bytes of JSON; etcd takes 1.5 MB, but everybody's kubectl reads it


def schemas(node: Json, path: str = "") -> Iterator[tuple[str, Json]]:
    """Every schema of the tree with its path, as a person would write the path."""
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from schemas(child, f"{path}.{name}".removeprefix("."))
    if "items" in node:
        yield from schemas(node["items"], f"{path}[]")
    if isinstance(node.get("additionalProperties"), dict):
        yield from schemas(node["additionalProperties"], f"{path}.*")


def at(path: str) -> Json:
    return dict(schemas(root_schema()))[path]


def test_the_stored_definition_is_what_the_classes_generate() -> None:
    assert yaml.safe_load(STORED.read_text()) == definition(), "run: make generate"


def test_the_definition_is_small() -> None:
    assert len(json.dumps(definition())) < SIZE_LIMIT


def test_head_and_names() -> None:
    crd = definition()
    assert crd["metadata"]["name"] == f"{PLURAL}.{GROUP}"
    assert crd["spec"]["scope"] == "Cluster"
    assert crd["spec"]["names"]["kind"] == KIND
    assert crd["spec"]["names"]["shortNames"] == ["mesh"]
    (version,) = crd["spec"]["versions"]
    assert (version["name"], version["served"], version["storage"]) == (VERSION, True, True)
    assert version["subresources"] == {"status": {}}


@pytest.mark.parametrize("word", ["$ref", "$defs", "anyOf", "allOf", "oneOf", "title", "nullable", "const", "not"])
def test_the_schema_is_structural(word: str) -> None:
    found = [path for path, node in schemas(root_schema()) if word in node]
    assert found == []


def test_no_null_and_a_type_everywhere() -> None:
    for path, node in schemas(root_schema()):
        assert node.get("type") != "null", path
        assert node.get("default", ...) is not None, path
        assert "type" in node or node.get("x-kubernetes-int-or-string"), path


def test_every_field_says_what_it_is() -> None:
    for path, node in schemas(root_schema()):
        for name, child in node.get("properties", {}).items():
            if (path, name) != ("", "metadata"):
                assert len(child.get("description", "")) > 10, f"{path}.{name}"
                assert "\n" not in child["description"], f"{path}.{name}"


def test_closed_but_where_the_specification_is_free_form() -> None:
    open_ended = [path for path, node in schemas(root_schema()) if node.get("x-kubernetes-preserve-unknown-fields")]
    assert open_ended == ["spec.meshConfig"]


def test_defaults_stand_on_every_level_so_that_the_api_server_fills_them() -> None:
    for path in ("spec.controlPlane", "spec.controlPlane.image", "spec.controlPlane.resources", "spec.meshConfig"):
        assert at(path)["default"] == {}, path


DEFAULTS = {
    "clusterName": "primary", "namespace": "istio-system", "revision": "default", "trustDomain": "cluster.local",
    "mtls": "Permissive", "mode": "Apply",
}  # fmt: skip


@pytest.mark.parametrize(("field", "value"), DEFAULTS.items())
def test_defaults_of_the_schema_are_those_of_python(field: str, value: str) -> None:
    assert at(f"spec.{field}")["default"] == value
    assert MeshSpec(version="1.31.4").model_dump(mode="json", by_alias=True)[field] == value


def test_only_the_version_is_required() -> None:
    assert at("spec")["required"] == ["version"]
    assert root_schema()["required"] == ["spec"]


@pytest.mark.parametrize("field", ["clusterName", "namespace", "revision", "meshID", "trustDomain"])
def test_a_field_that_says_immutable_has_a_rule_and_the_other_way_round(field: str) -> None:
    immutable = [
        rule["message"].split()[0] for rule in at("spec")["x-kubernetes-validations"] if "immutable" in rule["message"]
    ]
    assert field in immutable
    said = [name for name, node in at("spec")["properties"].items() if "Immutable." in node["description"]]
    assert sorted(immutable) == sorted(said)
    (message,) = [
        each["message"] for each in at("spec")["x-kubernetes-validations"] if each["message"].startswith(f"{field} is")
    ]
    assert message.endswith(": delete the MeshInstall and create another one, of another name, to change it")


def test_every_rule_says_something_to_the_person() -> None:
    for path, node in schemas(root_schema()):
        for rule in node.get("x-kubernetes-validations", ()):
            assert len(rule["message"]) > 20, path


def test_the_rule_on_environment_variables_names_all_that_are_computed() -> None:
    rules = at("spec.controlPlane.env")["x-kubernetes-validations"]
    assert all(name in rule for rule in [rules[1]["rule"], rules[1]["message"]] for name in COMPUTED_ENV)


def test_every_string_that_a_person_writes_is_bounded() -> None:
    """CEL's cost budget is reckoned with the longest value that the schema admits."""
    for path, node in schemas(at("spec")):
        if node.get("type") == "string":
            assert "maxLength" in node or "enum" in node or CHOICE.fullmatch(node["pattern"]), path


CHOICE = re.compile(r"\^\([A-Za-z]+(\|[A-Za-z]+)+\)\$")  # one of several words


def test_the_columns_read_fields_that_exist() -> None:
    paths = {path for path, _ in schemas(root_schema())}
    for name, kind, path, _ in COLUMNS:
        if path.startswith(".metadata"):
            continue
        plain = path.removeprefix(".").replace('[?(@.type=="Ready")]', "[]").replace("[0]", "[]")
        assert plain in paths, name
        assert kind in {"string", "integer"}, name


def test_columns_that_people_read_first_are_few_and_the_message_is_wide() -> None:
    assert [name for name, _, _, priority in COLUMNS if priority] == ["Message"]
    assert len(COLUMNS) <= 8


def test_lists_of_the_status_merge_by_their_key() -> None:
    assert at("status.conditions")["x-kubernetes-list-map-keys"] == ["type"]
    assert at("status.clusters")["x-kubernetes-list-map-keys"] == ["name"]


def test_quantities_are_numbers_or_text() -> None:
    for kind in ("requests", "limits"):
        for name in ("cpu", "memory"):
            node = at(f"spec.controlPlane.resources.{kind}.{name}")
            assert node["x-kubernetes-int-or-string"] is True
            assert "type" not in node


def test_labels_are_dns_labels() -> None:
    assert {at(f"spec.{field}")["pattern"] for field in ("namespace", "revision", "clusterName")} == {DNS_LABEL}


def test_descriptions_are_the_docstrings_of_the_classes() -> None:
    for model, path in ((MeshSpec, "spec"), (ControlPlane, "spec.controlPlane"), (MeshStatus, "status")):
        for field in model.model_fields.values():
            assert field.description
            assert at(f"{path}.{field.alias}")["description"] == " ".join(field.description.split())
