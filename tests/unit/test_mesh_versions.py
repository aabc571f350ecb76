"""Which version of Istio may be installed, and over which."""

from __future__ import annotations

import pytest

from meshwright.mesh.versions import SUPPORTED, Version, objection


@pytest.mark.parametrize(
    ("wanted", "installed", "says"),
    [
        ("1.31.4", None, None),
        ("1.31.0", None, None),
        ("1.31.999", None, None),
        ("1.31.4", "1.31.4", None),
        ("1.31.5", "1.31.4", None),
        ("1.31.3", "1.31.4", None),  # a bad patch is left the way it came
        ("1.31.4", "1.30.9", None),
        ("1.31.4", "1.29.2", "cannot be reached from the running 1.29.2: go to another patch of 1.29 or to 1.30"),
        ("1.31.4", "1.32.0", "cannot be reached from the running 1.32.0"),
        ("1.31.4", "2.31.4", "cannot be reached from the running 2.31.4"),
        ("1.30.3", None, "choose a patch of 1.31, or set spec.allowUntestedVersion: true"),
        ("1.30.3", "1.30.2", "spec.version 1.30.3: Istio 1.30 was rendered"),
        ("1.29.6", None, "spec.version 1.29.6: Istio 1.29 was rendered"),
        ("1.28.9", None, "spec.version 1.28.9 is not supported by this Meshwright: choose a patch of 1.31"),
        ("1.32.0", "1.31.4", "choose a patch of 1.31"),
        ("0.0.0", None, "not supported"),
        ("131.4.0", None, "not supported"),
        # A status that we did not write says nothing about what runs.
    ],
)
def test_transitions(wanted: str, installed: str | None, says: str | None) -> None:
    found = objection(wanted, installed)
    if says is None:
        assert found is None
    else:
        assert found is not None
        assert says in found


@pytest.mark.parametrize(
    ("wanted", "installed", "says"),
    [
        ("1.30.3", None, None),
        ("1.29.6", None, None),
        ("1.30.3", "1.29.6", None),
        ("1.31.4", "1.29.6", "cannot be reached from the running 1.29.6"),
        ("1.29.6", "1.30.3", "cannot be reached from the running 1.30.3"),
        ("1.28.9", None, "not supported"),
        ("1.32.0", None, "not supported"),
    ],
)
def test_what_is_untested_may_be_allowed_and_nothing_else(wanted: str, installed: str | None, says: str | None) -> None:
    found = objection(wanted, installed, allow_untested=True)
    assert (found is None) == (says is None)
    assert says is None or says in str(found)


def test_a_version_is_compared_by_number_and_written_as_it_was() -> None:
    assert Version.parse("1.9.10") < Version.parse("1.31.4") < Version.parse("1.31.10")
    assert str(Version.parse("1.31.4")) == "1.31.4"


def test_every_supported_minor_says_what_was_proven() -> None:
    assert all(row.proven for row in SUPPORTED)
    minors = [row.minor for row in SUPPORTED]
    assert minors == sorted(set(minors), reverse=True)
    assert SUPPORTED[0].tested
