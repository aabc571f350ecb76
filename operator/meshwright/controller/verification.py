"""Asks the probe in a cluster which other clusters it reaches."""

from __future__ import annotations

from collections.abc import Mapping

from meshwright.api.errors import MeshwrightError
from meshwright.cluster.census import Ports
from meshwright.mesh.observed import Cluster
from meshwright.mesh.verification import Passage, Probe, passages

NOTHING: Mapping[str, Passage] = {}


async def passages_from(
    ports: Ports, namespace: str, cluster: Cluster, probe: Probe
) -> tuple[Mapping[str, Passage], str]:
    """By cluster, and why nothing is known. Never raises."""
    pod = next((each for each in cluster.probes if each.verifies == probe.question), None)
    if pod is None or not pod.ready:
        return NOTHING, f"its probe is not ready yet{f' ({pod.trouble})' if pod and pod.trouble else ''}"
    try:
        return passages(await ports.forwarded(namespace, pod.name, probe.port, "/reach")), ""
    except MeshwrightError as error:
        return NOTHING, str(error)
