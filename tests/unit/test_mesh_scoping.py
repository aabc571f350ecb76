"""What a recommendation says: an object that can be applied, who loses what, and how much it saves."""

from __future__ import annotations

import pytest
import yaml

from meshwright.api.meshinstall import MeshInstall
from meshwright.api.scaling import Action
from meshwright.mesh.scoping import LIMIT, Place, Scene, places, proposal

PLACES = (
    Place("batch", services=5),
    Place("cart", services=2, proxies=4, asks=True),
    Place("istio-system", services=1),
    Place("quiet"),
    Place("shop", services=2, proxies=6, asks=True),
    Place("soon", services=1, asks=True),
)
SCENE = Scene("demo", "istio-system", "primary", PLACES, frozenset({"edge"}), config_bytes=100 * 1024.0)


def said(action: Action, scene: Scene = SCENE, pods: int = 0) -> str:
    text = proposal(action, scene, pods=pods)
    assert text
    return text


def test_discovery_selectors_keep_who_has_proxies_asks_for_them_or_is_needed() -> None:
    text = said(Action.DISCOVERY_SELECTORS)
    found = yaml.safe_load(text)
    (selector,) = found["spec"]["meshConfig"]["discoverySelectors"]
    assert selector["matchExpressions"][0]["values"] == ["cart", "edge", "istio-system", "shop", "soon"]
    assert "Proxies lose the services of batch (5 services)" in text
    assert "It saves about 455 KiB of configuration: 45% of 100 KiB for each of 10 proxies." in text


def test_discovery_selectors_are_what_a_meshinstall_takes() -> None:
    found = yaml.safe_load(said(Action.DISCOVERY_SELECTORS))
    found["spec"]["version"] = "1.31.4"
    assert MeshInstall.parse(found).spec.mesh_config["discoverySelectors"]


def test_a_sidecar_says_what_each_namespace_loses() -> None:
    text = said(Action.SIDECAR_SCOPING)
    found = yaml.safe_load(text)
    assert (found["kind"], found["metadata"]["namespace"]) == ("Sidecar", "istio-system")
    assert found["spec"] == {"egress": [{"hosts": ["./*", "istio-system/*"]}]}
    assert "cart: 4 proxies lose 8 of 11 services" in text
    assert "shop: 6 proxies lose 8 of 11 services" in text
    assert "It saves about 727 KiB of configuration: 73% of 100 KiB" in text


def test_without_what_istiod_sent_nothing_is_promised() -> None:
    unknown = Scene("demo", "istio-system", "primary", PLACES, frozenset(), config_bytes=0.0)
    assert "is not known" in said(Action.SIDECAR_SCOPING, unknown)


@pytest.mark.parametrize(("pods", "clusters"), [(6000, 2), (10000, 2), (25000, 3)])
def test_other_architectures_are_ranked_with_cost_and_blockers(pods: int, clusters: int) -> None:
    text = said(Action.OTHER_ARCHITECTURE, pods=pods)
    assert f"1. several clusters: {clusters} of size Large" in text
    assert "Blockers: Meshwright does not install it yet." in text
    assert "shop (6 proxies)" in text


def test_nothing_is_proposed_for_what_is_carried_out() -> None:
    assert proposal(Action.ADD_REPLICA, SCENE) is None


def test_a_cluster_of_many_namespaces_fits_into_the_object() -> None:
    many = tuple(Place(f"namespace-{number:04d}", 1, 1) for number in range(5000))
    scene = Scene("demo", "istio-system", "primary", many, frozenset(), 1.0)
    assert all(len(said(action, scene)) <= LIMIT + 1 for action in (Action.DISCOVERY_SELECTORS, Action.SIDECAR_SCOPING))


def test_places_are_counted_by_namespace() -> None:
    labels = {"a": {"istio-injection": "enabled"}, "b": {"istio.io/rev": "canary"}, "c": {}}
    found = places(["a", "a", "c", "gone"], {"a": 3}, labels, revision="canary")
    assert found == (Place("a", 2, 3, asks=True), Place("b", asks=True), Place("c", 1))
