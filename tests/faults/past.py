"""What reads were answered with before: an API server that lags behind says it again."""

from __future__ import annotations

import re
from typing import NamedTuple

DEPTH = 8
OK, NOT_FOUND = 200, 404
LIST_VERSION = re.compile(rb'"resourceVersion":"\d+"')  # that of a list comes before those of its items


class Reply(NamedTuple):
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Past:
    """One read, as often as it was answered differently: also that there is nothing counts as a version."""

    def __init__(self, *, of_a_list: bool) -> None:
        self._of_a_list = of_a_list
        self._versions: list[Reply] = []
        self._floor = 0  # the newest that this life has seen

    def saw(self, reply: Reply) -> None:
        if reply.status not in (OK, NOT_FOUND):
            return
        if self._versions and self._content(reply) == self._content(self._versions[-1]):
            self._versions[-1] = reply
            return
        self._versions.append(reply)
        if len(self._versions) > DEPTH:
            del self._versions[0]
            self._floor = max(0, self._floor - 1)

    def read(self, versions: int, *, otherwise: Reply) -> Reply:
        """The reply of so many versions ago, but none older than one that this life was told before."""
        if otherwise.status not in (OK, NOT_FOUND):
            return otherwise
        self._floor = max(self._floor, len(self._versions) - 1 - versions)
        return self._versions[self._floor]

    def forget_life(self) -> None:
        """A new process may be connected to an API server that is further behind."""
        self._floor = 0

    def _content(self, reply: Reply) -> bytes:
        """A list's own version moves with every write to anything; what is in it does not."""
        return LIST_VERSION.sub(b"", reply.body, count=1) if self._of_a_list else reply.body
