"""The CRD in a real API server: what it fills in, what it refuses, and in which words."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
import yaml

from api.conftest import CRD_FILE
from api.world import MESHES, VERSION, Cluster, Json, Mesh, RefusedError, accepted_by_the_server
from meshwright.api.errors import InvalidSpec
from meshwright.api.meshinstall import MeshInstall
from meshwright.mesh.checks import first_finding
from meshwright.mesh.observed import Cluster as Member
from meshwright.mesh.observed import Observed
from testbed.rest import wait_until

IMMUTABLE = {
    "clusterName": ("east", "west"),
    "namespace": (None, "elsewhere"),  # always set by a fresh mesh
    "revision": (None, "other"),
    "meshID": ("mesh-one", "mesh-two"),
    "trustDomain": ("one.example", "two.example"),
}


def test_fits_into_what_kubectl_apply_can_carry() -> None:
    definition = yaml.safe_load(CRD_FILE.read_text())
    assert len(json.dumps(definition)) < 100_000  # an annotation, and so client-side apply, ends at 256 KiB


def test_explains_itself(cluster: Cluster) -> None:
    """`kubectl explain` tells what each field is for."""

    def published() -> bool:
        return bool(cluster.api.kubectl("explain", "meshinstall"))

    wait_until(published, "the schema to be published", seconds=20)
    for path, words in {
        "meshinstall": "An Istio service mesh",
        "meshinstall.spec.version": "Istio's version",
        "meshinstall.spec.controlPlane.size": "Replicas and limits of istiod",
        "meshinstall.status.clusters.trust": "never a key",
    }.items():
        text = " ".join(cluster.api.kubectl("explain", path).split())
        assert words in text, path
    everything = cluster.api.kubectl("explain", "meshinstall.spec", "--recursive")
    assert "trustDomain" in everything
    assert "<no description>" not in cluster.api.kubectl("explain", "meshinstall.spec")


def test_defaults(mesh: Mesh) -> None:
    stored = mesh.cluster.create(mesh.manifest(namespace=None, revision=None), "dryRun=All").body["spec"]
    assert stored == {
        "version": VERSION,
        "allowUntestedVersion": False,
        "clusterName": "primary",
        "namespace": "istio-system",
        "revision": "default",
        "trustDomain": "cluster.local",
        "trust": {"deletionPolicy": "Retain"},
        "mtls": "Permissive",
        "scaling": {"rules": [], "freezes": [], "rebalance": {"method": "ConnectionAge", "connectionAge": "30m"}},
        "verify": "Off",
        "mode": "Apply",
        "meshConfig": {},
        "controlPlane": {
            "size": "Auto",
            "env": {},
            "image": {"hub": "docker.io/istio", "pullPolicy": "IfNotPresent"},
            "resources": {"requests": {}, "limits": {}},
            "autoscaling": {"enabled": True},
            "podDisruptionBudget": {},
            "priorityClassName": "system-cluster-critical",
        },
        "dataPlane": {
            "cni": "Disabled",
            "cniBinDir": "/opt/cni/bin",
            "cniConfDir": "/etc/cni/net.d",
            "deltaXDS": True,
            "imagePullSecrets": [],
            "sidecar": {
                "holdApplicationUntilProxyStarts": False,
                "logLevel": "warning",
                "nativeSidecars": "Auto",
                "resources": {"requests": {}, "limits": {}},
            },
        },
        "gateways": [],
        "clusters": [],
        "topology": {
            "model": "MultiNetwork",
            "eastWestGateway": {
                "replicas": 2,
                "autoscaling": {"enabled": True},
                "podDisruptionBudget": {},
                "resources": {"requests": {}, "limits": {}},
                "service": {
                    "type": "LoadBalancer",
                    "annotations": {},
                    "externalIPs": [],
                    "loadBalancerSourceRanges": [],
                },
            },
        },
        "observability": {"prometheus": True, "accessLog": False},
    }


def test_defaults_of_a_gateway(mesh: Mesh) -> None:
    """Its namespace, and how it is reached, follow from others while they are unset."""
    stored = mesh.cluster.create(mesh.manifest(gateways=[{"name": "ingress"}]), "dryRun=All").body["spec"]
    assert stored["gateways"] == [{
        "name": "ingress",
        "type": "Ingress",
        "replicas": 2,
        "autoscaling": {"enabled": True},
        "podDisruptionBudget": {},
        "resources": {"requests": {}, "limits": {}},
        "labels": {},
        "service": {"annotations": {}, "externalIPs": [], "loadBalancerSourceRanges": []},
    }]  # fmt: skip


@pytest.mark.parametrize("field", IMMUTABLE)
def test_identity_is_immutable(mesh: Mesh, field: str) -> None:
    first, second = IMMUTABLE[field]
    mesh.create(**({field: first} if first else {}))
    with pytest.raises(RefusedError, match=f"{field} is immutable.*delete the MeshInstall and create another"):
        mesh.change(**{field: second})
    with pytest.raises(RefusedError, match=f"{field} is immutable"):
        mesh.change(**{field: None})  # unset: back to the default, which is another value
    mesh.change(mtls="Strict")  # what is not identity may change


@pytest.mark.parametrize(
    ("field", "value"), [("meshID", "mesh"), ("clusterName", "east"), ("trustDomain", "one.example")]
)
def test_identity_cannot_be_given_later(mesh: Mesh, field: str, value: str) -> None:
    mesh.create()
    with pytest.raises(RefusedError, match=f"{field} is immutable"):
        mesh.change(**{field: value})


@pytest.mark.parametrize(
    ("after", "allowed"),
    [
        ("1.31.9", True),
        ("1.31.0", True),
        ("1.32.0", True),
        ("1.33.0", False),
        ("1.30.9", False),
        ("2.31.4", False),
        ("0.31.4", False),
    ],
)
def test_version_goes_one_minor_at_a_time(mesh: Mesh, after: str, allowed: bool) -> None:  # noqa: FBT001
    mesh.create()
    runs(mesh, "1.31.4")
    if allowed:
        mesh.change(version=after)
        mesh.change(version="1.31.4")  # it does not run yet, and can be taken back
    else:
        with pytest.raises(RefusedError, match="or to the next minor: go one minor at a time"):
            mesh.change(version=after)


def runs(mesh: Mesh, version: str) -> None:
    """The status as the operator leaves it."""
    mesh.cluster.merge(f"{mesh.path}/status", {"status": {"version": version}})


def test_a_version_that_never_ran_binds_nobody(mesh: Mesh) -> None:
    mesh.create(version="1.40.0")
    mesh.change(version="1.31.4")


def test_version_is_free_until_something_runs(mesh: Mesh) -> None:
    mesh.create(version="1.28.0")
    mesh.change(version=VERSION)


@pytest.mark.parametrize("name", ["with.dot", "a" * 64])
def test_a_name_must_fit_into_a_label(cluster: Cluster, name: str) -> None:
    manifest = Mesh(cluster, name, "ns", "rev").manifest()
    with pytest.raises(RefusedError, match="becomes a label: use at most 63 characters, and no dots"):
        cluster.create(manifest, "dryRun=All")


def test_unknown_fields(mesh: Mesh) -> None:
    """A typo is warned about by default and refused in strict mode, as kubectl validates."""
    manifest = mesh.manifest(mtsl="Strict")
    warnings = mesh.cluster.create(manifest, "dryRun=All&fieldValidation=Warn").warnings
    assert 'unknown field \\"spec.mtsl\\"' in warnings
    with pytest.raises(RefusedError, match=r'unknown field "spec\.mtsl"'):
        mesh.cluster.create(manifest, "dryRun=All&fieldValidation=Strict")


def test_columns(mesh: Mesh) -> None:
    mesh.create()
    cluster = {"name": "primary", "controlPlane": {"size": "Small"}}
    mesh.cluster.merge(f"{mesh.path}/status", {"status": {"clusters": [cluster]}})
    header, row = mesh.cluster.api.kubectl("get", "mesh", mesh.name).splitlines()
    assert header.split() == ["NAME", "VERSION", "SIZE", "READY", "REASON", "PROXIES", "CLUSTERS", "AGE"]
    assert row.split()[:3] == [mesh.name, VERSION, "Small"]
    wide = mesh.cluster.api.kubectl("get", "mesh", mesh.name, "-o", "wide").splitlines()[0]
    assert wide.split()[-1] == "MESSAGE"


def image(**fields: str) -> Json:
    return {"controlPlane": {"image": fields}}


def env(**variables: Any) -> Json:
    return {"controlPlane": {"env": variables}}


def limits(**quantities: Any) -> Json:
    return {"controlPlane": {"resources": {"limits": quantities}}}


def budget(**fields: Any) -> Json:
    return {"controlPlane": {"podDisruptionBudget": fields}}


def autoscaling(**fields: Any) -> Json:
    return {"controlPlane": {"autoscaling": fields}}


def gateways(*gateways: Json) -> Json:
    return {"gateways": list(gateways)}


def ports(*ports: Json) -> Json:
    return gateways({"name": "ingress", "service": {"ports": list(ports)}})


def otlp(**fields: Any) -> Json:
    return {"observability": {"tracing": {"otlp": fields}}}


# What a MeshInstall says → whether it can be meant.
SPECS: list[tuple[Json, bool]] = [
    ({}, True),
    ({"version": None}, False),
    ({"version": "1.31"}, False),
    ({"version": "v1.31.4"}, False),
    ({"version": "1.31.4-alpha"}, False),
    ({"version": "1.31.4\n"}, False),
    ({"version": 1.31}, False),
    ({"mtls": "Strict"}, True),
    ({"mtls": "STRICT"}, False),
    ({"mode": "Plan"}, True),
    ({"mode": "DryRun"}, False),
    ({"namespace": "Mesh"}, False),
    ({"namespace": "a" * 64}, False),
    ({"namespace": ""}, False),
    ({"revision": "a" * 56}, True),
    ({"revision": "a" * 57}, False),
    ({"revision": "1-31-4"}, True),
    ({"revision": "canary."}, False),
    ({"meshID": "mesh.example"}, True),
    ({"meshID": ""}, False),
    ({"trustDomain": "td.example"}, True),
    ({"trustDomain": "td_example"}, False),
    ({"clusterName": "-east"}, False),
    ({"unknown": True}, False),
    ({"controlPlane": {"size": "Large"}}, True),
    ({"controlPlane": {"size": "Huge"}}, False),
    ({"controlPlane": {"replicas": 3}}, False),
    ({"controlPlane": "Large"}, False),
    (image(hub="registry.example:5000/istio/mirror"), True),
    (image(hub="registry.example/istio pilot"), False),
    (image(tag="1.31.4-distroless"), True),
    (image(tag="1.31.4\nevil: true"), False),
    (image(pullPolicy="Sometimes"), False),
    (env(PILOT_TRACE_SAMPLING="1"), True),
    (env(PILOT_TRACE_SAMPLING=1), False),
    (env(A="x" * 4097), False),
    ({"controlPlane": {"env": {f"A{number}": "x" for number in range(65)}}}, False),
    (limits(cpu="500m", memory="1.5Gi"), True),
    (limits(cpu=2, memory="4Gi"), True),
    (limits(cpu="two"), False),
    (limits(memory="4GiB"), False),
    (limits(cpu="-1"), False),
    (limits(cpu=True), False),
    ({"meshConfig": {"accessLogFile": "/dev/stdout", "extensionProviders": [{"name": "otel"}]}}, True),
    ({"meshConfig": [1]}, False),
    ({"meshConfig": "accessLogFile: /dev/stdout"}, False),
    ({"version": "1.30.4", "allowUntestedVersion": True}, True),
    ({"allowUntestedVersion": "yes"}, False),
    (gateways({"name": "ingress", "replicas": "2"}), False),
    ({"observability": {"accessLog": 1}}, False),
    ({"controlPlane": {"priorityClassName": "mesh-critical"}}, True),
    ({"controlPlane": {"priorityClassName": ""}}, False),
    (budget(maxUnavailable=2), True),
    (budget(minAvailable=1), True),
    (budget(maxUnavailable=0), False),  # would block every drain
    (budget(maxUnavailable="50%"), False),
    (budget(minAvailable=1, maxUnavailable=1), False),
    (autoscaling(enabled=False), True),
    (autoscaling(minReplicas=3, maxReplicas=3), True),
    (autoscaling(minReplicas=4, maxReplicas=3), False),
    (autoscaling(minReplicas=0), False),
    ({"dataPlane": {"cni": "Enabled", "cniBinDir": "/var/lib/cni/bin"}}, True),
    ({"dataPlane": {"cni": True}}, False),
    ({"dataPlane": {"cniConfDir": "etc/cni"}}, False),
    ({"dataPlane": {"imagePullSecrets": ["registry"]}}, True),
    ({"dataPlane": {"imagePullSecrets": ["Registry"]}}, False),
    ({"dataPlane": {"certificateTTL": "12h", "certificateRenewalRatio": 0.4}}, True),
    ({"dataPlane": {"certificateTTL": "1d"}}, False),
    ({"dataPlane": {"certificateRenewalRatio": 1}}, False),
    ({"dataPlane": {"idleTimeout": "1h30m", "dnsRefreshRate": "30s"}}, True),
    ({"dataPlane": {"sidecar": {"logLevel": "verbose"}}}, False),
    ({"dataPlane": {"sidecar": {"nativeSidecars": "Enabled"}}}, True),
    (otlp(service="jaeger-collector.tracing"), True),
    (otlp(port=4317), False),
    (otlp(service="jaeger", port=0), False),
    (gateways({"name": "ingress"}, {"name": "egress", "type": "Egress", "namespace": "edge"}), True),
    (gateways({"name": "ingress"}, {"name": "ingress", "namespace": "edge"}), False),
    (gateways({"type": "Egress"}), False),
    (gateways({"name": "Ingress"}), False),
    (gateways({"name": "ingress", "replicas": 0}), False),
    (gateways({"name": "ingress", "podDisruptionBudget": {"minAvailable": 1, "maxUnavailable": 1}}), False),
    (gateways({"name": "ingress", "service": {"type": "ExternalName"}}), False),
    (ports({"name": "https", "port": 443, "targetPort": 8443}), True),
    (ports(), False),
    (ports({"name": "https"}), False),
    (ports({"name": "https", "port": 443}, {"name": "https", "port": 444}), False),
    (ports({"name": "https", "port": 70000}), False),
    (ports({"name": "quic", "port": 443, "protocol": "SCTP"}), False),
]


@pytest.mark.parametrize(("spec", "good"), SPECS, ids=[json.dumps(spec)[:60] for spec, _ in SPECS])
def test_the_server_and_the_operator_agree(mesh: Mesh, spec: Json, good: bool) -> None:  # noqa: FBT001
    manifest = mesh.manifest(**spec)
    assert accepted_by_the_server(mesh.cluster, manifest) == good
    assert objection_of_the_operator(manifest) is None if good else objection_of_the_operator(manifest)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"1ST": "x"}, "letters, digits and _ only"),
        ({"A B": "x"}, "letters, digits and _ only"),
        ({"REVISION": "other"}, "follow from other fields of the MeshInstall: remove them"),
        ({"GOMAXPROCS": "1"}, "follow from other fields of the MeshInstall: remove them"),
    ],
)
def test_environment_that_cannot_be_set(mesh: Mesh, variables: dict[str, str], words: str) -> None:
    with pytest.raises(RefusedError, match=words):
        mesh.cluster.create(mesh.manifest(**env(**variables)), "dryRun=All")


@pytest.mark.parametrize(
    ("spec", "reason", "words"),
    [
        ({"version": "1.30.0"}, "UnsupportedVersion", "choose a patch of 1.31"),
        ({"meshConfig": {"trustDomain": "x"}}, "InvalidSpec", "spec.meshConfig.trustDomain: follows from"),
        (
            {"controlPlane": {"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}},
            "InvalidSpec",
            "lower the request or raise the limit",
        ),
        (limits(cpu=0), "InvalidSpec", "cpu is 0"),
        (limits(cpu=-1), "InvalidSpec", "not a quantity"),
        ({"version": "1.30.4"}, "UnsupportedVersion", "allowUntestedVersion"),
        (budget(minAvailable=2), "InvalidSpec", "minAvailable (2) leaves nothing to evict at 2 replicas"),
        (autoscaling(maxReplicas=1), "InvalidSpec", "maxReplicas (1) is less than the replicas that are asked for (2)"),
        ({"meshConfig": {"accessLogFil": "/dev/stdout"}}, "InvalidSpec", "accessLogFile"),
        ({"meshConfig": {"defaultConfig": {"concurrency": "two"}}}, "InvalidSpec", "defaultConfig.concurrency"),
        ({"dataPlane": {"certificateTTL": "1s"}}, "InvalidSpec", "certificateTTL"),
        (
            gateways({"name": "istiod"}) | {"revision": None},
            "InvalidSpec",
            "is istiod's, istio-cni's or the east-west gateway's own",
        ),
        (gateways({"name": "a", "labels": {"app": "b"}}), "InvalidSpec", "labels.app follows from other fields"),
        (
            gateways({"name": "a", "replicas": 1, "podDisruptionBudget": {"minAvailable": 1}}),
            "InvalidSpec",
            "minAvailable (1) leaves nothing to evict at 1 replica,",
        ),
        (ports({"name": "http", "port": 80, "targetPort": 15090}), "InvalidSpec", "15090 is the proxy's own port"),
        (ports({"name": "a", "port": 80}, {"name": "b", "port": 80}), "InvalidSpec", "two ports have the same port"),
    ],
)
def test_what_only_the_operator_can_tell(mesh: Mesh, spec: Json, reason: str, words: str) -> None:
    """No schema knows it, so the API server takes it, and the condition says it."""
    manifest = mesh.manifest(**spec)
    assert accepted_by_the_server(mesh.cluster, manifest)
    assert objection_of_the_operator(manifest) is not None
    found_reason, message = objection_of_the_operator(manifest) or ("", "")
    assert found_reason == reason
    assert words in message


def test_status_is_not_the_users_to_write(mesh: Mesh) -> None:
    mesh.cluster.create(mesh.manifest() | {"status": {"version": "1.0.0"}})
    assert "status" not in mesh.read()
    assert mesh.cluster.get(f"{MESHES}/{mesh.name}/status")


def objection_of_the_operator(manifest: Json) -> tuple[str, str] | None:
    try:
        mesh = MeshInstall.parse(manifest)
    except InvalidSpec as error:
        return error.reason, str(error)
    observed = Observed(
        now=dt.datetime(2026, 1, 1, tzinfo=dt.UTC), mesh=mesh, clusters=(Member(name=mesh.spec.cluster_name),)
    )
    finding = first_finding(observed)
    return (finding.reason, finding.message) if finding else None
