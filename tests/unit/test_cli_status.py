"""kubectl mesh status: one request, what people read, and how it ends; against an API server that says what we like."""

from __future__ import annotations

import copy
import datetime as dt
import http.server
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pykube
import pytest
import yaml

from meshwright.api.meshinstall import MeshStatus
from meshwright.cli import server as module
from meshwright.cli.main import main
from meshwright.cli.status import age, cluster_rows, conditions, lines, next_steps, span, summary
from meshwright.cli.terminal import Terminal
from meshwright.cluster.kinds import MESH_INSTALL

Json = dict[str, Any]

NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
SINCE = "2026-02-26T12:00:00Z"


def condition(kind: str, status: str, reason: str, message: str, since: str = SINCE) -> Json:
    return {
        "type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": since,
        "observedGeneration": 3,
    }  # fmt: skip


WELL: Json = {
    "apiVersion": "meshwright.dev/v1alpha1",
    "kind": "MeshInstall",
    "metadata": {"name": "shop", "generation": 3, "resourceVersion": "70"},
    "spec": {"version": "1.31.4", "revision": "default", "namespace": "istio-system", "mode": "Apply"},
    "status": {
        "observedGeneration": 3,
        "version": "1.31.4",
        "conditions": [
            condition("Ready", "True", "Installed", "the mesh is as declared"),
            condition("Reconciling", "False", "Installed", "nothing is under way"),
            condition("Stalled", "False", "Installed", "nothing is stuck"),
            condition("GatewaysReady", "True", "GatewaysAvailable", "every replica of every gateway is available"),
        ],
        "clusters": [
            {
                "name": "primary",
                "ready": True,
                "kubernetesVersion": "v1.34.4",
                "controlPlane": {
                    "replicas": 2, "readyReplicas": 2, "size": "Small",
                    "resources": {
                        "requests": {"cpu": "500m", "memory": "4Gi"}, "limits": {"cpu": "2", "memory": "4Gi"}
                    },
                },
                "proxies": 12,
                "proxyVersions": [
                    {"version": "1.31.3", "revision": "default", "count": 2},
                    {"version": "1.31.4", "revision": "default", "count": 10},
                ],
                "injection": {
                    "expected": 17, "missing": 3, "outdated": 2,
                    "pods": [f"shop/cart-{number}: no sidecar" for number in range(4)],
                },
                "gateways": [
                    {
                        "name": "ingress", "namespace": "edge", "replicas": 2, "readyReplicas": 2,
                        "addresses": ["192.0.2.7"],
                    },
                    {"name": "egress", "namespace": "edge", "replicas": 2, "readyReplicas": 1, "addresses": []},
                ],
                "trust": {"rootExpires": "2036-02-27T12:00:00Z", "intermediateExpires": "2027-03-01T12:00:00Z"},
                "workloadCertificates": {
                    "earliest": "shop/cart-1", "expires": "2026-03-01T23:30:00Z", "hoursLeft": 20, "read": 11, "of": 12
                },
                "objects": 41,
                "notReconciled": 1,
            }
        ],
    },
}  # fmt: skip

WELL_TEXT = """\
✔ Mesh shop is ready: Istio 1.31.4, revision default, namespace istio-system

  ✔ Ready          Installed          3d  the mesh is as declared
  · Reconciling    Installed          3d  nothing is under way
  · Stalled        Installed          3d  nothing is stuck
  ✔ GatewaysReady  GatewaysAvailable  3d  every replica of every gateway is available

Cluster primary (Kubernetes v1.34.4)
  istiod        2 of 2 ready, size Small, requests 500m CPU and 4Gi, at most 2 CPU and 4Gi
  proxies       12 pods with a sidecar; connected: 2 of 1.31.3 at revision default, 10 of 1.31.4 at revision default
  injection     17 pods are to have a sidecar: 3 without one, 2 with an old one
                shop/cart-0: no sidecar
                shop/cart-1: no sidecar
                shop/cart-2: no sidecar
                and 2 more: `kubectl mesh proxies --missing`
  gateways      edge/ingress: 2 of 2 ready, 192.0.2.7
                edge/egress: 1 of 2 ready, no address
  certificates  root ends 2036-02-27 (in 10y), intermediate ends 2027-03-01 (in 365d)
                the earliest of a workload: shop/cart-1, 11 h left (11 of 12 proxies were asked)
  objects       41, 1 of them left alone by annotation"""


def ill() -> Json:
    mesh = copy.deepcopy(WELL)
    mesh["metadata"] |= {"generation": 4, "deletionTimestamp": SINCE}
    mesh["spec"]["mode"] = "Plan"
    mesh["status"]["version"] = "1.31.3"
    mesh["status"]["conditions"] = [
        condition("Ready", "False", "SizeTakenBack", "a replica found no room", "2026-03-01T11:57:30Z"),
        condition("Reconciling", "True", "SizeTakenBack", "on its way"),
        condition("Stalled", "True", "SizeTakenBack", "somebody must act"),
        condition("GatewaysReady", "False", "GatewayNotReady", "1 of 2 replicas of gateway egress are ready"),
        condition("CertificatesValid", "Unknown", "NotObserved", "not looked at yet"),
    ]
    mesh["status"]["clusters"][0]["controlPlane"]["refused"] = {"size": "Medium", "message": "no room on any node"}
    mesh["status"]["clusters"][0]["workloadCertificates"]["expires"] = "2026-03-01T11:00:00Z"
    return mesh


def text(mesh: Json, **terminal: Any) -> str:
    return "\n".join(lines(mesh, now=NOW, terminal=Terminal(**terminal)))


def test_the_status_of_these_tests_is_one_of_ours() -> None:
    for mesh in (WELL, ill()):
        status = copy.deepcopy(mesh["status"])
        assert MeshStatus.model_validate(status).version


def test_a_mesh_that_is_well() -> None:
    assert text(WELL) == WELL_TEXT


def test_a_mesh_that_is_not() -> None:
    found = text(ill(), unicode=False)
    assert found.startswith(
        "x Mesh shop is not ready: Istio 1.31.3, 1.31.4 is asked for, revision default, namespace istio-system,"
        " mode Plan\n"
        "  The operator has not looked at generation 4 yet; below is what it said of generation 3.\n"
        "  It is being deleted.\n"
        "\n"
        "  x Ready              SizeTakenBack    2m  a replica found no room\n"
        "  ! Reconciling        SizeTakenBack    3d  on its way\n"
        "  x Stalled            SizeTakenBack    3d  somebody must act\n"
        "  ! GatewaysReady      GatewayNotReady  3d  1 of 2 replicas of gateway egress are ready\n"
        "  ? CertificatesValid  NotObserved      3d  not looked at yet\n"
        "\n"
        "What to do\n"
        "  SizeTakenBack    Make room or add nodes"
    )
    assert "  GatewayNotReady  `kubectl describe pod` of the pod that the message names.\n" in found
    assert "\n                Medium was taken back: no room on any node\n" in found
    assert "the earliest of a workload: shop/cart-1, ended (" in found


def test_next_steps_come_once_and_only_for_what_is_not_well() -> None:
    assert [reason for reason, _ in next_steps(conditions(ill()))] == ["SizeTakenBack", "GatewayNotReady"]
    assert next_steps(conditions(WELL)) == []


def test_a_reason_of_a_newer_operator_is_shown_too() -> None:
    mesh = copy.deepcopy(WELL)
    mesh["status"]["conditions"] = [condition("Ready", "False", "Unheard", "something new")]
    assert "✘ Ready  Unheard  3d  something new" in text(mesh)


def test_a_cluster_among_others() -> None:
    cluster = {
        "name": "west", "network": "west", "away": "no answer; away since 2026-11-01 12:00:00 UTC",
        "remotes": [{"name": "east", "synced": "2/2", "tokenExpires": "2026-12-01T12:00:00Z"}],
    }  # fmt: skip
    rows = dict(cluster_rows(cluster, now=dt.datetime(2026, 11, 1, tzinfo=dt.UTC)))
    assert rows["away"].startswith("no answer; away since")
    assert rows["network"] == "west"
    assert rows["reads"] == "east: 2/2 of istiod in sync, by a token until 2026-12-01T12:00:00Z"


def test_scaling_rules_that_have_something_to_say() -> None:
    rules = [
        {"action": "Resize", "state": "Quiet", "message": "below"},
        {"action": "AddReplica", "state": "Pending", "message": "above the threshold"},
        {"action": "SidecarScoping", "state": "Recommended", "message": "memory"},
    ]
    rows = list(cluster_rows({"name": "west", "scaling": {"rules": rules}}, now=NOW))
    place = rows.index(("scaling", "AddReplica pending: above the threshold"))
    assert rows[place + 1] == ("", "SidecarScoping recommended: memory")
    assert not [text for _, text in rows if "Resize" in text]


def test_what_requests_between_clusters_came_to() -> None:
    mesh = ill()
    mesh["status"]["clusters"][0]["reaches"] = [
        {"name": "north", "passed": False, "message": "timed out", "lastPass": "2026-03-01T11:00:00Z"},
        {"name": "west", "passed": True, "latency": "3.1ms", "lastPass": "2026-03-01T11:00:00Z"},
    ]
    shown = text(mesh)
    assert "north: requests fail: timed out; they did pass 2026-03-01T11:00:00Z" in " ".join(shown.split())
    assert "west: requests pass, 3.1ms in the median, verified 2026-03-01T11:00:00Z" in " ".join(shown.split())


def test_a_cluster_that_another_one_serves() -> None:
    mesh = ill()
    mesh["status"]["clusters"][0] |= {"primary": "east", "trust": {}}
    assert "none here: that of cluster east serves it" in text(mesh)
    assert "those of cluster east" in text(mesh)


def test_nobody_has_looked_at_it() -> None:
    mesh = {**WELL, "status": {}}
    assert text(mesh) == (
        "? Mesh shop is not looked at yet: Istio 1.31.4, not installed yet, revision default, namespace istio-system\n"
        "\n"
        "  ! the operator has not looked at it yet: `kubectl -n meshwright-system get pods` shows whether it runs"
    )
    assert summary(mesh)["ready"] is False


def test_a_status_that_says_little() -> None:
    mesh = copy.deepcopy(WELL)
    mesh["status"]["clusters"] = [{"name": "primary"}]
    assert text(mesh).endswith(
        "Cluster primary\n"
        "  istiod        0 of 0 ready\n"
        "  proxies       0 pods with a sidecar\n"
        "  injection     0 pods are to have a sidecar\n"
        "  certificates  not made yet\n"
        "  objects       0"
    )


@pytest.mark.parametrize("width", [60, 80, 120])
def test_it_fits_the_terminal(width: int) -> None:
    for mesh in (WELL, ill()):
        body = text(mesh, width=width).split("\n\n", 1)[1]
        too_long = [line for line in body.splitlines() if len(line) > width]
        assert all("  " not in line.strip() for line in too_long), too_long  # single words, and heads of rows


SPANS = [(0, "0s"), (119, "119s"), (120, "2m"), (7199, "119m"), (7200, "2h"), (172799, "47h"), (172800, "2d"),
         (63071999, "729d"), (63072000, "2y")]  # fmt: skip


@pytest.mark.parametrize(("seconds", "says"), SPANS)
def test_spans_as_kubectl_has_them(seconds: int, says: str) -> None:
    assert span(seconds) == says


def test_an_age_is_never_negative() -> None:
    assert age("2026-03-01T12:00:05Z", NOW) == "0s"
    assert age(None, NOW) == ""


# Against a server


@dataclass
class Api:
    """An API server that knows MeshInstalls only, and says what a test wants."""

    meshes: list[Json] = field(default_factory=list)
    status: int = 200
    body: Any = None
    requests: list[tuple[str, str]] = field(default_factory=list)  # path and Authorization
    changed: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    def answer(self) -> Any:
        return self.body or {"metadata": {"resourceVersion": "70"}, "items": self.meshes}


@pytest.fixture
def api() -> Iterator[Api]:
    api = Api()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            api.requests.append((self.path, self.headers.get("Authorization", "")))
            self.send_response(api.status)
            if "watch=true" in self.path:
                self.end_headers()
                api.changed.wait(30)
                self.wfile.write(json.dumps({"type": "MODIFIED", "object": {}}).encode() + b"\n")
                api.changed.clear()
                return
            content = json.dumps(api.answer()).encode()
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        api.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield api
        api.changed.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def kubeconfig(api: Api, tmp_path: Path) -> Path:
    return write_kubeconfig(tmp_path / "kubeconfig", api.port, {"token": "t0ken"})


def write_kubeconfig(path: Path, port: int, user: Json) -> Path:
    document = {
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(yaml.safe_dump(document))
    return path


def status(kubeconfig: Path, *arguments: str) -> int:
    return main(["status", "--kubeconfig", str(kubeconfig), *arguments])


def test_the_path_is_that_of_the_kind() -> None:
    named = (module.API_VERSION, module.KIND, module.PLURAL)
    assert named == (MESH_INSTALL.api_version, MESH_INSTALL.kind, MESH_INSTALL.plural)


def test_one_request_with_the_token(api: Api, kubeconfig: Path, capsys: pytest.CaptureFixture[str]) -> None:
    api.meshes = [WELL]
    assert status(kubeconfig) == 0
    assert api.requests == [(MESH_INSTALL.path(), "Bearer t0ken")]
    assert capsys.readouterr().out.startswith("✔ Mesh shop is ready")


def test_several_meshes_by_name(api: Api, kubeconfig: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = {**ill(), "metadata": {"name": "a", "generation": 3}}
    api.meshes = [WELL, other]
    assert status(kubeconfig) == 2
    out = capsys.readouterr().out
    assert out.index("Mesh a is not ready") < out.index("\n\n✔ Mesh shop is ready")
    assert status(kubeconfig, "shop") == 0
    assert "Mesh a" not in capsys.readouterr().out


def test_ready_of_an_older_generation_is_not_ready(
    api: Api, kubeconfig: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    api.meshes = [{**WELL, "metadata": {"name": "shop", "generation": 4}}]
    assert status(kubeconfig) == 2
    assert capsys.readouterr().out.startswith("! Mesh shop was ready: ")


def test_no_mesh_at_all(api: Api, kubeconfig: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(kubeconfig) == 2
    assert capsys.readouterr().out.startswith("No MeshInstall in this cluster: `kubectl apply` one")
    api.body = {"metadata": {"resourceVersion": "1"}, "items": None}
    assert status(kubeconfig, "-o", "json") == 2
    assert json.loads(capsys.readouterr().out) == []


def test_documents_have_one_shape(api: Api, kubeconfig: Path, capsys: pytest.CaptureFixture[str]) -> None:
    api.meshes = [ill()]
    assert status(kubeconfig, "-o", "json") == 2
    (found,) = json.loads(capsys.readouterr().out)
    assert list(found) == [
        "name", "ready", "revision", "namespace", "mode", "version", "generation", "conditions", "clusters", "checks",
        "nextSteps",
    ]  # fmt: skip
    assert found["version"] == {"declared": "1.31.4", "running": "1.31.3"}
    assert found["generation"] == {"declared": 4, "observed": 3}
    assert found["clusters"] == ill()["status"]["clusters"]
    assert found["nextSteps"][0]["reason"] == "SizeTakenBack"
    assert status(kubeconfig, "-o", "yaml") == 2
    assert yaml.safe_load(capsys.readouterr().out) == [found]


def test_colours_are_for_terminals(api: Api, kubeconfig: Path, capsys: pytest.CaptureFixture[str]) -> None:
    api.meshes = [WELL]
    status(kubeconfig)
    assert "\x1b" not in capsys.readouterr().out
    status(kubeconfig, "--color", "always")
    assert "\x1b[32m✔\x1b[0m" in capsys.readouterr().out


def refusal(message: str) -> Json:
    return {"kind": "Status", "message": message}


FORBIDDEN = 'meshinstalls.meshwright.dev is forbidden: User "bob" cannot list resource "meshinstalls"'
REFUSALS: list[tuple[int, Any, str]] = [
    (
        404,
        refusal("the server could not find the requested resource"),
        "knows no MeshInstall: install Meshwright first",
    ),
    (403, refusal(FORBIDDEN), f"{FORBIDDEN}: ask for this permission, or use a context that has it"),
    (401, refusal("Unauthorized"), "does not accept your credentials (Unauthorized)"),
    (500, refusal("etcdserver: no leader"), "etcdserver: no leader"),
    (200, "nonsense", "is no API server of Kubernetes"),
]


@pytest.mark.parametrize("refused", REFUSALS, ids=[str(row[0]) for row in REFUSALS])
def test_what_the_server_says_in_plain_words(
    api: Api, kubeconfig: Path, capsys: pytest.CaptureFixture[str], refused: tuple[int, Any, str]
) -> None:
    api.status, api.body, says = refused
    assert status(kubeconfig) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("error: ")
    assert says in err


def test_no_such_mesh(api: Api, kubeconfig: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for meshes, says in (([WELL], "did you mean shop?"), ([], "there is none in this cluster")):
        api.meshes = meshes
        assert status(kubeconfig, "shpo") == 1
        assert capsys.readouterr().err == f"error: no mesh shpo: {says}\n"


def test_a_server_that_is_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(write_kubeconfig(tmp_path / "k", 1, {})) == 1
    assert capsys.readouterr().err == (
        "error: the API server http://127.0.0.1:1 does not answer (Connection refused):"
        " is the cluster up, and the context the right one?\n"
    )


# Credentials


def plugin(tmp_path: Path, script: str) -> Json:
    program = tmp_path / "login"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(program)}}


def test_a_credential_plugin(api: Api, tmp_path: Path) -> None:
    """It is told which version of its protocol is spoken."""
    script = """
case "$KUBERNETES_EXEC_INFO" in
*client.authentication.k8s.io/v1\\"*) echo '{"status": {"token": "v1"}}' ;;
esac"""
    api.meshes = [WELL]
    assert status(write_kubeconfig(tmp_path / "k", api.port, plugin(tmp_path, script))) == 0
    assert api.requests[0][1] == "Bearer v1"


@pytest.mark.parametrize(
    ("script", "says"),
    [("exit 3", "the credential plugin failed: `"), ("echo nonsense", "cannot use the credentials of the kubeconfig")],
)
def test_a_credential_plugin_that_fails(
    api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str], script: str, says: str
) -> None:
    assert status(write_kubeconfig(tmp_path / "k", api.port, plugin(tmp_path, script))) == 1
    assert says in capsys.readouterr().err
    assert api.requests == []


def test_a_credential_plugin_that_is_not_there(api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "no-such-program"}}
    assert status(write_kubeconfig(tmp_path / "k", api.port, user)) == 1
    assert capsys.readouterr().err == "error: the credential plugin no-such-program is not there: install it\n"


def test_no_key_is_left_where_others_may_read_it(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pykube writes a key that stands in the kubeconfig to a file, and never removes it."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    modes: list[int] = []
    real = pykube.HTTPClient.get

    def get(self: Any, *args: Any, **kwargs: Any) -> Any:
        answer = real(self, *args, **kwargs)
        (folder,) = tmp_path.glob("kubectl-mesh-*")
        modes.append(stat.S_IMODE(folder.stat().st_mode))
        assert list(folder.iterdir())
        return answer

    monkeypatch.setattr(pykube.HTTPClient, "get", get)
    api.meshes = [WELL]
    user = {"client-certificate-data": "YQ==", "client-key-data": "YQ=="}
    assert status(write_kubeconfig(tmp_path / "k", api.port, user)) == 0
    assert modes == [0o700]
    assert [path.name for path in tmp_path.iterdir()] == ["k"]


# Watching


def test_it_shows_each_change_until_it_is_interrupted(api: Api, kubeconfig: Path) -> None:
    api.meshes = [WELL]
    command = [sys.executable, "-m", "meshwright.cli.main", "status", "-w", "--kubeconfig", str(kubeconfig)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "LANG": "C.UTF-8"}
    ) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline().startswith("✔ Mesh shop is ready")
        api.meshes = [{**ill(), "metadata": {"name": "shop", "generation": 3}}]
        api.changed.set()
        while not (line := process.stdout.readline()).startswith("✘ Mesh shop is not ready"):
            assert line
        while "objects" not in process.stdout.readline():
            pass
        deadline = time.monotonic() + 10
        while sum("watch=true" in path for path, _ in api.requests) < 2:
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr.read() == ""
    assert "resourceVersion=70" in next(path for path, _ in api.requests if "watch=true" in path)
