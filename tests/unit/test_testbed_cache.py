"""What the test bed keeps by content: fingerprints, layers and archives."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from testbed.cache import cache_folder, fingerprint
from testbed.oci import Image, Layer, write_archive, write_layer


def test_a_fingerprint_follows_names_contents_and_words(tmp_path: Path) -> None:
    first, second = tmp_path / "a.go", tmp_path / "b.go"
    first.write_text("one")
    second.write_text("two")
    base = fingerprint(words=["-s"], files=[first, second])
    assert base == fingerprint(words=["-s"], files=[second, first])
    assert base != fingerprint(words=["-s", "-w"], files=[first, second])
    assert base != fingerprint(words=["-s"], files=[first])
    second.write_text("three")
    assert base != fingerprint(words=["-s"], files=[first, second])


def test_a_fingerprint_is_the_same_in_another_checkout(tmp_path: Path) -> None:
    for checkout in ("one", "two"):
        (tmp_path / checkout).mkdir()
        (tmp_path / checkout / "go.mod").write_text("module m")
    assert fingerprint(files=[tmp_path / "one/go.mod"]) == fingerprint(files=[tmp_path / "two/go.mod"])


def test_words_are_not_run_together() -> None:
    assert fingerprint(words=["ab", "c"]) != fingerprint(words=["a", "bc"])


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESHWRIGHT_CACHE", "/one")
    monkeypatch.setenv("XDG_CACHE_HOME", "/two")
    assert cache_folder() == Path("/one")
    monkeypatch.delenv("MESHWRIGHT_CACHE")
    assert cache_folder() == Path("/two/meshwright")


def test_the_same_files_make_the_same_layer(tmp_path: Path) -> None:
    source = tmp_path / "program"
    source.write_bytes(b"ELF")
    layers = []
    for name in ("one.tar", "two.tar"):
        write_layer(tmp_path / name, [(source, "usr/bin/program", 0o755)], folders=[("tmp", 0o1777)])
        layers.append(Layer.of(tmp_path / name))
    assert layers[0].digest == layers[1].digest
    with tarfile.open(tmp_path / "one.tar") as tar:
        assert {entry.name: oct(entry.mode) for entry in tar} == {"tmp": "0o1777", "usr/bin/program": "0o755"}


def test_an_archive_has_every_name_and_a_shared_layer_once(tmp_path: Path) -> None:
    source = tmp_path / "program"
    source.write_bytes(b"ELF")
    write_layer(tmp_path / "layer.tar", [(source, "program", 0o755)])
    layer = Layer.of(tmp_path / "layer.tar")
    names = ["docker.io/istio/pilot:1", "docker.io/istio/proxyv2:1"]
    images = [Image(name, (layer,), entrypoint=(name,), user="1337:1337") for name in names]
    archive = write_archive(tmp_path / "archive.tar", images)
    with tarfile.open(archive) as tar:
        members = tar.getnames()
        index = json.loads(_content(tar, "index.json"))
        first = json.loads(_content(tar, "blobs/" + index["manifests"][0]["digest"].replace(":", "/")))
        config = json.loads(_content(tar, "blobs/" + first["config"]["digest"].replace(":", "/")))
    assert len(members) == len(set(members))
    assert [entry["annotations"]["io.containerd.image.name"] for entry in index["manifests"]] == names
    assert first["layers"][0]["digest"] == layer.digest
    assert config["rootfs"]["diff_ids"] == [layer.digest]
    assert config["config"]["User"] == "1337:1337"
    assert "Cmd" not in config["config"]


def _content(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    assert file is not None
    return file.read()
