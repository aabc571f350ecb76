"""Faults between an operator and a real API server: seeded, counted, and the same again when a log is replayed.

    async with fault_proxy(api.kubeconfig, plan.crash(at=3, committed=True)) as proxy:
        client = Client(proxy.configuration())

| module | what is in it |
| --- | --- |
| `call` | a request as plans see it |
| `plan` | what goes wrong with which call: the faults and the plans |
| `stream` | what a watch's events become on a bad day |
| `past` | what reads were answered with before |
| `proxy` | the HTTP in between |
| `runner` | a workflow run undisturbed, then once for each write with a crash there |
"""
