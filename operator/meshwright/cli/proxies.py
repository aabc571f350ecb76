"""`kubectl mesh proxies`: who is in the mesh and in sync, as every istiod says; and who should be and is not."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any

from meshwright.api.errors import MeshwrightError
from meshwright.api.meshinstall import MeshInstall
from meshwright.cli.kubeconfig import Access
from meshwright.cli.output import document
from meshwright.cli.terminal import Terminal, Tone
from meshwright.cli.trial import one_of, with_client
from meshwright.cluster.census import ISTIOD_PORT, PROXY_PAGE, PROXY_PORT
from meshwright.cluster.client import Client
from meshwright.cluster.kinds import INJECTABLE_POD, LIVING_POD, MUTATING_WEBHOOK, NAMESPACE, POD
from meshwright.cluster.pods import NO_SIDECAR, SIDECAR, pod_of, proxy_revision, stays
from meshwright.cluster.together import together
from meshwright.cluster.workloads import is_ready
from meshwright.mesh import exposition
from meshwright.mesh.enrolment import IMAGE, REVISION, Pod, Verdict, asks_for, judge, proxy_image
from meshwright.mesh.names import Names
from meshwright.mesh.objects import labels_of, selector_of

IN_SYNC_CODE, DIFFERENT_CODE = 0, 2
SYNCZ = "/debug/syncz"
KINDS = ("cluster", "listener", "route", "endpoint")
SYNCED, STALE, REFUSED, APART, UNKNOWN = "synced", "stale", "refused", "not connected", "unknown"
TONES = {SYNCED: Tone.GOOD, STALE: Tone.WARN, REFUSED: Tone.BAD, APART: Tone.BAD, UNKNOWN: Tone.NEWS}
AT_ONCE = 32


@dataclass(frozen=True, order=True)
class Proxy:
    """A pod with a proxy of the mesh, and what is known of it."""

    namespace: str
    pod: str
    revision: str
    version: str = ""  # as it tells istiod
    sync: str = UNKNOWN
    detail: str = ""  # what is not in sync, or why
    istiod: str = ""  # the replica that it is connected to
    expires: dt.datetime | None = field(default=None, compare=False)

    def as_document(self, now: dt.datetime) -> dict[str, Any]:
        certificate = (
            {"expires": self.expires.isoformat(), "hoursLeft": _hours(self.expires, now)} if self.expires else None
        )
        return {
            "namespace": self.namespace, "pod": self.pod, "revision": self.revision, "version": self.version,
            "sync": self.sync, "detail": self.detail, "istiod": self.istiod,
            **({"certificate": certificate} if certificate else {}),
        }  # fmt: skip


@dataclass(frozen=True, order=True)
class Uninjected:
    """A pod that is to have a sidecar, and has none or another one."""

    namespace: str
    pod: str
    why: str

    def as_document(self) -> dict[str, Any]:
        return {"namespace": self.namespace, "pod": self.pod, "why": self.why}


def run(
    name: str | None, *, access: Access, missing: bool, certificates: bool, namespace: str | None, output: str,
    terminal: Terminal,
) -> int:  # fmt: skip
    mesh = MeshInstall.parse(one_of(access, name))
    now = dt.datetime.now(dt.UTC)
    if missing:
        pods = with_client(Client, access, partial(uninjected, mesh=mesh, namespace=namespace or ""))
        if output == "text":
            print("\n".join(uninjected_lines(mesh, pods, terminal)))
        else:
            print(document({"mesh": mesh.name, "missing": [each.as_document() for each in pods]}, output), end="")
        return DIFFERENT_CODE if pods else IN_SYNC_CODE
    work = partial(proxies, mesh=mesh, namespace=namespace or "", certificates=certificates, now=now)
    found, notes = with_client(Client, access, work)
    if output == "text":
        print("\n".join(lines(mesh, found, notes, terminal, now=now, certificates=certificates)))
    else:
        listed = [each.as_document(now) for each in found]
        print(document({"mesh": mesh.name, "proxies": listed, "notes": notes}, output), end="")
    return DIFFERENT_CODE if any(each.sync not in (SYNCED, UNKNOWN) for each in found) else IN_SYNC_CODE


# Those that are in the mesh


async def proxies(
    client: Client, *, mesh: MeshInstall, namespace: str, certificates: bool, now: dt.datetime
) -> tuple[list[Proxy], list[str]]:
    """All of them by name, and what could not be asked."""
    pods, (answers, notes) = await together(
        client.list(LIVING_POD, namespace, labels=SIDECAR, metadata_only=True), _istiods_say(client, mesh)
    )
    revision = mesh.spec.revision
    sidecars = [
        Proxy(each["metadata"]["namespace"], each["metadata"]["name"], revision)
        for each in pods
        if proxy_revision(each) == revision
    ]
    everybody = joined(sidecars, answers, revision=revision, complete=bool(answers) and not notes)
    found = [each for each in everybody if namespace in ("", each.namespace)]
    if certificates:
        found, unread = await _with_certificates(client, found, now)
        notes = [*notes, *unread]
    return found, notes


async def _istiods_say(client: Client, mesh: MeshInstall) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """By name of the istiod, the proxies that are connected to it; and why one did not answer."""
    names = Names(mesh.spec.namespace, mesh.spec.revision)
    pods = await client.list(POD, names.namespace, labels=selector_of(names.selector))
    istiods = sorted(each["metadata"]["name"] for each in pods if is_ready(each))
    if not istiods:
        return {}, [f"no replica of istiod is ready in namespace {names.namespace}, so nobody knows what is in sync"]

    async def ask(istiod: str) -> tuple[str, list[dict[str, Any]] | None, str]:
        try:
            answer = json.loads(await client.forwarded(names.namespace, istiod, ISTIOD_PORT, SYNCZ))
        except MeshwrightError as error:
            return istiod, None, f"istiod {istiod} did not say what is in sync: {error}"
        except ValueError:
            return istiod, None, f"istiod {istiod} did not say what is in sync: its answer is no JSON"
        return istiod, answer or [], ""

    said = await together(*(ask(each) for each in istiods))
    return (
        {istiod: answer for istiod, answer, _ in said if answer is not None},
        [trouble for _, _, trouble in said if trouble],
    )


def joined(
    sidecars: Iterable[Proxy], answers: Mapping[str, Sequence[Mapping[str, Any]]], *, revision: str, complete: bool
) -> list[Proxy]:
    """By name, the pods with a sidecar and what every istiod says of them; and gateways, which only istiod knows.

    Who is known to none of them is apart, if all of them were asked.
    """
    connected = {
        (each.namespace, each.pod): each
        for istiod, entries in answers.items()
        for each in (_told(entry, istiod, revision) for entry in entries)
    }
    apart = {
        (each.namespace, each.pod): replace(each, sync=APART if complete else UNKNOWN) for each in sidecars
    }  # fmt: skip
    return sorted((apart | connected).values())


def _told(entry: Mapping[str, Any], istiod: str, revision: str) -> Proxy:
    pod, _, namespace = str(entry.get("proxy", "")).rpartition(".")  # a pod's name may have dots
    sync, detail = sync_of(entry)
    return Proxy(namespace, pod, revision, str(entry.get("istio_version", "")), sync, detail, istiod)


def sync_of(entry: Mapping[str, Any]) -> tuple[str, str]:
    """What was sent was taken, is still awaited, or was refused; in the words of the proxy."""
    resources = (entry.get("resources") or {}).values()
    if refused := next((each["lastError"] for each in resources if each.get("lastError")), ""):
        return REFUSED, str(refused)
    stale = [kind for kind in KINDS if entry.get(f"{kind}_sent", "") != entry.get(f"{kind}_acked", "")]
    return (STALE, f"{', '.join(f'{each}s' for each in stale)} sent, not taken yet") if stale else (SYNCED, "")


async def _with_certificates(client: Client, found: Sequence[Proxy], now: dt.datetime) -> tuple[list[Proxy], list[str]]:
    slots = asyncio.Semaphore(AT_ONCE)
    wanted = partial(exposition.concerns, exposition.CERTIFICATE)

    async def ask(proxy: Proxy) -> tuple[Proxy, str]:
        async with slots:
            try:
                page = await client.proxied(proxy.namespace, proxy.pod, PROXY_PORT, PROXY_PAGE, only=wanted)
            except MeshwrightError as error:
                return proxy, str(error)
        return replace(proxy, expires=exposition.certificate_expires(page.decode(errors="replace"), now=now)), ""

    answers = await together(*(ask(each) for each in found))
    troubles = [trouble for _, trouble in answers if trouble]
    notes = [f"{len(troubles)} proxies did not tell their certificate: {troubles[0]}"] if troubles else []
    return [proxy for proxy, _ in answers], notes


# Those that should be


async def uninjected(client: Client, *, mesh: MeshInstall, namespace: str) -> list[Uninjected]:
    """The operator's own rule, over all pods; it names the first few only, and here are all."""
    sidecars, others, namespaces, injectors = await together(
        client.list(LIVING_POD, namespace, labels=SIDECAR, metadata_only=True),
        client.list(INJECTABLE_POD, namespace, labels=NO_SIDECAR, metadata_only=True),
        client.list(NAMESPACE, metadata_only=True),
        client.list(MUTATING_WEBHOOK, labels="app=sidecar-injector", metadata_only=True),
    )
    revision, image = mesh.spec.revision, proxy_image(mesh.spec)
    labels = {each["metadata"]["name"]: labels_of(each) for each in namespaces}
    tags = {labels_of(each).get("istio.io/tag") for each in injectors if labels_of(each).get(REVISION) == revision}
    ours = {revision, *tags} - {None}
    pods = [pod_of(each) for each in chain(sidecars, others) if stays(each)]
    enrolled = [
        pod
        for pod in pods
        if asks_for(labels.get(pod.namespace, {}), pod.labels, pod.annotations, pod.namespace) in ours
    ]
    judged = [(pod, judge(pod.annotations, revision=revision, image=image)) for pod in enrolled]
    return sorted(
        Uninjected(pod.namespace, pod.name, _why(pod, verdict, image))
        for pod, verdict in judged
        if verdict is not Verdict.INJECTED
    )


def _why(pod: Pod, verdict: Verdict, image: str) -> str:
    if verdict is Verdict.MISSING:
        return "no sidecar"
    if verdict is Verdict.OTHER_REVISION:
        return f"sidecar of revision {pod.annotations.get(REVISION) or 'unknown'}"
    return f"sidecar image {pod.annotations.get(IMAGE)}, now {image}"


# What people read


def lines(
    mesh: MeshInstall, found: Sequence[Proxy], notes: Sequence[str], terminal: Terminal, *, now: dt.datetime,
    certificates: bool,
) -> Iterator[str]:  # fmt: skip
    if found:
        head = ("NAMESPACE", "POD", "REVISION", "VERSION", "SYNC", *(["CERTIFICATE"] if certificates else []), "")
        rows = [
            (
                each.namespace, each.pod, each.revision, each.version or "?", each.sync,
                *([f"{_hours(each.expires, now)} h left" if each.expires else "?"] if certificates else []),
                each.detail,
            )
            for each in found
        ]  # fmt: skip
        table = terminal.table([head, *rows], indent=2, marks=[Tone.BOLD, *(TONES[each.sync] for each in found)])
        yield from table
    for note in notes:
        yield from terminal.lines(note, indent=4, first=f"  {terminal.mark(Tone.WARN)} ")
    yield terminal.paint(_total(mesh, found), Tone.BOLD)


def _total(mesh: MeshInstall, found: Sequence[Proxy]) -> str:
    if not found:
        return f"Mesh {mesh.name} has no proxies: `kubectl mesh proxies --missing` lists pods that should have one."
    counts = {state: sum(each.sync == state for each in found) for state in TONES}
    return f"{len(found)} proxies: " + ", ".join(f"{count} {state}" for state, count in counts.items() if count)


def uninjected_lines(mesh: MeshInstall, pods: Sequence[Uninjected], terminal: Terminal) -> Iterator[str]:
    if not pods:
        yield f"Every pod that is to have a sidecar of mesh {mesh.name} has it."
        return
    yield from terminal.table([("NAMESPACE", "POD", "WHY"), *((each.namespace, each.pod, each.why) for each in pods)])
    yield terminal.paint(
        f"{len(pods)} pods are to be restarted: they get the sidecar when they are made anew, for example by"
        " `kubectl -n NAMESPACE rollout restart deployment NAME`",
        Tone.BOLD,
    )


def _hours(moment: dt.datetime, now: dt.datetime) -> int:
    return int((moment - now).total_seconds() // 3600)
