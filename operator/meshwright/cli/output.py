"""What programs read: JSON and YAML."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import yaml


def document(content: Any, form: str) -> str:
    """`content` (of JSON's types) as a document of that form, with a line's end."""
    if form == "json":
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    return as_yaml(content)


def as_yaml(content: Any) -> str:
    return documents([content], explicit_start=False)


def documents(contents: Iterable[Any], *, explicit_start: bool = True) -> str:
    text: str = yaml.dump_all(
        contents, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True, explicit_start=explicit_start
    )
    return text


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Multi-line text (the injection template, the mesh config) as blocks, so that people can read it."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)
