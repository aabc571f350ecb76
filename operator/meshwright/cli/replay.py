"""`kubectl mesh replay`: makes recorded scaling decisions again, and says whether they come out the same."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from difflib import unified_diff
from pathlib import Path
from typing import Any

import yaml

from meshwright.api.errors import InvalidSpec
from meshwright.api.meshaction import KIND
from meshwright.cli.output import document
from meshwright.cli.terminal import Terminal, Tone
from meshwright.mesh.record import replay

SAME, DIFFERENT = 0, 2


def run(file: str, *, output: str, terminal: Terminal) -> int:
    found = []
    for name, record in records(file):
        recorded, now = replay(record)
        found.append((name, recorded, now))
    if output != "text":
        rows = [{"name": name, "same": recorded == now, "decision": now} for name, recorded, now in found]
        print(document(rows, output), end="")
    else:
        for name, recorded, now in found:
            print("\n".join(lines(name, recorded, now, terminal)))
    return SAME if all(recorded == now for _, recorded, now in found) else DIFFERENT


def lines(name: str, recorded: str, now: str, terminal: Terminal) -> Iterator[str]:
    if recorded == now:
        yield f"{terminal.mark(Tone.GOOD)} {name}: the same decision, byte for byte ({len(now)} bytes)"
        return
    yield f"{terminal.mark(Tone.BAD)} {name}: another decision"
    yield from unified_diff(recorded.split(","), now.split(","), "recorded", "now", lineterm="", n=1)


def records(file: str) -> Iterator[tuple[str, str]]:
    """Name and record of each MeshAction in a file, or in a list in it. Raises InvalidSpec."""
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text()
        documents = [each for each in yaml.safe_load_all(text) if each]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidSpec(f"cannot read {file}: {error}") from None
    items: list[Any] = [item for each in documents for item in (each.get("items") or [each])]
    actions = [each for each in items if isinstance(each, dict) and each.get("kind") == KIND]
    if not actions:
        raise InvalidSpec(f"{file} holds no {KIND}: `kubectl get meshactions -o yaml` writes them")
    for each in actions:
        name = each.get("metadata", {}).get("name", "?")
        record = (each.get("spec") or {}).get("record")
        if not record:
            raise InvalidSpec(f"{KIND} {name} holds no record")
        yield name, record
