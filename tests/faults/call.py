"""A request to the API server, as plans see it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import parse_qs

READS = ("GET", "HEAD", "OPTIONS")
QUESTIONS = ("/apis/authorization.k8s.io/", "/apis/authentication.k8s.io/")  # a POST that stores nothing
OF_A_NAMESPACE = ("status", "finalize")  # the only subresources of a namespace; all else are resources in it


class Identity(NamedTuple):
    """What makes two calls the same, whatever else goes on at that time: calls of concurrent tasks have no order."""

    life: int
    method: str
    path: str
    name: str
    selector: str
    dry_run: bool
    watch: bool
    occurrence: int


class Target(NamedTuple):
    plural: str = ""
    namespace: str = ""
    name: str = ""
    subresource: str = ""


@dataclass(frozen=True, kw_only=True)
class Call:
    method: str
    path: str  # without the query
    plural: str = ""  # empty: not about a resource, as /version
    namespace: str = ""
    name: str = ""  # of a POST: the one in its body
    subresource: str = ""
    selector: str = ""  # of labels and fields
    dry_run: bool = False
    watch: bool = False
    number: int = 1  # among all calls that this proxy saw, from 1
    write: int = 0  # among all writes that this proxy saw, from 1; 0: no write
    life: int = 1  # of the operator's lives
    occurrence: int = 1  # among the calls of this life that are the same

    @classmethod
    def of(cls, method: str, target: str, body: bytes = b"", *, names: Mapping[str, str] | None = None) -> Call:
        """From the path with its query. `names` maps words of this run to those that stand for them in each run."""
        path, _, query = target.partition("?")
        asked = parse_qs(query)
        about = target_of(_renamed(path, names))
        if method == "POST" and not about.name:
            about = about._replace(name=_renamed(_name_in(body), names))
        selectors = (*asked.get("labelSelector", ()), *asked.get("fieldSelector", ()))
        return cls(
            method=method,
            path=_renamed(path, names),
            **about._asdict(),
            selector=_renamed(" ".join(selectors), names),
            dry_run="dryRun" in asked,
            watch=asked.get("watch", [""])[0] in ("true", "1"),
        )

    @property
    def is_write(self) -> bool:
        return self.method not in READS and not self.dry_run and not self.path.startswith(QUESTIONS)

    @property
    def is_read(self) -> bool:
        """One answer from the store, at once."""
        return self.method == "GET" and not self.watch and bool(self.plural)

    @property
    def reports(self) -> bool:
        """Events and the status of a MeshInstall: what an operator may write that must not touch anything."""
        return self.plural == "events" or (self.plural == "meshinstalls" and self.subresource == "status")

    @property
    def identity(self) -> Identity:
        return Identity(
            self.life, self.method, self.path, self.name, self.selector, self.dry_run, self.watch, self.occurrence
        )

    def __str__(self) -> str:
        what = f"{self.plural}/{self.subresource}" if self.subresource else self.plural or self.path
        where = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return " ".join(word for word in (self.method, what, where) if word)


def target_of(path: str) -> Target:
    """What a path of the API server is about: /api/v1/… or /apis/GROUP/VERSION/…"""
    parts = path.strip("/").split("/")
    prefix = {"api": 2, "apis": 3}.get(parts[0])
    if prefix is None or len(parts) <= prefix:
        return Target()
    rest, namespace = parts[prefix:], ""
    if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in OF_A_NAMESPACE:
        namespace, rest = rest[1], rest[2:]
    plural, name, subresource = (*rest, "", "")[:3]
    return Target(plural, namespace, name, subresource)


def _renamed(text: str, names: Mapping[str, str] | None) -> str:
    for word in sorted(names or (), key=len, reverse=True):  # a name may be the beginning of another
        text = text.replace(word, (names or {})[word])
    return text


def _name_in(body: bytes) -> str:
    try:
        metadata: Any = json.loads(body)["metadata"]
        return str(metadata.get("name") or metadata.get("generateName") or "")
    except (ValueError, LookupError, TypeError, AttributeError):  # not an object: the API server will say so
        return ""
