"""An informer: one kind under one selector, kept in memory as the API server has it.

After any gap the kind is listed again and the answer replaces what was known: whatever was created, changed or
deleted meanwhile is told as if it had just happened. What is told is level, not edge: `changed` says only that an
object is not as it was.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import aclosing, suppress
from typing import NamedTuple

import structlog

from meshwright.api.errors import Conflict, MeshwrightError, NotFound, Unreachable
from meshwright.cluster.client import WATCH_SECONDS, Client, Manifest
from meshwright.cluster.kinds import Kind

log = structlog.get_logger()

Lean = Callable[[Manifest], Manifest]
Changed = Callable[[Manifest | None, Manifest | None], None]  # before, after

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
HEAD = (
    "name", "namespace", "uid", "resourceVersion", "generation", "labels", "annotations", "deletionTimestamp",
    "finalizers",
)  # fmt: skip


class Wait(NamedTuple):
    """How long to wait before the next try, in seconds: longer from failure to failure."""

    first: float
    last: float
    free: int = 0  # failures in a row that need no wait

    def after(self, failures: int) -> float:
        return 0.0 if failures < self.free else min(self.last, self.first * 2 ** min(failures - self.free, 10))


RETRY = Wait(1.0, 30.0)
LIST_ANEW = Wait(1.0, 30.0, free=1)
LOOK = Wait(0.25, 5.0)  # for a kind that is not served yet
STEADY = 5.0  # seconds after which a watch that ends was a good one
LIST_AGAIN = 900.0  # seconds: what an API server failed to tell is found out after all
TOMBSTONES = 1000
PATIENCE = 5  # failures after which an older state is believed: etcd may have been restored from a backup


def head(manifest: Manifest) -> Manifest:
    """Metadata without what is large and read by nobody: managed fields, and what kubectl applied."""
    metadata = {name: manifest["metadata"][name] for name in HEAD if name in manifest["metadata"]}
    if LAST_APPLIED in metadata.get("annotations", ()):
        metadata["annotations"] = {name: text for name, text in metadata["annotations"].items() if name != LAST_APPLIED}
    return {"metadata": metadata}


class Informer:
    """What is kept is `lean(manifest)`, with apiVersion and kind. Nobody may change what comes out."""

    def __init__(
        self, client: Client, kind: Kind, *, labels: str = "", metadata_only: bool = True, lean: Lean = head,
        keeps_labels: bool = True, changed: Changed = lambda _before, _after: None,
        chance: Callable[[], float] = random.random,
    ) -> None:  # fmt: skip
        self.kind, self.labels, self.metadata_only, self.keeps_labels = kind, labels, metadata_only, keeps_labels
        self.synced = False  # listed once, or known not to be served
        self.trouble: str | None = "not listed yet"  # why what is known may be out of date
        self.heard = 0.0  # the event loop's time when the server last said something
        self._client, self._lean, self._changed, self._chance = client, lean, changed, chance
        self._objects: dict[tuple[str, str], Manifest] = {}
        self._gone: dict[tuple[str, str], int] = {}  # versions in which objects went, for events that come late
        self._version = 0  # up to which everything is known; 0: list
        self._newest = 0  # the newest that was heard of
        self._listed = 0.0
        self._failures = 0
        self._poked = asyncio.Event()

    def get(self, name: str, namespace: str = "") -> Manifest | None:
        return self._objects.get((namespace, name))

    def list(self, namespace: str = "") -> list[Manifest]:
        """All, or those of a namespace, by namespace and name."""
        return [self._objects[key] for key in sorted(self._objects) if not namespace or key[0] == namespace]

    def __len__(self) -> int:
        return len(self._objects)

    def poke(self) -> None:
        """Whatever it waits for may be there now."""
        self._failures = 0
        self._poked.set()

    async def run(self) -> None:
        """Lists and watches until it is cancelled."""
        while True:
            began = _now()
            wait = await self._round()
            if _now() - began > STEADY:
                self._failures = 0
            await self._pause(wait)

    async def _round(self) -> Wait:
        """Until something comes in between."""
        try:
            if not self._version or _now() - self._listed > LIST_AGAIN:
                await self._list()
            await self._follow()
        except NotFound:
            self._replace({}, version=0)
            return LOOK
        except Conflict as error:
            self.trouble, self._version = str(error), 0
        except Exception as error:  # whatever it is, a view that grows old in silence is worse
            if not isinstance(error, MeshwrightError):
                log.exception("informer failed", kind=self.kind.kind)
            self.trouble = str(error) or type(error).__name__
            return RETRY
        return LIST_ANEW

    async def _list(self) -> None:
        found: dict[tuple[str, str], Manifest] = {}
        version = 0
        async for page in self._client.pages(self.kind, labels=self.labels, metadata_only=self.metadata_only):
            version = int(page["metadata"]["resourceVersion"])
            for item in page["items"]:
                key = _key(item)
                before = self._objects.get(key)
                found[key] = before if before and _same(before, item) else self._kept(item)
        if version < self._newest and self._failures < PATIENCE:
            raise Unreachable(f"list {self.kind.plural}: what it answers is older than what it said before")
        self._replace(found, version=version)

    async def _follow(self) -> None:
        watch = self._client.watch(
            self.kind, labels=self.labels, resource_version=str(self._version), metadata_only=self.metadata_only,
            seconds=int(WATCH_SECONDS * (1 + self._chance()) / 2),
        )  # fmt: skip
        began = _now()
        async with aclosing(watch) as events:
            async for event, manifest in events:
                self.heard, self.trouble = _now(), None
                version = int(manifest["metadata"]["resourceVersion"])
                if event == "DELETED":
                    self._forget(manifest, version)
                elif event != "BOOKMARK":
                    self._learn(manifest, version)
                self._version = self._newest = max(self._version, version)
        if _now() - began < STEADY:
            raise Unreachable(f"watch {self.kind.plural}: it ends as soon as it begins")

    def _replace(self, objects: dict[tuple[str, str], Manifest], *, version: int) -> None:
        before, self._objects = self._objects, objects
        self._gone.clear()
        self._version = self._newest = version
        self._listed = self.heard = _now()
        self.synced, self.trouble = True, None
        for key, manifest in before.items():
            if key not in objects:
                self._tell(manifest, None)
        for key, manifest in objects.items():
            known = before.get(key)
            if known is not manifest:
                self._tell(known, manifest)

    def _learn(self, manifest: Manifest, version: int) -> None:
        key = _key(manifest)
        before = self._objects.get(key)
        if version <= max(_version(before), self._gone.get(key, 0)):
            return  # told twice, or late
        after = self._objects[key] = self._kept(manifest)
        self._tell(before, after)

    def _forget(self, manifest: Manifest, version: int) -> None:
        """Deleted, or no longer under our selector."""
        key = _key(manifest)
        before = self._objects.get(key)
        if version < _version(before):
            return
        if len(self._gone) >= TOMBSTONES:
            self._gone.clear()
        self._gone[key] = version
        if before:
            del self._objects[key]
            self._tell(before, None)

    def _kept(self, manifest: Manifest) -> Manifest:
        return {"apiVersion": self.kind.api_version, "kind": self.kind.kind, **self._lean(manifest)}

    def _tell(self, before: Manifest | None, after: Manifest | None) -> None:
        try:
            self._changed(before, after)
        except Exception:  # whoever listens, the view goes on
            log.exception("a change was not taken in", kind=self.kind.kind)

    async def _pause(self, wait: Wait) -> None:
        delay = wait.after(self._failures) * (0.5 + self._chance() / 2)
        self._failures += 1
        with suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._poked.wait()
        self._poked.clear()


def _now() -> float:
    return asyncio.get_running_loop().time()


def _key(manifest: Manifest) -> tuple[str, str]:
    metadata = manifest["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def _version(manifest: Manifest | None) -> int:
    """The resourceVersion, which may be compared as a number (KEP-5504); 0 for none."""
    return int(manifest["metadata"]["resourceVersion"]) if manifest else 0


def _same(one: Manifest, other: Manifest) -> bool:
    return all(one["metadata"][field] == other["metadata"][field] for field in ("uid", "resourceVersion"))
