"""HTTP failures become errors of the one tree, here and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Mapping

from meshwright.api.errors import (
    Conflict,
    FinalError,
    Forbidden,
    MeshwrightError,
    NamespaceTerminating,
    NotFound,
    Rejected,
    Throttled,
    Unreachable,
)

BAD_REQUEST, UNAUTHORIZED, FORBIDDEN, NOT_FOUND, CONFLICT, GONE = 400, 401, 403, 404, 409, 410
UNSUPPORTED, INVALID, TOO_MANY, SERVER_ERROR = 415, 422, 429, 500


def classify(status: int, body: bytes, headers: Mapping[str, str], *, what: str) -> MeshwrightError:
    """The error for a response of `status` (≥ 400) to the request that `what` names, as `patch Deployment a/b`."""
    answer = _status(body)
    says = str(answer.get("message") or body[:300].decode(errors="replace") or f"HTTP {status}")
    if status == FORBIDDEN and _has_cause(answer, "NamespaceTerminating"):
        return NamespaceTerminating(f"{what}: {says}")
    if status == FORBIDDEN and ("is forbidden: User" in says or "attempting to grant RBAC permissions" in says):
        return Forbidden(f"{says}: apply the operator's manifests again, or grant this verb to its service account")
    if status == UNAUTHORIZED:
        return Unreachable(f"{what}: the API server does not accept the operator's credentials ({says})")
    if status == NOT_FOUND:
        return NotFound(f"{what}: {says}")
    if status in (CONFLICT, GONE):  # gone: a list's continue token, or the version that a read began with
        return Conflict(f"{what}: {says}")
    if status == TOO_MANY:
        wait = headers.get("Retry-After", "")
        return Throttled(f"{what}: {says}", retry_after=float(wait) if wait.isdecimal() else None)
    if status >= SERVER_ERROR:
        # A webhook that does not answer is reported as 500 too: it may be istiod's own, which is about to be ready.
        return Unreachable(f"{what}: {says}")
    if status in (BAD_REQUEST, FORBIDDEN, INVALID, UNSUPPORTED):
        return Rejected(f"{what}: {says}")
    return FinalError(f"{what}: HTTP {status}: {says}")


def _status(body: bytes) -> dict[str, object]:
    try:
        answer = json.loads(body)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _has_cause(answer: dict[str, object], reason: str) -> bool:
    details = answer.get("details")
    causes = details.get("causes") if isinstance(details, dict) else None
    return any(isinstance(cause, dict) and cause.get("reason") == reason for cause in causes or ())
