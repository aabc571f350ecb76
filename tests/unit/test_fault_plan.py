"""Fault plans: the same seed and the same log give the same faults, whatever order the calls come in."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from faults import plan
from faults.call import Call
from faults.past import Past, Reply
from faults.plan import Answer, Crash, Distorted, Fault, Lost, Plan, Rates, Stale
from faults.stream import Distortion

DEPLOYMENTS = "/apis/apps/v1/namespaces/istio-system/deployments"
WRITE = Call.of("PATCH", f"{DEPLOYMENTS}/istiod?fieldManager=meshwright&force=true")
READ = Call.of("GET", f"{DEPLOYMENTS}/istiod")
WATCH = Call.of("GET", "/api/v1/pods?watch=true&resourceVersion=7")
MOST = Rates(crash=0.2, refused=0.3, lost=0.2, stale=0.4, watches=0.8)
SEED_1 = [None, Answer(422), Lost(committed=False), Lost(committed=True)]  # for the first writes


def calls(count: int = 200) -> list[Call]:
    kinds = (WRITE, READ, WATCH)
    return [
        replace(
            kinds[n % 3], number=n + 1, write=n // 3 + 1 if n % 3 == 0 else 0, life=1 + n // 120, occurrence=n // 3 + 1
        )
        for n in range(count)
    ]


def faults(of: Plan, among: list[Call]) -> dict[object, Fault | None]:
    return {call.identity: of.fault(call) for call in among}


@pytest.mark.parametrize(
    ("method", "target", "body", "expected"),
    [
        ("GET", "/version", b"", "GET /version"),
        ("GET", "/api/v1/namespaces/a", b"", "GET namespaces a"),
        ("PATCH", "/api/v1/namespaces/a/status?force=true", b"{}", "PATCH namespaces/status a"),
        ("GET", "/api/v1/namespaces/a/pods", b"", "GET pods a/"),
        ("DELETE", f"{DEPLOYMENTS}/istiod", b"{}", "DELETE deployments istio-system/istiod"),
        ("POST", "/api/v1/namespaces/a/secrets", b'{"metadata": {"name": "cacerts"}}', "POST secrets a/cacerts"),
        ("POST", "/api/v1/namespaces/a/events", b'{"metadata": {"generateName": "m."}}', "POST events a/m."),
        ("POST", "/api/v1/namespaces/a/secrets", b"no JSON", "POST secrets a/"),
        ("PUT", "/apis/x.dev/v1/things/one", b"[]", "PUT things one"),
    ],
)
def test_what_a_call_is_about(method: str, target: str, body: bytes, expected: str) -> None:
    assert str(Call.of(method, target, body)) == expected


@pytest.mark.parametrize(
    ("method", "target", "writes", "reads"),
    [
        ("GET", "/api/v1/pods", False, True),
        ("GET", "/api/v1/pods?watch=1", False, False),
        ("GET", "/version", False, False),
        ("POST", "/api/v1/namespaces", True, False),
        ("PATCH", "/api/v1/namespaces/a?dryRun=All", False, False),
        ("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", False, False),
    ],
)
def test_which_calls_are_writes_and_reads(method: str, target: str, writes: bool, reads: bool) -> None:  # noqa: FBT001
    call = Call.of(method, target)
    assert (call.is_write, call.is_read) == (writes, reads)


def test_events_and_the_status_of_a_mesh_are_reports() -> None:
    assert Call.of("POST", "/apis/events.k8s.io/v1/namespaces/a/events").reports
    assert Call.of("PATCH", "/apis/meshwright.dev/v1alpha1/meshinstalls/prod/status").reports
    assert not Call.of("PATCH", "/apis/meshwright.dev/v1alpha1/meshinstalls/prod").reports
    assert not Call.of("PATCH", f"{DEPLOYMENTS}/istiod/status").reports


def test_names_of_a_run_are_replaced_the_longest_first() -> None:
    names = {"mesh1": "MESH", "mesh1-b": "OTHER"}
    body = b'{"metadata": {"name": "mesh1-b.17"}}'
    assert Call.of("GET", "/api/v1/namespaces/mesh1-b/pods/mesh1?labelSelector=a%3Dmesh1", names=names) == Call.of(
        "GET", "/api/v1/namespaces/OTHER/pods/MESH?labelSelector=a%3DMESH"
    )
    assert Call.of("POST", "/api/v1/namespaces/x/events", body, names=names).name == "OTHER.17"


def test_the_same_seed_gives_the_same_faults_in_any_order() -> None:
    among = calls()
    expected = faults(plan.seeded(7, MOST), among)
    shuffled = random.Random(1).sample(among, len(among))  # noqa: S311
    renumbered = [replace(call, number=number, write=0 if not call.write else number)
                  for number, call in enumerate(shuffled, 1)]  # fmt: skip
    assert faults(plan.seeded(7, MOST), renumbered) == expected
    assert faults(plan.seeded(8, MOST), among) != expected
    assert {type(fault) for fault in expected.values()} == {Crash, Answer, Lost, Stale, Distorted, type(None)}


def test_a_seed_means_the_same_in_each_process() -> None:
    """Taken from a run: the hash of a string, which is different in each process, must not be in it."""
    assert [plan.seeded(1, MOST).fault(replace(WRITE, occurrence=n)) for n in range(1, 5)] == SEED_1


def test_faults_fit_their_calls() -> None:
    for call in calls(600):
        fault = plan.seeded(3, MOST).fault(call)
        assert not isinstance(fault, Crash) or call.is_write
        assert not isinstance(fault, Stale) or call.is_read
        assert isinstance(fault, Distorted | None) or not call.watch


def test_a_rate_of_nothing_gives_nothing() -> None:
    never = Rates(crash=0, refused=0, lost=0, stale=0, watches=0)
    assert not any(plan.seeded(7, never).fault(call) for call in calls())


def test_a_log_replayed_gives_the_same_faults_whatever_the_numbers() -> None:
    among, seeded = calls(), plan.seeded(7, MOST)
    lines = [plan.line_of(call, seeded.fault(call)) for call in among]
    later = [replace(call, number=call.number + 40, write=call.write and call.write + 9) for call in among]
    assert faults(plan.replay(lines), later) == faults(seeded, among)


def test_a_crash_is_at_one_write_and_in_no_other_life_again() -> None:
    of = plan.crash(at=3, committed=True)
    met = [call for call in calls() if of.fault(call)]
    assert [call.write for call in met] == [3]
    assert of.fault(met[0]) == Crash(committed=True)


def test_a_crash_at_a_write_of_another_run_is_at_the_same_write() -> None:
    write = replace(WRITE, number=17, write=5, occurrence=2)
    of = plan.crash_at(write, committed=False)
    assert of.title == "crash before PATCH deployments istio-system/istiod (2)"
    assert of.fault(replace(write, number=3, write=1)) == Crash(committed=False)
    assert of.fault(replace(write, occurrence=1)) is None
    assert of.fault(replace(write, life=2)) is None


def test_predicates_meet_only_what_they_can() -> None:
    anything = plan.either(plan.stale(2, at=lambda _: True), plan.crash(at=lambda _: True, committed=False))
    assert anything.fault(READ) == Stale(2)
    assert anything.fault(WRITE) == Crash(committed=False)
    assert anything.fault(WATCH) is None
    assert plan.distorted(Distorted(dropped=1)).fault(READ) is None


def test_an_answer_without_words_is_none() -> None:
    with pytest.raises(ValueError, match="418"):
        Answer(418)


def line(number: int) -> bytes:
    return b'{"type":"MODIFIED","object":%d}' % number


def after(fault: Distorted, count: int = 100) -> list[int]:
    """The numbers of the events that come through, of those from 0 up to `count`."""
    distortion = Distortion(fault)
    events = [event for number in range(count) for event in distortion.feed(line(number))] + distortion.flush()
    return [int(event.line[len(b'{"type":"MODIFIED","object":') : -1]) for event in events]


def test_an_undistorted_watch_is_as_it_was() -> None:
    assert after(Distorted()) == list(range(100))


def test_dropped_events_are_missing_and_the_others_are_in_order() -> None:
    through = after(Distorted(seed=1, dropped=0.3))
    assert 50 < len(through) < 90
    assert through == sorted(set(through))


def test_doubled_events_come_twice() -> None:
    through = after(Distorted(seed=1, doubled=0.3))
    assert 110 < len(through) < 150
    assert sorted(set(through)) == list(range(100))
    assert through == sorted(through)


def test_reordered_events_all_come_and_no_later_than_the_window() -> None:
    through = after(Distorted(seed=1, reordered=0.3, window=3))
    assert sorted(through) == list(range(100))
    assert through != sorted(through)
    assert all(abs(place - number) <= 2 * 3 for place, number in enumerate(through))


def test_what_happens_to_an_event_does_not_hang_on_other_rates() -> None:
    dropped = set(range(100)) - set(after(Distorted(seed=4, dropped=0.2)))
    assert dropped == set(range(100)) - set(after(Distorted(seed=4, dropped=0.2, doubled=0.5, reordered=0.5)))


def test_delayed_events_say_how_long() -> None:
    distortion = Distortion(Distorted(delayed=1, delay=0.5))
    assert [event.wait for event in distortion.feed(line(1))] == [0.5]


def test_after_410_and_in_silence_nothing_comes() -> None:
    assert after(Distorted(gone_after=4)) == [0, 1, 2, 3]
    assert after(Distorted(silent_after=4)) == [0, 1, 2, 3]
    distortion = Distortion(Distorted(gone_after=1))
    assert not distortion.gone
    list(distortion.feed(line(0)))
    assert distortion.gone


def test_bookmarks_pass_and_do_not_count() -> None:
    distortion = Distortion(Distorted(dropped=1, gone_after=1))
    bookmark = b'{"type":"BOOKMARK","object":{}}'
    assert [event.line for event in distortion.feed(bookmark)] == [bookmark]
    assert not distortion.gone


def reply(body: str, status: int = 200) -> Reply:
    return Reply(status, (), body.encode())


def test_a_stale_read_is_versions_old_and_never_goes_back() -> None:
    past = Past(of_a_list=False)
    for version in range(5):
        past.saw(newest := reply(f"v{version}"))
        past.saw(newest)  # read twice, changed once
    assert past.read(3, otherwise=newest).body == b"v1"
    assert past.read(1, otherwise=newest).body == b"v3"
    assert past.read(3, otherwise=newest).body == b"v3"
    assert past.read(0, otherwise=newest).body == b"v4"
    past.forget_life()
    assert past.read(2, otherwise=newest).body == b"v2"


def test_that_there_is_nothing_is_a_version_and_a_failure_is_none() -> None:
    past = Past(of_a_list=False)
    past.saw(reply("none", 404))
    past.saw(reply("throttled", 429))
    past.saw(found := reply("one"))
    assert past.read(1, otherwise=found).status == 404
    assert past.read(1, otherwise=reply("throttled", 429)).status == 429


def test_a_list_in_which_nothing_changed_is_the_same_version() -> None:
    past = Past(of_a_list=True)
    for version, content in ((1, "a"), (2, "a"), (3, "b"), (4, "b")):
        past.saw(
            newest := reply(
                f'{{"metadata":{{"resourceVersion":"{version}"}},"items":[{{"resourceVersion":"1","x":"{content}"}}]}}'
            )
        )
    assert b'"x":"a"' in past.read(1, otherwise=newest).body
    assert b'"resourceVersion":"2"' in past.read(1, otherwise=newest).body


def test_a_read_remembers_so_many_versions_and_still_never_goes_back() -> None:
    past = Past(of_a_list=False)
    for version in range(30):
        past.saw(newest := reply(f"v{version}"))
        past.read(1, otherwise=newest)
    assert past.read(29, otherwise=newest).body == b"v28"
    past.forget_life()
    assert past.read(29, otherwise=newest).body == b"v22"
