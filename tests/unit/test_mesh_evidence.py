"""What istiods and proxies say of themselves, held against what was declared."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from meshes import NOW, TRUST, VERSION, mesh
from meshwright.mesh.census import Answer, Earliest
from meshwright.mesh.evidence import (
    INTERMEDIATE_NOTICE,
    ROOT_NOTICE,
    Replies,
    certificate_findings,
    configuration_finding,
    late_renewal,
)
from meshwright.mesh.findings import Finding
from meshwright.mesh.trust import Trust

Json = dict[str, Any]

DECLARED: Json = {"accessLogFile": "/dev/stdout", "defaultConfig": {"concurrency": 2}}
HOUR, SECOND = dt.timedelta(hours=1), dt.timedelta(seconds=1)


def runs(config: Json | None, pod: str = "a", **parts: Any) -> Answer:
    return Answer(pod=pod, mesh_config=config, **parts)


def found(*answers: Answer) -> Finding | None:
    return configuration_finding(Replies(answers), DECLARED, version=VERSION, cluster="primary")


# The configuration


@pytest.mark.parametrize(
    "answers",
    [
        (),
        (runs(DECLARED),),
        (runs({**DECLARED, "ingressClass": "istio"}),),  # Istio's own defaults beside ours
        (runs(DECLARED), runs(None, trouble="b is silent")),  # what does not answer is told otherwise
    ],
)
def test_a_configuration_is_in_force_where_every_answer_has_it(answers: tuple[Answer, ...]) -> None:
    assert found(*answers) is None


def test_one_replica_that_runs_something_else_is_named_with_the_field() -> None:
    other = {**DECLARED, "accessLogFile": "/dev/null"}
    assert found(runs(DECLARED), runs(other, "b")) == Finding(
        "ConfigurationNotInForce",
        "pod b of cluster primary does not run the declared mesh config: meshConfig.accessLogFile: declared"
        ' "/dev/stdout", in force "/dev/null"',
    )


def test_of_many_differences_the_first_are_named() -> None:
    declared = {"accessLogFile": "a", "ingressClass": "b", "ingressService": "c", "accessLogFormat": "d"}
    finding = configuration_finding(Replies((runs({}),)), declared, version=VERSION, cluster="primary")
    assert finding
    assert finding.message.count("declared") == 1 + 3
    assert finding.message.endswith(" and 1 more")


# What they count


def test_proxies_are_counted_over_all_replicas() -> None:
    replies = Replies((
        runs({}, "a", proxies_by_version={"1.31.4": 2}), runs({}, "b", proxies_by_version={"1.31.4": 1, "1.30.0": 4}),
    ))  # fmt: skip
    assert replies.versions == {"1.31.4": 3, "1.30.0": 4}
    assert Replies().versions == {}


def test_the_first_trouble_is_told() -> None:
    assert Replies((runs({}), runs(None, trouble="b"), runs(None, trouble="c"))).trouble == "b"
    assert Replies((runs({}),)).trouble == ""


# Certificates


def told(replies: Replies = Replies(), trust: Trust | None = TRUST, **plane: Any) -> list[str]:  # noqa: B008  # frozen
    findings = list(
        certificate_findings(replies, trust, mesh(dataPlane=plane).spec.data_plane, now=NOW, cluster="primary")
    )
    assert {each.reason for each in findings} <= {"CertificateExpiring"}
    return [each.message for each in findings]


def ends_in(left: dt.timedelta) -> Replies:
    return Replies(earliest=Earliest(pod="shop/a", expires=NOW + left, read=1, of=1))


def test_what_holds_for_long_or_is_not_known_is_not_told() -> None:
    assert told() == told(trust=None) == told(Replies(earliest=Earliest(of=3))) == []


@pytest.mark.parametrize(
    ("root", "intermediate", "says"),
    [
        (ROOT_NOTICE, INTERMEDIATE_NOTICE, []),
        (ROOT_NOTICE - SECOND, INTERMEDIATE_NOTICE,
         ["the root certificate of cluster primary ends in 719 hours and was not renewed in time"]),
        (ROOT_NOTICE, INTERMEDIATE_NOTICE - SECOND,
         ["istiod's certificate in cluster primary ends in 167 hours and was not renewed in time"]),
        (-HOUR, -HOUR,
         ["the root certificate of cluster primary ends in 0 hours and was not renewed in time",
          "istiod's certificate in cluster primary ends in 0 hours and was not renewed in time"]),
    ],
)  # fmt: skip
def test_root_and_intermediate_are_told_while_there_is_time(
    root: dt.timedelta, intermediate: dt.timedelta, says: list[str]
) -> None:
    assert told(trust=Trust("a", NOW + root, "b", NOW + intermediate)) == says


@pytest.mark.parametrize(
    ("plane", "left", "late"),
    [
        ({}, 6 * HOUR, False),  # of 24 hours, renewed when 12 are left
        ({}, 6 * HOUR - SECOND, True),
        ({"certificateTTL": "1h"}, dt.timedelta(minutes=15), False),
        ({"certificateTTL": "1h"}, dt.timedelta(minutes=15) - SECOND, True),
        ({"certificateRenewalRatio": 0.25}, 3 * HOUR, False),
        ({"certificateRenewalRatio": 0.25}, 3 * HOUR - SECOND, True),
        ({"certificateTTL": "2160h", "certificateRenewalRatio": 0.05}, 54 * HOUR, False),
    ],
)
def test_a_workloads_certificate_is_late_when_half_of_the_time_for_its_renewal_has_gone(
    plane: Json,
    left: dt.timedelta,
    late: bool,  # noqa: FBT001
) -> None:
    hours = int(left / HOUR)
    says = f"the certificate of pod shop/a of cluster primary ends in {hours} hours and was not renewed in time"
    assert told(ends_in(left), **plane) == ([says] if late else [])


def test_the_time_for_a_renewal_follows_the_data_plane() -> None:
    assert late_renewal(mesh().spec.data_plane) == 6 * HOUR
