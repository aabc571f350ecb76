"""`kubectl mesh status`: what a MeshInstall's status says, for people. One request, nothing is computed anew."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from meshwright.api.conditions import READY, REASONS, RECONCILING, STALLED
from meshwright.cli.kubeconfig import Access
from meshwright.cli.output import document
from meshwright.cli.server import Server
from meshwright.cli.terminal import Terminal, Tone

Json = Mapping[str, Any]

READY_CODE, NOT_READY_CODE = 0, 2
NAMED = 3  # pods that are listed below the numbers
CLEAR = "\x1b[H\x1b[2J"
LOUD = ("Pending", "Acting", "Held", "Standing", "Clearing", "Recommended")
UNITS = ((365 * 86400, "y"), (86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


NOTHING = "No MeshInstall in this cluster: `kubectl apply` one, for example examples/quickstart.yaml."


def run(name: str | None, *, access: Access, output: str, watch: bool, terminal: Terminal) -> int:
    shown = None
    with Server(access) as server:
        while True:
            meshes, version = server.meshes(name)
            if meshes != shown:
                clear = CLEAR if watch and terminal.is_screen else ""
                print(clear + printed(meshes, output, terminal), end="", flush=True)
            if not watch:
                return READY_CODE if meshes and all(is_ready(each) for each in meshes) else NOT_READY_CODE
            shown = meshes
            next(server.changes(version), None)


def printed(meshes: Sequence[Json], output: str, terminal: Terminal) -> str:
    if output != "text":
        return document([summary(each) for each in meshes], output)
    now = dt.datetime.now(dt.UTC)
    blocks = ["\n".join(lines(each, now=now, terminal=terminal)) for each in meshes]
    return "\n\n".join(blocks or [NOTHING]) + "\n"


def summary(mesh: Json) -> dict[str, Any]:
    """What `-o json` prints of each mesh: documented, and only ever added to."""
    spec, status = mesh.get("spec") or {}, mesh.get("status") or {}
    return {
        "name": mesh["metadata"]["name"],
        "ready": is_ready(mesh),
        "revision": spec.get("revision", "default"),
        "namespace": spec.get("namespace", "istio-system"),
        "mode": spec.get("mode", "Apply"),
        "version": {"declared": spec.get("version"), "running": status.get("version")},
        "generation": {"declared": mesh["metadata"].get("generation"), "observed": status.get("observedGeneration")},
        "conditions": status.get("conditions") or [],
        "clusters": status.get("clusters") or [],
        "checks": status.get("checks") or [],
        "nextSteps": [{"reason": reason, "nextStep": step} for reason, step in next_steps(conditions(mesh))],
    }


def is_ready(mesh: Json) -> bool:
    """Whether the operator has looked at this very generation, and found it ready."""
    ready = next((each for each in conditions(mesh) if each["type"] == READY), None)
    return ready is not None and ready["status"] == "True" and not is_stale(mesh)


def is_stale(mesh: Json) -> bool:
    observed = (mesh.get("status") or {}).get("observedGeneration")
    return bool(observed != mesh["metadata"].get("generation"))


def conditions(mesh: Json) -> list[dict[str, Any]]:
    return (mesh.get("status") or {}).get("conditions") or []


def next_steps(found: Iterable[Json]) -> list[tuple[str, str]]:
    """Of each reason for which something is not as it should be, in the order of the conditions."""
    reasons = dict.fromkeys(each["reason"] for each in found if tone_of(each) not in (Tone.GOOD, Tone.FAINT))
    known = [(reason, REASONS[reason].next_step) for reason in reasons if reason in REASONS]
    return [(reason, step) for reason, step in known if not step.startswith("Nothing")]


def tone_of(condition: Json) -> Tone:
    """Of the two that kstatus defines, False is no news."""
    kind, status = condition["type"], condition["status"]
    if kind == RECONCILING:
        return Tone.WARN if status == "True" else Tone.FAINT
    if kind == STALLED:
        return Tone.BAD if status == "True" else Tone.FAINT
    if status == "True":
        return Tone.GOOD
    if status == "Unknown":
        return Tone.NEWS
    row = REASONS.get(condition["reason"])
    return Tone.WARN if row and not row.stalled else Tone.BAD


# What people read


def lines(mesh: Json, *, now: dt.datetime, terminal: Terminal) -> Iterator[str]:
    yield from head(mesh, terminal)
    yield ""
    found = conditions(mesh)
    if not found:
        hint = "the operator has not looked at it yet: `kubectl -n meshwright-system get pods` shows whether it runs"
        yield f"  {terminal.mark(Tone.WARN)} {hint}"
        return
    yield from condition_table(found, now=now, terminal=terminal)
    if steps := next_steps(found):
        yield ""
        yield terminal.paint("What to do", Tone.BOLD)
        yield from terminal.table(steps, indent=2, tones=(Tone.BOLD,))
    yield from failed_checks((mesh.get("status") or {}).get("checks") or (), terminal)
    for cluster in (mesh.get("status") or {}).get("clusters") or ():
        yield ""
        version = f" (Kubernetes {cluster['kubernetesVersion']})" if cluster.get("kubernetesVersion") else ""
        yield terminal.paint(f"Cluster {cluster['name']}", Tone.BOLD) + terminal.paint(version, Tone.FAINT)
        yield from terminal.table(list(cluster_rows(cluster, now=now)), indent=2, tones=(Tone.FAINT,))


def failed_checks(checks: Sequence[Json], terminal: Terminal) -> Iterator[str]:
    """What keeps clusters from being joined; nothing when nothing does."""
    if failed := [(each["name"], each.get("message", "")) for each in checks if not each["passed"]]:
        yield ""
        yield terminal.paint("Checks that fail", Tone.BOLD) + terminal.paint(f" (of {len(checks)})", Tone.FAINT)
        yield from terminal.table(failed, indent=2, marks=[Tone.BAD] * len(failed))


def head(mesh: Json, terminal: Terminal) -> Iterator[str]:
    spec, status, name = mesh.get("spec") or {}, mesh.get("status") or {}, mesh["metadata"]["name"]
    none = {"type": READY, "status": "Unknown", "reason": "not looked at yet"}
    ready = next((each for each in conditions(mesh) if each["type"] == READY), none)
    tone, known = tone_of(ready), {"True": "is ready", "False": "is not ready"}
    says = known.get(ready["status"], f"is {ready['reason'].lower()}")
    stale = bool(conditions(mesh)) and is_stale(mesh)
    if stale and ready["status"] == "True":
        tone, says = Tone.WARN, "was ready"
    running, declared = status.get("version"), spec.get("version")
    version = f"Istio {running or declared}"
    if running is None:
        version += ", not installed yet"
    elif running != declared:
        version += f", {declared} is asked for"
    facts = [
        version,
        f"revision {spec.get('revision', 'default')}",
        f"namespace {spec.get('namespace', 'istio-system')}",
    ]
    if spec.get("mode", "Apply") != "Apply":
        facts.append(f"mode {spec['mode']}")
    title = terminal.paint(f"Mesh {name}", Tone.BOLD)
    yield f"{terminal.mark(tone)} {title} {terminal.paint(says, tone)}: {', '.join(facts)}"
    if stale:
        yield terminal.paint(
            f"  The operator has not looked at generation {mesh['metadata'].get('generation')} yet;"
            f" below is what it said of generation {status.get('observedGeneration')}.",
            Tone.WARN,
        )
    if "deletionTimestamp" in mesh["metadata"]:
        yield terminal.paint("  It is being deleted.", Tone.WARN)


def condition_table(found: list[dict[str, Any]], *, now: dt.datetime, terminal: Terminal) -> Iterator[str]:
    rows = [
        (each["type"], each["reason"], age(each.get("lastTransitionTime"), now), each.get("message", ""))
        for each in found
    ]
    yield from terminal.table(rows, indent=2, marks=[tone_of(each) for each in found])


def cluster_rows(cluster: Json, *, now: dt.datetime) -> Iterator[tuple[str, str]]:
    if away := cluster.get("away"):
        yield "away", f"{away} (below is what was known)"
    plane = cluster.get("controlPlane") or {}
    if primary := cluster.get("primary"):
        yield "istiod", f"none here: that of cluster {primary} serves it"
    else:
        yield "istiod", f"{plane.get('readyReplicas', 0)} of {plane.get('replicas', 0)} ready{_share(plane)}"
    if refused := plane.get("refused"):
        yield "", f"{refused['size']} was taken back: {refused.get('message', '')}"
    yield from _scaling(cluster.get("scaling") or {})
    yield "proxies", _proxies(cluster)
    yield from _injection(cluster.get("injection") or {})
    for number, gateway in enumerate(cluster.get("gateways") or ()):
        where = ", ".join(gateway.get("addresses") or ()) or "no address"
        ready = f"{gateway.get('readyReplicas', 0)} of {gateway.get('replicas', 0)} ready"
        yield "" if number else "gateways", f"{gateway['namespace']}/{gateway['name']}: {ready}, {where}"
    yield from _joined(cluster)
    yield from _certificates(cluster, now)
    left = cluster.get("notReconciled")
    yield "objects", f"{cluster.get('objects', 0)}" + (f", {left} of them left alone by annotation" if left else "")


def _scaling(scaling: Json) -> Iterator[tuple[str, str]]:
    """Rules that have something to say; `kubectl mesh explain scaling` has all of them."""
    loud = [each for each in scaling.get("rules") or () if each["state"] in LOUD]
    for number, rule in enumerate(loud):
        yield "" if number else "scaling", f"{rule['action']} {rule['state'].lower()}: {rule.get('message', '')}"


def _joined(cluster: Json) -> Iterator[tuple[str, str]]:
    """How it stands to the other clusters of the mesh."""
    if network := cluster.get("network"):
        yield "network", network
    for number, remote in enumerate(cluster.get("remotes") or ()):
        ends = f", by a token until {remote['tokenExpires']}" if remote.get("tokenExpires") else ""
        yield "" if number else "reads", f"{remote['name']}: {remote['synced']} of istiod in sync{ends}"
    for number, reach in enumerate(cluster.get("reaches") or ()):
        yield "" if number else "reaches", f"{reach['name']}: {_reach(reach)}"


def _reach(reach: Json) -> str:
    if reach["passed"]:
        return f"requests pass, {reach.get('latency', '?')} in the median, verified {reach.get('lastPass', '?')}"
    last = f"; they did pass {reach['lastPass']}" if reach.get("lastPass") else ""
    return f"requests fail: {reach.get('message', 'not all pass yet')}{last}"


def _share(plane: Json) -> str:
    parts = [f", size {plane['size']}"] if plane.get("size") else []
    resources = plane.get("resources") or {}
    for kind, says in (("requests", "requests"), ("limits", "at most")):
        if quantities := resources.get(kind):
            parts.append(f", {says} {quantities.get('cpu', '?')} CPU and {quantities.get('memory', '?')}")
    return "".join(parts)


def _proxies(cluster: Json) -> str:
    versions = [
        f"{each['count']} of {each['version']} at revision {each['revision']}"
        for each in cluster.get("proxyVersions") or ()
    ]
    total = f"{cluster.get('proxies', 0)} pods with a sidecar"
    return total + (f"; connected: {', '.join(versions)}" if versions else "")


def _injection(injection: Json) -> Iterator[tuple[str, str]]:
    expected, missing, outdated = (injection.get(name, 0) for name in ("expected", "missing", "outdated"))
    wrong = [f"{missing} without one" if missing else "", f"{outdated} with an old one" if outdated else ""]
    says = ", ".join(filter(None, wrong)) or "all have it" if expected else ""
    yield "injection", f"{expected} pods are to have a sidecar{f': {says}' if says else ''}"
    named = list(injection.get("pods") or ())
    for pod in named[:NAMED]:
        yield "", pod
    if (more := missing + outdated - len(named[:NAMED])) > 0 and named:
        yield "", f"and {more} more: `kubectl mesh proxies --missing`"


def _certificates(cluster: Json, now: dt.datetime) -> Iterator[tuple[str, str]]:
    trust = cluster.get("trust") or {}
    ends = [
        f"{name} ends {trust[field][:10]} ({left(trust[field], now)})"
        for name, field in (("root", "rootExpires"), ("intermediate", "intermediateExpires"))
        if trust.get(field)
    ]
    primary = cluster.get("primary")
    yield "certificates", ", ".join(ends) or (f"those of cluster {primary}" if primary else "not made yet")
    if workload := cluster.get("workloadCertificates"):
        hours = int((_moment(workload["expires"]) - now).total_seconds() // 3600)
        says = f"{hours} h left" if hours >= 0 else "ended"
        asked = f"{workload['read']} of {workload['of']} proxies were asked"
        yield "", f"the earliest of a workload: {workload['earliest']}, {says} ({asked})"


def left(moment: str, now: dt.datetime) -> str:
    seconds = (_moment(moment) - now).total_seconds()
    return f"in {span(seconds)}" if seconds > 0 else f"{span(-seconds)} ago"


def age(moment: str | None, now: dt.datetime) -> str:
    """Since then, as kubectl has it: `3d`."""
    return span(max((now - _moment(moment)).total_seconds(), 0)) if moment else ""


def span(seconds: float) -> str:
    """In the largest unit of which there are two, as kubectl does: `90m`, `47h`, `2d`."""
    for size, unit in UNITS:
        if seconds >= 2 * size or size == 1:
            return f"{int(seconds // size)}{unit}"
    raise AssertionError(seconds)  # pragma: no cover


def _moment(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)
