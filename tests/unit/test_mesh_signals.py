"""What istiod's counters say, and when they say nothing."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import replace

import pytest

from meshes import NOW
from meshwright.mesh.exposition import readout
from meshwright.mesh.signals import (
    CONVERGENCE,
    CPU,
    GENERATION,
    LOOKBACK,
    MEMORY,
    Growth,
    Histogram,
    History,
    Limits,
    Readout,
    imbalance,
    read,
)

LIMITS = Limits(cores=2.0, memory=4 * 2.0**30)
BOUNDS = (0.01, 0.1, 1.0, 3.0, 5.0, 10.0, 20.0, 30.0, math.inf)


def histogram(*observed: float) -> Histogram:
    return Histogram({bound: float(sum(each <= bound for each in observed)) for bound in BOUNDS})


def look(seconds: float, **parts: object) -> Readout:
    usual = Readout(
        at=NOW + dt.timedelta(seconds=seconds), started=1.0, cpu_seconds=seconds * 0.5, memory=2.0**30, proxies=10
    )
    return replace(usual, **parts)  # type: ignore[arg-type]


def history(**pods: list[Readout]) -> History:
    """As if each pod had been asked in turn."""
    found = History()
    for number in range(max(map(len, pods.values()))):
        found = found.seen({pod: looks[number] for pod, looks in pods.items() if number < len(looks)})
    return found


# -- histograms


@pytest.mark.parametrize(
    ("observed", "share", "expected"),
    [([0.05] * 100, 0.99, 0.0991), ([0.05] * 98 + [2.0] * 2, 0.99, 2.0), ([40.0] * 10, 0.99, 30.0), ([], 0.99, 0.0)],
)
def test_a_quantile_is_interpolated_in_its_bucket(observed: list[float], share: float, expected: float) -> None:
    assert histogram(*observed).quantile(share) == pytest.approx(expected, rel=0.01)


def test_the_share_above_a_bound() -> None:
    assert histogram(*[0.5] * 99, 7.0).share_above(5.0) == pytest.approx(0.01)
    assert histogram().share_above(5.0) == 0.0


def test_what_grew_and_what_fell() -> None:
    before, after = histogram(0.5), histogram(0.5, 7.0)
    grown = after.since(before)
    assert grown is not None
    assert grown.count == 1
    assert before.since(after) is None
    assert Histogram().since(before) is None


def test_a_sum_of_histograms_with_other_bounds() -> None:
    total = Histogram({1.0: 3.0, math.inf: 4.0}).plus(Histogram({0.5: 1.0, 1.0: 2.0, math.inf: 2.0}))
    assert total.buckets == {0.5: 1.0, 1.0: 5.0, math.inf: 6.0}


# -- signals


def test_a_minute_of_two_replicas() -> None:
    slow, fast = histogram(*[2.0] * 40), histogram(*[0.05] * 40)
    seen = history(
        a=[look(0), look(30, push=slow, convergence=histogram(*[7.0] * 2, *[0.5] * 38))],
        b=[look(0), look(30, push=fast, memory=3 * 2.0**30, cpu_seconds=45.0)],
    )
    found = read(seen, ["a", "b"], LIMITS, now=NOW + dt.timedelta(seconds=31))
    assert {name: reading.missing for name, reading in found.items()} == dict.fromkeys(found, "")
    assert found[GENERATION].value == pytest.approx(2.96, rel=0.01)
    assert found[CONVERGENCE].value == pytest.approx(5.0)
    assert found[MEMORY].value == pytest.approx(75.0)
    assert found[CPU].value == pytest.approx(50.0)  # (0.5 + 1.5) / 2 of two cores


def test_the_push_context_counts_as_well() -> None:
    seen = history(a=[look(0), look(30, context=histogram(*[4.0] * 30))])
    assert read(seen, ["a"], LIMITS, now=NOW + dt.timedelta(seconds=31))[GENERATION].value > 3


def test_a_few_observations_are_no_evidence() -> None:
    seen = history(a=[look(0), look(30, push=histogram(*[20.0] * 19), convergence=histogram(*[20.0] * 19))])
    found = read(seen, ["a"], LIMITS, now=NOW + dt.timedelta(seconds=31))
    assert (found[GENERATION].value, found[CONVERGENCE].value) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("seen", "pods", "why"),
    [
        (history(a=[look(0), look(30)]), [], "no replica"),
        (history(a=[look(0), look(30)]), ["a", "b"], "pod b has not said anything yet"),
        (history(a=[look(0)]), ["a"], "only begun"),
        (history(a=[look(-90), look(-50)]), ["a"], "said nothing since 11:59:10"),
        (history(a=[look(0), look(15), look(30, started=2.0)]), ["a"], "only begun"),
        (history(a=[look(0), look(15), look(30, cpu_seconds=1.0)]), ["a"], "only begun"),
        (history(a=[look(0, push=histogram(1.0)), look(30)]), ["a"], "only begun"),
    ],
)
def test_what_is_not_known_is_missing_with_the_reason(seen: History, pods: list[str], why: str) -> None:
    now = NOW + dt.timedelta(seconds=0 if "since" in why else 31)
    found = read(seen, pods, LIMITS, now=now)
    assert set(found) == {GENERATION, CONVERGENCE, MEMORY, CPU}
    assert all(why in reading.missing for reading in found.values())


def test_without_limits_memory_and_cpu_are_missing() -> None:
    found = read(history(a=[look(0), look(30)]), ["a"], None, now=NOW + dt.timedelta(seconds=31))
    assert found[MEMORY].missing
    assert found[CPU].missing
    assert not found[GENERATION].missing


def test_a_restarted_replica_tells_again_after_two_looks() -> None:
    looks = [look(0), look(15), look(30, started=2.0, cpu_seconds=0.0), look(45, started=2.0, cpu_seconds=6.0)]
    found = read(history(a=looks), ["a"], LIMITS, now=NOW + dt.timedelta(seconds=46))
    assert found[CPU].value == pytest.approx(20.0)


def test_the_history_is_a_minute_long_and_forgets_who_is_gone() -> None:
    seen = history(a=[look(15 * number) for number in range(20)])
    kept = seen.looks["a"]
    assert LOOKBACK <= kept[-1].at - kept[0].at <= LOOKBACK + dt.timedelta(seconds=15)
    assert seen.of(["b"]).looks == {}
    assert seen.seen({"a": kept[-1]}) == seen  # the same look again is none


def test_growth_is_of_one_process() -> None:
    assert Growth.between(look(0), look(30)) is not None
    assert Growth.between(look(0), look(30, started=3.0)) is None


def test_the_fullest_replica_against_the_mean() -> None:
    assert imbalance(history(a=[look(0, proxies=30)], b=[look(0)]), ["a", "b"]) == pytest.approx(1.5)
    assert imbalance(history(a=[look(0)]), ["a"]) is None


# -- istiod's page

PAGE = """
process_start_time_seconds 1.7e+09
process_cpu_seconds_total 12.5
process_resident_memory_bytes 1.5e+08
pilot_xds{version="1.31.4"} 7
pilot_xds_push_time_bucket{type="cds",le="0.1"} 3
pilot_xds_push_time_bucket{type="cds",le="+Inf"} 4
pilot_xds_push_time_bucket{type="rds",le="0.1"} 1
pilot_xds_push_time_bucket{type="rds",le="+Inf"} 1
pilot_xds_push_time_bucket{type="nds",le="+Inf"} 100
pilot_pushcontext_init_seconds_bucket{le="0.5"} 2
pilot_pushcontext_init_seconds_bucket{le="+Inf"} 2
pilot_proxy_convergence_time_bucket{le="5"} 9
pilot_proxy_convergence_time_bucket{le="+Inf"} 10
"""


def test_the_page_of_an_istiod() -> None:
    found = readout(PAGE, at=NOW)
    assert found is not None
    assert (found.started, found.cpu_seconds, found.memory, found.proxies) == (1.7e9, 12.5, 1.5e8, 7)
    assert found.push.buckets == {0.1: 4.0, math.inf: 5.0}
    assert found.context.count == 2
    assert found.convergence.share_above(5.0) == pytest.approx(0.1)


@pytest.mark.parametrize("gone", ["process_start", "process_cpu", "process_resident"])
def test_a_page_that_is_not_of_a_process(gone: str) -> None:
    page = "\n".join(line for line in PAGE.splitlines() if not line.startswith(gone))
    assert readout(page, at=NOW) is None


def test_nonsense_is_passed_over() -> None:
    page = (
        PAGE + 'pilot_xds_push_time_bucket{type="cds",le="x"} 5\npilot_xds_push_time_bucket{type="cds",le="0.1"} NaN\n'
    )
    assert readout(page, at=NOW) == readout(PAGE, at=NOW)
