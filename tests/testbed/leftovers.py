"""What remains of beds that are not running: the proof that `down` removes every trace."""

from __future__ import annotations

import os
from pathlib import Path

from . import cgroups, network
from .node import MARK
from .state import all_beds, made_mount_points, state_folder


def leftovers(name: str | None = None) -> list[str]:
    """One line for every process, interface, control group, mount and folder of bed `name`, running or not.

    Without a name: of all beds but the running ones.
    """
    running = {state.name for state in all_beds() if state.running()}
    found = [*_processes(), *_interfaces(), *_control_groups(), *_mounts(), *_folders()]
    lines = [line for bed, line in found if (bed == name if name else bed not in running)]
    if not name and not running:
        lines += [f"folder {path}" for path in made_mount_points() if path.exists()]
    return lines


def _processes() -> list[tuple[str, str]]:
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or folder.name == str(os.getpid()):
            continue
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
            program = (folder / "comm").read_text().strip()
        except OSError:  # it ended in the meantime
            continue
        beds = [entry.partition(b"=")[2].decode() for entry in environment if entry.startswith(f"{MARK}=".encode())]
        found += [(bed, f"process {folder.name} ({program})") for bed in beds]
    return found


def _interfaces() -> list[tuple[str, str]]:
    return [(bed, f"interface {interface}") for bed, interface in network.existing()]


def _control_groups() -> list[tuple[str, str]]:
    return [(group.name, f"control group {group}") for group in cgroups.existing()]


def _mounts() -> list[tuple[str, str]]:
    root = f"{state_folder()}/"
    places = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [
        (place.removeprefix(root).partition("/")[0], f"mount {place}") for place in places if place.startswith(root)
    ]


def _folders() -> list[tuple[str, str]]:
    if not state_folder().is_dir():
        return []
    return [(entry.name, f"folder {entry}") for entry in state_folder().iterdir() if entry.is_dir()]
