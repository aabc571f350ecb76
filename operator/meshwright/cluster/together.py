"""Several requests at once, of which none outlives the call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any


async def together(*requests: Awaitable[Any]) -> list[Any]:
    """The answers in order. Of several failures the first in order is raised, after all have ended: a write that is
    still under way when its reconcile is over could undo what the next one does.
    """
    answers = await asyncio.gather(*requests, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return answers
