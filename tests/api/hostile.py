"""Texts that try to become more than a value, and how a document is judged that was made with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]

MARK = "h0stile"
HOSTILE = [
    f'{MARK}"',
    f"{MARK}'",
    f"{MARK}\n",
    f"{MARK}\n    privileged: true",
    f"{MARK}\n    securityContext:\n      privileged: true\n",
    f'{MARK}"\n    securityContext: {{privileged: true}}\n    image: "x',
    f"{MARK}\r\n  hostNetwork: true",
    f"{MARK}\n---\nspec: {{hostPID: true}}",
    f"{MARK}\u2028  hostNetwork: true\u0085  hostPID: true",
    f'{MARK}", privileged: true}}',
    f'{MARK}"}}], "hostNetwork": true, "x": [{{"y": "',
    f"{MARK}}}",
    f"{MARK}{{{{ .Values }}}}",
    f'{MARK}{{{{ fail "x" }}}}',
    f"{MARK}: &a [*a]",
    f"{MARK} #",
    f"{MARK}\\",
    f"{MARK}\t!!binary |",
    f"{MARK}\x00\x07\x7f\ufeff\ufffe",
    f"{MARK} --privileged",
    f"${{{MARK}}}$(POD_NAME)`id`",
    f"<{MARK}>&amp;",
    f"{MARK}%s%!d%",
]


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every scalar and every empty list or object of a JSON document, by path."""
    entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    children = [leaf for key, child in entries for leaf in leaves(child, f"{path}/{key}")]
    yield from children or [(path, node)]


def differ_in_values_alone(found: Json, expected: Json) -> bool:
    """That both have the same fields, and what differs are strings with MARK in them."""
    left, right = dict(leaves(found)), dict(leaves(expected))
    changed = [value for path, value in left.items() if value != right.get(path)]
    return left.keys() == right.keys() and all(isinstance(value, str) and MARK in value for value in changed)
