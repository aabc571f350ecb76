"""docs/how-to/clusters.md, done by its own words: its commands and its MeshInstalls."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from testbed.product import ROOT, Product

Manifest = dict[str, Any]
TEXT = (ROOT / "docs/how-to/clusters.md").read_text()
BLOCK = re.compile(r"^```(console|sh)\n(.*?)^```", re.MULTILINE | re.DOTALL)
STEPS = ("## 1. Let the operator into the member", "## 2. Give the operator the kubeconfig")
SECONDS = 90


def mesh(name: str) -> Manifest:
    """The MeshInstall of that name in the text."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    found = (yaml.safe_load(each) for each in blocks)
    return next(each for each in found if each.get("kind") == "MeshInstall" and each["metadata"]["name"] == name)


def commands(section: str) -> str:
    """The first block with commands of a section, without the prompts."""
    kind, text = next(iter(BLOCK.findall(TEXT.partition(f"{section}\n")[2])))
    return re.sub(r"^\$ ", "", text, flags=re.MULTILINE) if kind == "console" else text


def let_in(kubeconfigs: Mapping[str, Path], *, own: Product, name: str) -> None:
    """Steps 1 and 2 of the text for the member `name`, of clusters by name, the operator's being `east`."""
    script = "\n".join(commands(each) for each in STEPS)
    script = re.sub(r"\bwest\b", name, script)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config")
        path.write_text(yaml.safe_dump(_merged(kubeconfigs)))
        path.chmod(0o600)
        tools = Path(own.command()[0]).parent
        environment = {**os.environ, "KUBECONFIG": str(path), "PATH": f"{tools}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True,
            timeout=SECONDS, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr


def _merged(kubeconfigs: Mapping[str, Path]) -> Manifest:
    """A context for each, by its name."""
    found = {name: yaml.safe_load(path.read_text()) for name, path in kubeconfigs.items()}
    return {
        "apiVersion": "v1", "kind": "Config",
        "clusters": [{"name": name, "cluster": each["clusters"][0]["cluster"]} for name, each in found.items()],
        "users": [{"name": name, "user": each["users"][0]["user"]} for name, each in found.items()],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}} for name in found],
    }  # fmt: skip
