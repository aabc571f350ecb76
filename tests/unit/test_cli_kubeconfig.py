"""Which cluster, and as whom: as kubectl reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshwright.api.errors import FinalError
from meshwright.cli.kubeconfig import Access, access, merged

Json = dict[str, Any]


def config(name: str, *, current: str | None = None, user: Json | None = None, **cluster: Any) -> Json:
    return {
        "clusters": [{"name": name, "cluster": {"server": f"https://{name}", **cluster}}],
        "users": [{"name": name, "user": user or {"token": name}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        **({"current-context": current} if current else {}),
    }


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def names(document: Json, part: str) -> list[str]:
    return [each["name"] for each in document[part]]


def test_the_option_is_first(tmp_path: Path) -> None:
    path = write(tmp_path / "a", config("a"))
    found = access(str(path), None, environment={"KUBECONFIG": "/other", "KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    assert found == Access((path,))
    assert found.kubeconfig == str(path)


def test_then_the_variable_with_the_files_that_are_there(tmp_path: Path) -> None:
    paths = [write(tmp_path / name, config(name)) for name in "ab"]
    found = access(None, "b", environment={"KUBECONFIG": f"{paths[0]}:/not/there::{paths[1]}"})
    assert found == Access(tuple(paths), "b")
    assert found.kubeconfig == f"{paths[0]}:{paths[1]}"


def test_then_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = write(tmp_path / ".kube/config", config("a"))
    assert access(None, None, environment={"KUBERNETES_SERVICE_HOST": "10.0.0.1"}) == Access((path,))


def test_then_the_pods_own_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert access(None, None, environment={"KUBERNETES_SERVICE_HOST": "10.0.0.1"}).kubeconfig is None


def test_nothing_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(FinalError, match=r"there is no .*/\.kube/config; set KUBECONFIG, or pass --kubeconfig"):
        access(None, None, environment={})
    with pytest.raises(FinalError, match="/not/there is no file"):
        access("/not/there", None, environment={})


def test_of_what_has_the_same_name_the_first_counts(tmp_path: Path) -> None:
    first = write(tmp_path / "a", config("same") | {"contexts": []})
    second = write(tmp_path / "b", config("same", current="same", user={"token": "other"}))
    third = write(tmp_path / "c", config("c", current="c"))
    found = merged(Access((first, second, third)))
    assert found["current-context"] == "same"
    assert names(found, "users") == names(found, "clusters") == ["same", "c"]
    assert found["users"][0]["user"] == {"token": "same"}
    assert merged(Access((first, second, third), "c"))["current-context"] == "c"


def test_files_are_named_from_where_the_kubeconfig_is(tmp_path: Path) -> None:
    user = {"client-certificate": "me.crt", "client-key": "/keys/me.key"}
    path = write(tmp_path / "a", config("a", current="a", user=user, **{"certificate-authority": "ca.crt"}))
    found = merged(Access((path,)))
    assert found["clusters"][0]["cluster"]["certificate-authority"] == f"{tmp_path}/ca.crt"
    assert found["users"][0]["user"] == {"client-certificate": f"{tmp_path}/me.crt", "client-key": "/keys/me.key"}


def test_a_token_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    path = write(tmp_path / "a", config("a", current="a", user={"tokenFile": "token"}))
    assert merged(Access((path,)))["users"][0]["user"]["token"] == "secret"


def test_a_credential_plugin_of_today(tmp_path: Path) -> None:
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1", "command": "./login", "provideClusterInfo": True,
        "env": [{"name": "A", "value": "b"}],
    }  # fmt: skip
    path = write(tmp_path / "a", config("a", current="a", user={"exec": plugin}))
    found = merged(Access((path,)))["users"][0]["user"]["exec"]
    assert found["command"] == f"{tmp_path}/login"
    assert found["apiVersion"] == "client.authentication.k8s.io/v1beta1"
    environment = {each["name"]: each["value"] for each in found["env"]}
    told = json.loads(environment.pop("KUBERNETES_EXEC_INFO"))
    assert environment == {"A": "b"}
    assert told["apiVersion"] == plugin["apiVersion"]
    assert told["spec"]["cluster"] == {"server": "https://a"}


BROKEN: list[tuple[str, Any, str]] = [
    ("no YAML", "a: [", "is no kubeconfig"),
    ("a word", "nonsense", "is no kubeconfig"),
    ("a list", ["a"], "is no kubeconfig"),
    ("nameless", {"users": [{}]}, "is no kubeconfig"),
    ("no context chosen", config("a"), "has no current context; pass --context"),
    ("another context", config("a", current="b"), "has no context 'b'; there is: a"),
    ("no such cluster", config("a", current="a") | {"clusters": []}, "about cluster 'a', which no kubeconfig"),
]


@pytest.mark.parametrize(("content", "says"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_a_kubeconfig_that_cannot_be_used(tmp_path: Path, content: Any, says: str) -> None:
    path = write(tmp_path / "a", content)
    with pytest.raises(FinalError, match="no way to a cluster: ") as caught:
        merged(Access((path,)))
    assert says in str(caught.value)
