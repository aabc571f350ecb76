"""Who decides how many replicas of istiod there are: the size's row, or an autoscaler while there is one.

Nothing is remembered but one annotation on the Deployment (`meshwright.dev/replicas`), so that every process, also one
that has just started, decides the same. To switch an autoscaler on or off never lowers the replicas:

| autoscaler | annotation | replicas that we declare | annotation that we declare |
| --- | --- | --- | --- |
| there | any | none: they are the autoscaler's | `autoscaled` |
| gone | `autoscaled`, more replicas live than the size asks for | those that are live | `N/size S` |
| gone | `N/size S`, and the size still asks for S | N | `N/size S` |
| gone | anything else, or none | the size's | none |

So what an autoscaler added stays until the size itself is changed: that is a declared change, and may lower. Without an
autoscaler, `kubectl scale` is drift, and taken back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

AUTOSCALED = "autoscaled"
KEPT = re.compile(r"([0-9]{1,9})/size ([0-9]{1,9})")


@dataclass(frozen=True)
class Kept:
    """Replicas of an autoscaler's time, kept as long as the size asks for as many as it did at the end of it."""

    replicas: int
    size: int

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """From `5/size 2`; None for any other text, also for one that would lower the replicas."""
        if not (match := KEPT.fullmatch(text)):
            return None
        kept = cls(int(match[1]), int(match[2]))
        return kept if kept.replicas > kept.size else None

    def __str__(self) -> str:
        return f"{self.replicas}/size {self.size}"


@dataclass(frozen=True)
class Decision:
    replicas: int | None  # to declare; None: they are not ours, but a Deployment is born with the size's
    annotation: str | None = None  # the value to declare; None: no annotation


def declared(*, size: int, live: int | None, autoscaled: bool, annotation: str | None) -> Decision:
    """What to declare for a Deployment of istiod.

    `size`: the replicas that the size's row asks for. `live`: those of the live Deployment's spec, None when there is
    no Deployment. `autoscaled`: a HorizontalPodAutoscaler targets it. `annotation`: the value that it carries.
    """
    if autoscaled:
        return Decision(None, AUTOSCALED)
    kept = Kept.parse(annotation or "")
    if annotation == AUTOSCALED and live is not None and live > size:
        kept = Kept(live, size)
    if kept and kept.size == size:
        return Decision(kept.replicas, str(kept))
    return Decision(size)
