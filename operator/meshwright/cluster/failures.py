"""HTTP failures become errors of the one tree, here and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Mapping

from meshwright.api.errors import (
    Conflict,
    FinalError,
    Forbidden,
    KubeconfigError,
    MeshwrightError,
    NamespaceTerminating,
    NotFound,
    Rejected,
    Throttled,
    Unreachable,
)

UNAUTHORIZED, FORBIDDEN, TOO_MANY, SERVER_ERROR = 401, 403, 429, 500

RBAC = ("is forbidden: User", "attempting to grant RBAC permissions")  # other 403s are admission's
GRANT = "apply the operator's manifests again, or grant this verb to its service account"
GRANT_IN_MEMBER = "apply manifests/member to that cluster again, or grant this verb to the kubeconfig's user"

ERRORS: Mapping[int, type[MeshwrightError]] = {
    400: Rejected,
    403: Rejected,
    404: NotFound,
    409: Conflict,
    410: Conflict,  # a list's continue token, or the version that a read began with
    415: Rejected,
    422: Rejected,
}


def classify(
    status: int, body: bytes, headers: Mapping[str, str], *, what: str, member: bool = False
) -> MeshwrightError:
    """The error for a response of `status` (≥ 400) to the request that `what` names, as `patch Deployment a/b`.

    `member`: it comes from a member cluster, where we are who a kubeconfig says.
    """
    answer = _status(body)
    says = str(answer.get("message") or body[:300].decode(errors="replace") or f"HTTP {status}")
    if status == FORBIDDEN and _has_cause(answer, "NamespaceTerminating"):
        return NamespaceTerminating(f"{what}: {says}")
    if status == FORBIDDEN and any(words in says for words in RBAC):
        return Forbidden(f"{says}: {GRANT_IN_MEMBER if member else GRANT}")
    if status == UNAUTHORIZED and member:
        return KubeconfigError(
            f"{what}: the API server does not accept the kubeconfig's credential ({says}): make the kubeconfig again"
        )
    if status == UNAUTHORIZED:
        return Unreachable(f"{what}: the API server does not accept the operator's credentials ({says})")
    if status == TOO_MANY:
        wait = headers.get("Retry-After", "")
        return Throttled(f"{what}: {says}", retry_after=float(wait) if wait.isdecimal() else None)
    # A webhook that does not answer is reported as 500 too: it may be istiod's own, which is about to be ready.
    known = Unreachable if status >= SERVER_ERROR else ERRORS.get(status)
    return known(f"{what}: {says}") if known else FinalError(f"{what}: HTTP {status}: {says}")


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
