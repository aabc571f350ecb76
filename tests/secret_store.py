"""Secrets in memory, as `keys.trust` wants them, and a way to run several callers in every order."""

from __future__ import annotations

import base64
import re
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from meshwright.api.errors import Conflict
from meshwright.keys.trust import Secret

Name = tuple[str, str]
T = TypeVar("T")


class Turn:
    """Gives the turn away once: what is awaited at every request, so that a schedule decides who goes on."""

    def __await__(self) -> Generator[None, None, None]:
        yield


async def at_once() -> None:
    """No waiting: for tests that are not about order."""


class MemorySecrets:
    """A SecretStore that keeps what it is given, counts versions, and remembers what was written."""

    def __init__(self, pause: Callable[[], Awaitable[None]] = at_once) -> None:
        self.secrets: dict[Name, Secret] = {}
        self.writes: list[tuple[str, Name]] = []
        self.namespaces: dict[str, dict[str, str]] = {}  # with their labels
        self._pause = pause
        self._version = 0

    def clear(self) -> None:
        self.secrets, self.writes, self.namespaces = {}, [], {}

    def put(self, secret: Secret) -> None:
        self._version += 1
        version = str(self._version)
        stored = replace(secret, uid=secret.uid or f"uid-{version}", resource_version=version)
        self.secrets[secret.namespace, secret.name] = stored

    async def read(self, namespace: str, name: str) -> Secret | None:
        await self._pause()
        return self.secrets.get((namespace, name))

    async def create(self, secret: Secret) -> None:
        await self._pause()
        name = secret.namespace, secret.name
        if name in self.secrets:
            raise Conflict(f"create {secret}: exists already")
        self.put(secret)
        self.writes.append(("create", name))

    async def update(self, secret: Secret) -> None:
        await self._pause()
        name = secret.namespace, secret.name
        if name not in self.secrets or self.secrets[name].resource_version != secret.resource_version:
            raise Conflict(f"update {secret}: it has been modified")
        stored = self.secrets[name]
        files, notes = {**stored.files, **secret.files}, {**stored.annotations, **secret.annotations}
        self.put(replace(stored, files=files, annotations=notes))
        self.writes.append(("update", name))

    async def delete(self, secret: Secret) -> None:
        await self._pause()
        name = secret.namespace, secret.name
        stored = self.secrets.get(name)
        if stored is None:
            return
        if (stored.uid, stored.resource_version) != (secret.uid, secret.resource_version):
            raise Conflict(f"delete {secret}: it is another one by now")
        del self.secrets[name]
        self.writes.append(("delete", name))

    async def ensure_namespace(self, name: str, *, labels: Mapping[str, str]) -> None:
        await self._pause()
        self.namespaces.setdefault(name, dict(labels))


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """A coroutine that never really waits, to its end."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        answer: T = stop.value
        return answer
    raise AssertionError("it waits for something")


def run_in_order(coroutines: Sequence[Coroutine[Any, Any, T]], choices: Sequence[int]) -> tuple[list[T], list[int]]:
    """Runs all, one request at a time; `choices` says who is next among those that are not done (then the first).

    Returns the answers, and how many there were to choose from at each step.
    """
    answers: dict[int, T] = {}
    widths: list[int] = []
    while running := [index for index in range(len(coroutines)) if index not in answers]:
        choice = choices[len(widths)] % len(running) if len(widths) < len(choices) else 0
        widths.append(len(running))
        index = running[choice]
        try:
            coroutines[index].send(None)
        except StopIteration as stop:
            answers[index] = stop.value
    return [answers[index] for index in range(len(coroutines))], widths


def every_order(start: Callable[[], Sequence[Coroutine[Any, Any, T]]], check: Callable[[list[T]], None]) -> int:
    """Runs what `start` makes in every order, checks the answers of each, and returns how many orders there were.

    The coroutines must be alike: then it is no loss that the first always begins.
    """
    count, choices = 0, list[int]([])
    while True:
        answers, widths = run_in_order(start(), choices)
        check(answers)
        count += 1
        taken = [*choices, *[0] * (len(widths) - len(choices))][: len(widths)]
        while len(taken) > 1 and taken[-1] + 1 >= widths[len(taken) - 1]:
            taken.pop()
        if len(taken) == 1:
            return count
        choices = [*taken[:-1], taken[-1] + 1]


def key_bodies(secrets: MemorySecrets) -> list[str]:
    """The lines of every private key in the store, and the same bytes as other encodings would show them."""
    found = []
    for secret in secrets.secrets.values():
        for content in secret.files.values():
            for block in re.findall(rb"-----BEGIN (?:\w+ )*PRIVATE KEY-----\n(.+?)\n-----END", content, re.DOTALL):
                lines = block.decode().splitlines()
                raw = base64.b64decode("".join(lines))
                found += [*lines, raw.hex(), base64.b64encode(content).decode()[40:80]]
    return found
