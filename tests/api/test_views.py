"""Lost and stale events, and reads of the past: whatever the operator is told, it ends where it should."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from api.world import Cluster, path_of_item, short_istio_api
from faults import plan, runner
from faults.life import impatient, operator, wary
from faults.plan import Distorted, Plan, Rates
from faults.proxy import fault_proxy
from faults.runner import Workflow, differences_of, kept_alive, until
from faults.scene import Scene, World, fresh_world, scene
from meshwright.cluster.kinds import CONFIG_MAP, kind_of

# A life that is killed closes nothing behind it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SEEDS = int(os.environ.get("MESHWRIGHT_SEEDS", "4"))  # of each kind of fault
AT_ONCE = 4
SERVICE = kind_of("v1", "Service")


QUIET = Rates(crash=0, refused=0, lost=0, stale=0, watches=0)
KINDS = {
    "dropped": replace(QUIET, watches=1, distortion=Distorted(dropped=0.3)),
    "doubled": replace(QUIET, watches=1, distortion=Distorted(doubled=0.5)),
    "reordered": replace(QUIET, watches=1, distortion=Distorted(reordered=0.5)),
    "delayed": replace(QUIET, watches=1, distortion=Distorted(delayed=0.2, delay=0.3)),
    "stale": replace(QUIET, stale=0.3, versions=4),
    "travelled": replace(QUIET, stale=0.3, versions=4, crash=0.03),
    "everything": Rates(refused=0.01, lost=0.01),
}


async def install_change_drift(world: World) -> None:
    await world.declare()
    await world.installed()
    await world.change(mtls="Strict", controlPlane={"size": "Large", "env": {"PILOT_TRACE_SAMPLING": "1"}})
    await world.installed()
    await until(lambda: world.replicas == 5)
    path = f"/api/v1/namespaces/{world.mesh.namespace}/services/{world.mesh.names.istiod}"
    await world.server.delete(path)
    await world.server.merge(world.config_map_path, {"data": {"mesh": "none of ours"}})
    await until(lambda: world.scene.get(SERVICE, world.mesh.names.istiod, world.mesh.namespace) is None)
    await repaired(world)


async def repaired(world: World) -> None:
    def as_declared() -> bool:
        namespace, names = world.mesh.namespace, world.mesh.names
        config = world.scene.get(CONFIG_MAP, names.mesh_config, namespace)
        return bool(
            world.scene.get(SERVICE, names.istiod, namespace) and config and config["data"]["mesh"] != "none of ours"
        )

    await until(as_declared)
    await world.installed()


@asynccontextmanager
async def stage(cluster: Cluster) -> AsyncIterator[Scene]:
    with short_istio_api(), impatient(), wary():
        async with scene(cluster) as opened:
            yield opened


def end(world: World) -> dict[str, Any]:
    """Without the status: faults go on to the last moment, and so does what is said of them."""
    return {
        name: {part: value for part, value in item.items() if part != "status"}
        if name.startswith("MeshInstall ") else item
        for name, item in World.end(world).items()
    }  # fmt: skip


def workflow(stage: Scene) -> Workflow[World]:
    return Workflow("views", partial(fresh_world, stage), (install_change_drift, World.at_rest), end)


@pytest.mark.parametrize("kind", KINDS)
async def test_under_random_seeds(cluster: Cluster, kind: str, tmp_path: Path) -> None:
    async with stage(cluster) as opened:
        run = partial(runner.run, workflow(opened), kubeconfig=cluster.api.kubeconfig, operator=operator)
        undisturbed = await run(plan.undisturbed(), log=tmp_path / "undisturbed.jsonl")
        slots = asyncio.Semaphore(AT_ONCE)
        counts: Counter[str] = Counter()

        async def disturbed(seed: int) -> str | None:
            async with slots:
                try:
                    found = await run(
                        plan.seeded(seed, KINDS[kind]), log=tmp_path / f"{seed}.jsonl", expected=undisturbed.end
                    )
                except (AssertionError, TimeoutError) as error:
                    return "; ".join([repr(error), *getattr(error, "__notes__", ())])
            deletes = [str(write) for write in found.writes if write.method == "DELETE"]
            counts.update(faults=found.faults, writes=len(found.writes), deletes=len(deletes))
            return f"seed {seed} deleted {', '.join(deletes)}" if deletes else None

        differences = [each for each in await asyncio.gather(*map(disturbed, range(SEEDS))) if each]
    print(f"{kind}: {SEEDS} seeds, {dict(counts)}, {len(differences)} differences")
    assert not differences, "\n".join(differences)


def silent(after: int) -> Plan:
    return plan.distorted(Distorted(silent_after=after), at=lambda call: call.occurrence == 1)


@pytest.mark.parametrize("after", [0, 1, 5])
async def test_watches_that_fall_silent(cluster: Cluster, after: int, tmp_path: Path) -> None:
    async with stage(cluster) as opened:
        run = partial(runner.run, workflow(opened), kubeconfig=cluster.api.kubeconfig, operator=operator)
        undisturbed = await run(plan.undisturbed(), log=tmp_path / "undisturbed.jsonl")
        found = await run(silent(after), log=tmp_path / "silent.jsonl", expected=undisturbed.end)
    assert found.faults >= 10
    assert not [write for write in found.writes if write.method == "DELETE"]


async def test_objects_that_go_in_a_gap(cluster: Cluster, tmp_path: Path) -> None:
    """ERROR 410, and a part of what there was is gone, and another part is new."""
    async with stage(cluster) as opened, fresh_world(opened) as world:

        async def story() -> None:
            await world.declare()
            await world.installed()
            await world.at_rest()
            before = world.end()
            stray = {"name": "stray", "namespace": world.mesh.namespace,
                     "labels": {"app.kubernetes.io/managed-by": "meshwright", **world.owner_labels}}  # fmt: skip
            async with proxy.gap():
                for each in list(opened.objects(world.name)):
                    if each["kind"] in ("Service", "ConfigMap", "ClusterRole", "MutatingWebhookConfiguration"):
                        await world.server.delete(path_of_item(each))
                await world.server.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": stray})
                await until(lambda: world.has(CONFIG_MAP, "stray"))
            await until(lambda: not world.has(CONFIG_MAP, "stray"))
            await until(lambda: world.end().keys() == before.keys())
            await world.installed()
            await world.at_rest()
            after = world.end()
            births = Counter(after.pop("births")) - Counter(before.pop("births"))
            assert list(differences_of(before, after)) == []
            assert set(births.values()) == {1}
            deletes = [str(write) for write in proxy.all_writes if write.method == "DELETE"]
            assert deletes == ["DELETE configmaps NAMESPACE/stray"]

        async with (
            fault_proxy(
                cluster.api.kubeconfig, plan.undisturbed(), names=world.stand_ins, log=tmp_path / "gap.jsonl"
            ) as proxy,
            asyncio.timeout(60),
        ):
            await kept_alive(proxy, partial(operator, world), story())
