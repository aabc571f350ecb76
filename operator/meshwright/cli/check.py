"""`kubectl mesh check`: whether the clusters of a MeshInstall can be joined, before it is applied."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from meshwright.api.meshinstall import MeshInstall
from meshwright.cli.kubeconfig import Access
from meshwright.cli.members import connect, sources
from meshwright.cli.output import document
from meshwright.cli.render import read
from meshwright.cli.terminal import Terminal, Tone
from meshwright.cli.trial import DryRun, declared, with_client
from meshwright.cluster.client import Client, Manifest
from meshwright.cluster.gather import gather
from meshwright.mesh.checks import first_finding
from meshwright.mesh.preflight import Failure, Result, preflight

PASSED_CODE, FAILED_CODE = 0, 2
SPEC = "MeshInstall"  # the row of the checks of what is written


@dataclass(frozen=True)
class Checked:
    mesh: MeshInstall
    results: tuple[Result, ...]

    @property
    def passed(self) -> bool:
        return all(each.passed for each in self.results)


def run(file: str, *, access: Access, operator_namespace: str, output: str, terminal: Terminal) -> int:
    written = list(read(file))
    for each in written:
        MeshInstall.parse(each)  # in plain words, before the API server says it in its own

    async def check_all(client: DryRun) -> list[Checked]:
        return [await checked(client, await declared(client, each), operator_namespace) for each in written]

    found = with_client(DryRun, access, check_all)
    if output == "text":
        print("\n\n".join("\n".join(lines(each, terminal)) for each in found))
    else:
        print(document([summary(each) for each in found], output), end="")
    return PASSED_CODE if all(each.passed for each in found) else FAILED_CODE


async def checked(client: Client, manifest: Manifest, operator_namespace: str) -> Checked:
    """By connections of our own to every cluster; nothing is written."""
    mesh = MeshInstall.parse(manifest)
    async with AsyncExitStack() as connections:
        members = await connect(client, mesh, operator_namespace, connections)
        observed = await gather(client, manifest, now=dt.datetime.now(dt.UTC), others=sources(members))
    finding = first_finding(observed)
    spec = Result(SPEC, (Failure("", finding.message),) if finding else ())
    return Checked(observed.mesh, (spec, *preflight(observed)))


def summary(found: Checked) -> dict[str, Any]:
    """What `-o json` prints of each mesh: documented, and only ever added to."""
    return {
        "mesh": found.mesh.name,
        "passed": found.passed,
        "checks": [
            {
                "name": each.name, "passed": each.passed,
                "failures": [{"cluster": one.cluster, "message": one.message} for one in each.failures],
            }
            for each in found.results
        ],
    }  # fmt: skip


def lines(found: Checked, terminal: Terminal) -> Iterator[str]:
    clusters = ", ".join(each.name for each in found.mesh.spec.members)
    yield f"{terminal.paint(f'Mesh {found.mesh.name}', Tone.BOLD)}: clusters {clusters}"
    yield ""
    rows = list(_rows(found.results))
    marks = [Tone.GOOD if passed else Tone.BAD for _, _, passed in rows]
    yield from terminal.table([(name, text) for name, text, _ in rows], indent=2, marks=marks)
    yield ""
    failed = sum(not each.passed for each in found.results)
    verdict = f"{failed} of {len(found.results)} checks fail." if failed else f"All {len(found.results)} checks pass."
    yield terminal.paint(f"{verdict} Nothing was written.", Tone.BOLD)


def _rows(results: Sequence[Result]) -> Iterator[tuple[str, str, bool]]:
    for result in results:
        if result.passed:
            yield result.name, "", True
        for number, failure in enumerate(result.failures):
            yield "" if number else result.name, failure.message, False
