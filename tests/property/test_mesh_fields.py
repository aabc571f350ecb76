"""Any mesh config that the field list allows is allowed, and in force as it is; one wrong leaf is found where it is."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.mesh.meshschema import Field, Schema, below, differences, minors, problems, schema

Json = dict[str, Any]
Place = tuple[str, Any, Any]  # path, what holds it, key or index in it

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=6)
SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "bool": st.booleans(),
    "string": NAMES,
    "double": st.floats(0, 100) | st.just("0.5"),
    "int32": st.integers(-(2**31), 2**31 - 1) | st.just("15001") | st.just(15001.0),
    "int64": st.integers(-(2**63), 2**63 - 1) | st.just("-5"),
    "uint32": st.integers(0, 2**32 - 1),
    "Duration": st.sampled_from(["30s", "1h", "1.5h", "-5s", "0", "1m30s", "250ms"]),
    "Struct": st.dictionaries(NAMES, st.none() | st.booleans() | st.integers(0, 9) | NAMES, max_size=2),
}
DEEPEST = 5


def messages(known: Schema, type_: str, depth: int = 0) -> st.SearchStrategy[Json]:
    rows = {row.name: row for row in known.messages[type_].fields.values()}
    if depth == DEEPEST:
        return st.just({})
    chosen = st.lists(st.sampled_from(sorted(rows)), unique=True, max_size=4) if rows else st.just([])
    return chosen.map(lambda names: one_of_each(rows, names)).flatmap(
        lambda names: st.fixed_dictionaries({name: values(known, rows[name], depth) for name in names})
    )


def one_of_each(rows: dict[str, Field], names: list[str]) -> list[str]:
    taken = {rows[name].oneof or name: name for name in names}
    return sorted(taken.values())


def values(known: Schema, row: Field, depth: int) -> st.SearchStrategy[Any]:
    if row.type in known.messages:
        item: st.SearchStrategy[Any] = messages(known, row.type, depth + 1)
    elif row.type in known.enums:
        numbers = known.enums[row.type]
        item = st.sampled_from([*numbers, *numbers.values()])
    else:
        item = SCALARS[row.type]
    if row.name == "extensionProviders":
        return st.lists(item, max_size=3).map(with_different_names)
    if row.repeated:
        return st.lists(item, max_size=3)
    return st.dictionaries(NAMES, item, max_size=2) if row.map else item


def with_different_names(providers: list[Json]) -> list[Json]:
    return [{**each, "name": f"provider-{index}"} for index, each in enumerate(providers)]


def configs(minor: tuple[int, int]) -> st.SearchStrategy[Json]:
    return messages(schema(minor), schema(minor).root)


def leaves(known: Schema, type_: str, config: Json, path: str) -> Iterator[tuple[Place, Field]]:
    """Every place of a config that holds a single value, and every empty message."""
    rows = known.messages[type_].fields
    for key, value in config.items():
        row, here = rows[key], below(path, key)
        items: list[Place] = [(here, config, key)]
        if row.repeated:
            items = [(f"{here}[{index}]", value, index) for index in range(len(value))]
        elif row.map:
            items = [(below(here, each), value, each) for each in value]
        for item in items:
            held = item[1][item[2]]
            if row.type in known.messages and held:
                yield from leaves(known, row.type, held, item[0])
            else:
                yield item, row


@pytest.mark.parametrize("minor", minors())
def test_what_the_field_list_allows_is_no_problem_and_no_different_from_itself(minor: tuple[int, int]) -> None:
    @given(configs(minor))
    def check(config: Json) -> None:
        assert problems(config, minor=minor) == []
        assert differences(config, config, minor=minor) == []

    check()


@pytest.mark.parametrize("minor", minors())
def test_one_wrong_leaf_is_found_where_it_is(minor: tuple[int, int]) -> None:
    known = schema(minor)

    @given(configs(minor), st.data())
    def check(config: Json, data: st.DataObject) -> None:
        places = list(leaves(known, known.root, config, "spec.meshConfig"))
        if not places:
            return
        (path, holder, key), row = data.draw(st.sampled_from(places))
        if row.name == "name" and path.startswith("spec.meshConfig.extensionProviders["):
            wrong: Any = 5
        else:
            wrong = data.draw(
                st.sampled_from([None, [], 5] if row.type in ("bool", "string") else [None, [], True, "?"])
            )
        holder[key] = wrong
        assert [line.split(": ")[0] for line in problems(config, minor=minor)] == [path.split(": ")[0]]

    check()


@pytest.mark.parametrize("minor", minors())
def test_one_unknown_field_is_found_where_it_is(minor: tuple[int, int]) -> None:
    known = schema(minor)

    @given(configs(minor), st.data())
    def check(config: Json, data: st.DataObject) -> None:
        objects = [("spec.meshConfig", config), *inner(known, known.root, config, "spec.meshConfig")]
        path, holder = data.draw(st.sampled_from(objects))
        holder["notOfIstio"] = data.draw(st.sampled_from([None, 1, {}, "x"]))
        (line,) = problems(config, minor=minor)
        assert line.startswith(f"{path}.notOfIstio: no such field in Istio {minor[0]}.{minor[1]}")

    check()


def inner(known: Schema, type_: str, config: Json, path: str) -> Iterator[tuple[str, Json]]:
    rows = known.messages[type_].fields
    for key, value in config.items():
        here = below(path, key)
        if rows[key].type not in known.messages or rows[key].map:
            continue
        for index, item in enumerate(value if rows[key].repeated else [value]):
            at = f"{here}[{index}]" if rows[key].repeated else here
            yield at, item
            yield from inner(known, rows[key].type, item, at)


@pytest.mark.parametrize("minor", minors())
def test_one_leaf_that_is_not_in_force_is_found_where_it_is(minor: tuple[int, int]) -> None:
    known = schema(minor)

    @given(configs(minor), st.data())
    def check(config: Json, data: st.DataObject) -> None:
        config.pop("trustDomainAliases", None)  # a set: its members have no place
        config.pop("extensionProviders", None)  # known by name, which is a leaf, too
        effective = copy.deepcopy(config)
        places = [
            (place, row)
            for place, row in leaves(known, known.root, effective, "meshConfig")
            if row.type in ("bool", "string", "Duration")
        ]
        if not places:
            return
        (path, holder, key), row = data.draw(st.sampled_from(places))
        other: dict[str, Any] = {"bool": not holder[key], "string": f"{holder[key]}x", "Duration": "7s"}
        holder[key] = other[row.type]
        found = differences(config, effective, minor=minor)
        assert len(found) == 1
        assert found[0].startswith(f"{path}: declared ")

    check()
