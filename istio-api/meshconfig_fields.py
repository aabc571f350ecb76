"""The fields of Istio's mesh config, from the compiled descriptors in the Go module `istio.io/api`.

    fields(module)["messages"]["istio.mesh.v1alpha1.MeshConfig"]["fields"][0]
    {"name": "proxyListenPort", "proto": "proxy_listen_port", "type": "int32"}

Each `x.pb.go` holds the descriptor of `x.proto` as protoc made it (a FileDescriptorProto), written as one Go string. It is
exact where the text of a .proto file would have to be interpreted: JSON names, qualified types, map entries. A field:

    name, proto  how it is written in JSON, and in snake_case
    type         a scalar (bool, string, bytes, float, double, int32, int64, uint32, uint64), `Duration`, `Struct`, or the
                 full name of an entry in `messages` or `enums`
    repeated     a list of the type
    map          a map from strings to the type
    oneof        of the fields with the same name here, one at most may be set
    present      zero and absent differ (wrappers, and proto3's `optional`)
    deprecated

What is false is left out. `removed` are names in snake_case that were fields once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILE = "mesh/v1alpha1/config.proto"
ROOT = "istio.mesh.v1alpha1.MeshConfig"

# descriptor.proto: FieldDescriptorProto.Type. Istio uses no others; one that is new here stops the build.
SCALARS = {1: "double", 2: "float", 3: "int64", 4: "uint64", 5: "int32", 8: "bool", 9: "string", 12: "bytes", 13: "uint32"}
MESSAGE, ENUM = 11, 14
REPEATED = 3

WELL_KNOWN = {"google.protobuf.Duration": "Duration", "google.protobuf.Struct": "Struct"}
WRAPPERS = {
    "google.protobuf.DoubleValue": "double",
    "google.protobuf.FloatValue": "float",
    "google.protobuf.Int64Value": "int64",
    "google.protobuf.UInt64Value": "uint64",
    "google.protobuf.Int32Value": "int32",
    "google.protobuf.UInt32Value": "uint32",
    "google.protobuf.BoolValue": "bool",
    "google.protobuf.StringValue": "string",
    "google.protobuf.BytesValue": "bytes",
}

# A parsed message of the wire format: field number to values, in order. A length-delimited value stays bytes.
Wire = dict[int, list[Any]]


def fields(module: Path) -> dict[str, Any]:
    """{"root", "messages": {name: {"fields", "removed"}}, "enums": {name: {value: number}}}, as far as MeshConfig reaches."""
    messages, enums = declarations(module)
    found: dict[str, Any] = {"root": ROOT, "messages": {}, "enums": {}}
    waiting = [ROOT]
    while waiting:
        name = waiting.pop()
        if name in enums and name not in found["enums"]:
            found["enums"][name] = values(enums[name])
        elif name in messages and name not in found["messages"]:
            described = [field(each, messages[name], messages) for each in messages[name].get(2, [])]
            found["messages"][name] = {"fields": described, "removed": [text(each) for each in messages[name].get(10, [])]}
            waiting += [each["type"] for each in described]
    return found


def declarations(module: Path) -> tuple[dict[str, Wire], dict[str, Wire]]:
    """Every message and every enum of FILE and what it imports, by full name."""
    messages: dict[str, Wire] = {}
    enums: dict[str, Wire] = {}
    waiting, seen = [FILE], set()
    while waiting:
        path = waiting.pop()
        if path in seen or path.startswith("google/"):
            continue
        seen.add(path)
        file = parsed(descriptor((module / path).with_suffix(".pb.go").read_text()))
        waiting += [text(each) for each in file.get(3, [])]
        package = text(file[2][0])
        enums |= {f"{package}.{text(each[1][0])}": each for each in map(parsed, file.get(5, []))}
        for each in map(parsed, file.get(4, [])):
            declare(each, package, messages, enums)
    return messages, enums


def declare(message: Wire, scope: str, messages: dict[str, Wire], enums: dict[str, Wire]) -> None:
    name = f"{scope}.{text(message[1][0])}"
    messages[name] = message
    enums |= {f"{name}.{text(each[1][0])}": each for each in map(parsed, message.get(4, []))}
    for nested in map(parsed, message.get(3, [])):
        declare(nested, name, messages, enums)


def field(raw: bytes, message: Wire, messages: dict[str, Wire]) -> dict[str, Any]:
    declared = parsed(raw)
    type_name = text(declared.get(6, [b""])[0]).removeprefix(".")
    described: dict[str, Any] = {"name": text(declared[10][0]), "proto": text(declared[1][0])}
    entry = messages.get(type_name, {})
    if parsed(entry.get(7, [b""])[0]).get(7):  # map_entry: a message of key and value that protoc made
        key, value = map(parsed, entry[2])
        if key[5] != [9]:
            raise SystemExit(f"{described['proto']} is a map whose keys are no strings")
        return described | {"type": type_of(value), "map": True}
    described["type"] = type_of(declared)
    described["repeated"] = declared[4] == [REPEATED]
    optional = 17 in declared
    described["present"] = optional or type_name in WRAPPERS
    if 9 in declared and not optional:  # protoc wraps an `optional` field into a oneof of its own
        described["oneof"] = text(parsed(message[8][declared[9][0]])[1][0])
    described["deprecated"] = bool(parsed(declared.get(8, [b""])[0]).get(3))
    return {key: value for key, value in described.items() if value}


def type_of(declared: Wire) -> str:
    kind = declared[5][0]
    if kind not in (MESSAGE, ENUM):
        return SCALARS[kind]
    name = text(declared[6][0]).removeprefix(".")
    known = WELL_KNOWN.get(name) or WRAPPERS.get(name) or name
    if known.startswith("google."):
        raise SystemExit(f"{text(declared[1][0])} is a {name}: how it is written must be taught here and in meshschema.py")
    return known


def values(enum: Wire) -> dict[str, int]:
    return {text(value[1][0]): value.get(2, [0])[0] for value in map(parsed, enum[2])}


# -- the wire format


def parsed(raw: bytes) -> Wire:
    """Tag and value, one after the other; descriptors use varints (0) and length-delimited values (2) only."""
    result: Wire = {}
    position = 0
    while position < len(raw):
        tag, position = varint(raw, position)
        value: int | bytes
        value, position = varint(raw, position)
        if tag & 7 == 2:  # noqa: PLR2004
            position, value = position + value, raw[position : position + value]
        elif tag & 7 != 0:
            raise SystemExit(f"wire type {tag & 7} in a descriptor")
        result.setdefault(tag >> 3, []).append(value)
    return result


def varint(raw: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:  # noqa: PLR2004
            return value, position


def text(raw: bytes) -> str:
    return raw.decode()


# -- the Go source

DECLARATION = re.compile(r'^const file_\w+_rawDesc = ""((?: \+\n\t"(?:[^"\\\n]|\\.)*")+)$', re.MULTILINE)
LITERAL = re.compile(r'"((?:[^"\\\n]|\\.)*)"')
ESCAPE = re.compile(r"\\(x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}|.)|[^\\]+")
SHORT = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92, '"': 34}


def descriptor(source: str) -> bytes:
    """The bytes of the constant, which protoc-gen-go writes as a sum of quoted lines."""
    found = DECLARATION.search(source)
    if found is None:
        raise SystemExit(f"no compiled descriptor where {FILE} and what it imports have theirs")
    return b"".join(unquoted(line) for line in LITERAL.findall(found[1]))


def unquoted(literal: str) -> bytes:
    return b"".join(_pieces(literal))


def _pieces(literal: str) -> Iterator[bytes]:
    for piece in ESCAPE.finditer(literal):
        escape = piece[1]
        if escape is None:
            yield piece[0].encode()
        elif escape[0] == "x":
            yield bytes([int(escape[1:], 16)])
        elif escape[0] in "uU":
            yield chr(int(escape[1:], 16)).encode()
        else:
            yield bytes([SHORT[escape]])
