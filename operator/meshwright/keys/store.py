"""Secrets of one API server, as `keys.trust` wants them: create, update and delete, never server-side apply."""

from __future__ import annotations

import base64
from collections.abc import Mapping

from meshwright.api.errors import Conflict
from meshwright.cluster.client import Client, Manifest
from meshwright.cluster.kinds import NAMESPACE, SECRET
from meshwright.keys.trust import Secret

MANAGER = "meshwright-trust"


class KubernetesSecrets:
    """A SecretStore (see `keys.trust`) on a Kubernetes API server."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def read(self, namespace: str, name: str) -> Secret | None:
        manifest = await self._client.get(SECRET, name, namespace)
        if manifest is None:
            return None
        metadata = manifest["metadata"]
        return Secret(
            namespace=namespace,
            name=name,
            labels=metadata.get("labels") or {},
            files={file: base64.b64decode(text) for file, text in (manifest.get("data") or {}).items()},
            uid=metadata["uid"],
            resource_version=metadata["resourceVersion"],
            annotations=metadata.get("annotations") or {},
        )

    async def create(self, secret: Secret) -> None:
        await self._client.create(SECRET, _manifest(secret), field_manager=MANAGER)

    async def update(self, secret: Secret) -> None:
        stored = await self._client.get(SECRET, secret.name, secret.namespace)
        if stored is None or stored["metadata"]["resourceVersion"] != secret.resource_version:
            raise Conflict(f"{secret} was changed by somebody else")
        stored["metadata"]["annotations"] = {**(stored["metadata"].get("annotations") or {}), **secret.annotations}
        stored["data"] = {**(stored.get("data") or {}), **_encoded(secret)}
        await self._client.replace(SECRET, stored, field_manager=MANAGER)

    async def delete(self, secret: Secret) -> None:
        metadata = {
            "namespace": secret.namespace,
            "name": secret.name,
            "uid": secret.uid,
            "resourceVersion": secret.resource_version,
        }
        await self._client.delete(SECRET, {"metadata": metadata})

    async def ensure_namespace(self, name: str, *, labels: Mapping[str, str]) -> None:
        manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": dict(labels)}}
        if await self._client.get(NAMESPACE, name) is not None:
            return
        try:
            await self._client.create(NAMESPACE, manifest, field_manager=MANAGER)
        except Conflict:
            return  # somebody else made it in the meantime


def _manifest(secret: Secret) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {
            "namespace": secret.namespace,
            "name": secret.name,
            "labels": dict(secret.labels),
            **({"annotations": dict(secret.annotations)} if secret.annotations else {}),
        },
        "data": _encoded(secret),
    }


def _encoded(secret: Secret) -> dict[str, str]:
    return {file: base64.b64encode(content).decode() for file, content in secret.files.items()}
