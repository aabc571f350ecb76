"""Is the control plane there? The table of what is seen and what is said of it; and what a wave waits for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from meshes import injector, istiod, mesh
from meshwright.api.meshinstall import Autoscaling
from meshwright.api.meshinstall import Gateway as GatewaySpec
from meshwright.mesh.findings import Finding
from meshwright.mesh.gateways import Gateway, gateway_of
from meshwright.mesh.health import cluster_findings, control_plane_finding, own_istiod
from meshwright.mesh.names import Names
from meshwright.mesh.objects import Key, Rendered, Step, at_once, crds_established, deployments_serve
from meshwright.mesh.observed import Agents, Budget, Cluster, GatewayPods, Trouble

Json = dict[str, Any]

NAMES = Names("istio-system", "default")
PULL = Trouble("istiod-1", "discovery", "ImagePullBackOff", "Back-off pulling image")
UNSCHEDULABLE = Trouble("istiod-2", "", "Unschedulable", "0/3 nodes are available")


def cluster(**parts: Any) -> Cluster:
    return Cluster(**{"name": "primary", "istiods": (istiod(),), "injectors": (injector(),), **parts})


TABLE: list[tuple[str, Cluster, str | None, str]] = [
    ("all is well", cluster(), None, ""),
    ("trouble of an old pod while all replicas are ready", cluster(troubles=(PULL,)), None, ""),
    ("no Deployment", cluster(istiods=()), "Progressing", "istio-system/istiod is not there yet"),
    ("only another revision's", cluster(istiods=(istiod(name="istiod-x"),)), "Progressing", "is not there yet"),
    ("only another namespace's", cluster(istiods=(istiod(namespace="mesh"),)), "Progressing", "is not there yet"),
    ("none available", cluster(istiods=(istiod(available=0),)), "Progressing", "0 of 2 replicas of istiod are ready"),
    ("one of two", cluster(istiods=(istiod(available=1),)), "Progressing", "1 of 2 replicas"),
    ("old pods still serve", cluster(istiods=(istiod(existing=3, updated=1),)), "Progressing",
     "1 of 2 replicas of istiod are new, 2 old ones run on"),
    ("old pods serve while the new ones fail", cluster(istiods=(istiod(existing=4),), troubles=(PULL,)),
     "ControlPlaneNotReady", "2 old ones run on, in cluster primary; container discovery of pod istiod-1 says Image"),
    ("more replicas than wanted", cluster(istiods=(istiod(replicas=3, existing=3, updated=3, available=3),)),
     "Progressing", "3 of 2 replicas"),
    ("a rollout that is not seen yet", cluster(istiods=(istiod(generation=2),)), "Progressing", "about to be rolled"),
    ("image missing", cluster(istiods=(istiod(available=1),), troubles=(PULL,)), "ControlPlaneNotReady",
     "container discovery of pod istiod-1 says ImagePullBackOff: Back-off pulling image"),
    ("no node", cluster(istiods=(istiod(available=0),), troubles=(UNSCHEDULABLE, PULL)), "ControlPlaneNotReady",
     "pod istiod-2 says Unschedulable: 0/3 nodes are available (and 1 more)"),
    ("no webhook", cluster(injectors=()), "WebhooksNotTrusted", "MutatingWebhookConfiguration istio-sidecar-injector"),
    ("no CA in the webhook", cluster(injectors=(injector(trusted=False),)), "WebhooksNotTrusted", "not written its CA"),
    ("another webhook's CA", cluster(injectors=(injector(name="other"),)), "WebhooksNotTrusted", "not written its CA"),
    ("somebody else's budget over our pods", cluster(budgets=(Budget("istio-system", "b", ("helm",)),)),
     "DisruptionBudgetConflict", "PodDisruptionBudget istio-system/b, made by helm, is over pods that have one"),
]  # fmt: skip


@pytest.mark.parametrize(("seen", "reason", "says"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_what_is_said_of_what_is_seen(seen: Cluster, reason: str | None, says: str) -> None:
    found = cluster_findings(seen, NAMES, replicas=2)
    assert [each.reason for each in found] == ([reason] if reason else [])
    assert all(says in each.message for each in found)


def test_each_part_is_told_in_the_order_in_which_they_come_about() -> None:
    nothing = Cluster("primary", budgets=(Budget("istio-system", "b", ()),))
    found = cluster_findings(nothing, NAMES, replicas=2, gateways=[INGRESS], cni=True)
    assert [each.reason for each in found] == [
        "Progressing", "DisruptionBudgetConflict", "CNINotReady", "WebhooksNotTrusted", "GatewayNotReady",
    ]  # fmt: skip


AGENTS: list[tuple[Agents | None, str | None]] = [
    (None, "DaemonSet istio-system/istio-cni-node is not there yet"),
    (Agents(wanted=3, updated=3, ready=3), None),
    (Agents(), None),  # no node takes it
    (Agents(wanted=3, updated=3, ready=2), "istio-cni is up to date and ready on 2 of 3 nodes of cluster primary"),
    (Agents(wanted=3, updated=1, ready=3), "istio-cni is up to date and ready on 1 of 3 nodes of cluster primary"),
    (Agents(wanted=3, updated=3, ready=3, current=False),
     "istio-cni is up to date and ready on 0 of 3 nodes of cluster primary"),
    (Agents(wanted=1, updated=1, ready=0, troubles=(PULL,)),
     ("istio-cni is up to date and ready on 0 of 1 nodes of cluster primary; container discovery of pod istiod-1 says"
     " ImagePullBackOff: Back-off pulling image")),
]  # fmt: skip


@pytest.mark.parametrize(("agents", "says"), AGENTS)
def test_istio_cni_is_there_when_it_is_ready_on_every_node(agents: Agents | None, says: str | None) -> None:
    found = cluster_findings(cluster(agents=agents), NAMES, replicas=2, cni=True)
    assert [(each.reason, each.message) for each in found] == ([("CNINotReady", says)] if says else [])
    assert cluster_findings(cluster(agents=agents), NAMES, replicas=2, cni=False) == ()


INGRESS = gateway_of(GatewaySpec(name="in", autoscaling=Autoscaling(enabled=False)), mesh().spec)
SCALED = gateway_of(GatewaySpec(name="in"), mesh().spec)


def pods(**parts: Any) -> GatewayPods:
    """The Deployment of a gateway that is well."""
    healthy = GatewayPods(
        namespace="istio-system", name="in", owner="demo", replicas=2, existing=2, updated=2, available=2
    )
    return replace(healthy, **parts)


FOUR: Json = dict.fromkeys(("replicas", "existing", "updated", "available"), 4)


@pytest.mark.parametrize(
    ("wanted", "seen", "says"),
    [
        (INGRESS, (), "Deployment istio-system/in is not there yet"),
        (INGRESS, (pods(namespace="edge"),), "Deployment istio-system/in is not there yet"),
        (INGRESS, (pods(),), None),
        (INGRESS, (pods(available=1),), "1 of 2 replicas of gateway istio-system/in are ready in cluster primary"),
        (INGRESS, (pods(**FOUR),), "4 of 2 replicas of gateway istio-system/in are ready in cluster primary"),
        (SCALED, (pods(**FOUR),), None),
        (SCALED, (pods(**{**FOUR, "available": 3}),),
         "3 of 4 replicas of gateway istio-system/in are ready in cluster primary"),
        (INGRESS, (pods(generation=2),), "gateway istio-system/in is about to be rolled out in cluster primary"),
        (INGRESS, (pods(existing=3, updated=1),),
         "1 of 2 replicas of gateway istio-system/in are new, 2 old ones run on, in cluster primary"),
        (INGRESS, (pods(available=0, failure="exceeded quota"),),
         ("0 of 2 replicas of gateway istio-system/in are ready in cluster primary; its pods cannot be made: exceeded"
         " quota")),
        (INGRESS, (pods(available=0, troubles=(UNSCHEDULABLE,)),),
         ("0 of 2 replicas of gateway istio-system/in are ready in cluster primary; pod istiod-2 says Unschedulable:"
         " 0/3 nodes are available")),
    ],
)  # fmt: skip
def test_what_is_said_of_a_gateway(wanted: Gateway, seen: tuple[GatewayPods, ...], says: str | None) -> None:
    found = cluster_findings(cluster(gateways=seen), NAMES, replicas=2, gateways=[wanted])
    assert [(each.reason, each.message) for each in found] == ([("GatewayNotReady", says)] if says else [])


def test_a_gateway_without_a_namespace_is_told_with_what_to_do() -> None:
    found = cluster_findings(cluster(homeless=("edge",)), NAMES, replicas=2)
    assert found == (
        Finding("GatewayNotReady", "namespace edge, which a gateway is to be in, is not there: create it"),
    )


@pytest.mark.parametrize("replicas", [1, 2, 9])
def test_an_autoscaler_may_want_any_number_of_replicas_that_are_there(replicas: int) -> None:
    def seen(available: int) -> Cluster:
        scaled = istiod(replicas=replicas, existing=replicas, updated=replicas, available=available)
        return cluster(istiods=(scaled,), autoscaled=True)

    assert control_plane_finding(seen(replicas), NAMES, None) is None
    finding = control_plane_finding(seen(replicas - 1), NAMES, None)
    assert finding == Finding(
        "Progressing", f"{replicas - 1} of {replicas} replicas of istiod are ready in cluster primary"
    )


def test_pods_that_cannot_even_be_made_are_told_in_the_servers_words() -> None:
    finding = control_plane_finding(cluster(istiods=(istiod(available=0, failure="exceeded quota"),)), NAMES, 2)
    assert finding == Finding(
        "ControlPlaneNotReady",
        "0 of 2 replicas of istiod are ready in cluster primary; its pods cannot be made: exceeded quota",
    )


def test_a_trouble_without_words_is_told_by_its_reason() -> None:
    finding = control_plane_finding(
        cluster(istiods=(istiod(available=0),), troubles=(Trouble("p", "c", "Error", ""),)), NAMES, 2
    )
    assert finding is not None
    assert finding.message.endswith("container c of pod p says Error")


def test_the_own_istiod_is_found_by_namespace_and_name() -> None:
    seen = cluster(istiods=(istiod(namespace="a"), istiod(name="istiod-b"), istiod()))
    assert own_istiod(seen, NAMES) == istiod()


def deployment(**status: int) -> dict[Key, Json]:
    manifest = {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"namespace": "n", "name": "d", "generation": 2},
        "spec": {"replicas": 2}, "status": status,
    }  # fmt: skip
    return {Key.of(manifest): manifest}


@pytest.mark.parametrize(
    ("status", "waits_for"),
    [
        ({"replicas": 2, "availableReplicas": 2}, None),
        ({"replicas": 2, "availableReplicas": 1}, None),  # enough to answer
        ({"replicas": 2}, "Deployment n/d to have an available replica"),
        ({}, "Deployment n/d to have an available replica"),
    ],
)
def test_a_wave_waits_for_somebody_who_answers(status: dict[str, int], waits_for: str | None) -> None:
    assert deployments_serve(deployment(**status)) == waits_for


def test_objects_that_only_have_to_be_there_are_not_waited_for() -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "n", "name": "s"}}
    assert deployments_serve({Key.of(service): service}) is None
    assert at_once({Key.of(service): service}) is None


@pytest.mark.parametrize(
    ("conditions", "ready"),
    [
        ([{"type": "Established", "status": "True"}], True),
        ([{"type": "NamesAccepted", "status": "True"}, {"type": "Established", "status": "True"}], True),
        ([{"type": "Established", "status": "False"}], False),
        ([], False),
        (None, False),
    ],
)
def test_a_wave_waits_until_kinds_are_served(conditions: list[Json] | None, ready: bool) -> None:  # noqa: FBT001
    crd = {"apiVersion": "a/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "x"},
           "status": {"conditions": conditions}}  # fmt: skip
    assert (crds_established({Key.of(crd): crd}) is None) is ready
    assert crds_established(deployment()) is None


def test_a_step_tells_where_work_stopped_and_what_it_waits_for() -> None:
    step = Step(7, 8, "webhooks", "Deployment istio-system/istiod to have an available replica")
    assert str(step) == (
        "step 7 of 8 (webhooks): waiting for Deployment istio-system/istiod to have an available replica"
    )


def test_a_key_reads_like_a_path_and_a_digest_follows_the_content_alone() -> None:
    manifest: Json = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": "n", "name": "s"},
        "spec": {"a": 1, "b": 2},
    }
    other: Json = {
        "spec": {"b": 2, "a": 1},
        "metadata": {"name": "s", "namespace": "n"},
        "kind": "Service",
        "apiVersion": "v1",
    }
    assert str(Key.of(manifest)) == "Service n/s"
    assert str(Key("v1", "Namespace", "", "n")) == "Namespace n"
    assert Rendered(manifest).digest == Rendered(other).digest
    assert Rendered(manifest).digest != Rendered({**manifest, "spec": {"a": 2, "b": 2}}).digest
