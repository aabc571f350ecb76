"""What a look at a mesh found: a documented reason, and a sentence about it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """`reason` is one of `api.conditions.REASONS`; the row there says which condition it belongs to."""

    reason: str
    message: str
