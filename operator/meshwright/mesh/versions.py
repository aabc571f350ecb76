"""Which versions of Istio this Meshwright installs, and which way leads from one to another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self


class Version(NamedTuple):
    major: int
    minor: int
    patch: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `1.31.4`. Raises ValueError."""
        major, minor, patch = text.split(".")
        return cls(int(major), int(minor), int(patch))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


@dataclass(frozen=True)
class Support:
    """A row: a minor that we render for, and what was proven for it."""

    minor: tuple[int, int]
    proven: str


SUPPORTED = (Support((1, 31), proven="installed, injected and sent traffic through in the end-to-end tests"),)


def objection(wanted: str, installed: str | None) -> str | None:
    """Why `wanted` cannot be installed (over `installed`), with the next step; None when it can."""
    version = Version.parse(wanted)
    minors = [f"{row.minor[0]}.{row.minor[1]}" for row in SUPPORTED]
    if version[:2] not in [row.minor for row in SUPPORTED]:
        return f"spec.version {wanted} is not supported by this Meshwright: choose a patch of {' or '.join(minors)}"
    if installed is None:
        return None
    running = Version.parse(installed)
    if version.major != running.major or version.minor - running.minor not in (0, 1):
        return (
            f"spec.version {wanted} cannot be reached from the running {installed}:"
            f" go to another patch of {running.major}.{running.minor} or to {running.major}.{running.minor + 1}"
        )
    return None
