"""What members cost the operator: 99 kubeconfigs that all lead to one API server.

Each is a member of its own to the operator: a client, watches, a probe, questions about permissions, and a look every
quarter of a minute. As they are one and the same cluster, the pre-flight checks leave all but one as they are, so what
it costs to apply and to ask is not in the figures.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator

import yaml

from api.world import Cluster, Mesh
from bench import operators
from bench.figure import Figure
from testbed.apiserver import ApiServer, api_server
from testbed.product import NAMESPACE

MEMBERS = 99  # with the operator's own, as many as a mesh may have
SETTLE = 90.0
WINDOW = 60.0


def figures() -> Iterator[Figure]:
    with api_server() as api:
        operators.prepare(api)
        cluster = Cluster(api)
        with operators.meshwright(api) as (operator, _):
            operators.install(operators.quickstart(cluster))
            time.sleep(WINDOW / 6)
            before = operator.resident_mebibytes()
            names = [f"m{number}" for number in range(MEMBERS)]
            api.kubectl("apply", "-f", "-", stdin=json.dumps(secrets(api, names)))
            mesh = operators.quickstart(cluster)
            listed = [{"name": "primary"}, *({"name": name, "kubeconfigSecret": name} for name in names)]
            flat = {"model": "FlatNetwork"}  # without gateways, whose Services nobody here would give an address
            cluster.merge(mesh.path, {"spec": {"clusters": listed, "topology": flat}})
            operators.until(lambda: seen(mesh) == MEMBERS + 1 or None, pause=1.0)
            time.sleep(SETTLE)
            each = (operator.resident_mebibytes() - before) / MEMBERS
            started, used = time.monotonic(), operator.processor_seconds()
            time.sleep(WINDOW)
            share = (operator.processor_seconds() - used) / (time.monotonic() - started)
    yield Figure("members", each, "MiB each", "≤ 5 MiB", f"none; {MEMBERS} members of one API server, not applied to")
    yield Figure("members-cpu", share, "cores", "≤ 1", "none; the same at rest")


def secrets(api: ApiServer, names: list[str]) -> dict[str, object]:
    """The administrator's kubeconfig for each."""
    kubeconfig = base64.b64encode(json.dumps(yaml.safe_load(api.kubeconfig.read_text())).encode()).decode()
    items = [
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE},
         "data": {"kubeconfig": kubeconfig}}
        for name in names
    ]  # fmt: skip
    return {"apiVersion": "v1", "kind": "List", "items": items}


def seen(mesh: Mesh) -> int:
    """How many clusters there are that answered."""
    found = (mesh.read().get("status") or {}).get("clusters", [])
    return sum(bool(each.get("uid")) for each in found)
