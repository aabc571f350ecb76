"""Gateways in the real istiod: pods injected by the template `gateway`, and what istiod deploys by `kube-gateway`."""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from api.hostile import HOSTILE, MARK, differ_in_values_alone
from api.injection import (
    MESH,
    MOUNTS,
    NAMESPACE,
    Injector,
    Json,
    environment,
    names,
    patched,
    pod_of,
    prepare,
    proxy,
    running_istiod,
)
from testbed import gateway_api
from testbed.apiserver import ApiServer, api_server
from testbed.console import TestbedError
from testbed.rest import Client, wait_until

IMAGE = "meshwright.dev/proxy-image"
OURS = "docker.io/istio/proxyv2:1.31.4"
UNPRIVILEGED = {"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}
RUNTIME_DEFAULT = {"type": "RuntimeDefault"}
SECURITY = {
    "allowPrivilegeEscalation": False,
    "privileged": False,
    "readOnlyRootFilesystem": True,
    "runAsUser": 1337,
    "runAsGroup": 1337,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
}
GATEWAY_MOUNTS = {name: path for name, path in MOUNTS.items() if name != "istio-ca-crl"}
ENVIRONMENT = {
    "PILOT_CERT_PROVIDER": "istiod",
    "CA_ADDR": "istiod.istio-system.svc:15012",
    "TRUST_DOMAIN": "example.org",
    "POD_NAME": "metadata.name",
    "POD_NAMESPACE": "metadata.namespace",
    "INSTANCE_IP": "status.podIP",
    "HOST_IP": "status.hostIP",
    "SERVICE_ACCOUNT": "spec.serviceAccountName",
    "ISTIO_META_NODE_NAME": "spec.nodeName",
    "ISTIO_CPU_LIMIT": "limits.cpu",
    "GOMAXPROCS": "limits.cpu",
    "GOMEMLIMIT": "limits.memory",
    "EXIT_ON_ZERO_ACTIVE_CONNECTIONS": "true",
    "ISTIO_META_APP_CONTAINERS": "",
    "ISTIO_META_CLUSTER_ID": "east",
    "ISTIO_META_NETWORK": "net-east",
    "ISTIO_META_INTERCEPTION_MODE": "REDIRECT",
    "ISTIO_META_DNS_CAPTURE": "true",
}


@pytest.fixture(scope="module")
def injector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Injector]:
    with api_server() as api:
        prepare(api)
        crds = {"apiVersion": "v1", "kind": "List", "items": gateway_api.crds()}
        api.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(crds))
        with running_istiod(api, tmp_path_factory.mktemp("istiod")) as injector:
            yield injector


# -- the template `gateway`: pods through the webhook


def gateway_pod(
    *others: Json,
    annotations: dict[str, str] | None = None,
    labels: dict[str, str] | None = None,
    pod: Json | None = None,
    **fields: Any,
) -> Json:
    """A pod of a Deployment whose container `istio-proxy` istiod is to fill in; `fields` are that container's."""
    own = {"name": "istio-proxy", "image": "auto", "resources": {}, **fields}
    asked = {"inject.istio.io/templates": "gateway", **(annotations or {})}
    return pod_of(own, *others, annotations=asked, labels=labels, **(pod or {}))


def test_a_gateways_pod_is_a_router_that_needs_no_privileges(injector: Injector) -> None:
    pod = injector.inject(gateway_pod())
    assert names(pod) == ["istio-proxy"]
    assert names(pod, "initContainers") == []
    router = proxy(pod)
    assert router["image"] == OURS
    assert router["imagePullPolicy"] == "IfNotPresent"
    assert router["args"] == [
        "proxy", "router", "--domain", "$(POD_NAMESPACE).svc.cluster.local",
        "--proxyLogLevel=warning", "--proxyComponentLogLevel=misc:error", "--log_output_level=default:info",
    ]  # fmt: skip
    assert router["ports"] == [{"name": "http-envoy-prom", "containerPort": 15090, "protocol": "TCP"}]
    assert router["securityContext"] == SECURITY
    assert router["resources"] == {}
    assert pod["spec"]["securityContext"] == {"sysctls": [UNPRIVILEGED], "seccompProfile": RUNTIME_DEFAULT}
    assert {mount["name"]: mount["mountPath"] for mount in router["volumeMounts"]} == GATEWAY_MOUNTS
    assert sorted(volume["name"] for volume in pod["spec"]["volumes"]) == sorted(GATEWAY_MOUNTS)
    injector.take({**pod, "metadata": {**pod["metadata"], "namespace": "restricted"}})


def test_a_gateways_metadata(injector: Injector) -> None:
    metadata = injector.inject(gateway_pod())["metadata"]
    labels = metadata["labels"]
    assert (labels["service.istio.io/canonical-name"], labels["service.istio.io/canonical-revision"]) == ("shop", "v2")
    assert "security.istio.io/tlsMode" not in labels  # it would say that others may send mutual TLS to it
    assert metadata["annotations"]["istio.io/rev"] == "default"
    assert metadata["annotations"][IMAGE] == OURS
    assert "kubectl.kubernetes.io/default-container" not in metadata["annotations"]


def test_a_gateways_environment(injector: Injector) -> None:
    env = environment(proxy(injector.inject(gateway_pod())))
    assert json.loads(env.pop("PROXY_CONFIG")) == {"proxyMetadata": {"ISTIO_META_DNS_CAPTURE": "true"}}
    assert json.loads(env.pop("ISTIO_META_POD_PORTS")) == []
    assert env.pop("ISTIO_META_MESH_ID").startswith("mesh")
    assert env == {
        **ENVIRONMENT,
        "ISTIO_META_WORKLOAD_NAME": "shop",
        "ISTIO_META_OWNER": "kubernetes://apis/apps/v1/namespaces/default/deployments/shop",
    }


def test_a_gateways_probes(injector: Injector) -> None:
    router = proxy(injector.inject(gateway_pod()))
    get = {"path": "/healthz/ready", "port": 15021}
    assert router["startupProbe"] == {"httpGet": get, "periodSeconds": 1, "timeoutSeconds": 3, "failureThreshold": 600}
    assert router["readinessProbe"] == {
        "httpGet": get,
        "periodSeconds": 15,
        "timeoutSeconds": 3,
        "failureThreshold": 4,
    }


def test_what_the_deployment_says_itself_stays(injector: Injector) -> None:
    resources = {"requests": {"cpu": "3"}}
    pod = injector.inject(
        gateway_pod(
            resources=resources,
            imagePullPolicy="Always",
            env=[{"name": "CA_ADDR", "value": "issuer.example:443"}, {"name": "MINE", "value": "1"}],
            ports=[{"containerPort": 8443, "name": "https"}],
            lifecycle={"preStop": {"sleep": {"seconds": 5}}},
        )
    )
    router = proxy(pod)
    assert router["resources"] == resources
    assert router["imagePullPolicy"] == "Always"
    assert router["lifecycle"] == {"preStop": {"sleep": {"seconds": 5}}}
    env = environment(router)
    assert (env["CA_ADDR"], env["MINE"]) == ("issuer.example:443", "1")
    assert json.loads(env["ISTIO_META_POD_PORTS"]) == [{"containerPort": 8443, "name": "https"}]
    injector.take(pod)


def test_a_pods_own_security_context_is_kept_and_completed(injector: Injector) -> None:
    own = {"name": "net.core.somaxconn", "value": "1024"}
    again = {**UNPRIVILEGED, "value": "1024"}
    profile = {"type": "Localhost", "localhostProfile": "router.json"}
    security = {"fsGroup": 1337, "sysctls": [again, own], "seccompProfile": profile}
    found = injector.inject(gateway_pod(pod={"securityContext": security}))["spec"]["securityContext"]
    assert found == {"fsGroup": 1337, "sysctls": [UNPRIVILEGED, own], "seccompProfile": profile}


def test_a_gateway_that_must_run_as_root_may(injector: Injector) -> None:
    own = {"runAsUser": 0, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}
    security = proxy(injector.inject(gateway_pod(securityContext=own)))["securityContext"]
    assert (security["runAsUser"], security["runAsNonRoot"]) == (0, False)
    assert security["capabilities"] == {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}


@pytest.mark.parametrize(
    ("pod", "image"),
    [
        (gateway_pod(annotations={"sidecar.istio.io/proxyImage": "example.org/mine:2"}), "example.org/mine:2"),
        (gateway_pod(annotations={"sidecar.istio.io/proxyImageType": "distroless"}), f"{OURS}-distroless"),
        (gateway_pod(annotations={IMAGE: "claimed"}), OURS),
    ],
)
def test_a_gateway_says_which_image_it_runs(injector: Injector, pod: Json, image: str) -> None:
    injected = injector.inject(pod)
    assert proxy(injected)["image"] == injected["metadata"]["annotations"][IMAGE] == image


@pytest.mark.parametrize("claim", [{}, {IMAGE: "claimed"}])
def test_of_an_image_that_a_gateway_pins_nothing_is_said(injector: Injector, claim: dict[str, str]) -> None:
    """Its version is its author's choice, and never outdated."""
    injected = injector.inject(gateway_pod(image="example.org/mine:1", annotations=claim))
    assert proxy(injected)["image"] == "example.org/mine:1"
    assert IMAGE not in injected["metadata"]["annotations"]


def test_a_container_beside_the_router(injector: Injector) -> None:
    pod = injector.inject(gateway_pod({"name": "waf", "image": "example.org/waf:1", "resources": {}}))
    assert sorted(names(pod)) == ["istio-proxy", "waf"]
    assert environment(proxy(pod))["ISTIO_META_APP_CONTAINERS"] == "waf"
    assert pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"] == "waf"


def test_log_levels_and_bootstrap_by_annotation(injector: Injector) -> None:
    asked = {"logLevel": "debug", "componentLogLevel": "jwt:trace", "agentLogLevel": "all:debug"}
    asked["bootstrapOverride"] = "my-bootstrap"
    pod = injector.inject(gateway_pod(annotations={f"sidecar.istio.io/{name}": text for name, text in asked.items()}))
    assert proxy(pod)["args"][-3:] == [
        "--proxyLogLevel=debug", "--proxyComponentLogLevel=jwt:trace", "--log_output_level=all:debug",
    ]  # fmt: skip
    assert environment(proxy(pod))["ISTIO_BOOTSTRAP_OVERRIDE"] == "/etc/istio/custom-bootstrap/custom_bootstrap.json"
    (volume,) = (each for each in pod["spec"]["volumes"] if each["name"] == "custom-bootstrap-volume")
    assert volume["configMap"] == {"name": "my-bootstrap"}


def test_metadata_of_the_proxy_takes_the_place_of_ours(injector: Injector) -> None:
    metadata = {"EXIT_ON_ZERO_ACTIVE_CONNECTIONS": "false", "HOST_IP": "10.0.0.1", "SECRET_TTL": "1h"}
    config = yaml.safe_dump({"proxyMetadata": metadata})
    env = environment(proxy(injector.inject(gateway_pod(annotations={"proxy.istio.io/config": config}))))
    assert metadata.items() <= env.items()


def test_injecting_a_gateway_again_changes_nothing(injector: Injector) -> None:
    once = injector.inject(gateway_pod())
    assert injector.inject(once) == once


def annotated(name: str) -> Callable[[str], Json]:
    return lambda text: gateway_pod(annotations={name: text})


def labelled(name: str) -> Callable[[str], Json]:
    return lambda text: gateway_pod(labels={name: text})


def proxy_metadata(text: str) -> Json:
    return gateway_pod(annotations={"proxy.istio.io/config": json.dumps({"proxyMetadata": {"KEY": text}})})


def owned(text: str) -> Json:
    pod = gateway_pod()
    pod["metadata"]["ownerReferences"][0] |= {"kind": "StatefulSet", "name": text}
    return pod


PLACES: dict[str, Callable[[str], Json]] = {
    **{
        name: annotated(name)
        for name in (
            IMAGE,
            "istio.io/rev",
            "kubectl.kubernetes.io/default-container",
            "sidecar.istio.io/agentLogLevel",
            "sidecar.istio.io/bootstrapOverride",
            "sidecar.istio.io/componentLogLevel",
            "sidecar.istio.io/logLevel",
            "sidecar.istio.io/proxyImage",
            "sidecar.istio.io/proxyImageType",
        )
    },
    **{
        f"label {name}": labelled(name)
        for name in (
            "app",
            "app.kubernetes.io/name",
            "app.kubernetes.io/version",
            "service.istio.io/canonical-name",
            "service.istio.io/canonical-revision",
            "service.istio.io/workload-name",
            "version",
        )
    },
    "image": lambda text: gateway_pod(image=text),
    "name of a container": lambda text: gateway_pod({"name": text, "image": "example.org/waf:1", "resources": {}}),
    "name of a port": lambda text: gateway_pod(ports=[{"containerPort": 1, "name": text}]),
    "name of a sysctl": lambda text: gateway_pod(pod={"securityContext": {"sysctls": [{"name": text, "value": text}]}}),
    "owner": owned,
    "metadata of the proxy": proxy_metadata,
}


@pytest.mark.parametrize("place", PLACES)
def test_hostile_text_in_a_gateways_pod_stays_a_value(injector: Injector, place: str) -> None:
    build = PLACES[place]
    # A proxy config that istiod cannot parse is ignored.
    benign = [build("benign"), gateway_pod(annotations={"proxy.istio.io/config": "{}"})]
    like = [injector.inject(pod) for pod in benign]
    taken = 0
    for text in HOSTILE:
        response = injector.review(build(text))
        if response["allowed"]:
            found = patched(build(text), response)
            assert any(differ_in_values_alone(found, each) for each in like), yaml.safe_dump(found)
            taken += 1
    assert taken


# -- the template `kube-gateway`: what istiod deploys

KINDS = {
    "ServiceAccount": "/api/v1/namespaces/default/serviceaccounts",
    "Deployment": "/apis/apps/v1/namespaces/default/deployments",
    "Service": "/api/v1/namespaces/default/services",
    "HorizontalPodAutoscaler": "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/default/poddisruptionbudgets",
}
ALWAYS = ("ServiceAccount", "Deployment", "Service")
LISTENER = {"name": "web", "port": 80, "protocol": "HTTP"}
NAME_LABEL = "gateway.networking.k8s.io/gateway-name"


class Gateways:
    """Gateways of class `istio` in the namespace `default`, and what istiod makes of them."""

    def __init__(self, api: ApiServer) -> None:
        self._api = api
        self._client: Client = api.client()
        self._numbers = itertools.count()

    def create(self, *, name: str = "", listeners: list[Json] | None = None, **more: Any) -> str:
        """Makes one and returns its name; `more` are `labels` and `annotations`, the rest goes into its spec."""
        name = name or f"gateway-{next(self._numbers)}"
        metadata: Json = {key: more.pop(key) for key in ("labels", "annotations") if key in more}
        gateway: Json = {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "Gateway",
            "metadata": {"name": name, "namespace": "default", **metadata},
            "spec": {"gatewayClassName": "istio", "listeners": listeners or [LISTENER], **more},
        }
        self._api.kubectl("create", "-f", "-", stdin=json.dumps(gateway))
        return name

    def apply(self, manifest: Json) -> None:
        self._api.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(manifest))

    def delete(self, kind: str, name: str, namespace: str = NAMESPACE) -> None:
        self._api.kubectl("delete", kind, name, f"--namespace={namespace}")

    def find(self, kind: str, name: str) -> Json | None:
        try:
            found: Json = self._client.get(f"{KINDS[kind]}/{name}")
        except TestbedError as error:
            if ": 404 " in str(error):
                return None
            raise
        return found

    def every(self, kind: str) -> set[str]:
        """The names of all objects of a kind."""
        return {each["metadata"]["name"] for each in self._client.get(KINDS[kind])["items"]}

    def until(self, kind: str, name: str, condition: Callable[[Json], bool] = lambda _: True) -> Json:
        """The object, as soon as there is one and the condition holds."""
        found: list[Json] = []

        def there() -> bool:
            one = self.find(kind, name)
            found[:] = [one] if one else []
            return bool(found) and condition(found[0])

        wait_until(there, f"{kind} {name}", seconds=60, pause=0.05)
        return found[0]

    def deployed(self, **gateway: Any) -> dict[str, Json]:
        """A new Gateway's objects by kind, when they are complete."""
        name = f"{self.create(**gateway)}-istio"
        self.settle()
        return self.found(name)

    def settle(self) -> None:
        """Returns when istiod is through with every Gateway that was made before."""
        self.until("Service", f"{self.create()}-istio")

    def found(self, name: str) -> dict[str, Json]:
        """The objects of that name by kind."""
        found = {kind: self.find(kind, name) for kind in KINDS}
        return {kind: each for kind, each in found.items() if each}


@pytest.fixture(scope="module")
def gateways(injector: Injector) -> Gateways:
    return Gateways(injector.api)


def pod_template(found: dict[str, Json]) -> Json:
    template: Json = found["Deployment"]["spec"]["template"]
    return template


def test_a_gateway_becomes_account_deployment_and_service(gateways: Gateways) -> None:
    found = gateways.deployed()
    assert tuple(found) == ALWAYS
    name = found["Service"]["metadata"]["name"].removesuffix("-istio")
    for each in found.values():
        (owner,) = each["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"]) == ("Gateway", name)
        assert each["metadata"]["labels"] == {
            NAME_LABEL: name,
            "gateway.networking.k8s.io/gateway-class-name": "istio",
            "gateway.istio.io/managed": "istio.io-gateway-controller",
        }
    service = found["Service"]["spec"]
    assert (service["type"], service["selector"]) == ("LoadBalancer", {NAME_LABEL: name})
    ports = [(port["name"], port["port"], port["targetPort"], port["appProtocol"]) for port in service["ports"]]
    assert ports == [("status-port", 15021, 15021, "tcp"), ("web", 80, 80, "http")]
    assert found["Deployment"]["spec"]["selector"] == {"matchLabels": {NAME_LABEL: name}}


def test_a_gateways_pods_need_no_privileges_and_are_spread(injector: Injector, gateways: Gateways) -> None:
    found = gateways.deployed()
    template = pod_template(found)
    (router,) = template["spec"]["containers"]
    assert router["image"] == template["metadata"]["annotations"][IMAGE] == OURS
    assert router["securityContext"] == SECURITY
    assert template["spec"]["securityContext"] == {"sysctls": [UNPRIVILEGED], "seccompProfile": RUNTIME_DEFAULT}
    assert template["spec"]["automountServiceAccountToken"] is False
    assert {mount["name"]: mount["mountPath"] for mount in router["volumeMounts"]} == GATEWAY_MOUNTS
    assert router["resources"]["limits"] == {"cpu": "2", "memory": "1Gi"}
    spread = {each["topologyKey"]: each for each in template["spec"]["topologySpreadConstraints"]}
    assert sorted(spread) == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
    for each in spread.values():
        assert each["whenUnsatisfiable"] == "ScheduleAnyway"
        assert each["labelSelector"] == found["Deployment"]["spec"]["selector"]
        assert each["matchLabelKeys"] == ["pod-template-hash"]
    probes = [(router[probe]["httpGet"]["port"], router[probe]["periodSeconds"]) for probe in
              ("startupProbe", "readinessProbe")]  # fmt: skip
    assert probes == [(15021, 1), (15021, 15)]
    # Neither injected nor captured, and admitted where only restricted pods are.
    assert template["metadata"]["labels"]["sidecar.istio.io/inject"] == "false"
    spec = {**template["spec"], "serviceAccountName": "default"}
    metadata = {**template["metadata"], "name": "router", "namespace": "restricted"}
    injector.take({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})


def test_the_environment_of_a_deployed_gateway(gateways: Gateways) -> None:
    found = gateways.deployed()
    name = found["Deployment"]["metadata"]["name"]
    env = environment(pod_template(found)["spec"]["containers"][0])
    assert json.loads(env.pop("PROXY_CONFIG")) == {"proxyMetadata": {"ISTIO_META_DNS_CAPTURE": "true"}}
    assert env.pop("ISTIO_META_MESH_ID").startswith("mesh")
    assert env == {
        **ENVIRONMENT,
        "ISTIO_META_POD_PORTS": "[]",
        "ISTIO_META_WORKLOAD_NAME": name,
        "ISTIO_META_OWNER": f"kubernetes://apis/apps/v1/namespaces/default/deployments/{name}",
    }


def test_what_a_gateway_may_ask_for(gateways: Gateways) -> None:
    found = gateways.deployed(
        annotations={
            "networking.istio.io/service-type": "ClusterIP",
            "sidecar.istio.io/logLevel": "debug",
            "sidecar.istio.io/proxyImage": "example.org/mine:2",
            "prometheus.io/scrape": "false",
            "note": "mine",
            IMAGE: "claimed",
        },
        labels={"team": "web", "topology.istio.io/network": "net-west", "sidecar.istio.io/inject": "true"},
        listeners=[
            LISTENER,
            {"name": "secure.example", "port": 443, "protocol": "TLS", "tls": {"mode": "Passthrough"}},
        ],
    )
    template = pod_template(found)
    annotations, labels = template["metadata"]["annotations"], template["metadata"]["labels"]
    (router,) = template["spec"]["containers"]
    assert router["image"] == annotations[IMAGE] == "example.org/mine:2"
    assert "--proxyLogLevel=debug" in router["args"]
    assert (annotations["prometheus.io/scrape"], annotations["prometheus.io/port"]) == ("false", "15020")
    assert (labels["team"], labels["sidecar.istio.io/inject"]) == ("web", "false")
    env = environment(router)
    assert env["ISTIO_META_NETWORK"] == env["ISTIO_META_REQUESTED_NETWORK_VIEW"] == "net-west"
    assert found["Service"]["spec"]["type"] == "ClusterIP"
    ports = [port["name"] for port in found["Service"]["spec"]["ports"]]
    assert ports == ["status-port", "web", "secure-example"]
    for each in found.values():
        assert each["metadata"]["annotations"]["note"] == "mine"
        assert each["metadata"]["labels"]["team"] == "web"


def test_an_address_becomes_the_load_balancers(gateways: Gateways) -> None:
    found = gateways.deployed(addresses=[{"type": "IPAddress", "value": "192.0.2.7"}])
    assert found["Service"]["spec"]["loadBalancerIP"] == "192.0.2.7"


CLASS_DEFAULTS: Json = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {
        "name": "istio-class-defaults",
        "namespace": NAMESPACE,
        "labels": {"gateway.istio.io/defaults-for-class": "istio"},
    },
    "data": {
        "horizontalPodAutoscaler": "spec: {minReplicas: 2, maxReplicas: 7}",
        "podDisruptionBudget": "spec: {minAvailable: 1}",
        "deployment": "spec: {template: {spec: {terminationGracePeriodSeconds: 90}}}",
        "service": "spec: {externalTrafficPolicy: Local}",
    },
}


def test_class_defaults_bring_autoscaler_and_budget(gateways: Gateways) -> None:
    before = gateways.deployed()
    assert tuple(before) == ALWAYS
    name = before["Deployment"]["metadata"]["name"]
    gateways.apply(CLASS_DEFAULTS)
    try:
        autoscaler = gateways.until("HorizontalPodAutoscaler", name)["spec"]
        budget = gateways.until("PodDisruptionBudget", name)["spec"]
        later = gateways.deployed()
    finally:
        gateways.delete("configmap", "istio-class-defaults")
    assert (autoscaler["minReplicas"], autoscaler["maxReplicas"]) == (2, 7)
    assert autoscaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
    assert (budget["minAvailable"], budget["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")
    assert budget["selector"] == before["Deployment"]["spec"]["selector"]
    assert "maxUnavailable" not in budget
    assert tuple(later) == tuple(KINDS)
    assert "replicas" not in written_by_istiod(later["Deployment"])  # the autoscaler's
    assert pod_template(later)["spec"]["terminationGracePeriodSeconds"] == 90
    assert later["Service"]["spec"]["externalTrafficPolicy"] == "Local"


def written_by_istiod(manifest: Json) -> set[str]:
    """The fields of its spec that istiod has set."""
    (fields,) = (
        each["fieldsV1"]["f:spec"]
        for each in manifest["metadata"]["managedFields"]
        if each["operation"] == "Apply" and "f:spec" in each["fieldsV1"]
    )
    return {name.removeprefix("f:") for name in fields}


def test_parameters_of_one_gateway(gateways: Gateways) -> None:
    parameters = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "parameters", "namespace": "default"},
        "data": {
            "deployment": "spec: {replicas: 3, template: {spec: {containers: [{name: istio-proxy, resources: "
            "{requests: {cpu: 500m}}}]}}}",
            "podDisruptionBudget": "spec: {maxUnavailable: 1}",
        },
    }
    gateways.apply(parameters)
    found = gateways.deployed(
        infrastructure={"parametersRef": {"group": "", "kind": "ConfigMap", "name": "parameters"}}
    )
    assert found["Deployment"]["spec"]["replicas"] == 3
    (router,) = pod_template(found)["spec"]["containers"]
    assert router["resources"]["requests"] == {"cpu": "500m", "memory": "128Mi"}
    assert found["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1
    assert "HorizontalPodAutoscaler" not in found


def test_values_reach_gateways_that_are_there(injector: Injector, gateways: Gateways) -> None:
    name = gateways.deployed()["Deployment"]["metadata"]["name"]

    def spec(manifest: Json) -> Json:
        pod: Json = manifest["spec"]["template"]["spec"]
        return pod

    with injector.values(image_pull_secrets=["pull"], tag="1.31.9", proxy_resources={}):
        changed = gateways.until("Deployment", name, lambda each: "imagePullSecrets" in spec(each))
    assert spec(changed)["imagePullSecrets"] == [{"name": "pull"}]
    (router,) = spec(changed)["containers"]
    assert (router["image"], router["resources"]) == ("docker.io/istio/proxyv2:1.31.9", {})
    gateways.until("Deployment", name, lambda each: "imagePullSecrets" not in spec(each))


def test_metadata_of_the_mesh_takes_the_place_of_ours_in_gateways(injector: Injector, gateways: Gateways) -> None:
    """Server-side apply refuses a list that names a variable twice."""
    metadata = {"CA_ADDR": "issuer.example:443", "HOST_IP": "10.0.0.1", "GOMAXPROCS": "2"}
    config = copy.deepcopy(MESH)
    config["defaultConfig"]["proxyMetadata"] |= metadata

    def env(manifest: Json) -> dict[str, str]:
        return environment(manifest["spec"]["template"]["spec"]["containers"][0])

    def set_mesh(config: Json) -> None:
        gateways.apply(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "istio", "namespace": NAMESPACE},
                "data": {"mesh": json.dumps(config), "meshNetworks": "networks: {}"},
            }
        )

    name = gateways.deployed()["Deployment"]["metadata"]["name"]
    set_mesh(config)
    try:
        changed = gateways.until("Deployment", name, lambda each: env(each)["CA_ADDR"] == metadata["CA_ADDR"])
    finally:
        set_mesh(MESH)
    assert metadata.items() <= env(changed).items()
    gateways.until("Deployment", name, lambda each: env(each)["CA_ADDR"] != metadata["CA_ADDR"])


def hostile_gateway(text: str) -> Json:
    """`text` wherever a Gateway's author can write any text and still have an object that an API server takes."""
    return {
        "annotations": {
            "note": text,
            IMAGE: text,
            "istio.io/rev": text,
            "prometheus.io/path": text,
            "proxy.istio.io/config": text,
            "sidecar.istio.io/agentLogLevel": text,
            "sidecar.istio.io/componentLogLevel": text,
            "sidecar.istio.io/logLevel": text,
            "sidecar.istio.io/proxyImage": f"x/{text}x",  # no space at either end
        }
    }


# istiod sends JSON that the API server reads as YAML, which knows fewer characters.
REFUSED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe]")
FOLDED = re.compile("[\x85]")


@pytest.mark.parametrize("where", ["metadata", "infrastructure"])
def test_hostile_text_in_a_gateway_stays_a_value(gateways: Gateways, where: str) -> None:
    def written(text: str) -> Json:
        gateway = hostile_gateway(text)
        return gateway if where == "metadata" else {"infrastructure": gateway}

    like = judged(gateways.deployed(**written("benign")))
    made = {f"{MARK}-{where}-{number}": text for number, text in enumerate(HOSTILE)}
    for name, text in made.items():
        gateways.create(name=name, **written(text))
    gateways.settle()
    for name, text in made.items():
        found = gateways.found(f"{name}-istio")
        if REFUSED.search(text):
            assert not found
            continue
        assert differ_in_values_alone(judged(found), like), yaml.safe_dump(judged(found))
        template = pod_template(found)
        annotations, (router,) = template["metadata"]["annotations"], template["spec"]["containers"]
        assert router["image"] == annotations[IMAGE]
        if not FOLDED.search(text):
            assert (annotations["note"], annotations["prometheus.io/path"]) == (text, text)
            assert where != "metadata" or f"--proxyLogLevel={text}" in router["args"]


def judged(found: dict[str, Json]) -> Json:
    """What the template decides: neither addresses nor what else the API server chose."""
    service = found["Service"]["spec"]
    ports = [{key: port[key] for key in ("name", "port", "protocol", "appProtocol")} for port in service["ports"]]
    return {
        "metadata": {
            kind: {key: each["metadata"].get(key) for key in ("labels", "annotations")} for kind, each in found.items()
        },
        "deployment": found["Deployment"]["spec"],
        "service": {"type": service["type"], "selector": service["selector"], "ports": ports},
    }


def test_what_is_no_type_of_service_makes_none(gateways: Gateways) -> None:
    like = gateways.deployed(annotations={"note": "benign"})
    made = [gateways.create(annotations={"networking.istio.io/service-type": text}) for text in HOSTILE]
    gateways.settle()
    for name in made:
        found = gateways.found(f"{name}-istio")
        assert "Service" not in found
        if found:
            assert pod_template(found)["spec"].keys() == pod_template(like)["spec"].keys()


@pytest.mark.parametrize("annotation", ["gateway.istio.io/name-override", "gateway.istio.io/service-account"])
def test_what_is_no_name_makes_nothing_of_another_name(gateways: Gateways, annotation: str) -> None:
    gateways.settle()
    before = {kind: gateways.every(kind) for kind in ("Deployment", "Service")}
    made = [gateways.create(annotations={annotation: text}) for text in HOSTILE]
    gateways.settle()
    ours = {f"{name}-istio" for name in made}
    for kind, names_before in before.items():
        assert len(gateways.every(kind) - names_before - ours) == 1  # that of the Gateway that was waited for
