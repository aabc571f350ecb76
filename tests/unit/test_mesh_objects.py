"""Objects on their way: a packed one is what it was."""

from __future__ import annotations

from meshwright.mesh.objects import Packed, Rendered

MANIFEST = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "n", "name": "a"}, "data": {"x": "ü\n"}}


def test_a_packed_object_is_what_it_was() -> None:
    packed, plain = Packed(MANIFEST), Rendered(MANIFEST)
    assert packed.manifest == MANIFEST
    assert (packed.key, packed.digest, packed.birth, packed.handed_over) == (plain.key, plain.digest, None, ())


def test_who_changes_a_manifest_that_was_packed_changes_a_copy() -> None:
    packed = Packed(MANIFEST)
    packed.manifest["data"]["x"] = "changed"
    assert packed.manifest == MANIFEST
