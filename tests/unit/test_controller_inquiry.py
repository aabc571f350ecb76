"""When istiods and proxies are asked again."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from meshes import NOW, cluster, plane
from meshwright.api.errors import Unreachable
from meshwright.controller.inquiry import HASTE, QUIET, Inquiry
from meshwright.mesh.desired import ControlPlane
from meshwright.mesh.evidence import Replies
from virtual_time import run

PLANE = plane()
SEEN = cluster(istiod_pods=("istiod-1", "istiod-2"), fleet=(("shop", "a"), ("shop", "b")))


class Pods:
    """Pods that run what is declared, and count how often they are asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.config: Any = PLANE.mesh_config
        self.silent: set[str] = set()

    async def proxied(
        self, namespace: str, pod: str, port: int, path: str, *, only: Callable[[bytes], bool] | None = None
    ) -> bytes:
        del namespace, port, path, only
        return self._answer(pod, b"")

    async def forwarded(self, namespace: str, pod: str, port: int, path: str) -> bytes:
        del namespace, port, path
        return self._answer(pod, json.dumps(self.config).encode())

    def _answer(self, pod: str, said: bytes) -> bytes:
        self.asked.append(pod)
        if pod in self.silent:
            raise Unreachable(f"{pod} is silent")
        return said


class World:
    def __init__(self) -> None:
        self.pods = Pods()
        self.inquiry = Inquiry(self.pods)

    def look(
        self, at: dt.timedelta = dt.timedelta(), *, mesh: str = "demo", decided: ControlPlane = PLANE, **parts: Any
    ) -> tuple[Replies, set[str]]:
        """What is replied, and who was asked for it."""
        self.pods.asked.clear()
        replies = run(self.inquiry.look(mesh, decided, replace(SEEN, **parts), now=NOW + at))
        return replies, set(self.pods.asked)


EVERYBODY = {"istiod-1", "istiod-2", "a", "b"}


def test_every_istiod_and_the_proxies_whose_turn_it_is_are_asked() -> None:
    replies, asked = World().look()
    assert asked == EVERYBODY
    assert [(each.pod, each.mesh_config) for each in replies.answers] == [
        ("istiod-1", PLANE.mesh_config), ("istiod-2", PLANE.mesh_config),
    ]  # fmt: skip
    assert replies.earliest
    assert replies.earliest.of == 2


def test_what_is_well_is_asked_once_in_a_quarter_of_a_minute() -> None:
    world = World()
    first, _ = world.look()
    assert world.look(QUIET - dt.timedelta(seconds=1)) == (first, set())
    assert world.look(QUIET)[1] == EVERYBODY


def test_who_does_not_answer_is_asked_sooner() -> None:
    world = World()
    world.pods.silent = {"istiod-2"}
    replies, _ = world.look()
    assert replies.trouble == "istiod-2 is silent"
    assert world.look(HASTE / 2) == (replies, set())
    world.pods.silent = set()
    replies, asked = world.look(HASTE)
    assert (replies.trouble, asked) == ("", EVERYBODY)


def test_who_runs_something_else_is_asked_sooner() -> None:
    world = World()
    world.pods.config = {**PLANE.mesh_config, "trustDomain": "other"}
    world.look()
    assert world.look(HASTE / 2)[1] == set()
    assert world.look(HASTE)[1] == EVERYBODY


def test_a_proxy_that_does_not_answer_hurries_nobody() -> None:
    world = World()
    world.pods.silent = {"a"}
    world.look()
    assert world.look(HASTE)[1] == set()


def test_another_pod_or_another_configuration_is_asked_about_at_once() -> None:
    world = World()
    world.look()
    assert world.look(istiod_pods=("istiod-2", "istiod-3"))[1] == {"istiod-2", "istiod-3", "a", "b"}
    other = plane(meshConfig={"accessLogFile": "/dev/stdout"})
    assert world.look(istiod_pods=("istiod-2", "istiod-3"), decided=other)[1] == {"istiod-2", "istiod-3", "a", "b"}


def test_with_nobody_there_nobody_is_asked() -> None:
    replies, asked = World().look(istiod_pods=(), fleet=())
    assert (replies.answers, replies.versions, replies.trouble, asked) == ((), {}, "", set())


def test_each_mesh_and_each_cluster_is_asked_for_itself_and_one_that_is_gone_is_forgotten() -> None:
    world = World()
    places: tuple[dict[str, Any], ...] = ({}, {"mesh": "other"}, {"name": "west"})
    for place in places:
        assert world.look(**place)[1] == EVERYBODY
        assert world.look(**place)[1] == set()
    world.inquiry.forget("demo")
    assert world.look(mesh="other")[1] == set()
    assert world.look()[1] == world.look(name="west")[1] == EVERYBODY
