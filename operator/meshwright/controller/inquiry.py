"""Asks what runs in a cluster: every replica of istiod, and the proxies in turn."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field

from meshwright.cluster.census import Census, Ports, ask
from meshwright.mesh.census import LOOK_SECONDS
from meshwright.mesh.desired import ControlPlane
from meshwright.mesh.evidence import Replies
from meshwright.mesh.observed import Cluster


@dataclass
class _Last:
    """What was asked of a mesh's cluster, and what came back."""

    census: Census = field(default_factory=Census)
    question: object = None
    at: dt.datetime | None = None
    replies: Replies = field(default_factory=Replies)


class Inquiry:
    """Asks again when there is another pod or another configuration to ask about, else every quarter of a minute."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._last: dict[tuple[str, str], _Last] = {}

    async def look(self, mesh: str, plane: ControlPlane, cluster: Cluster, *, now: dt.datetime) -> Replies:
        """Never raises: what does not answer says so in the replies."""
        last = self._last.setdefault((mesh, cluster.name), _Last())
        question = (cluster.istiod_pods, plane.mesh_config)
        settled = question == last.question and last.at and now - last.at < dt.timedelta(seconds=LOOK_SECONDS - 1)
        if settled and not last.replies.trouble:
            return last.replies
        answers = await ask(self._ports, plane.names.namespace, cluster.istiod_pods)
        earliest = await last.census.look(self._ports, cluster.fleet, now=now) if cluster.fleet else None
        last.question, last.at, last.replies = question, now, Replies(answers, earliest)
        return last.replies

    def forget(self, mesh: str) -> None:
        self._last = {key: last for key, last in self._last.items() if key[0] != mesh}
