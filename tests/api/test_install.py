from api.world import *
async def test_x(op, mesh):
    import time
    mesh.create()
    for i in range(3):
        t=time.time(); print(await op.reconcile(mesh), time.time()-t, len(op.wire.sent)); print(mesh.condition())
        print(op.wire.writes())
    mesh.istiod_becomes_available()
    t=time.time(); print(await op.reconcile(mesh), time.time()-t, len(op.wire.sent)); print(mesh.condition())
    print(op.wire.writes())
    mesh.istiod_writes_its_ca()
    t=time.time(); print(await op.reconcile(mesh), time.time()-t, len(op.wire.sent)); print(mesh.condition())
    print(op.wire.everything_written())
    t=time.time(); print(await op.reconcile(mesh), time.time()-t, len(op.wire.sent)); print(mesh.status)
    print(op.wire.everything_written())
    t=time.time(); print(len(mesh.cluster.snapshot()), time.time()-t)
    t=time.time(); print(len(canonical(mesh)), time.time()-t)
    t=time.time(); print(mesh.take_away(), time.time()-t)
