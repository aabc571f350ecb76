"""Asks what runs in a cluster: every replica of istiod, and the proxies in turn."""

from __future__ import annotations

import asyncio
import datetime as dt
from dataclasses import dataclass, field

from meshwright.cluster.census import Census, Ports, ask
from meshwright.cluster.together import together
from meshwright.mesh.census import LOOK_SECONDS, Answer
from meshwright.mesh.desired import ControlPlane
from meshwright.mesh.evidence import Replies, configuration_finding
from meshwright.mesh.observed import Cluster

QUIET = dt.timedelta(seconds=LOOK_SECONDS - 1)  # looks are as far apart, give or take
GRACE = (0.2, 0.4, 0.8)  # seconds between the first questions about a new configuration
HASTE = dt.timedelta(seconds=2)


def _is_well(replies: Replies, plane: ControlPlane, cluster: Cluster) -> bool:
    return not replies.trouble and not configuration_finding(
        replies, plane.mesh_config, version=plane.version, cluster=cluster.name
    )


@dataclass
class _Last:
    """What was asked of a mesh's cluster, and what came back."""

    census: Census = field(default_factory=Census)
    question: object = None
    until: dt.datetime | None = None
    replies: Replies = field(default_factory=Replies)


class Inquiry:
    """Asks again at once when there is another pod or another configuration to ask about.

    Else after a quarter of a minute; sooner where a replica did not answer, or not as it should.
    """

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._last: dict[tuple[str, str], _Last] = {}

    async def look(self, mesh: str, plane: ControlPlane, cluster: Cluster, *, now: dt.datetime) -> Replies:
        """Never raises: what does not answer says so in the replies."""
        last = self._last.setdefault((mesh, cluster.name), _Last())
        question = (cluster.istiod_pods, plane.mesh_config)
        if question == last.question and last.until and now < last.until:
            return last.replies
        answers, earliest = await together(
            self._ask(plane, cluster, changed=question != last.question),
            last.census.look(self._ports, cluster.fleet, now=now),
        )
        replies = Replies(answers, earliest)
        well = _is_well(replies, plane, cluster)
        last.question, last.replies = question, replies
        last.until = now + (QUIET if well else HASTE)
        return replies

    async def _ask(self, plane: ControlPlane, cluster: Cluster, *, changed: bool) -> tuple[Answer, ...]:
        """A new configuration takes istiod a moment to read: that is no news."""
        for pause in GRACE if changed else ():
            answers = await ask(self._ports, plane.names.namespace, cluster.istiod_pods)
            if _is_well(Replies(answers), plane, cluster):
                return answers
            await asyncio.sleep(pause)
        return await ask(self._ports, plane.names.namespace, cluster.istiod_pods)

    def forget(self, mesh: str) -> None:
        self._last = {key: last for key, last in self._last.items() if key[0] != mesh}
