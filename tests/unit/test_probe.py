"""The probe, as the program that it is: over loopback, with peers that answer, lie, or are not there."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def probe(cluster: str, port: int, *peers: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "meshwright.probe", cluster, str(port), *peers]
    with subprocess.Popen(command) as running:
        try:
            until(lambda: get(port, "/")["cluster"] == cluster)
            yield running
        finally:
            running.kill()


def get(port: int, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
        return json.load(answer)


def until(holds: Any) -> None:
    end = time.monotonic() + 20
    while True:
        try:
            if holds():
                return
        except OSError:
            pass
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture(scope="module")
def reach() -> Iterator[dict[str, Any]]:
    """What a probe in east says of west, of north where west answers, and of south, where nobody does."""
    east, west, nobody = free_port(), free_port(), free_port()
    peers = (f"west=http://127.0.0.1:{west}/", f"north=http://127.0.0.1:{west}/", f"south=http://127.0.0.1:{nobody}/")
    with probe("west", west), probe("east", east, *peers):
        until(lambda: get(east, "/reach")["west"]["passed"] == 10)
        yield get(east, "/reach")


def test_requests_that_the_right_cluster_answered_pass(reach: dict[str, Any]) -> None:
    assert reach["west"]["requests"] == reach["west"]["passed"] == 10
    assert 0 < reach["west"]["medianMs"] < 2000
    assert reach["west"]["failure"] == ""


def test_an_answer_from_another_cluster_is_a_failure(reach: dict[str, Any]) -> None:
    assert reach["north"]["passed"] == 0
    assert reach["north"]["failure"] == "cluster west answered in its place"


def test_no_answer_is_a_failure_in_plain_words(reach: dict[str, Any]) -> None:
    assert (reach["south"]["passed"], reach["south"]["medianMs"]) == (0, None)
    assert "refused" in reach["south"]["failure"]


def test_it_ends_at_once_when_it_is_told_to() -> None:
    with probe("east", free_port()) as running:
        running.terminate()
        assert running.wait(timeout=5) == 0
