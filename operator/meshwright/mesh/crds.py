"""May Istio's CRDs, as we ship them, take the place of those that are in the cluster?

A CRD is shared by all meshes, and what it does not know the API server prunes from every object that it stores. So one
that somebody else installed, or that came from another version of `istio.io/api`, gives way to ours only when nothing
that it holds today could get lost: ours must be a superset.
"""

from __future__ import annotations

from collections.abc import Iterator

from meshwright.mesh.objects import Manifest

Schema = Manifest

KEEPS_UNKNOWN = "x-kubernetes-preserve-unknown-fields"
EMBEDDED = "x-kubernetes-embedded-resource"
INT_OR_STRING = "int-or-string"
ANYTHING = "of any type"

# The types that take all values of another one, too.
WIDER = {"integer": ("number", INT_OR_STRING), "string": (INT_OR_STRING,)}

# What is kept, whatever it is.
ANY: Schema = {KEEPS_UNKNOWN: True, "nullable": True}

# Every whole object has these, whether its schema says so or not.
IMPLIED: dict[str, Schema] = {
    "apiVersion": {"type": "string"},
    "kind": {"type": "string"},
    "metadata": {"type": "object", KEEPS_UNKNOWN: True},
}


def hindrance(ours: Manifest, theirs: Manifest) -> str | None:
    """Why `ours` must not replace the live `theirs`: the CRD, the version, and the first thing that ours lacks.

    None when ours is a superset that stores objects in the same version.
    """
    found = next(_hindrances(ours, theirs), None)
    return found and f"CustomResourceDefinition {theirs['metadata']['name']}{found}"


def _hindrances(ours: Manifest, theirs: Manifest) -> Iterator[str]:
    """In the order of their weight, each as the end of a sentence that begins with the CRD's name."""
    yield from _other_identity(ours["spec"], theirs["spec"])
    yield from _other_ways_to_store(ours["spec"], theirs)
    our_versions = {version["name"]: version for version in ours["spec"]["versions"]}
    for version in theirs["spec"]["versions"]:
        name = version["name"]
        for lack in _lacks_of_version(our_versions.get(name), version):
            yield f", version {name}: {lack}"


def _other_identity(ours: Manifest, theirs: Manifest) -> Iterator[str]:
    for path in (("group",), ("scope",), ("names", "plural"), ("names", "kind")):
        our, their = _at(ours, path), _at(theirs, path)
        if our != their:
            yield f": {'.'.join(path)} is {their}, and {our} in ours"


def _other_ways_to_store(ours: Manifest, theirs: Manifest) -> Iterator[str]:
    spec = theirs["spec"]
    if (strategy := _at(spec, ("conversion", "strategy")) or "None") != "None":
        yield f": its objects are converted by a {strategy}, and not at all by ours"
    if spec.get("preserveUnknownFields"):
        yield ": it keeps unknown fields everywhere, and ours does not"
    if (our := _stored_in(ours)) != (their := _stored_in(spec)):
        yield f": its objects are stored in version {their}, and in {our} by ours"
    known = {version["name"] for version in ours["versions"]}
    # Every version that objects were ever stored in: some may still be, until somebody rewrites them.
    for version in (theirs.get("status") or {}).get("storedVersions") or ():
        if version not in known:
            yield f", version {version}: objects may be stored in it, and ours does not have it"


def _stored_in(spec: Manifest) -> str | None:
    return next((version["name"] for version in spec["versions"] if version["storage"]), None)


def _lacks_of_version(ours: Manifest | None, theirs: Manifest) -> Iterator[str]:
    if theirs["served"] and not (ours and ours["served"]):
        yield "ours does not serve it"
    if ours is None:
        return
    for name, subresource in (theirs.get("subresources") or {}).items():
        if _at(ours, ("subresources", name)) != subresource:
            yield f"ours does not have its subresource {name}"
    yield from _lacks(ours["schema"]["openAPIV3Schema"], theirs["schema"]["openAPIV3Schema"], "")


# What is compared of two schemas is which fields and values they can hold. Their validations (CEL rules, patterns,
# bounds, lengths, formats, oneOf, list types) may differ in any way: a stricter one loses nothing that is stored, and
# an object that breaks it can still be updated elsewhere (from 1.30 on, Kubernetes checks only what an update changes:
# "ratcheting"). Istio adds such rules with every version, so to mind them were to refuse every upgrade.
# `required` and `enum` are minded: whoever leaves out a field, or writes a value, must be able to go on with it.


def _lacks(ours: Schema, theirs: Schema, path: str) -> Iterator[str]:
    """What `theirs` can hold and `ours` cannot, at `path` and below it; both are structural schemas."""
    here = path.removeprefix(".") or "the object itself"
    if not _takes(ours, theirs):
        yield f"{here} is {_type(theirs)}, and {_type(ours)} in ours"
        return
    if theirs.get("nullable") and not ours.get("nullable"):
        yield f"{here} may be null, and not in ours"
    yield from _lacking_values(ours, theirs, here)
    for name in sorted(set(ours.get("required") or ()).difference(theirs.get("required") or ())):
        yield f"{path}.{name}".removeprefix(".") + " may be left out, and not in ours"
    for mark, what in ((KEEPS_UNKNOWN, "unknown fields"), (EMBEDDED, "a whole object")):
        if theirs.get(mark) and not (ours.get(mark) or ours.get(KEEPS_UNKNOWN)):
            yield f"{here} keeps {what}, and not in ours"
    yield from _lacking_below(ours, theirs, path)


def _takes(ours: Schema, theirs: Schema) -> bool:
    our, their = _type(ours), _type(theirs)
    return our in (their, ANYTHING, *WIDER.get(their, ()))


def _type(schema: Schema) -> str:
    if schema.get("x-kubernetes-int-or-string"):
        return INT_OR_STRING
    return str(schema.get("type") or ANYTHING)


def _lacking_values(ours: Schema, theirs: Schema, here: str) -> Iterator[str]:
    if (values := ours.get("enum")) is None:
        return
    if "enum" not in theirs:
        yield f"{here} may have any value, and only {len(values)} in ours"
    for value in theirs.get("enum") or ():
        if value not in values:
            yield f"{here} may be {value!r}, and not in ours"


def _lacking_below(ours: Schema, theirs: Schema, path: str) -> Iterator[str]:
    """Fields, values of maps and items of lists."""
    our_fields, their_fields = ours.get("properties") or {}, theirs.get("properties") or {}
    if not path or ours.get(EMBEDDED):
        our_fields = {**our_fields, **IMPLIED}
    our_values, their_values = _values(ours), _values(theirs)
    rest = our_values or (ANY if ours.get(KEEPS_UNKNOWN) else None)
    for name in sorted(their_fields):
        yield from _lacks_or_missing(our_fields.get(name, rest), their_fields[name], f"{path}.{name}")
    if their_values:
        yield from _lacks_or_missing(rest, their_values, f"{path}.*")
    if items := theirs.get("items"):
        yield from _lacks_or_missing(ours.get("items", rest), items, f"{path}[]")


def _values(schema: Schema) -> Schema | None:
    """The schema of a map's values; None when it is no map."""
    values: Schema | bool | None = schema.get("additionalProperties")
    return ANY if values is True else values or None


def _lacks_or_missing(ours: Schema | None, theirs: Schema, path: str) -> Iterator[str]:
    if ours is None:
        yield f"{path.removeprefix('.')} is missing in ours"
    else:
        yield from _lacks(ours, theirs, path)


def _at(manifest: Manifest, path: tuple[str, ...]) -> object:
    found: object = manifest
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    return found
