"""What the campaign did: one counter of transitions, and the figures that its tests leave for the summary.

A transition is a change of the spec, a drift, a restart or an obstacle after which the mesh was settled and checked.
Those that were settled together are counted together, once, when the check has passed.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Tally:
    started: float = field(default_factory=time.monotonic)
    transitions: Counter[str] = field(default_factory=Counter)  # by kind
    paths: int = 0  # that ended as a fresh install
    silent_looks: int = 0  # reconciles after them, none of which wrote anything
    figures: list[str] = field(default_factory=list)

    def settled(self, *kinds: str) -> None:
        self.transitions.update(kinds)

    def say(self, figure: str) -> None:
        self.figures.append(figure)

    def __str__(self) -> str:
        kinds = ", ".join(f"{number} {kind}" for kind, number in self.transitions.most_common())
        seconds = time.monotonic() - self.started
        return f"transitions: {self.transitions.total()} in {seconds:.0f} s ({kinds})"
