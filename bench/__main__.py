"""`python -m bench [NAME]`: every benchmark, or one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable

from bench import (
    clusters,
    crowd,
    events,
    idle,
    install,
    join,
    members,
    memory,
    pods,
    render,
    start,
    status,
    takeover,
    traces,
)
from bench.figure import Figure
from testbed.console import TestbedError

BENCHMARKS: dict[str, Callable[[], Iterable[Figure]]] = {
    "render": render.figures,
    "start": start.figures,
    "memory": memory.figures,
    "idle": idle.figures,
    "takeover": takeover.figures,
    "events": events.figures,
    "pods": pods.figures,
    "crowd": crowd.figures,
    "status": status.figures,
    "install": install.figures,
    "join": join.figures,
    "rotation": clusters.rotation,
    "failover": clusters.failover,
    "drain": clusters.drain,
    "members": members.figures,
    "traces": traces.figures,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("name", nargs="?", choices=BENCHMARKS, help="only this one")
    only = parser.parse_args().name
    try:
        for name, figures in BENCHMARKS.items():
            if only in (None, name):
                for figure in figures():
                    print(figure, flush=True)
    except TestbedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
