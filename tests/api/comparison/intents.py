"""What is compared: one intent, said to Meshwright and to istioctl."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from meshes import VERSION

Json = dict[str, Any]
REGISTRY = "registry.example.com/istio"
ACCESS_LOG: Json = {"accessLogFile": "/dev/stdout", "accessLogEncoding": "JSON"}


@dataclass(frozen=True)
class Intent:
    """`counterparts` are objects that each side calls by another name: theirs → ours."""

    name: str
    mesh: Json = field(default_factory=dict)  # the spec of a MeshInstall
    istio: Json = field(default_factory=dict)  # the spec of an IstioOperator
    counterparts: dict[str, str] = field(default_factory=dict)

    def operator(self) -> Json:
        """The IstioOperator in whole: version and registry are what Meshwright takes by default."""
        usual = {"profile": "minimal", "hub": "docker.io/istio", "tag": VERSION}
        return {"apiVersion": "install.istio.io/v1alpha1", "kind": "IstioOperator", "spec": {**usual, **self.istio}}


def gateway_counterparts(*names: str) -> dict[str, str]:
    pairs = {}
    for name in names:
        pairs[f"ServiceAccount istio-system/{name}-service-account"] = f"ServiceAccount istio-system/{name}"
        pairs[f"Role istio-system/{name}-sds"] = f"Role istio-system/{name}"
        pairs[f"RoleBinding istio-system/{name}-sds"] = f"RoleBinding istio-system/{name}"
    return pairs


INTENTS = (
    Intent("quick start"),
    Intent("revision", mesh={"revision": "canary"}, istio={"revision": "canary"}),
    Intent(
        "production",
        mesh={
            "clusterName": "eu-west",
            "meshID": "shop",
            "trustDomain": "shop.example.com",
            "mtls": "Strict",
            "controlPlane": {"size": "Medium", "autoscaling": {"minReplicas": 3, "maxReplicas": 9}},
            "meshConfig": ACCESS_LOG,
        },
        istio={
            "meshConfig": {"trustDomain": "shop.example.com", **ACCESS_LOG},
            "values": {
                "global": {"meshID": "shop", "multiCluster": {"clusterName": "eu-west"}},
                "pilot": {
                    "autoscaleMin": 3,
                    "autoscaleMax": 9,
                    "resources": {"requests": {"cpu": "1", "memory": "8Gi"}, "limits": {"cpu": "4", "memory": "8Gi"}},
                },
            },
        },
    ),
    Intent("cni", mesh={"dataPlane": {"cni": "Enabled"}},
           istio={"components": {"cni": {"enabled": True, "namespace": "istio-system"}}}),
    Intent(
        "gateways",
        mesh={"gateways": [
            {"name": "istio-ingressgateway", "type": "Ingress"},
            {"name": "istio-egressgateway", "type": "Egress"},
        ]},
        istio={
            "profile": "default",
            "components": {"egressGateways": [{"name": "istio-egressgateway", "enabled": True}]},
        },
        counterparts=gateway_counterparts("istio-ingressgateway", "istio-egressgateway"),
    ),
    Intent(
        "observability",
        mesh={"observability": {
            "tracing": {"otlp": {"service": "jaeger.tracing.svc.cluster.local"}, "samplingPercent": 5},
            "accessLog": True,
        }},
        istio={"meshConfig": {
            "extensionProviders": [{
                "name": "meshwright-otlp",
                "opentelemetry": {"service": "jaeger.tracing.svc.cluster.local", "port": 4317},
            }],
            "defaultProviders": {"tracing": ["meshwright-otlp"]},
            "defaultConfig": {"tracing": {"sampling": 5}},
            **ACCESS_LOG,
        }},
    ),
    Intent(
        "registry",
        mesh={
            "controlPlane": {"image": {"hub": REGISTRY, "pullPolicy": "Always"}},
            "dataPlane": {
                "imagePullSecrets": ["pull"],
                "sidecar": {
                    "holdApplicationUntilProxyStarts": True,
                    "nativeSidecars": "Disabled",
                    "logLevel": "error",
                    "resources": {"requests": {"cpu": "50m"}},
                },
            },
        },
        istio={"hub": REGISTRY, "values": {
            "global": {
                "imagePullPolicy": "Always",
                "imagePullSecrets": ["pull"],
                "proxy": {
                    "holdApplicationUntilProxyStarts": True,
                    "logLevel": "error",
                    "resources": {"requests": {"cpu": "50m"}},
                },
            },
            "pilot": {"env": {"ENABLE_NATIVE_SIDECARS": "false"}},
        }},
    ),
)  # fmt: skip
