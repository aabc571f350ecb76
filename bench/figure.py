"""A figure: one line that says what was measured, what we aim at, and what the alternative takes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    name: str
    value: float
    unit: str
    goal: str
    peer: str

    def __str__(self) -> str:
        return f"{self.name} {self.value:.3g} {self.unit} (goal {self.goal}, peer {self.peer})"
