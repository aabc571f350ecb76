"""Reasons: the table, and that the code says no others (and says each)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

import pytest

from meshes import REPOSITORY, one, rendered
from meshwright.api import errors
from meshwright.api.conditions import PARTS, READY, REASONS, RECONCILING, STALLED, TYPES, Reason
from meshwright.api.errors import ExternalError, FinalError, MeshwrightError, TransientError
from meshwright.api.meshinstall import COMPUTED_ENV

SOURCE = REPOSITORY / "operator/meshwright"


def subclasses(cls: type[MeshwrightError]) -> Iterator[type[MeshwrightError]]:
    yield cls
    for sub in cls.__subclasses__():
        yield from subclasses(sub)


def findings() -> Iterator[tuple[str, str]]:
    """Where, and with which reason, the source makes a Finding out of a literal."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Finding":
                reason = node.args[0] if node.args else next(key.value for key in node.keywords if key.arg == "reason")
                if isinstance(reason, ast.Constant):
                    yield f"{path.relative_to(REPOSITORY)}:{node.lineno}", str(reason.value)


ERRORS = tuple(dict.fromkeys(subclasses(MeshwrightError)))
FINDINGS = tuple(findings())


def test_the_search_for_findings_finds_them() -> None:
    assert len(FINDINGS) > 10


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_an_error_carries_a_documented_reason(error: type[MeshwrightError]) -> None:
    assert error.reason in REASONS


@pytest.mark.parametrize(("where", "reason"), FINDINGS)
def test_a_finding_carries_a_documented_reason(where: str, reason: str) -> None:
    assert reason in REASONS, where


def test_no_reason_is_documented_that_is_never_given() -> None:
    used = {error.reason for error in ERRORS} | {reason for _, reason in FINDINGS}
    assert set(REASONS) - used == set()


@pytest.mark.parametrize("row", REASONS.values(), ids=REASONS.keys())
def test_a_row_reads_well(row: Reason) -> None:
    assert re.fullmatch(r"(CNI)?([A-Z][a-z]+)+", row.name)
    assert row.ready in {"True", "False", "Unknown"}
    assert row.means.endswith(".")
    assert row.next_step.endswith(".")
    # What is stalled asks somebody to act; what is not, need not.
    assert not (row.stalled and row.next_step == "Nothing.")
    assert not (row.stalled and row.ready != "False")


def test_the_docstring_shows_the_whole_tree_of_errors() -> None:
    assert errors.__doc__
    for error in ERRORS:
        assert re.search(rf"\b{error.__name__}\b", errors.__doc__), error.__name__


def test_every_error_says_whose_move_it_is() -> None:
    for error in ERRORS[1:]:
        assert sum(issubclass(error, kind) for kind in (FinalError, TransientError, ExternalError)) == 1, error.__name__


@pytest.mark.parametrize("error", [each for each in ERRORS if issubclass(each, TransientError)])
def test_what_is_retried_is_not_called_stalled(error: type[MeshwrightError]) -> None:
    assert not REASONS[error.reason].stalled


def test_the_first_condition_types_are_those_that_kstatus_knows() -> None:
    assert TYPES[:3] == (READY, RECONCILING, STALLED) == ("Ready", "Reconciling", "Stalled")


def test_every_part_can_be_false() -> None:
    assert {part.type for part in PARTS} == {row.part for row in REASONS.values()} - {READY}


def test_the_reasons_of_parts_that_are_well_are_none_of_the_others() -> None:
    assert not {part.well for part in PARTS} & set(REASONS)


PRIMARY: dict[str, Any] = {
    "clusters": [{"name": "primary"}, {"name": "west", "kubeconfigSecret": "west", "primary": "primary"}],
}  # fmt: skip


def test_what_the_template_sets_is_what_a_person_may_not_set() -> None:
    objects = [each for each in rendered(**PRIMARY) if each.key.name == "istiod"]
    (container,) = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert tuple(sorted(each["name"] for each in container["env"])) == COMPUTED_ENV
