"""Logs: one line each, and never the local variables of a frame that failed."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache

import pytest

SECRET = "the-body-of-a-key"

# In a process of its own: logging is configured once and for all.
PROGRAM = """
import logging, sys
import structlog
from meshwright.controller import logs

logs.configure("INFO", as_json=sys.argv[1] == "json")

def fails(key):
    inner = {"key": key}
    raise ValueError("what went wrong")

structlog.get_logger().debug("too quiet")
structlog.get_logger().info("ours", mesh="demo")
logging.getLogger("somebody").info("theirs %s", "too")
with structlog.contextvars.bound_contextvars(mesh="bound"):
    structlog.get_logger().warning("within")
for log in (structlog.get_logger().error, logging.getLogger("somebody").error):
    try:
        fails("-".join(["the", "body", "of", "a", "key"]))
    except ValueError:
        log("failed", exc_info=True)
"""


@cache
def output(form: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, form], capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
    return done.stderr


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_local_variable_is_printed(form: str) -> None:
    text = output(form)
    assert text.count("ValueError: what went wrong") == 2
    assert SECRET not in PROGRAM  # so that a line of source in a traceback is not mistaken for a value
    assert SECRET not in text
    assert "inner =" not in text.replace("inner = {", "")


@pytest.mark.parametrize("form", ["json", "text"])
def test_everybodys_lines_are_there_and_quiet_ones_are_not(form: str) -> None:
    text = output(form)
    assert all(word in text for word in ("ours", "theirs too", "within", "demo", "bound"))
    assert "too quiet" not in text


def test_json_is_one_object_a_line() -> None:
    lines = [json.loads(line) for line in output("json").splitlines()]
    assert [line["event"] for line in lines] == ["ours", "theirs too", "within", "failed", "failed"]
    assert all({"event", "level", "timestamp"} <= line.keys() for line in lines)
    assert lines[2]["mesh"] == "bound"
