"""The leaves of an object: what we own of it, what others do, and how somebody might change each.

A leaf is known by its keys in `fieldsV1`: `f:name` is a field, `k:{…}` and `v:…` are items of a list, and a last `.` is
the item itself.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from api.world import Json

Leaf = tuple[str, ...]
ITSELF = "."
MISSING = object()


def owned_leaves(item: Json, manager: str = "meshwright") -> list[Leaf]:
    return list(_leaves(fields_of(item, manager)))


def fields_of(item: Json, manager: str) -> Json:
    entries = item["metadata"]["managedFields"]
    return next(
        (each["fieldsV1"] for each in entries if (each["manager"], each["operation"]) == (manager, "Apply")), {}
    )


def _leaves(fields: Json, at: Leaf = ()) -> Iterator[Leaf]:
    for key, below in fields.items():
        if key == ITSELF or not below:
            yield (*at, key)
        else:
            yield from _leaves(below, (*at, key))


def foreign_leaves(item: Json, manager: str = "meshwright") -> list[Leaf]:
    """Every value that is there and that `manager` does not own; items of lists that nobody keys by their index."""
    item = {name: value for name, value in item.items() if name not in ("apiVersion", "kind", "status")}
    return [leaf for leaf in _foreign(item, fields_of(item, manager)) if not _is_the_servers(leaf)]


def _foreign(value: Any, fields: Json, at: Leaf = ()) -> Iterator[Leaf]:
    if isinstance(value, dict):
        steps = [(f"f:{name}", below) for name, below in value.items()]
    elif isinstance(value, list):
        steps = [(_key_of(item, index, fields), item) for index, item in enumerate(value)]
    else:
        yield at
        return
    for key, below in steps:
        if fields.get(key) == {}:
            continue  # ours, with all that is in it
        yield from _foreign(below, fields.get(key, {}), (*at, key))


def _key_of(item: Any, index: int, fields: Json) -> str:
    """As `fieldsV1` has it, where we own something in the item; else its index."""
    return next((key for key in fields if _is_meant(item, key)), f"i:{index}")


def _is_the_servers(leaf: Leaf) -> bool:
    """Metadata that nobody writes by hand."""
    return leaf[0] == "f:metadata" and leaf[1] not in ("f:labels", "f:annotations")


def _is_meant(item: Any, key: str) -> bool:
    kind, _, text = key.partition(":")
    if kind == "k":
        keys = json.loads(text)
        return isinstance(item, dict) and all(item.get(name) == value for name, value in keys.items())
    return bool(kind == "v" and item == json.loads(text))


# -- values


def value_of(item: Any, leaf: Leaf) -> Any:
    """What is there, or MISSING."""
    for key in leaf:
        if key == ITSELF:
            return item
        place = _place(item, key)
        if place is None:
            return MISSING
        item = item[place]
    return item


def _place(value: Any, key: str) -> Any:
    """Where in a map or a list a key leads; None when it leads nowhere."""
    kind, _, text = key.partition(":")
    if kind == "f":
        return text if isinstance(value, dict) and text in value else None
    if not isinstance(value, list):
        return None
    if kind == "i":
        return int(text) if int(text) < len(value) else None
    return next((index for index, item in enumerate(value) if _is_meant(item, key)), None)


def changed(item: Json, leaf: Leaf, value: Any) -> Json | None:
    """A copy with another value in a leaf, or without it (MISSING); None when the leaf is not there."""
    item = copy.deepcopy(item)
    way = leaf[:-1] if leaf[-1] == ITSELF else leaf
    parent = value_of(item, way[:-1])
    place = None if parent is MISSING else _place(parent, way[-1])
    if place is None and value is not MISSING and isinstance(parent, dict) and way[-1].startswith("f:"):
        place = way[-1].removeprefix("f:")  # an empty value is left out by the API server
    if place is None:
        return None
    if value is MISSING:
        del parent[place]
    else:
        parent[place] = value
    return item


WORDS = (
    "Always", "Never", "Ignore", "Fail", "UDP", "DISABLE", "PERMISSIVE", "None", "NoneOnDryRun", "Exact", "IfNeeded",
    "Cluster", "Local", "Default", "IfHealthyBudget", "250m", "50%", "1", "FallbackToLogsOnError", "HTTPS", "ClientIP",
    "Namespaced", "NodePort", "PreferDualStack", "cacerts", "local-certs", "metadata.uid", "limits.memory",
)  # fmt: skip


def other_values(value: Any) -> list[Any]:
    """What somebody might write instead; most fields take one of them."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1, 1]
    if isinstance(value, str):
        return [each for each in (f"{value}x", f"x{value}", *WORDS) if each != value]
    if isinstance(value, list):
        return [each for each in (value[:-1], [*value, "theirs"], value[1:], []) if each != value]
    if isinstance(value, dict):
        inside = [{**value, name: other} for name, below in value.items() for other in other_values(below)]
        return [{**value, "example": "theirs"}, {}, *inside]
    return ["x"]
