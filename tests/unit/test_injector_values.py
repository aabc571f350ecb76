"""The injector's values: Istio's layout and defaults, and every path that the templates read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from meshwright.mesh.injection import injector_values

TEMPLATES = sorted((Path(__file__).parents[2] / "templates/injection").glob("*.tpl"))

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
    "image_pull_secrets": [],
    "hold_application": False,
    "proxy_resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": "2000m", "memory": "1Gi"}},
    "proxy_log_level": "warning",
    "cni_enabled": False,
}

# Read by the template, but left to those who write values of their own.
OPTIONAL = {"global.nativeNftables", "global.proxy.lifecycle"}


MINIMUM = 15  # paths that each template reads; fewer, and the test has lost sight of them


def at(values: dict[str, Any], path: str) -> Any:
    found: Any = values
    for step in path.split("."):
        found = found[step]
    return found


def test_what_nobody_chooses_is_istios_default() -> None:
    values = injector_values(**MESH)
    assert at(values, "sidecarInjectorWebhook.rewriteAppHTTPProbe") is True
    assert at(values, "global.proxy.componentLogLevel") == "misc:error"
    assert at(values, "global.logging.level") == "default:info"
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
    ],
)
def test_every_argument_reaches_its_place_and_no_other(argument: str, value: Any, path: str) -> None:
    before, after = injector_values(**MESH), injector_values(**{**MESH, argument: value})
    assert at(after, path) == value
    *parents, last = path.split(".")
    at_parent = at(before, ".".join(parents)) if parents else before
    at_parent[last] = value
    assert before == after


def test_with_cni_the_proxies_are_restricted_too() -> None:
    values = injector_values(**{**MESH, "cni_enabled": True})
    assert at(values, "pilot.cni.enabled") is True
    assert at(values, "global.proxy.seccompProfile") == {"type": "RuntimeDefault"}
    values["pilot"]["cni"]["enabled"] = False
    values["global"]["proxy"]["seccompProfile"] = {}
    assert values == injector_values(**MESH)


def test_values_are_json_and_share_nothing() -> None:
    first, second = injector_values(**MESH), injector_values(**MESH)
    assert json.loads(json.dumps(first)) == first
    first["global"]["proxy"]["resources"]["requests"]["cpu"] = "9"
    assert at(second, "global.proxy.resources.requests.cpu") == "100m"
    assert at(injector_values(**MESH), "global.proxy.resources.requests.cpu") == "100m"


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_a_template_reads_no_path_that_the_values_lack(template: Path) -> None:
    text = template.read_text()
    read = {f"global.{name}" for name in re.findall(r"\.Values\.global\.(\w+)", text)} - {"global.proxy"}
    read |= {f"global.proxy.{name}" for name in re.findall(r"\$proxy\.(\w+)", text)}
    for keys, root in re.findall(
        r'dig ((?:"\w+" )+)(?:"[^"]*"|[.\w]+) (\$proxy|\.Values\.global|\(\.Values\.pilot)', text
    ):
        prefix = {"$proxy": "global.proxy", ".Values.global": "global", "(.Values.pilot": "pilot"}[root]
        # The last quoted word may be the default.
        read.add(".".join([prefix, *re.findall(r'"(\w+)"', keys)]))
    values = injector_values(**MESH)
    for path in sorted(read - OPTIONAL):
        assert at(values, path) is not None, path
    assert len(read) >= MINIMUM


# What istiod's templates may call and read in 1.29, 1.30 and 1.31: an unknown function keeps istiod from starting, an
# unknown field fails each injection.
WORDS = {"if", "else", "end", "range", "with", "define", "template", "true", "false"}
GO = {"and", "eq", "index", "ne", "not", "or", "print", "printf"}
SPRIG = {
    "append", "atoi", "concat", "default", "dict", "dig", "fail", "first", "fromJson", "has", "int", "join", "kindIs",
    "list", "merge", "mustFromJson", "quote", "regexMatch", "set", "ternary", "toJson", "trim", "trimAll", "trunc",
    "unset",
}  # fmt: skip
ISTIO = {"annotation", "env", "excludeInboundPort", "mergeMaps", "omit", "protoToJSON", "strdict", "toLower"}
COMMON = {"MeshConfig", "ObjectMeta", "ProxyConfig", "ProxyGID", "ProxyImage", "ProxyUID", "Revision", "Spec", "Values"}
POD = COMMON | {"CompliancePolicy", "DeploymentMeta", "InboundTrafficPolicyMode", "NativeSidecars", "TypeMeta"}
GATEWAY = COMMON | {
    "ClusterID", "DeploymentName", "GatewayClass", "GatewayNameLabel", "InfrastructureAnnotations",
    "InfrastructureLabels", "Name", "Namespace", "Ports", "ServiceAccount", "ServiceType", "UID",
}  # fmt: skip
KUBERNETES = {  # of containers, security contexts and ports, which templates walk through
    "AppProtocol", "Image", "Name", "Port", "Ports", "Protocol", "RunAsUser", "SeccompProfile", "SecurityContext",
    "Sysctls",
}  # fmt: skip


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_a_template_uses_only_what_every_supported_minor_has(template: Path) -> None:
    text = re.sub(r"\{\{-? /\*.*?\*/ ?-?\}\}", "", template.read_text(), flags=re.DOTALL)
    actions = [re.sub(r'"(\\.|[^"\\])*"|`[^`]*`', "", each) for each in re.findall(r"\{\{(.*?)\}\}", text, re.DOTALL)]
    words = {word for each in actions for word in re.findall(r"(?<![.$\w])[a-zA-Z_]\w*", each)}
    fields = {field for each in actions for field in re.findall(r"(?<![\w).])\.(\w+)", each)}
    assert words <= WORDS | GO | SPRIG | ISTIO
    assert fields <= (GATEWAY if template.stem == "kube-gateway" else POD) | KUBERNETES
    assert {"annotation", "quote"} <= words


def test_there_is_a_template_for_each_way_to_a_proxy() -> None:
    assert [path.stem for path in TEMPLATES] == ["gateway", "kube-gateway", "sidecar"]
