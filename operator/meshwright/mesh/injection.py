"""The values that istiod hands to the injection templates as `.Values`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Resources = Mapping[str, Mapping[str, str]]

# Istio's own defaults, so that a mesh taken over from Istio's installer keeps its proxies as they were.
PROXY_RESOURCES: Resources = {
    "requests": {"cpu": "100m", "memory": "128Mi"},
    "limits": {"cpu": "2000m", "memory": "1Gi"},
}


def injector_values(
    *,
    hub: str,
    tag: str,
    image_pull_policy: str,
    cluster_name: str,
    network: str,
    mesh_id: str,
    trust_domain: str,
    cluster_domain: str,
    namespace: str,
    revision: str,
    ca_address: str,
    hold_application: bool = False,
    proxy_resources: Resources | None = None,
    proxy_log_level: str = "warning",
    proxy_component_log_level: str = "misc:error",
    agent_log_level: str = "default:info",
    image_pull_secrets: Sequence[str] = (),
    cni_enabled: bool = False,
) -> dict[str, Any]:
    """The key `values` of the injector's ConfigMap: JSON types only, in the layout that Istio's charts use.

    Users' own templates rely on that layout; ours reads a part of it (`templates/injection/sidecar.tpl`) and
    takes the rest from the mesh config. `cluster_name` must be istiod's `CLUSTER_ID`; an empty `network` is
    the mesh's only one; `proxy_resources` of None means Istio's own, of `{}` neither requests nor limits.
    """
    resources = PROXY_RESOURCES if proxy_resources is None else proxy_resources
    return {
        "revision": revision,
        "global": {
            "hub": hub,
            "tag": tag,
            "imagePullPolicy": image_pull_policy,
            "imagePullSecrets": list(image_pull_secrets),
            "istioNamespace": namespace,
            "caAddress": ca_address,
            "pilotCertProvider": "istiod",
            "meshID": mesh_id,
            "trustDomain": trust_domain,
            "network": network,
            "multiCluster": {"clusterName": cluster_name},
            "logging": {"level": agent_log_level},
            "logAsJson": False,
            "proxy": {
                "image": "proxyv2",
                "clusterDomain": cluster_domain,
                "logLevel": proxy_log_level,
                "componentLogLevel": proxy_component_log_level,
                "holdApplicationUntilProxyStarts": hold_application,
                "resources": {kind: dict(quantities) for kind, quantities in resources.items()},
                "includeIPRanges": "*",
                "excludeIPRanges": "",
                "includeInboundPorts": "*",
                "excludeInboundPorts": "",
                "includeOutboundPorts": "",
                "excludeOutboundPorts": "",
                "startupProbe": {"enabled": True, "failureThreshold": 600},
                "readinessInitialDelaySeconds": 0,
                "readinessPeriodSeconds": 15,
                "readinessFailureThreshold": 4,
            },
            "proxy_init": {"image": "proxyv2"},
        },
        "pilot": {"cni": {"enabled": cni_enabled}, "env": {}},
        "gateways": {},
        # istioctl analyze reads the first and panics without it.
        "sidecarInjectorWebhook": {"enableNamespacesByDefault": False, "rewriteAppHTTPProbe": True},
    }
