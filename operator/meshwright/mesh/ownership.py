"""Whose field is it: what an object's `metadata.managedFields` say.

`fieldsV1` is a tree of keys: `f:name` is a field, `k:{…}` and `v:…` are items of a list, and `.` says that the field or
item itself is owned, not only something in it. A leaf (`{}`) is owned.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from meshwright.mesh.objects import Manifest

Fields = dict[str, Any]
Entry = dict[str, Any]

APPLY, UPDATE = "Apply", "Update"
ITSELF = "."


def fields_of(manifest: Manifest, manager: str) -> Fields:
    """The fields that `manager` applied (not those of a subresource), as fieldsV1; empty when there are none."""
    return next((_fields(entry) for entry in _entries(manifest, manager, APPLY)), {})


def owns(manifest: Manifest, manager: str, path: tuple[str, ...], *, operation: str | None = None) -> bool:
    """Whether `manager` owns the plain field at `path`, such as ("spec", "replicas"), itself.

    Of its entries, those of `operation` count; without one all of them, and those of subresources too: an autoscaler
    writes `replicas` through the subresource `scale`.
    """
    entries = (
        entry
        for entry in manifest["metadata"].get("managedFields") or ()
        if entry.get("manager") == manager and operation in (None, entry.get("operation"))
    )
    return any(_has(_fields(entry), path) for entry in entries)


def owners(manifest: Manifest, path: tuple[str, ...]) -> frozenset[str]:
    """The managers that own the plain field at `path`, by whatever operation."""
    return frozenset(
        entry.get("manager", "")
        for entry in manifest["metadata"].get("managedFields") or ()
        if _has(_fields(entry), path)
    )


def restricted(managed_fields: list[Entry], *, manager: str, leaves: frozenset[str]) -> list[Entry] | None:
    """Managed fields in which `manager` owns the fields that are called as one of `leaves`, and no other.

    This gives back what an object's birth by POST took, and what was held for an autoscaler that is gone. An entry that
    owns nothing any more is gone. None when nothing has to change. An empty list means that nobody would own anything:
    the API server ignores it, so there must be another manager's entry already.
    """
    kept: list[Entry] = []
    for entry in managed_fields:
        if not (_is_of(entry, manager, UPDATE) or _is_of(entry, manager, APPLY)):
            kept.append(entry)
        elif fields := _only(_fields(entry), frozenset(f"f:{leaf}" for leaf in leaves)):
            kept.append({**entry, "fieldsV1": fields})
    return None if kept == managed_fields else kept


def _entries(manifest: Manifest, manager: str, operation: str) -> Iterator[Entry]:
    entries: list[Entry] = manifest["metadata"].get("managedFields") or []
    return (entry for entry in entries if _is_of(entry, manager, operation))


def _is_of(entry: Entry, manager: str, operation: str) -> bool:
    return entry.get("manager") == manager and entry.get("operation") == operation and not entry.get("subresource")


def _fields(entry: Entry) -> Fields:
    fields: Fields = entry.get("fieldsV1") or {}
    return fields


def _has(fields: Fields, path: tuple[str, ...]) -> bool:
    node: Fields | None = fields
    for name in path:
        node = node.get(f"f:{name}") if node else None
    return node is not None and _itself(node)


def _itself(node: Fields) -> bool:
    return not node or ITSELF in node


def _only(fields: Fields, keys: frozenset[str]) -> Fields:
    """The part of the tree that owns fields with one of these keys; the way to them only as far as it is needed."""
    kept: Fields = {}
    for key, node in fields.items():
        below = _only(node, keys)
        if key in keys and _itself(node):
            kept[key] = {ITSELF: {}, **below} if below else {}
        elif below:
            kept[key] = below
    return kept
