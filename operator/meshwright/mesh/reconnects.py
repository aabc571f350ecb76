"""How long proxies take to be connected again: istiod admits only so many new streams in a second."""

from __future__ import annotations

from meshwright.mesh import quantity
from meshwright.mesh.sizing import Sizing

BEARABLE = 30.0  # seconds


def admitted(cores: float) -> float:
    """New streams that a replica takes in a second (istiod's own default for `PILOT_MAX_REQUESTS_PER_SECOND`)."""
    return min(15 + 5 * cores, 100)


def after_one_lost(proxies: int, replicas: int, cores: float) -> float:
    """Seconds until the proxies of a lost replica are spread over the others; its successor, if it was the only one."""
    if replicas <= 1:
        return after_restart(proxies, 1, cores)
    return proxies / replicas / (admitted(cores) * (replicas - 1))


def after_restart(proxies: int, replicas: int, cores: float) -> float:
    """Seconds until all proxies are connected when all replicas were restarted at once."""
    return proxies / (admitted(cores) * max(replicas, 1))


def is_bearable(proxies: int, sizing: Sizing) -> bool:
    cores = float(quantity.parse(sizing.share.limits.cpu))
    worst = max(
        after_one_lost(proxies, sizing.replicas, cores), after_restart(proxies, sizing.replicas, cores)
    )  # fmt: skip
    return worst <= BEARABLE
