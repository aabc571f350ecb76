"""Who made an object, as its managed fields tell."""

from __future__ import annotations

from meshwright.cluster.client import Manifest


def installers(manifest: Manifest) -> tuple[str, ...]:
    """The field managers that wrote the object itself, sorted: controllers only ever write its status."""
    fields = manifest["metadata"].get("managedFields") or ()
    return tuple(sorted({each["manager"] for each in fields if each.get("manager") and "subresource" not in each}))
