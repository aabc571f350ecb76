"""What manifests/monitoring asks of Prometheus: its rules, its dashboards, and the series that they need."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from meshes import REPOSITORY
from meshwright.controller.metrics import Metrics

Json = dict[str, Any]

FOLDER = REPOSITORY / "manifests/monitoring"
PROVIDER = "needs Istio's own proxy, which the test bed has not"
EVENT = "begins with its first event, and an istiod that has just started may have had none"
FIRST = "begins with its first event, and a mesh that is well has none"

# Series of Istio that rules and dashboards need. Those with a reason may be missing at a mesh that is well.
ISTIO: dict[str, str] = {
    "citadel_server_cert_chain_expiry_timestamp": "",
    "citadel_server_csr_count": "",
    "citadel_server_root_cert_expiry_timestamp": "",
    "citadel_server_success_cert_issuance_count": "",
    "envoy_cluster_manager_cds_update_rejected": "",
    "envoy_listener_manager_lds_update_rejected": "",
    "envoy_server_live": "",
    "envoy_server_memory_allocated": "",
    "envoy_server_total_connections": "",
    "galley_validation_failed": FIRST,
    "galley_validation_passed": EVENT,
    "go_gc_gomemlimit_bytes": "",
    "go_goroutines": "",
    "istio_agent_cert_expiry_seconds": "",
    "istio_agent_istiod_connection_terminations": "begins when a connection to istiod ends, half an hour old",
    "istio_agent_num_outgoing_requests": "",
    "istio_agent_process_cpu_seconds_total": "",
    "istio_agent_startup_duration_seconds": "",
    "istio_request_duration_milliseconds_bucket": PROVIDER,
    "istio_requests_total": PROVIDER,
    "istio_tcp_received_bytes_total": PROVIDER,
    "istio_tcp_sent_bytes_total": PROVIDER,
    "pilot_conflict_inbound_listener": "",
    "pilot_destrule_subsets": "",
    "pilot_duplicate_envoy_clusters": "",
    "pilot_inbound_updates": "",
    "pilot_info": "",
    "pilot_proxy_convergence_time_bucket": "",
    "pilot_proxy_queue_time_bucket": "",
    "pilot_push_triggers": "",
    "pilot_services": "",
    "pilot_total_xds_internal_errors": FIRST,
    "pilot_total_xds_rejects": FIRST,
    "pilot_virt_services": "",
    "pilot_vservice_dup_domain": "",
    "pilot_xds": "",
    "pilot_xds_config_size_bytes_bucket": "",
    "pilot_xds_push_time_bucket": "",
    "pilot_xds_pushes": "",
    "process_cpu_seconds_total": "",
    "process_resident_memory_bytes": "",
    "sidecar_injection_failure_total": FIRST,
    "sidecar_injection_requests_total": "",
    "sidecar_injection_time_seconds_bucket": "",
    "webhook_patch_attempts_total": EVENT,
    "webhook_patch_failures_total": FIRST,
}  # fmt: skip


@dataclass(frozen=True)
class Query:
    """An expression as Prometheus is asked, and where it stands."""

    where: str
    expression: str
    alert: bool = False


def groups() -> list[Json]:
    """The groups of the PrometheusRule, which are those of a rule file."""
    rule = yaml.safe_load((FOLDER / "rules.yaml").read_text())
    found: list[Json] = rule["spec"]["groups"]
    return found


def rules(kind: str) -> list[Json]:
    """All that are of a kind: `alert` or `record`."""
    return [rule for group in groups() for rule in group["rules"] if kind in rule]


def dashboards() -> dict[str, Json]:
    return {path.stem: json.loads(path.read_text()) for path in sorted((FOLDER / "dashboards").glob("*.json"))}


def queries(*, interval: str = "1m") -> list[Query]:
    """Everything that Prometheus is asked, with each variable of a dashboard as it is at first."""
    found = [Query(rule["record"], rule["expr"]) for rule in rules("record")]
    found += [Query(rule["alert"], rule["expr"], alert=True) for rule in rules("alert")]
    for name, dashboard in dashboards().items():
        variables = {f"${each['name']}": each.get("allValue", "") for each in dashboard["templating"]["list"]}
        variables["$__rate_interval"] = interval
        for panel in dashboard["panels"]:
            for target in panel.get("targets", ()):
                where = f"{name}: {panel['title']} {target['refId']}"
                found.append(Query(where, substituted(target["expr"], variables)))
    return found


def substituted(expression: str, variables: dict[str, str]) -> str:
    for name, value in variables.items():
        expression = expression.replace(name, value)
    return expression


WORDS = {"and", "or", "unless", "offset", "by", "on", "without", "ignoring", "bool", "group_left", "group_right"}
GROUPING = re.compile(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)")
RANGE = re.compile(r"\[[^\]]*\]|\boffset\s+\w+")
SELECTOR = re.compile(r"""([a-zA-Z_:][\w:]*)\s*(\{(?:[^"}]|"[^"]*")*\})?(?!\s*\(|[\w:])""")


def selectors(expression: str) -> Iterator[tuple[str, str]]:
    """The metric of each selector, and the selector."""
    bare = RANGE.sub("", GROUPING.sub("", expression))
    for found in SELECTOR.finditer(bare):
        if found[1] not in WORDS:
            yield found[1], found[1] + (found[2] or "")


def known() -> set[str]:
    """Every series that there can be: the operator's, those of Istio above, and what the rules record."""
    ours = {
        family.name + suffix
        for family in Metrics(version="").registry.collect()
        for suffix in {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
    }
    return ours | set(ISTIO) | {rule["record"] for rule in rules("record")}
