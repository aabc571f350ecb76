"""What the test bed says while it works: one line a step, and errors that name the next step."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


class TestbedError(Exception):
    """An expected failure: what went wrong, and what the reader can do about it."""

    __test__ = False  # pytest would otherwise collect it by its name

    def __init__(self, problem: str, next_step: str = "") -> None:
        super().__init__(f"{problem}\n  next: {next_step}" if next_step else problem)


_begin = time.monotonic()
_lock = threading.Lock()


def say(text: str) -> None:
    """One line on stderr, so that stdout stays free for what a command was asked to print."""
    with _lock:
        print(f"[{time.monotonic() - _begin:6.1f}s] {text}", file=sys.stderr, flush=True)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Announces the end of a step with the time it took; a failed step says so."""
    begin = time.monotonic()
    try:
        yield
    except BaseException:
        say(f"{text}: failed after {time.monotonic() - begin:.1f}s")
        raise
    say(f"{text}: {time.monotonic() - begin:.1f}s")


def run(
    argv: Sequence[str | Path],
    *,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 60,
) -> str:
    """Runs a program to its end and returns its standard output; a failure quotes the end of what it said."""
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(
            words, input=stdin, env=env, cwd=cwd, timeout=timeout, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise TestbedError(f"{words[0]} is not installed", "python -m testbed prereqs") from error
    except subprocess.TimeoutExpired as error:
        raise TestbedError(f"`{' '.join(words[:4])}` did not end within {timeout:.0f} seconds") from error
    if done.returncode != 0:
        said = "\n    ".join((done.stderr or done.stdout).strip().splitlines()[-12:])
        raise TestbedError(f"`{' '.join(words[:6])}` failed with code {done.returncode}:\n    {said}")
    return done.stdout
