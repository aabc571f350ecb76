"""The CRDs of Gateway API: the standard channel, of the version that Istio's own Go module requires."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from .console import run
from .programs import SOURCES

MODULE = "sigs.k8s.io/gateway-api"


def crds() -> list[dict[str, Any]]:
    """As manifests, in the order of their names; downloads the module if it is not there yet."""
    # Asked in Istio's module, whose go.mod decides the version.
    answer = run(["go", "mod", "download", "-json", MODULE], cwd=SOURCES / "istio", timeout=600)
    folder = Path(json.loads(answer)["Dir"]) / "config/crd/standard"
    documents = [each for path in sorted(folder.glob("*.yaml")) for each in yaml.safe_load_all(path.read_text())]
    return [each for each in documents if each and each["kind"] == "CustomResourceDefinition"]
