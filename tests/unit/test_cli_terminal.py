"""Colours, marks and width: what fits the terminal, or the file."""

from __future__ import annotations

import io

import pytest

from meshwright.cli.terminal import ENDLESS, NARROWEST, Terminal, Tone, terminal


class Stream(io.StringIO):
    def __init__(self, *, tty: bool, encoding: str = "utf-8") -> None:
        super().__init__()
        self._tty, self._encoding = tty, encoding

    def isatty(self) -> bool:
        return self._tty

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding


UTF8 = {"LANG": "en_GB.UTF-8"}
COLOURS: list[tuple[str, bool, dict[str, str], bool]] = [
    # --color, on a terminal, environment, coloured
    ("auto", True, {}, True),
    ("auto", False, {}, False),
    ("auto", True, {"NO_COLOR": "1"}, False),
    ("auto", True, {"NO_COLOR": ""}, True),
    ("auto", True, {"TERM": "dumb"}, False),
    ("always", False, {"NO_COLOR": "1"}, True),
    ("never", True, {}, False),
]


@pytest.mark.parametrize(("color", "tty", "environment", "coloured"), COLOURS)
def test_colours(color: str, tty: bool, environment: dict[str, str], coloured: bool) -> None:  # noqa: FBT001
    assert terminal(color, stream=Stream(tty=tty), environment=UTF8 | environment).colour is coloured


LOCALES: list[tuple[dict[str, str], str, bool]] = [
    ({}, "utf-8", True),
    ({"LANG": "C.UTF-8"}, "utf-8", True),
    ({"LANG": "C"}, "utf-8", False),
    ({"LANG": "C", "LC_CTYPE": "C.UTF-8"}, "utf-8", False),  # as Python coerces it
    ({"LANG": "C", "LC_CTYPE": "de_DE.UTF-8"}, "utf-8", True),
    ({"LANG": "de_DE.UTF-8", "LC_ALL": "POSIX"}, "utf-8", False),
    ({"LANG": "de_DE"}, "iso-8859-1", False),
]


@pytest.mark.parametrize(("environment", "encoding", "unicode"), LOCALES)
def test_marks_fit_the_locale(environment: dict[str, str], encoding: str, unicode: bool) -> None:  # noqa: FBT001
    found = terminal(stream=Stream(tty=False, encoding=encoding), environment=environment)
    assert found.unicode is unicode
    assert found.mark(Tone.BAD) == ("✘" if unicode else "x")
    assert all(len(found.mark(tone)) == 1 for tone in Tone)


def test_a_file_breaks_no_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    assert terminal(stream=Stream(tty=False), environment=UTF8).width == ENDLESS
    assert terminal(stream=Stream(tty=True), environment=UTF8).width == NARROWEST
    monkeypatch.setenv("COLUMNS", "120")
    assert terminal(stream=Stream(tty=True), environment=UTF8).width == 120


def test_paint() -> None:
    assert Terminal(colour=True).paint("a", Tone.BOLD, Tone.BAD) == "\x1b[1;31ma\x1b[0m"
    assert Terminal(colour=True).paint("", Tone.BOLD) == ""
    assert Terminal().paint("a", Tone.BOLD) == "a"


ROWS = [("a", "bb", "one two three four five six seven"), ("aaa", "b", ""), ("a", "", "x" * 45)]


def test_a_wide_table() -> None:
    assert list(Terminal(width=100).table(ROWS, indent=2, marks=[Tone.GOOD, Tone.BAD, Tone.WARN])) == [
        "  ✔ a    bb  one two three four five six seven",
        "  ✘ aaa  b",
        f"  ! a        {'x' * 45}",
    ]


def test_what_does_not_fit_is_broken_at_words() -> None:
    assert list(Terminal(width=46).table(ROWS[:2], indent=2)) == [
        "  a    bb  one two three four five six seven",
        "  aaa  b",
    ]
    assert list(Terminal(width=43).table(ROWS[:1], indent=2)) == ["  a  bb  one two three four five six seven"]
    long = [("a", "word " * 20)]
    wrapped = list(Terminal(width=50).table(long))
    assert wrapped[0].startswith("a  word")
    assert all(line.startswith("   word") and len(line) <= 50 for line in wrapped[1:])


def test_a_narrow_terminal_has_the_text_below() -> None:
    rows = [("a" * 20, "b" * 10, "one two three four five six seven eight nine ten")]
    assert list(Terminal(width=40).table(rows)) == [
        f"{'a' * 20}  {'b' * 10}",
        "    one two three four five six seven",
        "    eight nine ten",
    ]


def test_colours_do_not_count_as_columns() -> None:
    plain = list(Terminal(width=60).table(ROWS[:2], tones=(Tone.BOLD,)))
    coloured = list(Terminal(width=60, colour=True).table(ROWS[:2], tones=(Tone.BOLD,)))
    assert [line.replace("\x1b[1m", "").replace("\x1b[0m", "") for line in coloured] == plain


def test_an_empty_table() -> None:
    assert list(Terminal().table([])) == []
