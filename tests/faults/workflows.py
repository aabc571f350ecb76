"""Every workflow of the operator: each is one story, played by a user, of which any write may be the last of a life.

A new one needs nothing but to stand here:

    @workflow(start=installed)
    async def the_size_changes(world: World) -> None:
        await world.change(controlPlane={"size": "Large"})
        await world.installed()
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from api.world import CRDS, VERSION, Json, path_of_item
from faults import runner
from faults.runner import AT_ONCE, until
from faults.scene import Scene, Stock, World, fresh_world
from meshwright.cluster.kinds import CONFIG_MAP, DEPLOYMENT, kind_of

Story = Callable[[World], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A story and the scene that it wants."""

    name: str
    story: Story
    installed: Json | None  # with this spec, when the story begins; None: nothing is
    pods: bool  # whether istiod has pods, and leaves something behind
    at_once: int

    @asynccontextmanager
    async def on(self, scene: Scene) -> AsyncIterator[runner.Workflow[World]]:
        async with Stock(scene, spec=self.installed or {}, pods=self.pods) as stock:
            world = partial(fresh_world, scene, pods=self.pods) if self.installed is None else stock.world
            yield runner.Workflow(self.name, world, (self.story, World.at_rest), World.end)


WORKFLOWS: list[Recipe] = []


def recipe_of(story: Story) -> Recipe:
    return next(each for each in WORKFLOWS if each.story is story)


def workflow(*, installed: Json | None = None, pods: bool = False, at_once: int = AT_ONCE) -> Callable[[Story], Story]:
    def registered(story: Story) -> Story:
        name = story.__name__.replace("_", "-")
        WORKFLOWS.append(Recipe(name=name, story=story, installed=installed, pods=pods, at_once=at_once))
        return story

    return registered


ISTIO_API = "meshwright.dev/istio-api"
PEER_AUTHENTICATIONS = f"{CRDS}/peerauthentications.security.istio.io"
PEER_AUTHENTICATION = kind_of("security.istio.io/v1", "PeerAuthentication")
HALF_A_YEAR = dt.timedelta(days=200)


# -- from nothing


@workflow()
async def install(world: World) -> None:
    await world.declare()
    await world.installed()


@workflow()
async def invalid_first(world: World) -> None:
    await world.declare(version="1.7.0")
    await world.is_("UnsupportedVersion")
    await world.change(version=VERSION)
    await world.installed()


@workflow()
async def plan_then_apply(world: World) -> None:
    await world.declare(mode="Plan")
    await world.is_("Planned")
    await world.change(mode="Apply")
    await world.installed()


@workflow()
async def a_namespace_that_is_there(world: World) -> None:
    metadata = {"name": world.mesh.namespace, "labels": {"team": "shop"}}
    await world.server.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    await world.declare()
    await world.installed()


# -- changes


@workflow(installed={})
async def change(world: World) -> None:
    await world.change(
        mtls="Strict",
        meshConfig={"accessLogFile": "/dev/stdout"},
        controlPlane={"env": {"PILOT_TRACE_SAMPLING": "1"}, "size": "Large"},
    )
    await world.installed()


@workflow(installed={})
async def resize(world: World) -> None:
    for size in ("Large", "Small"):
        await world.change(controlPlane={"size": size})
        await world.installed()


@workflow(installed={})
async def too_many_pods_and_fewer_again(world: World) -> None:
    """An action is written once, whoever dies, and ends."""
    pod: Json = {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "one-too-many", "namespace": world.mesh.namespace,
                     "labels": {"security.istio.io/tlsMode": "istio"},
                     "annotations": {"istio.io/rev": world.mesh.revision}},
        "spec": {"serviceAccountName": world.mesh.names.istiod, "containers": [{"name": "web", "image": "web"}]},
    }  # fmt: skip
    await world.server.create(pod)
    rule = {"action": "MultiClusterRequired", "threshold": 1, "clear": 0.5, "clearFor": "0s"}
    await world.change(scaling={"rules": [rule]})
    await until(lambda: (world.status.get("scaling") or {}).get("standing") == 1)
    await world.server.delete(path_of_item(pod))
    await until(lambda: (world.status.get("scaling") or {}).get("standing") == 0)


@workflow(installed={})
async def patch_version(world: World) -> None:
    for version in ("1.31.5", VERSION):
        await world.change(version=version)
        await world.installed()


@workflow(installed={})
async def pause(world: World) -> None:
    await world.change(mode="Paused", controlPlane={"size": "Medium"})
    await world.is_("Paused")
    await world.server.delete(world.mesh.injector_path)
    await world.server.merge(world.config_map_path, {"data": {"mesh": "none of ours"}})
    await world.change(mode="Apply")
    await world.installed()


@workflow(installed={})
async def renewal(world: World) -> None:
    before = world.intermediate
    world.now += HALF_A_YEAR
    world.look()
    await until(lambda: world.intermediate != before)
    await world.installed()


@workflow(installed={"controlPlane": {"autoscaling": {"enabled": False}}})
async def autoscaler(world: World) -> None:
    names = world.mesh.names
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": names.istiod}
    scaler = {
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": names.istiod, "namespace": world.mesh.namespace},
        "spec": {"scaleTargetRef": target, "minReplicas": 2, "maxReplicas": 9},
    }  # fmt: skip
    await world.server.create(scaler)
    world.look()
    await until(lambda: world.replicas_annotation == "autoscaled")
    scale = {"spec": {"replicas": 4}}
    await world.server.merge(f"{world.mesh.deployment_path}/scale", scale, manager="horizontal-pod-autoscaler")
    await until(lambda: world.replicas == 4)
    await world.installed()
    await world.server.delete(path_of_item(scaler))
    world.look()
    await until(lambda: world.replicas_annotation == "4/size 2")
    await world.installed()


@workflow(installed={})
async def our_own_autoscaler(world: World) -> None:
    """What it added stays when it is switched off."""
    scale = {"spec": {"replicas": 4}}
    await world.server.merge(f"{world.mesh.deployment_path}/scale", scale, manager="horizontal-pod-autoscaler")
    await until(lambda: world.replicas == 4)
    await world.change(controlPlane={"autoscaling": {"enabled": False}})
    await until(lambda: world.replicas_annotation == "4/size 2")
    await world.installed()
    await world.change(controlPlane={"autoscaling": {"enabled": True, "minReplicas": 5}})
    await until(lambda: world.replicas == 5)
    await world.installed()


@workflow(installed={})
async def gateways(world: World) -> None:
    ingress = {"name": "ingress", "service": {"type": "ClusterIP"}}
    await world.change(gateways=[ingress, {"name": "egress", "type": "Egress"}])
    await world.installed()
    await world.change(gateways=[{**ingress, "replicas": 4}])
    await until(lambda: not world.has(DEPLOYMENT, "egress"))
    await world.installed()


@workflow(installed={})
async def reconcile_disabled(world: World) -> None:
    disabled = {"metadata": {"annotations": {"meshwright.dev/reconcile": "disabled"}}}
    await world.server.merge(world.config_map_path, disabled)
    await until(lambda: world.cluster.get("notReconciled") == 1)
    await world.server.merge(world.config_map_path, {"data": {"mesh": "by hand"}})
    await world.server.merge(world.config_map_path, {"metadata": {"annotations": {"meshwright.dev/reconcile": None}}})
    await until(lambda: world.cluster.get("notReconciled") == 0)
    await world.installed()


@workflow(installed={})
async def prune(world: World) -> None:
    labels = {"app.kubernetes.io/managed-by": "meshwright", **world.owner_labels}
    metadata = {"name": "stray", "namespace": world.mesh.namespace, "labels": labels}
    await world.server.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
    await until(lambda: world.has(CONFIG_MAP, "stray"))
    await until(lambda: not world.has(CONFIG_MAP, "stray"))
    await world.installed()


@workflow(installed={}, at_once=1)
async def crd_of_somebody_else(world: World) -> None:
    """Ours is the same, and takes its place when it may. There is one in the cluster: no other world meanwhile."""
    await world.change(mode="Paused")
    await world.is_("Paused")
    mark = {"annotations": {ISTIO_API: None}, "labels": {"app.kubernetes.io/managed-by": "Helm"}}
    await world.server.merge(PEER_AUTHENTICATIONS, {"metadata": mark}, manager="helm")
    await world.change(mode="Apply")
    await world.installed()
    await world.annotated(PEER_AUTHENTICATIONS, ISTIO_API)


@workflow(installed={}, at_once=1)
async def a_crd_that_is_gone(world: World) -> None:
    """And with it what was of its kind."""
    await world.change(mode="Paused")
    await world.is_("Paused")
    await world.server.delete(PEER_AUTHENTICATIONS)
    await until(lambda: not world.has(PEER_AUTHENTICATION, "default"))
    await world.change(mode="Apply")
    await until(lambda: world.has(PEER_AUTHENTICATION, "default"))
    await world.installed()


# -- deletion


@workflow(installed={}, pods=True)
async def delete_and_return(world: World) -> None:
    """The root is retained, and found again: there is only ever one."""
    await world.delete()
    await world.gone()
    assert await world.left() == []
    await world.declare()
    await world.installed()


@workflow(installed={"trust": {"deletionPolicy": "Delete"}}, pods=True)
async def delete_with_the_root(world: World) -> None:
    assert len(await world.left()) == 3
    await world.delete()
    await world.gone()
    assert await world.left() == []


@workflow(installed={})
async def delete_while_sidecars_run(world: World) -> None:
    sidecar = {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "web", "namespace": world.mesh.namespace,
            "labels": {"security.istio.io/tlsMode": "istio", "sidecar.istio.io/inject": "false"},
            "annotations": {"istio.io/rev": world.mesh.revision},
        },
        "spec": {"serviceAccountName": world.mesh.names.istiod, "containers": [{"name": "main", "image": "main"}]},
    }  # fmt: skip
    await world.server.create(sidecar)
    await until(lambda: world.status.get("proxies") == 1)
    await world.delete()
    await world.is_("Deleting")
    await world.server.delete(path_of_item(sidecar))
    await world.gone()
