"""The MeshConfig: defaults below, the user's values above them, and what is computed above all."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from meshes import mesh
from meshwright.api.meshinstall import ControlPlaneStatus, Resources, Size
from meshwright.mesh.meshconfig import (
    KEEPALIVE,
    PROXY_KEEPALIVE,
    bears_keepalive,
    computed_keys,
    merge,
    mesh_config,
    misspelt_keys,
)
from meshwright.mesh.sizing import size_of

Json = dict[str, Any]


def test_a_fresh_mesh_has_istios_defaults_and_what_follows_from_the_spec() -> None:
    assert mesh_config(mesh().spec) == {
        "defaultProviders": {"metrics": ["prometheus"]},
        "enablePrometheusMerge": True,
        "trustDomain": "cluster.local",
        "rootNamespace": "istio-system",
        "defaultConfig": {
            "discoveryAddress": "istiod.istio-system.svc:15012",
            "meshId": "cluster.local",
            "proxyMetadata": {"PROXY_CONFIG_XDS_AGENT": "true", "ISTIO_DELTA_XDS": "true", **PROXY_KEEPALIVE},
        },
    }


def test_proxies_ping_often_once_every_istiod_bears_it() -> None:
    known = size_of(Size.SMALL, Resources()).share.resources
    before = ControlPlaneStatus(size=Size.SMALL, resources=known)  # of a Meshwright that knew nothing of it
    after = before.model_copy(update={"keepalive": KEEPALIVE})
    for status, pings in ((ControlPlaneStatus(), True), (before, False), (after, True)):
        found = mesh_config(mesh().spec, keepalive=bears_keepalive(status))["defaultConfig"]["proxyMetadata"]
        assert (found.items() >= PROXY_KEEPALIVE.items()) is pings


def test_how_often_a_proxy_pings_may_be_set() -> None:
    given = {"defaultConfig": {"proxyMetadata": {"GRPC_KEEPALIVE_INTERVAL": "20s"}}}
    found = mesh_config(mesh(meshConfig=given).spec)["defaultConfig"]["proxyMetadata"]
    assert found["GRPC_KEEPALIVE_INTERVAL"] == "20s"
    assert computed_keys(mesh(meshConfig=given).spec) == []


def test_what_is_computed_follows_its_fields() -> None:
    found = mesh_config(mesh(namespace="mesh", revision="canary", meshID="one", trustDomain="example.org").spec)
    assert found["trustDomain"] == "example.org"
    assert found["rootNamespace"] == "mesh"
    assert found["defaultConfig"]["discoveryAddress"] == "istiod-canary.mesh.svc:15012"
    assert found["defaultConfig"]["meshId"] == "one"


def test_what_is_computed_for_proxies_stands_beside_the_users() -> None:
    found = mesh_config(mesh(meshConfig={"defaultConfig": {"proxyMetadata": {"MINE": "1"}}}).spec)
    assert found["defaultConfig"]["proxyMetadata"] == {
        "MINE": "1", "PROXY_CONFIG_XDS_AGENT": "true", "ISTIO_DELTA_XDS": "true", **PROXY_KEEPALIVE,
    }  # fmt: skip


def test_without_metrics_no_provider_is_a_default() -> None:
    assert mesh_config(mesh(observability={"prometheus": False}).spec)["defaultProviders"] == {"metrics": []}


TRACING: Json = {"tracing": {"otlp": {"service": "collector.example"}}}


def test_our_provider_of_traces_stands_beside_the_users() -> None:
    theirs = [{"name": "mine", "zipkin": {"service": "z", "port": 1}}]
    found = mesh_config(mesh(observability=TRACING, meshConfig={"extensionProviders": theirs}).spec)
    assert found["extensionProviders"] == [
        *theirs, {"name": "meshwright-otlp", "opentelemetry": {"service": "collector.example", "port": 4317}},
    ]  # fmt: skip
    assert found["defaultProviders"] == {"metrics": ["prometheus"], "tracing": ["meshwright-otlp"]}


@pytest.mark.parametrize(
    ("spec", "given", "refused"),
    [
        ({}, {"defaultProviders": {"tracing": ["mine"]}, "extensionProviders": [{"name": "meshwright-otlp"}]}, []),
        ({"observability": TRACING}, {"defaultProviders": {"tracing": []}}, ["defaultProviders.tracing"]),
        ({"observability": TRACING}, {"extensionProviders": [{"name": "mine"}, {"name": "meshwright-otlp"}]},
         ["extensionProviders[1] (meshwright-otlp)"]),
        ({"observability": TRACING}, {"extensionProviders": "text"}, []),  # for the schema to say
        ({"observability": {"accessLog": True}}, {"accessLogFile": "x"}, ["accessLogFile"]),
        ({"dataPlane": {"dnsRefreshRate": "5s"}}, {"dnsRefreshRate": "1s"}, ["dnsRefreshRate"]),
        ({"dataPlane": {"idleTimeout": "5s"}},
         {"defaultTrafficPolicy": {"connectionPool": {"http": {"idleTimeout": "1s", "maxRetries": 1}}}},
         ["defaultTrafficPolicy.connectionPool.http.idleTimeout"]),
        ({}, {"dnsRefreshRate": "1s", "accessLogFile": "x"}, []),
        ({}, {"defaultConfig": {"proxyMetadata": {"ISTIO_DELTA_XDS": "false"}}},
         ["defaultConfig.proxyMetadata.ISTIO_DELTA_XDS"]),
        ({}, {"defaultConfig": {"proxyMetadata": {"SECRET_TTL": "1h"}}}, []),
        ({"dataPlane": {"certificateTTL": "1h"}}, {"defaultConfig": {"proxyMetadata": {"SECRET_TTL": "1h"}}},
         ["defaultConfig.proxyMetadata.SECRET_TTL"]),
    ],
)  # fmt: skip
def test_what_follows_from_another_field_that_is_set_cannot_be_set(spec: Json, given: Json, refused: list[str]) -> None:
    assert computed_keys(mesh(**spec, meshConfig=given).spec) == [f"spec.meshConfig.{path}" for path in refused]


@pytest.mark.parametrize(
    ("given", "path", "value"),
    [
        ({"accessLogFile": "/dev/stdout"}, ("accessLogFile",), "/dev/stdout"),
        ({"enablePrometheusMerge": False}, ("enablePrometheusMerge",), False),
        ({"defaultConfig": {"concurrency": 2}}, ("defaultConfig", "concurrency"), 2),
        ({"defaultProviders": {"metrics": []}}, ("defaultProviders", "metrics"), []),
        ({"defaultProviders": {"tracing": ["zipkin"]}}, ("defaultProviders", "tracing"), ["zipkin"]),
        ({"defaultProviders": {"tracing": ["zipkin"]}}, ("defaultProviders", "metrics"), ["prometheus"]),
        ({"defaultConfig": {"concurrency": 2}}, ("defaultConfig", "meshId"), "cluster.local"),
        ({"inNoVersionYet": {"deep": [1, {"a": None}]}}, ("inNoVersionYet", "deep"), [1, {"a": None}]),
    ],
)
def test_the_users_values_lie_above_the_defaults(given: Json, path: tuple[str, ...], value: Any) -> None:
    found: Any = mesh_config(mesh(meshConfig=given).spec)
    for step in path:
        found = found[step]
    assert found == value


@pytest.mark.parametrize(
    ("below", "above", "merged"),
    [
        ({}, {}, {}),
        ({"a": 1}, {}, {"a": 1}),
        ({"a": 1}, {"a": 2}, {"a": 2}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 3, "d": 4}}, {"a": {"b": 1, "c": 3, "d": 4}}),
        ({"a": {"b": 1}}, {"a": "text"}, {"a": "text"}),
        ({"a": "text"}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        ({"a": {"b": 1}}, {"a": None}, {"a": None}),
    ],
)
def test_merge(below: Json, above: Json, merged: Json) -> None:
    before = copy.deepcopy((below, above))
    assert merge(below, above) == merged
    assert (below, above) == before


@pytest.mark.parametrize(
    ("given", "refused"),
    [
        ({}, []),
        ({"accessLogFile": "x", "defaultConfig": {"concurrency": 2}}, []),
        ({"trustDomain": "cluster.local"}, ["spec.meshConfig.trustDomain"]),
        ({"rootNamespace": None}, ["spec.meshConfig.rootNamespace"]),
        ({"defaultConfig": {"meshId": "x"}}, ["spec.meshConfig.defaultConfig.meshId"]),
        ({"defaultConfig": {"discoveryAddress": "x"}}, ["spec.meshConfig.defaultConfig.discoveryAddress"]),
        ({"defaultConfig": "text"}, ["spec.meshConfig.defaultConfig"]),
        ({"defaultConfig": {"trustDomain": "not this one"}}, []),
        ({"defaultConfig": {"proxyMetadata": {"MINE": "1"}}}, []),
        (
            {"defaultConfig": {"proxyMetadata": {"PROXY_CONFIG_XDS_AGENT": "true"}}},
            ["spec.meshConfig.defaultConfig.proxyMetadata.PROXY_CONFIG_XDS_AGENT"],
        ),
        ({"defaultConfig": {"proxyMetadata": None}}, ["spec.meshConfig.defaultConfig.proxyMetadata"]),
        ({"trust_domain": "x", "default_config": {"meshId": "x"}}, []),  # for misspelt_keys to say
        ({"trustDomain": 1, "rootNamespace": 2}, ["spec.meshConfig.trustDomain", "spec.meshConfig.rootNamespace"]),
    ],
)
def test_what_is_computed_cannot_be_set(given: Json, refused: list[str]) -> None:
    assert computed_keys(mesh(meshConfig=given).spec) == refused


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, []),
        ({"trustDomain": "x", "defaultConfig": {"meshId": "x"}, "enablePrometheusMerge": False}, []),
        ({"access_log_file": "x", "defaultConfig": {"proxyMetadata": {"mesh_id": "x"}}}, []),  # none of ours
        ({"defaultConfig": {"proxy_metadata": {}}}, [("defaultConfig.proxy_metadata", "proxyMetadata")]),
        ({"other": {"trust_domain": "x"}}, []),
        ({"mesh_id": "x"}, []),  # ours is in defaultConfig
        ({"enable_prometheus_merge": True}, [("enable_prometheus_merge", "enablePrometheusMerge")]),
        ({"default_providers": {"tracing": []}}, [("default_providers", "defaultProviders")]),
        ({"root_namespace": None}, [("root_namespace", "rootNamespace")]),
        ({"default_config": {"mesh_id": "x"}}, [("default_config", "defaultConfig")]),
        ({"default_config": "text", "defaultConfig": "text"}, [("default_config", "defaultConfig")]),
        ({"defaultConfig": {"mesh_id": "x"}}, [("defaultConfig.mesh_id", "meshId")]),
        (
            {"trust_domain": "x", "defaultConfig": {"discovery_address": "x", "meshId": "y"}},
            [("defaultConfig.discovery_address", "discoveryAddress"), ("trust_domain", "trustDomain")],
        ),
    ],
)
def test_a_key_of_ours_has_one_spelling(given: Json, found: list[tuple[str, str]]) -> None:
    assert misspelt_keys(mesh(meshConfig=given).spec) == [(f"spec.meshConfig.{path}", ours) for path, ours in found]
