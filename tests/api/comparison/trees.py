"""Two sets of objects, compared leaf by leaf.

A path is that of JSONPath, but items of a list go by what they are called: `spec.containers[discovery].image`.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import yaml
from kubernetes.utils.quantity import parse_quantity

Json = dict[str, Any]
Changes = dict[str, str]  # path → `theirs → ours`

# By which field an item of a list is known, best first.
CALLED_BY = ("mountPath", "name", "key", "topologyKey", "path", "containerPort", "port", "type", "effect", "kind")
ORDERED = ("args", "command")
EMBEDDED = ("config", "mesh", "meshNetworks", "values")  # documents in the data of ConfigMaps
LONG = 60
DIGEST = re.compile(r"[0-9a-f]{16,64}")


class _Nothing:
    def __repr__(self) -> str:
        return "nothing"


NOTHING = _Nothing()


def compare(theirs: Iterable[Json], ours: Iterable[Json], counterparts: dict[str, str]) -> dict[str, Changes]:
    """What differs, by object. A `counterpart` of theirs is compared with an object of ours of another name."""
    left = {counterparts.get(address(each), address(each)): plain(each) for each in theirs}
    right = {address(each): plain(each) for each in ours}
    found = {}
    for key in left.keys() | right.keys():
        if key in left and key in right:
            changes = dict(walk("", left[key], right[key]))
        else:
            changes = {"$": "the object → nothing" if key in left else "nothing → the object"}
        if changes:
            found[key] = changes
    return found


def address(manifest: Json) -> str:
    """`Deployment istio-system/istiod`; without a namespace, `ClusterRole istio-cni`."""
    metadata = manifest["metadata"]
    place = f"{metadata['namespace']}/" if metadata.get("namespace") else ""
    return f"{manifest['kind']} {place}{metadata['name']}"


def plain(manifest: Json) -> Json:
    """The object as it is compared: documents within read, rules of roles as what they grant, nulls left out."""
    tree: Json = _without_nulls(manifest)
    for key, text in tree.get("data", {}).items() if tree["kind"] == "ConfigMap" else ():
        if key in EMBEDDED:
            tree["data"][key] = _without_nulls(yaml.load(text, yaml.CSafeLoader))
    if tree["kind"] in ("Role", "ClusterRole"):
        tree["rules"] = by_resource(tree["rules"])
    return tree


def by_resource(rules: list[Json]) -> dict[str, str]:
    """Rules of a role, whatever their order and grouping, as `group/resource` or `group/resource/name` → verbs."""
    verbs: dict[str, set[str]] = defaultdict(set)
    for rule in rules:
        for group in rule.get("apiGroups", ()):
            for resource in rule["resources"]:
                for name in rule.get("resourceNames") or [""]:
                    verbs["/".join(filter(None, (group or "core", resource, name)))] |= set(rule["verbs"])
    return {key: " ".join(sorted(value)) for key, value in verbs.items()}


def walk(path: str, theirs: Any, ours: Any) -> Iterator[tuple[str, str]]:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted(theirs.keys() | ours.keys()):
            yield from walk(_below(path, key), theirs.get(key, NOTHING), ours.get(key, NOTHING))
    elif isinstance(theirs, list) and isinstance(ours, list) and (called := _called_by(theirs, ours)):
        left, right = ({each[called]: each for each in items} for items in (theirs, ours))
        for name in sorted(left.keys() | right.keys(), key=str):
            yield from walk(f"{path}[{name}]", left.get(name, NOTHING), right.get(name, NOTHING))
    elif _objects(theirs) and _objects(ours) and len(theirs) == len(ours):
        for number, (left_item, right_item) in enumerate(zip(theirs, ours, strict=True)):
            yield from walk(f"{path}[{number}]", left_item, right_item)
    elif not _same(path, theirs, ours):
        yield path, f"{_shown(theirs)} → {_shown(ours)}"


def _below(path: str, key: str) -> str:
    if "." in key or "/" in key:
        return f'{path}["{key}"]'
    return f"{path}.{key}" if path else key


def _called_by(theirs: list[Any], ours: list[Any]) -> str | None:
    """The field that tells the items of both lists apart, if they are objects and have one."""

    def tells_apart(field: str, items: list[Json]) -> bool:
        return all(field in each for each in items) and len({str(each[field]) for each in items}) == len(items)

    if not (_objects(theirs) and _objects(ours)):
        return None
    return next((field for field in CALLED_BY if tells_apart(field, theirs) and tells_apart(field, ours)), None)


def _objects(items: Any) -> bool:
    return isinstance(items, list) and bool(items) and all(isinstance(each, dict) for each in items)


def _same(path: str, theirs: Any, ours: Any) -> bool:
    if NOTHING not in (theirs, ours) and (".limits." in path or ".requests." in path):
        return bool(parse_quantity(theirs) == parse_quantity(ours))
    if isinstance(theirs, list) and isinstance(ours, list) and not path.endswith(ORDERED):
        return sorted(map(_shown, theirs)) == sorted(map(_shown, ours))
    return bool(theirs == ours)


def _shown(value: Any) -> str:
    """JSON in one line; of a long text or a digest only that it is one."""
    if value is NOTHING:
        return repr(value)
    if isinstance(value, str):
        if DIGEST.fullmatch(value):
            return "a digest"
        return "a text" if "\n" in value or len(value) > LONG else json.dumps(value, ensure_ascii=False)
    return json.dumps(value, sort_keys=True)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _without_nulls(each) for key, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value
