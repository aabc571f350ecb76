"""`kubectl mesh render`: the operator's own decide and render, on a cluster that is imagined to be empty."""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

from meshwright.api.errors import InvalidSpec
from meshwright.api.meshinstall import KIND, MeshInstall
from meshwright.cli.output import document, documents
from meshwright.mesh.desired import decide
from meshwright.mesh.objects import Manifest
from meshwright.mesh.observed import Cluster, Observed
from meshwright.render.objects import render

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)  # nothing that is rendered depends on the time


def run(file: str, *, output: str, crds: bool) -> int:
    manifests = [manifest for mesh in meshes(file) for manifest in objects(mesh, crds=crds)]
    if output == "json":
        print(document({"apiVersion": "v1", "kind": "List", "items": manifests}, output), end="")
    else:
        print(documents(manifests), end="")
    return 0


def meshes(file: str) -> Iterator[MeshInstall]:
    """The MeshInstalls in a file. Raises InvalidSpec."""
    return map(MeshInstall.parse, read(file))


def read(file: str) -> Iterator[Manifest]:
    """The same as they are written there. Raises InvalidSpec for what is no object at all."""
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text()
        # By way of JSON, like kubectl: what is no JSON (a date, a number as a key) becomes text, shared parts copies.
        found = [json.loads(json.dumps(each, default=str)) for each in yaml.safe_load_all(text) if each is not None]
    except OSError as error:
        raise InvalidSpec(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidSpec(f"{file} is not text") from None
    except yaml.YAMLError as error:
        raise InvalidSpec(f"{file} is not YAML: {' '.join(str(error).split())}") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidSpec(f"{file} has no form as JSON: {error}") from None
    if not found:
        raise InvalidSpec(f"{file} holds no {KIND}")
    for each in found:
        if not isinstance(each, dict):
            raise InvalidSpec(f"{file} holds {type(each).__name__} where a {KIND} should be")
        yield each


def objects(mesh: MeshInstall, *, crds: bool) -> Iterator[Manifest]:
    observed = Observed(now=EPOCH, mesh=mesh, clusters=tuple(Cluster(name=each.name) for each in mesh.spec.members))
    desired = decide(observed)
    if desired.finding:
        raise InvalidSpec(f"{KIND} {mesh.name}: {desired.finding.message}")
    for plane in desired.control_planes:
        for wave in render(plane, trust=None):
            if wave.name != "crds" or crds:
                yield from (rendered.manifest for rendered in wave.objects)
