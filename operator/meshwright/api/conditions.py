"""The condition types, and every reason that a condition can carry.

Reasons are API: people match on them. The table below is the only place where one is defined; the reference
page is generated from it, and a test holds every finding and error of the code against it.
"""

from __future__ import annotations

from dataclasses import dataclass

READY = "Ready"
RECONCILING = "Reconciling"
STALLED = "Stalled"

CONFIGURATION_ACCEPTED = "ConfigurationAccepted"
CERTIFICATES_VALID = "CertificatesValid"
CONTROL_PLANE_SIZED = "ControlPlaneSized"
CONTROL_PLANE_READY = "ControlPlaneReady"
WEBHOOKS_CONFIGURED = "WebhooksConfigured"
GATEWAYS_READY = "GatewaysReady"
CLUSTERS_JOINED = "ClustersJoined"


@dataclass(frozen=True)
class Part:
    """A row: a condition that Ready sums up, and what it says when all is well."""

    type: str
    asks: str
    well: str  # the reason with which it is True
    message: str


# In the order in which they come about; the first that is not True is what Ready tells.
PARTS: tuple[Part, ...] = (
    Part(CONFIGURATION_ACCEPTED, "Is the MeshInstall free of errors, and does every istiod run what it says?",
         "InForce", "every istiod runs the declared mesh config"),
    Part(CERTIFICATES_VALID, "Are root, intermediate and workload certificates valid, and renewed in time?",
         "Current", "no certificate is close to its end"),
    Part(CONTROL_PLANE_SIZED, "Has istiod the size that is asked for, and is that large enough?",
         "Sized", "istiod has the size that is asked for"),
    Part(CONTROL_PLANE_READY, "Is every replica of istiod up to date and available?",
         "Available", "every replica of istiod is up to date and available"),
    Part(WEBHOOKS_CONFIGURED, "Do the injection webhooks trust istiod?",
         "Trusted", "the injection webhooks trust istiod"),
    Part(GATEWAYS_READY, "Is every replica of every gateway up to date and available?",
         "GatewaysAvailable", "every replica of every gateway is up to date and available"),
    Part(CLUSTERS_JOINED, "Does every cluster answer, and does every istiod see all the others?",
         "Joined", "every cluster answers, and every istiod sees all the others"),
)  # fmt: skip
NOT_OBSERVED = "NotObserved"  # Unknown: nothing is known of a part yet

# The summary and the two that kstatus defines, so that `kubectl wait`, Argo CD and Flux understand a MeshInstall.
TYPES = (READY, RECONCILING, STALLED, *(part.type for part in PARTS))


@dataclass(frozen=True)
class Reason:
    """A row: what Ready says with this reason, and what to do about it."""

    name: str
    ready: str  # True | False | Unknown
    stalled: bool  # nothing more will happen until somebody acts
    means: str
    next_step: str
    part: str = READY  # the type of the part that is False with it; Ready itself for what concerns no part


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
            part=CONTROL_PLANE_READY,
        ),
        Reason(
            "ControlPlaneNotReady",
            "False",
            stalled=False,
            means="istiod's pods exist but are not ready; the message carries the container's own reason.",
            next_step="`kubectl describe pod` of the pod that the message names.",
            part=CONTROL_PLANE_READY,
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
            part=CONFIGURATION_ACCEPTED,
        ),
        Reason(
            "UnsupportedVersion",
            "False",
            stalled=True,
            means="This Meshwright cannot install or reach `spec.version`; what runs stays as it is.",
            next_step="Choose a version that the message names.",
            part=CONFIGURATION_ACCEPTED,
        ),
        Reason(
            "RevisionConflict",
            "False",
            stalled=True,
            means="Another MeshInstall has this revision already: two would inject the same pods twice.",
            next_step="Choose another `spec.revision`, or delete one of the two MeshInstalls.",
            part=CONFIGURATION_ACCEPTED,
        ),
        Reason(
            "ForeignControlPlane",
            "False",
            stalled=True,
            means="An istiod (or its injection webhook) that Meshwright did not install is in the way.",
            next_step="Uninstall it with the tool that installed it, or choose another revision and namespace.",
            part=CONTROL_PLANE_READY,
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
            part=CERTIFICATES_VALID,
        ),
        Reason(
            "ObjectRejected",
            "False",
            stalled=True,
            means="The API server (or an admission policy) refused an object; its own words are in the message.",
            next_step="Correct the field of the MeshInstall that the object's field comes from, or the policy.",
            part=CONFIGURATION_ACCEPTED,
        ),
        Reason(
            "TemplateError",
            "False",
            stalled=True,
            means="A template of Meshwright failed to render. Nothing was applied.",
            next_step="Report it with `kubectl mesh render FILE` of this MeshInstall.",
            part=CONFIGURATION_ACCEPTED,
        ),
        Reason(
            "DisruptionBudgetConflict",
            "False",
            stalled=True,
            means="A PodDisruptionBudget of somebody else selects istiod's or a gateway's pods. With two of them the"
            " API server refuses every eviction, so that no node with such a pod can be drained.",
            next_step="Remove the PodDisruptionBudget that the message names, or narrow its selector; set"
            " `podDisruptionBudget` in the MeshInstall instead.",
            part=CONTROL_PLANE_READY,
        ),
        Reason(
            "CNINotReady",
            "False",
            stalled=False,
            means="istio-cni is not ready on every node. Pods with a sidecar that start on the others wait, or are"
            " repaired later.",
            next_step="`kubectl describe pod -l k8s-app=istio-cni-node` in the mesh's namespace; look at"
            " `dataPlane.cniBinDir` and `cniConfDir` where a directory is missing.",
            part=CONTROL_PLANE_READY,
        ),
        Reason(
            "NoNodeLargeEnough",
            "False",
            stalled=True,
            means="No node of the cluster could hold one replica of istiod of the size that is asked for. What runs"
            " stays as it is.",
            next_step="Add larger nodes, or choose a smaller `spec.controlPlane.size` or smaller `resources`.",
            part=CONTROL_PLANE_SIZED,
        ),
        Reason(
            "SizeTakenBack",
            "False",
            stalled=True,
            means="A replica of the size that is asked for found no room on any node for five minutes; istiod has its"
            " former size again.",
            next_step="Make room or add nodes, then change `spec.controlPlane` (to another size and back) to try"
            " again.",
            part=CONTROL_PLANE_SIZED,
        ),
        Reason(
            "MultiClusterRequired",
            "True",
            stalled=False,
            means="With `size: Auto`, the cluster has more pods in the mesh than the largest size is for. istiod has"
            " that size.",
            next_step="Spread the workloads over several clusters.",
            part=CONTROL_PLANE_SIZED,
        ),
        Reason(
            "WebhooksNotTrusted",
            "False",
            stalled=False,
            means="istiod has not written its CA into the injection webhooks, so the API server cannot call it and pods"
            " that are to be injected cannot be made.",
            next_step="Wait a few seconds; if it stays, look at istiod's log for `webhook`.",
            part=WEBHOOKS_CONFIGURED,
        ),
        Reason(
            "GatewayNotReady",
            "False",
            stalled=False,
            means="A gateway's pods are not all there and ready; the message carries their own reason.",
            next_step="`kubectl describe pod` of the pod that the message names.",
            part=GATEWAYS_READY,
        ),
        Reason(
            "ClusterAway",
            "False",
            stalled=False,
            means="A member cluster does not answer. What runs there goes on; nothing of it is changed or taken away"
            " until it answers.",
            next_step="Look at the cluster's API server and the way to it; it is asked again every few seconds.",
            part=CLUSTERS_JOINED,
        ),
        Reason(
            "ClusterLeaving",
            "False",
            stalled=False,
            means="A cluster is not listed in `spec.clusters` any more, and sidecars still run there. Until they are"
            " gone it is looked after as before.",
            next_step="Take the injection label from the namespaces that the message names and restart their pods, or"
            " list the cluster again.",
            part=CLUSTERS_JOINED,
        ),
        Reason(
            "KubeconfigNotUsable",
            "False",
            stalled=False,
            means="The Secret of a member cluster is missing, or its kubeconfig cannot be used; the message names the"
            " field. The other clusters are looked after.",
            next_step="Correct the Secret that the message names; it is read again by itself.",
            part=CLUSTERS_JOINED,
        ),
        Reason(
            "MemberNotReady",
            "False",
            stalled=False,
            means="Something went wrong in a member cluster; the message carries it. The others are looked after.",
            next_step="Do what the message says in the cluster that it names.",
            part=CLUSTERS_JOINED,
        ),
        Reason(
            "PreflightFailed",
            "False",
            stalled=False,
            means="A cluster cannot be joined as it is, or not any more; `status.checks` has all checks. It is left"
            " as it is, and the others are looked after.",
            next_step="Do what the message says; it is checked again by itself. `kubectl mesh check FILE` shows the"
            " same before anything is applied.",
            part=CLUSTERS_JOINED,
        ),
        Reason(
            "NoGatewayAddress",
            "False",
            stalled=False,
            means="The Service of an east-west gateway has no address: the other clusters would send traffic to pods"
            " that they cannot reach.",
            next_step="Look at the load balancer controller of that cluster, or set"
            " `topology.eastWestGateway.service.externalIPs`.",
            part=CLUSTERS_JOINED,
        ),
        Reason(
            "RemoteNotSynced",
            "False",
            stalled=False,
            means="An istiod has not read another cluster yet, so its endpoints are missing there.",
            next_step="Wait some seconds; if it stays, look whether istiod's pods reach the API server that the message"
            " names.",
            part=CLUSTERS_JOINED,
        ),
        Reason(
            "TrafficNotVerified",
            "False",
            stalled=False,
            means="With `spec.verify: Traffic`, requests from one cluster to another one do not all pass, or not yet.",
            next_step="Wait some seconds; if it stays, look whether the one cluster reaches the address of the other's"
            " east-west gateway on port 15443, and whether an AuthorizationPolicy there denies everything.",
            part=CLUSTERS_JOINED,
        ),
        Reason(
            "ConfigurationNotInForce",
            "False",
            stalled=False,
            means="A replica of istiod runs another mesh config than the declared one: istiod keeps the last good one"
            " when it cannot read a new one, and says so only in its log.",
            next_step="Read the fields that the message names; istiod's log says what it objects to.",
            part=CONFIGURATION_ACCEPTED,
        ),
        Reason(
            "CertificateExpiring",
            "True",
            stalled=False,
            means="A certificate was not renewed when it should have been, and is close to its end.",
            next_step="Look at the log of the proxy that the message names for `certificate`, and whether it reaches"
            " istiod; restart the pod. A root is rotated by hand.",
            part=CERTIFICATES_VALID,
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
