"""The sidecar template in the real istiod: pods through the webhook, the patch applied, the result judged."""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.hostile import HOSTILE, MARK, differ_in_values_alone
from api.injection import (
    APPLICATION,
    MIGRATION,
    MOUNTS,
    Injector,
    Json,
    container,
    environment,
    names,
    option,
    patched,
    pod_of,
    prepare,
    proxy,
    running_istiod,
)
from testbed.apiserver import api_server
from testbed.console import TestbedError


@pytest.fixture(scope="module")
def injector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Injector]:
    with api_server() as api:
        prepare(api)
        with running_istiod(api, tmp_path_factory.mktemp("istiod"), ENABLE_NATIVE_SIDECARS="auto") as injector:
            yield injector


# -- what a pod gets


def test_a_deployments_pod_gets_init_container_proxy_and_volumes(injector: Injector) -> None:
    pod = injector.inject(pod_of())
    assert names(pod) == ["web", "istio-proxy"]
    assert names(pod, "initContainers") == ["istio-init"]
    sidecar = proxy(pod)
    assert sidecar["image"] == "docker.io/istio/proxyv2:1.31.4"
    assert sidecar["imagePullPolicy"] == "IfNotPresent"
    assert sidecar["args"] == [
        "proxy", "sidecar", "--domain", "$(POD_NAMESPACE).svc.cluster.local",
        "--proxyLogLevel=warning", "--proxyComponentLogLevel=misc:error", "--log_output_level=default:info",
    ]  # fmt: skip
    assert sidecar["ports"] == [{"name": "http-envoy-prom", "containerPort": 15090, "protocol": "TCP"}]
    assert {mount["name"]: mount["mountPath"] for mount in sidecar["volumeMounts"]} == MOUNTS
    assert sorted(volume["name"] for volume in pod["spec"]["volumes"]) == sorted(MOUNTS)
    assert sidecar["resources"] == {
        "requests": {"cpu": "100m", "memory": "128Mi"},
        "limits": {"cpu": "2", "memory": "1Gi"},
    }
    assert sidecar["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "runAsUser": 1337,
        "runAsGroup": 1337,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "lifecycle" not in sidecar
    assert container(pod, "web") == APPLICATION


def test_metadata_names_the_workload(injector: Injector) -> None:
    metadata = injector.inject(pod_of())["metadata"]
    assert metadata["labels"] == {
        "app": "shop",
        "version": "v2",
        "pod-template-hash": "5d7f",
        "security.istio.io/tlsMode": "istio",
        "service.istio.io/canonical-name": "shop",
        "service.istio.io/canonical-revision": "v2",
        "topology.istio.io/network": "net-east",
    }
    assert metadata["annotations"]["istio.io/rev"] == "default"
    assert metadata["annotations"]["kubectl.kubernetes.io/default-container"] == "web"
    status = json.loads(metadata["annotations"]["sidecar.istio.io/status"])
    assert status["containers"] == ["istio-proxy"]
    assert status["initContainers"] == ["istio-init"]


def test_the_proxys_environment(injector: Injector) -> None:
    env = environment(proxy(injector.inject(pod_of())))
    config = json.loads(env.pop("PROXY_CONFIG"))
    assert config == {"proxyMetadata": {"ISTIO_META_DNS_CAPTURE": "true"}}
    assert json.loads(env.pop("ISTIO_META_POD_PORTS")) == [{"containerPort": 8080, "name": "http"}]
    assert env.pop("ISTIO_META_MESH_ID").startswith("mesh")
    assert env == {
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
        "ISTIO_META_APP_CONTAINERS": "web",
        "ISTIO_META_CLUSTER_ID": "east",
        "ISTIO_META_NETWORK": "net-east",
        "ISTIO_META_INTERCEPTION_MODE": "REDIRECT",
        "ISTIO_META_WORKLOAD_NAME": "shop",
        "ISTIO_META_OWNER": "kubernetes://apis/apps/v1/namespaces/default/deployments/shop",
        "ISTIO_META_DNS_CAPTURE": "true",
    }


def test_probes(injector: Injector) -> None:
    sidecar = proxy(injector.inject(pod_of()))
    get = {"path": "/healthz/ready", "port": 15021}
    assert sidecar["startupProbe"] == {
        "httpGet": get,
        "periodSeconds": 1,
        "timeoutSeconds": 3,
        "failureThreshold": 600,
    }
    assert sidecar["readinessProbe"] == {
        "httpGet": get,
        "periodSeconds": 15,
        "timeoutSeconds": 3,
        "failureThreshold": 4,
    }


def test_the_init_container_captures_everything_but_the_proxys_own_ports(injector: Injector) -> None:
    init = container(injector.inject(pod_of()), "istio-init")
    assert init["args"] == [
        "istio-iptables", "-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT",
        "-i", "*", "-x", "", "-b", "*", "-d", "15020,15090,15021", "--log_output_level=default:info",
    ]  # fmt: skip
    assert environment(init) == {"ISTIO_META_DNS_CAPTURE": "true"}
    assert init["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "readOnlyRootFilesystem": False,
        "runAsUser": 0,
        "runAsGroup": 0,
        "runAsNonRoot": False,
        "capabilities": {"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]},
    }


def test_a_jobs_pod_is_owned_by_its_cron_job(injector: Injector) -> None:
    pod = pod_of()
    owner = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "name": "report-28391040",
        "uid": "1",
        "controller": True,
    }
    pod["metadata"] = {"generateName": "report-28391040-", "namespace": "default", "ownerReferences": [owner]}
    injected = injector.inject(pod)
    env = environment(proxy(injected))
    assert env["ISTIO_META_OWNER"] == "kubernetes://apis/batch/v1/namespaces/default/cronjobs/report"
    assert env["ISTIO_META_WORKLOAD_NAME"] == "report"
    assert injected["metadata"]["labels"]["service.istio.io/canonical-name"] == "report"
    assert injected["metadata"]["labels"]["service.istio.io/canonical-revision"] == "latest"


def test_a_stateful_sets_pod_is_owned_by_it(injector: Injector) -> None:
    pod = pod_of()
    owner = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "1", "controller": True}
    pod["metadata"] = {"name": "db-0", "generateName": "db-", "namespace": "default", "ownerReferences": [owner]}
    env = environment(proxy(injector.inject(pod)))
    assert env["ISTIO_META_OWNER"] == "kubernetes://apis/apps/v1/namespaces/default/statefulsets/db"
    assert env["ISTIO_META_WORKLOAD_NAME"] == "db"


def test_a_workload_may_have_a_name_of_its_own(injector: Injector) -> None:
    env = environment(proxy(injector.inject(pod_of(labels={"service.istio.io/workload-name": "till"}))))
    assert env["ISTIO_META_WORKLOAD_NAME"] == "till"
    assert env["ISTIO_META_OWNER"].endswith("/deployments/shop")


IMAGE = "meshwright.dev/proxy-image"


@pytest.mark.parametrize("native", ["true", "false"])
def test_the_pod_says_which_image_its_proxy_runs(injector: Injector, native: str) -> None:
    asked = {"sidecar.istio.io/nativeSidecar": native}
    for pod in (
        pod_of(annotations=asked),
        pod_of(annotations={**asked, IMAGE: "claimed"}),
        pod_of(annotations={**asked, "sidecar.istio.io/proxyImage": "example.org/proxyv2:mine"}),
        pod_of(annotations={**asked, "sidecar.istio.io/proxyImageType": "distroless"}),
        pod_of(APPLICATION, {"name": "istio-proxy", "image": "auto", "resources": {}}, annotations=asked),
    ):
        found = injector.inject(pod)
        assert found["metadata"]["annotations"][IMAGE] == proxy(found)["image"]
        assert injector.inject(found)["metadata"]["annotations"][IMAGE] == proxy(found)["image"]


@pytest.mark.parametrize("native", ["true", "false"])
@pytest.mark.parametrize("claim", [{}, {IMAGE: "claimed"}])
def test_of_an_image_that_the_pod_pins_nothing_is_said(injector: Injector, native: str, claim: dict[str, str]) -> None:
    """Its version is its author's choice, and never outdated."""
    pinned = {"name": "istio-proxy", "image": "example.org/mine:1", "resources": {}}
    pod = pod_of(APPLICATION, pinned, annotations={"sidecar.istio.io/nativeSidecar": native, **claim})
    once = injector.inject(pod)
    assert proxy(once)["image"] == "example.org/mine:1"
    assert IMAGE not in once["metadata"]["annotations"]
    assert IMAGE not in injector.inject(once)["metadata"]["annotations"]


def test_a_long_name_is_cut_to_a_valid_label(injector: Injector) -> None:
    pod = pod_of()
    pod["metadata"] = {"name": "a" * 62 + ".b.example", "namespace": "default"}
    injected = injector.inject(pod)
    assert injected["metadata"]["labels"]["service.istio.io/canonical-name"] == "a" * 62
    injector.take(injected)


@pytest.mark.parametrize(
    ("labels", "name", "revision"),
    [
        ({"app.kubernetes.io/name": "cart", "app.kubernetes.io/version": "3"}, "cart", "3"),
        (
            {"service.istio.io/canonical-name": "own", "service.istio.io/canonical-revision": "r1"},
            "own",
            "r1",
        ),
        ({"version": ""}, "shop", "latest"),
    ],
)
def test_canonical_labels_follow_the_users(
    injector: Injector, labels: dict[str, str], name: str, revision: str
) -> None:
    found = injector.inject(pod_of(labels=labels))["metadata"]["labels"]
    assert found["service.istio.io/canonical-name"] == name
    assert found["service.istio.io/canonical-revision"] == revision


def test_the_users_own_metadata_stays(injector: Injector) -> None:
    pod = pod_of(
        labels={"security.istio.io/tlsMode": "disabled", "topology.istio.io/network": "net-west"},
        annotations={"kubectl.kubernetes.io/default-container": "istio-proxy", "note": "mine"},
    )
    metadata = injector.inject(pod)["metadata"]
    assert metadata["labels"]["security.istio.io/tlsMode"] == "disabled"
    assert metadata["labels"]["topology.istio.io/network"] == "net-west"
    assert metadata["annotations"]["kubectl.kubernetes.io/default-container"] == "istio-proxy"
    assert metadata["annotations"]["note"] == "mine"


def test_the_webhooks_path_names_the_cluster_and_network(injector: Injector) -> None:
    pod = injector.inject(pod_of(), "/inject/cluster/west/net/net-west")
    env = environment(proxy(pod))
    assert (env["ISTIO_META_CLUSTER_ID"], env["ISTIO_META_NETWORK"]) == ("west", "net-west")
    assert pod["metadata"]["labels"]["topology.istio.io/network"] == "net-west"


def test_several_containers_and_init_containers(injector: Injector) -> None:
    ports = [{"containerPort": 6379}, {"containerPort": 53, "protocol": "UDP"}]
    second = {"name": "cache", "image": "example.org/cache:1", "ports": ports, "resources": {}}
    pod = injector.inject(pod_of(APPLICATION, second, initContainers=[MIGRATION]))
    assert names(pod) == ["web", "cache", "istio-proxy"]
    # The application's own init containers run before traffic is captured.
    assert names(pod, "initContainers") == ["migrate", "istio-init"]
    env = environment(proxy(pod))
    assert env["ISTIO_META_APP_CONTAINERS"] == "web,cache"
    assert [port["containerPort"] for port in json.loads(env["ISTIO_META_POD_PORTS"])] == [8080, 6379, 53]


def test_application_probes_go_through_the_agent(injector: Injector) -> None:
    web = {
        **APPLICATION,
        "livenessProbe": {"httpGet": {"path": "/live", "port": "http"}},
        "readinessProbe": {"tcpSocket": {"port": 8080}},
        "startupProbe": {"grpc": {"port": 9090}},
    }
    pod = injector.inject(pod_of(web))
    probers = json.loads(environment(proxy(pod))["ISTIO_KUBE_APP_PROBERS"])
    assert probers["/app-health/web/livez"]["httpGet"] == {"path": "/live", "port": 8080}
    assert probers["/app-health/web/readyz"]["tcpSocket"] == {"port": 8080}
    assert probers["/app-health/web/startupz"]["grpc"]["port"] == 9090
    for probe, path in (
        ("livenessProbe", "livez"),
        ("readinessProbe", "readyz"),
        ("startupProbe", "startupz"),
    ):
        assert container(pod, "web")[probe]["httpGet"] == {"path": f"/app-health/web/{path}", "port": 15020}


def test_probes_stay_where_the_pod_says_so(injector: Injector) -> None:
    web = {**APPLICATION, "livenessProbe": {"httpGet": {"path": "/live", "port": 8080}}}
    pod = injector.inject(pod_of(web, annotations={"sidecar.istio.io/rewriteAppHTTPProbers": "false"}))
    assert "ISTIO_KUBE_APP_PROBERS" not in environment(proxy(pod))
    assert container(pod, "web")["livenessProbe"]["httpGet"]["port"] == 8080


# -- modes


def test_tproxy_runs_the_proxy_as_root_with_one_capability(injector: Injector) -> None:
    pod = injector.inject(pod_of(annotations={"sidecar.istio.io/interceptionMode": "TPROXY"}))
    init = container(pod, "istio-init")
    assert (option(init, "-m"), option(init, "-u")) == ("TPROXY", "1337")
    assert environment(proxy(pod))["ISTIO_META_INTERCEPTION_MODE"] == "TPROXY"
    security = proxy(pod)["securityContext"]
    assert (security["runAsUser"], security["runAsGroup"], security["runAsNonRoot"]) == (0, 1337, False)
    assert security["capabilities"] == {"add": ["NET_ADMIN"], "drop": ["ALL"]}
    assert security["readOnlyRootFilesystem"]
    assert not security["privileged"]


@pytest.mark.parametrize("where", ["annotation", "proxy config"])
def test_mode_none_captures_nothing(injector: Injector, where: str) -> None:
    by_config = {"proxy.istio.io/config": "interceptionMode: NONE"}
    annotations = {"sidecar.istio.io/interceptionMode": "NONE"} if where == "annotation" else by_config
    for native in ("false", "true"):
        pod = injector.inject(
            pod_of(
                annotations={**annotations, "sidecar.istio.io/nativeSidecar": native},
                initContainers=[MIGRATION],
            )
        )
        expected = ["istio-proxy", "migrate"] if native == "true" else ["migrate"]
        assert names(pod, "initContainers") == expected
        assert environment(proxy(pod))["ISTIO_META_INTERCEPTION_MODE"] == "NONE"
        assert "capabilities" in proxy(pod)["securityContext"]


@pytest.mark.parametrize(
    ("flag", "node_name", "native"),
    [
        (None, None, False),
        (None, "new", True),
        (None, "old", False),
        ("true", None, True),
        ("false", "new", False),
        ("nonsense", "new", True),
        ("nonsense", None, False),
    ],
)
def test_native_sidecar_by_node_or_annotation(
    injector: Injector,
    flag: str | None,
    node_name: str | None,
    native: bool,  # noqa: FBT001
) -> None:
    spec: Json = {"nodeName": node_name} if node_name else {}
    annotations = {"sidecar.istio.io/nativeSidecar": flag} if flag else {}
    pod = injector.inject(pod_of(annotations=annotations, initContainers=[MIGRATION], **spec))
    sidecar = proxy(pod)
    if native:
        # Before the application's own init containers, so that they are in the mesh already.
        assert names(pod, "initContainers") == ["istio-init", "istio-proxy", "migrate"]
        assert names(pod) == ["web"]
        assert sidecar["restartPolicy"] == "Always"
        command = ["pilot-agent", "request", "--debug-port=15020", "POST", "drain"]
        assert sidecar["lifecycle"] == {"preStop": {"exec": {"command": command}}}
    else:
        assert names(pod, "initContainers") == ["migrate", "istio-init"]
        assert names(pod) == ["web", "istio-proxy"]
        assert "restartPolicy" not in sidecar
    assert sidecar["startupProbe"]["failureThreshold"] == 600
    injector.take({**pod, "spec": {**pod["spec"], "nodeName": ""}})


@pytest.mark.parametrize("mode", ["true", "false"])
def test_native_sidecars_as_the_mesh_says(tmp_path: Path, mode: str) -> None:
    """Whatever the nodes are; a pod may still say otherwise."""
    with api_server() as api:
        prepare(api)
        with running_istiod(api, tmp_path, ENABLE_NATIVE_SIDECARS=mode) as injector:
            found = [
                "istio-proxy" in names(injector.inject(pod), "initContainers")
                for pod in (
                    pod_of(),
                    pod_of(nodeName="new"),
                    pod_of(annotations={"sidecar.istio.io/nativeSidecar": "true"}),
                    pod_of(annotations={"sidecar.istio.io/nativeSidecar": "false"}),
                )
            ]
    assert found == [mode == "true", mode == "true", True, False]


WAIT = {"postStart": {"exec": {"command": ["pilot-agent", "wait"]}}}


def test_the_application_waits_if_the_pod_says_so(injector: Injector) -> None:
    pod = injector.inject(pod_of(annotations={"proxy.istio.io/config": "holdApplicationUntilProxyStarts: true"}))
    assert names(pod) == ["istio-proxy", "web"]
    assert proxy(pod)["lifecycle"] == WAIT


def test_the_application_waits_if_the_values_say_so(injector: Injector) -> None:
    with injector.values(hold_application=True):
        pod = injector.inject(pod_of())
        assert names(pod) == ["istio-proxy", "web"]
        assert proxy(pod)["lifecycle"] == WAIT
        native = injector.inject(pod_of(annotations={"sidecar.istio.io/nativeSidecar": "true"}))
        assert "postStart" not in proxy(native)["lifecycle"]


def test_with_cni_the_init_container_only_validates(injector: Injector) -> None:
    with injector.values(lambda proxy: proxy.update(excludeIPRanges="10.0.0.0/8"), cni_enabled=True):
        pod = injector.inject(pod_of(annotations={"traffic.sidecar.istio.io/excludeOutboundPorts": "3306"}))
        with_init = injector.inject(pod_of(initContainers=[MIGRATION]))
    assert names(with_init, "initContainers") == ["istio-validation", "migrate"]
    init = container(pod, "istio-validation")
    assert init["args"][-2:] == ["--run-validation", "--skip-rule-apply"]
    assert init["securityContext"]["runAsUser"] == 1337
    assert init["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert init["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    annotations = pod["metadata"]["annotations"]
    assert annotations["traffic.sidecar.istio.io/excludeOutboundIPRanges"] == "10.0.0.0/8"
    assert annotations["traffic.sidecar.istio.io/excludeOutboundPorts"] == "3306"
    assert annotations["sidecar.istio.io/interceptionMode"] == "REDIRECT"


@pytest.mark.parametrize("level", ["baseline", "restricted"])
@pytest.mark.parametrize("native", ["true", "false"])
def test_with_cni_pods_stay_as_restricted_as_their_namespace_asks(injector: Injector, level: str, native: str) -> None:
    pod = pod_of(RESTRICTED, annotations={"sidecar.istio.io/nativeSidecar": native})
    with injector.values(cni_enabled=True):
        injector.take(secured(injector.inject(pod), level))
    # The same with an init container that programs iptables; the API server does judge here.
    with pytest.raises(TestbedError, match=r"violates PodSecurity(.|\n)*NET_ADMIN"):
        injector.take(secured(injector.inject(pod), level))


RESTRICTED: Json = {
    **APPLICATION,
    "securityContext": {
        "allowPrivilegeEscalation": False,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    },
}


def secured(pod: Json, level: str) -> Json:
    """The pod in a namespace with that Pod Security level (`prepare` makes them)."""
    return {**pod, "metadata": {**pod["metadata"], "namespace": level}}


@pytest.mark.parametrize("native", ["true", "false"])
def test_with_cni_mode_none_keeps_the_plugin_away(injector: Injector, native: str) -> None:
    """It passes over a pod that has an `istio-init`; without one it fails on the mode, and the pod never starts."""
    asked = {"sidecar.istio.io/interceptionMode": "NONE", "sidecar.istio.io/nativeSidecar": native}
    with injector.values(cni_enabled=True):
        pod = injector.inject(pod_of(annotations=asked))
    init = container(pod, "istio-init")
    assert init["args"] == ["version"]
    assert init["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert "istio-validation" not in names(pod, "initContainers")
    assert environment(proxy(pod))["ISTIO_META_INTERCEPTION_MODE"] == "NONE"
    injector.take(secured(pod, "baseline"))


def test_values_change_the_proxy(injector: Injector) -> None:
    def change(proxy: Json) -> None:
        proxy["startupProbe"] = {"enabled": False}
        proxy["seccompProfile"] = {"type": "RuntimeDefault"}
        proxy["lifecycle"] = {"preStop": {"sleep": {"seconds": 5}}}

    arguments: Json = {
        "network": "",
        "image_pull_policy": "",
        "image_pull_secrets": ["pull"],
        "proxy_resources": {},
        "proxy_log_level": "debug",
        "cluster_domain": "example.internal",
    }
    with injector.values(change, **arguments):
        pod = injector.inject(pod_of())
    sidecar = proxy(pod)
    assert "startupProbe" not in sidecar
    assert "imagePullPolicy" not in sidecar
    assert sidecar["resources"] == {}
    assert sidecar["lifecycle"] == {"preStop": {"sleep": {"seconds": 5}}}
    assert "ISTIO_META_NETWORK" not in environment(sidecar)
    assert "--proxyLogLevel=debug" in sidecar["args"]
    assert "$(POD_NAMESPACE).svc.example.internal" in sidecar["args"]
    assert pod["spec"]["imagePullSecrets"] == [{"name": "pull"}]
    for each in (sidecar, container(pod, "istio-init")):
        assert each["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


def test_values_that_look_like_numbers_stay_text(injector: Injector) -> None:
    arguments: Json = {
        "cluster_name": "1",
        "network": "2e3",
        "ca_address": "3",
        "image_pull_policy": "4",
        "image_pull_secrets": ["5"],
    }
    with injector.values(lambda proxy: proxy.update(excludeIPRanges="", includeOutboundPorts="6"), **arguments):
        pod = injector.inject(pod_of())
    env = environment(proxy(pod))
    found = (
        env["ISTIO_META_CLUSTER_ID"],
        env["ISTIO_META_NETWORK"],
        env["CA_ADDR"],
        proxy(pod)["imagePullPolicy"],
    )
    assert found == ("1", "2e3", "3", "4")
    assert pod["spec"]["imagePullSecrets"] == [{"name": "5"}]
    assert option(container(pod, "istio-init"), "-q") == "6"


# -- what a pod may ask for


@pytest.mark.parametrize(
    ("annotation", "value", "flag", "expected"),
    [
        (
            "traffic.sidecar.istio.io/includeOutboundIPRanges",
            "10.0.0.0/8,fd00::/8",
            "-i",
            "10.0.0.0/8,fd00::/8",
        ),
        ("traffic.sidecar.istio.io/includeOutboundIPRanges", "", "-i", ""),
        ("traffic.sidecar.istio.io/excludeOutboundIPRanges", "10.1.0.0/16", "-x", "10.1.0.0/16"),
        ("traffic.sidecar.istio.io/includeInboundPorts", "80,443", "-b", "80,443"),
        ("traffic.sidecar.istio.io/includeInboundPorts", "", "-b", ""),
        ("traffic.sidecar.istio.io/excludeInboundPorts", "9000", "-d", "9000,15020,15090,15021"),
        ("traffic.sidecar.istio.io/excludeInboundPorts", "15090", "-d", "15090,15020,15021"),
        ("traffic.sidecar.istio.io/includeOutboundPorts", "5432", "-q", "5432"),
        ("traffic.sidecar.istio.io/includeOutboundPorts", "5432,6379", "-q", "5432,6379"),
        ("traffic.sidecar.istio.io/includeOutboundPorts", "*", "-q", "*"),
        ("traffic.sidecar.istio.io/excludeOutboundPorts", "3306", "-o", "3306"),
        ("traffic.sidecar.istio.io/kubevirtInterfaces", "net1", "-k", "net1"),
        ("istio.io/reroute-virtual-interfaces", "net1,net2", "-k", "net1,net2"),
        ("traffic.sidecar.istio.io/excludeInterfaces", "eth1", "-c", "eth1"),
        ("status.sidecar.istio.io/port", "15030", "-d", "15030,15090,15021"),
    ],
)
def test_capture_by_annotation(injector: Injector, annotation: str, value: str, flag: str, expected: str) -> None:
    pod = injector.inject(pod_of(annotations={annotation: value}))
    assert option(container(pod, "istio-init"), flag) == expected


def test_a_status_port_of_zero_leaves_out_the_probes(injector: Injector) -> None:
    sidecar = proxy(injector.inject(pod_of(annotations={"status.sidecar.istio.io/port": "0"})))
    assert "readinessProbe" not in sidecar
    assert "startupProbe" not in sidecar


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({"proxyCPU": "300m"}, {"requests": {"cpu": "300m"}}),
        ({"proxyMemoryLimit": "512Mi"}, {"limits": {"memory": "512Mi"}}),
        (
            {"proxyCPU": "1", "proxyMemory": "1Gi", "proxyCPULimit": "3", "proxyMemoryLimit": "2Gi"},
            {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "3", "memory": "2Gi"}},
        ),
    ],
)
def test_resources_by_annotation_replace_the_default(
    injector: Injector, annotations: dict[str, str], expected: Json
) -> None:
    pod = injector.inject(
        pod_of(annotations={f"sidecar.istio.io/{name}": value for name, value in annotations.items()})
    )
    assert proxy(pod)["resources"] == expected
    assert container(pod, "istio-init")["resources"] == expected
    injector.take(pod)


def test_image_log_levels_and_probe_times_by_annotation(injector: Injector) -> None:
    pod = injector.inject(
        pod_of(
            annotations={
                "sidecar.istio.io/proxyImage": "example.org/proxyv2:mine",
                "sidecar.istio.io/logLevel": "debug",
                "sidecar.istio.io/componentLogLevel": "jwt:trace",
                "sidecar.istio.io/agentLogLevel": "xdsproxy:debug",
                "readiness.status.sidecar.istio.io/initialDelaySeconds": "7",
                "readiness.status.sidecar.istio.io/periodSeconds": "08",
                "readiness.status.sidecar.istio.io/failureThreshold": "9",
            }
        )
    )
    sidecar, init = proxy(pod), container(pod, "istio-init")
    assert sidecar["image"] == init["image"] == "example.org/proxyv2:mine"
    assert sidecar["args"][-3:] == [
        "--proxyLogLevel=debug", "--proxyComponentLogLevel=jwt:trace", "--log_output_level=xdsproxy:debug",
    ]  # fmt: skip
    assert init["args"][-1] == "--log_output_level=xdsproxy:debug"
    probe = sidecar["readinessProbe"]
    assert (probe["initialDelaySeconds"], probe["periodSeconds"], probe["failureThreshold"]) == (7, 8, 9)


def test_the_image_type_is_istiods_business(injector: Injector) -> None:
    pod = injector.inject(pod_of(annotations={"sidecar.istio.io/proxyImageType": "distroless"}))
    assert proxy(pod)["image"] == "docker.io/istio/proxyv2:1.31.4-distroless"


def test_proxy_config_by_annotation(injector: Injector) -> None:
    config = {"concurrency": 3, "proxyMetadata": {"ISTIO_META_ENABLE_HBONE": "true", "SECRET_TTL": "1h"}}
    pod = injector.inject(pod_of(annotations={"proxy.istio.io/config": yaml.safe_dump(config)}))
    env = environment(proxy(pod))
    assert json.loads(env["PROXY_CONFIG"])["concurrency"] == 3
    assert env["SECRET_TTL"] == "1h"
    assert pod["metadata"]["labels"]["networking.istio.io/tunnel"] == "http"


@pytest.mark.parametrize(
    "annotation",
    [
        "sidecar.istio.io/discoveryAddress",
        "sidecar.istio.io/extraStatTags",
        "sidecar.istio.io/statsCompression",
        "sidecar.istio.io/statsEvictionInterval",
        "sidecar.istio.io/statsFlushInterval",
        "sidecar.istio.io/statsHistogramBuckets",
        "sidecar.istio.io/statsInclusionPrefixes",
        "sidecar.istio.io/statsInclusionRegexps",
        "sidecar.istio.io/statsInclusionSuffixes",
    ],
)
def test_what_the_agent_reads_itself_reaches_it(injector: Injector, annotation: str) -> None:
    """From the file of the pod's annotations."""
    pod = injector.inject(pod_of(annotations={annotation: "told"}))
    assert pod["metadata"]["annotations"][annotation] == "told"
    (volume,) = (each for each in pod["spec"]["volumes"] if each["name"] == "istio-podinfo")
    assert {"path": "annotations", "fieldRef": {"fieldPath": "metadata.annotations"}} in volume["downwardAPI"]["items"]
    assert {"name": "istio-podinfo", "mountPath": "/etc/istio/pod"} in proxy(pod)["volumeMounts"]


def test_a_pods_times_are_its_own(injector: Injector) -> None:
    config = {"terminationDrainDuration": "25s", "proxyMetadata": {"EXIT_ON_ZERO_ACTIVE_CONNECTIONS": "true"}}
    pod = pod_of(annotations={"proxy.istio.io/config": yaml.safe_dump(config)}, terminationGracePeriodSeconds=90)
    injected = injector.inject(pod)
    assert injected["spec"]["terminationGracePeriodSeconds"] == 90
    env = environment(proxy(injected))
    assert json.loads(env["PROXY_CONFIG"])["terminationDrainDuration"] == "25s"
    assert env["EXIT_ON_ZERO_ACTIVE_CONNECTIONS"] == "true"


@pytest.mark.parametrize("merged", [True, False])
def test_metrics_are_scraped_through_the_agent_unless_the_pod_says_no(injector: Injector, merged: bool) -> None:  # noqa: FBT001
    own = {"prometheus.io/scrape": "true", "prometheus.io/port": "8080", "prometheus.io/path": "/stats"}
    asked = {} if merged else {"prometheus.istio.io/merge-metrics": "false"}
    annotations = injector.inject(pod_of(annotations={**own, **asked}))["metadata"]["annotations"]
    expected = {**own, "prometheus.io/port": "15020", "prometheus.io/path": "/stats/prometheus"} if merged else own
    assert {name: annotations[name] for name in own} == expected


def test_bootstrap_override(injector: Injector) -> None:
    pod = injector.inject(pod_of(annotations={"sidecar.istio.io/bootstrapOverride": "my-bootstrap"}))
    assert environment(proxy(pod))["ISTIO_BOOTSTRAP_OVERRIDE"] == "/etc/istio/custom-bootstrap/custom_bootstrap.json"
    mounts = {mount["name"]: mount["mountPath"] for mount in proxy(pod)["volumeMounts"]}
    assert mounts["custom-bootstrap-volume"] == "/etc/istio/custom-bootstrap"
    volume = next(each for each in pod["spec"]["volumes"] if each["name"] == "custom-bootstrap-volume")
    assert volume["configMap"] == {"name": "my-bootstrap"}


@pytest.mark.parametrize("form", ["list", "map"])
def test_user_volumes(injector: Injector, form: str) -> None:
    source, mount = {"secret": {"secretName": "certs"}}, {"mountPath": "/certs", "readOnly": True}
    volumes: Any = [{"name": "certs", **source}] if form == "list" else {"certs": source}
    mounts: Any = [{"name": "certs", **mount}] if form == "list" else {"certs": mount}
    pod = injector.inject(
        pod_of(
            annotations={
                "sidecar.istio.io/userVolume": json.dumps(volumes),
                "sidecar.istio.io/userVolumeMount": json.dumps(mounts),
            }
        )
    )
    assert {"name": "certs", **source} in pod["spec"]["volumes"]
    assert {"name": "certs", **mount} in proxy(pod)["volumeMounts"]
    assert len(pod["spec"]["volumes"]) == len(MOUNTS) + 1
    injector.take(pod)


@pytest.mark.parametrize("native", ["true", "false"])
def test_the_users_istio_proxy_container_wins(injector: Injector, native: str) -> None:
    own = {
        "name": "istio-proxy",
        "image": "auto",
        "securityContext": {"runAsUser": 2000, "runAsGroup": 2000},
        "resources": {"requests": {"cpu": "250m"}},
        "env": [{"name": "CA_ADDR", "value": "issuer.example:443"}, {"name": "MINE", "value": "1"}],
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", "5"]}}},
        "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
    }
    pod = injector.inject(
        pod_of(
            APPLICATION,
            own,
            annotations={"sidecar.istio.io/nativeSidecar": native},
            volumes=[{"name": "scratch", "emptyDir": {}}],
        )
    )
    sidecar = proxy(pod)
    assert names(pod) == (["web"] if native == "true" else ["web", "istio-proxy"])
    assert sidecar["image"] == "docker.io/istio/proxyv2:1.31.4"
    assert sidecar["securityContext"]["runAsUser"] == 2000
    assert sidecar["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert option(container(pod, "istio-init"), "-u") == "2000"
    assert sidecar["resources"]["requests"] == {"cpu": "250m", "memory": "128Mi"}
    env = environment(sidecar)
    assert (env["CA_ADDR"], env["MINE"], env["ISTIO_META_APP_CONTAINERS"]) == (
        "issuer.example:443",
        "1",
        "web",
    )
    assert sidecar["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "5"]
    assert {"name": "scratch", "mountPath": "/scratch"} in sidecar["volumeMounts"]
    injector.take(pod)


def test_injecting_again_changes_nothing(injector: Injector) -> None:
    once = injector.inject(pod_of())
    again = injector.inject(once)
    assert again["spec"] == once["spec"]
    assert again["metadata"] == once["metadata"]


@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY", "NONE"])
@pytest.mark.parametrize("native", ["true", "false"])
def test_the_api_server_takes_the_pod(injector: Injector, mode: str, native: str) -> None:
    annotations = {"sidecar.istio.io/interceptionMode": mode, "sidecar.istio.io/nativeSidecar": native}
    stored = injector.take(injector.inject(pod_of(annotations=annotations)))
    assert "istio-token" in [volume["name"] for volume in stored["spec"]["volumes"]]


# -- what a pod must not get


def annotated(name: str, write: Callable[[str], str] = lambda text: text) -> Callable[[str], Json]:
    return lambda text: pod_of(annotations={name: write(text)})


def labelled(name: str) -> Callable[[str], Json]:
    return lambda text: pod_of(labels={name: text})


def owned(field: str) -> Callable[[str], Json]:
    def place(text: str) -> Json:
        owner = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "1", "controller": True}
        pod = pod_of()
        pod["metadata"]["ownerReferences"] = [{**owner, field: text}]
        del pod["metadata"]["labels"]["app"]  # so that the canonical name follows the owner's
        return pod

    return place


# Every place of a pod that reaches the template: where its author writes `text`, and a harmless text for it.
PLACES: dict[str, tuple[Callable[[str], Json], str]] = {
    **{
        f"annotation {name}": (annotated(name), benign)
        for name, benign in {
            "sidecar.istio.io/interceptionMode": "REDIRECT",
            "sidecar.istio.io/nativeSidecar": "benign",
            "sidecar.istio.io/proxyImage": "benign",
            "sidecar.istio.io/proxyImageType": "benign",
            "sidecar.istio.io/proxyCPU": "1",
            "sidecar.istio.io/proxyMemory": "1Gi",
            "sidecar.istio.io/proxyCPULimit": "1",
            "sidecar.istio.io/proxyMemoryLimit": "1Gi",
            "sidecar.istio.io/logLevel": "benign",
            "sidecar.istio.io/componentLogLevel": "benign",
            "sidecar.istio.io/agentLogLevel": "benign",
            "sidecar.istio.io/bootstrapOverride": "benign",
            "sidecar.istio.io/userVolume": "[]",
            "sidecar.istio.io/userVolumeMount": "[]",
            "sidecar.istio.io/statsInclusionPrefixes": "benign",
            "sidecar.istio.io/statsInclusionSuffixes": "benign",
            "sidecar.istio.io/statsInclusionRegexps": "benign",
            "sidecar.istio.io/extraStatTags": "benign",
            "sidecar.istio.io/rewriteAppHTTPProbers": "false",
            "status.sidecar.istio.io/port": "15020",
            "readiness.status.sidecar.istio.io/initialDelaySeconds": "1",
            "readiness.status.sidecar.istio.io/periodSeconds": "1",
            "readiness.status.sidecar.istio.io/failureThreshold": "1",
            "traffic.sidecar.istio.io/includeOutboundIPRanges": "*",
            "traffic.sidecar.istio.io/excludeOutboundIPRanges": "10.0.0.0/8",
            "traffic.sidecar.istio.io/includeInboundPorts": "*",
            "traffic.sidecar.istio.io/excludeInboundPorts": "1",
            "traffic.sidecar.istio.io/includeOutboundPorts": "1",
            "traffic.sidecar.istio.io/excludeOutboundPorts": "1",
            "traffic.sidecar.istio.io/kubevirtInterfaces": "net1",
            "traffic.sidecar.istio.io/excludeInterfaces": "net1",
            "istio.io/reroute-virtual-interfaces": "net1",
            "istio.io/rev": "benign",
            "kubectl.kubernetes.io/default-container": "benign",
            "kubectl.kubernetes.io/default-logs-container": "benign",
            "proxy.istio.io/config": "{}",
        }.items()
    },
    **{
        f"label {name}": (labelled(name), "benign")
        for name in (
            "app",
            "version",
            "app.kubernetes.io/name",
            "app.kubernetes.io/version",
            "service.istio.io/canonical-name",
            "service.istio.io/canonical-revision",
            "service.istio.io/workload-name",
            "security.istio.io/tlsMode",
            "topology.istio.io/network",
        )
    },
    "tunnel label": (
        lambda text: pod_of(
            labels={"networking.istio.io/tunnel": text},
            annotations={"proxy.istio.io/config": "proxyMetadata: {ISTIO_META_ENABLE_HBONE: 'true'}"},
        ),
        "benign",
    ),
    **{f"owner's {field}": (owned(field), "benign") for field in ("name", "kind", "apiVersion")},
    "proxy config's metadata value": (
        annotated("proxy.istio.io/config", lambda text: json.dumps({"proxyMetadata": {"KEY": text}})),
        "benign",
    ),
    "proxy config's metadata name": (
        annotated("proxy.istio.io/config", lambda text: json.dumps({"proxyMetadata": {f"Z{text}": "value"}})),
        "benign",
    ),
    "proxy config's service cluster": (
        annotated("proxy.istio.io/config", lambda text: json.dumps({"serviceCluster": text})),
        "benign",
    ),
    "user volume's name": (
        annotated("sidecar.istio.io/userVolume", lambda text: json.dumps([{"name": text, "emptyDir": {}}])),
        "benign",
    ),
    "user volume's name as key": (
        annotated("sidecar.istio.io/userVolume", lambda text: json.dumps({text: {"emptyDir": {}}})),
        "benign",
    ),
    "user mount's path": (
        annotated("sidecar.istio.io/userVolumeMount", lambda text: json.dumps([{"name": "x", "mountPath": text}])),
        "benign",
    ),
    "the proxy's own image": (
        lambda text: pod_of(APPLICATION, {"name": "istio-proxy", "image": text, "resources": {}}),
        "benign",
    ),
    "container's name": (lambda text: pod_of({**APPLICATION, "name": text}), "benign"),
    "port's name": (
        lambda text: pod_of({**APPLICATION, "ports": [{"containerPort": 1, "name": text}]}),
        "benign",
    ),
}

# Those that take any text.
FREE = [place for place, (_, benign) in PLACES.items() if benign == "benign"]


@cache
def harmless(injector: Injector, place: str) -> list[Json]:
    """What a pod with hostile text at `place` may look like."""
    build, benign = PLACES[place]
    pods = [build(benign)]
    if place.startswith("proxy config"):  # one that istiod cannot parse is ignored
        pods.append(pod_of(annotations={"proxy.istio.io/config": "{}"}))
    return [injector.inject(pod) for pod in pods]


def stays_a_value(injector: Injector, place: str, text: str) -> bool:
    """Asserts that `text` (with MARK in it) at `place` is refused (False) or adds no field (True)."""
    build, _ = PLACES[place]
    response = injector.review(build(text))
    if not response["allowed"]:
        return False
    found = patched(build(text), response)
    assert any(differ_in_values_alone(found, like) for like in harmless(injector, place)), yaml.safe_dump(found)
    return True


@pytest.mark.parametrize("place", PLACES)
def test_hostile_text_stays_a_value(injector: Injector, place: str) -> None:
    taken = [stays_a_value(injector, place, text) for text in HOSTILE]
    assert any(taken) or place not in FREE


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    place=st.sampled_from(FREE),
    text=st.text(
        st.characters(exclude_categories=["Cs"]) | st.sampled_from(string.punctuation + string.whitespace),
        max_size=60,
    ),
)
def test_any_text_stays_a_value(injector: Injector, place: str, text: str) -> None:
    stays_a_value(injector, place, MARK + text)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        ("sidecar.istio.io/userVolume", [{"name": "istio-token", "$patch": "delete"}]),
        ("sidecar.istio.io/userVolume", [{"$patch": "replace"}]),
        ("sidecar.istio.io/userVolume", {"istio-token": {"$patch": "delete"}}),
        ("sidecar.istio.io/userVolumeMount", [{"mountPath": "/var/run/secrets/tokens", "$patch": "delete"}]),
        ("sidecar.istio.io/userVolumeMount", [{"$patch": "replace"}]),
    ],
)
def test_user_lists_cannot_carry_patch_directives(injector: Injector, annotation: str, value: Any) -> None:
    response = injector.review(pod_of(annotations={annotation: json.dumps(value)}))
    if response["allowed"]:
        pod = patched(pod_of(), response)
        assert set(MOUNTS) <= {volume["name"] for volume in pod["spec"]["volumes"]}
        assert set(MOUNTS.values()) <= {mount["mountPath"] for mount in proxy(pod)["volumeMounts"]}


@pytest.mark.parametrize("value", ["x", '"x"', "5", "true", "[1]", '["x"]', '{"x": 1}', "[", "{{ 1 }}"])
def test_user_lists_of_another_form_are_refused_by_name(injector: Injector, value: str) -> None:
    for name in ("sidecar.istio.io/userVolume", "sidecar.istio.io/userVolumeMount"):
        assert f"{name}: want a list or a map" in injector.refusal(pod_of(annotations={name: value}))


def test_a_list_of_outbound_ports_that_is_none_is_refused_by_name(injector: Injector) -> None:
    message = injector.refusal(pod_of(annotations={"traffic.sidecar.istio.io/includeOutboundPorts": "1;2"}))
    assert "traffic.sidecar.istio.io/includeOutboundPorts: want ports separated by commas" in message
