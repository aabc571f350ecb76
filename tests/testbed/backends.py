"""Where end-to-end tests run: one small interface, three back ends, chosen by `MESHWRIGHT_E2E_BACKEND`.

local        (default) the beds of this package: Linux and root, nothing else
kind         where a Docker engine answers; with Istio's published images
kubeconfig   one or more existing clusters that can pull images: the contexts of `$KUBECONFIG`
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml

from . import cluster
from .console import TestbedError, run
from .images import DEFAULT_ISTIO, IstioImages

VARIABLE = "MESHWRIGHT_E2E_BACKEND"


@dataclass(frozen=True)
class Member:
    """One cluster under test: a name, and a kubeconfig whose current context is the cluster."""

    name: str
    kubeconfig: Path


class Backend(Protocol):
    """What the end-to-end tests ask of the place they run in."""

    @property
    def kubeconfig(self) -> Path:
        """Of the first cluster, which is the one that most tests use."""

    @property
    def members(self) -> tuple[Member, ...]:
        """All clusters."""

    @property
    def mesh_patch(self) -> dict[str, Any]:
        """Merged into every MeshInstall under test: what this back end's data plane needs."""

    def up(self) -> None: ...

    def down(self) -> None: ...

    def load_image(self, archive: Path, reference: str) -> None:
        """Makes the image `reference` of an OCI archive available to pods in every cluster."""

    def assign_load_balancers(self) -> None:
        """Gives LoadBalancer Services that wait for an address one, where the cluster itself does not."""

    def describe(self) -> str:
        """One line for the head of a test report."""


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386: `target` with `patch` merged into it; neither is changed."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def choose(
    name: str = "e2e",
    *,
    clusters: int = 1,
    nodes: int = 1,
    istio_version: str | None = None,
    metrics_server: bool = False,
    owned: bool = True,
    flat: bool = False,
) -> Backend:
    """The back end that `MESHWRIGHT_E2E_BACKEND` names, not started yet. `owned`: see LocalBackend."""
    chosen = os.environ.get(VARIABLE, "local")
    if chosen == "local":
        istio = IstioImages(istio_version) if istio_version else DEFAULT_ISTIO
        return LocalBackend(
            name, clusters=clusters, nodes=nodes, flat=flat, istio=istio, metrics_server=metrics_server, owned=owned
        )
    if chosen == "kind":
        return KindBackend(name, clusters=clusters, nodes=nodes)
    if chosen == "kubeconfig":
        return KubeconfigBackend(clusters=clusters)
    raise TestbedError(f"{VARIABLE}={chosen} is none of local, kind, kubeconfig")


class LocalBackend:
    """Beds of this package, with the upstream Envoy as data plane.

    Owned, they end with the test process; otherwise they stay until `down`, and `up` finds one that is there.
    """

    def __init__(
        self,
        name: str,
        *,
        clusters: int = 1,
        nodes: int = 1,
        flat: bool = False,
        istio: IstioImages = DEFAULT_ISTIO,
        metrics_server: bool = False,
        owned: bool = True,
    ) -> None:
        self._name, self._owned = name, owned
        self._clusters, self._nodes, self._flat = clusters, nodes, flat
        self._istio, self._metrics_server = istio, metrics_server
        self._bed: cluster.Bed | None = None

    @property
    def bed(self) -> cluster.Bed:
        if self._bed is None:
            raise TestbedError("the back end is not up")
        return self._bed

    @property
    def kubeconfig(self) -> Path:
        return self.bed.clusters[0].kubeconfig

    @property
    def members(self) -> tuple[Member, ...]:
        return tuple(Member(entry.name, entry.kubeconfig) for entry in self.bed.clusters)

    @property
    def mesh_patch(self) -> dict[str, Any]:
        patch: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("upstream-envoy.yaml").read_text())
        return patch

    def up(self) -> None:
        if not self._owned and cluster.is_running(self._name):
            self._bed = cluster.find(self._name)
            return
        self._bed = cluster.up(
            self._name,
            clusters=self._clusters,
            nodes=self._nodes,
            flat=self._flat,
            istio=self._istio,
            metrics_server=self._metrics_server,
            owned=self._owned,
        )

    def down(self) -> None:
        cluster.down(self._name)
        self._bed = None

    def load_image(self, archive: Path, reference: str) -> None:  # noqa: ARG002 - the archive names it
        for entry in self.bed.clusters:
            entry.load_image(archive)

    def assign_load_balancers(self) -> None:
        for entry in self.bed.clusters:
            entry.assign_load_balancers()

    def describe(self) -> str:
        size = f"{self._clusters} cluster(s) of {self._nodes} node(s)"
        return f"local: {size}, upstream Envoy, Istio {self._istio.version}"


class KindBackend:
    """Clusters of `kind`, with Istio's published images.

    Written from kind's documentation; not exercised yet, for want of a Docker engine.
    LoadBalancer Services get an address only if something like cloud-provider-kind runs beside it.
    """

    def __init__(self, name: str, *, clusters: int = 1, nodes: int = 1) -> None:
        self._nodes = nodes
        self._names = [f"meshwright-{name}-{number}" for number in range(1, clusters + 1)]
        self._folder: Path | None = None

    @property
    def kubeconfig(self) -> Path:
        return self.members[0].kubeconfig

    @property
    def members(self) -> tuple[Member, ...]:
        if self._folder is None:
            raise TestbedError("the back end is not up")
        return tuple(Member(name, self._folder / name) for name in self._names)

    @property
    def mesh_patch(self) -> dict[str, Any]:
        return {}

    def up(self) -> None:
        for program in ("docker", "kind"):
            if shutil.which(program) is None:
                raise TestbedError(f"{program} is not installed", f"install it, or set {VARIABLE}=local")
        run(["docker", "info"], timeout=30)
        self._folder = Path(tempfile.mkdtemp(prefix="meshwright-kind-"))
        there = run(["kind", "get", "clusters"], timeout=30).split()
        if set(self._names) <= set(there):
            for member in self.members:
                argv = ["kind", "export", "kubeconfig", "--name", member.name, "--kubeconfig", str(member.kubeconfig)]
                run(argv, timeout=60)
            return
        nodes = [{"role": "control-plane"}, *({"role": "worker"} for _ in range(1, self._nodes))]
        config = json.dumps({"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4", "nodes": nodes})
        try:
            for member in self.members:
                argv = ["kind", "create", "cluster", "--name", member.name, "--wait", "180s"]
                run([*argv, "--kubeconfig", member.kubeconfig, "--config", "-"], stdin=config, timeout=600)
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        for name in self._names:
            run(["kind", "delete", "cluster", "--name", name], timeout=180)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = None

    def load_image(self, archive: Path, reference: str) -> None:  # noqa: ARG002 - the archive names it
        for name in self._names:
            run(["kind", "load", "image-archive", str(archive), "--name", name], timeout=300)

    def assign_load_balancers(self) -> None:
        return

    def describe(self) -> str:
        return f"kind: {len(self._names)} cluster(s), Istio's published images"


class KubeconfigBackend:
    """Existing clusters: the first contexts of `$KUBECONFIG`. They pull every image, the product's too."""

    def __init__(self, *, clusters: int = 1) -> None:
        self._clusters = clusters
        self._folder: Path | None = None
        self._members: tuple[Member, ...] = ()

    @property
    def kubeconfig(self) -> Path:
        return self.members[0].kubeconfig

    @property
    def members(self) -> tuple[Member, ...]:
        if not self._members:
            raise TestbedError("the back end is not up")
        return self._members

    @property
    def mesh_patch(self) -> dict[str, Any]:
        return {}

    def up(self) -> None:
        if not os.environ.get("KUBECONFIG"):
            raise TestbedError("KUBECONFIG is not set", f"point it to a cluster, or set {VARIABLE}=local")
        contexts = run(["kubectl", "config", "get-contexts", "--output", "name"]).split()
        if len(contexts) < self._clusters:
            raise TestbedError(f"KUBECONFIG has {len(contexts)} context(s), the test needs {self._clusters}")
        self._folder = Path(tempfile.mkdtemp(prefix="meshwright-kubeconfig-"))
        self._members = tuple(self._member(context) for context in contexts[: self._clusters])

    def _member(self, context: str) -> Member:
        """A kubeconfig of its own for one context, readable by its owner only: it holds credentials."""
        assert self._folder is not None
        path = self._folder / "".join(letter if letter.isalnum() else "-" for letter in context)
        path.touch(mode=0o600)
        path.write_text(run(["kubectl", "config", "view", "--raw", "--minify", "--flatten", "--context", context]))
        return Member(context, path)

    def down(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder, self._members = None, ()

    def load_image(self, archive: Path, reference: str) -> None:
        """Nothing to do: the cluster pulls `reference`, which must have been pushed before."""

    def assign_load_balancers(self) -> None:
        """Nothing to do: that is for the cluster's own controller."""

    def describe(self) -> str:
        return f"kubeconfig: {', '.join(member.name for member in self._members) or 'not connected'}"
