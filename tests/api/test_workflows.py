"""Every workflow with a crash at every write, and install and delete with every kind of refusal: the same end."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.world import Cluster, short_istio_api
from faults.life import impatient, operator
from faults.runner import crash_at_every_write
from faults.scene import scene
from faults.workflows import WORKFLOWS, Recipe


@pytest.mark.parametrize("recipe", WORKFLOWS, ids=lambda recipe: recipe.name)
async def test_crashed_at_every_write(cluster: Cluster, recipe: Recipe, tmp_path: Path) -> None:
    with short_istio_api(), impatient():
        async with scene(cluster) as stage, recipe.on(stage) as workflow:
            result = await crash_at_every_write(
                workflow, kubeconfig=cluster.api.kubeconfig, operator=operator, logs=tmp_path, at_once=recipe.at_once
            )
    assert not result.differences, "\n".join(result.differences)
