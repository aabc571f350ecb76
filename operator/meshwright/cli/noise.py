"""Objects without what nobody means when they ask what changes; and where two of them differ."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from meshwright.mesh.objects import Manifest

KEPT_BY_THE_SERVER = (
    "creationTimestamp", "deletionGracePeriodSeconds", "generation", "managedFields", "resourceVersion", "selfLink",
    "uid",
)  # fmt: skip
NAMES = ("name", "containerPort", "port", "type", "key", "topologyKey")  # by what items of a list are told apart


def bare(manifest: Manifest | None) -> Manifest | None:
    """What somebody declared of an object: without status and the server's own metadata, and no data of a Secret."""
    if manifest is None:
        return None
    metadata = {name: value for name, value in manifest["metadata"].items() if name not in KEPT_BY_THE_SERVER}
    found = {name: value for name, value in manifest.items() if name != "status"} | {"metadata": metadata}
    if found["kind"] == "Secret":
        for part in ("data", "stringData"):
            found |= {part: dict.fromkeys(found[part], "(not shown)")} if found.get(part) else {}
    head = {name: found.pop(name) for name in ("apiVersion", "kind", "metadata")}
    return {**head, **dict(sorted(found.items()))}


def paths(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """Where two values differ, as `spec.template.spec.containers[discovery].image`; a part that comes or goes once."""
    if before == after:
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for name in dict.fromkeys([*before, *after]):
            step = f"[{name}]" if "." in name or "/" in name else f".{name}"
            yield from paths(before.get(name), after.get(name), f"{path}{step}".lstrip("."))
    elif isinstance(before, list) and isinstance(after, list) and (pairs := _paired(before, after)):
        for name, (one, other) in pairs.items():
            yield from paths(one, other, f"{path}[{name}]")
    elif isinstance(before, str) and isinstance(after, str) and "\n" in before + after:
        lines = difflib.ndiff(before.splitlines(), after.splitlines())
        yield f"{path} ({sum(line[:1] in '+-' for line in lines)} lines)"
    else:
        yield path


def _paired(before: list[Any], after: list[Any]) -> dict[str, tuple[Any, Any]] | None:
    """Items of the same name side by side; None when they have none."""
    for name in NAMES:
        if all(isinstance(each, dict) and name in each for each in (*before, *after)):
            sides = [{str(each[name]): each for each in side} for side in (before, after)]
            if [len(side) for side in sides] == [len(before), len(after)]:
                return {
                    each: (sides[0].get(each), sides[1].get(each)) for each in dict.fromkeys([*sides[0], *sides[1]])
                }
    return None
