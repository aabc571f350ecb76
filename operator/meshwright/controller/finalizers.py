"""The finalizers of a MeshInstall, of which one is ours."""

from __future__ import annotations

from meshwright.api.meshinstall import MeshInstall
from meshwright.cluster.client import Client
from meshwright.cluster.kinds import MESH_INSTALL
from meshwright.cluster.survey import MANAGER


async def set_finalizers(client: Client, mesh: MeshInstall, finalizers: list[str]) -> None:
    """Raises Conflict when the MeshInstall is not as we read it: somebody else's finalizer may have come or gone."""
    patch = {"metadata": {"resourceVersion": mesh.resource_version, "finalizers": finalizers}}
    await client.merge(MESH_INSTALL, mesh.name, patch, field_manager=MANAGER)
