"""The injector's values: Istio's layout and defaults, and every path that the sidecar template reads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from meshwright.mesh.injection import injector_values

TEMPLATE = Path(__file__).parents[2] / "templates/injection/sidecar.tpl"

MESH: dict[str, Any] = {
    "hub": "docker.io/istio",
    "tag": "1.31.4",
    "image_pull_policy": "IfNotPresent",
    "cluster_name": "east",
    "network": "net-east",
    "mesh_id": "mesh",
    "trust_domain": "example.org",
    "cluster_domain": "cluster.local",
    "namespace": "istio-system",
    "revision": "default",
    "ca_address": "istiod.istio-system.svc:15012",
}

# Read by the template, but left to those who write values of their own.
OPTIONAL = {"global.nativeNftables", "global.proxy.lifecycle", "global.proxy.seccompProfile"}


def at(values: dict[str, Any], path: str) -> Any:
    found: Any = values
    for step in path.split("."):
        found = found[step]
    return found


def test_the_defaults_are_istios() -> None:
    values = injector_values(**MESH)
    assert at(values, "global.proxy.resources") == {
        "requests": {"cpu": "100m", "memory": "128Mi"},
        "limits": {"cpu": "2000m", "memory": "1Gi"},
    }
    assert at(values, "sidecarInjectorWebhook.rewriteAppHTTPProbe") is True
    assert at(values, "global.proxy.logLevel") == "warning"
    assert at(values, "global.proxy.componentLogLevel") == "misc:error"
    assert at(values, "global.logging.level") == "default:info"
    assert at(values, "global.proxy.holdApplicationUntilProxyStarts") is False
    assert at(values, "pilot.cni.enabled") is False
    assert at(values, "global.proxy.image") == "proxyv2"


@pytest.mark.parametrize(
    ("argument", "value", "path"),
    [
        ("hub", "registry.example", "global.hub"),
        ("tag", "1.30.3", "global.tag"),
        ("image_pull_policy", "Always", "global.imagePullPolicy"),
        ("image_pull_secrets", ["pull"], "global.imagePullSecrets"),
        ("cluster_name", "west", "global.multiCluster.clusterName"),
        ("network", "", "global.network"),
        ("mesh_id", "other", "global.meshID"),
        ("trust_domain", "other.org", "global.trustDomain"),
        ("cluster_domain", "example.internal", "global.proxy.clusterDomain"),
        ("namespace", "mesh", "global.istioNamespace"),
        ("revision", "canary", "revision"),
        ("ca_address", "issuer.example:443", "global.caAddress"),
        ("hold_application", True, "global.proxy.holdApplicationUntilProxyStarts"),
        ("proxy_resources", {}, "global.proxy.resources"),
        ("proxy_resources", {"requests": {"cpu": "1"}}, "global.proxy.resources"),
        ("proxy_log_level", "debug", "global.proxy.logLevel"),
        ("proxy_component_log_level", "jwt:debug", "global.proxy.componentLogLevel"),
        ("agent_log_level", "default:debug", "global.logging.level"),
        ("cni_enabled", True, "pilot.cni.enabled"),
    ],
)
def test_every_argument_reaches_its_place_and_no_other(argument: str, value: Any, path: str) -> None:
    before, after = injector_values(**MESH), injector_values(**{**MESH, argument: value})
    assert at(after, path) == value
    *parents, last = path.split(".")
    at_parent = at(before, ".".join(parents)) if parents else before
    at_parent[last] = value
    assert before == after


def test_values_are_json_and_share_nothing() -> None:
    first, second = injector_values(**MESH), injector_values(**MESH)
    assert json.loads(json.dumps(first)) == first
    first["global"]["proxy"]["resources"]["requests"]["cpu"] = "9"
    assert at(second, "global.proxy.resources.requests.cpu") == "100m"
    assert at(injector_values(**MESH), "global.proxy.resources.requests.cpu") == "100m"


def test_the_template_reads_no_path_that_the_values_lack() -> None:
    template = TEMPLATE.read_text()
    read = {f"global.{name}" for name in re.findall(r"\.Values\.global\.(\w+)", template)} - {"global.proxy"}
    read |= {f"global.proxy.{name}" for name in re.findall(r"\$proxy\.(\w+)", template)}
    for keys, root in re.findall(
        r'dig ((?:"\w+" )+)(?:"[^"]*"|\w+) (\$proxy|\.Values\.global|\(\.Values\.pilot)', template
    ):
        prefix = {"$proxy": "global.proxy", ".Values.global": "global", "(.Values.pilot": "pilot"}[root]
        # The last quoted word may be the default.
        read.add(".".join([prefix, *re.findall(r'"(\w+)"', keys)]))
    values = injector_values(**MESH)
    for path in sorted(read - OPTIONAL):
        assert at(values, path) is not None, path
    assert len(read) > 20
