"""OCI image archives, written directly: an image is a list of layers and a configuration.

Layers are uncompressed: an archive goes from one folder of a machine to another, and unpacking gzip is most
of the time that an import would take. The layers of a shared base are written, stored and imported once.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_EPOCH = "1970-01-01T00:00:00Z"


@dataclass(frozen=True)
class Layer:
    """A tar file and its digest."""

    path: Path
    digest: str
    size: int

    @classmethod
    def of(cls, path: Path) -> Layer:
        """The digest is kept beside the file, which never changes: hashing a large one takes its time."""
        beside = path.with_suffix(".digest")
        if not beside.exists():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            beside.write_text(f"sha256:{digest}")
        return cls(path, beside.read_text(), path.stat().st_size)


@dataclass(frozen=True)
class Image:
    """A named image; `reference` is complete, as in docker.io/istio/pilot:1.31.4."""

    reference: str
    layers: tuple[Layer, ...]
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    user: str = ""
    env: tuple[str, ...] = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",)
    labels: dict[str, str] = field(default_factory=dict)


def write_layer(path: Path, files: Sequence[tuple[Path, str, int]], folders: Sequence[tuple[str, int]] = ()) -> None:
    """A layer of (source, path in image, mode) files and (path, mode) folders; the same in, the same out."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, mode in folders:
            entry = tarfile.TarInfo(name.strip("/"))
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        for source, name, mode in files:
            entry = tarfile.TarInfo(name.strip("/"))
            entry.size, entry.mode = source.stat().st_size, mode
            with source.open("rb") as file:
                tar.addfile(entry, file)


def write_archive(path: Path, images: Sequence[Image]) -> Path:
    """One archive with all images; a layer that several of them have is in it once."""
    unfinished = path.with_name(path.name + ".part")
    with tarfile.open(unfinished, "w", format=tarfile.GNU_FORMAT) as tar:
        written: set[str] = set()
        manifests = [_add_image(tar, image, written) for image in images]
        index = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": manifests,
        }
        _add(tar, "index.json", _encode(index))
        _add(tar, "oci-layout", _encode({"imageLayoutVersion": "1.0.0"}))
    unfinished.rename(path)
    return path


def _add_image(tar: tarfile.TarFile, image: Image, written: set[str]) -> dict[str, object]:
    for layer in image.layers:
        if layer.digest not in written:
            written.add(layer.digest)
            entry = tarfile.TarInfo(_blob(layer.digest))
            entry.size, entry.mode = layer.size, 0o644
            with layer.path.open("rb") as file:
                tar.addfile(entry, file)
    config = _describe(tar, _CONFIG, configuration(image), written)
    layers = [{"mediaType": _LAYER, "digest": layer.digest, "size": layer.size} for layer in image.layers]
    manifest = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": config, "layers": layers}
    annotations = {
        # The first is what containerd names the image by, the second is the standard's.
        "io.containerd.image.name": image.reference,
        "org.opencontainers.image.ref.name": image.reference,
    }
    return {**_describe(tar, _MANIFEST, manifest, written), "annotations": annotations}


def configuration(image: Image) -> dict[str, object]:
    """The image's configuration as the standard has it."""
    config = {
        "User": image.user,
        "Env": list(image.env),
        "Entrypoint": list(image.entrypoint),
        "Cmd": list(image.command),
        "WorkingDir": "/",
        "Labels": image.labels,
    }
    return {
        "created": _EPOCH,
        "architecture": "amd64",
        "os": "linux",
        "config": {key: value for key, value in config.items() if value},
        "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in image.layers]},
        "history": [{"created": _EPOCH} for _ in image.layers],
    }


def _describe(tar: tarfile.TarFile, media_type: str, content: object, written: set[str]) -> dict[str, object]:
    encoded = _encode(content)
    digest = f"sha256:{hashlib.sha256(encoded).hexdigest()}"
    if digest not in written:
        written.add(digest)
        _add(tar, _blob(digest), encoded)
    return {"mediaType": media_type, "digest": digest, "size": len(encoded)}


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    tar.addfile(entry, io.BytesIO(content))


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _encode(content: object) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
