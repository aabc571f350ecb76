"""The CustomResourceDefinitions, generated from the typed classes (`make generate` writes it to `crds/`)."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from meshwright.api import meshaction
from meshwright.api.meshaction import ActionSpec, ActionStatus
from meshwright.api.meshinstall import GROUP, KIND, PLURAL, VERSION, MeshSpec, MeshStatus
from meshwright.api.model import rules

COLUMNS = (
    # name, type, JSON path, priority (1: only with -o wide)
    ("Version", "string", ".spec.version", 0),
    ("Size", "string", ".status.clusters[0].controlPlane.size", 0),
    ("Ready", "string", '.status.conditions[?(@.type=="Ready")].status', 0),
    ("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason', 0),
    ("Proxies", "integer", ".status.proxies", 0),
    ("Clusters", "string", ".status.clustersReady", 0),
    ("Age", "date", ".metadata.creationTimestamp", 0),
    ("Message", "string", '.status.conditions[?(@.type=="Ready")].message', 1),
)


# Compared with what runs and not with the last spec, so that a version that was refused can be taken back.
MINOR_STEP = (
    "!has(self.status) || !has(self.status.version) || ("
    "self.spec.version.split('.')[0] == self.status.version.split('.')[0]"
    " && int(self.spec.version.split('.')[1]) - int(self.status.version.split('.')[1]) in [0, 1])"
)


ACTION_COLUMNS = (
    ("Mesh", "string", ".spec.mesh", 0),
    ("Cluster", "string", ".spec.cluster", 0),
    ("Action", "string", ".spec.action", 0),
    ("Mode", "string", ".spec.mode", 0),
    ("Phase", "string", ".status.phase", 0),
    ("Age", "date", ".metadata.creationTimestamp", 0),
    ("Reason", "string", ".spec.reason", 1),
    ("Message", "string", ".status.message", 1),
)


def definition() -> dict[str, Any]:
    """The CRD of MeshInstall as a dict."""
    return _definition(KIND, PLURAL, ["mesh"], COLUMNS, root_schema())


def action_definition() -> dict[str, Any]:
    """The CRD of MeshAction."""
    spec = schema_of(ActionSpec) | {"description": "What was decided."}
    status = schema_of(ActionStatus) | {"description": "How far it came, written by the operator."}
    schema = {
        "description": "A scaling action of Meshwright: written down before it is carried out, and kept.",
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": "`meshwright.dev/v1alpha1`."},
            "kind": {"type": "string", "description": "`MeshAction`."},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status,
        },
    }
    return _definition(meshaction.KIND, meshaction.PLURAL, [], ACTION_COLUMNS, schema)


Columns = tuple[tuple[str, str, str, int], ...]


def _definition(kind: str, plural: str, short: list[str], columns: Columns, schema: dict[str, Any]) -> dict[str, Any]:
    """One served and stored version, cluster-scoped, status subresource, structural schema."""
    names = {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Cluster",
            "names": {**names, **({"shortNames": short} if short else {}), "categories": ["istio"]},
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        {"name": name, "type": kind, "jsonPath": path} | ({"priority": priority} if priority else {})
                        for name, kind, path, priority in columns
                    ],
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


def root_schema() -> dict[str, Any]:
    spec = schema_of(MeshSpec) | {"description": "What the mesh should be."}
    status = schema_of(MeshStatus) | {"description": "What the mesh is, written by the operator."}
    return {
        "description": "An Istio service mesh: its control plane, trust and sidecar injection, kept as declared.",
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": "`meshwright.dev/v1alpha1`."},
            "kind": {"type": "string", "description": "`MeshInstall`."},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status,
        },
        **rules(
            (
                "self.metadata.name.size() <= 63 && !self.metadata.name.contains('.')",
                "the name of a mesh becomes a label: use at most 63 characters, and no dots",
            ),
            (
                MINOR_STEP,
                (
                    "spec.version goes from the version that runs (status.version) to another patch of the same minor,"
                    " or to the next minor: go one minor at a time"
                ),
            ),
        ),
    }


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """A model's structural schema: no references, no nulls, no titles, a default wherever Python has one."""
    document = model.model_json_schema(by_alias=True)
    return structural(document, document.get("$defs", {}))


DROPPED = ("title", "$defs")


def structural(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """A JSON schema as pydantic writes it, in the form that Kubernetes accepts."""
    if "$ref" in node:
        target = definitions[node["$ref"].removeprefix("#/$defs/")]
        return structural({**target, **without(node, "$ref")}, definitions)
    if node.get("x-kubernetes-int-or-string"):
        return without(node, "anyOf", "title", "default", "maxLength")
    if "anyOf" in node:  # an optional field: structural schemas have no null, leaving the field out is enough
        present = next(choice for choice in node["anyOf"] if choice.get("type") != "null")
        return structural({**present, **without(node, "anyOf", "default")}, definitions)
    out = {key: adapted(key, value, definitions) for key, value in node.items() if key not in DROPPED}
    if isinstance(out.get("additionalProperties"), bool):
        del out["additionalProperties"]  # whether unknown fields stay is x-kubernetes-preserve-unknown-fields' to say
    return out


def adapted(key: str, value: Any, definitions: dict[str, Any]) -> Any:
    match key, value:
        case "properties", dict():
            return {name: structural(child, definitions) for name, child in value.items()}
        case "items" | "additionalProperties", dict():
            return structural(value, definitions)
        case "description", str():
            return " ".join(value.split())
        case "default", dict():
            # Nested defaults are filled only below an object that is there, so `{}` is the default of each object.
            return {}
    return value


def without(node: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in node.items() if key not in keys}
