#!/usr/bin/env python3
"""Writes the Grafana dashboards of manifests/monitoring/dashboards/ from the tables below.

With --check nothing is written, and the exit code is 1 when a file is not what the tables say.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Json = dict[str, Any]

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path("manifests/monitoring/dashboards")
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
SCHEMA = 38  # Grafana 10
COLUMNS, HEIGHT = 24, 7
ISTIO_PROXY = "Needs Istio's own proxy with the Prometheus provider: an upstream Envoy has no istio_* metrics."


@dataclass(frozen=True)
class Query:
    expression: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    title: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    note: str = ""


@dataclass(frozen=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Variable:
    """`$name`: what of a label of a metric is looked at; everything at first."""

    name: str
    metric: str
    label: str


@dataclass(frozen=True)
class Dashboard:
    uid: str
    title: str
    variables: tuple[Variable, ...]
    rows: tuple[Row, ...]


def panel(title: str, *queries: tuple[str, str], **options: Any) -> Panel:
    return Panel(title, tuple(Query(*query) for query in queries), **options)


def most(gauge: str, by: str, selector: str = "") -> str:
    """Of series that only the leader, or each replica for itself, has: the same said twice counts once."""
    return f"max by ({by}) ({gauge}{{{selector}}})"


def quantile(share: float, histogram: str, by: str, selector: str = "") -> str:
    return f"histogram_quantile({share}, sum by ({by}, le) (rate({histogram}_bucket{{{selector}}}[$__rate_interval])))"


def rate(counter: str, by: str, selector: str = "") -> str:
    return f"sum by ({by}) (rate({counter}{{{selector}}}[$__rate_interval]))"


# Operator and meshes

MESH = 'mesh=~"$mesh"'
AS_IT_SHOULD_NOT = (  # the parts are well when True, Stalled and Reconciling when False
    ('type!~"Stalled|Reconciling",status!="True"', "{{mesh}} {{type}}"),
    ('type=~"Stalled|Reconciling",status="True"', "{{mesh}} {{type}}"),
)
CONDITION, EXPIRY = "meshwright_mesh_condition", "meshwright_certificate_expiry_timestamp_seconds"
MESHES = Dashboard(
    "meshwright-meshes",
    "Meshwright / Meshes",
    (Variable("mesh", CONDITION, "mesh"),),
    (
        Row("Meshes", (
            panel("Ready", (most(CONDITION, "mesh", f'type="Ready",status="True",{MESH}'), "{{mesh}}"),
                  unit="bool_yes_no", kind="stat", width=6),
            panel("Conditions that are not as they should be",
                  *((most(CONDITION, "mesh, type", f"{which},{MESH}"), legend) for which, legend in AS_IT_SHOULD_NOT),
                  unit="bool_yes_no", width=12),
            panel("Mode", (most("meshwright_mesh_mode", "mesh, mode", MESH) + " == 1", "{{mesh}} {{mode}}"),
                  kind="stat", width=6),
            panel("Replicas: wanted and ready",
                  (most("meshwright_mesh_replicas", "mesh, cluster, workload, state", MESH),
                   "{{mesh}} {{workload}} {{state}}")),
            panel("Proxies by version",
                  (f"sum by (mesh, cluster, version) (meshwright_mesh_proxies{{{MESH}}})", "{{mesh}} {{version}}")),
            panel("Pods that are to have a sidecar",
                  (most("meshwright_mesh_pods", "mesh, cluster, state", MESH), "{{mesh}} {{state}}")),
            panel("Certificates: time left",
                  (most(EXPIRY, "mesh, cluster, certificate", MESH) + " - time()",
                   "{{mesh}} {{certificate}}"),
                  unit="s"),
            panel("Objects", (most("meshwright_mesh_objects", "mesh, cluster, state", MESH), "{{mesh}} {{state}}")),
        )),
        Row("Operator", (
            panel("Leader", ("leader_election_master_status", "{{pod}}"), unit="bool_yes_no"),
            panel("Reconciles", (rate("meshwright_reconcile_total", "result"), "{{result}}"), unit="ops"),
            panel("Time of a reconcile",
                  (quantile(0.5, "meshwright_reconcile_duration_seconds", "pod"), "p50 {{pod}}"),
                  (quantile(0.99, "meshwright_reconcile_duration_seconds", "pod"), "p99 {{pod}}"), unit="s"),
            panel("Requests to the API server",
                  (rate("rest_client_requests_total", "method, code"), "{{method}} {{code}}"), unit="reqps"),
            panel("Queue", ("workqueue_depth", "{{pod}}")),
            panel("Silence of the watches", ("meshwright_watch_silence_seconds", "{{pod}}"), unit="s"),
            panel("Version", ("count by (version) (meshwright_build_info)", "{{version}}"), kind="stat"),
            panel("From start to first reconcile",
                  ("meshwright_start_to_first_reconcile_seconds", "{{pod}}"), unit="s"),
        )),
    ),
)  # fmt: skip

# istiod

PILOT = 'namespace=~"$namespace"'
OF_ISTIOD = " and on (namespace, pod) pilot_info"  # other programs have these series, too
ISTIOD = Dashboard(
    "meshwright-istiod",
    "Meshwright / Control plane",
    (Variable("namespace", "pilot_info", "namespace"),),
    (
        Row("Proxies and pushes", (
            panel("Versions", (f"count by (version) (pilot_info{{{PILOT}}})", "{{version}}"), kind="stat"),
            panel("Connected proxies", (f"sum by (pod) (pilot_xds{{{PILOT}}})", "{{pod}}")),
            panel("Pushes by type", (rate("pilot_xds_pushes", "type", PILOT), "{{type}}"), unit="ops"),
            panel("From a change to the proxies",
                  (quantile(0.5, "pilot_proxy_convergence_time", "revision", PILOT), "p50 {{revision}}"),
                  (quantile(0.99, "pilot_proxy_convergence_time", "revision", PILOT), "p99 {{revision}}"), unit="s"),
            panel("Making the configuration, p99",
                  (quantile(0.99, "pilot_xds_push_time", "type", PILOT), "{{type}}"), unit="s"),
            panel("Waiting in the queue, p99",
                  (quantile(0.99, "pilot_proxy_queue_time", "pod", PILOT), "{{pod}}"), unit="s"),
            panel("What triggers pushes", (rate("pilot_push_triggers", "type", PILOT), "{{type}}"), unit="ops"),
            panel("Changes that come in", (rate("pilot_inbound_updates", "type", PILOT), "{{type}}"), unit="ops"),
            panel("Size of the configuration, p99",
                  (quantile(0.99, "pilot_xds_config_size_bytes", "type", PILOT), "{{type}}"), unit="bytes"),
            panel("Services", (most("pilot_services", "revision", PILOT), "services {{revision}}"),
                  (most("pilot_virt_services", "revision", PILOT), "virtual services {{revision}}")),
        )),
        Row("Errors", (
            panel("Rejected by proxies", (rate("pilot_total_xds_rejects", "type", PILOT), "{{type}}"), unit="ops",
                  note="Empty as long as no proxy has rejected anything."),
            panel("Internal errors", (rate("pilot_total_xds_internal_errors", "pod", PILOT), "{{pod}}"), unit="ops",
                  note="Empty as long as there was none."),
            panel("Conflicts in the configuration",
                  (most("pilot_conflict_inbound_listener", "revision", PILOT), "inbound listeners"),
                  (most("pilot_duplicate_envoy_clusters", "revision", PILOT), "duplicate clusters"),
                  (most("pilot_vservice_dup_domain", "revision", PILOT), "duplicate domains"),
                  (most("pilot_destrule_subsets", "revision", PILOT), "duplicate subsets")),
        )),
        Row("Certificates, injection, webhooks", (
            panel("Certificates asked for and issued",
                  (rate("citadel_server_csr_count", "pod", PILOT), "asked {{pod}}"),
                  (rate("citadel_server_success_cert_issuance_count", "pod", PILOT), "issued {{pod}}"), unit="ops"),
            panel("CA: time left",
                  (f"min by (pod) (citadel_server_root_cert_expiry_timestamp{{{PILOT}}}) - time()", "root {{pod}}"),
                  (f"min by (pod) (citadel_server_cert_chain_expiry_timestamp{{{PILOT}}}) - time()",
                   "intermediate {{pod}}"), unit="s"),
            panel("Injections asked for and failed",
                  (rate("sidecar_injection_requests_total", "pod", PILOT), "asked {{pod}}"),
                  (rate("sidecar_injection_failure_total", "pod", PILOT), "failed {{pod}}"), unit="ops"),
            panel("Time of an injection, p99",
                  (quantile(0.99, "sidecar_injection_time_seconds", "pod", PILOT), "{{pod}}"), unit="s"),
            panel("Configuration validated",
                  (rate("galley_validation_passed", "pod", PILOT), "passed {{pod}}"),
                  (rate("galley_validation_failed", "pod", PILOT), "refused {{pod}}"), unit="ops"),
            panel("Webhooks patched",
                  (rate("webhook_patch_attempts_total", "name", PILOT), "attempts {{name}}"),
                  (rate("webhook_patch_failures_total", "name, reason", PILOT), "{{reason}} {{name}}"), unit="ops"),
        )),
        Row("Resources", (
            panel("CPU", (rate("process_cpu_seconds_total", "namespace, pod", PILOT) + OF_ISTIOD, "{{pod}}"),
                  unit="cores"),
            panel("Memory", (f"process_resident_memory_bytes{{{PILOT}}}" + OF_ISTIOD, "{{pod}}"),
                  (f"go_gc_gomemlimit_bytes{{{PILOT}}} < 2^62" + OF_ISTIOD, "GOMEMLIMIT {{pod}}"),
                  unit="bytes"),
            panel("Goroutines", (f"go_goroutines{{{PILOT}}}" + OF_ISTIOD, "{{pod}}")),
        )),
    ),
)  # fmt: skip

# Proxies

PROXY = 'namespace=~"$namespace"'
REPORTED = 'reporter="destination",destination_workload_namespace=~"$namespace"'
REQUESTS, SERVICE = "istio_requests_total", "destination_service_name"
PROXIES = Dashboard(
    "meshwright-proxies",
    "Meshwright / Data plane",
    (Variable("namespace", "istio_agent_startup_duration_seconds", "namespace"),),
    (
        Row("Traffic: needs Istio's own proxy", (
            panel("Requests", (rate(REQUESTS, f"{SERVICE}, response_code", REPORTED),
                               "{{destination_service_name}} {{response_code}}"), unit="reqps", note=ISTIO_PROXY),
            panel("Share of errors",
                  (rate(REQUESTS, SERVICE, REPORTED + ',response_code=~"5.."') + " / "
                   + rate(REQUESTS, SERVICE, REPORTED), "{{destination_service_name}}"),
                  unit="percentunit", note=ISTIO_PROXY),
            panel("Duration, p99",
                  (quantile(0.99, "istio_request_duration_milliseconds", SERVICE, REPORTED),
                   "{{destination_service_name}}"), unit="ms", note=ISTIO_PROXY),
            panel("Requests without mutual TLS",
                  (rate(REQUESTS, SERVICE, REPORTED + ',connection_security_policy="none"'),
                   "{{destination_service_name}}"), unit="reqps", width=12, note=ISTIO_PROXY),
            panel("TCP bytes", (rate("istio_tcp_sent_bytes_total", SERVICE, REPORTED),
                                "sent {{destination_service_name}}"),
                  (rate("istio_tcp_received_bytes_total", SERVICE, REPORTED),
                   "received {{destination_service_name}}"), unit="Bps", width=12, note=ISTIO_PROXY),
        )),
        Row("Proxies", (
            panel("Live", (f"sum by (namespace) (envoy_server_live{{{PROXY}}})", "{{namespace}}")),
            panel("Connections", (f"sum by (namespace) (envoy_server_total_connections{{{PROXY}}})", "{{namespace}}")),
            panel("Memory, the largest",
                  (f"topk(10, envoy_server_memory_allocated{{{PROXY}}})", "{{namespace}}/{{pod}}"), unit="bytes"),
            panel("Configuration rejected",
                  (rate("envoy_cluster_manager_cds_update_rejected", "namespace, pod", PROXY), "clusters {{pod}}"),
                  (rate("envoy_listener_manager_lds_update_rejected", "namespace, pod", PROXY), "listeners {{pod}}"),
                  unit="ops"),
            panel("Certificates: time left, the first to end",
                  (f'bottomk(10, istio_agent_cert_expiry_seconds{{resource_name="default",{PROXY}}})',
                   "{{namespace}}/{{pod}}"), unit="s"),
            panel("Start of a proxy, the slowest",
                  (f"topk(10, istio_agent_startup_duration_seconds{{{PROXY}}})", "{{namespace}}/{{pod}}"), unit="s"),
            panel("Connections to istiod that ended",
                  (rate("istio_agent_istiod_connection_terminations", "namespace, type", PROXY),
                   "{{namespace}} {{type}}"), unit="ops", note="Empty as long as none has ended."),
            panel("Requests for certificates", (rate("istio_agent_num_outgoing_requests", "namespace", PROXY),
                                                "{{namespace}}"), unit="ops"),
            panel("CPU of agents", (rate("istio_agent_process_cpu_seconds_total", "namespace", PROXY), "{{namespace}}"),
                  unit="cores"),
        )),
    ),
)  # fmt: skip

DASHBOARDS = {"meshes": MESHES, "istiod": ISTIOD, "proxies": PROXIES}


def main(arguments: list[str] | None = None, *, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when a file is stale")
    check = parser.parse_args(arguments).check
    stale = [path for path, text in files().items() if not (root / path).exists() or (root / path).read_text() != text]
    for path in stale:
        if check:
            sys.stderr.write(f"{path} is not what scripts/dashboards.py says: run `make generate` and commit it\n")
            continue
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(files()[path])
        sys.stdout.write(f"wrote {path}\n")
    return 1 if check and stale else 0


def files() -> dict[Path, str]:
    """Every dashboard as Grafana reads it, by its path in the repository."""
    return {
        FOLDER / f"{name}.json": json.dumps(model(dashboard), indent=2) + "\n" for name, dashboard in DASHBOARDS.items()
    }


def model(dashboard: Dashboard) -> Json:
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["meshwright", "istio"],
        "schemaVersion": SCHEMA,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": []},
        "templating": {"list": [datasource(), *map(variable, dashboard.variables)]},
        "panels": list(laid_out(dashboard.rows)),
    }


def datasource() -> Json:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "current": {}}


def variable(of: Variable) -> Json:
    query = f"label_values({of.metric}, {of.label})"
    return {
        "name": of.name,
        "type": "query",
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": of.name},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".+",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def laid_out(rows: Sequence[Row]) -> Iterator[Json]:
    """Rows one below the other; in a row the panels from left to right, as many as there is room for."""
    number, top = 1, 0
    for row in rows:
        place = {"x": 0, "y": top, "w": COLUMNS, "h": 1}
        yield {"id": number, "type": "row", "title": row.title, "collapsed": False, "gridPos": place, "panels": []}
        number, top, left = number + 1, top + 1, 0
        for each in row.panels:
            if left + each.width > COLUMNS:
                top, left = top + HEIGHT, 0
            yield drawn(each, number, {"x": left, "y": top, "w": each.width, "h": HEIGHT})
            number, left = number + 1, left + each.width
        top += HEIGHT


def drawn(of: Panel, number: int, place: Json) -> Json:
    return {
        "id": number,
        "type": of.kind,
        "title": of.title,
        **({"description": of.note} if of.note else {}),
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": of.unit}, "overrides": []},
        "options": {},
        "targets": [
            {
                "refId": chr(ord("A") + position),
                "datasource": DATASOURCE,
                "expr": query.expression,
                "legendFormat": query.legend,
            }
            for position, query in enumerate(of.queries)
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
