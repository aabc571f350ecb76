"""Rules, runbooks and dashboards belong together, and ask for series that there are."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import monitoring
from meshes import REPOSITORY

RUNBOOKS = (REPOSITORY / "docs/how-to/runbooks.md").read_text()
ALERTS = {rule["alert"]: rule for rule in monitoring.rules("alert")}


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dashboards", REPOSITORY / "scripts/dashboards.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


dashboards = load()
FILES: dict[Path, str] = dashboards.files()


@pytest.mark.parametrize("query", monitoring.queries(), ids=lambda query: query.where)
def test_a_query_asks_for_series_that_there_are(query: monitoring.Query) -> None:
    asked = {metric for metric, _ in monitoring.selectors(query.expression)}
    assert asked
    assert asked <= monitoring.known()
    assert "$" not in query.expression


def test_every_series_of_istio_that_is_listed_is_asked_for() -> None:
    asked = {metric for query in monitoring.queries() for metric, _ in monitoring.selectors(query.expression)}
    assert set(monitoring.ISTIO) <= asked


def test_what_is_a_selector() -> None:
    expression = (
        'sum by (a) (rate(b{c=~"d|(e)}"}[5m] offset 1h)) / on (f) group_left (g) 2 * max(h:i) unless j offset 5m'
    )
    assert list(monitoring.selectors(expression)) == [("b", 'b{c=~"d|(e)}"}'), ("h:i", "h:i"), ("j", "j")]


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_what_it_means_and_leads_to_its_runbook(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert page.endswith("/docs/how-to/runbooks.md")
    assert anchor == name.lower()
    section = RUNBOOKS.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    assert "**Means.**" in section
    assert "**Look.**" in section
    assert "**Do.**" in section


def test_every_runbook_has_its_alert() -> None:
    assert set(re.findall(r"^## (\w+)$", RUNBOOKS, re.MULTILINE)) == set(ALERTS)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_dashboard_is_what_the_tables_say(path: Path) -> None:
    assert (REPOSITORY / path).read_text() == FILES[path], "run: make generate"


def test_check_says_which_file_is_stale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dashboards.main([], root=tmp_path) == 0
    assert dashboards.main(["--check"], root=tmp_path) == 0
    stale = next(iter(FILES))
    (tmp_path / stale).write_text("{}")
    capsys.readouterr()
    assert dashboards.main(["--check"], root=tmp_path) == 1
    assert str(stale) in capsys.readouterr().err
    assert (tmp_path / stale).read_text() == "{}"


def test_panels_lie_side_by_side_and_have_titles_of_their_own() -> None:
    for name, dashboard in monitoring.dashboards().items():
        panels = dashboard["panels"]
        titles = [each["title"] for each in panels]
        assert len(set(titles)) == len(titles), name
        taken = [
            (left, top)
            for place in (each["gridPos"] for each in panels)
            for left in range(place["x"], place["x"] + place["w"])
            for top in range(place["y"], place["y"] + place["h"])
        ]
        assert len(set(taken)) == len(taken), name
        assert max(left for left, _ in taken) < 24, name


def test_panels_that_need_istios_own_proxy_say_so() -> None:
    for dashboard in monitoring.dashboards().values():
        for panel in dashboard["panels"]:
            asked = [metric for each in panel.get("targets", ()) for metric, _ in monitoring.selectors(each["expr"])]
            needs = any(monitoring.ISTIO.get(metric) == monitoring.PROVIDER for metric in asked)
            assert needs == ("Istio's own proxy" in panel.get("description", ""))


def test_the_configmap_of_the_dashboards_holds_each() -> None:
    kustomization = yaml.safe_load((monitoring.FOLDER / "kustomization.yaml").read_text())
    (generated,) = kustomization["configMapGenerator"]
    assert {Path(each).stem for each in generated["files"]} == set(monitoring.dashboards())
    assert kustomization["generatorOptions"]["labels"]["grafana_dashboard"] == "1"
