"""The checks: from a snapshot to the reason why nothing is written, or to none."""

from __future__ import annotations

from typing import Any

import pytest

from meshes import cluster, injector, istiod, mesh, observed
from meshwright.api.meshinstall import Gateway as GatewaySpec
from meshwright.api.meshinstall import GatewayService, MeshStatus, Mode, Resources, Size
from meshwright.mesh import gateways
from meshwright.mesh.availability import Bounds
from meshwright.mesh.checks import CHECKS, first_finding
from meshwright.mesh.desired import decide, owner_of, replicas_for, trust_intent
from meshwright.mesh.findings import Finding
from meshwright.mesh.objects import Owner
from meshwright.mesh.observed import Cluster, Neighbour, Observed
from meshwright.mesh.replicas import Decision
from meshwright.mesh.sizing import size_of

Json = dict[str, Any]

CREATED = "2026-02-01T00:00:00Z"


def with_cluster(**parts: Any) -> Observed:
    return observed(clusters=(cluster(**parts),))


def with_neighbour(
    name: str, revision: str, created: str, *, installed: bool = False, running: str | None = None
) -> Observed:
    """The mesh itself is installed when something is `running`."""
    subject = mesh(status=MeshStatus(version=running))
    return observed(subject, neighbours=(Neighbour(name, revision, created, installed=installed),))


def of(*, running: str | None = None, **spec: Any) -> Observed:
    return observed(mesh(status=MeshStatus(version=running), **spec))


HEALTHY = {"istiods": (istiod(),), "injectors": (injector(),)}
HELM: Json = {"owner": None, "managers": ("helm", "kubectl")}
BEFORE, AFTER = "2026-01-01T00:00:00Z", "2026-03-01T00:00:00Z"


def with_tag(tag: str, points_to: str, **spec: Any) -> Observed:
    """With a revision tag as `istioctl tag set` makes it."""
    theirs = injector(name=f"istio-revision-tag-{tag}", revision=points_to, tag=tag, owner=None, managers=("istioctl",))
    return observed(mesh(**spec), clusters=(cluster(injectors=(theirs,)),))


def plane(**parts: Any) -> Json:
    return {"controlPlane": parts}


def gateway(**parts: Any) -> Json:
    return {"gateways": [{"name": "in", **parts}]}


def ports(*numbers: int, **parts: Any) -> Json:
    """A gateway with these ports, the further fields on each."""
    listed = [{"name": f"p{place}", "port": number, **parts} for place, number in enumerate(numbers)]
    return gateway(service={"ports": listed})


NAME = "spec.gateways[0] (in)"

# What a person may get wrong: case, spec, and all that is said
BAD_INPUT: list[tuple[str, Json, str]] = [
    ("failover beside distribute",
     {"locality": {"failover": [{"from": "a", "to": "b"}], "distribute": [{"from": "a/*", "to": {"b/*": 100}}]}},
     ("spec.locality: failover and distribute exclude each other: distribute says where traffic goes at any time, so"
     " remove one of the two")),
    ("a rule that would act and undo in turns", {"scaling": {"rules": [{"action": "AddReplica", "clear": 2}]}},
     ("spec.scaling.rules[0] (AddReplica).clear (2) is not below threshold (1): an action would be taken and undone in"
      " turns: lower clear")),
    ("a region that fails over to itself", {"locality": {"failover": [{"from": "a", "to": "a"}]}},
     "spec.locality.failover[0]: a cannot fail over to itself: name another region"),
    ("a region that fails over twice",
     {"locality": {"failover": [{"from": "a", "to": "b"}, {"from": "a", "to": "c"}]}},
     "spec.locality.failover: a is in `from` 2 times: a region has one to fail over to"),
    ("a zone where a region belongs", {"locality": {"failover": [{"from": "a", "to": "b/c"}]}},
     "spec.locality.failover[0].to: 'b/c' is no region: write it as the nodes' label has it, without zone"),
    ("weights that are not the whole", {"locality": {"distribute": [{"from": "a/*", "to": {"a/*": 80}}]}},
     "spec.locality.distribute[0].to: the weights make 80, not 100: correct them"),
    ("no locality", {"locality": {"distribute": [{"from": "us west/*", "to": {"a/*": 100}}]}},
     ("spec.locality.distribute[0]: 'us west/*' is no locality: write REGION, REGION/ZONE or REGION/ZONE/SUBZONE; * is"
     " all")),
    ("istiod's request above the limit", plane(size="Small", resources={"requests": {"cpu": 3}, "limits": {"cpu": 2}}),
     "spec.controlPlane.resources.requests.cpu (3) is more than limits.cpu (2): lower the request or raise the limit"),
    ("istiod's request above the size's limit", plane(size="Medium", resources={"requests": {"memory": "9Gi"}}),
     ("spec.controlPlane.resources.requests.memory (9Gi) is more than limits.memory (8Gi): lower the request or raise"
     " the limit")),
    ("istiod's request above what Auto may come to", plane(resources={"requests": {"memory": "5Gi"}}),
     ("spec.controlPlane.resources.requests.memory (5Gi) is more than limits.memory (4Gi): lower the request or raise"
     " the limit")),
    ("a limit of nothing", plane(resources={"limits": {"cpu": 0}}),
     "spec.controlPlane.resources: cpu is 0: leave it out to take the usual one"),
    ("a sidecar's request above Istio's own limit",
     {"dataPlane": {"sidecar": {"resources": {"requests": {"cpu": "3"}}}}},
     ("spec.dataPlane.sidecar.resources.requests.cpu (3) is more than limits.cpu (2000m): lower the request or raise"
     " the limit")),
    ("a sidecar's request above its limit",
     {"dataPlane": {"sidecar": {"resources": {"requests": {"memory": "2G"}, "limits": {"memory": "1Gi"}}}}},
     ("spec.dataPlane.sidecar.resources.requests.memory (2G) is more than limits.memory (1Gi): lower the request or"
     " raise the limit")),
    ("a gateway's request above its limit", gateway(resources={"requests": {"cpu": 1}, "limits": {"cpu": "500m"}}),
     f"{NAME}.resources.requests.cpu (1) is more than limits.cpu (500m): lower the request or raise the limit"),
    ("no quantity for a gateway", gateway(resources={"limits": {"cpu": "two"}}),
     f"{NAME}.resources: cpu: 'two' is not a quantity such as 500m or 4Gi"),
    ("more replicas at least than at most", plane(autoscaling={"minReplicas": 5, "maxReplicas": 4}),
     "spec.controlPlane.autoscaling.maxReplicas (4) is less than minReplicas (5): raise it"),
    ("fewer replicas at most than the size's", plane(size="Large", autoscaling={"maxReplicas": 4}),
     "spec.controlPlane.autoscaling.maxReplicas (4) is less than the replicas that are asked for (5): raise it"),
    ("a gateway's bounds the wrong way round", gateway(replicas=3, autoscaling={"maxReplicas": 2}),
     f"{NAME}.autoscaling.maxReplicas (2) is less than the replicas that are asked for (3): raise it"),
    ("both kinds of budget", plane(podDisruptionBudget={"minAvailable": 1, "maxUnavailable": 1}),
     "spec.controlPlane.podDisruptionBudget: minAvailable and maxUnavailable exclude each other: remove one"),
    ("a budget of all replicas", plane(size="Medium", podDisruptionBudget={"minAvailable": 3}),
     ("spec.controlPlane.podDisruptionBudget.minAvailable (3) leaves nothing to evict at 3 replicas, so that no node"
     " could be drained: lower it, raise the replicas, or use maxUnavailable: 1")),
    ("a budget of all that an autoscaler may leave",
     plane(size="Large", autoscaling={"minReplicas": 1}, podDisruptionBudget={"minAvailable": 1}),
     ("spec.controlPlane.podDisruptionBudget.minAvailable (1) leaves nothing to evict at 1 replica, so that no node"
     " could be drained: lower it, raise the replicas, or use maxUnavailable: 1")),
    ("a budget that not every size of Auto satisfies", plane(podDisruptionBudget={"minAvailable": 2}),
     ("spec.controlPlane.podDisruptionBudget.minAvailable (2) leaves nothing to evict at 2 replicas, so that no node"
     " could be drained: lower it, raise the replicas, or use maxUnavailable: 1")),
    ("a gateway's budget of all replicas", gateway(replicas=1, podDisruptionBudget={"minAvailable": 1}),
     (f"{NAME}.podDisruptionBudget.minAvailable (1) leaves nothing to evict at 1 replica, so that no node could be"
     " drained: lower it, raise the replicas, or use maxUnavailable: 1")),
    ("two mistakes at once", {**plane(resources={"limits": {"cpu": 0, "memory": "?"}})},
     ("spec.controlPlane.resources: cpu is 0: leave it out to take the usual one; spec.controlPlane.resources: memory:"
     " '?' is not a quantity such as 500m or 4Gi")),
    ("two gateways of one name", {"gateways": [{"name": "in"}, {"name": "in", "namespace": "edge"}]},
     "spec.gateways[1] (in).name: another gateway has this name: choose another one"),
    ("a gateway in istiod's place", {"gateways": [{"name": "istiod"}]},
     "spec.gateways[0] (istiod).name is istiod's, istio-cni's or the east-west gateway's own: choose another one"),
    ("a gateway in the place of a revision's istiod",
     {"revision": "canary", "gateways": [{"name": "istiod-canary", "namespace": "istio-system"}]},
     ("spec.gateways[0] (istiod-canary).name is istiod's, istio-cni's or the east-west gateway's own:"
      " choose another one")),
    ("a label that we select by", gateway(labels={"istio": "x", "team": "y"}),
     f"{NAME}.labels.istio follows from other fields: remove it"),
    ("a cluster twice", {"clusters": [{"name": "primary"}, {"name": "primary", "kubeconfigSecret": "a"}]},
     ("spec.clusters[1] (primary).name: another cluster has this name: choose another one; spec.clusters[1] (primary)"
      " has the name of the operator's own cluster (spec.clusterName): choose another one")),
    ("a cluster under two names",
     {"clusters": [{"name": "a", "kubeconfigSecret": "x"}, {"name": "b", "kubeconfigSecret": "x"}]},
     "spec.clusters[1] (b).kubeconfigSecret is that of a: one cluster cannot be in a mesh twice"),
    ("a cluster that nobody knows the way to", {"clusters": [{"name": "west"}]},
     ("spec.clusters[0] (west) has no kubeconfigSecret: set it, or, if it is the operator's own cluster,"
      " spec.clusterName: west")),
    ("a network where there is one only",
     {"clusters": [{"name": "primary", "network": "a"}], "topology": {"model": "FlatNetwork"}},
     "spec.clusters[0] (primary).network: in a FlatNetwork all pods are on one network: remove it"),
    ("two ports of one name",
     gateway(service={"ports": [{"name": "http", "port": 80}, {"name": "http", "port": 81}]}),
     f"{NAME}.service.ports: two ports have the same name, http: change one"),
    ("one port twice", ports(80, 80), f"{NAME}.service.ports: two ports have the same port, 80: change one"),
    ("the proxy's own port", ports(15090),
     f"{NAME}.service.ports (p0): 15090 is the proxy's own port: set another targetPort"),
    ("the proxy's own port as target", ports(80, targetPort=15000),
     f"{NAME}.service.ports (p0): 15000 is the proxy's own port: set another targetPort"),
    ("a node's port without one", {"gateways": [{"name": "in", "service": {
        "type": "ClusterIP", "ports": [{"name": "a", "port": 80, "nodePort": 30080}]}}]},
     f"{NAME}.service.ports (a).nodePort needs type NodePort or LoadBalancer"),
    ("a policy of outside traffic for what is inside",
     gateway(type="Egress", service={"externalTrafficPolicy": "Local"}),
     f"{NAME}.service.externalTrafficPolicy needs type NodePort or LoadBalancer"),
    ("a load balancer's fields without one",
     gateway(service={"type": "NodePort", "loadBalancerClass": "a", "loadBalancerSourceRanges": ["192.0.2.0/24"]}),
     (f"{NAME}.service.loadBalancerClass needs type LoadBalancer; {NAME}.service.loadBalancerSourceRanges needs type"
     " LoadBalancer")),
    ("a variable that follows from the data plane",
     {**plane(env={"ENABLE_NATIVE_SIDECARS": "true"}), "dataPlane": {"sidecar": {"nativeSidecars": "Disabled"}}},
     "spec.controlPlane.env.ENABLE_NATIVE_SIDECARS follows from spec.dataPlane: remove it"),
    ("another one", {**plane(env={"DEFAULT_WORKLOAD_CERT_TTL": "1h"}), "dataPlane": {"certificateTTL": "2h"}},
     "spec.controlPlane.env.DEFAULT_WORKLOAD_CERT_TTL follows from spec.dataPlane: remove it"),
    ("a variable of istiod's that is ours", plane(env={"CLUSTER_ID": "x"}),
     "spec.controlPlane.env.CLUSTER_ID follows from other fields: remove it"),
    ("certificates for a minute", {"dataPlane": {"certificateTTL": "1m"}},
     "spec.dataPlane.certificateTTL (1m): use 10m to 2160h (90 days)"),
    ("certificates for a year", {"dataPlane": {"certificateTTL": "8760h"}},
     "spec.dataPlane.certificateTTL (8760h): use 10m to 2160h (90 days)"),
    ("a timeout of nothing", {"dataPlane": {"idleTimeout": "0s"}},
     "spec.dataPlane.idleTimeout is 0: leave it out for Istio's own"),
    ("a refresh without a pause", {"dataPlane": {"dnsRefreshRate": "0.0ms"}},
     "spec.dataPlane.dnsRefreshRate is 0: leave it out for Istio's own"),
    ("a timeout that an older minor does not know",
     {"version": "1.30.0", "allowUntestedVersion": True, "dataPlane": {"idleTimeout": "1h"}},
     "spec.dataPlane.idleTimeout needs Istio 1.31, and spec.version is 1.30.0: remove it"),
    ("an unknown field of the mesh config", {"meshConfig": {"acessLogFile": "x"}},
     "spec.meshConfig.acessLogFile: no such field in Istio 1.31; did you mean accessLogFile?"),
    ("an unknown field far down", {"meshConfig": {"defaultConfig": {"proxyStatsMatcher": {"inclusionPrefix": ["x"]}}}},
     ("spec.meshConfig.defaultConfig.proxyStatsMatcher.inclusionPrefix: no such field in Istio 1.31; did you mean"
     " inclusionPrefixes?")),
    ("an unknown field in a list", {"meshConfig": {"extensionProviders": [{"name": "a", "zipkin": {"prt": 1}}]}},
     "spec.meshConfig.extensionProviders[0].zipkin.prt: no such field in Istio 1.31; did you mean port?"),
    ("text for a number", {"meshConfig": {"defaultConfig": {"concurrency": "two"}}},
     'spec.meshConfig.defaultConfig.concurrency: "two" is no integer from -2147483648 to 2147483647'),
    ("a number for text", {"meshConfig": {"accessLogFile": 5}},
     'spec.meshConfig.accessLogFile: 5 is no text: write it in quotes, "5"'),
    ("text for a list", {"meshConfig": {"defaultProviders": {"metrics": "prometheus"}}},
     ('spec.meshConfig.defaultProviders.metrics: "prometheus" is no list: write [ ] around it, or a line with - for'
     " each item")),
    ("no such value", {"meshConfig": {"outboundTrafficPolicy": {"mode": "SOME"}}},
     ('spec.meshConfig.outboundTrafficPolicy.mode: "SOME" is no value of this field: write REGISTRY_ONLY or ALLOW_ANY'
     " or ALLOW_ANY_DYNAMIC_DNS")),
    ("no duration", {"meshConfig": {"connectTimeout": "ten"}},
     'spec.meshConfig.connectTimeout: "ten" is no duration: write 30s, or with the units ms, m and h'),
    ("a computed key", {"meshConfig": {"rootNamespace": "a", "defaultConfig": {"meshId": "x"}}},
     ("spec.meshConfig.rootNamespace, spec.meshConfig.defaultConfig.meshId: follows from other fields of the"
     " MeshInstall, remove it here")),
    ("a computed key in another spelling", {"meshConfig": {"trust_domain": "a"}},
     ("spec.meshConfig.trust_domain is another spelling of trustDomain: remove it, and write trustDomain if it may be"
     " set")),
    ("more than can be named", {"meshConfig": {f"nonsense{place}": 1 for place in range(7)}},
     "; ".join(f"spec.meshConfig.nonsense{place}: no such field in Istio 1.31" for place in range(5)) + "; and 2 more"),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "says"), [row[1:] for row in BAD_INPUT], ids=[row[0] for row in BAD_INPUT])
def test_what_is_wrong_is_said_by_field_and_nothing_is_wanted(spec: Json, says: str) -> None:
    desired = decide(of(**spec))
    assert desired.finding == Finding("InvalidSpec", says)
    assert desired.control_planes == ()


GOOD_INPUT: list[tuple[str, Json]] = [
    ("a budget below the replicas", plane(size="Medium", podDisruptionBudget={"minAvailable": 2})),
    ("a budget of what Auto has at least", plane(podDisruptionBudget={"minAvailable": 1})),
    ("a single replica of a gateway", gateway(replicas=1)),
    ("more away than there are", plane(podDisruptionBudget={"maxUnavailable": 9})),
    ("bounds that meet", plane(autoscaling={"minReplicas": 3, "maxReplicas": 3})),
    ("bounds that nobody looks at", plane(autoscaling={"enabled": False, "maxReplicas": 1})),
    ("a port for TCP and UDP",
     gateway(service={"ports": [{"name": "a", "port": 53}, {"name": "b", "port": 53, "protocol": "UDP"}]})),
    ("the proxy's port outside", ports(15090, targetPort=8090)),
    ("the health port", ports(15021)),
    ("a gateway called as another revision's istiod", {"gateways": [{"name": "istiod-canary", "namespace": "edge"}]}),
    ("a variable while the data plane says nothing of it", plane(env={"ENABLE_NATIVE_SIDECARS": "true"})),
    ("certificates of the shortest life", {"dataPlane": {"certificateTTL": "10m"}}),
    ("certificates of the longest life", {"dataPlane": {"certificateTTL": "2160h"}}),
    ("a large size's request", plane(size="Large", resources={"requests": {"memory": "9Gi"}})),
]  # fmt: skip


@pytest.mark.parametrize("spec", [row[1] for row in GOOD_INPUT], ids=[row[0] for row in GOOD_INPUT])
def test_what_only_looks_wrong_is_accepted(spec: Json) -> None:
    assert first_finding(of(**spec)) is None


def test_a_gateway_without_ports_is_refused_also_without_an_api_server() -> None:
    none = GatewayService.model_construct(ports=[])
    spec = mesh().spec.model_copy(update={"gateways": [GatewaySpec(name="in").model_copy(update={"service": none})]})
    assert gateways.problems(spec) == [
        f"{NAME}.service.ports is empty: name at least one port, or leave it out for 15021, 80 and 443"
    ]


TABLE: list[tuple[str, Observed, str | None, str]] = [
    # case, snapshot, reason, a part of the message
    ("an empty cluster", observed(), None, ""),
    ("our own control plane", with_cluster(**HEALTHY), None, ""),
    ("no cluster at all", observed(clusters=()), None, ""),
    ("version unknown to us", of(version="1.28.3"), "UnsupportedVersion", "choose a patch of 1.31"),
    ("an untested version", of(version="1.30.3"), "UnsupportedVersion", "or set spec.allowUntestedVersion: true"),
    ("an untested version that is allowed", of(version="1.30.3", allowUntestedVersion=True), None, ""),
    ("a minor skipped", of(running="1.29.0"), "UnsupportedVersion", "running 1.29.0"),
    ("a request above its limit", of(controlPlane={"resources": {"requests": {"cpu": 9}}}), "InvalidSpec", "cpu"),
    ("a trust domain too long for a label", of(trustDomain=f"{'a' * 62}.b"), "InvalidSpec",
     "becomes a label of at most 63 characters: set spec.meshID, too"),
    ("a trust domain as long as a label", of(trustDomain=f"{'a' * 61}.b"), None, ""),
    ("a long trust domain with a mesh ID", of(trustDomain=f"{'a' * 62}.b", meshID="m"), None, ""),
    ("no quantity", of(controlPlane={"resources": {"limits": {"cpu": "x"}}}), "InvalidSpec", "'x' is not a quantity"),
    ("a computed variable", of(controlPlane={"env": {"REVISION": "x"}}), "InvalidSpec", "env.REVISION follows from"),
    ("no variable's name", of(controlPlane={"env": {"A-B": "x"}}), "InvalidSpec", "'A-B' is no name of an environment"),
    ("a computed key, spelled otherwise", of(meshConfig={"trust_domain": "a"}), "InvalidSpec", "meshConfig.trust_dom"),
    ("a computed key", of(meshConfig={"trustDomain": "a"}), "InvalidSpec", "spec.meshConfig.trustDomain: follows from"),
    ("a default of ours in snake_case", of(meshConfig={"enable_prometheus_merge": False}), "InvalidSpec",
     "spec.meshConfig.enable_prometheus_merge is another spelling of enablePrometheusMerge: remove it"),
    ("a map of ours in snake_case", of(meshConfig={"default_config": {"concurrency": 2}}), "InvalidSpec",
     "spec.meshConfig.default_config is another spelling of defaultConfig: remove it"),
    ("a computed key in a map, in snake_case", of(meshConfig={"defaultConfig": {"mesh_id": "x"}}), "InvalidSpec",
     "spec.meshConfig.defaultConfig.mesh_id is another spelling of meshId: remove it"),
    ("a key that is not ours, in snake_case", of(meshConfig={"access_log_file": "x"}), None, ""),
    ("an installed mesh and an older twin that never was", with_neighbour("a", "default", BEFORE, running="1.31.4"),
     None, ""),
    ("a younger twin that is installed", with_neighbour("z", "default", AFTER, installed=True), "RevisionConflict",
     "MeshInstall z has revision default already"),
    ("two that are installed, the other older",
     with_neighbour("z", "default", BEFORE, installed=True, running="1.31.4"), "RevisionConflict", "z has"),
    ("two that are installed, the other younger",
     with_neighbour("a", "default", AFTER, installed=True, running="1.31.4"), None, ""),
    ("an installed neighbour of another revision", with_neighbour("a", "canary", BEFORE, installed=True), None, ""),
    ("an older twin", with_neighbour("other", "default", "2026-01-01T00:00:00Z"), "RevisionConflict", "other has"),
    ("a younger twin", with_neighbour("other", "default", "2026-03-01T00:00:00Z"), None, ""),
    ("a twin of the same second, before us by name", with_neighbour("a", "default", CREATED), "RevisionConflict", "a"),
    ("a twin of the same second, after us by name", with_neighbour("z", "default", CREATED), None, ""),
    ("a neighbour of another revision", with_neighbour("other", "canary", "2026-01-01T00:00:00Z"), None, ""),
    ("a namespace that goes", with_cluster(namespace_terminating=True), "NamespaceTerminating", "is being"),
    ("an istiod of Helm's", with_cluster(istiods=(istiod(**HELM),)), "ForeignControlPlane", "by helm and kubectl"),
    ("an istiod of nobody's", with_cluster(istiods=(istiod(owner=None, managers=()),)), "ForeignControlPlane", "body"),
    ("a foreign istiod of another revision in our namespace",
     with_cluster(istiods=(istiod(name="istiod-x", revision="x", **HELM),)), "ForeignControlPlane", "of revision x"),
    ("a foreign istiod of our revision elsewhere",
     with_cluster(istiods=(istiod(namespace="mesh", **HELM),)), "ForeignControlPlane", "mesh/istiod"),
    ("a foreign istiod of another revision elsewhere",
     with_cluster(istiods=(istiod(namespace="mesh", revision="x", **HELM),)), None, ""),
    ("another mesh's istiod elsewhere",
     with_cluster(istiods=(istiod(namespace="mesh", revision="x", owner="other"),)), None, ""),
    ("a foreign injector of our revision",
     with_cluster(injectors=(injector(**HELM),)), "ForeignControlPlane", "inject every pod twice"),
    ("another mesh's injector of our revision",
     with_cluster(injectors=(injector(owner="other"),)), "ForeignControlPlane", "two would inject"),
    ("a foreign injector of another revision", with_cluster(injectors=(injector(revision="x", **HELM),)), None, ""),
    ("a tag of another name that points to our revision", with_tag("prod", "default"), None, ""),
    ("a tag that is named like our revision", with_tag("canary", "x", revision="canary"), "ForeignControlPlane",
     "istio-revision-tag-canary injects canary already, installed by istioctl"),
    ("the tag default, which points elsewhere", with_tag("default", "x"), "ForeignControlPlane", "injects default"),
    ("the tag default, which points to us", with_tag("default", "default"), "ForeignControlPlane", "injects default"),
    ("the tag default for us, who are canary", with_tag("default", "canary", revision="canary"), None, ""),
    ("trouble in the second cluster",
     observed(clusters=(cluster(), Cluster("west", namespace_terminating=True))), "NamespaceTerminating", "is being"),
]  # fmt: skip


@pytest.mark.parametrize(("snapshot", "reason", "says"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_a_snapshot_leads_to_a_reason(snapshot: Observed, reason: str | None, says: str) -> None:
    finding = first_finding(snapshot)
    assert (finding.reason if finding else None) == reason
    assert finding is None or says in finding.message


@pytest.mark.parametrize(("snapshot", "reason"), [(row[1], row[2]) for row in TABLE], ids=[row[0] for row in TABLE])
def test_with_a_finding_nothing_is_wanted_in_any_cluster(snapshot: Observed, reason: str | None) -> None:
    desired = decide(snapshot)
    assert desired.finding == first_finding(snapshot)
    assert len(desired.control_planes) == (0 if reason else len(snapshot.clusters))


def test_every_check_is_in_the_table() -> None:
    snapshots = [*(row[1] for row in TABLE), *(of(**row[1]) for row in BAD_INPUT)]
    caught = {check for check in CHECKS for snapshot in snapshots if check(snapshot)}
    assert caught == set(CHECKS)


def test_the_first_of_several_is_told() -> None:
    everything = observed(
        mesh(version="1.28.3", meshConfig={"trustDomain": "a"}),
        clusters=(cluster(namespace_terminating=True, istiods=(istiod(**HELM),)),),
    )
    assert [finding.reason for check in CHECKS if (finding := check(everything))] == [
        "UnsupportedVersion", "InvalidSpec", "NamespaceTerminating", "ForeignControlPlane",
    ]  # fmt: skip
    finding = first_finding(everything)
    assert finding is not None
    assert finding.reason == "UnsupportedVersion"


@pytest.mark.parametrize("row", [row for row in TABLE if row[2]], ids=[row[0] for row in TABLE if row[2]])
def test_a_message_tells_the_next_step(row: tuple[str, Observed, str, str]) -> None:
    finding = first_finding(row[1])
    assert finding is not None
    words = (
        "choose",
        "delete",
        "remove",
        "lower",
        "wait",
        "uninstall",
        "go to",
        "leave it out",
        "not a quantity such as",
        "use letters",
        "set spec.",
    )
    assert any(word in finding.message for word in words), finding.message
    assert "\n" not in finding.message


def test_decide_takes_every_cluster_and_the_mode() -> None:
    desired = decide(observed(mesh(mode="Plan", meshID="one"), clusters=(cluster(), Cluster("west"))))
    assert (desired.mesh, desired.mesh_id, desired.mode) == ("demo", "one", Mode.PLAN)
    assert [each.cluster for each in desired.control_planes] == ["primary", "west"]
    assert [each.trust.cluster for each in desired.control_planes] == ["primary", "west"]
    assert {each.trust.root_secret for each in desired.control_planes} == {"meshwright-root-demo"}


def test_each_cluster_decides_its_own_replicas() -> None:
    own = cluster(istiods=(istiod(replicas=7, replicas_annotation="autoscaled"),))
    subject = mesh(controlPlane={"autoscaling": {"enabled": False}})
    desired = decide(observed(subject, clusters=(own, Cluster("west", autoscaled=True), Cluster("east"))))
    assert [each.replicas for each in desired.control_planes] == [
        Decision(7, "7/size 2"), Decision(None, "autoscaled"), Decision(2),
    ]  # fmt: skip


def test_the_replicas_of_another_istiod_decide_nothing() -> None:
    others = istiod(namespace="mesh", revision="x", replicas=7, replicas_annotation="autoscaled", owner="other")
    sizing = size_of(Size.SMALL, Resources())
    assert replicas_for(cluster(istiods=(others,)), mesh().spec, sizing, None) == Decision(2)


def test_an_autoscaler_of_somebody_else_has_precedence_over_ours() -> None:
    ours, theirs, none = (
        decide(observed(mesh(**spec), clusters=(cluster(autoscaled=autoscaled),))).control_planes[0]
        for spec, autoscaled in (({}, False), ({}, True), (plane(autoscaling={"enabled": False}), False))
    )
    assert ours.bounds == Bounds(2, 4, "1600m")
    assert (theirs.bounds, none.bounds) == (None, None)
    assert [each.replicas.replicas for each in (ours, theirs, none)] == [None, None, 2]


def test_the_environment_is_a_persons_and_what_the_data_plane_says() -> None:
    spec = {**plane(env={"Z": "1", "A": "2"}), "dataPlane": {"certificateTTL": "2h"}}
    (found,) = decide(of(**spec)).control_planes
    assert list(found.env.items()) == [("A", "2"), ("DEFAULT_WORKLOAD_CERT_TTL", "2h"), ("Z", "1")]


def test_gateways_come_in_the_order_of_their_names() -> None:
    (found,) = decide(of(gateways=[{"name": "b"}, {"name": "a"}])).control_planes
    assert [each.name for each in found.gateways] == ["a", "b"]


def test_objects_are_labelled_with_the_mesh_and_its_id() -> None:
    subject = mesh(meshID="m")
    (plane,) = decide(observed(subject)).control_planes
    assert plane.owner == owner_of(subject) == Owner("demo", "m")
    assert plane.trust == trust_intent(subject, "primary")
    assert str(plane.owner) == "mesh demo (mesh ID m)"


@pytest.mark.parametrize(
    ("spec", "mesh_id"), [({}, "cluster.local"), ({"trustDomain": "a.b"}, "a.b"), ({"meshID": "m"}, "m")]
)
def test_the_mesh_id_is_the_trust_domain_unless_it_is_said(spec: Json, mesh_id: str) -> None:
    assert decide(observed(mesh(**spec))).mesh_id == mesh_id
