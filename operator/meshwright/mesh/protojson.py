"""How istiod reads a single value of its configuration, and refuses it.

istiod reads YAML through golang/protobuf's jsonpb, which is more lenient than protojson, and so are we: numbers may be
quoted, a duration is what Go's `time.ParseDuration` takes, an enum may be given by number. Stricter we are where istiod
silently reads something else: a number that is no value of its enum means nothing, and null leaves the field unset.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

INTEGERS = {
    "int32": range(-(2**31), 2**31),
    "int64": range(-(2**63), 2**63),
    "uint32": range(2**32),
    "uint64": range(2**64),
}
WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,19})")
NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
NOT_FINITE = ("NaN", "Infinity", "-Infinity")
DURATION = re.compile(r"[-+]?(0|(([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)")
AMOUNT = re.compile(r"([0-9]*)\.?([0-9]*)(ns|us|µs|μs|ms|s|m|h)")
NANOSECONDS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
SHOWN = 60  # characters of a value in a message


class Mistyped(ValueError):
    """istiod would refuse the value; the text says what it is, and what to write."""

    def __init__(self, value: Any, expected: str) -> None:
        super().__init__(f"{shown(value)} is no {expected}")


def shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Mistyped(value, "boolean: write true or false, without quotes")
    return value


def string(value: Any) -> str:
    if not isinstance(value, str):
        raise Mistyped(value, f"text: write it in quotes{f', {shown(shown(value))}' if _scalar(value) else ''}")
    return value


def double(value: Any) -> float:
    if value in NOT_FINITE and isinstance(value, str):
        return float(value)
    number: Any = value
    if isinstance(value, str) and NUMBER.fullmatch(value.strip(" ")):
        number = float(value)
    finite = isinstance(number, int | float) and -sys.float_info.max <= number <= sys.float_info.max
    if isinstance(number, bool) or not finite:
        raise Mistyped(value, "number: write one such as 0.5")
    return float(number)


def integer(value: Any, *, kind: str) -> int:
    quoted = isinstance(value, str) and WHOLE.fullmatch(value.strip(" "))
    whole = isinstance(value, float) and value.is_integer()
    number = int(value) if quoted or whole else value
    allowed = INTEGERS[kind]
    if isinstance(number, int) and not isinstance(number, bool) and number in allowed:
        return number
    raise Mistyped(value, f"integer from {allowed.start} to {allowed.stop - 1}")


def duration(value: Any) -> int:
    """Nanoseconds."""
    if isinstance(value, str) and DURATION.fullmatch(value):
        total: int = sum(
            int((whole or "0") + part) * NANOSECONDS[unit] // 10 ** len(part)
            for whole, part, unit in AMOUNT.findall(value)
        )
        if total < 2**63:
            return -total if value.startswith("-") else total
    example = f"{value}s" if isinstance(value, int) and not isinstance(value, bool) else "30s"
    raise Mistyped(value, f"duration: write {example}, or with the units ms, m and h")


def enum(value: Any, *, values: Mapping[str, int]) -> int:
    if isinstance(value, str) and value in values:
        return values[value]
    if not isinstance(value, bool) and isinstance(value, int | float) and value in values.values():
        return int(value)
    raise Mistyped(value, f"value of this field: write {' or '.join(values)}")


def struct(value: Any) -> Any:
    """Free-form; what is in it is taken as it is."""
    if not isinstance(value, Mapping):
        raise Mistyped(value, "object: write {key: value}")
    return _free(value)


def _free(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _free(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_free(item) for item in value]
    return double(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _scalar(value: Any) -> bool:
    return isinstance(value, bool | int | float) and (not isinstance(value, float) or math.isfinite(value))


Reader = Callable[[Any], Any]
READERS: dict[str, Reader] = {
    "bool": boolean,
    "string": string,
    "double": double,
    "Duration": duration,
    "Struct": struct,
    **{kind: partial(integer, kind=kind) for kind in INTEGERS},
}
ZERO: dict[str, Any] = {"bool": False, "string": "", "double": 0.0, **dict.fromkeys(INTEGERS, 0)}
