"""What a MeshInstall made is taken away again, step by step: webhooks first, then istiod, then the rest, then what
istiod itself left behind.

CRDs and namespaces stay: other things rest on them. So does what an annotation takes out of our hands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from meshwright.cluster.client import Client, Manifest
from meshwright.cluster.kinds import (
    AUTOSCALER,
    CONFIG_MAP,
    DAEMON_SET,
    DEPLOYMENT,
    GATEWAY_CLASS,
    LEASE,
    MUTATING_WEBHOOK,
    NAMESPACE,
    OWNED,
    POD,
    VALIDATING_WEBHOOK,
    Kind,
    kind_of,
)
from meshwright.cluster.survey import MANAGER, is_disabled
from meshwright.cluster.together import together
from meshwright.mesh.gateways import NETWORK
from meshwright.mesh.leftovers import leftovers
from meshwright.mesh.names import CNI_AGENT, Names
from meshwright.mesh.objects import Owner, Step, selector_of
from meshwright.mesh.observed import Istiod
from meshwright.mesh.observed import pods as counted
from meshwright.mesh.ownership import owns
from meshwright.mesh.primaries import CONTROL_PLANE_CLUSTERS

WEBHOOKS = (MUTATING_WEBHOOK, VALIDATING_WEBHOOK)
RUNNING = (AUTOSCALER, DEPLOYMENT, DAEMON_SET)
REST = tuple(kind for kind in OWNED if kind not in (*WEBHOOKS, *RUNNING))
STEPS = 4
PUBLISHED = "istio.io/config=true"  # what istiod puts on the ConfigMaps that it writes into every namespace


async def remove(
    client: Client, owner: Owner, names: Names, *, istiods: Iterable[Istiod], root: str | None,
    proceed: Callable[[], None] = lambda: None,
) -> Step | None:  # fmt: skip
    """Repeatable at any point. What is still waited for; None when everything is gone.

    `istiods`: all of the cluster; `root`: the fingerprint of the mesh's root, by which what istiod published is known;
    `proceed`: called before each delete, raises when the work has been overtaken.
    Everything else is read here, and from the API server: an informer that lags behind would leave things for ever.
    """
    await _delete(client, WEBHOOKS, owner, proceed)
    excepted = await _delete(client, RUNNING, owner, proceed)
    # An istiod that still runs would make again what it left.
    if pods := await client.list(POD, names.namespace, labels=selector_of(names.selector), metadata_only=True):
        kept = f"; Deployment {', '.join(excepted)}, which an annotation excepts, keeps them" if excepted else ""
        return Step(2, STEPS, "control plane", f"{_named(pods, of='istiod')} to end{kept}")
    # istio-cni takes its plugin from the nodes when it ends, and asks the API server until then.
    if agents := await _agents(client, names):
        return Step(2, STEPS, "control plane", f"{_named(agents, of='istio-cni')} to end")
    await _delete(client, REST, owner, proceed)
    await _give_back(client, names, proceed)
    others = [each for each in istiods if (each.namespace, each.name) != (names.namespace, names.istiod)]
    live = await _what_istiod_left(client, names)
    for manifest in leftovers(live, names=names, roots=frozenset({root} if root else ()), others=others):
        proceed()
        await client.delete(kind_of(manifest["apiVersion"], manifest["kind"]), manifest)
    return None


async def _delete(client: Client, kinds: Iterable[Kind], owner: Owner, proceed: Callable[[], None]) -> list[str]:
    """What an annotation excepts, by `namespace/name`."""
    excepted = []
    for kind in kinds:
        for head in await client.list(kind, labels=owner.selector, metadata_only=True):
            if is_disabled(head):
                excepted.append(f"{head['metadata'].get('namespace', '')}/{head['metadata']['name']}")
                continue
            proceed()
            await client.delete(kind, head)
    return excepted


async def _give_back(client: Client, names: Names, proceed: Callable[[], None]) -> None:
    """The namespace stays, without what of ours says which network its pods are in, and whose istiod serves them."""
    namespace = await client.get(NAMESPACE, names.namespace)
    ours = (("metadata", "labels", NETWORK), ("metadata", "annotations", CONTROL_PLANE_CLUSTERS))
    if namespace and any(owns(namespace, MANAGER, each) for each in ours):
        proceed()
        bare = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": names.namespace}}
        await client.apply(NAMESPACE, bare, field_manager=MANAGER)


async def _what_istiod_left(client: Client, names: Names) -> list[Manifest]:
    questions = (
        (CONFIG_MAP, "", PUBLISHED),
        (CONFIG_MAP, names.namespace, ""),
        (LEASE, names.namespace, ""),
        (GATEWAY_CLASS, "", ""),
    )
    answers = await together(*(client.list(kind, namespace, labels=labels) for kind, namespace, labels in questions))
    return [
        {"apiVersion": kind.api_version, "kind": kind.kind, **item}
        for (kind, _, _), items in zip(questions, answers, strict=True)
        for item in items
    ]


async def _agents(client: Client, names: Names) -> list[Manifest]:
    """Pods of an istio-cni of ours that is gone; one that is there still is somebody else's, or excepted."""
    if await client.get(DAEMON_SET, CNI_AGENT, names.namespace, metadata_only=True):
        return []
    return await client.list(POD, names.namespace, labels=f"k8s-app={CNI_AGENT}", metadata_only=True)


def _named(pods: list[Manifest], *, of: str) -> str:
    names = ", ".join(f"{each['metadata']['namespace']}/{each['metadata']['name']}" for each in pods[:3])
    return f"{counted(len(pods))} of {of} ({names}{', …' if len(pods) > 3 else ''})"  # noqa: PLR2004
