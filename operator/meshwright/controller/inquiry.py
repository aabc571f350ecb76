"""Asks what runs in a cluster: every replica of istiod, and the proxies in turn."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field

from meshwright.cluster.census import Census, Ports, ask
from meshwright.cluster.together import together
from meshwright.mesh.census import LOOK_SECONDS
from meshwright.mesh.desired import ControlPlane
from meshwright.mesh.evidence import Replies, configuration_finding
from meshwright.mesh.observed import Cluster

QUIET = dt.timedelta(seconds=LOOK_SECONDS - 1)  # looks are as far apart, give or take
HASTE = dt.timedelta(seconds=2)


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
            ask(self._ports, plane.names.namespace, cluster.istiod_pods),
            last.census.look(self._ports, cluster.fleet, now=now),
        )
        replies = Replies(answers, earliest)
        well = not replies.trouble and not configuration_finding(
            replies, plane.mesh_config, version=plane.version, cluster=cluster.name
        )
        last.question, last.replies = question, replies
        last.until = now + (QUIET if well else HASTE)
        return replies

    def forget(self, mesh: str) -> None:
        self._last = {key: last for key, last in self._last.items() if key[0] != mesh}
