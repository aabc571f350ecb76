"""apply: rendered objects reach the API server by server-side apply, wave after wave; what is ours and no more
wanted is pruned.

In sync means silent: what was applied and has not changed since costs nothing, and what may have changed is tried
out in a dry run before anything is written.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from meshwright.api.errors import Conflict, NotFound, Rejected
from meshwright.cluster.client import Client, Manifest
from meshwright.cluster.gather import Reader
from meshwright.cluster.kinds import BUDGET, DEPLOYMENT, NAMESPACE, OWNED, kind_of
from meshwright.cluster.survey import BIRTH_MANAGER, MANAGER, Memory, Survey, incarnation, survey
from meshwright.cluster.together import together
from meshwright.mesh.leftovers import ISTIOD_MANAGER
from meshwright.mesh.objects import Key, Owner, Rendered, Step, Wave, at_once
from meshwright.mesh.ownership import fields_of, owns, restricted

AT_ONCE = 32  # requests in flight: the CRDs, and what goes on beside them
LOOKS = 3  # at an object that somebody keeps changing, before it is written
NAMED = 20  # changes that an outcome names
# What a dry run changes although nothing would change.
VOLATILE = ("managedFields", "resourceVersion", "generation", "creationTimestamp", "uid")

Proceed = Callable[[], None]  # called before each write; raises when the work has been overtaken


@dataclass
class Outcome:
    """What an apply did (or, in a dry run, would do)."""

    created: int = 0
    changed: int = 0
    deleted: int = 0
    unchanged: int = 0
    left: list[str] = field(default_factory=list)  # what an annotation takes out of our hands
    objects: list[str] = field(default_factory=list)  # the first changes, as `create Kind namespace/name`
    waiting: Step | None = None
    notes: list[str] = field(default_factory=list)  # CRDs of others that are used as they are, and why
    verbs: dict[Key, str] = field(default_factory=dict, compare=False)  # of each object: create, change, …
    changed_to: dict[Key, Manifest] = field(default_factory=dict, compare=False)  # what was there and is another now

    def add(self, verb: str, key: Key) -> None:
        self.verbs[key] = verb
        if verb == "create":
            self.created += 1
        elif verb == "change":
            self.changed += 1
        elif verb == "delete":
            self.deleted += 1
        elif verb == "leave":
            self.left.append(str(key))
            return
        else:
            self.unchanged += 1
            return
        if len(self.objects) < NAMED:
            self.objects.append(f"{verb} {key}")


class Applier:
    """Applies waves to one cluster, and remembers what it applied."""

    def __init__(self, client: Client, reader: Reader) -> None:
        self._client = client
        self._reader = reader
        self._memories: dict[str, Memory] = {}
        self._shared = Memory()  # of CRDs, which all meshes have in common
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def survey(self, waves: Iterable[Wave], owner: Owner) -> Survey:
        """What is there in our places. Raises ForeignObject when something is not this mesh's; writes nothing."""
        rendered = [each for wave in waves for each in wave.objects]
        return await survey(self._reader, rendered, owner, memory=self._memory(owner), slots=self._slots)

    async def apply(
        self, waves: Iterable[Wave], found: Survey, owner: Owner, *, dry_run: bool, proceed: Proceed
    ) -> Outcome:
        """Brings what was found to what is rendered, and prunes the rest of the owner's.

        A wave's condition holds back the birth of its objects only: those that are there are kept as declared, also
        while istiod is down.
        """
        apply_one = partial(self._apply_one, memory=self._memory(owner), dry_run=dry_run, proceed=proceed)
        outcome = await _Pass(apply_one, found, dry_run=dry_run).run(tuple(waves))
        if outcome.waiting is None:
            await self._prune(found, outcome, dry_run=dry_run, proceed=proceed)
        return outcome

    def forget(self, mesh: str) -> None:
        self._memories.pop(mesh, None)

    def _memory(self, owner: Owner) -> Memory:
        return self._memories.setdefault(owner.mesh, Memory(shared=self._shared))

    async def _apply_one(
        self, rendered: Rendered, live: Manifest | None, *, memory: Memory, dry_run: bool, proceed: Proceed
    ) -> tuple[str, Manifest]:
        """What was done (create, change or keep), and the object after it."""
        key = rendered.key
        known = memory.get(key)
        if live and known and known.still_as_applied(rendered, live):
            return "keep", live
        async with self._slots:
            if live is None:
                result = await self._create(rendered, dry_run=dry_run, proceed=proceed)
            elif (dry_run or known is None or known.digest == rendered.digest) and (
                await self._would_keep(rendered, live, dry_run=dry_run)
            ):
                result = live
            elif dry_run:
                return "change", live
            else:
                result = await self._change(rendered, live, proceed)
        if not dry_run:
            memory.remember(rendered, result)
        return "create" if live is None else "keep" if result is live else "change", result

    async def _would_keep(self, rendered: Rendered, live: Manifest, *, dry_run: bool) -> bool:
        """After a restart, or a change by somebody else: a dry run decides whether there is anything to write."""
        if _hand_over(rendered, live) or _reborn(rendered, live) or _trimmed(rendered, live):
            return False
        key, kind = rendered.key, kind_of(rendered.key.api_version, rendered.key.kind)
        try:
            for _ in range(LOOKS):
                tried = await self._client.apply(kind, rendered.manifest, field_manager=MANAGER, dry_run=True)
                if incarnation(tried) == incarnation(live):
                    return not differ(live, tried)
                # Somebody wrote in between: what they changed is not what we would.
                live = await self._client.get(kind, key.name, key.namespace) or live
        except Rejected:
            if dry_run:
                raise
        return False

    async def _create(self, rendered: Rendered, *, dry_run: bool, proceed: Proceed) -> Manifest:
        kind = kind_of(rendered.key.api_version, rendered.key.kind)
        if dry_run:
            try:
                return await self._client.apply(kind, rendered.manifest, field_manager=MANAGER, dry_run=True)
            except NotFound:
                return rendered.manifest  # its namespace or kind would be created by an earlier wave
        proceed()
        if rendered.birth is None:
            # Not forced: what somebody else put there since we looked is not ours to take over.
            result = await self._client.apply(kind, rendered.manifest, field_manager=MANAGER, force=False)
            if _is_shared(result):
                await self._give_back(result)
                raise Conflict(f"{rendered.key} was made by somebody else meanwhile")
            return result
        born = await self._client.create(kind, rendered.birth.manifest, field_manager=BIRTH_MANAGER)
        return await self._change(rendered, born, proceed)

    async def _change(self, rendered: Rendered, live: Manifest, proceed: Proceed) -> Manifest:
        kind = kind_of(rendered.key.api_version, rendered.key.kind)
        if handed_over := _hand_over(rendered, live):
            # Its new owner must hold the field before we let go of it, or it would fall back to its default.
            proceed()
            live = await self._client.apply(kind, _pinned(handed_over, live), field_manager=BIRTH_MANAGER)
        if reborn := _reborn(rendered, live):
            proceed()
            live = await self._client.apply(kind, _pinned(reborn, live), field_manager=BIRTH_MANAGER)
        proceed()
        try:
            result = await self._client.apply(kind, _pinned(rendered.manifest, live), field_manager=MANAGER)
        except Rejected:
            # Somebody's item of a list (a port with another number, say) contradicts ours: our lists, whole.
            proceed()
            live = await self._merge(_completed(rendered.manifest, live), live)
            proceed()
            result = await self._client.apply(kind, _pinned(rendered.manifest, live), field_manager=MANAGER)
        if trimmed := _trimmed(rendered, result):
            # What created the object must not go on owning what only we declare: it could never be taken back.
            proceed()
            result = await self._merge(_bare(result, managedFields=trimmed), result)
        return result

    async def _give_back(self, manifest: Manifest) -> None:
        """Of an object that is not ours, the fields that we have just written: declared no more, they go."""
        kind = kind_of(manifest["apiVersion"], manifest["kind"])
        await self._client.apply(kind, _pinned(_bare(manifest), manifest), field_manager=MANAGER)

    async def _merge(self, manifest: Manifest, live: Manifest) -> Manifest:
        key = Key.of(manifest)
        kind, patch = kind_of(key.api_version, key.kind), _with(manifest, live, "uid", "resourceVersion")
        return await self._client.merge(kind, key.name, patch, key.namespace, field_manager=BIRTH_MANAGER)

    async def _prune(self, found: Survey, outcome: Outcome, *, dry_run: bool, proceed: Proceed) -> None:
        order = {(kind.api_version, kind.kind): position for position, kind in enumerate(OWNED)}
        for key, head in sorted(found.strays.items(), key=lambda each: order[each[0].api_version, each[0].kind]):
            if not dry_run:
                proceed()
                await self._client.delete(kind_of(key.api_version, key.kind), head)
            outcome.add("delete", key)


ApplyOne = Callable[[Rendered, Manifest | None], Coroutine[Any, Any, tuple[str, Manifest]]]


class _Pass:
    """One way through the waves."""

    def __init__(self, apply_one: ApplyOne, found: Survey, *, dry_run: bool) -> None:
        self._apply_one = apply_one
        self._found = found
        self._conditions_count = not dry_run
        self._applied: dict[Key, Manifest] = {}
        self._verbs: dict[Key, str] = {}
        self._waiting: Step | None = None

    async def run(self, waves: tuple[Wave, ...]) -> Outcome:
        aside = asyncio.ensure_future(self._each(wave for wave in waves if wave.apart))
        try:
            for number, wave in enumerate(waves, start=1):
                if wave.after is not at_once:
                    await aside  # the condition may be about it
                if not wave.apart:
                    await self._wave(wave, self._hindrance(wave, number, len(waves)))
        except asyncio.CancelledError:
            aside.cancel()
            raise
        finally:
            await asyncio.gather(aside, return_exceptions=True)  # no request outlives the pass
        await aside
        return self._outcome(waves)

    async def _each(self, waves: Iterable[Wave]) -> None:
        for wave in waves:
            await self._wave(wave, None)

    def _hindrance(self, wave: Wave, number: int, of: int) -> Step | None:
        waits_for = wave.after(self._applied) if self._conditions_count else None
        return Step(number, of, wave.name, waits_for) if waits_for else None

    async def _wave(self, wave: Wave, hindrance: Step | None) -> None:
        due = wave.objects
        if hindrance:
            due = tuple(rendered for rendered in due if rendered.key in self._found.live)
            if len(due) < len(wave.objects):
                self._waiting = self._waiting or hindrance
        for key in (rendered.key for rendered in due if rendered.key in self._found.left_alone):
            self._verbs[key], self._applied[key] = "leave", self._found.live[key]
        due = tuple(rendered for rendered in due if rendered.key not in self._found.left_alone)
        results = await together(*(self._apply_one(each, self._found.live.get(each.key)) for each in due))
        for rendered, (verb, result) in zip(due, results, strict=True):
            self._verbs[rendered.key] = verb
            self._applied[rendered.key] = result

    def _outcome(self, waves: Iterable[Wave]) -> Outcome:
        """In the order of the waves, not of the answers: a plan that says the same must read the same."""
        outcome = Outcome(waiting=self._waiting, notes=list(self._found.notes))
        outcome.left += [str(key) for key in self._found.excepted]
        for wave in waves:
            for rendered in wave.objects:
                if rendered.key in self._found.hindered:
                    outcome.unchanged += 1
                elif verb := self._verbs.get(rendered.key):
                    outcome.add(verb, rendered.key)
                    if verb == "change":
                        outcome.changed_to[rendered.key] = self._applied[rendered.key]
        return outcome


def differ(before: Manifest, after: Manifest) -> bool:
    return _comparable(before) != _comparable(after)


def _comparable(manifest: Manifest) -> str:
    """With what we declare of it: a field that lost its owner would stay when we declare it no more."""
    metadata = {name: value for name, value in manifest["metadata"].items() if name not in VOLATILE}
    ours = fields_of(manifest, MANAGER)
    return json.dumps({**manifest, "metadata": metadata, "status": None, "ours": ours}, sort_keys=True)


def _pinned(manifest: Manifest, live: Manifest) -> Manifest:
    """To be written only to what we looked at, and not to one that was made again meanwhile.

    Of a Deployment not to one that was changed either: an autoscaler's replicas would be set back. Elsewhere that would
    let whoever keeps writing fields of their own keep us from repairing ours.
    """
    fields = ("uid", "resourceVersion") if live["kind"] == DEPLOYMENT.kind else ("uid",)
    return _with(manifest, live, *fields)


def _with(manifest: Manifest, live: Manifest, *fields: str) -> Manifest:
    return {**manifest, "metadata": {**manifest["metadata"], **{name: live["metadata"][name] for name in fields}}}


def _bare(manifest: Manifest, **metadata: Any) -> Manifest:
    """Nothing but what identifies an object, and the metadata that is given."""
    identity = {name: manifest["metadata"][name] for name in ("name", "namespace") if name in manifest["metadata"]}
    return {"apiVersion": manifest["apiVersion"], "kind": manifest["kind"], "metadata": {**identity, **metadata}}


def _is_shared(created: Manifest) -> bool:
    """Whether somebody else was there before us in an object that we have just created: then we have not created it.

    Of a namespace we write nothing but the name, and may have made it with the Secret in it. Who wrote after us, as
    istiod does, found an object of ours, which another leader made.
    """
    if created["kind"] == NAMESPACE.kind:
        return False
    fields = [each for each in created["metadata"].get("managedFields") or () if not each.get("subresource")]
    ours = next((each.get("time", "") for each in fields if each["manager"] == MANAGER), "")
    return any(each["manager"] not in (MANAGER, ISTIOD_MANAGER) and each.get("time", "") <= ours for each in fields)


def _completed(manifest: Manifest, live: Manifest) -> Manifest:
    """As it must be sent to take the place of what somebody else made of it.

    With what is istiod's in a list of webhooks: to send the list whole without it is to take it away. Of a budget,
    without the field that excludes ours.
    """
    if manifest["kind"] == BUDGET.kind:
        spec = dict.fromkeys(("minAvailable", "maxUnavailable")) | manifest["spec"]
        return {**manifest, "spec": spec}
    if "webhooks" not in manifest:
        return manifest
    stored = {webhook["name"]: webhook for webhook in live["webhooks"]}

    def completed(webhook: Manifest) -> Manifest:
        theirs = stored.get(webhook["name"], {})
        bundle = {name: value for name, value in theirs.get("clientConfig", {}).items() if name == "caBundle"}
        policy = {name: value for name, value in theirs.items() if name == "failurePolicy"}
        return {**policy, **webhook, "clientConfig": {**bundle, **webhook["clientConfig"]}}

    return {**manifest, "webhooks": [completed(webhook) for webhook in manifest["webhooks"]]}


def _hand_over(rendered: Rendered, live: Manifest) -> Manifest | None:
    """The object with nothing but the field that we are to let go, if we still hold it."""
    path = rendered.handed_over
    if not path or not owns(live, MANAGER, path):
        return None
    value: Any = live
    for name in path:
        value = value[name]
    for name in reversed(path):
        value = {name: value}
    return {**_bare(live), **value}


def _reborn(rendered: Rendered, live: Manifest) -> Manifest | None:
    """The object as it is born, when a webhook was taken out of it: one that is made again begins as every other."""
    if not rendered.birth or "webhooks" not in rendered.manifest:
        return None
    there = {webhook["name"] for webhook in live.get("webhooks") or ()}
    wanted = {webhook["name"] for webhook in rendered.manifest["webhooks"]}
    return None if wanted <= there else rendered.birth.manifest


def _trimmed(rendered: Rendered, live: Manifest) -> list[Manifest] | None:
    """The managed fields without what the birth of the object left behind; None when there is nothing to take away."""
    leaves = rendered.birth.fields if rendered.birth else frozenset[str]()
    return restricted(live["metadata"].get("managedFields") or [], manager=BIRTH_MANAGER, leaves=leaves)
