"""What the data plane and its observability mean for istiod's environment and the mesh config."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from meshes import mesh
from meshwright.mesh import meshschema
from meshwright.mesh.dataplane import as_proto, istiod_env, mesh_config, proxy_metadata, seconds

Json = dict[str, Any]

DEFAULT = {"defaultConfig": {"proxyMetadata": {"ISTIO_DELTA_XDS": "true"}}}


@pytest.mark.parametrize(
    ("plane", "env"),
    [
        ({}, {}),
        ({"sidecar": {"nativeSidecars": "Auto"}}, {}),
        ({"sidecar": {"nativeSidecars": "Enabled"}}, {"ENABLE_NATIVE_SIDECARS": "true"}),
        ({"sidecar": {"nativeSidecars": "Disabled"}}, {"ENABLE_NATIVE_SIDECARS": "false"}),
        ({"certificateTTL": "2h"}, {"DEFAULT_WORKLOAD_CERT_TTL": "2h"}),
    ],
)
def test_istiods_environment(plane: Json, env: dict[str, str]) -> None:
    assert istiod_env(mesh(dataPlane=plane).spec) == env


@pytest.mark.parametrize(
    ("plane", "metadata"),
    [
        ({}, {"ISTIO_DELTA_XDS": "true"}),
        ({"deltaXDS": False}, {"ISTIO_DELTA_XDS": "false"}),
        ({"certificateTTL": "90m"}, {"ISTIO_DELTA_XDS": "true", "SECRET_TTL": "90m"}),
        ({"certificateRenewalRatio": 0.5}, {"ISTIO_DELTA_XDS": "true", "SECRET_GRACE_PERIOD_RATIO": "0.5"}),
        ({"certificateRenewalRatio": 0.05}, {"ISTIO_DELTA_XDS": "true", "SECRET_GRACE_PERIOD_RATIO": "0.05"}),
    ],
)
def test_the_metadata_of_proxies(plane: Json, metadata: dict[str, str]) -> None:
    assert proxy_metadata(mesh(dataPlane=plane).spec) == metadata


OTLP: Json = {"otlp": {"service": "jaeger.tracing", "port": 4317}}
IDLE: Json = {"idleTimeout": "90s"}

CONFIGS: list[tuple[Json, Json]] = [
    ({}, {}),
    ({"dataPlane": {"idleTimeout": "1m30s"}},
     {"defaultTrafficPolicy": {"connectionPool": {"http": IDLE, "tcp": IDLE}}}),
    ({"dataPlane": {"dnsRefreshRate": "500ms"}}, {"dnsRefreshRate": "0.5s"}),
    ({"observability": {"accessLog": True}}, {"accessLogFile": "/dev/stdout", "accessLogEncoding": "JSON"}),
    ({"observability": {"prometheus": False}}, {}),  # a default of the mesh config, see test_mesh_meshconfig
]  # fmt: skip


@pytest.mark.parametrize(("spec", "more"), CONFIGS)
def test_what_follows_for_the_mesh_config(spec: Json, more: Json) -> None:
    assert mesh_config(mesh(**spec).spec) == DEFAULT | more


@pytest.mark.parametrize(
    ("given", "sampling"), [({}, 1.0), ({"samplingPercent": 0}, 0.0), ({"samplingPercent": 12.5}, 12.5)]
)
def test_traces_go_to_the_collector_and_so_many_of_them(given: Json, sampling: float) -> None:
    found = mesh_config(mesh(observability={"tracing": {**OTLP, **given}}).spec)
    assert found == {
        "defaultConfig": {"proxyMetadata": {"ISTIO_DELTA_XDS": "true"}, "tracing": {"sampling": sampling}},
        "extensionProviders": [
            {"name": "meshwright-otlp", "opentelemetry": {"service": "jaeger.tracing", "port": 4317}},
        ],
        "defaultProviders": {"tracing": ["meshwright-otlp"]},
    }  # fmt: skip


@pytest.mark.parametrize("spec", [*(spec for spec, _ in CONFIGS), {"observability": {"tracing": OTLP}}])
def test_what_we_write_is_what_istio_knows(spec: Json) -> None:
    assert meshschema.problems(mesh_config(mesh(**spec).spec), minor=(1, 31)) == []


@pytest.mark.parametrize(
    ("duration", "value", "proto"),
    [
        ("1h", "3600", "3600s"), ("1h30m", "5400", "5400s"), ("0.5h", "1800", "1800s"), ("90s", "90", "90s"),
        ("1ms", "1/1000", "0.001s"), ("1h1m1s1ms", "3661001/1000", "3661.001s"), ("1.5s", "3/2", "1.5s"),
        ("250ms", "1/4", "0.25s"), ("0s", "0", "0s"), ("1m500ms", "121/2", "60.5s"),
        ("0.000001ms", "1/1000000000", "0.000000001s"),
    ],
)  # fmt: skip
def test_durations_are_gos_on_one_side_and_protobufs_on_the_other(duration: str, value: str, proto: str) -> None:
    assert seconds(duration) == Fraction(value)
    assert as_proto(duration) == proto
