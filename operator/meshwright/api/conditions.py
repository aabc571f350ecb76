"""The condition types, and every reason that a condition can carry.

Reasons are API: people match on them. The table below is the only place where one is defined; the reference
page is generated from it, and a test holds every finding and error of the code against it.
"""

from __future__ import annotations

from dataclasses import dataclass

READY = "Ready"
RECONCILING = "Reconciling"
STALLED = "Stalled"
# The summary and the two that kstatus defines, so that `kubectl wait`, Argo CD and Flux understand a MeshInstall.
TYPES = (READY, RECONCILING, STALLED)


@dataclass(frozen=True)
class Reason:
    """A row: what Ready says with this reason, and what to do about it."""

    name: str
    ready: str  # True | False | Unknown
    stalled: bool  # nothing more will happen until somebody acts
    means: str
    next_step: str


REASONS: dict[str, Reason] = {
    row.name: row
    for row in (
        Reason(
            "Installed",
            "True",
            stalled=False,
            means="Everything that the MeshInstall asks for is there and ready.",
            next_step="Nothing.",
        ),
        Reason(
            "Progressing",
            "False",
            stalled=False,
            means="The control plane is being brought to the declared state.",
            next_step="Wait; the message names the step.",
        ),
        Reason(
            "ControlPlaneNotReady",
            "False",
            stalled=False,
            means="istiod's pods exist but are not ready; the message carries the container's own reason.",
            next_step="`kubectl describe pod` of the pod that the message names.",
        ),
        Reason(
            "Planned",
            "Unknown",
            stalled=False,
            means="`spec.mode` is Plan: what would change was computed by a server-side dry run, nothing written.",
            next_step="Read `status.plan`; set `spec.mode: Apply` to carry it out.",
        ),
        Reason(
            "Paused",
            "Unknown",
            stalled=False,
            means="`spec.mode` is Paused: nothing but this status is written.",
            next_step="Set `spec.mode: Apply` to continue.",
        ),
        Reason(
            "Deleting",
            "False",
            stalled=False,
            means="The MeshInstall is being deleted and its objects are removed in order.",
            next_step="Wait; if something is in the way, the message names it.",
        ),
        Reason(
            "InvalidSpec",
            "False",
            stalled=True,
            means="A field of the MeshInstall is wrong; the message names it.",
            next_step="Correct the field and apply again.",
        ),
        Reason(
            "UnsupportedVersion",
            "False",
            stalled=True,
            means="This Meshwright cannot install or reach `spec.version`; what runs stays as it is.",
            next_step="Choose a version that the message names.",
        ),
        Reason(
            "RevisionConflict",
            "False",
            stalled=True,
            means="Another MeshInstall has this revision already: two would inject the same pods twice.",
            next_step="Choose another `spec.revision`, or delete one of the two MeshInstalls.",
        ),
        Reason(
            "ForeignControlPlane",
            "False",
            stalled=True,
            means="An istiod (or its injection webhook) that Meshwright did not install is in the way.",
            next_step="Uninstall it with the tool that installed it, or choose another revision and namespace.",
        ),
        Reason(
            "ForeignObject",
            "False",
            stalled=True,
            means="An object with a name that we need exists and is not ours. It was not touched.",
            next_step="Remove or rename the object that the message names.",
        ),
        Reason(
            "NamespaceTerminating",
            "False",
            stalled=True,
            means="The mesh's namespace is being deleted.",
            next_step="Wait until it is gone (its `status.conditions` say what holds it), and make it and the"
            " RoleBinding `meshwright` in it again; the mesh is then installed anew.",
        ),
        Reason(
            "PermissionDenied",
            "False",
            stalled=True,
            means="The operator's service account lacks a permission; the message names verb and resource.",
            next_step="Apply `manifests/` again, or grant the verb that the message names.",
        ),
        Reason(
            "TrustNotUsable",
            "False",
            stalled=True,
            means="A CA Secret is foreign, incomplete, expired or does not match its root. Nothing was overwritten.",
            next_step="Repair or remove the Secret that the message names; a root is never replaced by itself.",
        ),
        Reason(
            "ObjectRejected",
            "False",
            stalled=True,
            means="The API server (or an admission policy) refused an object; its own words are in the message.",
            next_step="Correct the field of the MeshInstall that the object's field comes from, or the policy.",
        ),
        Reason(
            "TemplateError",
            "False",
            stalled=True,
            means="A template of Meshwright failed to render. Nothing was applied.",
            next_step="Report it with `kubectl mesh render FILE` of this MeshInstall.",
        ),
        Reason(
            "ClusterUnreachable",
            "False",
            stalled=False,
            means="The API server did not answer.",
            next_step="Check the API server; we retry with backoff.",
        ),
        Reason(
            "Conflict",
            "False",
            stalled=False,
            means="Somebody changed an object between our read and our write.",
            next_step="Nothing: we read again.",
        ),
        Reason(
            "NotFound",
            "False",
            stalled=False,
            means="An object or API vanished while we worked.",
            next_step="Nothing: we read again.",
        ),
        Reason(
            "InternalError",
            "False",
            stalled=False,
            means="An unexpected error in Meshwright; the operator's log has the details.",
            next_step="Report it with the operator's log; we retry with backoff.",
        ),
    )
}
