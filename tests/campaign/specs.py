"""Random specs of a MeshInstall: valid ones, over all fields, and what is needed to change one into the next."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from api.world import Json

CPUS = ("250m", "0.5", 1, "1500m", "2")  # rising, and none above a size's own
MEMORIES = ("512Mi", "1Gi", 2147483648, "3Gi", "4Gi")
TEXTS = (
    "", "x", "yes", "1e3", "null", "~", "%START_TIME%", "a: b # c", "{{ 7 * 7 }} {% raw %}", 'x"}\n---\nkind: Secret',
    "$(POD_NAME) ${HOME}", "\u2028 ü 日本 🦀", "- a\n- b\n", " lead and trail ", "0x1F", "2026-01-01",
)  # fmt: skip
ENV = ("PILOT_TRACE_SAMPLING", "PILOT_ENABLE_STATUS", "A", "_Z9", "PILOT_DEBOUNCE_AFTER", "b", "HTTP_PROXY", "LAST")

Pick = Callable[[random.Random], Any]


def identity(rng: random.Random) -> Json:
    """What is immutable."""
    return {
        "clusterName": rng.choice((None, "east", "c-1")),
        "meshID": rng.choice((None, "mesh-one", "a.b.example")),
        "trustDomain": rng.choice((None, "one.example", "td")),
    }


def any_text(rng: random.Random) -> str:
    return rng.choice(TEXTS)


def resources(rng: random.Random) -> Json | None:
    if rng.random() < 0.3:
        return None
    found: Json = {"requests": {}, "limits": {}}
    for name, values in (("cpu", CPUS), ("memory", MEMORIES)):
        limit = rng.randrange(len(values))
        if rng.random() < 0.5:
            found["limits"][name] = values[limit]
        if rng.random() < 0.5:
            found["requests"][name] = values[rng.randint(0, limit)]
    return found


def image(rng: random.Random) -> Json | None:
    choices: dict[str, tuple[Any, ...]] = {
        "hub": ("docker.io/istio", "registry.example:5000/mirror/istio", "gcr.io/x"),
        "tag": ("1.31.4-distroless", "latest", "my_tag.7"),
        "pullPolicy": ("Always", "IfNotPresent", "Never"),
    }
    return {name: rng.choice(values) for name, values in choices.items() if rng.random() < 0.5} or None


def env(rng: random.Random) -> Json:
    names = rng.sample(ENV, rng.randint(0, 5))
    return {name: any_text(rng) for name in names}


def mesh_config(rng: random.Random) -> Json:
    choices: dict[str, Pick] = {
        "accessLogFile": lambda rng: rng.choice(("/dev/stdout", "")),
        "accessLogFormat": any_text,
        "enablePrometheusMerge": lambda rng: rng.random() < 0.5,
        "outboundTrafficPolicy": lambda rng: {"mode": rng.choice(("ALLOW_ANY", "REGISTRY_ONLY"))},
        "defaultProviders": lambda rng: {
            rng.choice(("metrics", "accessLogging")): ["prometheus", "x"][: rng.randint(0, 2)]
        },
        "defaultConfig": lambda rng: {
            "concurrency": rng.randint(0, 4),
            "proxyMetadata": {name: any_text(rng) for name in rng.sample(ENV, rng.randint(0, 2))},
        },
        "extensionProviders": lambda rng: [
            {"name": f"provider-{number}", "zipkin": {"service": "zipkin", "port": 9411}}
            for number in range(rng.randint(0, 3))
        ],
    }
    names = [name for name in choices if rng.random() < 0.35]
    return {name: choices[name](rng) for name in names}


def budget(rng: random.Random) -> Json | None:
    return rng.choice((None, {"maxUnavailable": 2}, {"minAvailable": 1}))


def data_plane(rng: random.Random) -> Json | None:
    choices: dict[str, Pick] = {
        "sidecar": lambda rng: {
            "resources": rng.choice(({}, {"limits": {"memory": "512Mi"}}, {"requests": {"cpu": "250m"}})),
            "holdApplicationUntilProxyStarts": rng.random() < 0.5,
            "nativeSidecars": rng.choice(("Auto", "Enabled", "Disabled")),
            "logLevel": rng.choice(("warning", "debug")),
        },
        "imagePullSecrets": lambda rng: ["one", "two.example"][: rng.randint(0, 2)],
        "deltaXDS": lambda rng: rng.random() < 0.5,
        "certificateTTL": lambda rng: rng.choice(("12h", "24h", "1h30m")),
        "certificateRenewalRatio": lambda rng: rng.choice((0.2, 0.5)),
        "idleTimeout": lambda rng: rng.choice(("90s", "2h")),
        "dnsRefreshRate": lambda rng: rng.choice(("500ms", "30s")),
    }
    return {name: choices[name](rng) for name in choices if rng.random() < 0.3} or None


def observability(rng: random.Random) -> Json | None:
    tracing = {"otlp": {"service": "jaeger.example", "port": 4317}, "samplingPercent": rng.choice((0, 0.5, 100))}
    choices = {"prometheus": rng.random() < 0.5, "tracing": tracing}
    return {name: value for name, value in choices.items() if rng.random() < 0.4} or None


def gateways(rng: random.Random) -> list[Json]:
    """With addresses that every mesh has alike: the ports of nodes are the cluster's to give."""
    ports = [{"name": "https", "port": 443, "targetPort": 8443}, {"name": "tcp", "port": 31400}]
    autoscaled: Json = {"name": "ingress", "service": {"type": "ClusterIP", "ports": ports[: rng.randint(1, 2)]}}
    declared: Json = {
        "name": "istio-egress", "type": "Egress", "autoscaling": {"enabled": False}, "replicas": rng.randint(2, 4),
        "podDisruptionBudget": budget(rng) or {}, "labels": rng.choice(({}, {"team": "edge"})),
        "service": {"annotations": rng.choice(({}, {"example.com/note": any_text(rng)}))},
    }  # fmt: skip
    return rng.sample([autoscaled, declared], rng.randint(0, 2))


FIELDS: dict[tuple[str, ...], Pick] = {
    ("version",): lambda rng: rng.choice(("1.31.0", "1.31.3", "1.31.4", "1.31.12")),
    ("mtls",): lambda rng: rng.choice((None, "Permissive", "Strict")),
    ("trust",): lambda rng: rng.choice((None, {"deletionPolicy": "Retain"}, {"deletionPolicy": "Delete"})),
    ("meshConfig",): mesh_config,
    ("controlPlane", "size"): lambda rng: rng.choice(("Small", "Medium", "Large")),
    ("controlPlane", "image"): image,
    ("controlPlane", "resources"): resources,
    ("controlPlane", "env"): env,
    ("controlPlane", "podDisruptionBudget"): budget,
    ("controlPlane", "priorityClassName"): lambda rng: rng.choice((None, "system-node-critical")),
    ("dataPlane",): data_plane,
    ("observability",): observability,
    ("gateways",): gateways,
}


def valid(rng: random.Random, own: Json) -> Json:
    # Somebody else's autoscaler comes and goes on the way; with one of our own, no replicas would be declared.
    spec: Json = {**own, "controlPlane": {"autoscaling": {"enabled": False}}}
    for path, pick in FIELDS.items():
        spec = with_field(spec, path, pick(rng))
    return spec


def next_to(rng: random.Random, spec: Json) -> Json:
    """Another valid spec: one field or two are changed, or now and then all that can be."""
    paths = list(FIELDS)
    for path in paths if rng.random() < 0.1 else rng.sample(paths, rng.randint(1, 2)):
        spec = with_field(spec, path, FIELDS[path](rng))
    return spec


def with_field(spec: Json, path: tuple[str, ...], value: Any) -> Json:
    name, *rest = path
    below = with_field(spec.get(name) or {}, tuple(rest), value) if rest else value
    kept = {key: each for key, each in spec.items() if key != name}
    return kept if below is None else {**kept, name: below}


REPLICAS = {"Small": 2, "Medium": 3, "Large": 5}


def replicas(spec: Json) -> int:
    """Those that the size asks for: the documented table."""
    return REPLICAS[spec["controlPlane"].get("size", "Small")]
