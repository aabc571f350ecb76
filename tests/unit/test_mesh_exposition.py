"""Prometheus' text format: what its own writer writes is read, and nothing else is made of the rest."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from meshwright.mesh.exposition import (
    CERTIFICATE,
    Sample,
    certificate_expires,
    concerns,
    istiod_version,
    proxies_by_version,
    root_expires,
    samples,
)

SIZE = 300_000
NOW = dt.datetime(2026, 11, 1, 12, tzinfo=dt.UTC)

labels = st.dictionaries(st.from_regex(r"\A[a-z][a-z0-9_]{0,5}\Z"), st.text(max_size=12), max_size=4)
values = st.floats(allow_nan=False) | st.integers(-(2**53), 2**53).map(float)
measured = st.none() | st.integers(0, 2**40)


class Page(Collector):
    def __init__(self, *families: Metric) -> None:
        self.families = families

    def collect(self) -> Iterable[Metric]:
        return self.families

    def registry(self) -> CollectorRegistry:
        registry = CollectorRegistry()
        registry.register(self)
        return registry


@settings(deadline=None, derandomize=True, max_examples=300)
@given(
    rows=st.lists(st.tuples(labels, values, measured), max_size=5),
    name=st.from_regex(r"\A[a-z_:][a-z0-9_:]{0,8}\Z"),
    words=st.text(max_size=20),
)
def test_what_the_writer_writes_is_read(
    rows: list[tuple[dict[str, str], float, int | None]], name: str, words: str
) -> None:
    family = Metric(name, words, "gauge")
    for label, value, when in rows:
        family.add_sample(name, label, value, timestamp=when)
    text = generate_latest(Page(family).registry()).decode()
    assert list(samples(text)) == [Sample(name, label, value) for label, value, _ in rows]
    assert all(concerns(name, line.encode()) for line in text.split("\n") if line and not line.startswith("#"))


@settings(deadline=None, derandomize=True, max_examples=150)
@given(
    label=labels, value=st.floats(0, 1e300), remark=st.text('abc #}{="\\\n', max_size=9), when=st.none() | st.just(5.5)
)
def test_exemplars_are_passed_over(label: dict[str, str], value: float, remark: str, when: float | None) -> None:
    family = Metric("x", "words", "counter")
    family.add_sample("x_total", label, value, timestamp=when, exemplar=Exemplar({"trace": remark}, 1.5, 2.5))
    text = openmetrics.generate_latest(Page(family).registry()).decode()  # type: ignore[no-untyped-call]
    assert list(samples(text)) == [Sample("x_total", label, value)]


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.text('ab{}="\\,#+-.10eE \t\r\n', max_size=40) | st.text(max_size=40))
def test_no_text_breaks_the_reader(text: str) -> None:
    assert all(isinstance(each.value, float) for each in samples(text))
    certificate_expires(f"{CERTIFICATE}{{{text}}} {text}", now=NOW)
    root_expires(text)


@pytest.mark.parametrize(
    "line",
    [
        "", "#", "# HELP x 1", "x", "x one", 'x{a="b} 1', "x{a=b} 1", 'x{a="b" c="d"} 1', "x 1_000", "x ١", "x 1 2 3 4",
        'x{a="b"}', "x nan", "x infinity", "1x 1", '{"x.y"} 1', "x{a} 1",
    ],
)  # fmt: skip
def test_a_line_that_is_no_sample_is_passed_over(line: str) -> None:
    assert list(samples(f"a 1\n{line}\nb 2")) == [Sample("a", {}, 1), Sample("b", {}, 2)]


@pytest.mark.parametrize(
    "line",
    [
        f"x{' ' * SIZE}", f"x {'1' * SIZE}x", f"x {'1' * SIZE}.{'1' * SIZE}x",
        f"x 1{' ' * SIZE}x", f"x 1 {'-' * SIZE}x",
        "x{" + "a" * SIZE, 'x{a="' + "b" * SIZE, 'x{a="' + "\\" * SIZE + '"', "x{" + 'a="b",' * SIZE,
        "x{" + '"' * SIZE + "a} 1", "x{a" + " " * SIZE + "} 1", 'x{a="b"' + " " * SIZE + "c} 1",
    ],
)  # fmt: skip
def test_a_hostile_line_takes_no_longer(line: str) -> None:
    """Where two parts of a pattern can match the same text, each of these takes hours."""
    assert list(samples(line)) == []


@pytest.mark.parametrize(
    ("line", "value"),
    [("x NaN", math.nan), ("x +Inf", math.inf), ("x -Inf", -math.inf), ("x 3.15e+07", 3.15e7), ("  x\t.5 17\r", 0.5),
     ('x{a="b",} 1', 1), ("x{} 1", 1)],
)  # fmt: skip
def test_numbers_as_go_writes_them(line: str, value: float) -> None:
    (found,) = samples(line)
    assert found.value == pytest.approx(value, nan_ok=True)


ISTIOD = r"""
# HELP citadel_server_root_cert_expiry_timestamp The unix timestamp, in seconds, when the root cert will expire.
# TYPE citadel_server_root_cert_expiry_timestamp gauge
citadel_server_root_cert_expiry_timestamp 2.110828613e+09
pilot_info{version="1.31.4-eed52ebb66ad-Clean"} 1
pilot_xds{version="1.31.4"} 2
pilot_xds{version="1.30.2"} 11
pilot_xds{version="1.29.9"} 0
pilot_xds_pushes{type="cds"} 40
"""


def test_a_page_of_istiod() -> None:
    assert proxies_by_version(ISTIOD) == {"1.31.4": 2, "1.30.2": 11}
    assert istiod_version(ISTIOD) == "1.31.4-eed52ebb66ad-Clean"
    assert root_expires(ISTIOD) == dt.datetime(2036, 11, 20, 21, 16, 53, tzinfo=dt.UTC)


def test_a_page_that_says_nothing() -> None:
    assert proxies_by_version("") == {}
    assert istiod_version("") == ""
    assert root_expires("") is None
    assert certificate_expires("", now=NOW) is None


def of_the_agent(value: str, resource: str = "default") -> Iterator[str]:
    yield f'{CERTIFICATE}{{resource_name="{resource}"}} {value}'


@pytest.mark.parametrize(
    ("seconds", "expires"),
    [
        ("86358.092856124", NOW + dt.timedelta(seconds=86358)), ("-60", NOW - dt.timedelta(minutes=1)),
        ("NaN", None), ("+Inf", None), ("1e300", None), ("-1e17", None),
    ],
)  # fmt: skip
def test_a_certificate_has_so_many_seconds_left(seconds: str, expires: dt.datetime | None) -> None:
    page = "\n".join([*of_the_agent("5", "ROOTCA"), *of_the_agent(seconds), *of_the_agent("7")])
    assert certificate_expires(page, now=NOW) == expires


def test_the_writer_and_the_agent_agree_on_names() -> None:
    family = GaugeMetricFamily(CERTIFICATE, "words", labels=["resource_name"])
    family.add_metric(["default"], 3600)
    page = generate_latest(Page(family).registry()).decode()
    assert certificate_expires(page, now=NOW) == NOW + dt.timedelta(hours=1)
