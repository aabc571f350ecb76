"""The objects of both sides: Meshwright's own decide and render, and the istioctl of the test bed."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from api.comparison.intents import Intent
from meshes import VERSION, rendered, waves
from testbed import programs

Json = dict[str, Any]


def ours(intent: Intent) -> list[Json]:
    """But for Istio's CRDs. What is set at an object's birth only, is part of it."""
    return [each.birth.manifest if each.birth else each.manifest for each in rendered(**intent.mesh)]


def our_crds() -> list[Json]:
    return [each.manifest for wave in waves() if wave.name == "crds" for each in wave.objects]


def theirs(intent: Intent) -> list[Json]:
    return [each for each in _generated(intent) if each["kind"] != CRD]


def their_crds(intent: Intent) -> list[Json]:
    return [each for each in _generated(intent) if each["kind"] == CRD]
