"""What istiod really runs, held against what was declared: the real istiod beside a bare API server.

Also here: the rule by which a mesh config is refused beforehand is istiod's own.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.injection import NAMESPACE, await_ready, free_ports, prepare
from meshwright.mesh.meshschema import differences, problems
from meshwright.render.templates import as_yaml
from testbed import programs
from testbed.apiserver import ApiServer, api_server
from testbed.processes import Child
from testbed.rest import wait_until

Json = dict[str, Any]

MINOR = (1, 31)
REFUSED = "invalid mesh config, using last known state"
PLAIN: Json = {"trustDomain": "mesh.example", "rootNamespace": NAMESPACE}


class Istiod:
    """A running istiod, and the ConfigMap that it reads its mesh config from."""

    def __init__(self, api: ApiServer, folder: Path) -> None:
        ports = free_ports(6)
        addresses = ("httpAddr", "httpsAddr", "grpcAddr", "secureGRPCAddr", "monitoringAddr")
        self.url = f"http://127.0.0.1:{ports[0]}"
        self._api = api
        self._log = folder / "log"
        self._written = 0
        self.process = Child(
            # Out of the checkout, because istiod prefers files of its working directory to ConfigMaps.
            ("env", f"--chdir={folder}", "--unset=KUBERNETES_SERVICE_HOST",
             str(programs.build(programs.pilot_discovery())), "discovery", f"--kubeconfig={api.kubeconfig}",
             *(f"--{name}=127.0.0.1:{port}" for name, port in zip(addresses, ports, strict=False)),
             f"--ctrlz_port={ports[5]}"),
            self._log,
            {"REVISION": "default", "POD_NAME": "istiod-0", "POD_NAMESPACE": NAMESPACE, "CLUSTER_ID": "Kubernetes"},
        )  # fmt: skip

    def effective(self) -> Json:
        with urllib.request.urlopen(f"{self.url}/debug/mesh", timeout=10) as answer:  # noqa: S310
            found: Json = json.load(answer)
            return found

    def declare(self, config: Json) -> bool:
        """Whether istiod takes it; returns when it has decided. A mark in a field of its own tells."""
        self._written += 1
        mark = f"mark-{self._written}"
        return self.write(as_yaml({**config, "ingressClass": mark}), mark)

    def write(self, text: str, mark: str) -> bool:
        refused = self._refusals()
        patch = json.dumps({"data": {"mesh": text}})
        self._api.kubectl("patch", "configmap", "istio", f"--namespace={NAMESPACE}", "--type=merge", f"--patch={patch}")

        def taken() -> bool:
            return self.effective().get("ingressClass") == mark

        wait_until(
            lambda: taken() or self._refusals() > refused, "istiod to read its mesh config", seconds=60, pause=0.05
        )
        return taken()

    def _refusals(self) -> int:
        return self._log.read_text().count(REFUSED)


@pytest.fixture(scope="module")
def istiod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Istiod]:
    with api_server() as api:
        prepare(api, PLAIN)
        istiod = Istiod(api, tmp_path_factory.mktemp("istiod"))
        istiod.process.start()
        try:
            await_ready(istiod.process, f"{istiod.url}/ready")
            yield istiod
        finally:
            istiod.process.kill()


BROAD: tuple[Json, ...] = (
    PLAIN,
    {
        **PLAIN,
        "connectTimeout": "1m",
        "dnsRefreshRate": "1h1m0.5s",
        "enableTracing": False,
        "enableAutoMtls": False,
        "enablePrometheusMerge": True,
        "accessLogFile": "/dev/stdout",
        "accessLogEncoding": 1,
        "ingressControllerMode": "OFF",
        "outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"},
        "inboundTrafficPolicy": {"mode": "PASSTHROUGH"},
        "trustDomainAliases": ["old.example", "older.example"],
        "defaultServiceExportTo": ["."],
        "defaultProviders": {"metrics": ["prometheus"], "tracing": ["otel"]},
        "discoverySelectors": [
            {"matchLabels": {"istio": "on"}},
            {"matchExpressions": [{"key": "a", "operator": "Exists"}]},
        ],
        "localityLbSetting": {"distribute": [{"from": "a/*", "to": {"a/*": 80, "b/*": 20}}]},
        "pathNormalization": {"normalization": "MERGE_SLASHES"},
        "serviceSettings": [{"settings": {"clusterLocal": True}, "hosts": ["a.b.svc.cluster.local"]}],
        "meshMTLS": {"minProtocolVersion": "TLSV1_3"},
        "tcpKeepalive": {"time": "10s", "probes": 3},
        "extensionProviders": [
            {"name": "otel", "opentelemetry": {"service": "otel.observe.svc.cluster.local", "port": 4317}},
            {"name": "prometheus", "prometheus": {}},
            {
                "name": "json-log",
                "envoyFileAccessLog": {
                    "path": "/dev/stdout",
                    "logFormat": {"labels": {"a": "%A%", "n": {"x": [1, None]}}},
                },
            },
        ],
    },
    {
        "trust_domain": "mesh.example",
        "root_namespace": NAMESPACE,
        "proxy_listen_port": "15101",
        "defaultConfig": {
            "discoveryAddress": "istiod.elsewhere.svc:15012",
            "concurrency": 0,
            "drainDuration": "1m",
            "hold_application_until_proxy_starts": True,
            "interceptionMode": "TPROXY",
            "statusPort": 15121.0,
            "image": {"imageType": "distroless"},
            "proxyMetadata": {"A": "1", "B": ""},
            "proxyStatsMatcher": {"inclusionRegexps": [".*"]},
            "proxyHeaders": {"attemptCount": {"disabled": False}, "envoyDebugHeaders": {}, "server": {"value": "x"}},
            "tracing": {"sampling": "12.5", "customTags": {"a": {"literal": {"value": "b"}}}, "enableIstioTags": False},
        },
    },
)


@pytest.mark.parametrize("config", BROAD)
def test_what_istiod_took_is_in_force(istiod: Istiod, config: Json) -> None:
    assert problems(config, minor=MINOR) == []
    assert istiod.declare(config)
    assert differences(config, istiod.effective(), minor=MINOR) == []


def test_what_istiod_did_not_take_is_named(istiod: Istiod) -> None:
    """istiod says so in its log only, and goes on with what it had."""
    assert istiod.declare(PLAIN)
    wanted = {**PLAIN, "trustDomain": "new.example", "defaultConfig": {"concurrency": 3}}
    assert not istiod.write("trustDomain: [broken", "none")
    assert differences(wanted, istiod.effective(), minor=MINOR) == [
        'meshConfig.trustDomain: declared "new.example", in force "mesh.example"',
        "meshConfig.defaultConfig.concurrency: declared 3, in force nothing",
    ]


MISTYPED: tuple[Json, ...] = (
    {"enableTracing": "true"},
    {"enableAutoMtls": 1},
    {"rootNamespace": 5},
    {"connectTimeout": 30},
    {"connectTimeout": "3d"},
    {"connectTimeout": ""},
    {"proxyListenPort": 2**31},
    {"proxyListenPort": 15001.5},
    {"proxyListenPort": "15001.0"},
    {"outboundTrafficPolicy": {"mode": "allow_any"}},
    {"outboundTrafficPolicy": "ALLOW_ANY"},
    {"localityLbSetting": {"distribute": [{"from": "a/*", "to": {"b/*": -1}}]}},
    {"trustDomainAliases": "old.example"},
    {"defaultConfig": {"proxyMetadata": {"A": 1}}},
    {"defaultConfig": {"proxyMetadata": ["A"]}},
    {"defaultConfig": {"tracing": {"sampling": "much"}}},
    {"extensionProviders": {"name": "a"}},
    {"extensionProviders": [{"name": "a", "envoyFileAccessLog": {"logFormat": {"labels": "x"}}}]},
)


@pytest.mark.parametrize("mistyped", MISTYPED, ids=json.dumps)
def test_what_we_call_mistyped_istiod_refuses(istiod: Istiod, mistyped: Json) -> None:
    assert len(problems(mistyped, minor=MINOR)) == 1
    assert not istiod.declare({**PLAIN, **mistyped})


LOST: tuple[Json, ...] = (
    {"noSuchField": 1},
    {"default_config": {"concurrency": 3}},
    {"enableTracing": None},
    {"outboundTrafficPolicy": {"mode": 2}},
    {"rootNamespace": NAMESPACE, "root_namespace": "other"},
    {"extensionProviders": [{"name": "a", "prometheus": {}}, {"name": "a", "stackdriver": {}}]},
    {"defaultConfig": {"tracing": {"zipkin": {"address": "z:1"}, "datadog": {"address": "d:1"}}}},
)


@pytest.mark.parametrize("lost", LOST, ids=json.dumps)
def test_what_istiod_takes_and_loses_we_refuse(istiod: Istiod, lost: Json) -> None:
    assert len(problems(lost, minor=MINOR)) == 1
    assert istiod.declare({**PLAIN, **lost})
