"""kubectl mesh explain: every reason, from the operator's own table."""

from __future__ import annotations

import json

import pytest

from meshwright.api.conditions import NOT_OBSERVED, PARTS, REASONS
from meshwright.cli.explain import explanations
from meshwright.cli.main import main


def test_every_reason_is_explained() -> None:
    assert explanations().keys() == REASONS.keys() | {part.well for part in PARTS} | {NOT_OBSERVED}
    assert all(row.means.endswith(".") and row.next_step.endswith((".", "again.")) for row in explanations().values())


def test_one_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "TrustNotUsable"]) == 0
    row = REASONS["TrustNotUsable"]
    assert capsys.readouterr().out == (
        "TrustNotUsable\n"
        "  condition  CertificatesValid is False; Ready is False and Stalled is True:"
        " nothing more happens until somebody acts\n"
        f"  means      {row.means}\n"
        f"  next step  {row.next_step}\n"
    )


def test_a_reason_of_success(capsys: pytest.CaptureFixture[str]) -> None:
    main(["explain", "Available"])
    assert "  condition  ControlPlaneReady is True\n" in capsys.readouterr().out


def test_a_condition_has_several(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "gatewaysready"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("GatewaysReady\n")
    assert "GatewayNotReady" in out
    assert "GatewaysAvailable" in out
    assert "TrustNotUsable" not in out


def test_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain"]) == 0
    out = capsys.readouterr().out
    assert all(f" {name} " in out for name in explanations())


def test_documents(capsys: pytest.CaptureFixture[str]) -> None:
    main(["explain", "paused", "-o", "json"])
    assert json.loads(capsys.readouterr().out) == {
        "reason": "Paused", "condition": "Ready", "ready": "Unknown", "stalled": False,
        "means": REASONS["Paused"].means, "nextStep": REASONS["Paused"].next_step,
    }  # fmt: skip
    main(["explain", "-o", "json"])
    assert [each["reason"] for each in json.loads(capsys.readouterr().out)] == list(explanations())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("GatewayNotRedy", "did you mean GatewayNotReady?"),
        ("controlplaneredy", "did you mean ControlPlaneReady?"),
        ("zzz", "`kubectl mesh explain` lists all"),
    ],
)
def test_an_unknown_reason(name: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", name]) == 1
    assert capsys.readouterr() == ("", f"error: no reason {name}: {says}\n")
