"""`kubectl mesh explain`: what a reason means and what to do about it, from the table that the operator uses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from meshwright.api.conditions import NOT_OBSERVED, PARTS, READY, REASONS, STALLED, TYPES
from meshwright.api.errors import NotFound
from meshwright.cli.output import document
from meshwright.cli.terminal import Terminal, Tone

EVERY_PART = "every part"
NOTHING = "Nothing."


@dataclass(frozen=True)
class Explanation:
    reason: str
    condition: str
    ready: str  # what Ready says with it: True, False or Unknown
    stalled: bool
    means: str
    next_step: str

    def as_document(self) -> dict[str, Any]:
        return {
            "reason": self.reason, "condition": self.condition, "ready": self.ready, "stalled": self.stalled,
            "means": self.means, "nextStep": self.next_step,
        }  # fmt: skip


def explanations() -> dict[str, Explanation]:
    """Every reason that a condition can carry, by name."""
    rows = [
        Explanation(row.name, row.part, row.ready, row.stalled, row.means, row.next_step) for row in REASONS.values()
    ]
    rows += [
        Explanation(part.well, part.type, "True", stalled=False, means=_sentence(part.message), next_step=NOTHING)
        for part in PARTS
    ]
    rows.append(
        Explanation(NOT_OBSERVED, EVERY_PART, "Unknown", stalled=False, means="This was not looked at yet.",
                    next_step=f"Look at `{READY}`: its reason says what comes first."),
    )  # fmt: skip
    return {row.reason: row for row in rows}


def run(name: str | None, *, output: str, terminal: Terminal) -> int:
    rows = explanations()
    if name:
        rows = {row.reason: row for row in matching(name, rows)}
    if output != "text":
        found = [row.as_document() for row in rows.values()]
        print(document(found[0] if name and len(found) == 1 else found, output), end="")
    elif len(rows) == 1:
        print("\n".join(one(next(iter(rows.values())), terminal)))
    else:
        print("\n".join(table(rows, terminal)))
    return 0


def matching(name: str, rows: dict[str, Explanation]) -> list[Explanation]:
    """The reason of that name, or the reasons of the condition of that name, however spelled. Raises NotFound."""
    wanted = name.casefold()
    for row in rows.values():
        if row.reason.casefold() == wanted:
            return [row]
    if of_condition := [row for row in rows.values() if row.condition.casefold() == wanted]:
        return of_condition
    known = {each.casefold(): each for each in (*rows, *TYPES)}
    nearest = get_close_matches(wanted, known, 1, 0.5)
    hint = f"did you mean {known[nearest[0]]}?" if nearest else "`kubectl mesh explain` lists all"
    raise NotFound(f"no reason {name}: {hint}")


def one(row: Explanation, terminal: Terminal) -> Iterator[str]:
    tone = tone_of(row)
    yield terminal.paint(row.reason, Tone.BOLD, tone)
    facts = [("condition", _state(row)), ("means", row.means), ("next step", row.next_step)]
    yield from terminal.table(facts, indent=2, tones=(Tone.FAINT,))


def _state(row: Explanation) -> str:
    ready = f"{READY} is {row.ready}"
    if row.stalled:
        ready += f" and {STALLED} is True: nothing more happens until somebody acts"
    if row.condition in (READY, EVERY_PART):
        return ready
    part = "False" if row.reason in REASONS else "True"
    return f"{row.condition} is {part}; {ready}" if part == "False" else f"{row.condition} is {part}"


def table(rows: dict[str, Explanation], terminal: Terminal) -> Iterator[str]:
    conditions = dict.fromkeys(row.condition for row in rows.values())
    width = max(map(len, rows))
    for number, condition in enumerate(conditions):
        if number:
            yield ""
        yield terminal.paint(condition, Tone.BOLD)
        for row in (each for each in rows.values() if each.condition == condition):
            first = f"  {terminal.mark(tone_of(row))} {row.reason.ljust(width)}  "
            yield from terminal.lines(row.means, indent=width + 6, first=first)


def tone_of(row: Explanation) -> Tone:
    if row.stalled:
        return Tone.BAD
    if row.ready == "True":  # a part may be False all the same
        return Tone.GOOD if row.next_step == NOTHING else Tone.WARN
    return Tone.NEWS if row.ready == "Unknown" else Tone.WARN


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if not text.startswith("istiod") else f"{text}."
