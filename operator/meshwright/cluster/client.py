"""A narrow client: dicts in, dicts out.

Typed models would silently drop fields that they do not know, so none are used; configuration, credentials and
the connection pool are the official client's.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any, Self
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from meshwright.api.errors import FinalError, NotFound, Unreachable
from meshwright.cluster.failures import classify
from meshwright.cluster.kinds import Kind

Manifest = dict[str, Any]
Observer = Callable[[str, str, int, float], None]  # method, kind, HTTP status (0: no answer), seconds

REQUEST_TIMEOUT = 30.0
PAGE = 500
METADATA_ONLY = "application/json;as=PartialObjectMetadata{suffix};g=meta.k8s.io;v=v1,application/json"
ERROR = 400


def in_cluster() -> bool:
    """Whether the service account of this pod is the way to the API server; a KUBECONFIG that is set comes first."""
    return "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ


class Client:
    """One API server. Every method raises errors of `meshwright.api.errors`."""

    def __init__(self, configuration: Configuration, *, observer: Observer = lambda *_: None) -> None:
        self._api = ApiClient(configuration)
        self._observe = observer

    @classmethod
    async def connect(cls, *, observer: Observer = lambda *_: None) -> Self:
        """In a pod by its service account, elsewhere by KUBECONFIG or ~/.kube/config."""
        configuration = Configuration()
        try:
            if in_cluster():
                config.load_incluster_config(client_configuration=configuration)
            else:
                await config.load_kube_config(client_configuration=configuration)
        except config.ConfigException as error:
            raise FinalError(f"no way to a cluster: {error}; set KUBECONFIG to a file that kubectl can use") from None
        return cls(configuration, observer=observer)

    async def close(self) -> None:
        await self._api.close()

    async def version(self) -> str:
        answer = await self._request("GET", "/version", what="read the API server's version", kind="version")
        return str(answer.get("gitVersion", ""))

    async def get(self, kind: Kind, name: str, namespace: str = "", *, metadata_only: bool = False) -> Manifest | None:
        """The object, or None when there is none (or its kind is not served)."""
        try:
            return await self._request(
                "GET", kind.path(namespace, name), what=f"get {_name(kind, namespace, name)}", kind=kind.kind,
                accept=METADATA_ONLY.format(suffix="") if metadata_only else None,
            )  # fmt: skip
        except NotFound:
            return None

    async def list(
        self, kind: Kind, namespace: str = "", *, labels: str = "", metadata_only: bool = False
    ) -> list[Manifest]:
        """All objects; none when their kind is not served."""
        items: list[Manifest] = []
        query = {"limit": str(PAGE)} | ({"labelSelector": labels} if labels else {})
        while True:
            try:
                page = await self._request(
                    "GET", f"{kind.path(namespace)}?{urlencode(query)}", what=f"list {kind.plural}", kind=kind.kind,
                    accept=METADATA_ONLY.format(suffix="List") if metadata_only else None,
                )  # fmt: skip
            except NotFound:
                return []
            items += page["items"] or ()  # an empty list of some kinds comes as null
            if not (token := page["metadata"].get("continue")):
                return items
            query["continue"] = token

    async def create(self, kind: Kind, manifest: Manifest, *, field_manager: str) -> Manifest:
        namespace = manifest["metadata"].get("namespace", "")
        return await self._request(
            "POST", f"{kind.path(namespace)}?{urlencode({'fieldManager': field_manager})}", manifest,
            what=f"create {_name(kind, namespace, manifest['metadata'].get('name', ''))}", kind=kind.kind,
        )  # fmt: skip

    async def replace(self, kind: Kind, manifest: Manifest, *, field_manager: str) -> Manifest:
        """Update with the manifest's own resourceVersion. Raises Conflict when that is not the stored one."""
        name, namespace = manifest["metadata"]["name"], manifest["metadata"].get("namespace", "")
        return await self._request(
            "PUT", f"{kind.path(namespace, name)}?{urlencode({'fieldManager': field_manager})}", manifest,
            what=f"update {_name(kind, namespace, name)}", kind=kind.kind,
        )  # fmt: skip

    async def apply(
        self, kind: Kind, manifest: Manifest, *, field_manager: str, dry_run: bool = False, subresource: str = ""
    ) -> Manifest:
        """Server-side apply; fields that others set are taken over."""
        name, namespace = manifest["metadata"]["name"], manifest["metadata"].get("namespace", "")
        query = {"fieldManager": field_manager, "force": "true"} | ({"dryRun": "All"} if dry_run else {})
        path = kind.path(namespace, name) + (f"/{subresource}" if subresource else "")
        return await self._request(
            "PATCH", f"{path}?{urlencode(query)}", manifest, content_type="application/apply-patch+yaml",
            what=f"apply {_name(kind, namespace, name)}", kind=kind.kind,
        )  # fmt: skip

    async def merge(self, kind: Kind, name: str, patch: Manifest, namespace: str = "") -> Manifest:
        """JSON merge patch; with a resourceVersion in it, raises Conflict when that is not the stored one."""
        return await self._request(
            "PATCH", kind.path(namespace, name), patch, content_type="application/merge-patch+json",
            what=f"patch {_name(kind, namespace, name)}", kind=kind.kind,
        )  # fmt: skip

    async def delete(self, kind: Kind, manifest: Manifest) -> None:
        """Deletes exactly this incarnation of the object; one that is gone already is fine."""
        metadata = manifest["metadata"]
        name, namespace = metadata["name"], metadata.get("namespace", "")
        options = {"preconditions": {"uid": metadata["uid"]}, "propagationPolicy": "Background"}
        try:
            await self._request(
                "DELETE", kind.path(namespace, name), options, what=f"delete {_name(kind, namespace, name)}",
                kind=kind.kind,
            )  # fmt: skip
        except NotFound:
            return

    async def _request(
        self, method: str, path: str, body: Manifest | None = None, *, what: str, kind: str,
        content_type: str = "application/json", accept: str | None = None,
    ) -> Manifest:  # fmt: skip
        headers = {"Content-Type": content_type, "Accept": accept or "application/json"}
        await self._api.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        started = time.monotonic()
        status = 0
        try:
            response = await self._api.rest_client.request(
                method, self._api.configuration.host + path, headers=headers, body=body,
                _request_timeout=REQUEST_TIMEOUT,
            )  # fmt: skip
            raw = await response.read()
            status = response.status
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            text = str(error) or type(error).__name__
            raise Unreachable(f"{what}: the API server does not answer ({text})") from error
        finally:
            self._observe(method, kind, status, time.monotonic() - started)
        if status >= ERROR:
            raise classify(status, raw, response.headers, what=what)
        answer: Manifest = json.loads(raw)
        return answer


def _name(kind: Kind, namespace: str, name: str) -> str:
    return f"{kind.kind} {namespace}/{name}" if namespace else f"{kind.kind} {name}"
