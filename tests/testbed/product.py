"""Meshwright on a cluster, installed as anywhere: its image from the Dockerfile, and `kubectl apply -k`."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from . import images, programs
from .backends import Backend, KubeconfigBackend, LocalBackend, merge_patch
from .cache import cache_folder
from .console import TestbedError, run, step

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "manifests/default"
OPERATOR = ROOT / "manifests/operator"
NAMESPACE = "meshwright-system"

T = TypeVar("T")


def operator_image_name() -> str:
    kustomization = yaml.safe_load((ROOT / "manifests/base/kustomization.yaml").read_text())
    (image,) = kustomization["images"]
    return f"{image['name']}:{image['newTag']}"


def operator_image() -> tuple[str, Path]:
    """The operator's image name and its archive, built anew only when something in it changed."""
    name = operator_image_name()
    wheels = sorted((ROOT / "dist/wheels").glob("*.whl"))
    if not wheels:
        raise TestbedError("dist/wheels is empty", "make wheelhouse")
    digest = hashlib.sha256(images.base_archive().name.encode())
    for path in (ROOT / "Dockerfile", *wheels):
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    archive = cache_folder() / "images" / f"operator-{digest.hexdigest()[:16]}.tar"
    if not archive.exists():
        built = images.product_image(ROOT, name)
        for stale in archive.parent.glob("operator-*.tar"):
            stale.unlink()
        built.rename(archive)
    return name, archive


class Product:
    """One cluster of a back end, seen through kubectl as a user sees it."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._kubectl = shutil.which("kubectl") or programs.kubectl()

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout: float = 60) -> str:
        """Raises TestbedError with kubectl's own words when it fails."""
        return run(self.command(*arguments), stdin=stdin, env=self.environment, timeout=timeout)

    def command(self, *arguments: str) -> list[str]:
        return [str(self._kubectl), *arguments]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "KUBECONFIG": str(self._backend.kubeconfig)}

    def get(self, *arguments: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "--output=json"))
        return answer

    def exists(self, *arguments: str) -> bool:
        return bool(self.kubectl("get", *arguments, "--ignore-not-found", "--output=name").strip())

    def install(self) -> None:
        """Installs the operator and waits until it is ready."""
        version = ""
        if not isinstance(self._backend, KubeconfigBackend):
            name, archive = operator_image()
            version = archive.stem
            with step(f"load {name}"):
                self._backend.load_image(archive, name)
                if not isinstance(self._backend, LocalBackend):  # whose nodes have it already
                    self._backend.load_image(images.cluster_archive(), images.APP_IMAGE)
        with step("install the operator: kubectl apply --server-side -k manifests/default"):
            self.kubectl("apply", "--server-side", "--force-conflicts", "-k", str(MANIFESTS))
            # Another image under the same tag: without a change in the pod template the old pod would stay.
            patch = {"spec": {"template": {"metadata": {"annotations": {"meshwright.dev/image": version}}}}}
            self.kubectl("-n", NAMESPACE, "patch", "deployment/meshwright", "--type=merge", "-p", json.dumps(patch))
            self.kubectl("-n", NAMESPACE, "rollout", "status", "deployment/meshwright", "--timeout=120s", timeout=130)

    def uninstall(self) -> None:
        """Removes the operator and its namespace, with the meshes' root keys; meshes must be gone."""
        self.kubectl("delete", "-k", str(OPERATOR), "--ignore-not-found", "--timeout=120s", timeout=130)

    def let_into(self, namespace: str) -> None:
        """What a mesh outside `istio-system` needs first: its namespace, and the operator's permissions in it."""
        if not self.exists("namespace", namespace):
            self.kubectl("create", "namespace", namespace)
        if not self.exists("rolebinding", "meshwright", "-n", namespace):
            account = f"--serviceaccount={NAMESPACE}:meshwright"
            role = "--clusterrole=meshwright-mesh-namespace"
            self.kubectl("create", "rolebinding", "meshwright", "-n", namespace, role, account)

    def delete_mesh(self, mesh: str, *, seconds: int = 90) -> None:
        """As soon as its sidecars are gone: before that the API server refuses. One that is gone is fine."""
        if not self.exists("mesh", mesh):
            return
        wait = ("wait", f"mesh/{mesh}", "--for=jsonpath={.status.proxies}=0", f"--timeout={seconds}s")
        self.kubectl(*wait, timeout=seconds + 10)
        self.kubectl("delete", "mesh", mesh, f"--timeout={seconds}s", timeout=seconds + 10)

    def mesh(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """A MeshInstall with what this back end's data plane needs."""
        patched: dict[str, Any] = merge_patch(manifest, self._backend.mesh_patch)
        return patched

    def apply(self, *manifests: dict[str, Any]) -> None:
        self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(manifests))

    def leader(self) -> str:
        """The pod that holds the operator's lease; empty while nobody does."""
        holder: str = self.get("lease", "meshwright", "-n", NAMESPACE)["spec"].get("holderIdentity") or ""
        return holder.partition("_")[0]

    def wait_ready(self, mesh: str, *, seconds: int = 90) -> None:
        self.kubectl("wait", f"mesh/{mesh}", "--for=condition=Ready", f"--timeout={seconds}s", timeout=seconds + 10)

    def condition(self, mesh: str, kind: str = "Ready") -> dict[str, Any]:
        """The condition, or an empty one where the mesh has none yet."""
        conditions = self.get("mesh", mesh).get("status", {}).get("conditions", [])
        return next((each for each in conditions if each["type"] == kind), {})


def eventually(probe: Callable[[], T], *, seconds: float = 30, every: float = 0.5) -> T:
    """What `probe` gives as soon as it is true; what it gave last, if it never is."""
    end = time.monotonic() + seconds
    while not (value := probe()) and time.monotonic() < end:
        time.sleep(every)
    return value
