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


NOBODY: frozenset[str] = frozenset()


def _is_well(replies: Replies, plane: ControlPlane, cluster: Cluster, remotes: frozenset[str]) -> bool:
    if replies.trouble or not all(replies.synced(each) for each in remotes):
        return False
    return not configuration_finding(replies, plane.mesh_config, version=plane.version, cluster=cluster.name)


@dataclass
class _Last:
    """What was asked of a mesh's cluster, and what came back."""

    census: Census = field(default_factory=Census)
    question: object = None
    remotes: frozenset[str] = NOBODY
    until: dt.datetime | None = None
    replies: Replies = field(default_factory=Replies)


class Inquiry:
    """Asks again at once when there is another pod or another configuration to ask about.

    Else after a quarter of a minute; sooner where a replica did not answer, or not as it should.
    """

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._last: dict[tuple[str, str], _Last] = {}

    async def look(
        self, mesh: str, plane: ControlPlane, cluster: Cluster, *, now: dt.datetime, remotes: frozenset[str] = NOBODY
    ) -> Replies:
        """`remotes`: the clusters that its istiods are to read. Never raises: what does not answer says so."""
        last = self._last.setdefault((mesh, cluster.name), _Last())
        question = (cluster.istiod_pods, plane.mesh_config)  # remotes take their time: they are no reason to insist
        known = all(each in last.remotes for each in remotes)
        if question == last.question and known and last.until and now < last.until:
            return last.replies
        answers, earliest = await together(
            self._ask(plane, cluster, now=now, changed=question != last.question),
            last.census.look(self._ports, cluster.fleet, now=now),
        )
        replies = Replies(answers, earliest)
        well = _is_well(replies, plane, cluster, remotes)
        last.question, last.replies, last.remotes = question, replies, remotes
        last.until = now + (QUIET if well else HASTE)
        return replies

    async def _ask(
        self, plane: ControlPlane, cluster: Cluster, *, now: dt.datetime, changed: bool
    ) -> tuple[Answer, ...]:
        """A new configuration takes istiod a moment to read: that is no news."""
        for pause in GRACE if changed else ():
            answers = await ask(self._ports, plane.names.namespace, cluster.istiod_pods, now=now, joined=plane.joined)
            if _is_well(Replies(answers), plane, cluster, NOBODY):
                return answers
            await asyncio.sleep(pause)
        return await ask(self._ports, plane.names.namespace, cluster.istiod_pods, now=now, joined=plane.joined)

    def last(self, mesh: str, cluster: str) -> Replies:
        """What was answered last."""
        last = self._last.get((mesh, cluster))
        return last.replies if last else Replies()

    def forget(self, mesh: str) -> None:
        self._last = {key: last for key, last in self._last.items() if key[0] != mesh}
