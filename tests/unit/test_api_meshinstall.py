"""A MeshInstall is read from a manifest; what is wrong with it is said by field."""

from __future__ import annotations

from typing import Any

import pytest

from meshes import manifest
from meshwright.api.errors import InvalidSpec
from meshwright.api.meshinstall import (
    API_VERSION,
    MTLS,
    ControlPlaneStatus,
    MeshInstall,
    MeshSpec,
    MeshStatus,
    Mode,
    Size,
    parse_status,
)

Json = dict[str, Any]


def test_a_version_is_enough() -> None:
    mesh = MeshInstall.parse(manifest())
    assert mesh.name == "demo"
    assert (mesh.spec.mtls, mesh.spec.mode, mesh.spec.control_plane.size) == (MTLS.PERMISSIVE, Mode.APPLY, Size.AUTO)
    assert mesh.spec.mesh_id is None
    assert mesh.status == MeshStatus()


def test_metadata_that_a_reconcile_needs_is_kept() -> None:
    document = manifest()
    document["metadata"] |= {
        "uid": "u", "generation": 7, "finalizers": ["a", "b"], "deletionTimestamp": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    mesh = MeshInstall.parse(document)
    assert (mesh.uid, mesh.generation, mesh.finalizers) == ("u", 7, ("a", "b"))


def test_what_was_read_cannot_be_changed() -> None:
    mesh = MeshInstall.parse(manifest())
    with pytest.raises(ValueError, match="frozen"):
        mesh.spec.trust_domain = "other"  # type: ignore[misc]


WRONG_FIELDS: list[tuple[Json, str]] = [
    # fields of spec, and the beginning of what is said
    ({"version": None}, "spec.version: Input should be a valid string"),
    ({"version": "1.31"}, "spec.version: String should match pattern"),
    ({"version": "v1.31.4"}, "spec.version: String should match pattern"),
    ({"version": "1.31.4\n"}, "spec.version: String should match pattern"),
    ({"version": "1.31.4-beta.0"}, "spec.version: String should match pattern"),
    ({"mtls": "strict"}, "spec.mtls: Input should be 'Permissive' or 'Strict'"),
    ({"mode": "Go"}, "spec.mode: Input should be 'Apply', 'Plan' or 'Paused'"),
    ({"revison": "a"}, "spec.revison: no such field"),
    ({"control_plane": {}}, "spec.control_plane: no such field"),
    ({"mesh_id": "a"}, "spec.mesh_id: no such field"),
    ({"namespace": ""}, "spec.namespace: String should have at least 1 character"),
    ({"namespace": "Mesh"}, "spec.namespace: String should match pattern"),
    ({"namespace": "a.b"}, "spec.namespace: String should match pattern"),
    ({"revision": "1-31-"}, "spec.revision: String should match pattern"),
    ({"revision": "r" * 57}, "spec.revision: String should have at most 56 characters"),
    ({"clusterName": "a/b"}, "spec.clusterName: String should match pattern"),
    ({"meshID": "a..b"}, "spec.meshID: String should match pattern"),
    ({"meshID": "m" * 64}, "spec.meshID: String should have at most 63 characters"),
    ({"trustDomain": "spiffe://a"}, "spec.trustDomain: String should match pattern"),
    ({"trustDomain": "a" * 64}, "spec.trustDomain: String should match pattern"),
    ({"trustDomain": f"a.{'b' * 64}.c"}, "spec.trustDomain: String should match pattern"),
    ({"trustDomain": f"a.{'b' * 62}-"}, "spec.trustDomain: String should match pattern"),
    ({"trustDomain": ".".join(["a" * 63] * 4)}, "spec.trustDomain: String should have at most 253 characters"),
    ({"meshConfig": []}, "spec.meshConfig: Input should be a valid dictionary"),
    (
        {"controlPlane": {"size": "Huge"}},
        "spec.controlPlane.size: Input should be 'Auto', 'Small', 'Medium' or 'Large'",
    ),
    ({"controlPlane": {"image": {"hub": "a b"}}}, "spec.controlPlane.image.hub: String should match pattern"),
    ({"controlPlane": {"image": {"tag": ".x"}}}, "spec.controlPlane.image.tag: String should match pattern"),
    ({"controlPlane": {"image": {"pullPolicy": "never"}}}, "spec.controlPlane.image.pullPolicy: String should match"),
    ({"controlPlane": {"env": {"A": 1}}}, "spec.controlPlane.env.A: Input should be a valid string"),
    ({"controlPlane": {"env": {"A": "x" * 4097}}}, "spec.controlPlane.env.A: String should have at most 4096"),
    ({"controlPlane": {"env": {f"A{i}": "" for i in range(65)}}}, "spec.controlPlane.env: Dictionary should have at"),
    ({"controlPlane": {"resources": {"limits": {"gpu": 1}}}}, "spec.controlPlane.resources.limits.gpu: no such"),
    ({"controlPlane": {"replicas": 3}}, "spec.controlPlane.replicas: no such field"),
    ({"controlPlane": {"autoscaling": {"minReplicas": 0}}}, "spec.controlPlane.autoscaling.minReplicas: Input should"),
    (
        {"controlPlane": {"podDisruptionBudget": {"minAvailable": "50%"}}},
        "spec.controlPlane.podDisruptionBudget.minAvailable: Input should be a valid integer",
    ),
    ({"controlPlane": {"priorityClassName": "Very High"}}, "spec.controlPlane.priorityClassName: String should match"),
    ({"dataPlane": {"cni": True}}, "spec.dataPlane.cni: Input should be 'Disabled', 'Enabled' or 'Existing'"),
    ({"dataPlane": {"cniBinDir": "opt/cni"}}, "spec.dataPlane.cniBinDir: String should match pattern"),
    ({"dataPlane": {"certificateTTL": "1d"}}, "spec.dataPlane.certificateTTL: String should match pattern"),
    ({"dataPlane": {"certificateRenewalRatio": 1}}, "spec.dataPlane.certificateRenewalRatio: Input should be less"),
    ({"dataPlane": {"sidecar": {"logLevel": "loud"}}}, "spec.dataPlane.sidecar.logLevel: String should match pattern"),
    ({"gateways": [{}]}, "spec.gateways.0.name: Field required"),
    ({"gateways": [{"name": "a", "service": {"ports": []}}]}, "spec.gateways.0.service.ports: List should have at le"),
    (
        {"gateways": [{"name": "a", "service": {"ports": [{"name": "b", "port": 0}]}}]},
        "spec.gateways.0.service.ports.0.port: Input should be greater",
    ),
    (
        {"gateways": [{"name": "a", "service": {"ports": [{"name": "b", "port": 80, "protocol": "SCTP"}]}}]},
        "spec.gateways.0.service.ports.0.protocol: String should match",
    ),
    ({"observability": {"tracing": {}}}, "spec.observability.tracing.otlp: Field required"),
    (
        {"observability": {"tracing": {"otlp": {"service": "a"}, "samplingPercent": 101}}},
        "spec.observability.tracing.samplingPercent: Input should be less",
    ),
]


@pytest.mark.parametrize(("spec", "says"), WRONG_FIELDS, ids=[says for _, says in WRONG_FIELDS])
def test_an_error_names_the_mesh_the_field_and_what_it_should_be(spec: Json, says: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        MeshInstall.parse(manifest(**spec))
    assert str(caught.value).startswith(f"MeshInstall demo: {says}")
    assert "\n" not in str(caught.value).replace("\\n", "")
    assert "pydantic" not in str(caught.value)


@pytest.mark.parametrize("domain", ["a", "a" * 63, f"{'a' * 63}.{'b' * 63}", f"a{'-' * 61}b.c", "1.2"])
def test_a_part_of_a_domain_has_at_most_63_characters(domain: str) -> None:
    assert MeshInstall.parse(manifest(trustDomain=domain)).spec.trust_domain == domain


def test_every_wrong_field_is_named_at_once() -> None:
    with pytest.raises(InvalidSpec) as caught:
        MeshInstall.parse(manifest(mtls="no", mode="no", nonsense=1))
    assert all(field in str(caught.value) for field in ("spec.mtls", "spec.mode", "spec.nonsense"))


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({}, f"not a {API_VERSION} MeshInstall but ? ?: correct apiVersion and kind"),
        ({"apiVersion": "v1", "kind": "Pod"}, "but v1 Pod: correct apiVersion and kind"),
        ({"apiVersion": "meshwright.dev/v1", "kind": "MeshInstall"}, "but meshwright.dev/v1 MeshInstall: correct"),
        ({**manifest(), "metadata": None}, "metadata.name is missing: give the mesh a name"),
        ({**manifest(), "metadata": ["name"]}, "metadata.name is missing: give the mesh a name"),
        ({**manifest(), "metadata": {"name": 5}}, "metadata.name is missing: give the mesh a name"),
        ({**manifest(), "spec": None}, "MeshInstall demo: spec.version: Field required"),
        ({**manifest(), "spec": "small"}, "MeshInstall demo: spec: Input should be a valid dictionary"),
    ],
)
def test_what_is_no_meshinstall_is_told_so(document: Json, says: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        MeshInstall.parse(document)
    assert says in str(caught.value)


HELD: Json = {"clusterName": "east", "mode": "Paused", "trust": {"deletionPolicy": "Delete"}}
WHERE: Json = {"namespace": "mesh", "revision": "canary", "meshID": "m", "trustDomain": "a.b"}


@pytest.mark.parametrize(
    ("spec", "kept"),
    [
        ({**WHERE, "mtls": "maybe", "version": "new"}, WHERE),
        ({**WHERE, "nonsense": 1}, WHERE),
        (WHERE | {"revision": "Not A Label"}, {name: text for name, text in WHERE.items() if name != "revision"}),
        ({**HELD, "mtls": "maybe"}, HELD),
        ({"version": 5}, {}),
        (None, {}),
    ],
)
def test_of_a_spec_that_does_not_parse_it_is_kept_where_its_objects_are(spec: Json | None, kept: Json) -> None:
    document = {**manifest(), "spec": spec, "status": STATUS}
    document["metadata"] |= {"uid": "u", "generation": 7, "resourceVersion": "9", "finalizers": ["a"]}
    with pytest.raises(InvalidSpec):
        MeshInstall.parse(document)
    mesh = MeshInstall.salvage(document)
    assert (mesh.name, mesh.uid, mesh.generation, mesh.resource_version, mesh.finalizers) == (
        "demo",
        "u",
        7,
        "9",
        ("a",),
    )
    assert mesh.spec == MeshSpec.model_validate({"version": "0.0.0", **kept})
    assert mesh.status == parse_status(STATUS)


STATUS: Json = {
    "observedGeneration": 3, "version": "1.31.4", "proxies": 4, "clustersReady": "1/1",
    "conditions": [{
        "type": "Ready", "status": "True", "reason": "Installed", "message": "as declared",
        "lastTransitionTime": "2026-02-01T00:00:00Z", "observedGeneration": 3,
    }],
    "clusters": [{
        "name": "primary", "ready": True, "kubernetesVersion": "v1.36.1", "proxies": 4, "objects": 30,
        "notReconciled": 1,
        "controlPlane": {
            "replicas": 2, "readyReplicas": 2, "size": "Small",
            "resources": {"requests": {"cpu": "500m", "memory": "4Gi"}, "limits": {"cpu": "2", "memory": "4Gi"}},
            "refused": {
                "size": "Large", "message": "no room",
                "resources": {"requests": {"cpu": "2", "memory": "16Gi"}, "limits": {"cpu": "8", "memory": "16Gi"}},
            },
        },
        "proxyVersions": [{"version": "1.31.4", "revision": "default", "count": 4}],
        "injection": {"expected": 5, "missing": 1, "outdated": 0, "pods": ["shop/a: no sidecar"]},
        "gateways": [
            {"name": "in", "namespace": "edge", "replicas": 2, "readyReplicas": 1, "addresses": ["192.0.2.1"]},
        ],
        "workloadCertificates": {
            "earliest": "shop/b", "expires": "2026-02-01T12:00:00Z", "hoursLeft": 12, "read": 3, "of": 4,
        },
        "trust": {"rootFingerprint": "ab"},
    }],
    "checks": [{"name": "Clocks", "passed": False, "message": "cluster primary: an hour behind"}],
    "plan": {"create": 1, "change": 2, "delete": 3, "unchanged": 4, "objects": ["delete Service n/a"]},
}  # fmt: skip


def test_a_status_of_an_earlier_release_is_read_with_defaults() -> None:
    before = {"clusters": [{"name": "primary"}], "plan": {"create": 1}}
    status = parse_status(before)
    assert (status.clusters[0].objects, status.clusters[0].not_reconciled) == (0, 0)
    assert (status.plan and status.plan.delete) == 0
    assert status.clusters[0].control_plane == ControlPlaneStatus()
    assert (status.clusters[0].gateways, status.clusters[0].workload_certificates) == ([], None)


def test_a_status_survives_reading_and_writing() -> None:
    assert parse_status(STATUS).model_dump(by_alias=True, exclude_none=True) == STATUS


@pytest.mark.parametrize(
    "status",
    [
        {"conditions": "none"},
        {"proxies": "many"},
        {"newField": 1},
        {"conditions": [{"type": "Ready"}]},
        {"version": "1.31"},
    ],
)
def test_a_status_in_another_shape_counts_as_none(status: Json) -> None:
    assert parse_status(status) == MeshStatus()
