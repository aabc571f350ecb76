import pytest, time
from faults import plan
from api.world import short_istio_api
from faults.life import impatient, operator
from faults.runner import run
from faults.scene import scene
from faults.workflows import WORKFLOWS
@pytest.mark.parametrize("recipe", WORKFLOWS, ids=lambda r: r.name)
async def test_und(cluster, recipe, tmp_path):
    with short_istio_api(), impatient():
        async with scene(cluster) as stage, recipe.on(stage) as wf:
            t = time.monotonic()
            r = await run(wf, plan.undisturbed(), kubeconfig=cluster.api.kubeconfig, operator=operator, log=tmp_path/"x")
            print(f"RESULT {recipe.name} writes={len(r.writes)} s={time.monotonic()-t:.1f} roots={r.end['roots']}", r.writes)
