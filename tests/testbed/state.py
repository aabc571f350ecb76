"""The record of a running bed, by which `down` removes it whatever became of the process that started it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .plan import BedPlan, check_name, plan_bed

DEATH_SECONDS = 30
_MADE = "made-folders.json"


def state_folder() -> Path:
    """`$MESHWRIGHT_TESTBED_STATE`, or `/var/lib/meshwright-testbed`; on a disk, for images lie below."""
    return Path(os.environ.get("MESHWRIGHT_TESTBED_STATE", "/var/lib/meshwright-testbed"))


def bed_folder(name: str) -> Path:
    return state_folder() / check_name(name)


@dataclass(frozen=True)
class Process:
    """A process that stays the same one: its id, and its start in clock ticks, because ids are used again."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Process:
        return cls(pid, _started(pid) or 0)

    def alive(self) -> bool:
        return _started(self.pid) == self.started

    def kill(self) -> None:
        """Ends it for certain and waits until it is gone; with the first process of a node, the node."""
        if self.alive():
            try:
                os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                return
        deadline = time.monotonic() + DEATH_SECONDS
        while self.alive() and time.monotonic() < deadline:
            time.sleep(0.02)


@dataclass(frozen=True)
class NodeProcesses:
    """The first process of a node, and the one outside that made its namespaces and ends with it."""

    init: Process
    parent: Process


@dataclass
class BedState:
    """The record of a bed. With an owner the bed lives as long as that process; without one until `down`."""

    name: str
    index: int
    clusters: int
    nodes: int
    flat: bool
    owner: Process | None
    processes: dict[str, NodeProcesses] = field(default_factory=dict)

    @property
    def plan(self) -> BedPlan:
        return plan_bed(self.name, self.index, clusters=self.clusters, nodes=self.nodes, flat=self.flat)

    @property
    def folder(self) -> Path:
        return bed_folder(self.name)

    def orphaned(self) -> bool:
        return self.owner is not None and not self.owner.alive()

    def running(self) -> bool:
        nodes = self.plan.nodes
        return len(self.processes) == len(nodes) and all(node.init.alive() for node in self.processes.values())

    def save(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        unfinished = self.folder / "state.json.part"
        unfinished.write_text(json.dumps(asdict(self), indent=2))
        unfinished.rename(self.folder / "state.json")

    @classmethod
    def load(cls, name: str) -> BedState | None:
        try:
            content = json.loads((bed_folder(name) / "state.json").read_text())
        except FileNotFoundError:
            return None
        owner = content.pop("owner")
        processes = content.pop("processes")
        return cls(
            **content,
            owner=Process(**owner) if owner else None,
            processes={
                node: NodeProcesses(Process(**entry["init"]), Process(**entry["parent"]))
                for node, entry in processes.items()
            },
        )


def all_beds() -> list[BedState]:
    if not state_folder().is_dir():
        return []
    found = (BedState.load(folder.name) for folder in sorted(state_folder().iterdir()) if folder.is_dir())
    return [state for state in found if state is not None]


@contextmanager
def registry_lock() -> Iterator[None]:
    """Held while an index is given out or a bed is removed. A lock on the parent folder leaves no file behind."""
    folder = os.open(state_folder().parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def make_mount_points(paths: Iterable[str]) -> None:
    """Makes the folders that nodes mount their own over, and notes which ones the machine did not have."""
    note = state_folder() / _MADE
    made: list[str] = json.loads(note.read_text()) if note.exists() else []
    for path in map(Path, paths):
        missing = [str(folder) for folder in (path, *path.parents) if not folder.exists()]
        made += missing
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(made))  # before they exist: a crash must not hide them
        path.mkdir(parents=True, exist_ok=True)


def made_mount_points() -> list[Path]:
    note = state_folder() / _MADE
    return [Path(path) for path in json.loads(note.read_text())] if note.exists() else []


def forget(name: str) -> None:
    """Removes the record and every file of a bed; with the last one all that beds have in common."""
    shutil.rmtree(bed_folder(name), ignore_errors=True)
    if not state_folder().is_dir() or any(entry.is_dir() for entry in state_folder().iterdir()):
        # Removing a folder that is mounted over in another bed's node would take the mount away from it.
        return
    for path in sorted(set(made_mount_points()), key=lambda path: len(path.parts), reverse=True):
        with suppress(OSError):  # somebody else keeps something in it
            path.rmdir()
    shutil.rmtree(state_folder(), ignore_errors=True)


def _started(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat; a zombie does not count as alive."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])
