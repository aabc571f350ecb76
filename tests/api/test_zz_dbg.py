from api.world import Mesh, Operator
async def test_x(op: Operator, mesh: Mesh) -> None:
    mesh.create()
    await op.install(mesh)
    mesh.change(controlPlane={"size": "Medium"})
    for _ in range(4):
        await op.reconcile(mesh)
        print(op.wire.writes(), mesh.condition()["message"])
        d=mesh.cluster.must_get(mesh.deployment_path)
        print(d["metadata"]["annotations"], d["spec"]["template"]["spec"]["containers"][0]["resources"], d["metadata"]["generation"])
    assert 0
