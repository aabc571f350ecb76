"""The kubeconfig of a member cluster, as it stands in a Secret: what it may say, and what it must not.

It comes from outside and is used in the operator's pod. So it holds all that it needs, and nothing that would run or
read something there: no plugins, no paths. No byte of a credential gets into a message.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from meshwright.api.errors import KubeconfigError

LIMIT = 1 << 20  # bytes; a Secret cannot hold more
SERVER = re.compile(r"https://[^\s/?#@]+(/[^\s?#]*)?")
PLAIN = re.compile(r"[\x21-\x7e]+")  # what an HTTP header can carry

# What is refused, and why, by where it stands.
IN_CLUSTER = {
    "certificate-authority": "is a path: put the file's content, in base64, into certificate-authority-data",
    "insecure-skip-tls-verify": "would let anybody answer: set certificate-authority-data",
    "proxy-url": "is not supported: let the operator reach the API server directly",
}
IN_USER = {
    "exec": "runs a program: use a token or a client certificate",
    "auth-provider": "needs a plugin: use a token or a client certificate",
    "tokenFile": "is a path: put the token into token",
    "client-certificate": "is a path: put the file's content, in base64, into client-certificate-data",
    "client-key": "is a path: put the file's content, in base64, into client-key-data",
    "username": "is taken by no supported Kubernetes: use a token or a client certificate",
    "password": "is taken by no supported Kubernetes: use a token or a client certificate",
    "as": "makes the operator somebody else: use credentials of its own",
    "as-uid": "makes the operator somebody else: use credentials of its own",
    "as-groups": "makes the operator somebody else: use credentials of its own",
    "as-user-extra": "makes the operator somebody else: use credentials of its own",
}


@dataclass(frozen=True)
class Access:
    """The way to an API server: where it is, whom to trust, and who we are there."""

    server: str  # https URL
    ca: bytes | None = None  # PEM; None: a CA that everybody knows
    tls_server_name: str = ""
    token: str = field(default="", repr=False)
    client_certificate: bytes = field(default=b"", repr=False)  # PEM
    client_key: bytes = field(default=b"", repr=False)  # PEM


def parse_kubeconfig(text: bytes, *, where: str) -> Access:
    """From the current context. Raises KubeconfigError with `where` (a Secret and its key) and the field's path."""
    whole = _document(text, where)
    name = whole.get("current-context")
    if not isinstance(name, str) or not name:
        raise _refused(where, "current-context is missing: set it to the context that leads to the cluster")
    context = _named(whole, "contexts", "context", name, where)
    cluster = _named(whole, "clusters", "cluster", context.get("cluster"), where)
    user = _named(whole, "users", "user", context.get("user"), where)
    for place, fields, refused in (("clusters[].cluster", cluster, IN_CLUSTER), ("users[].user", user, IN_USER)):
        for field_name, why in refused.items():
            if fields.get(field_name):
                raise _refused(where, f"{place}.{field_name} {why}")
    server = cluster.get("server")
    if not isinstance(server, str) or not SERVER.fullmatch(server):
        raise _refused(where, "clusters[].cluster.server is no https URL: set that of the API server")
    ca = _pem(cluster, "clusters[].cluster", "certificate-authority-data", where)
    certificate = _pem(user, "users[].user", "client-certificate-data", where)
    key = _pem(user, "users[].user", "client-key-data", where)
    if bool(certificate) != bool(key):
        raise _refused(where, "users[].user needs client-certificate-data and client-key-data together: set both")
    token = user.get("token") or ""
    if token and not (isinstance(token, str) and PLAIN.fullmatch(token)):
        raise _refused(where, "users[].user.token is no token: it has to be one line of printable characters")
    if not token and not certificate:
        raise _refused(where, "users[].user has no credential: set token, or client-certificate-data and its key")
    host = cluster.get("tls-server-name") or ""
    if not isinstance(host, str) or (host and not PLAIN.fullmatch(host)):
        raise _refused(where, "clusters[].cluster.tls-server-name is no host name")
    return Access(server.rstrip("/"), ca or None, host, token, certificate, key)


def _document(text: bytes, where: str) -> dict[str, Any]:
    if len(text) > LIMIT:
        raise _refused(where, "is larger than 1 MiB: leave one cluster in it")
    try:
        # Aliases can make gigabytes of a few lines, and no kubeconfig needs them.
        if any(isinstance(each, yaml.AliasToken) for each in yaml.scan(text.decode(), Loader=yaml.SafeLoader)):
            raise _refused(where, "has YAML aliases: write it without them")
        whole = yaml.safe_load(text.decode())
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError):
        raise _refused(where, "is not YAML: put a whole kubeconfig there") from None
    if not isinstance(whole, dict):
        raise _refused(where, "holds no kubeconfig: put a whole one there")
    return whole


def _named(whole: dict[str, Any], kind: str, part: str, name: object, where: str) -> dict[str, Any]:
    entries = whole.get(kind)
    for each in entries if isinstance(entries, list) else ():
        if isinstance(each, dict) and each.get("name") == name and isinstance(each.get(part), dict):
            found: dict[str, Any] = each[part]
            return found
    raise _refused(where, f"{kind} has no entry for the current context: add the {part} that it names")


def _pem(fields: dict[str, Any], place: str, name: str, where: str) -> bytes:
    text = fields.get(name)
    if not text:
        return b""
    try:
        content = base64.b64decode(str(text), validate=True)
    except (binascii.Error, ValueError):
        raise _refused(where, f"{place}.{name} is not base64") from None
    if b"-----BEGIN " not in content:
        raise _refused(where, f"{place}.{name} is not PEM in base64")
    return content


def _refused(where: str, what: str) -> KubeconfigError:
    return KubeconfigError(f"{where}: {what}")
