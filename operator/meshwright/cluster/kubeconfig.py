"""The kubeconfig of a member cluster, as it stands in a Secret: what it may say, and what it must not.

It comes from outside and is used in the operator's pod. So it holds all that it needs, and nothing that would run or
read something there: no plugins, no paths. No byte of a credential gets into a message, nor into an exception below it:
what a library says of its input is dropped.
"""

from __future__ import annotations

import base64
import os
import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import yaml

from meshwright.api.errors import KubeconfigError

KEY = "kubeconfig"  # of the Secret
LIMIT = 128 << 10  # bytes; YAML is read at some 200 KiB/s, and the operator does nothing else meanwhile
NAME_LIMIT = 253
SERVER = re.compile(r"https://[^/?#@]+(/[^?#]*)?", re.IGNORECASE)
PLAIN = re.compile(r"[\x21-\x7e]+")  # what an HTTP header can carry
PRIVATE = b"PRIVATE KEY-----"
FLATTEN = "`kubectl config view --raw --flatten --minify` writes one that can be used"

# What is refused, and why, by where it stands.
IN_CLUSTER = {
    "certificate-authority": f"is a path to a file: {FLATTEN}",
    "insecure-skip-tls-verify": "would let anybody answer: set certificate-authority-data",
    "proxy-url": "is not supported: let the operator reach the API server directly",
}
IMPERSONATION = "makes the operator somebody else: use credentials of its own"
IN_USER = {
    "exec": "runs a program: use a token or a client certificate",
    "auth-provider": "needs a plugin: use a token or a client certificate",
    "tokenFile": "is a path to a file: put its content into token",
    "client-certificate": f"is a path to a file: {FLATTEN}",
    "client-key": f"is a path to a file: {FLATTEN}",
    "username": "is taken by no supported Kubernetes: use a token or a client certificate",
    "password": "is taken by no supported Kubernetes: use a token or a client certificate",
    **dict.fromkeys(("as", "as-uid", "as-groups", "as-user-extra"), IMPERSONATION),
}


@dataclass(frozen=True)
class Access:
    """The way to an API server: where it is, whom to trust, and who we are there."""

    server: str  # https URL
    ca: bytes | None = None  # PEM; None: a CA that everybody knows
    tls_server_name: str = ""  # empty: the server's own
    token: str = field(default="", repr=False)
    client_certificate: bytes = field(default=b"", repr=False)  # PEM
    client_key: bytes = field(default=b"", repr=False)  # PEM

    @contextmanager
    def identity_file(self) -> Iterator[str | None]:
        """A path to client certificate and key, for libraries that read files. It leads to memory, never to a disk,
        and ends with the block. None without a certificate.
        """
        if not self.client_certificate:
            yield None
            return
        with os.fdopen(os.memfd_create("identity"), "wb") as file:
            file.write(self.client_certificate + b"\n" + self.client_key)
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"


def parse_kubeconfig(text: bytes, *, where: str) -> Access:
    """From the current context. Raises KubeconfigError with `where` (a Secret and its key) and the field's path."""
    try:
        return _access(_document(text))
    except _Unusable as error:
        reason = str(error)
    raise KubeconfigError(f"{where}: {reason}")


def access_in(secret: Mapping[str, Any] | None, *, name: str, namespace: str) -> Access:
    """From a Secret; None when there is none. Raises KubeconfigError."""
    where = f"Secret {namespace}/{name}"
    if secret is None:
        raise KubeconfigError(f"{where} is not there: create it with the cluster's kubeconfig in key {KEY}")
    text = (secret.get("data") or {}).get(KEY)
    if text is None:
        raise KubeconfigError(f"{where} has no key {KEY}: put the cluster's kubeconfig there")
    return parse_kubeconfig(base64.b64decode(text), where=f"{where}, key {KEY}")


class _Unusable(Exception):
    """`str()` says what is wrong, and what to do."""


def _access(whole: dict[str, Any]) -> Access:
    _, context = _named(whole, "context", whole.get("current-context"), of="current-context")
    cluster_at, cluster = _named(whole, "cluster", context.get("cluster"), of="the current context's cluster")
    user_at, user = _named(whole, "user", context.get("user"), of="the current context's user")
    for place, fields, refused in ((cluster_at, cluster, IN_CLUSTER), (user_at, user, IN_USER)):
        for name, why in refused.items():
            if fields.get(name):
                raise _Unusable(f"{place}.{name} {why}")
    access = Access(
        server=_server(cluster, cluster_at),
        ca=_pem(cluster, cluster_at, "certificate-authority-data") or None,
        tls_server_name=_plain(cluster, cluster_at, "tls-server-name"),
        token=_plain(user, user_at, "token"),
        client_certificate=_pem(user, user_at, "client-certificate-data"),
        client_key=_pem(user, user_at, "client-key-data"),
    )
    if bool(access.client_certificate) != bool(access.client_key):
        raise _Unusable(f"{user_at} has one of client-certificate-data and client-key-data: set both, or neither")
    if not access.token and not access.client_certificate:
        raise _Unusable(f"{user_at} has no credential: set token, or client-certificate-data and client-key-data")
    if access.ca and (PRIVATE in access.ca or not _are_certificates(access.ca)):
        # Other clusters get a copy of it.
        raise _Unusable(f"{cluster_at}.certificate-authority-data has to hold certificates, and nothing else")
    if access.client_certificate and not _is_identity(access):
        raise _Unusable(
            f"{user_at}.client-certificate-data and client-key-data are not a certificate and its key without a"
            " password: put those of one client there"
        )
    return access


class _Loader(yaml.SafeLoader):
    """Without aliases: a few lines of them become gigabytes, and no kubeconfig needs any."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError
        return super().compose_node(parent, index)


def _document(text: bytes) -> dict[str, Any]:
    if len(text) > LIMIT:
        raise _Unusable(f"is larger than {LIMIT >> 10} KiB: leave one cluster in it; {FLATTEN}")
    whole = _yaml(text)
    if not isinstance(whole, dict):
        raise _Unusable(f"is no kubeconfig in YAML without aliases: put one there; {FLATTEN}")
    return whole


def _yaml(text: bytes) -> object:
    """None when it is none."""
    try:
        return yaml.load(text.decode(), Loader=_Loader)  # noqa: S506  # it is a SafeLoader
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        return None  # scalars with tags that do not fit them fail in all these ways


def _named(whole: dict[str, Any], part: str, name: object, *, of: str) -> tuple[str, dict[str, Any]]:
    """The path of an entry, and what it says."""
    if not name:
        raise _Unusable(f"{of} is not set: {FLATTEN}")
    if not isinstance(name, str) or not name.isprintable() or len(name) > NAME_LIMIT:
        raise _Unusable(f"{of} is no name: give it one line of at most {NAME_LIMIT} characters")
    entries = whole.get(f"{part}s")
    for each in entries if isinstance(entries, list) else ():
        if isinstance(each, dict) and each.get("name") == name and isinstance(each.get(part), dict):
            return f"{part}s[{name}].{part}", each[part]
    raise _Unusable(f"{part}s has no entry {name}, which is {of}: add it; {FLATTEN}")


def _server(cluster: dict[str, Any], place: str) -> str:
    server = _plain(cluster, place, "server")
    if not SERVER.fullmatch(server) or not _is_url(server):
        raise _Unusable(f"{place}.server is no https URL: set that of the API server, as https://10.0.0.1:6443")
    return server.rstrip("/")


def _is_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        return bool(url.hostname) and url.port != 0
    except ValueError:
        return False


def _plain(fields: dict[str, Any], place: str, name: str) -> str:
    text = fields.get(name) or ""
    if text and not (isinstance(text, str) and PLAIN.fullmatch(text)):
        raise _Unusable(f"{place}.{name} is not one word of printable ASCII characters: set it again")
    return str(text)


def _pem(fields: dict[str, Any], place: str, name: str) -> bytes:
    text = fields.get(name)
    if not text:
        return b""
    content = _decoded(text)
    if b"-----BEGIN " not in content:
        raise _Unusable(f"{place}.{name} is not PEM in base64: {FLATTEN}")
    return content


def _decoded(text: object) -> bytes:
    """Empty when it is no base64; line breaks in it are fine, as they are to kubectl."""
    try:
        return base64.b64decode("".join(text.split()), validate=True) if isinstance(text, str) else b""
    except ValueError:
        return b""


def _are_certificates(pem: bytes) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem.decode("ascii"))
    except (ssl.SSLError, ValueError):
        return False
    return True


def _is_identity(access: Access) -> bool:
    try:
        with access.identity_file() as path:
            # A password, lest OpenSSL asks for one at a terminal.
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(str(path), password="")
    except (ssl.SSLError, ValueError):
        return False
    return True
