"""What the operator measures of itself, in the shapes that existing dashboards for controllers know."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

PREFIX = "meshwright"


class Metrics:
    """A registry of its own, so that each operator (and each test) counts for itself."""

    def __init__(self, *, version: str) -> None:
        self.registry = CollectorRegistry()
        self.reconciles = Counter(
            f"{PREFIX}_reconcile_total", "Reconciles by result (ok, error).", ["result"],
            registry=self.registry,
        )  # fmt: skip
        self.reconcile_seconds = Histogram(
            f"{PREFIX}_reconcile_duration_seconds", "Time of a reconcile.", registry=self.registry,
            buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
        )  # fmt: skip
        self.requests = Counter(
            "rest_client_requests_total", "Requests to the API server by method, kind and HTTP status.",
            ["method", "kind", "code"], registry=self.registry,
        )  # fmt: skip
        self.queue_depth = Gauge("workqueue_depth", "MeshInstalls that wait to be reconciled.", registry=self.registry)
        self.leads = Gauge(
            "leader_election_master_status", "1 for the replica that holds the lease, 0 for one that waits for it.",
            ["name"], registry=self.registry,
        )  # fmt: skip
        self.watch_silence = Gauge(
            f"{PREFIX}_watch_silence_seconds", "For how long the quietest watch has heard nothing; of a leader, at most"
            " about 60.", registry=self.registry,
        )  # fmt: skip
        self.condition = Gauge(
            f"{PREFIX}_mesh_condition", "1 for the status that a condition of a mesh has, 0 for the others.",
            ["mesh", "type", "status"], registry=self.registry,
        )  # fmt: skip
        self.mode = Gauge(
            f"{PREFIX}_mesh_mode", "1 for the spec.mode that a mesh has, 0 for the others.", ["mesh", "mode"],
            registry=self.registry,
        )  # fmt: skip
        self.objects = Gauge(
            f"{PREFIX}_mesh_objects", "Objects of a mesh: reconciled, or disabled by an annotation.",
            ["mesh", "cluster", "state"], registry=self.registry,
        )  # fmt: skip
        self.proxies = Gauge(
            f"{PREFIX}_mesh_proxies", "Proxies that are connected to a mesh's istiod, by their version.",
            ["mesh", "cluster", "version"], registry=self.registry,
        )  # fmt: skip
        self.pods = Gauge(
            f"{PREFIX}_mesh_pods", "Pods that are to have a sidecar of a mesh (expected), those of them that have none"
            " (missing), and those that have another one (outdated).",
            ["mesh", "cluster", "state"], registry=self.registry,
        )  # fmt: skip
        self.replicas = Gauge(
            f"{PREFIX}_mesh_replicas", "Replicas of istiod and of gateways, wanted and ready.",
            ["mesh", "cluster", "workload", "state"], registry=self.registry,
        )  # fmt: skip
        self.certificate_expiry = Gauge(
            f"{PREFIX}_certificate_expiry_timestamp_seconds", "When a certificate of a mesh ends: root, intermediate,"
            " and of the workloads the one that ends first.",
            ["mesh", "cluster", "certificate"], registry=self.registry,
        )  # fmt: skip
        self.scaling_rule = Gauge(
            f"{PREFIX}_scaling_rule", "1 while a scaling rule acts, has acted, or recommends; else 0.",
            ["mesh", "cluster", "action"], registry=self.registry,
        )  # fmt: skip
        self.scaling_signal = Gauge(
            f"{PREFIX}_scaling_signal", "What a scaling rule measures, in its unit; absent while that is not known.",
            ["mesh", "cluster", "action"], registry=self.registry,
        )  # fmt: skip
        self.first_reconcile = Gauge(
            f"{PREFIX}_start_to_first_reconcile_seconds", "From the start of the process to the end of its first"
            " reconcile.", registry=self.registry,
        )  # fmt: skip
        build = Gauge(f"{PREFIX}_build_info", "1, with the operator's version.", ["version"], registry=self.registry)
        build.labels(version).set(1)

    @property
    def _of_a_mesh(self) -> tuple[Gauge, ...]:
        return (
            self.condition, self.mode, self.objects, self.proxies, self.pods, self.replicas, self.certificate_expiry,
            self.scaling_rule, self.scaling_signal,
        )  # fmt: skip

    def observe_request(self, method: str, kind: str, status: int, _seconds: float) -> None:
        self.requests.labels(method, kind, str(status) if status else "none").inc()

    def forget(self, mesh: str) -> None:
        """A mesh that is gone has no series."""
        for metric in self._of_a_mesh:
            metric.remove_by_labels({"mesh": mesh})

    def exposition(self) -> bytes:
        return generate_latest(self.registry)
