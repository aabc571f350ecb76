"""The fields of Istio's mesh config, minor by minor: what of a mesh config istiod would not take, and what it did not.

istiod drops a field that it does not know without a word, and with a value of the wrong type it drops the whole mesh
config and goes on with the one before. So a mesh config is checked before istiod sees it (`problems`), and afterwards
istiod is asked what it runs (`differences`).

The rule: what istiod cannot read is refused, and what it reads counts as typed well. Also refused is what it reads but
loses: a field that it does not know, two spellings or two members of a oneof at once, null, a number without a name in
an enum, one of two extension providers with one name. The fields come from Istio's own descriptors, at build time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, partial
from importlib.resources import files
from typing import Any

from meshwright.mesh import protojson
from meshwright.mesh.protojson import Mistyped, shown

Minor = tuple[int, int]

# Istio takes these out of the YAML once more, by this spelling, and forgets what the first reading made of the other.
READ_TWICE = ("defaultConfig", "defaultProviders")
# Istio merges these with its own: by name, and as a set. Every other list replaces Istio's.
MERGED_BY_NAME = "extensionProviders"
UNITED = "trustDomainAliases"
PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Field:
    """A row of the field list; `istio-api/meshconfig_fields.py` says what each column means."""

    name: str
    proto: str
    type: str
    repeated: bool = False
    map: bool = False
    oneof: str | None = None
    present: bool = False
    deprecated: bool = False


@dataclass(frozen=True)
class Message:
    fields: Mapping[str, Field]  # by each spelling
    removed: frozenset[str]  # in snake_case


@dataclass(frozen=True)
class Schema:
    minor: Minor
    root: str
    messages: Mapping[str, Message]
    enums: Mapping[str, Mapping[str, int]]

    def reader(self, field: Field) -> protojson.Reader:
        if field.type in self.enums:
            return partial(protojson.enum, values=self.enums[field.type])
        return protojson.READERS[field.type]

    def zero(self, field: Field) -> Any:
        """What a field means that is not there; None where it means that there is nothing."""
        if field.present:
            return None
        return 0 if field.type in self.enums else protojson.ZERO.get(field.type)


@cache
def schema(minor: Minor) -> Schema:
    """The field list of a minor. Raises KeyError for a minor that this Meshwright has none of."""
    resource = files("meshwright").joinpath("istio_api", f"mesh_config-{_written(minor)}.json")
    try:
        listed = json.loads(resource.read_text())
    except FileNotFoundError:
        raise KeyError(minor) from None
    messages = {}
    for name, message in listed["messages"].items():
        rows = [Field(**row) for row in message["fields"]]
        messages[name] = Message(
            {key: row for row in rows for key in (row.name, row.proto)}, frozenset(message["removed"])
        )
    return Schema(minor, listed["root"], messages, listed["enums"])


@cache
def minors() -> tuple[Minor, ...]:
    """The minors that there is a field list of."""
    names = (each.name for each in files("meshwright").joinpath("istio_api").iterdir())
    found = [re.fullmatch(r"mesh_config-(\d+)\.(\d+)\.json", name) for name in names]
    return tuple(sorted((int(each[1]), int(each[2])) for each in found if each))


def below(path: str, key: object) -> str:
    text = str(key)
    return f"{path}.{text}" if PLAIN_KEY.fullmatch(text) else f"{path}[{json.dumps(text, ensure_ascii=False)}]"


# -- before istiod sees it


def problems(config: Mapping[str, Any], *, minor: Minor) -> list[str]:
    """What is wrong with a mesh config for a minor of Istio, one line for each place: path, and what to write."""
    known = schema(minor)
    return [f"{path}: {why}" for path, why in _wrong_fields(known, known.root, config, "spec.meshConfig")]


Wrong = Iterator[tuple[str, str]]


def _wrong_fields(known: Schema, type_: str, value: Any, path: str) -> Wrong:
    message = known.messages[type_]
    if not isinstance(value, Mapping):
        yield path, str(Mistyped(value, f"object: write {_example(message)}"))
        return
    taken: dict[str, str] = {}  # what of each oneof is there already
    for key, item in value.items():
        here, field = below(path, key), message.fields.get(key)
        if field is None:
            yield here, _unknown(known, type_, str(key))
        elif key != field.name and field.name in value:
            yield here, f"{field.name} is there, too, and means the same: remove one of them"
        elif key != field.name and type_ == known.root and field.name in READ_TWICE:
            yield here, f"Istio forgets it in this spelling: write {field.name}"
        elif item is None:
            yield here, "null leaves it as if it were not there: remove it, or write a value"
        elif field.oneof and taken.setdefault(field.oneof, key) != key:
            yield here, f"{taken[field.oneof]} is there, too, and Istio takes one of them only: remove one"
        else:
            yield from _wrong_value(known, field, item, here)
            if field.name == MERGED_BY_NAME and type_ == known.root:
                yield from _same_names(item, here)


def _wrong_value(known: Schema, field: Field, value: Any, path: str) -> Wrong:
    if field.repeated:
        if not isinstance(value, list | tuple):
            yield path, str(Mistyped(value, "list: write [ ] around it, or a line with - for each item"))
            return
        for index, item in enumerate(value):
            yield from _wrong_item(known, field, item, f"{path}[{index}]")
    elif field.map:
        if not isinstance(value, Mapping):
            yield path, str(Mistyped(value, "object: write {key: value}"))
            return
        for key, item in value.items():
            yield from _wrong_item(known, field, item, below(path, key))
    else:
        yield from _wrong_item(known, field, value, path)


def _wrong_item(known: Schema, field: Field, value: Any, path: str) -> Wrong:
    if value is None:
        yield path, "null is no value: remove it, or write one"
    elif field.type in known.messages:
        yield from _wrong_fields(known, field.type, value, path)
    else:
        try:
            known.reader(field)(value)
        except Mistyped as error:
            yield path, str(error)


def _same_names(providers: Any, path: str) -> Wrong:
    first: dict[Any, int] = {}
    for index, provider in enumerate(providers if isinstance(providers, list | tuple) else ()):
        name = provider.get("name") if isinstance(provider, Mapping) else None
        if isinstance(name, str) and first.setdefault(name, index) != index:
            yield (
                f"{path}[{index}].name",
                f"{shown(name)} is the name of [{first[name]}], too, and Istio keeps one only",
            )


def _unknown(known: Schema, type_: str, key: str) -> str:
    said = [f"no such field in Istio {_written(known.minor)}"]
    elsewhere = [minor for minor in minors() if key in _fields(schema(minor), type_)]
    message = known.messages[type_]
    if elsewhere:
        said.append(f"Istio {' and '.join(map(_written, elsewhere))} has it")
    elif _snake(key) in message.removed or key in message.removed:
        said.append("Istio had it once and removed it")
    elif nearest := _nearest(known, message, key):
        said.append(f"did you mean {nearest}?")
    return "; ".join(said)


def _fields(known: Schema, type_: str) -> Mapping[str, Field]:
    return known.messages[type_].fields if type_ in known.messages else {}


def _nearest(known: Schema, message: Message, key: str) -> str | None:
    for field in message.fields.values():  # one level too high, perhaps
        if not (field.repeated or field.map) and key in _fields(known, field.type):
            return f"{field.name}.{key}"
    found = get_close_matches(key, message.fields, n=1)
    return message.fields[found[0]].name if found else None


def _example(message: Message) -> str:
    return next((f"{{{field.name}: …}}" for field in message.fields.values()), "{}")


def _snake(key: str) -> str:
    return re.sub(r"[A-Z]", lambda letter: f"_{letter[0].lower()}", key)


def _written(minor: Minor) -> str:
    return f"{minor[0]}.{minor[1]}"


# -- after istiod has read it


def differences(declared: Mapping[str, Any], effective: Mapping[str, Any], *, minor: Minor) -> list[str]:
    """What of a declared mesh config is not in force, one line for each place.

    `declared` is what stands in the ConfigMap, `effective` istiod's answer on `/debug/mesh`: Istio's defaults with ours
    above them, as JSON in which fields with a zero value are left out. What istiod has beyond ours is no difference.
    """
    known = schema(minor)
    found = _unlike_fields(known, known.root, declared, effective, "meshConfig")
    return [f"{path}: declared {shown(ours)}, in force {_or_nothing(theirs)}" for path, ours, theirs in found]


Unlike = Iterator[tuple[str, Any, Any]]


def _unlike_fields(known: Schema, type_: str, ours: Any, theirs: Any, path: str) -> Unlike:
    if not isinstance(ours, Mapping) or not isinstance(theirs, Mapping):
        yield path, ours, theirs
        return
    for key, item in ours.items():
        here, field = below(path, key), _fields(known, type_).get(key)
        if field is None:
            yield here, item, None
        elif item is None:
            continue  # says nothing
        elif type_ == known.root and field.name == UNITED:
            yield from ((here, each, theirs.get(UNITED)) for each in item if each not in theirs.get(UNITED, ()))
        elif type_ == known.root and field.name == MERGED_BY_NAME:
            yield from _unlike_by_name(known, field, item, theirs.get(MERGED_BY_NAME, ()), here)
        else:
            yield from _unlike_value(known, field, item, theirs.get(field.name), here)


def _unlike_by_name(known: Schema, field: Field, ours: Any, theirs: Any, path: str) -> Unlike:
    named = {each.get("name"): each for each in theirs}
    for index, each in enumerate(ours):
        yield from _unlike_fields(known, field.type, each, named.get(each.get("name")), f"{path}[{index}]")


def _unlike_value(known: Schema, field: Field, ours: Any, theirs: Any, path: str) -> Unlike:
    if field.repeated:
        items = theirs or ()
        if not isinstance(ours, list | tuple) or len(ours) != len(items):
            yield path, ours, theirs
            return
        for index, (our, their) in enumerate(zip(ours, items, strict=True)):
            yield from _unlike_item(known, field, our, their, f"{path}[{index}]")
    elif field.map:
        if not isinstance(ours, Mapping):
            yield path, ours, theirs
            return
        for key, item in ours.items():
            their = (theirs or {}).get(str(key))
            yield from _unlike_item(known, field, item, their, below(path, key))
    else:
        yield from _unlike_item(known, field, ours, theirs, path)


def _unlike_item(known: Schema, field: Field, ours: Any, theirs: Any, path: str) -> Unlike:
    if field.type in known.messages:
        yield from _unlike_fields(known, field.type, ours, theirs, path)
    elif _meant(known, field, ours) != _meant(known, field, theirs):
        yield path, ours, theirs


def _meant(known: Schema, field: Field, value: Any) -> Any:
    """The value as istiod reads it; two that mean the same are equal. Unreadable ones are equal to nothing."""
    if value is None:
        return known.zero(field)
    try:
        return known.reader(field)(value)
    except Mistyped as error:
        return error


def _or_nothing(value: Any) -> str:
    return "nothing" if value is None else shown(value)
