"""Whatever stands in a member's Secret: it leads somewhere by https, or is refused in a sentence without a secret."""

from __future__ import annotations

import copy
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from meshwright.api.errors import KubeconfigError
from meshwright.cluster.kubeconfig import IN_CLUSTER, IN_USER, Access, parse_kubeconfig

Json = dict[str, Any]

WHERE = "Secret meshwright-system/west, key kubeconfig"
TOKEN = "not-for-anybodys-eyes"
GOOD: Json = {
    "current-context": "a",
    "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
    "clusters": [{"name": "a", "cluster": {"server": "https://192.0.2.7:6443"}}],
    "users": [{"name": "a", "user": {"token": TOKEN}}],
}
PATHS: list[tuple[Any, ...]] = [
    *((part,) for part in GOOD),
    *((part, 0) for part in ("contexts", "clusters", "users")),
    *((part, 0, name) for part in ("contexts", "clusters", "users") for name in ("name", part[:-1])),
    *(("contexts", 0, "context", name) for name in ("cluster", "user")),
    *(("clusters", 0, "cluster", name) for name in ("server", "tls-server-name", "certificate-authority-data")),
    *(("clusters", 0, "cluster", name) for name in IN_CLUSTER),
    *(("users", 0, "user", name) for name in ("token", "client-certificate-data", "client-key-data")),
    *(("users", 0, "user", name) for name in IN_USER),
]
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
URLS = st.tuples(
    st.sampled_from(["https://", "http://", "HTTPS://", "https:", ""]),
    st.text(max_size=5),
    st.sampled_from(["", "a", "[::1]", "[", "me:word@a", "a:99999", "a:b", "a:0"]),
    st.sampled_from(["", "/", "/b", "?c=d", "#e", "\n"]),
).map("".join)


def outcome(text: bytes) -> str:
    """What is said; empty when it is taken."""
    found = taken_or_refused(text)
    if isinstance(found, KubeconfigError):
        assert found.__context__ is None
        assert str(found).startswith(f"{WHERE}: ")
        assert TOKEN not in str(found)
        return str(found)
    assert found.server.lower().startswith("https://")
    assert found.server.isascii()
    assert found.server.isprintable()
    assert found.token or found.client_key
    assert TOKEN not in repr(found)
    return ""


def taken_or_refused(text: bytes) -> Access | KubeconfigError:
    try:
        return parse_kubeconfig(text, where=WHERE)
    except KubeconfigError as refused:
        return refused


@given(st.sampled_from(PATHS), ANYTHING)
def test_anything_in_the_place_of_anything(path: tuple[Any, ...], value: Any) -> None:
    whole = copy.deepcopy(GOOD)
    place: Any = whole
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    refused = outcome(yaml.safe_dump(whole, allow_unicode=True).encode(errors="surrogatepass"))
    if value and path[-1] in (*IN_CLUSTER, *IN_USER):
        assert refused


@given(URLS)
def test_any_server(server: str) -> None:
    whole = copy.deepcopy(GOOD)
    whole["clusters"][0]["cluster"]["server"] = server
    refused = outcome(yaml.safe_dump(whole).encode(errors="surrogatepass"))
    if "@" in server or "?" in server or "#" in server:
        assert "clusters[a].cluster.server" in refused


@given(st.binary(max_size=200) | st.text(alphabet="!&*[]{}<>|:-?,\"'#%@`ab01.~= \n\t", max_size=200).map(str.encode))
def test_any_text(text: bytes) -> None:
    assert outcome(text)


@given(st.data())
def test_any_cut_of_a_good_one(data: st.DataObject) -> None:
    whole = yaml.safe_dump(GOOD).encode()
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(whole))] * 2)))
    outcome(whole[:start] + whole[end:])
