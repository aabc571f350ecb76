"""`kubectl mesh diff`: line by line, the objects as they are against as they would be."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from meshwright.cli.kubeconfig import Access
from meshwright.cli.noise import bare
from meshwright.cli.output import as_yaml, document
from meshwright.cli.plan import DIFFERENT_CODE, SAME_CODE
from meshwright.cli.terminal import Terminal, Tone
from meshwright.cli.trial import Trial, trials
from meshwright.mesh.blast import Action, Change

TONES = {"+": Tone.GOOD, "-": Tone.BAD, "@": Tone.NEWS}


def run(
    name: str | None, *, file: str | None, access: Access, operator_namespace: str, output: str, crds: bool,
    terminal: Terminal,
) -> int:  # fmt: skip
    found = trials(name, file=file, access=access, operator_namespace=operator_namespace)
    if output == "text":
        for trial in found:
            for line in lines(trial, terminal, crds=crds):
                print(line)
    else:
        print(document([summary(each, crds=crds) for each in found], output), end="")
    return DIFFERENT_CODE if any(each.differs for each in found) else SAME_CODE


def summary(trial: Trial, *, crds: bool) -> dict[str, Any]:
    """What `-o json` prints of each mesh and cluster: documented, and only ever added to."""
    return {
        "mesh": trial.mesh.name,
        "cluster": trial.cluster,
        "objects": [
            {
                "action": str(each.action), "apiVersion": each.key.api_version, "kind": each.key.kind,
                "namespace": each.key.namespace, "name": each.key.name,
                **({"before": bare(each.before), "after": bare(each.after)} if crds or not is_crd(each) else {}),
            }
            for each in trial.changes
            if each.action is not Action.LEAVE
        ],
    }  # fmt: skip


def is_crd(change: Change) -> bool:
    return change.key.kind == "CustomResourceDefinition"


def lines(trial: Trial, terminal: Terminal, *, crds: bool) -> Iterator[str]:
    for change in trial.changes:
        if change.action is Action.LEAVE:
            continue
        if is_crd(change) and not crds:
            yield terminal.paint(f"# {change.action} {change.key}: not shown without --crds", Tone.FAINT)
            continue
        found = list(unified(change))
        if not found:
            yield terminal.paint(f"# {change.action} {change.key}: only whose fields they are", Tone.FAINT)
        for line in found:
            head = line.startswith(("--- ", "+++ "))
            yield terminal.paint(line, Tone.BOLD) if head else terminal.paint(line, *_tones(line))


def unified(change: Change) -> Iterator[str]:
    """The lines of a unified diff; those of an object that is deleted tell its name only."""
    before, after = (as_yaml(bare(each)).splitlines() if each else [] for each in (change.before, change.after))
    names = (f"live/{change.key}" if before else "/dev/null", f"declared/{change.key}" if after else "/dev/null")
    return (line.rstrip("\n") for line in difflib.unified_diff(before, after, *names, lineterm=""))


def _tones(line: str) -> tuple[Tone, ...]:
    return (TONES[line[0]],) if line[:1] in TONES else ()
