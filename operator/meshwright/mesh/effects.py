"""What the actions that are in force make of istiod. Nothing else remembers that it was scaled."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from meshwright.api.meshaction import MeshAction, Phase, Shape
from meshwright.api.meshinstall import ResourceList, Resources, Size
from meshwright.api.scaling import Action
from meshwright.mesh import quantity
from meshwright.mesh.availability import Bounds
from meshwright.mesh.sizing import Sizing, size_of

NONE = Shape()


def effect(journal: Iterable[MeshAction], cluster: str) -> Shape:
    """All that is in force in a cluster, as one: the most of each."""
    shapes = [each for each in journal if each.in_force and each.spec.cluster == cluster]
    sizes = [
        each.spec.after.size
        for each in shapes
        if each.spec.action is Action.RESIZE and each.phase is Phase.ACTING and each.spec.after.size
    ]
    memories = [str(each.spec.after.memory) for each in shapes if each.spec.after.memory is not None]
    return Shape(
        replicas=max((each.spec.after.replicas for each in shapes if each.spec.after.replicas), default=None),
        max_replicas=max(
            (each.spec.after.max_replicas for each in shapes if each.spec.after.max_replicas), default=None
        ),
        size=sizes[-1] if sizes else None,
        memory=max(memories, key=quantity.parse, default=None),
    )


def resources(override: Resources, size: Size, shape: Shape) -> Resources:
    """What replaces quantities of a size's row, with the memory that an action gave."""
    if shape.memory is None:
        return override
    has = size_of(size, override).share.limits.memory
    if quantity.parse(has) >= quantity.parse(str(shape.memory)):
        return override
    limits = ResourceList(cpu=override.limits.cpu, memory=shape.memory)
    return Resources(requests=override.requests, limits=limits)


def bounds(declared: Bounds | None, shape: Shape) -> Bounds | None:
    """An autoscaler's, with the replicas that actions added."""
    if declared is None or shape.replicas is None:
        return declared
    minimum = max(declared.minimum, shape.replicas)
    return replace(declared, minimum=minimum, maximum=max(declared.maximum, minimum, shape.max_replicas or 0))


def sizing(declared: Sizing, shape: Shape) -> Sizing:
    """Without an autoscaler, its replicas are declared themselves."""
    return replace(declared, replicas=max(declared.replicas, shape.replicas or 0))
