"""What is wrong with a mesh config, and what of one is not in force: the words and the corners."""

from __future__ import annotations

from typing import Any

import pytest

from meshwright.mesh.meshschema import differences, minors, problems, schema
from meshwright.mesh.versions import SUPPORTED

NEWEST = (1, 31)
WAS_HERE = "null leaves it as if it were not there: remove it, or write a value"


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (
            {"defaultConfig": {"holdAplicationUntilProxyStarts": True}},
            (
                "defaultConfig.holdAplicationUntilProxyStarts: no such field in Istio 1.31;"
                " did you mean holdApplicationUntilProxyStarts?"
            ),
        ),
        (
            {"holdApplicationUntilProxyStarts": True},
            (
                "holdApplicationUntilProxyStarts: no such field in Istio 1.31;"
                " did you mean defaultConfig.holdApplicationUntilProxyStarts?"
            ),
        ),
        (
            {"serviceScopeConfigs": [{"namespacesSelector": {}}]},
            "serviceScopeConfigs[0].namespacesSelector: no such field in Istio 1.31; did you mean namespaceSelector?",
        ),
        (
            {"mixerCheckServer": "x"},
            "mixerCheckServer: no such field in Istio 1.31; Istio had it once and removed it",
        ),
        ({"zzz": 1}, "zzz: no such field in Istio 1.31"),
        ({"enableTracing": "true"}, 'enableTracing: "true" is no boolean: write true or false, without quotes'),
        ({"enableAutoMtls": 1}, "enableAutoMtls: 1 is no boolean: write true or false, without quotes"),
        ({"rootNamespace": 5}, 'rootNamespace: 5 is no text: write it in quotes, "5"'),
        ({"connectTimeout": 30}, "connectTimeout: 30 is no duration: write 30s, or with the units ms, m and h"),
        ({"connectTimeout": "3d"}, 'connectTimeout: "3d" is no duration: write 30s, or with the units ms, m and h'),
        ({"proxyListenPort": 2**31}, "proxyListenPort: 2147483648 is no integer from -2147483648 to 2147483647"),
        ({"proxyListenPort": 1.5}, "proxyListenPort: 1.5 is no integer from -2147483648 to 2147483647"),
        (
            {"outboundTrafficPolicy": {"mode": "allow_any"}},
            (
                'outboundTrafficPolicy.mode: "allow_any" is no value of this field:'
                " write REGISTRY_ONLY or ALLOW_ANY or ALLOW_ANY_DYNAMIC_DNS"
            ),
        ),
        (
            {"outboundTrafficPolicy": {"mode": 2}},
            (
                "outboundTrafficPolicy.mode: 2 is no value of this field:"
                " write REGISTRY_ONLY or ALLOW_ANY or ALLOW_ANY_DYNAMIC_DNS"
            ),
        ),
        (
            {"localityLbSetting": {"distribute": [{"from": "a/*", "to": {"us west/*": -1}}]}},
            'localityLbSetting.distribute[0].to["us west/*"]: -1 is no integer from 0 to 4294967295',
        ),
        (
            {"trustDomainAliases": "old.example"},
            'trustDomainAliases: "old.example" is no list: write [ ] around it, or a line with - for each item',
        ),
        ({"trustDomainAliases": ["a", None]}, "trustDomainAliases[1]: null is no value: remove it, or write one"),
        ({"trustDomain": None}, f"trustDomain: {WAS_HERE}"),
        (
            {"trustDomain": "a", "trust_domain": "a"},
            "trust_domain: trustDomain is there, too, and means the same: remove one of them",
        ),
        ({"default_config": {}}, "default_config: Istio forgets it in this spelling: write defaultConfig"),
        (
            {"defaultConfig": {"tracing": {"zipkin": {}, "lightstep": {}}}},
            "defaultConfig.tracing.lightstep: zipkin is there, too, and Istio takes one of them only: remove one",
        ),
        (
            {"extensionProviders": [{"name": "a"}, {"name": "b"}, {"name": "a"}]},
            'extensionProviders[2].name: "a" is the name of [0], too, and Istio keeps one only',
        ),
    ],
)
def test_one_line_with_path_and_next_step(config: dict[str, Any], says: str) -> None:
    assert problems(config, minor=NEWEST) == [f"spec.meshConfig.{says}"]


@pytest.mark.parametrize(
    "config",
    [
        {"proxy_listen_port": "15001", "trust_domain": "a"},
        {"proxyListenPort": 15001.0},
        {"connectTimeout": "1m30.5s", "dnsRefreshRate": "0"},
        {"outboundTrafficPolicy": {"mode": 1}},
        {"defaultConfig": {"tracing": {"sampling": "0.5"}, "proxyMetadata": {"A_B": "1"}}},
        {"extensionProviders": [{"name": "a", "envoyFileAccessLog": {"logFormat": {"labels": {"x": None, "y": [1]}}}}]},
    ],
)
def test_what_istiod_reads_is_no_problem(config: dict[str, Any]) -> None:
    assert problems(config, minor=NEWEST) == []


def test_every_wrong_place_has_a_line() -> None:
    found = problems({"a1": 1, "enableTracing": "no", "defaultConfig": {"a2": 1}}, minor=NEWEST)
    assert [line.split(":")[0] for line in found] == [
        "spec.meshConfig.a1", "spec.meshConfig.enableTracing", "spec.meshConfig.defaultConfig.a2",
    ]  # fmt: skip


def test_a_field_of_another_minor_is_named_as_such() -> None:
    config: dict[str, Any] = {"defaultTrafficPolicy": {}}
    assert problems(config, minor=NEWEST) == []
    assert problems(config, minor=(1, 29)) == [
        "spec.meshConfig.defaultTrafficPolicy: no such field in Istio 1.29; Istio 1.31 has it"
    ]


def test_every_supported_minor_has_a_field_list_and_no_other() -> None:
    assert set(minors()) == {row.minor for row in SUPPORTED}
    assert all(schema(minor).minor == minor for minor in minors())
    with pytest.raises(KeyError):
        schema((1, 28))


@pytest.mark.parametrize(
    ("declared", "effective", "says"),
    [
        ({"dnsRefreshRate": "1m"}, {"dnsRefreshRate": "60.000s"}, []),
        ({"ingressControllerMode": 0, "enableTracing": False, "accessLogFile": ""}, {}, []),
        ({"outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}}, {"outboundTrafficPolicy": {}}, []),
        ({"trust_domain": "a", "proxyListenPort": "15001"}, {"trustDomain": "a", "proxyListenPort": 15001}, []),
        ({"trustDomainAliases": ["b"]}, {"trustDomainAliases": ["a", "b"]}, []),
        ({}, {"trustDomain": "cluster.local"}, []),
        (
            {"extensionProviders": [{"name": "b", "prometheus": {}}]},
            {"extensionProviders": [{"name": "a"}, {"name": "b", "prometheus": {}}]},
            [],
        ),
        ({"enableAutoMtls": False}, {}, ["enableAutoMtls: declared false, in force nothing"]),
        ({"trustDomain": "a"}, {"trustDomain": "b"}, ['trustDomain: declared "a", in force "b"']),
        ({"trustDomainAliases": ["b"]}, {}, ['trustDomainAliases: declared "b", in force nothing']),
        (
            {"defaultServiceExportTo": ["."]},
            {"defaultServiceExportTo": ["*"]},
            ['defaultServiceExportTo[0]: declared ".", in force "*"'],
        ),
        (
            {"configSources": [{"address": "k8s://"}]},
            {},
            ['configSources: declared [{"address": "k8s://"}], in force nothing'],
        ),
        (
            {"extensionProviders": [{"name": "b", "prometheus": {}}]},
            {"extensionProviders": [{"name": "a"}]},
            ['extensionProviders[0]: declared {"name": "b", "prometheus": {}}, in force nothing'],
        ),
        (
            {"defaultConfig": {"proxyMetadata": {"A": "1", "B": "2"}}},
            {"defaultConfig": {"proxyMetadata": {"B": "2", "C": "3"}}},
            ['defaultConfig.proxyMetadata.A: declared "1", in force nothing'],
        ),
    ],
)
def test_what_is_not_in_force(declared: dict[str, Any], effective: dict[str, Any], says: list[str]) -> None:
    assert differences(declared, effective, minor=NEWEST) == [f"meshConfig.{line}" for line in says]
