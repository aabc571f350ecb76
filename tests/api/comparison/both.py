"""The objects of both sides: Meshwright's own decide and render, and the istioctl of the test bed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import yaml

from api.comparison.intents import Intent
from meshes import rendered, waves
from meshwright.mesh.objects import Rendered
from testbed import programs

Json = dict[str, Any]
DEFINITION = "CustomResourceDefinition"
SECONDS = 120


def ours(intent: Intent) -> list[Json]:
    return [_born(each) for each in rendered(**intent.mesh)]


def our_definitions() -> list[Json]:
    return [_born(each) for wave in waves() if wave.name == "crds" for each in wave.objects]


def theirs(intent: Intent) -> list[Json]:
    return [_read(text) for text in _generated(intent) if f"\nkind: {DEFINITION}\n" not in text]


def their_definitions(intent: Intent) -> list[Json]:
    return [_read(text) for text in _generated(intent) if f"\nkind: {DEFINITION}\n" in text]


def _born(each: Rendered) -> Json:
    """As it is created; that includes what is set once and is somebody else's later."""
    return each.birth.manifest if each.birth else each.manifest


def _generated(intent: Intent) -> Iterator[str]:
    """The documents that istioctl writes, as texts: reading Istio's definitions takes longer than all the rest."""
    command = [str(programs.build(programs.istioctl())), "manifest", "generate", "--filename", "-"]
    written = json.dumps(intent.operator())
    # Away from home: a kubeconfig that lies there would be asked for the cluster's version.
    environment = {"HOME": "/nonexistent", "KUBECONFIG": "/dev/null"}
    answer = subprocess.run(
        command, input=written, env=environment, check=True, capture_output=True, text=True, timeout=SECONDS
    )
    return (text for text in f"\n{answer.stdout}".split("\n---\n") if text.strip())


def _read(text: str) -> Json:
    manifest: Json = yaml.load(text, yaml.CSafeLoader)
    return manifest
