"""LabelSelectors, as Kubernetes objects carry them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Labels = Mapping[str, str]
Test = Callable[[str | None, Sequence[str]], bool]  # of a label's value (None: it is absent), and the values listed

OPERATORS: dict[str, Test] = {
    "In": lambda value, listed: value in listed,
    "NotIn": lambda value, listed: value not in listed,
    "Exists": lambda value, _: value is not None,
    "DoesNotExist": lambda value, _: value is None,
}


def selects(selector: Mapping[str, Any], labels: Labels) -> bool:
    """Whether all that `matchLabels` and `matchExpressions` say holds; of nothing said, it does.

    Raises KeyError for an operator that there is not, which an API server does not store.
    """
    equal = (labels.get(name) == value for name, value in (selector.get("matchLabels") or {}).items())
    return all(equal) and all(_holds(each, labels) for each in selector.get("matchExpressions") or ())


def _holds(expression: Mapping[str, Any], labels: Labels) -> bool:
    test = OPERATORS[expression["operator"]]
    return test(labels.get(expression["key"]), expression.get("values") or ())
