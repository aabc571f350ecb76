"""`kubectl mesh explain scaling`: what each scaling rule says, why it acted or not, and what comes next."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from meshwright.api.scaling import RuleState
from meshwright.cli.kubeconfig import Access
from meshwright.cli.output import document
from meshwright.cli.server import Server
from meshwright.cli.status import NOTHING, age
from meshwright.cli.terminal import Terminal, Tone

Json = Mapping[str, Any]

TONES = {
    RuleState.QUIET: Tone.GOOD, RuleState.OFF: Tone.FAINT, RuleState.UNARMED: Tone.FAINT,
    RuleState.NO_DATA: Tone.NEWS, RuleState.PENDING: Tone.WARN, RuleState.ACTING: Tone.WARN,
    RuleState.HELD: Tone.WARN, RuleState.STANDING: Tone.WARN, RuleState.CLEARING: Tone.GOOD,
    RuleState.RECOMMENDED: Tone.WARN,
}  # fmt: skip
STANDING = ("Acting", "Verifying", "Verified", "Ineffective", "Undoing", "Recommended")
LATEST = 5


def run(name: str | None, *, access: Access, output: str, terminal: Terminal) -> int:
    with Server(access) as server:
        meshes, _ = server.meshes(name)
        actions = server.actions()
    if output != "text":
        print(document([as_document(each, actions) for each in meshes], output), end="")
        return 0
    now = dt.datetime.now(dt.UTC)
    blocks = ["\n".join(lines(each, actions, now=now, terminal=terminal)) for each in meshes]
    print("\n\n".join(blocks or [NOTHING]))
    return 0


def as_document(mesh: Json, actions: Sequence[Json]) -> dict[str, Any]:
    clusters = (mesh.get("status") or {}).get("clusters") or ()
    return {
        "name": mesh["metadata"]["name"],
        "clusters": [{"name": each["name"], **(each.get("scaling") or {})} for each in clusters],
        "actions": [
            {"name": each["metadata"]["name"], **each["spec"], **(each.get("status") or {})}
            for each in actions
            if each["spec"]["mesh"] == mesh["metadata"]["name"]
        ],
    }


def lines(mesh: Json, actions: Sequence[Json], *, now: dt.datetime, terminal: Terminal) -> Iterator[str]:
    name = mesh["metadata"]["name"]
    yield terminal.paint(f"Mesh {name}", Tone.BOLD)
    clusters = [each for each in (mesh.get("status") or {}).get("clusters") or () if each.get("scaling")]
    if not clusters:
        yield f"  {terminal.mark(Tone.NEWS)} nothing was measured yet"
    for cluster in clusters:
        yield ""
        yield from _cluster(cluster, now=now, terminal=terminal)
    mine = [each for each in actions if each["spec"]["mesh"] == name]
    yield ""
    yield terminal.paint("Actions", Tone.BOLD) + terminal.paint(" (kubectl get meshactions)", Tone.FAINT)
    if not mine:
        yield f"  {terminal.mark(Tone.FAINT)} none was taken or recommended"
        return
    standing = [each for each in mine if _phase(each) in STANDING]
    ended = [each for each in mine if _phase(each) not in STANDING]
    for each in [*ended[-LATEST:], *standing]:
        yield from _action(each, now=now, terminal=terminal)


def _cluster(cluster: Json, *, now: dt.datetime, terminal: Terminal) -> Iterator[str]:
    scaling, plane = cluster["scaling"], cluster.get("controlPlane") or {}
    written = f", as of {_ago(scaling['written'], now)}" if scaling.get("written") else ""
    yield terminal.paint(f"Cluster {cluster['name']}", Tone.BOLD) + terminal.paint(written, Tone.FAINT)
    facts = [("size", f"{plane.get('size') or 'not rolled out yet'}, {plane.get('replicas', 0)} replicas")]
    facts.append(("next", scaling.get("nextSize", "")))
    if back := scaling.get("reconnects"):
        text = f"{back['oneReplica']} after one replica is lost, {back['restart']} after all of them were restarted"
        facts.append(("proxies return", text))
    if scaling.get("estimate"):
        facts.append(("estimate", scaling["estimate"]))
    yield from terminal.table(facts, indent=2, tones=(Tone.FAINT,))
    yield ""
    rows, marks = [], []
    for rule in scaling.get("rules") or ():
        marks.append(TONES.get(rule["state"], Tone.NEWS))
        since = f" ({_ago(rule['since'], now)})" if rule.get("since") else ""
        rows.append((rule["action"], rule["state"], _value(rule), rule.get("message", "") + since))
    yield from terminal.table(rows, indent=2, marks=marks, tones=(Tone.BOLD,))


def _value(rule: Json) -> str:
    if rule.get("value") is None:
        return "-"
    threshold = f" of {rule['threshold']:g}" if rule.get("threshold") is not None else ""
    return f"{rule['value']:g}{threshold} {rule.get('unit', '')}".strip()


def _action(action: Json, *, now: dt.datetime, terminal: Terminal) -> Iterator[str]:
    spec, status, phase = action["spec"], action.get("status") or {}, _phase(action)
    tone = Tone.WARN if phase in STANDING else Tone.FAINT
    when = terminal.paint(f" {_ago(spec['decided'], now)}", Tone.FAINT)
    name = terminal.paint(action["metadata"]["name"], Tone.BOLD)
    yield f"  {terminal.mark(tone)} {name} {phase}{when}"
    facts = [("because", spec["reason"])]
    if status.get("message"):
        facts.append(("since then", status["message"]))
    if spec.get("undo") and phase in STANDING:
        facts.append(("undone", spec["undo"]))
    yield from terminal.table(facts, indent=6, tones=(Tone.FAINT,))
    if spec.get("proposal") and phase in STANDING:
        yield from (f"      {line}" for line in spec["proposal"].rstrip().splitlines())


def _phase(action: Json) -> str:
    return str((action.get("status") or {}).get("phase", "Acting"))


def _ago(moment: str, now: dt.datetime) -> str:
    return f"{age(moment, now)} ago"
