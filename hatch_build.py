"""Takes Istio's CRDs from the pinned Go module `istio.io/api` into the package, at build time.

The module's version and checksums are in `istio-api/go.mod` and `go.sum`; the definitions themselves are not
copied into the repository. They are stored as JSON because the operator reads them at start.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import yaml
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MODULE = "istio.io/api"
DEFINITIONS = "kubernetes/customresourcedefinitions.gen.yaml"
ATTEMPTS = 3


class IstioCRDs(BuildHookInterface):  # type: ignore[misc]
    """Writes `operator/meshwright/istio_api/crds.json`: {"version": "v1.31.4", "items": [CRD, …]}."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        del version, build_data
        root = Path(self.root)
        target = root / "operator/meshwright/istio_api/crds.json"
        wanted = (root / "istio-api/go.sum").read_text().split()[1]
        if target.exists() and json.loads(target.read_text())["version"] == wanted:
            return
        module = download(root / "istio-api")
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        documents = yaml.load_all((Path(module["Dir"]) / DEFINITIONS).read_text(), Loader=loader)
        items = [document for document in documents if document]
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_suffix(".tmp")
        fresh.write_text(json.dumps({"version": module["Version"], "items": items}, separators=(",", ":")))
        fresh.replace(target)


def download(folder: Path) -> dict[str, str]:
    """The module as Go knows it (`Dir`, `Version`), checked against go.sum."""
    go = shutil.which("go")
    if go is None:
        raise SystemExit(f"building Meshwright needs Go on the PATH: it fetches {MODULE} (see {folder}/go.mod)")
    for attempt in range(1, ATTEMPTS + 1):
        done = subprocess.run(
            [go, "mod", "download", "-json", MODULE],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        if done.returncode == 0:
            module: dict[str, str] = json.loads(done.stdout)
            return module
        if attempt < ATTEMPTS:
            time.sleep(5 * attempt)
    raise SystemExit(f"go mod download {MODULE} failed {ATTEMPTS} times: {done.stderr or done.stdout}")
