"""The fields of Istio's mesh config, from the compiled descriptors in the Go module `istio.io/api`.

    fields(module)["messages"]["istio.mesh.v1alpha1.MeshConfig"]["fields"][0]
    {"name": "proxyListenPort", "proto": "proxy_listen_port", "type": "int32"}

Each `x.pb.go` holds the descriptor of `x.proto` as protoc made it (a FileDescriptorProto), written as one Go string.
It is exact where the text of a .proto file would have to be interpreted: JSON names, qualified types, map entries.
A field:

    name, proto  how it is written in JSON, and in snake_case
    type         a scalar (bool, string, double, int32, int64, uint32, uint64), `Duration`, `Struct`, or the full name
                 of an entry in `messages` or `enums`
    repeated     a list of the type
    map          a map from strings to the type
    oneof        of the fields with the same name here, one at most may be set
    present      zero and absent differ (wrappers, and proto3's `optional`)
    deprecated

What is false is left out. `removed` are names in snake_case that were fields once.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import Any

FILE = "mesh/v1alpha1/config.proto"
ROOT = "istio.mesh.v1alpha1.MeshConfig"

# The numbers of descriptor.proto. Types that Istio does not use are left out: a new one stops the build.
NAME = 1  # of a file, message, field, enum, value, oneof


class File(IntEnum):
    PACKAGE = 2
    IMPORTS = 3
    MESSAGES = 4
    ENUMS = 5


class Message(IntEnum):
    FIELDS = 2
    NESTED = 3
    ENUMS = 4
    OPTIONS = 7
    ONEOFS = 8
    REMOVED = 10


class Field(IntEnum):
    LABEL = 4
    KIND = 5
    TYPE_NAME = 6
    OPTIONS = 8
    ONEOF = 9
    JSON_NAME = 10
    OPTIONAL = 17


SCALARS = {1: "double", 3: "int64", 4: "uint64", 5: "int32", 8: "bool", 9: "string", 13: "uint32"}
KIND_STRING, KIND_MESSAGE, KIND_ENUM = 9, 11, 14
LABEL_REPEATED = 3
OPTION_DEPRECATED, OPTION_MAP_ENTRY = 3, 7
VALUES_OF_ENUM = NUMBER_OF_VALUE = 2
VARINT, LENGTH_DELIMITED = 0, 2

WELL_KNOWN = {"google.protobuf.Duration": "Duration", "google.protobuf.Struct": "Struct"}
WRAPPERS = {
    "google.protobuf.DoubleValue": "double",
    "google.protobuf.Int64Value": "int64",
    "google.protobuf.UInt64Value": "uint64",
    "google.protobuf.Int32Value": "int32",
    "google.protobuf.UInt32Value": "uint32",
    "google.protobuf.BoolValue": "bool",
    "google.protobuf.StringValue": "string",
}

# A message of the wire format: field number to values, in order. Nested messages stay bytes until they are looked at.
Wire = dict[int, list[Any]]


def fields(module: Path) -> dict[str, Any]:
    """{"root", "messages": {name: {"fields", "removed"}}, "enums": {name: {value: number}}} that MeshConfig reaches."""
    messages, enums = declarations(module)
    found: dict[str, Any] = {"root": ROOT, "messages": {}, "enums": {}}
    waiting = [ROOT]
    while waiting:
        name = waiting.pop()
        if name in enums:
            found["enums"][name] = values(enums[name])
        elif name in messages and name not in found["messages"]:
            message = messages[name]
            described = [field(parsed(each), message, messages) for each in message[Message.FIELDS]]
            removed = [text(each) for each in message[Message.REMOVED]]
            found["messages"][name] = {"fields": described, "removed": removed}
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
        waiting += [text(each) for each in file[File.IMPORTS]]
        package = text(file[File.PACKAGE][0])
        enums |= named(file[File.ENUMS], package)
        for name, message in named(file[File.MESSAGES], package).items():
            declare(name, message, messages, enums)
    return messages, enums


def declare(name: str, message: Wire, messages: dict[str, Wire], enums: dict[str, Wire]) -> None:
    messages[name] = message
    enums |= named(message[Message.ENUMS], name)
    for inner, nested in named(message[Message.NESTED], name).items():
        declare(inner, nested, messages, enums)


def named(declared: list[bytes], scope: str) -> dict[str, Wire]:
    return {f"{scope}.{text(each[NAME][0])}": each for each in map(parsed, declared)}


def field(declared: Wire, message: Wire, messages: dict[str, Wire]) -> dict[str, Any]:
    described: dict[str, Any] = {"name": text(declared[Field.JSON_NAME][0]), "proto": text(declared[NAME][0])}
    entry = messages.get(type_name(declared))
    if entry is not None and option(entry[Message.OPTIONS], OPTION_MAP_ENTRY):  # a message of key and value, by protoc
        key, value = map(parsed, entry[Message.FIELDS])
        if key[Field.KIND] != [KIND_STRING]:
            raise SystemExit(f"{described['proto']} is a map whose keys are no strings: teach it here")
        return described | {"type": type_of(value), "map": True}
    optional = bool(declared[Field.OPTIONAL])
    described["type"] = type_of(declared)
    described["repeated"] = declared[Field.LABEL] == [LABEL_REPEATED]
    described["present"] = optional or type_name(declared) in WRAPPERS
    if declared[Field.ONEOF] and not optional:  # protoc wraps an `optional` field into a oneof of its own
        described["oneof"] = text(parsed(message[Message.ONEOFS][declared[Field.ONEOF][0]])[NAME][0])
    described["deprecated"] = option(declared[Field.OPTIONS], OPTION_DEPRECATED)
    return {key: value for key, value in described.items() if value}


def type_of(declared: Wire) -> str:
    kind = declared[Field.KIND][0]
    if kind not in (KIND_MESSAGE, KIND_ENUM):
        return SCALARS[kind]
    name = type_name(declared)
    known = WELL_KNOWN.get(name) or WRAPPERS.get(name) or name
    if known.startswith("google."):
        raise SystemExit(f"{text(declared[NAME][0])} is a {name}: teach it here and in mesh/meshschema.py")
    return known


def type_name(declared: Wire) -> str:
    return text(declared[Field.TYPE_NAME][0]).removeprefix(".") if declared[Field.TYPE_NAME] else ""


def option(options: list[bytes], number: int) -> bool:
    return any(parsed(each)[number] == [1] for each in options)


def values(enum: Wire) -> dict[str, int]:
    return {text(each[NAME][0]): sum(each[NUMBER_OF_VALUE]) for each in map(parsed, enum[VALUES_OF_ENUM])}


# -- the wire format


def parsed(raw: bytes) -> Wire:
    """Tag and value, one after the other; a number that is missing has no values."""
    result: Wire = defaultdict(list)
    position = 0
    while position < len(raw):
        tag, position = varint(raw, position)
        value, position = varint(raw, position)
        if tag & 7 == LENGTH_DELIMITED:
            result[tag >> 3].append(raw[position : position + value])
            position += value
        elif tag & 7 == VARINT:
            result[tag >> 3].append(value)
        else:
            raise SystemExit(f"wire type {tag & 7} in a descriptor, which has none such")
    return result


def varint(raw: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if not byte & 0x80:
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
