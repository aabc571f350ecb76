"""What is to be verified by traffic, and when it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from meshes import cluster, mesh, observed
from meshwright.api.meshinstall import MeshStatus
from meshwright.mesh.findings import Finding
from meshwright.mesh.names import Names
from meshwright.mesh.observed import Absent, GatewayPods, Observed
from meshwright.mesh.verification import Passage, Probe, findings, passages, probe_of, question

CLUSTERS = [{"name": "east"}, {"name": "west", "kubeconfigSecret": "west"}]
PROBE = Probe("operator:1", "0123", ("east", "west"))


def seen(*, addresses: tuple[str, ...] = ("192.0.2.1",), **parts: Any) -> Observed:
    gateway = GatewayPods(namespace="istio-system", name="istio-eastwestgateway", owner="demo", addresses=addresses)
    clusters = (cluster(name="east", uid="1"), cluster(name="west", uid="2", gateways=(gateway,)))
    subject = mesh(clusterName="east", clusters=CLUSTERS, verify="Traffic")
    return observed(subject, **{"clusters": clusters, "operator_image": "operator:1", **parts})


def test_there_is_a_probe_until_the_same_was_verified() -> None:
    first = seen()
    probe = probe_of(first)
    assert probe == Probe("operator:1", question(first), ("east", "west"))
    verified = replace(first, mesh=first.mesh.model_copy(update={"status": MeshStatus(verified=question(first))}))
    assert probe_of(verified) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda before: replace(before, mesh=before.mesh.model_copy(update={"generation": 2})),
        lambda before: replace(before, mesh=before.mesh.model_copy(update={"rotate_access": "now"})),
        lambda _: seen(addresses=("192.0.2.2",)),
        lambda before: replace(before, clusters=(before.clusters[0], replace(before.clusters[1], uid="3"))),
    ],
    ids=["spec", "access", "address", "cluster"],
)
def test_a_change_is_verified_again(change: Any) -> None:
    assert question(change(seen())) != question(seen())


def test_how_many_pods_run_is_no_change() -> None:
    before = seen()
    busy = tuple(replace(each, proxies=7, enrolled=7) for each in before.clusters)
    assert question(replace(before, clusters=busy)) == question(before)


@pytest.mark.parametrize(
    "without",
    [
        seen(absent=(Absent("south", Finding("ClusterAway", "it is away")),)),
        seen(operator_image=""),
        replace(seen(), mesh=mesh(clusterName="east", clusters=CLUSTERS)),
        replace(seen(), mesh=mesh(verify="Traffic")),
    ],
    ids=["a cluster is away", "no image", "not asked for", "one cluster"],
)
def test_there_is_no_probe_where_it_proves_nothing(without: Observed) -> None:
    assert probe_of(without) is None


def test_that_the_image_is_not_known_is_told() -> None:
    without = seen(operator_image="")
    (found,) = findings(without, without.clusters[0], None, {}, "")
    assert "no Deployment with the label" in found.message


def told(found: dict[str, Passage], trouble: str = "") -> list[str]:
    return [each.message for each in findings(seen(), seen().clusters[0], PROBE, found, trouble)]


def test_what_does_not_pass_is_told_by_its_direction() -> None:
    assert told({"west": Passage(passed=True, median_ms=3.0)}) == []
    assert told({}) == ["not all requests from cluster east to west pass yet"]
    failed = Passage(passed=False, failure="timed out")
    assert told({"west": failed}) == ["not all requests from cluster east to west pass: timed out"]
    assert told({}, "its probe is not ready yet") == [
        "no traffic from cluster east was verified: its probe is not ready yet"
    ]


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (b'{"west": {"requests": 10, "passed": 10, "medianMs": 3.1}}', Passage(passed=True, median_ms=3.1)),
        (b'{"west": {"requests": 10, "passed": 9, "medianMs": 3, "failure": "x"}}',
         Passage(passed=False, median_ms=3.0, failure="x")),
        (b'{"west": {"requests": 0, "passed": 0}}', Passage(passed=False)),
        (b'{"west": {"requests": "10", "passed": "10"}}', Passage(passed=False)),
        (b'{"west": 1}', None),
        (b"[]", None),
        (b"nonsense", None),
    ],
)  # fmt: skip
def test_what_a_probe_says_is_not_trusted(page: bytes, expected: Passage | None) -> None:
    assert passages(page).get("west") == expected


def test_a_probe_asks_all_clusters_but_its_own() -> None:
    names = Names("istio-system", "default")
    command = PROBE.command(names, "east")
    assert command[-3:] == ("east", "8080", "west=http://meshwright-probe-west.istio-system.svc:8080/")
    assert not any("east=" in each for each in command)


def test_names_of_services_are_never_too_long() -> None:
    names = Names("istio-system", "r" * 56)
    assert len(names.probe_of("c" * 40)) <= 63
    assert names.probe_of("c" * 40) != names.probe_of("d" * 40)
