"""differences.yaml: every difference and its reason.

reasons:
  name: A sentence.
differences:
  usually:                              # what most intents say that have the object
    Deployment istio-system/istiod:
      name of a reason:
        spec.some.path: theirs → ours
  some intent:                          # where it is unlike that
    Deployment istio-system/istiod:
      name of a reason:
        spec.some.path: no difference
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from api.comparison.both import our_definitions, ours, their_definitions, theirs
from api.comparison.intents import INTENTS
from api.comparison.trees import Changes, address, compare

FILE = Path(__file__).with_name("differences.yaml")
USUALLY = "usually"
SAME = "no difference"
DEFINITIONS = "Istio's definitions"
UNEXPLAINED = "unexplained"
HEAD = """\
# What differs between Meshwright's objects and those of `istioctl manifest generate`, for the intents in intents.py.
# Each line is one path, as `theirs → ours`; above it, the name of the reason; all reasons are at the top.
# `PYTHONPATH=tests .venv/bin/python -m api.comparison` writes the lines anew and keeps the reasons of those that stay.

"""

Sections = dict[str, dict[str, Changes]]  # section → object → path → change


class Place(NamedTuple):
    section: str
    object: str
    path: str


class Recorded(NamedTuple):
    reasons: dict[str, str]
    given: dict[Place, str]  # the name of each difference's reason
    sections: Sections


def found() -> Sections:
    """All differences there are: first what is usual for an object, then where an intent is unlike that."""
    by_intent_of: dict[str, dict[str, Changes]] = defaultdict(dict)  # object → intent → path → change
    for intent in INTENTS:
        left, right = theirs(intent), ours(intent)
        changed = compare(left, right, intent.counterparts)
        for key in {intent.counterparts.get(address(each), address(each)) for each in left} | set(map(address, right)):
            by_intent_of[key][intent.name] = changed.get(key, {})
    usual = {key: _usual(list(intents.values())) for key, intents in by_intent_of.items()}
    sections: Sections = {USUALLY: usual}
    for intent in INTENTS:
        sections[intent.name] = {
            key: _unlike(intents[intent.name], usual[key])
            for key, intents in by_intent_of.items()
            if intent.name in intents
        }
    sections[DEFINITIONS] = compare(their_definitions(INTENTS[0]), our_definitions(), {})
    return {name: {key: each for key, each in objects.items() if each} for name, objects in sections.items()}


def _usual(intents: list[Changes]) -> Changes:
    """What most of an object's intents say of each path."""
    if len(intents) == 1:
        return {}
    most = {
        path: Counter(each.get(path, SAME) for each in intents).most_common(1)[0][0]
        for path in {path: None for each in intents for path in each}
    }
    return {path: change for path, change in most.items() if change != SAME}


def _unlike(changes: Changes, usual: Changes) -> Changes:
    return {
        path: changes.get(path, SAME)
        for path in changes.keys() | usual.keys()
        if changes.get(path, SAME) != usual.get(path, SAME)
    }


def read(file: Path = FILE) -> Recorded:
    document = yaml.load(file.read_text(), yaml.CSafeLoader) if file.exists() else {}
    given: dict[Place, str] = {}
    sections: Sections = {}
    for section, objects in _items(document.get("differences")):
        sections[section] = {}
        for key, reasons in _items(objects):
            sections[section][key] = {path: change for _, paths in _items(reasons) for path, change in _items(paths)}
            given |= {
                Place(section, key, path): reason for reason, paths in _items(reasons) for path, _ in _items(paths)
            }
    return Recorded(document.get("reasons") or {}, given, sections)


def _items(mapping: dict[str, Any] | None) -> Iterable[tuple[str, Any]]:
    """Of a mapping whose last line somebody may have taken out by hand."""
    return (mapping or {}).items()


def write(sections: Sections, recorded: Recorded, file: Path = FILE) -> int:
    """Writes all differences with the reasons that are known for them; returns how many have none."""
    reason_of: dict[tuple[str, ...], str] = {}
    for place, change in places(recorded.sections):
        for key in _likenesses(place, change):
            reason_of.setdefault(key, recorded.given[place])
    differences: dict[str, Any] = {}
    for place, change in places(sections):
        reason = next((reason_of[key] for key in _likenesses(place, change) if key in reason_of), UNEXPLAINED)
        at = differences.setdefault(place.section, {}).setdefault(place.object, {}).setdefault(reason, {})
        at[place.path] = change
    document = {"reasons": dict(sorted(recorded.reasons.items())), "differences": differences}
    text = yaml.dump(document, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True, width=10**6)
    file.write_text(HEAD + text)
    return sum(UNEXPLAINED in paths for objects in differences.values() for paths in objects.values())


def places(sections: Sections) -> Iterator[tuple[Place, str]]:
    for section, objects in sections.items():
        for key, changes in sorted(objects.items()):
            for path, change in sorted(changes.items()):
                yield Place(section, key, path), change


def _likenesses(place: Place, change: str) -> Iterable[tuple[str, ...]]:
    """A difference is known by its place, or by the same path of that object elsewhere, or of one of its kind."""
    what = "same" if change == SAME else "other"
    kind = place.object.split()[0]
    return ("place", *place), ("object", what, place.object, place.path), ("kind", what, kind, place.path)
