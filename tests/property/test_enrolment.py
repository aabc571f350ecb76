"""Laws of selectors and of enrolment, each against the same said in another way."""

from __future__ import annotations

from functools import cache
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from meshes import plane
from meshwright.mesh.enrolment import Pod, Verdict, asks_for, judge, report
from meshwright.mesh.names import Names
from meshwright.mesh.selectors import selects
from meshwright.render import templates

Json = dict[str, Any]

# -- selectors, as sets of the labels that they leave

KEYS, VALUES = ("a", "b"), ("", "x", "y")
LABELS = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES))
ALL = [
    {key: value for key, value in zip(KEYS, pair, strict=True) if value is not None}
    for pair in ((one, other) for one in (None, *VALUES) for other in (None, *VALUES))
]
EXPRESSIONS = st.fixed_dictionaries(
    {
        "key": st.sampled_from(KEYS),
        "operator": st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist"]),
        "values": st.lists(st.sampled_from(VALUES), unique=True),
    }
)
SELECTORS = st.fixed_dictionaries({}, optional={"matchLabels": LABELS, "matchExpressions": st.lists(EXPRESSIONS)})


def left_by(selector: Json) -> list[Json]:
    """All labels that there can be, one requirement after the other taking away from them."""
    left = list(ALL)
    for key, value in selector.get("matchLabels", {}).items():
        left = [labels for labels in left if (key, value) in labels.items()]
    for each in selector.get("matchExpressions", []):
        having = [labels for labels in left if each["key"] in labels]
        listed = [labels for labels in having if labels[each["key"]] in each["values"]]
        lacking = [labels for labels in left if labels not in having]
        unlisted = [labels for labels in left if labels not in listed]
        left = {"In": listed, "NotIn": unlisted, "Exists": having, "DoesNotExist": lacking}[each["operator"]]
    return left


@given(SELECTORS)
def test_a_selector_selects_what_its_requirements_leave(selector: Json) -> None:
    assert [labels for labels in ALL if selects(selector, labels)] == [
        labels for labels in ALL if labels in left_by(selector)
    ]


# -- enrolment, as the webhooks that we render have it

REVISIONS = ("default", "canary", "prod")
IGNORED = ("kube-system", "kube-public", "kube-node-lease", "local-path-storage")


def some(key: str, *values: str) -> st.SearchStrategy[Json]:
    return st.sampled_from([{}, *({key: value} for value in values)])


def merged(*parts: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
    return st.tuples(*parts).map(lambda found: {key: value for part in found for key, value in part.items()})


REVISION = some("istio.io/rev", *REVISIONS, "", "unknown")
INJECT = some("sidecar.istio.io/inject", "true", "false", "", "yes")
NAMESPACES = merged(REVISION, some("istio-injection", "enabled", "disabled", "", "true"))
POD_LABELS = merged(REVISION, INJECT)
ANNOTATIONS = merged(INJECT)
NAMES = st.sampled_from(["apps", *IGNORED])


@cache
def webhooks(revision: str) -> tuple[Json, ...]:
    """As they are rendered; those of a tag are the same with its name."""
    (configuration,) = templates.render(
        "webhooks/mutating.yaml.j2", names=Names("istio-system", revision), plane=plane()
    )
    return tuple(configuration["webhooks"])


def called(namespace_labels: Json, pod_labels: Json) -> list[str]:
    return [
        revision
        for revision in REVISIONS
        for webhook in webhooks(revision)
        if selects(webhook["namespaceSelector"], namespace_labels) and selects(webhook["objectSelector"], pod_labels)
    ]


def injects(pod_labels: Json, annotations: Json, namespace: str) -> bool:
    """istiod's `injectRequired` with the policy `enabled`, step by step."""
    if namespace in IGNORED:
        return False
    wish = annotations.get("sidecar.istio.io/inject", "")
    if "sidecar.istio.io/inject" in pod_labels:
        wish = pod_labels["sidecar.istio.io/inject"]
    by_default = wish not in ("true", "false")
    return by_default or wish == "true"


@given(NAMESPACES, POD_LABELS, ANNOTATIONS, NAMES)
def test_a_pod_asks_for_whom_the_webhooks_call_and_who_would_inject(
    namespace_labels: Json, pod_labels: Json, annotations: Json, namespace: str
) -> None:
    revisions = called(namespace_labels, pod_labels)
    assert len(revisions) <= 1, "no pod may match two webhooks"
    expected = revisions[0] if revisions and injects(pod_labels, annotations, namespace) else None
    found = asks_for(namespace_labels, pod_labels, annotations, namespace)
    assert (found if found in REVISIONS else None) == expected  # others may serve other revisions


# -- reports

LEFT = merged(
    some("sidecar.istio.io/status", "{}"), some("istio.io/rev", *REVISIONS),
    some("meshwright.dev/proxy-image", "new", "old"), some("sidecar.istio.io/proxyImage", "own"), INJECT,
)  # fmt: skip
PODS = st.lists(
    st.builds(Pod, st.sampled_from(["a", "b", "c"]), st.from_regex(r"[a-z]{1,3}", fullmatch=True), POD_LABELS, LEFT)
)
SPACES = st.dictionaries(st.sampled_from(["a", "b"]), NAMESPACES)


@given(PODS, SPACES, st.sampled_from(REVISIONS), st.sets(st.sampled_from(REVISIONS)))
def test_a_report_is_the_sum_of_the_verdicts(pods: list[Pod], namespaces: Json, revision: str, tags: set[str]) -> None:
    verdicts = [
        (f"{each.namespace}/{each.name}", judge(each.annotations, revision=revision, image="new"))
        for each in pods
        if asks_for(namespaces.get(each.namespace, {}), each.labels, each.annotations, each.namespace)
        in {revision, *tags}
    ]
    wrong = [(name, verdict) for name, verdict in verdicts if verdict is not Verdict.INJECTED]
    found = report(pods, namespaces, revision=revision, tags=tags, image="new")
    assert found.expected == len(verdicts)
    assert found.missing == [verdict for _, verdict in wrong].count(Verdict.MISSING)
    assert found.missing + found.outdated == len(wrong)
    assert [text.partition(": ")[0] for text in found.pods] == sorted(name for name, _ in wrong)[:10]


@given(PODS, SPACES, st.randoms(use_true_random=False))
def test_the_order_of_pods_changes_no_number(pods: list[Pod], namespaces: Json, chance: Any) -> None:
    def numbers(some: list[Pod]) -> tuple[int, int, int]:
        found = report(some, namespaces, revision="canary", image="new")
        return found.expected, found.missing, found.outdated

    shuffled = list(pods)
    chance.shuffle(shuffled)
    assert numbers(shuffled) == numbers(pods)
