"""A narrow client: dicts in, dicts out.

Typed models would silently drop fields that they do not know, so none are used; configuration, credentials and
the connection pools are the official client's.
"""

from __future__ import annotations

import asyncio.sslproto
import datetime as dt
import json
import os
import re
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, Self
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.client.rest import RESTClientObject

from meshwright.api.errors import FinalError, NotFound, Unreachable
from meshwright.cluster.failures import classify
from meshwright.cluster.forward import Observer, Ports
from meshwright.cluster.kinds import SECRET, SERVICE_ACCOUNT, Kind
from meshwright.cluster.kubeconfig import Access

Manifest = dict[str, Any]

REQUEST_TIMEOUT = 30.0
# A write must be over before another replica may lead: 15 s of lease, less the 10 s in which the leader must renew it.
WRITE_TIMEOUT = 4.5
SERVER_TIMEOUT = "timeout=4s"  # the server gives up first, so that it says whether it did
WATCH_SECONDS = 300
SILENCE = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=75.0)  # bookmarks come each minute
PAGE = 500
METADATA_ONLY = "application/json;as=PartialObjectMetadata{suffix};g=meta.k8s.io;v=v1,application/json"
ERROR = 400
# With a parameter, so that the official client sends a text as it is, see `_yaml`.
APPLY_PATCH = "application/apply-patch+yaml; charset=utf-8"
# Each watch holds a connection, and asyncio a buffer of this size for each: its 256 KiB are 6 MiB for every cluster of
# a mesh. A TLS record has 16 KiB at most.
asyncio.sslproto.SSLProtocol.max_size = 16 << 10
SURROGATES = re.compile(r"\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}")


def in_cluster() -> bool:
    """Whether the service account of this pod is the way to the API server; a KUBECONFIG that is set comes first."""
    return "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ


class Client:
    """One API server. Every method raises errors of `meshwright.api.errors`."""

    def __init__(
        self, configuration: Configuration, *, observer: Observer = lambda *_: None, member: bool = False
    ) -> None:
        self._api = ApiClient(configuration)
        self._streams = RESTClientObject(configuration)
        self._streams.maxsize = 0  # without limit: each watch holds its connection
        self._observe = observer
        self._classify = partial(classify, member=member)
        self._ports = Ports(
            configuration, tls=self._streams.ssl_context, authorize=self._authorize, observer=observer, member=member
        )
        self.guard: Callable[[], None] = lambda: None  # called before each write; raises when it must not be sent
        self.clock: dt.timedelta | None = None  # how far the API server's is ahead of ours, as its last answer says

    @classmethod
    async def connect(
        cls, *, kubeconfig: str | None = None, context: str | None = None, observer: Observer = lambda *_: None
    ) -> Self:
        """By a kubeconfig; without one, in a pod by its service account, elsewhere by KUBECONFIG or ~/.kube/config."""
        configuration = Configuration()
        try:
            if kubeconfig is None and in_cluster():
                config.load_incluster_config(client_configuration=configuration)
            else:
                await config.load_kube_config(kubeconfig, context, client_configuration=configuration)
        except config.ConfigException as error:
            raise FinalError(f"no way to a cluster: {error}; set KUBECONFIG to a file that kubectl can use") from None
        return cls(configuration, observer=observer)

    @classmethod
    def for_member(cls, access: Access, *, observer: Observer = lambda *_: None) -> Self:
        """Of a member cluster. What is refused there is the kubeconfig's matter, and errors say so."""
        configuration = Configuration()
        configuration.host = access.server
        configuration.ca_cert_data = access.ca.decode() if access.ca else None
        configuration.tls_server_name = access.tls_server_name or None
        configuration.trace_configs = [_no_redirects()]
        if access.token:
            configuration.api_key["BearerToken"] = f"Bearer {access.token}"
        with access.identity_file() as configuration.cert_file:
            client = cls(configuration, observer=observer, member=True)
        configuration.cert_file = None  # it has been read
        return client

    async def close(self) -> None:
        await self._api.close()
        await self._streams.close()
        await self._ports.close()

    async def version(self) -> str:
        answer = await self._request("GET", "/version", what="read the API server's version", kind="version")
        return str(answer.get("gitVersion", ""))

    async def may(self, verb: str, group: str, resource: str) -> bool:
        """Whether we may do that in the whole cluster."""
        attributes = {"verb": verb, "group": group, "resource": resource}
        answer = await self._request(
            "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
             "spec": {"resourceAttributes": attributes}},
            what=f"ask whether we may {verb} {resource}", kind="SelfSubjectAccessReview", writes=False,
        )  # fmt: skip
        return bool((answer.get("status") or {}).get("allowed"))

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
        pages = self.pages(kind, namespace, labels=labels, metadata_only=metadata_only)
        try:
            return [item async for page in pages for item in page["items"]]
        except NotFound:
            return []

    async def pages(
        self, kind: Kind, namespace: str = "", *, labels: str = "", metadata_only: bool = False
    ) -> AsyncGenerator[Manifest, None]:
        """The collection at one moment, as lists of at most `PAGE` items; each has the collection's resourceVersion.

        Raises NotFound when the kind is not served, and Conflict when the server has forgotten that moment.
        """
        query = {"limit": str(PAGE)} | _selectors(kind, labels)
        while True:
            page = await self._request(
                "GET", f"{kind.path(namespace)}?{urlencode(query)}", what=f"list {kind.plural}", kind=kind.kind,
                accept=METADATA_ONLY.format(suffix="List") if metadata_only else None,
            )  # fmt: skip
            page["items"] = page["items"] or []  # an empty list of some kinds comes as null
            if metadata_only:
                for item in page["items"]:
                    item["metadata"].pop("managedFields", None)  # most of it, and there may be ten thousand
            yield page
            if not (token := page["metadata"].get("continue")):
                return
            query["continue"] = token

    async def watch(
        self, kind: Kind, *, labels: str = "", resource_version: str, metadata_only: bool = False,
        seconds: int = WATCH_SECONDS,
    ) -> AsyncGenerator[tuple[str, Manifest], None]:  # fmt: skip
        """What happens after `resource_version`, in order: ADDED, MODIFIED, DELETED with the object, and BOOKMARK.

        The first is a BOOKMARK of `resource_version` itself: the server has taken the watch on. Ends after `seconds`.
        Raises Conflict when the server has forgotten that version, NotFound when the kind is not served (any more),
        Unreachable also when nothing is heard for longer than bookmarks take.
        """
        query = {
            "watch": "true", "allowWatchBookmarks": "true", "resourceVersion": resource_version,
            "timeoutSeconds": str(seconds),
        } | _selectors(kind, labels)  # fmt: skip
        path, what = f"{kind.path()}?{urlencode(query)}", f"watch {kind.plural}"
        headers = {"Accept": METADATA_ONLY.format(suffix="") if metadata_only else "application/json"}
        async with aclosing(self._lines(path, headers, what=what, kind=kind.kind)) as lines:
            async for line in lines:
                if not line:
                    yield "BOOKMARK", {"metadata": {"resourceVersion": resource_version}}
                    continue
                with _reaching(what):
                    event = json.loads(line)
                if event["type"] == "ERROR":
                    status = event["object"]
                    raise self._classify(status.get("code", ERROR), json.dumps(status).encode(), {}, what=what)
                yield event["type"], event["object"]

    async def create(self, kind: Kind, manifest: Manifest, *, field_manager: str, dry_run: bool = False) -> Manifest:
        namespace = manifest["metadata"].get("namespace", "")
        return await self._request(
            "POST", f"{kind.path(namespace)}?{_options(field_manager, dry_run=dry_run)}", manifest,
            what=f"create {_name(kind, namespace, manifest['metadata'].get('name', ''))}", kind=kind.kind,
        )  # fmt: skip

    async def replace(self, kind: Kind, manifest: Manifest, *, field_manager: str, dry_run: bool = False) -> Manifest:
        """Update with the manifest's own resourceVersion. Raises Conflict when that is not the stored one."""
        name, namespace = manifest["metadata"]["name"], manifest["metadata"].get("namespace", "")
        return await self._request(
            "PUT", f"{kind.path(namespace, name)}?{_options(field_manager, dry_run=dry_run)}", manifest,
            what=f"update {_name(kind, namespace, name)}", kind=kind.kind,
        )  # fmt: skip

    async def apply(
        self, kind: Kind, manifest: Manifest, *, field_manager: str, force: bool = True, dry_run: bool = False,
        subresource: str = "",
    ) -> Manifest:  # fmt: skip
        """Server-side apply. With `force`, fields that others set are taken over; without, raises Conflict."""
        name, namespace = manifest["metadata"]["name"], manifest["metadata"].get("namespace", "")
        query = {"fieldManager": field_manager, "force": str(force).lower()} | ({"dryRun": "All"} if dry_run else {})
        path = kind.path(namespace, name) + (f"/{subresource}" if subresource else "")
        return await self._request(
            "PATCH", f"{path}?{urlencode(query)}", manifest, content_type=APPLY_PATCH,
            what=f"apply {_name(kind, namespace, name)}", kind=kind.kind,
        )  # fmt: skip

    async def merge(
        self, kind: Kind, name: str, patch: Manifest, namespace: str = "", *, field_manager: str
    ) -> Manifest:
        """JSON merge patch; with a resourceVersion in it, raises Conflict when that is not the stored one."""
        return await self._request(
            "PATCH", f"{kind.path(namespace, name)}?{urlencode({'fieldManager': field_manager})}", patch,
            content_type="application/merge-patch+json", what=f"patch {_name(kind, namespace, name)}", kind=kind.kind,
        )  # fmt: skip

    async def delete(self, kind: Kind, manifest: Manifest) -> None:
        """Deletes the object if it still is what the manifest says, or raises Conflict; one that is gone is fine."""
        metadata = manifest["metadata"]
        name, namespace = metadata["name"], metadata.get("namespace", "")
        seen = {field: metadata[field] for field in ("uid", "resourceVersion") if field in metadata}
        options = {"preconditions": seen, "propagationPolicy": "Background"}
        try:
            await self._request(
                "DELETE", kind.path(namespace, name), options, what=f"delete {_name(kind, namespace, name)}",
                kind=kind.kind,
            )  # fmt: skip
        except NotFound:
            return

    async def request_token(self, namespace: str, account: str, *, secret: tuple[str, str], seconds: int) -> Manifest:
        """A token of a ServiceAccount that ends with a Secret, by (name, uid): `token` and `expirationTimestamp`."""
        name, uid = secret
        bound = {"apiVersion": "v1", "kind": SECRET.kind, "name": name, "uid": uid}
        answer = await self._request(
            "POST", f"{SERVICE_ACCOUNT.path(namespace, account)}/token",
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
             "spec": {"boundObjectRef": bound, "expirationSeconds": seconds}},
            what=f"request a token of ServiceAccount {namespace}/{account}", kind="TokenRequest",
        )  # fmt: skip
        granted: Manifest = answer["status"]
        return granted

    async def proxied(
        self, namespace: str, pod: str, port: int, path: str, *, only: Callable[[bytes], bool] | None = None
    ) -> bytes:
        """What a pod answers to `GET path` from outside. See `meshwright.cluster.forward`."""
        return await self._ports.proxied(namespace, pod, port, path, only=only)

    async def forwarded(self, namespace: str, pod: str, port: int, path: str) -> bytes:
        """What a pod answers to `GET path` from its own loopback. See `meshwright.cluster.forward`."""
        return await self._ports.forwarded(namespace, pod, port, path)

    async def _request(
        self, method: str, path: str, body: Manifest | None = None, *, what: str, kind: str,
        content_type: str = "application/json", accept: str | None = None, writes: bool = True,
    ) -> Manifest:  # fmt: skip
        """`writes`: whether a method that may write does."""
        headers = {"Content-Type": content_type, "Accept": accept or "application/json"}
        await self._authorize(headers)
        url, timeout = self._api.configuration.host + path, REQUEST_TIMEOUT
        if writes and method != "GET" and "dryRun=All" not in path:
            url, timeout = f"{url}{'&' if '?' in path else '?'}{SERVER_TIMEOUT}", WRITE_TIMEOUT
            self.guard()
        content = _yaml(body) if body is not None and content_type == APPLY_PATCH else body
        started = time.monotonic()
        status = 0
        try:
            with _reaching(what):
                response = await self._api.rest_client.request(
                    method, url, headers=headers, body=content, _request_timeout=timeout
                )
                self.clock = _ahead(response.headers.get("Date"))
                raw = await response.read()
                status = response.status
        finally:
            self._observe(method, kind, status, time.monotonic() - started)
        if status >= ERROR:
            raise self._classify(status, raw, response.headers, what=what)
        with _reaching(what):
            answer: Manifest = json.loads(raw)
        return answer

    async def _lines(self, path: str, headers: dict[str, str], *, what: str, kind: str) -> AsyncGenerator[bytes, None]:
        """The lines of an answer without end; first an empty one, when the answer begins."""
        await self._authorize(headers)
        started = time.monotonic()
        with _reaching(what):
            answer = await self._streams.request(
                "GET", self._api.configuration.host + path, headers=headers, _request_timeout=SILENCE
            )
            async with answer.response as response:
                self._observe("WATCH", kind, response.status, time.monotonic() - started)
                if response.status >= ERROR:
                    raise self._classify(response.status, await response.read(), response.headers, what=what)
                try:
                    yield b""
                    rest = b""
                    while chunk := await response.content.readany():  # its readline has a limit, objects have none
                        *lines, rest = (rest + chunk).split(b"\n")
                        for line in lines:
                            yield line
                finally:
                    if response.connection and response.connection.transport:
                        response.connection.transport.abort()  # TLS would wait for the end of an answer without end

    async def _authorize(self, headers: dict[str, str]) -> None:
        await self._api.update_params_for_auth(headers, [], ["BearerToken"], "", "", None)


def _ahead(date: str | None) -> dt.timedelta | None:
    """From a header, which has whole seconds. Half of one is the middle of what it may mean."""
    try:
        return parsedate_to_datetime(date or "") + dt.timedelta(seconds=0.5) - dt.datetime.now(dt.UTC)
    except (TypeError, ValueError):
        return None


def _no_redirects() -> aiohttp.TraceConfig:
    """A member must not send the operator's requests elsewhere: to what only its own cluster can reach, say."""

    async def refuse(*_: object) -> None:
        raise aiohttp.ClientError("it answers with a redirect, which is not followed")

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(refuse)
    return trace


@contextmanager
def _reaching(what: str) -> Iterator[None]:
    try:
        yield
    except (aiohttp.ClientError, OSError, TimeoutError, json.JSONDecodeError) as error:
        text = str(error) or type(error).__name__
        raise Unreachable(f"{what}: the API server does not answer ({text})") from error


def _options(field_manager: str, *, dry_run: bool) -> str:
    return urlencode({"fieldManager": field_manager} | ({"dryRun": "All"} if dry_run else {}))


def _selectors(kind: Kind, labels: str) -> dict[str, str]:
    wanted = ",".join(filter(None, (labels, kind.labels)))
    return {name: text for name, text in (("labelSelector", wanted), ("fieldSelector", kind.fields)) if text}


def _name(kind: Kind, namespace: str, name: str) -> str:
    return f"{kind.kind} {namespace}/{name}" if namespace else f"{kind.kind} {name}"


def _yaml(body: Manifest) -> str:
    """JSON that is YAML, too, as which a server-side apply is read: there, a pair of surrogates is no character."""
    return SURROGATES.sub(lambda pair: str(json.loads(f'"{pair[0]}"')), json.dumps(body))
