"""Which pods are to have a sidecar, and what is said of those that have none or another one."""

from __future__ import annotations

import time
from typing import Any

import pytest

from meshes import mesh
from meshwright.mesh.enrolment import (
    NAMED_PODS,
    NEVER_INJECTED,
    Injection,
    Pod,
    Verdict,
    asks_for,
    judge,
    proxy_image,
    report,
)

Json = dict[str, Any]
INJECT, REVISION, STATUS = "sidecar.istio.io/inject", "istio.io/rev", "sidecar.istio.io/status"
IMAGE, OWN_IMAGE = "meshwright.dev/proxy-image", "sidecar.istio.io/proxyImage"
ENABLED, DISABLED = {"istio-injection": "enabled"}, {"istio-injection": "disabled"}
CANARY = {REVISION: "canary"}
YES, NO = {INJECT: "true"}, {INJECT: "false"}
NEW = "docker.io/istio/proxyv2:1.31.4"
OLD = "docker.io/istio/proxyv2:1.30.0"

# the namespace's labels, the pod's labels and annotations, what it asks for
ASKS: dict[str, tuple[Json, Json, Json, str | None]] = {
    "nobody asks": ({}, {}, {}, None),
    "namespace, as ever": (ENABLED, {}, {}, "default"),
    "namespace, disabled": (DISABLED, {**YES, **CANARY}, {}, None),
    "namespace, empty": ({"istio-injection": ""}, YES, {}, None),
    "namespace, revision": (CANARY, {}, {}, "canary"),
    "namespace, both": ({**ENABLED, **CANARY}, {}, {}, "default"),
    "namespace, empty revision": ({REVISION: ""}, {**YES, **CANARY}, {}, None),
    "pod, revision": ({}, CANARY, {}, "canary"),
    "pod, label": ({}, YES, {}, "default"),
    "pod, both": ({}, {**YES, **CANARY}, {}, "canary"),
    "pod, revision under another": (CANARY, {REVISION: "other"}, {}, "canary"),
    "pod, revision under the default": (ENABLED, CANARY, {}, "default"),
    "pod, annotation alone": ({}, {}, YES, None),
    "pod, another value": ({}, {INJECT: "yes"}, {}, None),
    "pod, annotation of a revision": ({}, {}, CANARY, None),
    "refuses by label": (ENABLED, NO, {}, None),
    "refuses by annotation": (ENABLED, {}, NO, None),
    "refuses a revision of its own": ({}, {**NO, **CANARY}, {}, None),
    "the label is heard first": (ENABLED, YES, NO, "default"),
    "even an empty one": (ENABLED, {INJECT: ""}, NO, "default"),
    "another value refuses nothing": (CANARY, {INJECT: "no"}, NO, "canary"),
}


@pytest.mark.parametrize(("namespace", "labels", "annotations", "revision"), ASKS.values(), ids=ASKS)
def test_what_a_pod_asks_for(namespace: Json, labels: Json, annotations: Json, revision: str | None) -> None:
    assert asks_for(namespace, labels, annotations, "apps") == revision


@pytest.mark.parametrize("name", sorted(NEVER_INJECTED))
def test_kubernetes_own_namespaces_are_never_injected(name: str) -> None:
    assert asks_for(ENABLED, YES, {}, name) is None


@pytest.mark.parametrize(
    ("annotations", "verdict"),
    [
        ({}, Verdict.MISSING),
        ({REVISION: "canary", IMAGE: NEW}, Verdict.MISSING),  # istiod did not say so
        ({STATUS: "", REVISION: "canary", IMAGE: NEW}, Verdict.INJECTED),
        ({STATUS: "", REVISION: "canary"}, Verdict.INJECTED),  # by another installer's template: who knows
        ({STATUS: "", REVISION: "canary", IMAGE: f"{NEW}-distroless"}, Verdict.INJECTED),
        ({STATUS: "", REVISION: "canary", IMAGE: OLD}, Verdict.OTHER_VERSION),
        ({STATUS: "", REVISION: "canary", IMAGE: f"{OLD}-debug"}, Verdict.OTHER_VERSION),
        ({STATUS: "", REVISION: "canary", IMAGE: "own:1", OWN_IMAGE: "own:1"}, Verdict.INJECTED),
        ({STATUS: "", REVISION: "default", IMAGE: NEW}, Verdict.OTHER_REVISION),
        ({STATUS: "", REVISION: "default", IMAGE: OLD}, Verdict.OTHER_REVISION),
        ({STATUS: ""}, Verdict.OTHER_REVISION),
    ],
)
def test_what_its_injection_left_on_a_pod(annotations: Json, verdict: Verdict) -> None:
    assert judge(annotations, revision="canary", image=NEW) is verdict


def pod(name: str, annotations: Json | None = None, *, namespace: str = "apps", **labels: str) -> Pod:
    return Pod(namespace, name, {key.replace("__", "/"): text for key, text in labels.items()}, annotations or {})


def test_a_report_counts_and_names() -> None:
    pods = [
        pod("c"), pod("a", {STATUS: "", REVISION: "canary", IMAGE: OLD}), pod("b", {STATUS: "", REVISION: "stable"}),
        pod("d", {STATUS: "", REVISION: "canary", IMAGE: NEW}), pod("e", {STATUS: ""}),
        pod("f", NO), pod("g", namespace="other"), pod("h", namespace="unknown"), pod("i", namespace="tagged"),
    ]  # fmt: skip
    namespaces = {"apps": CANARY, "other": ENABLED, "tagged": {REVISION: "prod"}}
    found = report(pods, namespaces, revision="canary", tags=["prod"], image=NEW)
    assert found == Injection(
        expected=6,
        missing=2,
        outdated=3,
        pods=(
            f"apps/a: sidecar image {OLD}, now {NEW}",
            "apps/b: sidecar of revision stable",
            "apps/c: no sidecar",
            "apps/e: sidecar of revision unknown",
            "tagged/i: no sidecar",
        ),
    )
    assert report(pods, namespaces, revision="canary", image=NEW).expected == 5
    assert report(pods, namespaces, revision="default", image=NEW).pods == ("other/g: no sidecar",)


def test_nothing_to_report() -> None:
    assert report([], {}, revision="canary", image=NEW) == Injection()


def test_of_many_the_first_are_named() -> None:
    pods = [pod(f"p{number:02}") for number in range(NAMED_PODS + 5)]
    found = report(reversed(pods), {"apps": CANARY}, revision="canary", image=NEW)
    assert found.missing == len(pods)
    assert found.pods == tuple(f"apps/p{number:02}: no sidecar" for number in range(NAMED_PODS))


@pytest.mark.parametrize(
    ("spec", "image"),
    [
        ({}, NEW),
        ({"controlPlane": {"image": {"hub": "example.org/istio"}}}, "example.org/istio/proxyv2:1.31.4"),
        ({"controlPlane": {"image": {"tag": "1.31.4-distroless"}}}, f"{NEW}-distroless"),
    ],
)
def test_the_image_that_is_injected_now(spec: Json, image: str) -> None:
    assert proxy_image(mesh(**spec).spec) == image


def test_figure_ten_thousand_pods() -> None:
    injected = {STATUS: "", REVISION: "canary", IMAGE: NEW}
    pods = [pod(f"p{number}", injected if number % 3 else {}, namespace=f"n{number % 50}") for number in range(10_000)]
    namespaces = {f"n{number}": CANARY for number in range(50)}
    best = min(_seconds(pods, namespaces) for _ in range(5))
    print(f"10,000 pods judged in {best * 1000:.1f} ms")
    assert best < 0.2  # loosely: that it is linear, on any machine


def _seconds(pods: list[Pod], namespaces: Json) -> float:
    began = time.perf_counter()
    assert report(pods, namespaces, revision="canary", image=NEW).expected == len(pods)
    return time.perf_counter() - began
