"""The MeshConfig that istiod reads: what the user wrote, and what follows from the rest of the MeshInstall."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from meshwright.api.meshinstall import ControlPlaneStatus, MeshSpec
from meshwright.mesh import dataplane, locality
from meshwright.mesh.names import Names

PROVIDERS = "extensionProviders"
# Of both sides, so that a lost istiod is found out after 15 s instead of 40. istiod refuses proxies that ping it more
# than twice in its own interval, so it has to have these first.
KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT = "10s", "5s"
PROXY_KEEPALIVE = {"GRPC_KEEPALIVE_INTERVAL": KEEPALIVE_INTERVAL, "GRPC_KEEPALIVE_TIMEOUT": KEEPALIVE_TIMEOUT}
KEEPALIVE = f"{KEEPALIVE_INTERVAL}/{KEEPALIVE_TIMEOUT}"


def bears_keepalive(before: ControlPlaneStatus) -> bool:
    """Whether proxies may ping as often as ours do: not while an istiod of before runs that would cut them off."""
    return before.resources is None or before.keepalive == KEEPALIVE


def defaults(spec: MeshSpec, *, keepalive: bool = True) -> dict[str, Any]:
    """Istio's own defaults for a fresh mesh (what its charts write), and keepalives; below the user's values."""
    metrics = ["prometheus"] if spec.observability.prometheus else []
    config: dict[str, Any] = {"defaultProviders": {"metrics": metrics}, "enablePrometheusMerge": True}
    return config | ({"defaultConfig": {"proxyMetadata": PROXY_KEEPALIVE}} if keepalive else {})


def computed(spec: MeshSpec) -> dict[str, Any]:
    """What follows from other fields of the MeshInstall, but for the providers, of which a user may have more."""
    names = Names(spec.namespace, spec.revision)
    identity = {
        "trustDomain": spec.trust_domain,
        "rootNamespace": spec.namespace,
        "defaultConfig": {
            "discoveryAddress": names.discovery_address,
            "meshId": spec.mesh_id or spec.trust_domain,
            # Proxies take further roots from istiod while they run. They get this when they are injected, so it must be
            # there long before the day on which a root is rotated.
            "proxyMetadata": {"PROXY_CONFIG_XDS_AGENT": "true"},
        },
    }
    components = merge(dataplane.mesh_config(spec), locality.mesh_config(spec))
    return merge(identity, {key: value for key, value in components.items() if key != PROVIDERS})


def mesh_config(spec: MeshSpec, *, keepalive: bool = True) -> dict[str, Any]:
    """`keepalive`: whether every istiod bears that proxies ping it as often as ours do."""
    config = merge(merge(defaults(spec, keepalive=keepalive), spec.mesh_config), computed(spec))
    if ours := dataplane.mesh_config(spec).get(PROVIDERS):
        config[PROVIDERS] = [*spec.mesh_config.get(PROVIDERS, ()), *ours]
    return config


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Maps are merged key by key; anything else of `above` replaces what is below, lists included."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = merge(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return merged


def computed_keys(spec: MeshSpec) -> list[str]:
    """Paths in the user's meshConfig that follow from other fields, so that they cannot be set there."""
    found = [f"spec.meshConfig.{path}" for path in _common(computed(spec), spec.mesh_config)]
    ours = {each["name"] for each in dataplane.mesh_config(spec).get(PROVIDERS, ())}
    theirs = spec.mesh_config.get(PROVIDERS)
    for number, each in enumerate(theirs if isinstance(theirs, list) else ()):
        if isinstance(each, dict) and each.get("name") in ours:
            found.append(f"spec.meshConfig.{PROVIDERS}[{number}] ({each['name']})")
    return found


def _common(ours: dict[str, Any], theirs: Any) -> Iterator[str]:
    if not isinstance(theirs, dict):
        return
    for key, value in ours.items():
        if key not in theirs:
            continue
        if isinstance(value, dict) and isinstance(theirs[key], dict):
            yield from (f"{key}.{rest}" for rest in _common(value, theirs[key]))
        else:
            yield key


def misspelt_keys(spec: MeshSpec) -> list[tuple[str, str]]:
    """Keys of the user's meshConfig that Istio reads as ours in another spelling, with ours: one of the two is lost."""
    all_ours = merge(defaults(spec), computed(spec))
    return [(f"spec.meshConfig.{path}", ours) for path, ours in _misspelt(all_ours, spec.mesh_config)]


def _misspelt(ours: dict[str, Any], theirs: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(theirs, dict):
        return
    for key, value in ours.items():
        if (spelling := _snake(key)) != key and spelling in theirs:
            yield spelling, key
        if isinstance(value, dict):
            yield from ((f"{key}.{path}", name) for path, name in _misspelt(value, theirs.get(key)))


def _snake(key: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in key)
