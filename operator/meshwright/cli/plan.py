"""`kubectl mesh plan`: what the operator would change, and the blast radius."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

from meshwright.cli.kubeconfig import Access
from meshwright.cli.noise import bare, paths
from meshwright.cli.output import document
from meshwright.cli.terminal import Terminal, Tone
from meshwright.cli.trial import Trial, trials
from meshwright.mesh.blast import Action, Blast, Change, How, template_changes

SAME_CODE, DIFFERENT_CODE = 0, 2
SIGNS = {
    Action.CREATE: ("+", Tone.GOOD), Action.CHANGE: ("~", Tone.WARN), Action.DELETE: ("-", Tone.BAD),
    Action.LEAVE: ("=", Tone.FAINT),
}  # fmt: skip
NAMED_PATHS = 4
CRD = "CustomResourceDefinition"
BINARY = (("Gi", 2**30), ("Mi", 2**20), ("Ki", 2**10), ("", 1))


def run(
    name: str | None, *, file: str | None, access: Access, operator_namespace: str, output: str, terminal: Terminal
) -> int:
    found = trials(name, file=file, access=access, operator_namespace=operator_namespace)
    if output == "text":
        print("\n\n".join("\n".join(lines(each, terminal)) for each in found))
    else:
        print(document([summary(each) for each in found], output), end="")
    return DIFFERENT_CODE if any(each.differs for each in found) else SAME_CODE


def summary(trial: Trial) -> dict[str, Any]:
    """What `-o json` prints of each mesh and cluster: documented, and only ever added to."""
    radius = trial.blast
    return {
        "mesh": trial.mesh.name,
        "cluster": trial.cluster,
        "counts": counts(trial),
        "changes": [
            {
                "action": str(each.action), "apiVersion": each.key.api_version, "kind": each.key.kind,
                "namespace": each.key.namespace, "name": each.key.name, "paths": changed_paths(each),
            }
            for each in trial.changes
        ],
        "blastRadius": {
            "podsRestarted": radius.pods_restarted,
            "restarts": [{"object": str(each.key), "pods": each.pods} for each in radius.restarts],
            "podsAdded": radius.pods_added,
            "proxiesTouched": radius.proxies_touched,
            "proxies": [
                {"how": each.how.name.lower(), "count": each.proxies, "why": each.why} for each in radius.touches
            ],
            "requestsAdded": {"cores": float(radius.added.cpu), "bytes": int(radius.added.memory)},
            "deleted": [str(each) for each in radius.deleted],
        },
        "notes": list(trial.notes),
    }  # fmt: skip


def counts(trial: Trial) -> dict[str, int]:
    found = Counter(each.action for each in trial.changes)
    return {**{str(action): found[action] for action in Action}, "unchanged": trial.unchanged}


def changed_paths(change: Change) -> list[str]:
    if change.action is not Action.CHANGE:
        return []
    return list(paths(bare(change.before), bare(change.after)))


# What people read


def lines(trial: Trial, terminal: Terminal) -> Iterator[str]:
    mesh = trial.mesh
    facts = f"Istio {mesh.spec.version}, revision {mesh.spec.revision}, namespace {mesh.spec.namespace}"
    yield f"{terminal.paint(f'Mesh {mesh.name}', Tone.BOLD)} in cluster {trial.cluster}: {facts}"
    if trial.changes:
        yield ""
        yield from all_changes(trial.changes, terminal)
    if trial.notes:
        yield ""
        for note in trial.notes:
            yield from terminal.lines(note, indent=4, first=f"  {terminal.mark(Tone.WARN)} ")
    if trial.differs:
        yield ""
        yield terminal.paint("Blast radius", Tone.BOLD)
        yield from terminal.table(list(radius_rows(trial.blast)), indent=2)
    yield ""
    yield terminal.paint(verdict(trial), Tone.BOLD)


def all_changes(changes: Sequence[Change], terminal: Terminal) -> Iterator[str]:
    """A line for each; one for all of Istio's kinds, which come and change together."""
    of_crds = Counter(each.action for each in changes if each.key.kind == CRD)
    for change in changes:
        count = of_crds[change.action] if change.key.kind == CRD else 1
        if count == 1:
            yield from change_lines(change, terminal)
        elif count > 1:
            yield f"  {_verb(change, terminal)} {count} {CRD}s"
            of_crds[change.action] = 0


def _verb(change: Change, terminal: Terminal) -> str:
    sign, tone = SIGNS[change.action]
    return terminal.paint(f"{sign} {change.action:6}", tone)


def change_lines(change: Change, terminal: Terminal) -> Iterator[str]:
    yield f"  {_verb(change, terminal)} {change.key}"
    if why := reason(change):
        yield from (terminal.paint(line, Tone.FAINT) for line in terminal.lines(why, indent=11))


def reason(change: Change) -> str:
    if change.action is Action.LEAVE:
        return "an annotation takes it out of the operator's hands"
    if change.action is not Action.CHANGE:
        return ""
    found = changed_paths(change)
    if not found:
        return "only whose fields they are"
    named = ", ".join(found[:NAMED_PATHS])
    more = f" and {len(found) - NAMED_PATHS} more" if len(found) > NAMED_PATHS else ""
    return named + more + (": its pods are replaced" if template_changes(change) else "")


def radius_rows(radius: Blast) -> Iterator[tuple[str, str, str]]:
    restarts = ", ".join(f"{each.key} ({each.pods})" for each in radius.restarts)
    yield "pods that restart", str(radius.pods_restarted), restarts
    if radius.pods_added:
        yield "pods added", signed(str(radius.pods_added)), ""
    if not radius.touches:
        yield "proxies touched", "0", ""
    for touch in sorted(radius.touches, key=lambda each: list(How).index(each.how)):
        yield (
            "proxies touched" if touch.how is not How.RESTART else "proxies later",
            str(touch.proxies),
            (f"{touch.how} ({touch.why})"),
        )
    yield "CPU added", signed(cores(radius.added.cpu)), ""
    yield "memory added", signed(size(radius.added.memory)), ""
    if radius.deleted:
        yield "deleted", str(len(radius.deleted)), ", ".join(map(str, radius.deleted))


def verdict(trial: Trial) -> str:
    found = counts(trial)
    if not trial.differs and not trial.unchanged:
        return "Nothing would be done here."
    if not trial.differs:
        return f"Nothing would change: {found['unchanged']} objects are as declared."
    return (
        f"Plan: {found['create']} to create, {found['change']} to change, {found['delete']} to delete,"
        f" {found['unchanged']} unchanged. Nothing was written."
    )


def cores(number: Fraction) -> str:
    return f"{float(number):.3g}"


def size(number: Fraction) -> str:
    """In the largest unit of which there is one, as `4Gi`, `23.9Gi`, `-512Mi`."""
    unit, factor = next((each for each in BINARY if abs(number) >= each[1]), BINARY[-1])
    return f"{float(number / factor):.3g}{unit}"


def signed(text: str) -> str:
    return text if text.startswith("-") or text == "0" else f"+{text}"
