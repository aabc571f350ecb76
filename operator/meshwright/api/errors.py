"""Everything that can go wrong, and whose move it is next.

    MeshwrightError
    ├── FinalError            retrying cannot help: the MeshInstall (or Meshwright) must change first
    │   ├── InvalidSpec       a field of the MeshInstall is wrong
    │   ├── Rejected          the API server refuses an object that we rendered
    │   └── TemplateError     a template of ours failed
    ├── TransientError        retried with backoff
    │   ├── Unreachable       the API server is away, or timed out
    │   ├── Throttled         the API server asks us to wait
    │   ├── Conflict          somebody wrote first: read again
    │   ├── Superseded        the MeshInstall changed while we worked on it: begin again
    │   └── NotFound          what we asked for is not there (any more)
    └── ExternalError         somebody else must act; we look again from time to time
        ├── Forbidden         RBAC refuses us a verb on a resource
        ├── ForeignObject     an object in our place is not ours
        ├── NamespaceTerminating
        ├── KubeconfigError   the way to a member cluster cannot be used
        ├── TrustError        key material that we find is not what it must be
        └── LeaseLost         another replica leads, or may: this process ends

Each error's `reason` is the reason of the Ready condition (see `meshwright.api.conditions`).
"""

from __future__ import annotations


class MeshwrightError(Exception):
    """The root of the tree; `str()` is a sentence for the person who reads `kubectl get mesh -o wide`."""

    reason = "InternalError"


class FinalError(MeshwrightError):
    """Retrying cannot help."""


class InvalidSpec(FinalError):
    reason = "InvalidSpec"


class Rejected(FinalError):
    reason = "ObjectRejected"


class TemplateError(FinalError):
    reason = "TemplateError"


class TransientError(MeshwrightError):
    """Retried with backoff."""


class Unreachable(TransientError):
    reason = "ClusterUnreachable"


class Throttled(TransientError):
    reason = "ClusterUnreachable"

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after  # seconds, from the server


class Conflict(TransientError):
    reason = "Conflict"


class Superseded(TransientError):
    reason = "Progressing"


class NotFound(TransientError):
    reason = "NotFound"


class ExternalError(MeshwrightError):
    """Somebody else must act."""


class Forbidden(ExternalError):
    reason = "PermissionDenied"


class ForeignObject(ExternalError):
    reason = "ForeignObject"


class NamespaceTerminating(ExternalError):
    reason = "NamespaceTerminating"


class KubeconfigError(ExternalError):
    reason = "KubeconfigNotUsable"


class TrustError(ExternalError):
    reason = "TrustNotUsable"


class LeaseLost(ExternalError):
    """Nothing may be written any more."""
