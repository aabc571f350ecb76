"""The control groups of a bed's pods: `/meshwright-testbed/<bed>/<node>` in every hierarchy of the machine.

Works on version 1 (one hierarchy a controller, the kind measured) and on version 2 (one for all; written from
the kernel's documentation, not exercised yet).
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

ROOT = "meshwright-testbed"


def cgroup_of(bed: str, node: str) -> str:
    """As the kubelet's `cgroupRoot` wants it."""
    return f"/{ROOT}/{bed}/{node}"


def create(bed: str, node: str) -> None:
    """Makes the node's group everywhere; the kubelet checks that it exists in every controller."""
    for hierarchy, version in _hierarchies():
        group = hierarchy
        for part in (ROOT, bed, node):
            _pass_controllers_on(group, version)
            group = group / part
            group.mkdir(exist_ok=True)
            _inherit_cpuset(group)
        _pass_controllers_on(group, version)


def remove(bed: str) -> None:
    """Removes the groups of all nodes of a bed; their processes have ended before."""
    for hierarchy, _ in _hierarchies():
        _remove_tree(hierarchy / ROOT / bed)
        with suppress(OSError):  # other beds, or not there
            (hierarchy / ROOT).rmdir()


def existing(bed: str | None = None) -> list[Path]:
    groups = [
        group for hierarchy, _ in _hierarchies() for group in (hierarchy / ROOT).glob(bed or "*") if group.is_dir()
    ]
    return sorted(groups)


def _remove_tree(group: Path) -> None:
    for folder, _, _ in os.walk(group, topdown=False):
        for _ in range(50):
            try:
                Path(folder).rmdir()
                break
            except FileNotFoundError:
                break
            except OSError:  # the kernel lets go of a group a moment after its last process
                time.sleep(0.02)


def _hierarchies() -> list[tuple[Path, int]]:
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found = []
    for mount in mounts:
        left, _, right = mount.partition(" - ")
        kind, place = right.split()[0], Path(left.split()[4])
        if kind == "cgroup":
            found.append((place, 1))
        elif kind == "cgroup2":
            found.append((place, 2))
    return found


def _pass_controllers_on(group: Path, version: int) -> None:
    """Version 2: a controller is available in a group if its parent lists it."""
    control = group / "cgroup.subtree_control"
    if version == 2 and control.exists():
        for controller in (group / "cgroup.controllers").read_text().split():
            with suppress(OSError):  # threaded or busy controllers stay with the parent
                control.write_text(f"+{controller}")


def _inherit_cpuset(group: Path) -> None:
    """Version 1: a new cpuset is empty, and no process can enter it."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        own, parent = group / name, group.parent / name
        if own.exists() and parent.exists() and "cpuset" in group.parts and not own.read_text().strip():
            own.write_text(parent.read_text())
