"""While a mesh says MultiClusterRequired, no further namespace is enrolled, unless somebody says why."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import pytest

from api.test_admission import MANIFESTS, make
from api.world import Cluster, Json, RefusedError
from testbed.apiserver import api_server
from testbed.rest import wait_until

OVERRIDE = "meshwright.dev/enrol-anyway"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with api_server() as running:
        running.kubectl("apply", "--server-side", "-k", str(MANIFESTS / "crd"))
        bystander = Cluster(running)
        wait_until(
            lambda: bystander.get("/apis/meshwright.dev/v1alpha1/meshinstalls") is not None, "the CRD", seconds=20
        )
        running.kubectl("apply", "--server-side", "-k", str(MANIFESTS / "enrolment-limit"))
        path = make(bystander, "full")
        says(bystander, path, "MultiClusterRequired")
        wait_until(lambda: bool(refusal(bystander, "probe", {"istio.io/rev": "full"})), "the policy", seconds=30)
        make(bystander, "roomy")
        yield bystander
        bystander.close()


def says(cluster: Cluster, path: str, reason: str) -> None:
    condition = {
        "type": "ControlPlaneSized", "status": "False", "reason": reason, "message": "m",
        "lastTransitionTime": dt.datetime(2026, 11, 1, tzinfo=dt.UTC).isoformat(),
    }  # fmt: skip
    cluster.merge(f"{path}/status", {"status": {"conditions": [condition]}})


def namespace(name: str, labels: Json, annotations: Json | None = None) -> Json:
    metadata = {"name": name, "labels": labels, "annotations": annotations or {}}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


def refusal(cluster: Cluster, name: str, labels: Json, annotations: Json | None = None) -> str:
    try:
        cluster.create(namespace(name, labels, annotations), "dryRun=All")
    except RefusedError as refused:
        return str(refused)
    return ""


def test_a_new_namespace_is_refused_with_the_way_out(cluster: Cluster) -> None:
    text = refusal(cluster, "new", {"istio.io/rev": "full"})
    assert "mesh full says MultiClusterRequired" in text
    assert OVERRIDE in text


@pytest.mark.parametrize("labels", [{}, {"istio.io/rev": "roomy"}, {"istio-injection": "enabled"}, {"app": "x"}])
def test_others_are_let_in(cluster: Cluster, labels: Json) -> None:
    assert refusal(cluster, "new", labels) == ""


def test_who_says_why_is_let_in(cluster: Cluster) -> None:
    assert refusal(cluster, "new", {"istio.io/rev": "full"}, {OVERRIDE: ""}) != ""
    assert refusal(cluster, "new", {"istio.io/rev": "full"}, {OVERRIDE: "two pods, until Friday"}) == ""


def test_a_namespace_that_asked_before_can_be_changed_and_another_one_not_enrolled(cluster: Cluster) -> None:
    cluster.create(namespace("old", {"istio.io/rev": "full"}, {OVERRIDE: "it was there"}))
    cluster.merge("/api/v1/namespaces/old", {"metadata": {"annotations": {OVERRIDE: None, "note": "x"}}})
    cluster.create(namespace("outside", {}))
    with pytest.raises(RefusedError, match="MultiClusterRequired"):
        cluster.merge("/api/v1/namespaces/outside", {"metadata": {"labels": {"istio.io/rev": "full"}}})


def test_when_there_is_room_again_it_is_let_in(cluster: Cluster) -> None:
    says(cluster, "/apis/meshwright.dev/v1alpha1/meshinstalls/full", "Sized")
    wait_until(lambda: refusal(cluster, "new", {"istio.io/rev": "full"}) == "", "the condition to be seen", seconds=20)
