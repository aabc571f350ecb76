"""Sizes: the table, what a MeshInstall changes of it, and what contradicts itself."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from meshwright.api.meshinstall import ControlPlane, Resources, Size
from meshwright.mesh import quantity
from meshwright.mesh.sizing import (
    PROXY,
    ROWS,
    Demand,
    Share,
    Sizing,
    contradictions,
    limits_of,
    proxy_share,
    size_for,
    size_of,
)

Json = dict[str, Any]


def resources(**parts: Json) -> Resources:
    return Resources.model_validate(parts)


@pytest.mark.parametrize(
    ("size", "replicas", "requests", "limits", "below"),
    [
        (Size.SMALL, 2, Demand("500m", "4Gi"), Demand("2", "4Gi"), 500),
        (Size.MEDIUM, 3, Demand("1", "8Gi"), Demand("4", "8Gi"), 2000),
        (Size.LARGE, 5, Demand("2", "16Gi"), Demand("8", "16Gi"), 10000),
    ],
)
def test_the_rows(size: Size, replicas: int, requests: Demand, limits: Demand, below: int) -> None:
    assert size_of(size, Resources()) == Sizing(size, replicas, Share(requests, limits))
    assert ROWS[size].below_pods == below
    assert limits_of(size) == limits


@pytest.mark.parametrize(
    ("pods", "size"),
    [
        (0, Size.SMALL), (499, Size.SMALL), (500, Size.MEDIUM), (1999, Size.MEDIUM), (2000, Size.LARGE),
        (9999, Size.LARGE), (10000, Size.LARGE), (10**6, Size.LARGE),
    ],
)  # fmt: skip
def test_a_row_is_half_open(pods: int, size: Size) -> None:
    assert size_for(pods) is size


def test_every_size_has_a_row_and_the_description_tells_it() -> None:
    assert set(ROWS) == set(Size) - {Size.AUTO}
    text = " ".join((ControlPlane.model_fields["size"].description or "").split())
    for row in ROWS.values():
        memory = row.memory.replace("Gi", " GiB")
        assert f"`{row.size}` {row.replicas} × {row.cpu} CPU / {memory}" in text
        assert f"(less than {row.below_pods}" in text


@pytest.mark.parametrize(
    ("override", "requests", "limits"),
    [
        ({"limits": {"cpu": "1"}}, Demand("250m", "4Gi"), Demand("1", "4Gi")),
        ({"limits": {"cpu": 4}}, Demand("1", "4Gi"), Demand("4", "4Gi")),
        ({"limits": {"cpu": "100m"}}, Demand("25m", "4Gi"), Demand("100m", "4Gi")),
        ({"limits": {"memory": "1Gi"}}, Demand("500m", "1Gi"), Demand("2", "1Gi")),
        ({"requests": {"cpu": "50m"}}, Demand("50m", "4Gi"), Demand("2", "4Gi")),
        ({"requests": {"memory": "192Mi"}}, Demand("500m", "192Mi"), Demand("2", "4Gi")),
        (
            {"requests": {"cpu": "50m", "memory": "192Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}},
            Demand("50m", "192Mi"),
            Demand("1", "1Gi"),
        ),
    ],
)
def test_an_override_moves_what_follows_from_it_and_nothing_else(
    override: Json, requests: Demand, limits: Demand
) -> None:
    assert size_of(Size.SMALL, resources(**override)) == Sizing(Size.SMALL, 2, Share(requests, limits))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ({}, []),
        ({"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}, []),
        ({"requests": {"cpu": "1000m"}, "limits": {"cpu": 1}}, []),
        ({"requests": {"memory": "1024Mi"}, "limits": {"memory": "1Gi"}}, []),
        ({"limits": {"cpu": "8", "memory": "64Gi"}}, []),
        ({"requests": {"cpu": "3"}, "limits": {"cpu": "2"}}, ["requests.cpu (3) is more than limits.cpu (2)"]),
        (
            {"requests": {"memory": "2G"}, "limits": {"memory": "1Gi"}},
            ["requests.memory (2G) is more than limits.memory"],
        ),
        # The size's own limit binds as well: the API server would refuse the Deployment half way.
        ({"requests": {"cpu": "3"}}, ["requests.cpu (3) is more than limits.cpu (2)"]),
        ({"requests": {"memory": "5Gi"}}, ["requests.memory (5Gi) is more than limits.memory (4Gi)"]),
        ({"limits": {"cpu": 0}}, ["cpu is 0: leave it out"]),
        ({"requests": {"memory": "0"}}, ["memory is 0: leave it out"]),
        ({"limits": {"cpu": "two"}}, ["cpu: 'two' is not a quantity"]),
        ({"requests": {"cpu": "9"}, "limits": {"memory": "?"}}, ["requests.cpu (9) is more", "memory: '?' is not a"]),
    ],
)
def test_contradictions(override: Json, says: list[str]) -> None:
    found = contradictions("spec.a.resources", resources(**override), limits_of(Size.SMALL))
    assert len(found) == len(says)
    for line, part in zip(found, says, strict=True):
        assert line.startswith("spec.a.resources")
        assert part in line


def test_a_request_that_a_larger_size_allows_is_no_contradiction() -> None:
    asked = resources(requests={"cpu": "3", "memory": "5Gi"})
    assert contradictions("spec.a", asked, limits_of(Size.LARGE)) == []


def test_auto_has_to_do_with_the_limits_of_the_smallest_size() -> None:
    assert limits_of(Size.AUTO) == limits_of(Size.SMALL)


@pytest.mark.parametrize(
    ("override", "requests", "limits"),
    [
        ({}, Demand("100m", "128Mi"), Demand("2000m", "1Gi")),
        ({"limits": {"cpu": "50m"}}, Demand("50m", "128Mi"), Demand("50m", "1Gi")),
        ({"limits": {"memory": "64Mi"}}, Demand("100m", "64Mi"), Demand("2000m", "64Mi")),
        ({"limits": {"cpu": "4"}}, Demand("100m", "128Mi"), Demand("4", "1Gi")),
        ({"requests": {"cpu": 1}}, Demand("1", "128Mi"), Demand("2000m", "1Gi")),
        ({"requests": {"cpu": "10m"}, "limits": {"cpu": "20m"}}, Demand("10m", "128Mi"), Demand("20m", "1Gi")),
    ],
)
def test_a_proxys_share_is_istios_own_unless_it_is_set(override: Json, requests: Demand, limits: Demand) -> None:
    share = proxy_share(resources(**override))
    assert share == Share(requests, limits)
    assert share.manifest == {"requests": vars(requests), "limits": vars(limits)}
    assert proxy_share(share.resources) == share


def test_what_a_proxy_may_use_binds_its_requests() -> None:
    assert contradictions("spec.p", resources(requests={"cpu": "3"}), PROXY.limits) == [
        "spec.p.requests.cpu (3) is more than limits.cpu (2000m): lower the request or raise the limit"
    ]


@pytest.mark.parametrize(
    ("live", "same"),
    [
        ({"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": "2", "memory": "1Gi"}}, True),
        ({"requests": {"cpu": "0.1", "memory": "131072Ki"}, "limits": {"cpu": 2, "memory": "1024Mi"}}, True),
        ({"requests": {"cpu": "101m", "memory": "128Mi"}, "limits": {"cpu": "2", "memory": "1Gi"}}, False),
        ({"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": "2"}}, False),
        ({"requests": {"cpu": "100m", "memory": "1e6"}, "limits": {"cpu": "2", "memory": "1Gi"}}, False),
        ({}, False),
    ],
)
def test_the_same_amounts_are_the_same_share_however_they_are_written(live: Json, same: bool) -> None:  # noqa: FBT001
    assert PROXY.is_that_of(resources(**live)) is same
    assert not PROXY.is_that_of(None)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0), ("2", 2), (2, 2), ("500m", 0.5), ("1.5", 1.5), (".5", 0.5), ("5.", 5),
        ("1k", 10**3), ("1M", 10**6), ("1G", 10**9), ("1T", 10**12), ("1P", 10**15), ("1E", 10**18),
        ("1Ki", 2**10), ("1Mi", 2**20), ("4Gi", 4 * 2**30), ("1Ti", 2**40), ("1Pi", 2**50), ("1Ei", 2**60),
        ("0.5Gi", 2**29),
    ],
)  # fmt: skip
def test_a_quantity_is_an_exact_number(text: str | int, value: float) -> None:
    assert quantity.parse(text) == value


@pytest.mark.parametrize(
    "text",
    ["", " ", "m", ".", "-1", "+1", "1e3", "1E3", "1 Gi", "1gi", "1K", "1mm", "1..2", "1.2.3", "0x1", "inf", "1_0"],
)
def test_what_is_no_quantity_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(ValueError, match=r"quantity|Fraction"):
        quantity.parse(text)


@pytest.mark.parametrize(
    ("cores", "text"), [("2", "2"), ("1/2", "500m"), ("1/8", "125m"), ("9/4", "2250m"), ("0", "0")]
)
def test_cores_are_written_as_people_write_them(cores: str, text: str) -> None:
    assert quantity.cpu(Fraction(cores)) == text
