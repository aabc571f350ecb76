"""What a MeshInstall becomes: structure and rules, object by object."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from typing import Any, cast

import jinja2
import pytest
import yaml

from meshes import NOW, TRUST, VERSION, cluster, istiod, mesh, observed, one, plane, rendered, waves
from meshwright.api.errors import TemplateError
from meshwright.api.meshinstall import (
    ANNOTATION_ISTIO_API,
    ANNOTATION_REPLICAS,
    ANNOTATION_SIZE,
    LABEL_MANAGED_BY,
    LABEL_MESH,
    LABEL_MESH_ID,
)
from meshwright.cluster.kinds import CRD, NAMESPACE, OWNED
from meshwright.cluster.mirror import mirror_of
from meshwright.mesh.desired import ControlPlane, decide
from meshwright.mesh.objects import Birth, Key, Manifest, Owner, Rendered, at_once, crds_established, deployments_serve
from meshwright.mesh.trust import Trust
from meshwright.mesh.verification import Probe
from meshwright.render import templates
from meshwright.render.objects import NOT_MADE_YET, render

Json = dict[str, Any]

CANARY: Json = {"revision": "canary", "namespace": "mesh"}
SPECS: dict[str, Json] = {
    "default": {},
    "named revision": CANARY,
    "strict": {"mtls": "Strict", "controlPlane": {"size": "Large", "env": {"PILOT_TRACE_SAMPLING": "1"}}},
}
BY_HAND: Json = {"autoscaling": {"enabled": False}}
EVERYTHING: Json = {
    "locality": {},
    "dataPlane": {"cni": "Enabled"}, "gateways": [{"name": "in"}],
    "clusters": [{"name": "primary"}, {"name": "west", "kubeconfigSecret": "west"}],
}  # fmt: skip
PRIMARY: Json = {
    "clusters": [{"name": "primary"}, {"name": "west", "kubeconfigSecret": "west", "primary": "primary"}],
}  # fmt: skip
# Every pod template's or webhook's way to a selector that others must match.
SERVING_PORTS = {15010, 15012, 15014, 15017}


@pytest.fixture(params=list(SPECS.values()), ids=list(SPECS))
def objects(request: pytest.FixtureRequest) -> list[Rendered]:
    spec: Json = request.param
    return rendered(**spec)


def remote_plane(*addresses: str) -> ControlPlane:
    """Of west, which the istiod of primary serves."""
    seen = (cluster(name="primary", entry=addresses), cluster(name="west"))
    return decide(observed(mesh(**PRIMARY), clusters=seen)).control_planes[1]


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield f"{path}.{key}", value
            yield from leaves(value, f"{path}.{key}")
    elif isinstance(node, list):
        for value in node:
            yield from leaves(value, f"{path}[]")


def container(objects: list[Rendered]) -> Json:
    (only,) = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    found: Json = only
    return found


def env(objects: list[Rendered]) -> dict[str, Any]:
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container(objects)["env"]}


# The order


def test_waves_in_the_order_in_which_each_needs_the_one_before() -> None:
    assert [wave.name for wave in waves(**EVERYTHING)] == [
        "crds", "namespace", "identity", "bindings", "cni", "configuration", "control plane", "webhooks", "policy",
        "gateways",
    ]  # fmt: skip


def test_a_wave_without_objects_is_none() -> None:
    assert [wave.name for wave in waves()] == [
        "crds", "namespace", "identity", "bindings", "configuration", "control plane", "webhooks", "policy",
    ]  # fmt: skip


def test_what_a_wave_waits_for() -> None:
    waits = {wave.name: wave.after for wave in waves(**EVERYTHING)}
    assert waits.pop("webhooks") is deployments_serve  # earlier, they would refuse everybody's pods
    assert waits.pop("gateways") is deployments_serve
    assert waits.pop("policy") is crds_established
    assert set(waits.values()) == {at_once}


def test_no_object_refers_to_one_of_a_later_wave() -> None:
    position = {each.key: index for index, wave in enumerate(waves()) for each in wave.objects}
    kinds: dict[str, list[int]] = {}
    for key, index in position.items():
        kinds.setdefault(key.kind, []).append(index)
    before = [
        ("Namespace", "ServiceAccount"), ("ServiceAccount", "ClusterRoleBinding"),
        ("ClusterRole", "ClusterRoleBinding"), ("Role", "RoleBinding"), ("RoleBinding", "Deployment"),
        ("ConfigMap", "Deployment"),
        ("Deployment", "MutatingWebhookConfiguration"),
        ("CustomResourceDefinition", "PeerAuthentication"),
    ]  # fmt: skip
    for first, then in before:
        assert max(kinds[first]) < min(kinds[then]), f"{first} before {then}"


def test_no_object_comes_twice(objects: list[Rendered]) -> None:
    keys = [each.key for each in objects]
    assert len(keys) == len(set(keys))


# What is on every object


def test_every_object_but_the_namespace_carries_our_labels(objects: list[Rendered]) -> None:
    for each in objects:
        if each.key.kind == "Namespace":
            continue
        metadata = each.manifest["metadata"]
        assert metadata["labels"][LABEL_MANAGED_BY] == "meshwright", each.key
        assert metadata["labels"][LABEL_MESH] == "demo", each.key
        assert metadata["labels"][LABEL_MESH_ID] == "cluster.local", each.key


def test_labels_are_those_by_which_an_owner_finds_its_objects() -> None:
    owner = Owner("demo", "one")
    for each in rendered(meshID="one"):
        labels = each.manifest["metadata"].get("labels", {})
        assert (owner.labels.items() <= labels.items()) is (each.key.kind != "Namespace"), each.key
    assert owner.selector == (
        "app.kubernetes.io/managed-by=meshwright,meshwright.dev/mesh=demo,meshwright.dev/mesh-id=one"
    )


@pytest.mark.parametrize(("spec", "name"), [({}, "istio-system"), (CANARY, "mesh")])
def test_the_namespace_may_be_anybodys_and_is_not_marked(spec: Json, name: str) -> None:
    assert one(rendered(**spec), "Namespace") == {
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name},
    }  # fmt: skip


def test_istios_kinds_are_shared_by_all_meshes_and_say_their_version() -> None:
    crds = waves()[0].objects
    assert len(crds) > 10
    for each in crds:
        assert each.key.kind == "CustomResourceDefinition"
        assert each.manifest["metadata"]["labels"][LABEL_MANAGED_BY] == "meshwright"
        assert LABEL_MESH not in each.manifest["metadata"]["labels"]
        assert re.fullmatch(r"v1\.\d+\.\d+.*", each.manifest["metadata"]["annotations"][ANNOTATION_ISTIO_API])


def test_every_kind_is_one_that_is_removed_again_or_stays_by_intent(objects: list[Rendered]) -> None:
    owned = {(kind.api_version, kind.kind) for kind in OWNED}
    stays = {(NAMESPACE.api_version, NAMESPACE.kind), (CRD.api_version, CRD.kind)}
    assert {(each.key.api_version, each.key.kind) for each in objects} <= owned | stays


def test_nothing_is_in_the_table_of_kinds_that_is_never_rendered() -> None:
    objects = [*rendered(**EVERYTHING), *(each for wave in render(remote_plane(), TRUST) for each in wave.objects)]
    made = {(each.key.api_version, each.key.kind) for each in objects}
    assert {(kind.api_version, kind.kind) for kind in OWNED} <= made


def test_every_kind_is_watched_so_that_drift_is_seen(objects: list[Rendered]) -> None:
    mirror = mirror_of(cast("Any", None), wake=print, revision_changed=print)
    watched = {(each.kind.api_version, each.kind.kind) for each in mirror._informers}  # noqa: SLF001
    assert {(each.key.api_version, each.key.kind) for each in objects} <= watched


def test_namespaces_are_where_the_kind_wants_them(objects: list[Rendered]) -> None:
    namespaced = {kind.kind: kind.namespaced for kind in (*OWNED, NAMESPACE)}
    for each in objects:
        assert bool(each.key.namespace) is namespaced[each.key.kind], each.key


# Secrets, keys, and what others own


def test_there_is_no_secret_and_no_key(objects: list[Rendered]) -> None:
    assert all(each.key.kind != "Secret" for each in objects)
    assert "PRIVATE KEY" not in json.dumps([each.manifest for each in objects])


def test_the_signing_secret_must_be_there_before_istiod_starts(objects: list[Rendered]) -> None:
    volumes = {each["name"]: each for each in one(objects, "Deployment")["spec"]["template"]["spec"]["volumes"]}
    assert volumes["cacerts"]["secret"] == {"secretName": "cacerts"}


def test_pods_follow_the_root() -> None:
    def annotation(trust: Trust | None) -> str:
        every = [each for wave in render(plane(), trust) for each in wave.objects]
        text: str = one(every, "Deployment")["spec"]["template"]["metadata"]["annotations"][
            "meshwright.dev/root-fingerprint"
        ]
        return text

    assert annotation(TRUST) == TRUST.root_fingerprint
    assert annotation(None) == NOT_MADE_YET
    # Another intermediate under the same root is read by istiod while it runs.
    assert annotation(Trust(TRUST.root_fingerprint, NOW, "c" * 64, NOW)) == TRUST.root_fingerprint


def test_the_ca_bundle_is_istiods_to_write(objects: list[Rendered]) -> None:
    for each in objects:
        for manifest in (each.manifest, each.birth.manifest if each.birth else {}):
            assert not [path for path, _ in leaves(manifest) if path.endswith("caBundle")], each.key


def test_a_validating_webhook_is_born_lenient_and_then_left_to_istiod(objects: list[Rendered]) -> None:
    validating = [each for each in objects if each.key.kind == "ValidatingWebhookConfiguration"]
    assert validating
    for each in validating:
        assert each.birth is not None
        for declared, born in zip(each.manifest["webhooks"], each.birth.manifest["webhooks"], strict=True):
            assert "failurePolicy" not in declared
            assert born == {**declared, "failurePolicy": "Ignore"}
        assert {**each.birth.manifest, "webhooks": None} == {**each.manifest, "webhooks": None}
        assert each.birth.fields == {"failurePolicy"}
        assert each.handed_over == ()


def test_only_validating_webhooks_and_what_is_autoscaled_have_a_birth_of_their_own(objects: list[Rendered]) -> None:
    assert {each.key.kind for each in objects if each.birth} == {"ValidatingWebhookConfiguration", "Deployment"}
    handed_over = {each.key.kind: each.handed_over for each in objects if each.handed_over}
    assert handed_over == {"Deployment": ("spec", "replicas")}


def test_no_status_and_nothing_that_the_server_sets(objects: list[Rendered]) -> None:
    for each in objects:
        assert "status" not in each.manifest
        assert set(each.manifest["metadata"]) <= {"name", "namespace", "labels", "annotations"}, each.key


# istiod


def test_service_deployment_and_budget_select_the_same_pods(objects: list[Rendered]) -> None:
    deployment = one(objects, "Deployment")["spec"]
    selector = deployment["selector"]["matchLabels"]
    assert one(objects, "Service")["spec"]["selector"] == selector
    assert one(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == selector
    assert selector.items() <= deployment["template"]["metadata"]["labels"].items()


def test_no_revision_selects_the_pods_of_another() -> None:
    def parts(spec: Json) -> tuple[Json, Json]:
        deployment = one(rendered(**spec), "Deployment")["spec"]
        return deployment["selector"]["matchLabels"], deployment["template"]["metadata"]["labels"]

    (default_selector, default_labels), (selector, labels) = parts({}), parts({"revision": "canary"})
    assert not default_selector.items() <= labels.items()
    assert not selector.items() <= default_labels.items()


def test_the_service_leads_to_ports_that_the_container_opens(objects: list[Rendered]) -> None:
    opened = {port["containerPort"] for port in container(objects)["ports"]}
    wanted = {port.get("targetPort", port["port"]) for port in one(objects, "Service")["spec"]["ports"]}
    assert wanted == SERVING_PORTS <= opened


@pytest.mark.parametrize(
    ("name", "spec", "value"),
    [
        ("REVISION", {}, "default"),
        ("REVISION", CANARY, "canary"),
        ("CLUSTER_ID", {}, "primary"),
        ("CLUSTER_ID", {"clusterName": "east"}, "east"),
        ("PILOT_CERT_PROVIDER", {}, "istiod"),
        ("CA_TRUSTED_NODE_ACCOUNTS", CANARY, "mesh/ztunnel"),
        ("POD_NAMESPACE", {}, {"fieldRef": {"fieldPath": "metadata.namespace"}}),
        ("GOMAXPROCS", {}, {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1"}}),
        ("PILOT_X", {"controlPlane": {"env": {"PILOT_X": "true"}}}, "true"),
        ("PILOT_X", {"controlPlane": {"env": {"PILOT_X": ""}}}, ""),
        ("PILOT_X", {"controlPlane": {"env": {"PILOT_X": "0x10"}}}, "0x10"),
    ],
)
def test_environment(name: str, spec: Json, value: Any) -> None:
    assert env(rendered(**spec))[name] == value


def test_a_persons_environment_comes_last_and_sorted() -> None:
    names = [each["name"] for each in container(rendered(controlPlane={"env": {"Z": "1", "A": "2"}}))["env"]]
    assert names[-2:] == ["A", "Z"]


@pytest.mark.parametrize(
    ("spec", "replicas", "requests", "limits"),
    [
        ({}, 2, {"cpu": "500m", "memory": "4Gi"}, {"cpu": "2", "memory": "4Gi"}),
        ({"size": "Large"}, 5, {"cpu": "2", "memory": "16Gi"}, {"cpu": "8", "memory": "16Gi"}),
        ({"resources": {"limits": {"cpu": 1}}}, 2, {"cpu": "250m", "memory": "4Gi"}, {"cpu": "1", "memory": "4Gi"}),
    ],
)
def test_resources(spec: Json, replicas: int, requests: Json, limits: Json) -> None:
    objects = rendered(controlPlane={**BY_HAND, **spec})
    assert one(objects, "Deployment")["spec"]["replicas"] == replicas
    assert container(objects)["resources"] == {"requests": requests, "limits": limits}


# Who decides the replicas


def deployment(live: int | None, annotation: str | None = None, *, autoscaled: bool = False, **spec: Any) -> Rendered:
    """istiod's, in a cluster with such an istiod, and an autoscaler of somebody else."""
    seen = () if live is None else (istiod(replicas=live, replicas_annotation=annotation),)
    found = plane(seen=(cluster(istiods=seen, autoscaled=autoscaled),), controlPlane=spec)
    (only,) = (each for wave in render(found, TRUST) for each in wave.objects if each.key.kind == "Deployment")
    return only


@pytest.mark.parametrize("live", [None, 2, 7])
@pytest.mark.parametrize("theirs", [False, True])
def test_an_autoscaler_decides_the_replicas_of_a_deployment_that_is_born_with_the_sizes(
    live: int | None,
    theirs: bool,  # noqa: FBT001
) -> None:
    subject = deployment(live, autoscaled=theirs, **(BY_HAND if theirs else {}))
    assert "replicas" not in subject.manifest["spec"]
    assert subject.manifest["metadata"]["annotations"][ANNOTATION_REPLICAS] == "autoscaled"
    born = {**subject.manifest, "spec": {**subject.manifest["spec"], "replicas": 2}}
    assert subject.birth == Birth(born, frozenset({"replicas"}))
    assert subject.handed_over == ("spec", "replicas")


@pytest.mark.parametrize(
    ("live", "annotation", "replicas", "says"),
    [
        (None, None, 2, None),
        (5, None, 2, None),  # kubectl scale is drift
        (5, "autoscaled", 5, "5/size 2"),  # an autoscaler that goes never lowers them
        (4, "5/size 2", 5, "5/size 2"),
        (5, "5/size 3", 2, None),  # the size was changed since
    ],
)
def test_without_an_autoscaler_the_replicas_are_declared(
    live: int | None, annotation: str | None, replicas: int, says: str | None
) -> None:
    subject = deployment(live, annotation, **BY_HAND)
    assert subject.manifest["spec"]["replicas"] == replicas
    assert subject.manifest["metadata"].get("annotations", {}).get(ANNOTATION_REPLICAS) == says
    assert (subject.birth, subject.handed_over) == (None, ())


def test_an_autoscaler_changes_nothing_but_the_deployment() -> None:
    none, ours, theirs = (
        {each.key: each.manifest for wave in render(found, TRUST) for each in wave.objects}
        for found in (
            plane(controlPlane=BY_HAND),
            plane(),
            plane(seen=(cluster(autoscaled=True),)),
        )
    )
    assert none.keys() == theirs.keys()
    assert {key.kind for key in none if none[key] != theirs[key]} == {"Deployment"}
    assert {key.kind for key in ours.keys() - theirs.keys()} == {"HorizontalPodAutoscaler"}
    assert [key for key in theirs if ours[key] != theirs[key]] == []


def test_an_autoscaler_goes_by_a_share_of_the_limit_so_that_low_requests_do_not_pin_it() -> None:
    spec = one(rendered(controlPlane={"size": "Large"}), "HorizontalPodAutoscaler")["spec"]
    assert spec == {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "istiod"},
        "minReplicas": 5, "maxReplicas": 10,
        "metrics": [
            {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "AverageValue",
                                                                        "averageValue": "6400m"}}}
        ],
    }  # fmt: skip


def test_a_change_takes_one_replica_at_a_time_and_pods_spread_over_nodes_that_take_pods(
    objects: list[Rendered],
) -> None:
    spec = one(objects, "Deployment")["spec"]
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    pod = spec["template"]["spec"]
    hosts, zones = pod["topologySpreadConstraints"]
    for each in (hosts, zones):
        assert each["labelSelector"] == {"matchLabels": spec["selector"]["matchLabels"]}
        assert (each["maxSkew"], each["matchLabelKeys"]) == (1, ["pod-template-hash"])
    assert (hosts["topologyKey"], hosts["whenUnsatisfiable"]) == ("kubernetes.io/hostname", "DoNotSchedule")
    assert hosts["nodeTaintsPolicy"] == "Honor"
    assert (zones["topologyKey"], zones["whenUnsatisfiable"]) == ("topology.kubernetes.io/zone", "ScheduleAnyway")
    assert pod["priorityClassName"] == "system-cluster-critical"
    assert container(objects)["lifecycle"] == {"preStop": {"sleep": {"seconds": 5}}}


def test_the_size_that_was_decided_is_remembered_on_the_deployment() -> None:
    assert one(rendered(), "Deployment")["metadata"]["annotations"][ANNOTATION_SIZE] == "Small"
    large = one(rendered(controlPlane={"size": "Large"}), "Deployment")
    assert large["metadata"]["annotations"][ANNOTATION_SIZE] == "Large"


@pytest.mark.parametrize(
    ("image", "reference", "policy"),
    [
        ({}, f"docker.io/istio/pilot:{VERSION}", "IfNotPresent"),
        (
            {"hub": "registry.example:5000/a", "tag": "t", "pullPolicy": "Always"},
            "registry.example:5000/a/pilot:t",
            "Always",
        ),
    ],
)
def test_images(image: Json, reference: str, policy: str) -> None:
    objects = rendered(controlPlane={"image": image})
    assert container(objects)["image"] == reference
    assert container(objects)["imagePullPolicy"] == policy
    values = yaml.safe_load(one(objects, "ConfigMap", "istio-sidecar-injector")["data"]["values"])
    assert f"{values['global']['hub']}/pilot:{values['global']['tag']}" == reference


def test_istiod_runs_without_privileges(objects: list[Rendered]) -> None:
    assert container(objects)["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip


def test_istiod_is_not_injected_itself(objects: list[Rendered]) -> None:
    template = one(objects, "Deployment")["spec"]["template"]["metadata"]
    assert template["labels"]["sidecar.istio.io/inject"] == "false"


@pytest.mark.parametrize(
    ("budget", "field", "number"),
    [({}, "maxUnavailable", 1), ({"maxUnavailable": 2}, "maxUnavailable", 2), ({"minAvailable": 2}, "minAvailable", 2)],
)
def test_a_budget_never_blocks_a_drain(budget: Json, field: str, number: int) -> None:
    objects = rendered(controlPlane={"size": "Medium", "podDisruptionBudget": budget})
    spec = one(objects, "PodDisruptionBudget")["spec"]
    assert spec == {
        field: number, "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": one(objects, "Deployment")["spec"]["selector"],
    }  # fmt: skip


# Gateways


IN_THE_MESH, ELSEWHERE = {"name": "in"}, {"name": "out", "type": "Egress", "namespace": "edge", "replicas": 3}


def gateway(kind: str, name: str = "in", **spec: Any) -> Manifest:
    return one(rendered(gateways=[{"name": name, **spec}]), kind, name)


def test_a_gateway_is_an_envoy_of_its_own_that_the_webhook_fills_in() -> None:
    template = gateway("Deployment", labels={"team": "edge"})["spec"]["template"]
    assert template["metadata"]["labels"] == {
        "app": "in", "istio": "in", "team": "edge", "sidecar.istio.io/inject": "true",
    }  # fmt: skip
    assert template["metadata"]["annotations"]["inject.istio.io/templates"] == "gateway"
    (proxy,) = template["spec"]["containers"]
    assert (proxy["name"], proxy["image"]) == ("istio-proxy", "auto")
    assert proxy["resources"] == {
        "requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": "2000m", "memory": "1Gi"},
    }  # fmt: skip
    assert template["spec"]["serviceAccountName"] == gateway("ServiceAccount")["metadata"]["name"]
    assert proxy["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip


def test_a_gateway_of_another_revision_asks_for_that() -> None:
    objects = rendered(**CANARY, gateways=[IN_THE_MESH])
    assert one(objects, "Deployment", "in")["spec"]["template"]["metadata"]["labels"]["istio.io/rev"] == "canary"
    assert one(objects, "Deployment", "in")["metadata"]["namespace"] == "mesh"


@pytest.mark.parametrize("change", [{"image": {"tag": "other"}}, {"image": {"hub": "registry.example/a"}}])
def test_a_gateways_pods_are_made_anew_when_what_is_put_into_them_changes(change: Json) -> None:
    def digest(**spec: Any) -> str:
        deployment = one(rendered(gateways=[IN_THE_MESH], **spec), "Deployment", "in")
        text: str = deployment["spec"]["template"]["metadata"]["annotations"]["meshwright.dev/injected"]
        return text

    assert digest(controlPlane=change) != digest() == digest(controlPlane={"size": "Large"})
    root = Trust("c" * 64, NOW, "d" * 64, NOW)
    other = [each for wave in render(plane(gateways=[IN_THE_MESH]), root) for each in wave.objects]
    annotations = one(other, "Deployment", "in")["spec"]["template"]["metadata"]["annotations"]
    assert annotations["meshwright.dev/injected"] != digest()


def test_a_gateways_service_is_as_it_was_asked_for() -> None:
    assert gateway("Service")["spec"] == {
        "type": "LoadBalancer", "selector": {"app": "in", "istio": "in"},
        "ports": [
            {"name": "status-port", "port": 15021, "targetPort": 15021, "protocol": "TCP"},
            {"name": "http2", "port": 80, "targetPort": 80, "protocol": "TCP"},
            {"name": "https", "port": 443, "targetPort": 443, "protocol": "TCP"},
        ],
    }  # fmt: skip
    asked = {
        "annotations": {"example.org/lb": "internal"}, "externalTrafficPolicy": "Local", "loadBalancerClass": "a/b",
        "loadBalancerSourceRanges": ["192.0.2.0/24"],
        "ports": [{"name": "tls", "port": 443, "targetPort": 8443, "nodePort": 30443}],
    }  # fmt: skip
    service = gateway("Service", service=asked)
    assert service["metadata"]["annotations"] == asked["annotations"]
    assert service["spec"] == {
        "type": "LoadBalancer", "selector": {"app": "in", "istio": "in"}, "externalTrafficPolicy": "Local",
        "loadBalancerClass": "a/b", "loadBalancerSourceRanges": ["192.0.2.0/24"],
        "ports": [{"name": "tls", "port": 443, "targetPort": 8443, "protocol": "TCP", "nodePort": 30443}],
    }  # fmt: skip
    assert gateway("Service", type="Egress")["spec"]["type"] == "ClusterIP"


def test_a_gateway_is_scaled_and_budgeted_like_istiod() -> None:
    scaled = one(rendered(gateways=[ELSEWHERE]), "HorizontalPodAutoscaler", "out")
    assert scaled["metadata"]["namespace"] == "edge"
    assert (scaled["spec"]["minReplicas"], scaled["spec"]["maxReplicas"]) == (3, 6)
    assert scaled["spec"]["metrics"][0]["resource"]["target"]["averageValue"] == "1600m"
    assert "replicas" not in gateway("Deployment")["spec"]
    fixed = rendered(gateways=[{**ELSEWHERE, "autoscaling": {"enabled": False}}])
    assert one(fixed, "Deployment", "out")["spec"]["replicas"] == 3
    assert [each.key.name for each in fixed if each.key.kind == "HorizontalPodAutoscaler"] == ["istiod"]
    budget = one(fixed, "PodDisruptionBudget", "out")["spec"]
    assert (budget["maxUnavailable"], budget["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")
    assert budget["selector"] == one(fixed, "Deployment", "out")["spec"]["selector"]


def test_a_gateway_reads_secrets_of_its_own_namespace_and_nothing_else() -> None:
    assert gateway("Role")["rules"] == [
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list", "watch"]}
    ]
    (subject,) = one(rendered(gateways=[ELSEWHERE]), "RoleBinding", "out")["subjects"]
    assert subject == {"kind": "ServiceAccount", "name": "out", "namespace": "edge"}


# Configuration


def test_the_mesh_config_is_the_one_that_was_decided() -> None:
    given: Json = {"accessLogFile": "/dev/stdout", "defaultConfig": {"concurrency": 2}}
    data = one(rendered(meshConfig=given), "ConfigMap", "istio")["data"]
    assert yaml.safe_load(data["mesh"]) == plane(meshConfig=given).mesh_config
    assert yaml.safe_load(data["meshNetworks"]) == {"networks": {}}


def test_the_injector_finds_its_template_word_for_word() -> None:
    data = one(rendered(), "ConfigMap", "istio-sidecar-injector")["data"]
    config = yaml.safe_load(data["config"])
    assert config["templates"]["sidecar"] == templates.static("injection/sidecar.tpl")
    assert config["defaultTemplates"] == ["sidecar"]
    assert yaml.safe_load(data["values"]) == plane().injector_values


@pytest.mark.parametrize(("mtls", "mode"), [("Permissive", "PERMISSIVE"), ("Strict", "STRICT")])
def test_mtls_for_the_whole_mesh(mtls: str, mode: str) -> None:
    policy = one(rendered(mtls=mtls, namespace="mesh"), "PeerAuthentication")
    assert policy["metadata"]["namespace"] == "mesh"  # the root namespace, and no selector: it is the mesh's
    assert policy["spec"] == {"mtls": {"mode": mode}}


# Identity


def test_bindings_bind_roles_that_are_rendered_to_the_account_that_is_rendered(objects: list[Rendered]) -> None:
    keys = {each.key for each in objects}
    account = one(objects, "ServiceAccount")["metadata"]
    for each in objects:
        if each.key.kind not in {"ClusterRoleBinding", "RoleBinding"}:
            continue
        role = each.manifest["roleRef"]
        namespace = each.key.namespace if role["kind"] == "Role" else ""
        assert Key("rbac.authorization.k8s.io/v1", role["kind"], namespace, role["name"]) in keys
        assert each.manifest["subjects"] == [
            {"kind": "ServiceAccount", "name": account["name"], "namespace": account["namespace"]}
        ]
    assert one(objects, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"] == account["name"]


# Webhooks


def webhooks(objects: list[Rendered], kind: str) -> dict[str, Json]:
    return {
        webhook["name"]: webhook for each in objects if each.key.kind == kind for webhook in each.manifest["webhooks"]
    }


def test_webhooks_lead_to_our_service(objects: list[Rendered]) -> None:
    service = one(objects, "Service")["metadata"]
    for kind in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"):
        for webhook in webhooks(objects, kind).values():
            target = webhook["clientConfig"]["service"]
            assert (target["namespace"], target["name"], target["port"]) == (service["namespace"], service["name"], 443)


def selects(selector: Json, labels: dict[str, str]) -> bool:
    """Kubernetes' own meaning of matchExpressions."""

    def holds(each: Json) -> bool:
        value, values = labels.get(each["key"]), each.get("values", ())
        return {
            "In": value in values,
            "NotIn": value not in values,
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }[each["operator"]]

    return all(holds(each) for each in selector["matchExpressions"])


def injects(objects: list[Rendered], namespace: dict[str, str], pod: dict[str, str]) -> list[str]:
    return [
        name
        for name, webhook in webhooks(objects, "MutatingWebhookConfiguration").items()
        if selects(webhook["namespaceSelector"], namespace) and selects(webhook["objectSelector"], pod)
    ]


ENABLED = {"istio-injection": "enabled"}
DISABLED = {"istio-injection": "disabled"}
YES, NO = {"sidecar.istio.io/inject": "true"}, {"sidecar.istio.io/inject": "false"}


def rev(name: str) -> dict[str, str]:
    return {"istio.io/rev": name}


@pytest.mark.parametrize(
    ("namespace", "pod", "default", "canary"),
    [
        # labels of namespace and pod; how many webhooks of the default and of the revision `canary` take the pod
        ({}, {}, 0, 0),
        ({}, YES, 1, 0),
        ({}, NO, 0, 0),
        (ENABLED, {}, 1, 0),
        (ENABLED, YES, 1, 0),
        (ENABLED, NO, 0, 0),
        (DISABLED, {}, 0, 0),
        (DISABLED, YES, 0, 0),
        (rev("default"), {}, 1, 0),
        (rev("default"), NO, 0, 0),
        (rev("canary"), {}, 0, 1),
        (rev("canary"), YES, 0, 1),
        (rev("canary"), NO, 0, 0),
        ({}, rev("canary"), 0, 1),
        ({}, rev("default"), 1, 0),
        ({}, rev("canary") | YES, 0, 1),
        ({}, rev("canary") | NO, 0, 0),
        ({}, rev("default") | YES, 1, 0),
        (ENABLED | rev("canary"), {}, 1, 0),
        (rev("canary"), rev("default"), 0, 1),
        (DISABLED | rev("canary"), {}, 0, 0),
    ],
)
def test_a_pod_is_injected_by_one_webhook_or_by_none(
    namespace: dict[str, str], pod: dict[str, str], default: int, canary: int
) -> None:
    assert len(injects(rendered(), namespace, pod)) == default
    assert len(injects(rendered(revision="canary"), namespace, pod)) == canary


def test_only_the_default_revision_validates_objects_of_no_revision() -> None:
    def validated(spec: Json, labels: dict[str, str]) -> int:
        found = webhooks(rendered(**spec), "ValidatingWebhookConfiguration").values()
        return sum(selects(webhook["objectSelector"], labels) for webhook in found)

    assert [validated({}, labels) for labels in ({}, rev("default"), rev("canary"))] == [1, 1, 0]
    assert [validated(CANARY, labels) for labels in ({}, rev("default"), rev("canary"))] == [0, 0, 1]


def test_two_revisions_in_two_namespaces_share_no_object() -> None:
    assert {each.key for each in rendered()}.isdisjoint({each.key for each in rendered(**CANARY)})


# Templates


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_the_same_intents_give_the_same_bytes(spec: Json) -> None:
    first, second = ([(each.key, json.dumps(each.manifest)) for each in rendered(**spec)] for _ in range(2))
    assert first == second


def test_rendering_twice_gives_objects_that_share_nothing() -> None:
    first, second = rendered(), rendered()
    before = [copy.deepcopy(each.manifest) for each in second]
    for each in first:
        each.manifest["metadata"].setdefault("labels", {})["changed"] = "yes"
    assert [each.manifest for each in second] == before


@pytest.mark.parametrize(
    ("path", "values", "says"),
    [
        ("nowhere.yaml.j2", {}, "nowhere.yaml.j2"),
        ("namespace/namespace.yaml.j2", {}, "names"),
        ("namespace/namespace.yaml.j2", {"names": object()}, "has no attribute 'namespace'"),
        ("policy/peerauthentication.yaml.j2", {"names": {"namespace": "n"}, "mode": b"bytes"}, "not JSON serializable"),
        ("policy/peerauthentication.yaml.j2", {"names": {"namespace": "n"}, "mode": "\ud800"}, "peerauthentication"),
    ],
)
def test_a_template_that_fails_is_named(path: str, values: Json, says: str) -> None:
    with pytest.raises(TemplateError) as caught:
        templates.render(path, **values)
    assert path in str(caught.value)
    assert says in str(caught.value)


def test_a_template_reaches_no_further_than_its_values() -> None:
    environment = templates._environment()  # noqa: SLF001
    for source in ("{{ ''.__class__.__mro__ }}", "{{ x.append(1) }}", "{{ x.clear() }}"):
        with pytest.raises((jinja2.exceptions.SecurityError, jinja2.UndefinedError)):
            environment.from_string(source).render(x=[1])


def test_a_component_has_a_folder_and_no_template_is_forgotten() -> None:
    used = {"availability/availability.yaml.j2"}  # included
    original, static = templates.render, templates.static

    def spy(path: str, **values: Any) -> list[Manifest]:
        used.add(path)
        return original(path, **values)

    def spy_static(path: str) -> str:
        used.add(path)
        return static(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(templates, "render", spy)
        patch.setattr(templates, "static", spy_static)
        everything = plane(**EVERYTHING)
        render(remote_plane(), TRUST)
        rendered(**PRIMARY)
        render(replace(everything, probe=Probe("operator:1", "0123", ("east", "west"))), TRUST)
    folder = files("meshwright").joinpath("templates")
    stored = {f"{room.name}/{file.name}" for room in folder.iterdir() if room.is_dir() for file in room.iterdir()}
    assert {path for path in stored if path.endswith((".j2", ".tpl"))} == used


def test_a_remote_cluster_has_no_istiod_and_finds_that_of_its_primary_by_the_usual_name() -> None:
    objects = [each for wave in render(remote_plane("192.0.2.7", "2001:db8::7"), TRUST) for each in wave.objects]
    found = {(each.key.kind, each.key.name): each.manifest for each in objects}
    assert {name for kind, name in found if kind == "Deployment"} == {"istio-eastwestgateway"}
    assert "selector" not in found["Service", "istiod"]["spec"]
    ports = {each["name"]: each["targetPort"] for each in found["Service", "istiod"]["spec"]["ports"]}
    for name, family, address in (("istiod-ipv4", "IPv4", "192.0.2.7"), ("istiod-ipv6", "IPv6", "2001:db8::7")):
        manifest = found["EndpointSlice", name]
        assert manifest["addressType"] == family
        assert [each["addresses"] for each in manifest["endpoints"]] == [[address]]
        assert {each["name"]: each["port"] for each in manifest["ports"]} == ports
    webhooks = found["MutatingWebhookConfiguration", "istio-sidecar-injector"]["webhooks"]
    assert {each["clientConfig"]["service"]["path"] for each in webhooks} == {"/inject/cluster/west/net/west"}
    annotations = found["Namespace", "istio-system"]["metadata"]["annotations"]
    assert annotations == {"topology.istio.io/controlPlaneClusters": "primary"}
    writes = {"create", "update", "patch", "delete"}
    reader = found["ClusterRole", "istio-reader-clusterrole-istio-system"]["rules"]
    assert not any(writes & set(each["verbs"]) for each in reader if "reviews" not in str(each["resources"]))
    (written,) = (each["roleRef"]["name"] for (kind, name), each in found.items()
                  if kind == "ClusterRoleBinding" and "primary" in name)  # fmt: skip
    assert written == "istio-primary-clusterrole-istio-system"
    kinds = {kind for kind, _ in found}
    assert not {"ConfigMap", "PeerAuthentication", "Gateway", "ValidatingWebhookConfiguration"} & kinds


def test_a_primary_lets_its_remotes_in_as_its_gateway_lets_in_the_others() -> None:
    service = {"type": "NodePort", "externalIPs": ["192.0.2.9"], "annotations": {"a": "b"}}
    spec = {**PRIMARY, "topology": {"eastWestGateway": {"service": service}}}
    (entry,) = (each.manifest for each in rendered(**spec) if each.key.name == "istiod-remotes")
    assert entry["spec"]["type"] == "NodePort"
    assert entry["spec"]["externalIPs"] == ["192.0.2.9"]
    assert entry["metadata"]["annotations"] == {"a": "b"}
    assert {each["port"] for each in entry["spec"]["ports"]} == {15012, 15017}
    (istiod,) = (each for each in rendered() if each.key.kind == "Service")
    assert entry["spec"]["selector"] == istiod.manifest["spec"]["selector"]
