"""Values in templates: whatever the text, it comes out in its one place, and nothing else changes."""

from __future__ import annotations

import copy
import json
from functools import cache
from typing import Any

import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meshes import TRUST, observed, one, plane, rendered
from meshes import mesh as install
from meshwright.mesh.desired import decide
from meshwright.mesh.objects import Manifest, Rendered
from meshwright.render import templates
from meshwright.render.objects import render

Json = dict[str, Any]

KEY_LIMIT = 1000  # YAML takes at most 1024 characters before the colon of a flow map; no template has a longer key

# What the wire can carry: every character but halves of a pair.
text = st.text(st.characters(codec="utf-8"), max_size=60)
nasty = st.one_of(
    text,
    st.sampled_from([
        "", " ", "~", "null", "yes", "no", "on", "0x1F", "1e3", "1_000", "012", "1:30", ".inf", "2026-01-01", "=", "<<",
        "{{ names.namespace }}", "{% raw %}", "{# a #}", "{{", "}}", "!!python/object:os.system", "!!str", "&a", "*a",
        "%YAML", "---", "...", "--- a\n...\n", "- a", "a: b", "a: b\nc: d", "# no comment", "a #b", "'", '"', '\\"',
        "\\", "\\n", "a\tb", "\t", "\r\n", "\x00", "\x1b[0m", "\x7f", "\x85", "\u2028", "\u2029", "\ufeff", "\ufffe",
        "\U0001f600", " leading", "trailing ", "\nleading", "trailing\n", "\n\n", " \n ", "a\n  b\n c", "}, {x: y",
        "]", "|", ">-", "x" * 4096, "$(POD_NAME)", "a\x00\nb",
    ]),
)  # fmt: skip
name = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,30}", fullmatch=True).map(lambda stem: f"PILOT_{stem}")
label = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)
domain = st.lists(label, min_size=1, max_size=3).map(".".join)
number = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False))
leaf = st.one_of(st.none(), st.booleans(), number, nasty)
key = nasty.filter(lambda each: len(each) < KEY_LIMIT)
anything = st.recursive(
    leaf, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(key, inner, max_size=4)), max_leaves=12
)
document = st.dictionaries(nasty, anything, max_size=5)  # long keys too: these go through as_yaml
some = settings(max_examples=40)  # where every example renders a whole mesh


def manifests(objects: list[Rendered]) -> list[Manifest]:
    return copy.deepcopy([each.manifest for each in objects])


@cache
def plain() -> list[Rendered]:
    return rendered(controlPlane={"env": {"PILOT_A": "plain"}})


@cache
def bare() -> list[Rendered]:
    return rendered()


def same(left: Any, right: Any) -> bool:
    """Equal, of the same types (to Python 1 is 1.0 is True), and -0.0 is not 0.0."""
    return json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)


@given(nasty)
@some
def test_an_environment_variable_is_exactly_its_text_and_nothing_else_changes(value: str) -> None:
    changed, unchanged = manifests(rendered(controlPlane={"env": {"PILOT_A": value}})), manifests(plain())
    places = 0
    for left, right in zip(changed, unchanged, strict=True):
        if left["kind"] != "Deployment":
            continue
        pair = [each["spec"]["template"]["spec"]["containers"][0]["env"] for each in (left, right)]
        for ours, theirs in zip(*pair, strict=True):
            if ours["name"] == "PILOT_A":
                assert same(ours, {"name": "PILOT_A", "value": value})
                ours["value"] = theirs["value"]
                places += 1
    assert places == 1
    assert same(changed, unchanged)


@given(st.dictionaries(name, nasty, max_size=6))
@some
def test_every_variable_comes_out_once_in_order(env: dict[str, str]) -> None:
    (container,) = one(rendered(controlPlane={"env": env}), "Deployment")["spec"]["template"]["spec"]["containers"]
    computed = one(plain(), "Deployment")["spec"]["template"]["spec"]["containers"][0]["env"][:-1]
    assert container["env"] == [*computed, *({"name": each, "value": env[each]} for each in sorted(env))]


def holding(config: Json) -> Json:
    """A mesh config with `config` in the one place where Istio takes any JSON."""
    log = {"path": "/dev/stdout", "logFormat": {"labels": config}}
    return {"extensionProviders": [{"name": "log", "envoyFileAccessLog": log}]}


@given(document)
@some
def test_a_mesh_config_is_exactly_what_was_written_and_nothing_else_changes(config: Json) -> None:
    changed, unchanged = manifests(rendered(meshConfig=holding(config))), manifests(bare())
    for left, right in zip(changed, unchanged, strict=True):
        if (left["kind"], left["metadata"]["name"]) != ("ConfigMap", "istio"):
            assert left == right
            continue
        found = yaml.safe_load(left["data"]["mesh"])
        assert same(found.pop("extensionProviders"), holding(config)["extensionProviders"])
        assert found == yaml.safe_load(right["data"]["mesh"])
        left["data"]["mesh"] = right["data"]["mesh"]
        assert left == right


@given(domain, label, label)
@some
def test_names_reach_their_places_and_no_object_is_lost(trust_domain: str, mesh_id: str, cluster: str) -> None:
    spec = {"trustDomain": trust_domain, "meshID": mesh_id, "clusterName": cluster}
    found = rendered(**spec)
    assert [each.key for each in found] == [each.key for each in plain()]
    config = yaml.safe_load(one(found, "ConfigMap", "istio")["data"]["mesh"])
    assert (config["trustDomain"], config["defaultConfig"]["meshId"]) == (trust_domain, mesh_id)
    values = yaml.safe_load(one(found, "ConfigMap", "istio-sidecar-injector")["data"]["values"])["global"]
    assert (values["trustDomain"], values["meshID"]) == (trust_domain, mesh_id)
    assert values["multiCluster"]["clusterName"] == cluster
    (container,) = one(found, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert {"name": "CLUSTER_ID", "value": cluster} in container["env"]
    marked = [each.manifest["metadata"] for each in found if each.key.kind != "Namespace"]
    ids = {each["labels"]["meshwright.dev/mesh-id"] for each in marked}
    assert ids == {mesh_id}


@given(label, label)
@some
def test_a_revision_such_as_1e3_or_no_stays_a_name(namespace: str, revision: str) -> None:
    for each in rendered(namespace=namespace, revision=revision):
        metadata = each.manifest["metadata"]
        assert metadata.get("namespace", namespace) == namespace
        if each.key.kind == "Namespace":
            assert metadata == {"name": namespace}
            continue
        assert metadata["labels"].get("istio.io/rev", revision) == revision
        assert all(isinstance(value, str) for value in metadata["labels"].values())


@given(anything)
@example(1e20)
@example(-0.0)
@example({"a": [5e-324, 1e-07, -1.5e300]})
def test_json_that_a_template_gets_is_what_yaml_reads(value: Any) -> None:
    text = templates.as_json(value)
    assert same(json.loads(text), value)
    assert same(yaml.load(text, Loader=templates.Loader), value)  # noqa: S506  # a safe loader
    assert "\n" not in text


@given(nasty)
def test_json_is_yaml_in_the_middle_of_a_flow_too(value: str) -> None:
    text = f"a: {{b: {templates.as_json(value)}, c: [{templates.as_json(value)}]}}\n"
    assert yaml.load(text, Loader=templates.Loader) == {"a": {"b": value, "c": [value]}}  # noqa: S506


@given(anything)
def test_yaml_that_people_read_round_trips_for_every_reader(value: Any) -> None:
    text = templates.as_yaml(value)
    assert same(yaml.safe_load(text), value)
    assert text.isascii()
    assert templates.as_yaml(json.loads(json.dumps(value))) == text


@given(document, st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_change_a_byte(config: Json, random: Any) -> None:
    names = list(config)
    random.shuffle(names)
    shuffled = {each: config[each] for each in names}
    assert templates.as_yaml(shuffled) == templates.as_yaml(config)


@given(document, st.dictionaries(name, nasty, max_size=4), label)
@some
def test_deciding_and_rendering_again_gives_the_same_bytes(config: Json, env: dict[str, str], revision: str) -> None:
    spec: Json = {"meshConfig": holding(config), "controlPlane": {"env": env}, "revision": revision}
    first, second = plane(**spec), plane(**copy.deepcopy(spec))
    assert first == second
    assert decide(observed(install(**spec))) == decide(observed(install(**spec)))
    assert [each.digest for wave in render(first, TRUST)[1:] for each in wave.objects] == [
        each.digest for wave in render(second, TRUST)[1:] for each in wave.objects
    ]
