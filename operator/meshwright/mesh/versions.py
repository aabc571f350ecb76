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
    tested: bool  # by running it; one that is not needs spec.allowUntestedVersion
    proven: str

    def __str__(self) -> str:
        return f"{self.minor[0]}.{self.minor[1]}"


SUPPORTED = (
    Support((1, 31), tested=True, proven="installed, injected and sent traffic through in the end-to-end tests"),
    Support((1, 30), tested=False, proven="rendered, and checked against its `istio.io/api`; never run"),
    Support((1, 29), tested=False, proven="rendered, and checked against its `istio.io/api`; never run"),
)


def objection(wanted: str, installed: str | None, *, allow_untested: bool = False) -> str | None:
    """Why `wanted` cannot be installed (over `installed`), with the next step; None when it can."""
    version = Version.parse(wanted)
    row = next((row for row in SUPPORTED if row.minor == version[:2]), None)
    if row is None:
        tested = " or ".join(str(each) for each in SUPPORTED if each.tested)
        return f"spec.version {wanted} is not supported by this Meshwright: choose a patch of {tested}"
    if not row.tested and not allow_untested:
        return (
            f"spec.version {wanted}: Istio {row} was {row.proven.replace('`', '')}: choose a patch of"
            f" {' or '.join(str(each) for each in SUPPORTED if each.tested)}, or set spec.allowUntestedVersion: true"
        )
    if installed is None:
        return None
    running = Version.parse(installed)
    if is_too_far(running, version):
        return (
            f"spec.version {wanted} cannot be reached from the running {installed}:"
            f" go to another patch of {running.major}.{running.minor} or to {running.major}.{running.minor + 1}"
        )
    return None


def is_too_far(running: Version, wanted: Version) -> bool:
    """Whether no single step leads there: within a minor all patches are one apart, and so is the next minor."""
    return wanted.major != running.major or wanted.minor - running.minor not in (0, 1)
