"""Configuration that the test bed writes, and the small parts around it that need no cluster."""

from __future__ import annotations

import base64
import json
import os
import tomllib
from pathlib import Path

import pytest
import yaml
from cryptography import x509

from testbed import config, pki, programs
from testbed.backends import KindBackend, KubeconfigBackend, LocalBackend, choose, merge_patch
from testbed.console import TestbedError
from testbed.plan import plan_bed, routes
from testbed.state import BedState, NodeProcesses, Process

BED = plan_bed("demo", 2, clusters=2, flat=True)
NODE = BED.nodes[0]
AT = config.Endpoints("127.0.0.1", 1, 2, 3)


def test_every_program_is_called_by_its_name_in_the_folder_of_links() -> None:
    folder = Path("/programs")
    commands = [
        config.etcd(folder, Path("/data"), Path("/pki"), AT),
        config.kube_apiserver(folder, Path("/pki"), AT),
        config.kube_controller_manager(folder, Path("/pki"), Path("/kubeconfig")),
        config.kube_scheduler(folder, Path("/pki"), Path("/kubeconfig")),
        config.kubelet(folder, NODE, Path("/config"), Path("/kubeconfig")),
        config.kube_proxy(folder, Path("/config")),
    ]
    assert {command.name for command in commands} <= set(programs.KUBERNETES_COMPONENTS)
    assert all(command.argv[0] == f"/programs/{command.name}" for command in commands)


def test_an_api_server_on_loopback_listens_nowhere_else() -> None:
    assert "--bind-address=127.0.0.1" in config.kube_apiserver(Path("/p"), Path("/pki"), AT).argv
    assert "--v=2" in config.kube_apiserver(Path("/p"), Path("/pki"), AT, ("--v=2",)).argv


def test_containerd_and_cni_configurations_are_well_formed() -> None:
    containerd = tomllib.loads(config.containerd_config())
    runtime = containerd["plugins"]["io.containerd.grpc.v1.cri"]
    assert runtime["restrict_oom_score_adj"] is True
    # Folders of the node's own: what a test installs there stays away from the machine.
    assert {runtime["cni"]["bin_dir"], runtime["cni"]["conf_dir"]} <= set(config.NODE_FOLDERS.values())
    bridge = json.loads(config.cni_config(NODE))["plugins"][0]
    assert bridge["ipam"]["ranges"] == [[{"subnet": NODE.pod_cidr}]]


def test_a_flat_node_masks_no_pod_network_of_the_bed() -> None:
    ruleset = config.node_ruleset(NODE, routes(BED, BED.clusters[0], NODE))
    assert "ip saddr 10.232.1.0/24 ip daddr != { 10.232.0.0/16, 10.233.0.0/16, 224.0.0.0/4 } masquerade" in ruleset


def test_certificates_carry_user_groups_and_addresses(tmp_path: Path) -> None:
    authority = pki.Authority.create(tmp_path, "ca")
    identity = authority.issue("node", "alice", groups=["readers"], hosts=["10.0.0.1", "node"])
    certificate = x509.load_pem_x509_certificate(identity.certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert certificate.subject.rfc4514_string() == "CN=alice,O=readers"
    assert [str(name) for name in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1"]
    assert names.get_values_for_type(x509.DNSName) == ["node"]
    assert identity.key.stat().st_mode & 0o777 == 0o600
    again = pki.Authority.load(tmp_path, "ca").issue("other", "bob")
    issuer = x509.load_pem_x509_certificate(authority.identity.certificate.read_bytes())
    x509.load_pem_x509_certificate(again.certificate.read_bytes()).verify_directly_issued_by(issuer)


def test_kubeconfigs_merge_into_one_with_a_context_each(tmp_path: Path) -> None:
    authority = pki.Authority.create(tmp_path, "ca")
    admin = authority.issue("admin", "admin")
    ca = authority.identity.certificate
    one, two = (pki.kubeconfig(name, f"https://{name}:6443", ca, admin) for name in ("one", "two"))
    merged = yaml.safe_load(pki.merge_kubeconfigs([one, two]))
    assert merged["current-context"] == "one"
    assert [entry["name"] for entry in merged["contexts"]] == ["one", "two"]
    assert base64.b64decode(merged["clusters"][1]["cluster"]["certificate-authority-data"]) == ca.read_bytes()


def test_the_record_of_a_bed_survives_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESHWRIGHT_TESTBED_STATE", str(tmp_path))
    own = Process.of(os.getpid())
    state = BedState("demo", 1, 1, 1, flat=False, owner=own, processes={"demo-1-node-1": NodeProcesses(own, own)})
    state.save()
    loaded = BedState.load("demo")
    assert loaded == state
    assert loaded.running()
    assert not loaded.orphaned()


def test_an_id_that_is_used_again_is_another_process() -> None:
    own = Process.of(os.getpid())
    assert own.alive()
    assert not Process(own.pid, own.started + 1).alive()


def test_the_istio_version_changes_what_is_built() -> None:
    assert programs.pilot_discovery("1.31.4") != programs.pilot_discovery("1.30.2")
    assert "buildVersion=1.30.2" in programs.pilot_discovery("1.30.2").link_flags


@pytest.mark.parametrize(
    ("name", "kind"),
    [(None, LocalBackend), ("local", LocalBackend), ("kind", KindBackend), ("kubeconfig", KubeconfigBackend)],
)
def test_the_environment_chooses_the_back_end(monkeypatch: pytest.MonkeyPatch, name: str | None, kind: type) -> None:
    monkeypatch.delenv("MESHWRIGHT_E2E_BACKEND", raising=False)
    if name:
        monkeypatch.setenv("MESHWRIGHT_E2E_BACKEND", name)
    assert isinstance(choose(), kind)


def test_an_unknown_back_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESHWRIGHT_E2E_BACKEND", "cloud")
    with pytest.raises(TestbedError, match="none of local, kind, kubeconfig"):
        choose()


def test_the_local_patch_keeps_istios_extensions_out() -> None:
    patch = LocalBackend("e2e").mesh_patch
    mesh = merge_patch({"spec": {"controlPlane": {"env": {"A": "b"}}, "revision": "one"}}, patch)
    assert mesh["spec"]["revision"] == "one"
    assert mesh["spec"]["controlPlane"]["env"] == {
        "A": "b",
        "PILOT_ENABLE_ALPN_FILTER": "false",
        "PILOT_ENABLE_METADATA_EXCHANGE": "false",
    }
    assert mesh["spec"]["meshConfig"]["defaultProviders"] == {"metrics": []}


def test_a_merge_patch_removes_with_null_and_changes_neither_side() -> None:
    target = {"a": {"b": 1, "c": 2}}
    assert merge_patch(target, {"a": {"b": None}}) == {"a": {"c": 2}}
    assert target == {"a": {"b": 1, "c": 2}}
