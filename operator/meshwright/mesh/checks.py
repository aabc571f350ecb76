"""What must hold before anything is written: pure checks `snapshot → finding or nothing`, in order.

The reason of a finding is the reason of the Ready condition.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from meshwright.api.meshinstall import COMPUTED_ENV, ENV_NAME, Size, TopologyModel
from meshwright.mesh import (
    availability,
    dataplane,
    gateways,
    locality,
    meshconfig,
    meshschema,
    primaries,
    rules,
    sizing,
    versions,
)
from meshwright.mesh.findings import Finding
from meshwright.mesh.observed import Observed, named

NAMED_FIELDS = 5
LABEL_LIMIT = 63  # characters of a label's value


Check = Callable[[Observed], Finding | None]


def supported_version(observed: Observed) -> Finding | None:
    spec = observed.mesh.spec
    objection = versions.objection(
        spec.version, observed.mesh.status.version, allow_untested=spec.allow_untested_version
    )
    return Finding("UnsupportedVersion", objection) if objection else None


def consistent_resources(observed: Observed) -> Finding | None:
    plane = observed.mesh.spec.control_plane
    found = sizing.contradictions("spec.controlPlane.resources", plane.resources, sizing.limits_of(plane.size))
    return Finding("InvalidSpec", "; ".join(found)) if found else None


def consistent_availability(observed: Observed) -> Finding | None:
    plane = observed.mesh.spec.control_plane
    replicas = sizing.ROWS[plane.size if plane.size in sizing.ROWS else Size.SMALL].replicas
    found = availability.contradictions(
        "spec.controlPlane", plane.autoscaling, plane.pod_disruption_budget, replicas=replicas
    )
    return Finding("InvalidSpec", "; ".join(found)) if found else None


def consistent_data_plane(observed: Observed) -> Finding | None:
    found = dataplane.problems(observed.mesh.spec)
    return Finding("InvalidSpec", "; ".join(found)) if found else None


def consistent_gateways(observed: Observed) -> Finding | None:
    found = gateways.problems(observed.mesh.spec)
    return Finding("InvalidSpec", "; ".join(found)) if found else None


def consistent_clusters(observed: Observed) -> Finding | None:
    """The CRD says some of it, too; this is also for whoever renders without a cluster."""
    spec, found = observed.mesh.spec, []
    for number, each in enumerate(spec.clusters):
        path, before = f"spec.clusters[{number}] ({each.name})", spec.clusters[:number]
        if each.name in (other.name for other in before):
            found.append(f"{path}.name: another cluster has this name: choose another one")
        if each.kubeconfig_secret is None and each.name != spec.cluster_name:
            found.append(
                f"{path} has no kubeconfigSecret: set it, or, if it is the operator's own cluster,"
                f" spec.clusterName: {each.name}"
            )
        if each.kubeconfig_secret is not None and each.name == spec.cluster_name:
            found.append(f"{path} has the name of the operator's own cluster (spec.clusterName): choose another one")
        if same := next((o.name for o in before if o.kubeconfig_secret == each.kubeconfig_secret is not None), None):
            found.append(f"{path}.kubeconfigSecret is that of {same}: one cluster cannot be in a mesh twice")
        if each.network and spec.topology.model is TopologyModel.FLAT_NETWORK:
            found.append(f"{path}.network: in a FlatNetwork all pods are on one network: remove it")
    joined = {each.name: each.primary for each in observed.mesh.status.clusters if each.joined}
    found += primaries.problems(spec, joined)
    return Finding("InvalidSpec", "; ".join(found)) if found else None


def consistent_locality(observed: Observed) -> Finding | None:
    found = locality.problems(observed.mesh.spec)
    return Finding("InvalidSpec", "; ".join(found)) if found else None


def consistent_scaling(observed: Observed) -> Finding | None:
    found = rules.problems(observed.mesh.spec.scaling)
    return Finding("InvalidSpec", "; ".join(found)) if found else None


def mesh_id_is_a_label(observed: Observed) -> Finding | None:
    """The CRD says the same; this is for whoever renders without a cluster."""
    spec = observed.mesh.spec
    if spec.mesh_id or len(spec.trust_domain) <= LABEL_LIMIT:
        return None
    return Finding(
        "InvalidSpec",
        f"spec.meshID follows from spec.trustDomain, and becomes a label of at most {LABEL_LIMIT} characters:"
        " set spec.meshID, too",
    )


def settable_env(observed: Observed) -> Finding | None:
    """The CRD says the same; this is for whoever renders without a cluster."""
    env = observed.mesh.spec.control_plane.env
    for name in env:
        if name in COMPUTED_ENV:
            return Finding("InvalidSpec", f"spec.controlPlane.env.{name} follows from other fields: remove it")
        if not re.fullmatch(ENV_NAME, name):
            return Finding(
                "InvalidSpec",
                f"spec.controlPlane.env: {name!r} is no name of an environment variable:"
                " use letters, digits and _ only, and no digit first",
            )
    return None


def no_computed_keys(observed: Observed) -> Finding | None:
    found = meshconfig.computed_keys(observed.mesh.spec)
    if not found:
        return None
    return Finding("InvalidSpec", f"{', '.join(found)}: follows from other fields of the MeshInstall, remove it here")


def one_spelling(observed: Observed) -> Finding | None:
    """Istio takes mesh_config keys in camelCase and in snake_case, and drops one of two that mean the same."""
    found = meshconfig.misspelt_keys(observed.mesh.spec)
    if not found:
        return None
    return Finding(
        "InvalidSpec",
        "; ".join(
            f"{path} is another spelling of {ours}: remove it, and write {ours} if it may be set"
            for path, ours in found
        ),
    )


def known_mesh_config(observed: Observed) -> Finding | None:
    """What istiod does not know it drops, and what it cannot read it ignores as a whole: both only in its log."""
    spec = observed.mesh.spec
    minor = versions.Version.parse(spec.version)[:2]
    found = meshschema.problems(spec.mesh_config, minor=minor) if minor in meshschema.minors() else []
    more = f"; and {len(found) - NAMED_FIELDS} more" if len(found) > NAMED_FIELDS else ""
    return Finding("InvalidSpec", "; ".join(found[:NAMED_FIELDS]) + more) if found else None


def revision_is_free(observed: Observed) -> Finding | None:
    """Of several MeshInstalls with one revision the installed one has it: a newcomer never disturbs what runs."""
    mesh = observed.mesh
    ours = (mesh.status.version is None, observed.created, mesh.name)
    for other in observed.neighbours:
        if other.revision == mesh.spec.revision and (not other.installed, other.created, other.name) < ours:
            return Finding(
                "RevisionConflict",
                f"MeshInstall {other.name} has revision {other.revision} already:"
                " choose another spec.revision, or delete one of the two",
            )
    return None


def namespace_stays(observed: Observed) -> Finding | None:
    for cluster in observed.clusters:
        if cluster.namespace_terminating:
            return Finding(
                "NamespaceTerminating",
                f"namespace {observed.mesh.spec.namespace} is being deleted:"
                " wait until it is gone, and make the operator's RoleBinding in it again;"
                " the mesh is then installed anew",
            )
    return None


def no_foreign_control_plane(observed: Observed) -> Finding | None:
    spec, name = observed.mesh.spec, observed.mesh.name
    for cluster in observed.clusters:
        for istiod in cluster.istiods:
            in_the_way = istiod.namespace == spec.namespace or istiod.revision == spec.revision
            if in_the_way and istiod.owner is None:
                return Finding(
                    "ForeignControlPlane",
                    f"Deployment {istiod.namespace}/{istiod.name} is an istiod of revision {istiod.revision}, installed"
                    f" by {named(istiod.managers)}: uninstall it with the tool that installed"
                    " it, or choose another namespace and revision",
                )
        for injector in cluster.injectors:
            # A tag that points to this revision is welcome; one that is named like it injects the same pods again.
            if injector.injects == spec.revision and injector.owner != name:
                return Finding(
                    "ForeignControlPlane",
                    f"MutatingWebhookConfiguration {injector.name} injects {injector.injects} already, installed"
                    f" by {named(injector.managers)}: two would inject every pod twice;"
                    " remove it, or choose another revision",
                )
    return None


CHECKS: tuple[Check, ...] = (
    supported_version,  # before all: another version may give other fields a meaning
    consistent_resources,
    consistent_availability,
    consistent_data_plane,
    consistent_gateways,
    consistent_clusters,
    consistent_locality,
    consistent_scaling,
    mesh_id_is_a_label,
    settable_env,
    no_computed_keys,
    one_spelling,
    known_mesh_config,  # after the other spelling of our own keys, of which there is more to say
    revision_is_free,  # before looking at what runs: a twin's istiod is not foreign, but not ours either
    namespace_stays,
    no_foreign_control_plane,
)


def first_finding(observed: Observed) -> Finding | None:
    return next((finding for check in CHECKS if (finding := check(observed))), None)
