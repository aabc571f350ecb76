"""MeshInstalls, snapshots and rendered objects for tests: as small as they can be, each part replaceable."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path
from typing import Any

from meshwright.api.meshinstall import API_VERSION, FINALIZER, KIND, MeshInstall, MeshSpec, MeshStatus
from meshwright.mesh.desired import ControlPlane, TrustIntent, decide
from meshwright.mesh.names import Names
from meshwright.mesh.objects import Manifest, Rendered, Wave
from meshwright.mesh.observed import Cluster, Injector, Istiod, Observed
from meshwright.mesh.trust import Trust
from meshwright.render.objects import render

Json = dict[str, Any]

REPOSITORY = Path(__file__).parents[1]
NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
VERSION = "1.31.4"
TRUST = Trust("a" * 64, NOW + dt.timedelta(days=3650), "b" * 64, NOW + dt.timedelta(days=365))


def manifest(name: str = "demo", **spec: Any) -> Json:
    """A MeshInstall as a person writes it; keywords are fields of spec in the wire's spelling."""
    body: Json = {"version": VERSION, **spec}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": body}


def mesh(name: str = "demo", *, status: MeshStatus | None = None, generation: int = 1, **spec: Any) -> MeshInstall:
    return MeshInstall(
        name=name,
        uid=f"uid-of-{name}",
        generation=generation,
        finalizers=(FINALIZER,),
        spec=MeshSpec.model_validate({"version": VERSION, **spec}),
        status=status or MeshStatus(),
    )


def observed(subject: MeshInstall | None = None, **parts: Any) -> Observed:
    """A snapshot of one empty cluster."""
    subject = subject or mesh()
    defaults: Json = {"created": "2026-02-01T00:00:00Z", "clusters": (Cluster(name=subject.spec.cluster_name),)}
    return Observed(now=NOW, mesh=subject, **{**defaults, **parts})


def istiod(**parts: Any) -> Istiod:
    """The Deployment of mesh `demo` as it is when everything is well (of size Small)."""
    healthy = Istiod(
        namespace="istio-system", name="istiod", revision="default", owner="demo", managers=("meshwright",),
        generation=1, observed_generation=1, replicas=2, existing=2, updated=2, available=2,
    )  # fmt: skip
    return replace(healthy, **parts)


def injector(**parts: Any) -> Injector:
    healthy = Injector("istio-sidecar-injector", "default", owner="demo", managers=("meshwright",), trusted=True)
    return replace(healthy, **parts)


def cluster(**parts: Any) -> Cluster:
    """An empty one, but for `parts`."""
    return Cluster(**{"name": "primary", **parts})


def plane(*, seen: tuple[Cluster, ...] | None = None, **spec: Any) -> ControlPlane:
    """What is decided for the first of the clusters, or for an empty one."""
    decision = decide(observed(mesh(**spec), **({"clusters": seen} if seen else {})))
    assert decision.finding is None, decision.finding
    return decision.control_planes[0]


def waves(**spec: Any) -> tuple[Wave, ...]:
    return render(plane(**spec), TRUST)


def rendered(**spec: Any) -> list[Rendered]:
    """All objects of a mesh but Istio's CRDs."""
    return [each for wave in waves(**spec) if wave.name != "crds" for each in wave.objects]


def one(objects: list[Rendered], kind: str, name: str | None = None) -> Manifest:
    """The only object of `kind` (and `name`)."""
    found = [each.manifest for each in objects if each.key.kind == kind and name in (None, each.key.name)]
    assert len(found) == 1, f"{len(found)} objects of kind {kind}"
    return found[0]


def intent(**parts: Any) -> TrustIntent:
    names = Names("istio-system", "default")
    usual: Json = {
        "mesh": "demo", "mesh_id": "cluster.local", "trust_domain": "cluster.local", "cluster": "primary",
        "root_secret": "meshwright-root-demo", "namespace": names.namespace, "signing_secret": "cacerts",
    }  # fmt: skip
    return TrustIntent(**{**usual, **parts})
