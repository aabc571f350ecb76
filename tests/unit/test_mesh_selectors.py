"""LabelSelectors: each operator, alone and together."""

from __future__ import annotations

from typing import Any

import pytest

from meshwright.mesh.selectors import selects

Json = dict[str, Any]


def expression(operator: str, *values: str, key: str = "a") -> Json:
    return {"matchExpressions": [{"key": key, "operator": operator, **({"values": list(values)} if values else {})}]}


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        ({}, [True, True, True]),
        ({"matchLabels": None, "matchExpressions": None}, [True, True, True]),
        ({"matchLabels": {"a": "x"}}, [False, True, False]),
        ({"matchLabels": {"a": ""}}, [False, False, False]),
        (expression("In", "x", "z"), [False, True, False]),
        (expression("NotIn", "x", "z"), [True, False, True]),
        (expression("Exists"), [False, True, True]),
        (expression("DoesNotExist"), [True, False, False]),
        ({"matchLabels": {"a": "x"}, **expression("Exists", key="b")}, [False, False, False]),
        ({"matchLabels": {"a": "y"}, **expression("Exists", key="b")}, [False, False, True]),
    ],
)
def test_which_labels_a_selector_selects(selector: Json, selected: list[bool]) -> None:
    assert [selects(selector, labels) for labels in ({}, {"a": "x"}, {"a": "y", "b": ""})] == selected


def test_an_operator_that_there_is_not() -> None:
    with pytest.raises(KeyError):
        selects(expression("Like", "x"), {})
