"""The values that istiod hands to the injection templates as `.Values`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Resources = Mapping[str, Mapping[str, str]]


def injector_values(
    *,
    hub: str,
    tag: str,
    image_pull_policy: str,
    image_pull_secrets: Sequence[str],
    cluster_name: str,
    network: str,
    mesh_id: str,
    trust_domain: str,
    cluster_domain: str,
    namespace: str,
    revision: str,
    ca_address: str,
    hold_application: bool,
    proxy_resources: Resources,
    proxy_log_level: str,
    cni_enabled: bool,
) -> dict[str, Any]:
    """The key `values` of the injector's ConfigMap: JSON types only, in the layout that Istio's charts use.

    Users' own templates rely on that layout; ours (`templates/injection/`) read a part of it and take the rest
    from the mesh config. `cluster_name` must be istiod's `CLUSTER_ID`; an empty `network` is the mesh's only one.
    """
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
            "logging": {"level": "default:info"},
            "logAsJson": False,
            "proxy": {
                "image": "proxyv2",
                "clusterDomain": cluster_domain,
                "logLevel": proxy_log_level,
                "componentLogLevel": "misc:error",
                "holdApplicationUntilProxyStarts": hold_application,
                "resources": {kind: dict(quantities) for kind, quantities in proxy_resources.items()},
                # Without an init container that needs privileges, pods may be as restricted as Pod Security knows.
                "seccompProfile": {"type": "RuntimeDefault"} if cni_enabled else {},
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
