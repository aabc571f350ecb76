"""Where the text goes: colours, marks and width that fit the terminal, or the file."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TextIO

ENDLESS = 100_000  # columns: a file or a pipe breaks no lines
NARROWEST = 40
BESIDE = 32  # columns that a text needs to stand beside a table, and not below it


class Tone(StrEnum):
    """What a piece of text says, as an escape sequence of ECMA-48."""

    GOOD = "32"
    BAD = "31"
    WARN = "33"
    NEWS = "36"
    FAINT = "2"
    BOLD = "1"


# What stands before a line, in Unicode and in ASCII: it is well, it is not, look at it, nobody knows, of no concern.
MARKS = {
    Tone.GOOD: ("✔", "+"), Tone.BAD: ("✘", "x"), Tone.WARN: ("!", "!"), Tone.NEWS: ("?", "?"), Tone.FAINT: ("·", "-"),
    Tone.BOLD: (" ", " "),
}  # fmt: skip


@dataclass(frozen=True)
class Terminal:
    colour: bool = False
    unicode: bool = True
    width: int = ENDLESS

    @property
    def is_screen(self) -> bool:
        """Whether what was printed can be cleared away again."""
        return self.width < ENDLESS

    def paint(self, text: str, *tones: Tone) -> str:
        return f"\x1b[{';'.join(tones)}m{text}\x1b[0m" if self.colour and text and tones else text

    def mark(self, tone: Tone) -> str:
        return self.paint(MARKS[tone][0 if self.unicode else 1], tone)

    def lines(self, text: str, *, indent: int, first: str = "") -> list[str]:
        """A text in lines that fit, all after the first indented; `first` stands before it, of `indent` columns."""
        room = max(self.width - indent, NARROWEST - indent, 20)
        wrapped = textwrap.wrap(text, room, break_on_hyphens=False, break_long_words=False) or [""]
        return [(first or " " * indent) + wrapped[0], *(" " * indent + line for line in wrapped[1:])]

    def table(
        self, rows: Sequence[Sequence[str]], *, indent: int = 0, tones: Sequence[Tone] = (), marks: Sequence[Tone] = ()
    ) -> Iterator[str]:
        """Columns as wide as what is in them; of the last one, what does not fit goes into further lines, or below.

        `tones` colour the columns in order, as far as they go; `marks` stand before the rows.
        """
        if not rows:
            return
        *widths, longest = (max(map(len, column)) for column in zip(*rows, strict=True))
        start = indent + (2 if marks else 0) + sum(width + 2 for width in widths)
        beside = self.width - start >= min(longest, BESIDE)
        for number, (*cells, last) in enumerate(rows):
            mark = f"{self.mark(marks[number])} " if marks else ""
            painted = [
                self.paint(cell.ljust(width), *tones[column : column + 1])
                for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
            ]
            head = " " * indent + mark + "".join(f"{cell}  " for cell in painted)
            if beside:
                yield from (line.rstrip() for line in self.lines(last, indent=start, first=head))
            else:
                yield head.rstrip()
                yield from (self.lines(last, indent=indent + 4) if last else ())


def terminal(
    color: str = "auto", *, stream: TextIO | None = None, environment: Mapping[str, str] = os.environ
) -> Terminal:
    """The one that standard output goes to. `color`: auto (on a terminal, without NO_COLOR), always or never."""
    stream = stream or sys.stdout
    shown = stream.isatty()
    plain = environment.get("NO_COLOR") or environment.get("TERM") == "dumb"  # https://no-color.org
    return Terminal(
        colour=color == "always" or (color == "auto" and shown and not plain),
        unicode=_speaks_unicode(stream, environment),
        width=max(shutil.get_terminal_size().columns, NARROWEST) if shown else ENDLESS,
    )


def _speaks_unicode(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Python takes UTF-8 for what the C locale can do, and sets LC_CTYPE so; who says C gets ASCII."""
    kind = environment.get("LC_CTYPE", "")
    said = environment.get("LC_ALL") or (kind if kind != "C.UTF-8" else "") or environment.get("LANG", "")
    encoding = (stream.encoding or "").lower().replace("-", "")
    return encoding == "utf8" and said not in ("C", "POSIX")
