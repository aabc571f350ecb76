"""Takes what the operator knows of Istio's API from the pinned Go modules `istio.io/api`, at build time.

* `istio_api/crds.json`, from the newest: {"version": "v1.31.4", "items": [CRD, …]}
* `istio_api/mesh_config-1.31.json`, one for each minor: {"version": "v1.31.4", "root", "messages", "enums"}, the fields
  of the mesh config; `istio-api/meshconfig_fields.py` describes them

The modules' versions and checksums are in `istio-api/<minor>/go.mod` and `go.sum`; nothing of theirs is copied into the
repository. What is taken is JSON because the operator reads it at start.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PINS = Path(__file__).parent / "istio-api"
sys.path.append(str(PINS))
import meshconfig_fields  # noqa: E402

MODULE = "istio.io/api"
DEFINITIONS = "kubernetes/customresourcedefinitions.gen.yaml"
NEWEST = "1.31"
ATTEMPTS = 3

Extract = Callable[[Path], dict[str, Any]]


class IstioAPI(BuildHookInterface):  # type: ignore[misc]
    """Writes what is missing, and what was made from other modules or by another version of this code."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        del version, build_data
        target = Path(self.root) / "operator/meshwright/istio_api"
        target.mkdir(parents=True, exist_ok=True)
        refresh(target / "crds.json", PINS / NEWEST, definitions)
        for pin in sorted(each.parent for each in PINS.glob("*/go.mod")):
            refresh(target / f"mesh_config-{pin.name}.json", pin, meshconfig_fields.fields)


def refresh(file: Path, pin: Path, extract: Extract) -> None:
    """Makes `file` from the module that is pinned in the folder `pin`, unless it was made from the same already."""
    source = hashlib.sha256()
    for each in (pin / "go.mod", pin / "go.sum", Path(__file__), Path(meshconfig_fields.__file__)):
        source.update(each.read_bytes())
    if file.exists() and json.loads(file.read_text()).get("source") == source.hexdigest():
        return
    module = download(pin)
    taken = {"version": module["Version"], "source": source.hexdigest(), **extract(Path(module["Dir"]))}
    fresh = file.with_suffix(".tmp")
    fresh.write_text(json.dumps(taken, separators=(",", ":")))
    fresh.replace(file)


def definitions(module: Path) -> dict[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    documents = yaml.load_all((module / DEFINITIONS).read_text(), Loader=loader)
    return {"items": [document for document in documents if document]}


def download(pin: Path) -> dict[str, str]:
    """The module as Go knows it (`Dir`, `Version`), checked against go.sum."""
    go = shutil.which("go")
    if go is None:
        raise SystemExit(f"building Meshwright needs Go on the PATH: it fetches {MODULE} (see {pin}/go.mod)")
    for attempt in range(1, ATTEMPTS + 1):
        done = subprocess.run(
            [go, "mod", "download", "-json", MODULE],
            cwd=pin,
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
