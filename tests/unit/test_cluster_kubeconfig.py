"""The kubeconfig of a member: what is taken, what is refused and how, and what nobody ever gets to read."""

from __future__ import annotations

import base64
import dataclasses
import ssl
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives import serialization

from meshwright.api.errors import ExternalError, KubeconfigError
from meshwright.cluster.client import Client
from meshwright.cluster.failures import classify
from meshwright.cluster.kubeconfig import LIMIT, NAME_LIMIT, Access, parse_kubeconfig
from testbed.pki import Authority, Identity

Json = dict[str, Any]

WHERE = "Secret meshwright-system/west, key kubeconfig"
TOKEN = "eyJhbGciOiJSUzI1NiJ9.c2VjcmV0.c2lnbmF0dXJl"
SERVER = "https://192.0.2.7:6443"


def encoded(content: bytes | Path) -> str:
    return base64.b64encode(content.read_bytes() if isinstance(content, Path) else content).decode()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("pki"), "ca")


@pytest.fixture(scope="module")
def client(authority: Authority) -> Identity:
    return authority.issue("client", "meshwright")


@pytest.fixture(scope="module")
def config(authority: Authority, client: Identity) -> Callable[[], Json]:
    """A fresh kubeconfig with everything that one may have, besides contexts that do not matter."""

    def new() -> Json:
        cluster = {"server": SERVER, "certificate-authority-data": encoded(authority.identity.certificate)}
        user = {
            "token": TOKEN,
            "client-certificate-data": encoded(client.certificate),
            "client-key-data": encoded(client.key),
        }
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "me@west",
            "contexts": [
                {"name": "other", "context": {"cluster": "other", "user": "other"}},
                {"name": "me@west", "context": {"cluster": "west", "user": "me", "namespace": "x"}},
            ],
            "clusters": [
                {"name": "other", "cluster": {"server": "http://192.0.2.8", "insecure-skip-tls-verify": True}},
                {"name": "west", "cluster": cluster},
            ],
            "users": [{"name": "other", "user": {"exec": {"command": "x"}}}, {"name": "me", "user": user}],
        }

    return new


def cluster_of(config: Json) -> Json:
    found: Json = config["clusters"][1]["cluster"]
    return found


def user_of(config: Json) -> Json:
    found: Json = config["users"][1]["user"]
    return found


def parse(config: Json) -> Access:
    return parse_kubeconfig(yaml.safe_dump(config).encode(), where=WHERE)


def refusal(text: bytes) -> str:
    with pytest.raises(KubeconfigError) as refused:
        parse_kubeconfig(text, where=WHERE)
    assert refused.value.__cause__ is None
    assert refused.value.__context__ is None
    message = str(refused.value)
    assert message.startswith(f"{WHERE}: ")
    return message


# -- what is taken


def test_the_current_context_leads_there(config: Callable[[], Json], authority: Authority, client: Identity) -> None:
    assert parse(config()) == Access(
        server=SERVER,
        ca=authority.identity.certificate.read_bytes(),
        token=TOKEN,
        client_certificate=client.certificate.read_bytes(),
        client_key=client.key.read_bytes(),
    )


def test_a_token_alone_is_enough_and_so_is_a_certificate(config: Callable[[], Json]) -> None:
    with_token, with_certificate = config(), config()
    for name in ("client-certificate-data", "client-key-data"):
        del user_of(with_token)[name]
    del user_of(with_certificate)["token"]
    del cluster_of(with_certificate)["certificate-authority-data"]
    assert parse(with_token) == dataclasses.replace(parse(config()), client_certificate=b"", client_key=b"")
    assert parse(with_certificate) == dataclasses.replace(parse(config()), token="", ca=None)


@pytest.mark.parametrize(
    ("server", "taken"),
    [
        (f"{SERVER}/", SERVER),
        ("https://rancher.example/k8s/clusters/c-1", "https://rancher.example/k8s/clusters/c-1"),
        ("https://[2001:db8::1]:6443", "https://[2001:db8::1]:6443"),
    ],
)
def test_servers_that_are_taken(config: Callable[[], Json], server: str, taken: str) -> None:
    whole = config()
    cluster_of(whole).update({"server": server, "tls-server-name": "kubernetes.default"})
    assert (parse(whole).server, parse(whole).tls_server_name) == (taken, "kubernetes.default")


def test_what_refuses_nothing_when_it_is_off(config: Callable[[], Json]) -> None:
    whole = config()
    cluster_of(whole).update({"insecure-skip-tls-verify": False, "proxy-url": "", "certificate-authority": None})
    user_of(whole).update({"exec": None, "tokenFile": "", "as-groups": [], "username": ""})
    assert parse(whole) == parse(config())


def test_base64_in_lines_is_taken(config: Callable[[], Json], authority: Authority) -> None:
    whole = config()
    cluster_of(whole)["certificate-authority-data"] = base64.encodebytes(
        authority.identity.certificate.read_bytes()
    ).decode()
    assert parse(whole) == parse(config())


# -- what is refused

CLUSTER, USER = "clusters[west].cluster", "users[me].user"

FIELDS: list[tuple[str, Any, str]] = [
    # path, value, a part of the message
    (f"{CLUSTER}.server", "http://192.0.2.7:8080", "no https URL"),
    (f"{CLUSTER}.server", "192.0.2.7", "no https URL"),
    (f"{CLUSTER}.server", "https://", "no https URL"),
    (f"{CLUSTER}.server", "https://:6443", "no https URL"),
    (f"{CLUSTER}.server", "https://[::1", "no https URL"),
    (f"{CLUSTER}.server", "https://a:99999", "no https URL"),
    (f"{CLUSTER}.server", "https://me:word@192.0.2.7", "no https URL"),
    (f"{CLUSTER}.server", "https://192.0.2.7/?a=b", "no https URL"),
    (f"{CLUSTER}.server", None, "no https URL"),
    (f"{CLUSTER}.server", "https://192.0.2.7\r\nHost: x", "printable"),
    (f"{CLUSTER}.server", ["https://192.0.2.7"], "printable"),
    (f"{CLUSTER}.tls-server-name", "a\nb", "printable"),
    (f"{CLUSTER}.certificate-authority", "/etc/ca.crt", "--flatten"),
    (f"{CLUSTER}.insecure-skip-tls-verify", True, "let anybody answer"),
    (f"{CLUSTER}.insecure-skip-tls-verify", "false", "let anybody answer"),
    (f"{CLUSTER}.proxy-url", "socks5://192.0.2.9", "not supported"),
    (f"{CLUSTER}.certificate-authority-data", "!!!", "not PEM in base64"),
    (f"{CLUSTER}.certificate-authority-data", "YWJj", "not PEM in base64"),
    (f"{CLUSTER}.certificate-authority-data", 7, "not PEM in base64"),
    (f"{USER}.exec", {"command": "aws"}, "runs a program"),
    (f"{USER}.auth-provider", {"name": "gcp"}, "needs a plugin"),
    (f"{USER}.tokenFile", "/var/run/secrets/token", "is a path"),
    (f"{USER}.client-certificate", "/etc/client.crt", "is a path"),
    (f"{USER}.client-key", "/etc/client.key", "is a path"),
    (f"{USER}.username", "admin", "no supported Kubernetes"),
    (f"{USER}.password", TOKEN, "no supported Kubernetes"),
    (f"{USER}.as", "system:admin", "somebody else"),
    (f"{USER}.as-uid", "1", "somebody else"),
    (f"{USER}.as-groups", ["system:masters"], "somebody else"),
    (f"{USER}.as-user-extra", {"a": ["b"]}, "somebody else"),
    (f"{USER}.token", f"{TOKEN}\r\nX-Remote-User: admin", "printable"),
    (f"{USER}.token", f"{TOKEN}\0", "printable"),
    (f"{USER}.token", 17, "printable"),
    (f"{USER}.client-key-data", "YWJj", "not PEM in base64"),
    (f"{USER}.client-key-data", None, "set both"),
    (f"{USER}.client-certificate-data", None, "set both"),
]


@pytest.mark.parametrize(("path", "value", "says"), FIELDS, ids=[f"{path}={value!r:.30}" for path, value, _ in FIELDS])
def test_a_field_that_is_refused(config: Callable[[], Json], path: str, value: Any, says: str) -> None:
    whole = config()
    place, _, name = path.rpartition(".")
    (cluster_of(whole) if place == CLUSTER else user_of(whole))[name] = value
    message = refusal(yaml.safe_dump(whole).encode())
    assert place in message
    assert name in message
    assert says in message
    assert TOKEN not in message


def without(*path: Any) -> Callable[[Json], None]:
    def change(whole: Json) -> None:
        for part in path[:-1]:
            whole = whole[part]
        del whole[path[-1]]

    return change


def with_(value: Any, *path: Any) -> Callable[[Json], None]:
    def change(whole: Json) -> None:
        for part in path[:-1]:
            whole = whole[part]
        whole[path[-1]] = value

    return change


SHAPES: dict[str, tuple[Callable[[Json], None], str]] = {
    "no current context": (without("current-context"), "current-context is not set"),
    "one that is not there": (
        with_("nowhere", "current-context"),
        "contexts has no entry nowhere, which is current-context",
    ),
    "one that is no name": (with_(["a"], "current-context"), "current-context is no name"),
    "one with a line break": (with_("a\nb", "current-context"), "current-context is no name"),
    "one that is too long": (with_("a" * (NAME_LIMIT + 1), "current-context"), "current-context is no name"),
    "contexts that are none": (with_({"me@west": {}}, "contexts"), "contexts has no entry me@west"),
    "contexts of nothing": (with_([None, "a", {"name": "me@west"}], "contexts"), "contexts has no entry me@west"),
    "no cluster": (without("clusters", 1), "clusters has no entry west, which is the current context's cluster"),
    "no user": (without("users", 1), "users has no entry me, which is the current context's user"),
    "a context without cluster": (without("contexts", 1, "context", "cluster"), "context's cluster is not set"),
    "a context without user": (without("contexts", 1, "context", "user"), "context's user is not set"),
    "a user who is none": (with_("me", "users", 1, "user"), "users has no entry me"),
    "no credential": (with_({"a": "b"}, "users", 1, "user"), "users[me].user has no credential"),
}


@pytest.mark.parametrize(("change", "says"), SHAPES.values(), ids=SHAPES)
def test_a_shape_that_is_refused(config: Callable[[], Json], change: Callable[[Json], None], says: str) -> None:
    whole = config()
    change(whole)
    assert says in refusal(yaml.safe_dump(whole).encode())


TEXTS: dict[str, bytes] = {
    "nothing": b"",
    "a word": b"kubeconfig",
    "a list": b"[a]",
    "two documents": b"a: b\n---\na: b\n",
    "no YAML": b"a: [b\n",
    "no text": b"\xff\xfe\x00",
    "an object of Python": b"!!python/object/apply:os.system ['x']",
    "aliases": b"a: &a [b]\nc: *a\n",
    "merged aliases": b"a: &a {b: c}\nd: {<<: *a}\n",
    "a nest": b"[" * (LIMIT - 1),
    "a number that is none": b"a: !!int ''",
    "a time that is none": b"a: !!timestamp b",
    "a truth that is none": b"a: !!bool b",
    "a day that is none": b"a: 2026-02-31",
    "a number with too many digits": b"a: " + b"9" * 5000,
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_what_is_no_kubeconfig(text: bytes) -> None:
    assert "is no kubeconfig in YAML without aliases" in refusal(text)


def test_one_that_is_too_large() -> None:
    assert "is larger than 128 KiB" in refusal(b"a" * (LIMIT + 1))


# -- certificates and keys that cannot be used


def damaged(pem: bytes) -> bytes:
    """PEM still, of other content."""
    first, second, *others = pem.splitlines()
    return b"\n".join([first, second[::-1], *others])


def encrypted(path: Path) -> bytes:
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"word"),
    )


def test_authorities_that_are_none(config: Callable[[], Json], authority: Authority, client: Identity) -> None:
    pem, key = authority.identity.certificate.read_bytes(), client.key.read_bytes()
    for wrong in (damaged(pem), key, pem + key, pem + damaged(pem), "ä".encode() + pem):
        whole = config()
        cluster_of(whole)["certificate-authority-data"] = encoded(wrong)
        message = refusal(yaml.safe_dump(whole).encode())
        assert f"{CLUSTER}.certificate-authority-data has to hold certificates, and nothing else" in message


def test_identities_that_are_none(config: Callable[[], Json], authority: Authority, client: Identity) -> None:
    certificate, key = client.certificate.read_bytes(), client.key.read_bytes()
    of_another = authority.issue("another", "another").key.read_bytes()
    for name, wrong in {
        "another's key": (certificate, of_another),
        "a damaged key": (certificate, damaged(key)),
        "a damaged certificate": (damaged(certificate), key),
        "a key with a password": (certificate, encrypted(client.key)),
    }.items():
        whole = config()
        user_of(whole).update({"client-certificate-data": encoded(wrong[0]), "client-key-data": encoded(wrong[1])})
        message = refusal(yaml.safe_dump(whole).encode())
        assert f"{USER}.client-certificate-data and client-key-data are not a certificate and its key" in message, name


# -- what nobody gets to read


def test_a_credential_is_in_no_repr_and_no_traceback(config: Callable[[], Json], client: Identity) -> None:
    secrets = (TOKEN, client.key.read_text().splitlines()[1], encoded(client.key)[:40])
    shown = repr(parse(config()))
    text = yaml.safe_dump(config()).encode()
    # Where a library's own complaint would show the line.
    for broken in (text.replace(b"    token: ", b"    token: ]: "), text + b"\n\xff", text + b"a: *a", b"- " + text):
        with pytest.raises(KubeconfigError) as refused:
            parse_kubeconfig(broken, where=WHERE)
        shown += "".join(traceback.format_exception(refused.value))
    assert SERVER in shown
    assert [secret for secret in secrets if secret in shown] == []


def test_the_file_for_an_identity_is_in_memory_and_ends_with_the_block(config: Callable[[], Json]) -> None:
    access = parse(config())
    with access.identity_file() as path:
        assert path
        assert str(Path(path).readlink()).startswith("/memfd:")
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(path)
    assert not Path(path).exists() or not str(Path(path).readlink()).startswith("/memfd:")
    with dataclasses.replace(access, client_certificate=b"", client_key=b"").identity_file() as none:
        assert none is None


# -- what comes of it


async def test_a_client_leads_where_the_access_says(config: Callable[[], Json]) -> None:
    whole = config()
    cluster_of(whole)["tls-server-name"] = "kubernetes.default"
    client = Client.for_member(parse(whole))
    configuration = client._api.configuration  # noqa: SLF001
    assert (configuration.host, configuration.tls_server_name) == (SERVER, "kubernetes.default")
    assert (configuration.verify_ssl, configuration.ssl_ca_cert, configuration.cert_file) == (True, None, None)
    await client.close()


def test_a_credential_that_is_refused_is_the_kubeconfigs_matter() -> None:
    error = classify(401, b'{"message": "Unauthorized"}', {}, what="list pods", member=True)
    assert isinstance(error, KubeconfigError)
    assert isinstance(error, ExternalError)
    assert str(error) == (
        "list pods: the API server does not accept the kubeconfig's credential (Unauthorized):"
        " make the kubeconfig again"
    )


def test_a_permission_that_is_missing_is_granted_in_the_member() -> None:
    says = b'{"message": "pods is forbidden: User \\"u\\" cannot list resource \\"pods\\""}'
    assert "apply manifests/member to that cluster again" in str(classify(403, says, {}, what="list pods", member=True))
