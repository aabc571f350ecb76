"""What a MeshInstall made is taken away again: webhooks first, then istiod, then the rest.

CRDs, the namespace and the CA's Secrets stay: other things rest on them, and a mesh that comes back finds its root.
"""

from __future__ import annotations

from meshwright.api.meshinstall import LABEL_MESH
from meshwright.cluster.client import Client
from meshwright.cluster.kinds import OWNED


async def remove(client: Client, *, mesh: str) -> None:
    """Deletes the objects that carry the mesh's label, kind by kind; repeatable at any point."""
    for kind in OWNED:
        for manifest in await client.list(kind, labels=f"{LABEL_MESH}={mesh}", metadata_only=True):
            await client.delete(kind, manifest)
