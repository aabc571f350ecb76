"""Rules and dashboards as Prometheus's own tool reads them: well-formed, each alert fires when it should and else not.

What they say of a live mesh is in tests/e2e/test_monitoring.py.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

import monitoring

Series = dict[str, str]  # a series → its values, one a minute, in promtool's notation

ISTIOD = 'namespace="istio-system",pod="istiod-1",revision="default"'
OTHER = 'namespace="istio-system",pod="istiod-2",revision="default"'
MESH = 'mesh="demo",cluster="primary"'
OPERATOR = 'namespace="meshwright-system",pod="meshwright-1"'
DAY = 86400


@dataclass(frozen=True)
class Case:
    alert: str
    fires: Series
    quiet: Series
    minute: int = 30


def replicas(workload: str, *, ready: int, wanted: int = 2) -> Series:
    series = f'meshwright_mesh_replicas{{{MESH},workload="{workload}",state="%s"}}'
    return {series % "ready": f"{ready}x60", series % "wanted": f"{wanted}x60"}


def ends(certificate: str, *, days: int) -> Series:
    name = "meshwright_certificate_expiry_timestamp_seconds"
    return {f'{name}{{{MESH},certificate="{certificate}"}}': f"{days * DAY}x100"}


def condition(kind: str, value: int, *, mode: str = "Apply") -> Series:
    return {
        f'meshwright_mesh_condition{{mesh="demo",type="{kind}",status="True"}}': f"{value}x60",
        'meshwright_mesh_mode{mesh="demo",mode="Apply"}': f"{int(mode == 'Apply')}x60",
    }


def histogram(name: str, *, labels: str = "", bounds: tuple[str, ...], seconds: float) -> Series:
    """Ten events a minute that all take as long."""
    return {
        f'{name}_bucket{{{ISTIOD}{labels},le="{bound}"}}': f"0+{10 if float(bound) >= seconds else 0}x60"
        for bound in bounds
    }


def push_time(seconds: float) -> Series:
    return histogram("pilot_xds_push_time", labels=',type="cds"', bounds=("0.1", "1", "3", "+Inf"), seconds=seconds)


def convergence(seconds: float) -> Series:
    return histogram("pilot_proxy_convergence_time", bounds=("1", "5", "10", "+Inf"), seconds=seconds)


def first(counter: str, labels: str = "") -> tuple[Series, Series]:
    """A counter that comes to be with its first event, and one whose last event is long ago."""
    series = f"{counter}{{{ISTIOD}{labels}}}"
    return {series: "_x25 1x10"}, {series: "1x60"}


def signed(asked: str, issued: str) -> Series:
    name = f"citadel_server_%s_count{{{ISTIOD}}}"
    return {name % "csr": asked} | ({name % "success_cert_issuance": issued} if issued else {})


def memory(used: float, soft_limit: str = "1000") -> Series:
    return {
        f"process_resident_memory_bytes{{{ISTIOD}}}": f"{used}x60",
        f"go_gc_gomemlimit_bytes{{{ISTIOD}}}": f"{soft_limit}x60",
        f"pilot_info{{{ISTIOD}}}": "1x60",
    }


def connections(one: int, other: int) -> Series:
    counted = {f"pilot_xds{{{who}}}": f"{count}x90" for who, count in ((ISTIOD, one), (OTHER, other)) if count}
    return {**counted, f"pilot_info{{{ISTIOD}}}": "1x90", f"pilot_info{{{OTHER}}}": "1x90"}


LEADS = f'leader_election_master_status{{{OPERATOR},name="meshwright"}}'
SILENCE = f"meshwright_watch_silence_seconds{{{OPERATOR}}}"
RECONCILES = f'meshwright_reconcile_total{{{OPERATOR},result="%s"}}'
REQUESTS = f'rest_client_requests_total{{{OPERATOR},method="GET",kind="Pod",code="%s"}}'
PODS = f'meshwright_mesh_pods{{{MESH},state="%s"}}'
PAUSED = 'meshwright_mesh_mode{mesh="demo",mode="Paused"}'
RULE = f'meshwright_scaling_rule{{{MESH},action="MultiClusterRequired"}}'
AGENT = 'istio_agent_cert_expiry_seconds{namespace="shop",pod="cart-1",resource_name="default"}'
WORKLOAD = f'meshwright_certificate_expiry_timestamp_seconds{{{MESH},certificate="workload"}}'
PATCHES = f'webhook_patch_failures_total{{{ISTIOD},name="istio-sidecar-injector",reason="%s"}}'

CASES = [
    Case("MeshwrightOperatorDown", {}, {f'meshwright_build_info{{{OPERATOR},version="1"}}': "1x60"}),
    Case("MeshwrightNobodyLeads", {LEADS: "0x60"}, {LEADS: "0x60", LEADS.replace("meshwright-1", "b"): "1x60"}),
    Case("MeshwrightReconcileErrors", {RECONCILES % "error": "0+1x60"}, {RECONCILES % "error": "0x20 1 1x40"}),
    Case("MeshwrightWatchSilent", {SILENCE: "150x60", LEADS: "1x60"}, {SILENCE: "60x60", LEADS: "1x60"}),
    Case("MeshwrightWatchSilent", {SILENCE: "150x60", LEADS: "1x60"}, {SILENCE: "150x60", LEADS: "0x60"}),
    Case(
        "MeshwrightApiServerErrors",
        {REQUESTS % "200": "0+60x60", REQUESTS % "503": "0+10x60"},
        {REQUESTS % "200": "0+60x60", REQUESTS % "503": "0+1x60", REQUESTS % "409": "0+60x60"},
    ),
    Case("MeshNotReady", condition("Ready", 0), condition("Ready", 1)),
    Case("MeshNotReady", condition("Ready", 0), condition("Ready", 0, mode="Paused")),
    Case("MeshStalled", condition("Stalled", 1), condition("Stalled", 0)),
    Case("MeshPaused", {PAUSED: "1x1500"}, {PAUSED: "1x700 0 1x700"}, minute=1450),
    Case("MeshMultiClusterRequired", {RULE: "1x60"}, {RULE: "0x60"}),
    Case("MeshControlPlaneDegraded", replicas("istiod", ready=1), replicas("istiod", ready=2)),
    Case("MeshControlPlaneDegraded", replicas("istiod", ready=1), replicas("ingress", ready=1)),
    Case("MeshControlPlaneDown", replicas("istiod", ready=0), replicas("istiod", ready=1)),
    Case("MeshGatewayDegraded", replicas("ingress", ready=1), replicas("ingress", ready=2)),
    Case("MeshGatewayDegraded", replicas("ingress", ready=1), replicas("istiod", ready=1)),
    Case("MeshGatewayDown", replicas("ingress", ready=0), replicas("ingress", ready=0, wanted=0)),
    Case("MeshInjectionMissing", {PODS % "missing": "1x60"}, {PODS % "missing": "0x60", PODS % "expected": "9x60"}),
    Case("MeshInjectionOutdated", {PODS % "outdated": "1x1500"}, {PODS % "outdated": "1x700 0 1x700"}, minute=1450),
    Case("MeshRootEnds", ends("root", days=29), ends("root", days=40)),
    Case("MeshRootEndsWithinAYear", ends("root", days=300), ends("root", days=400), minute=70),
    Case("MeshIntermediateNotRenewed", ends("intermediate", days=100), ends("intermediate", days=170), minute=70),
    Case(
        "MeshWorkloadCertificateNotRenewed",
        {AGENT: "86400-60x1400"},
        {AGENT: "86400-60x720 86400-60x700"},
        minute=1090,
    ),
    Case("MeshWorkloadCertificateEnds", {WORKLOAD: "86400x1400"}, {WORKLOAD: "86400x720 129600x700"}, minute=1310),
    Case("IstiodPushSlow", push_time(2), push_time(0.5)),
    Case("IstiodConvergenceSlow", convergence(7), convergence(2)),
    Case("IstiodConfigRejected", *first("pilot_total_xds_rejects", ',type="cds"')),
    Case("IstiodXdsErrors", *first("pilot_total_xds_internal_errors")),
    Case("IstiodInjectionFails", *first("sidecar_injection_failure_total")),
    Case("IstiodCertificatesNotIssued", signed("0+10x60", "0+9x60"), signed("0+10x60", "0+10x60")),
    Case("IstiodCertificatesNotIssued", signed("0+10x60", ""), signed("10x60", "9x60")),
    Case("IstiodWebhookPatchFails", {PATCHES % "other": "0+1x60"}, {PATCHES % "wrong_revision": "0+1x60"}),
    Case("IstiodMemoryNearLimit", memory(960), memory(900)),
    Case("IstiodMemoryNearLimit", memory(960), memory(960, "9223372036854775807")),
    Case("IstiodConnectionsUnbalanced", connections(90, 10), connections(60, 40), minute=60),
    Case("IstiodConnectionsUnbalanced", connections(90, 0), connections(9, 1), minute=60),
]  # fmt: skip


@pytest.fixture(scope="module")
def promtool() -> str:
    program = shutil.which("promtool")
    assert program, "promtool is missing: python -m testbed prereqs"
    return program


@pytest.fixture(scope="module")
def rule_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rules") / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": monitoring.groups()}))
    return path


def ask(promtool: str, *arguments: str | Path) -> None:
    done = subprocess.run([promtool, *arguments], check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_are_well_formed(promtool: str, rule_file: Path) -> None:
    ask(promtool, "check", "rules", "--lint=all", "--lint-fatal", rule_file)


def test_every_query_parses(promtool: str, tmp_path: Path) -> None:
    """As the expression of a rule, because that is what this tool reads."""
    queries = monitoring.queries()
    assert len(queries) > 80
    rules = [{"record": f"query:{number}", "expr": each.expression} for number, each in enumerate(queries)]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    ask(promtool, "check", "rules", "--lint=none", path)


def test_every_alert_has_a_case() -> None:
    assert {each.alert for each in CASES} == {rule["alert"] for rule in monitoring.rules("alert")}


def test_alerts_fire_when_they_should_and_else_not(promtool: str, rule_file: Path, tmp_path: Path) -> None:
    """Firing, each alert has every label that its text names."""
    texts = {rule["alert"]: str(rule["annotations"]) for rule in monitoring.rules("alert")}

    def judged(case: Case, series: Series, *, fires: bool) -> dict[str, object]:
        named = "".join(f',{label}!=""' for label in sorted(set(re.findall(r"\$labels\.(\w+)", texts[case.alert]))))
        firing = f'count(ALERTS{{alertname="{case.alert}",alertstate="firing"{named}}})'
        expected = [{"labels": "{}", "value": 1}] if fires else []
        return {
            "name": f"{case.alert} {'fires' if fires else 'is quiet'}",
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "promql_expr_test": [{"expr": firing, "eval_time": f"{case.minute}m", "exp_samples": expected}],
        }

    tests = [judged(case, case.fires, fires=True) for case in CASES]
    tests += [judged(case, case.quiet, fires=False) for case in CASES]
    path = tmp_path / "tests.yml"
    names = [group["name"] for group in monitoring.groups()]
    path.write_text(
        yaml.safe_dump(
            {"rule_files": [str(rule_file)], "evaluation_interval": "1m", "group_eval_order": names, "tests": tests}
        )
    )
    ask(promtool, "test", "rules", path)
