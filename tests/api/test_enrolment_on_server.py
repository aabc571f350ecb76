"""What a pod asks for, against who really injects it: our webhooks on a real API server, with two real istiods behind.

Every combination of what namespaces and pods can say is sent as a dry run, which calls the webhooks like any other
request. That a sidecar came, and of which revision, is read off the answer.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from api.injection import NAMESPACE, VALUES, injector_config_map, namespace, prepare, running_istiod
from api.world import WEBHOOKS, Cluster
from meshes import plane
from meshwright.cluster.kinds import INJECTABLE_POD, POD
from meshwright.cluster.pods import pod_of
from meshwright.mesh.enrolment import Verdict, asks_for, judge
from meshwright.mesh.injection import injector_values
from meshwright.mesh.names import Names
from meshwright.render import templates
from testbed.apiserver import ApiServer, api_server
from testbed.rest import wait_until

Json = dict[str, Any]

REVISIONS = ("default", "canary")
TAGS = {"prod": "canary"}  # and the revision that each points to
IMAGE = f"{VALUES['hub']}/proxyv2:{VALUES['tag']}"
AT_ONCE = 4
INJECT = "sidecar.istio.io/inject"


def said(key: str, *values: str) -> list[Json]:
    """As labels or annotations: nothing, or one of the values."""
    return [{}, *({key: value} for value in values)]


def combined(*sayings: list[Json]) -> list[Json]:
    return [{key: value for one in each for key, value in one.items()} for each in itertools.product(*sayings)]


OF_NAMESPACES = combined(
    said("istio-injection", "enabled", "disabled"), said("istio.io/rev", "default", "canary", "prod", "unknown")
)
OF_PODS = combined(said(INJECT, "true", "false", "", "yes"), said("istio.io/rev", "default", "canary", "prod"))
ANNOTATIONS = said(INJECT, "true", "false")
IGNORED = ("kube-system", "kube-public", "kube-node-lease", "local-path-storage")


@dataclass(frozen=True)
class Bed:
    cluster: Cluster
    namespaces: Mapping[str, Json]  # labels by name

    def create(self, pod: Json) -> Json:
        """As it would be stored."""
        return self.cluster.create(pod, "dryRun=All").body

    def injects_for_all(self) -> bool:
        """The API server hears of webhooks a little later than they are stored."""
        probes = (pod("default", "probe", {"istio.io/rev": name}, {}) for name in (*REVISIONS, *TAGS))
        return all(sidecar(self.create(each)) for each in probes)


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    labels = {f"space{number}": each for number, each in enumerate(OF_NAMESPACES)}
    with ExitStack() as stack:
        api = stack.enter_context(api_server())
        prepare(api)
        apply(
            api, [*configuration_of("canary"), *(item for name, own in labels.items() for item in namespace(name, own))]
        )
        apply(api, [item for name in IGNORED for item in namespace(name, {"istio-injection": "enabled"})])
        cluster = Cluster(api)
        stack.callback(cluster.close)
        ports = {
            each: stack.enter_context(running_istiod(api, tmp_path_factory.mktemp(each), REVISION=each)).port
            for each in REVISIONS
        }
        for name in (*REVISIONS, *TAGS):
            call(cluster, name, ports)
        bed = Bed(cluster, labels)
        wait_until(bed.injects_for_all, "injection", seconds=60, pause=0.2)
        yield bed


def apply(api: ApiServer, items: list[Json]) -> None:
    everything = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    api.kubectl("apply", "--server-side", "-f", "-", stdin=everything)


def configuration_of(revision: str) -> list[Json]:
    """The ConfigMaps of a second istiod: those of the first under the names of the revision."""
    names = Names(NAMESPACE, revision)
    injector = injector_config_map(injector_values(**{**VALUES, "revision": revision}))
    injector["metadata"]["name"] = names.injector
    mesh = {"mesh": "rootNamespace: istio-system", "meshNetworks": "networks: {}"}
    metadata = {"name": names.mesh_config, "namespace": NAMESPACE}
    return [injector, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": mesh}]


def call(cluster: Cluster, name: str, ports: Mapping[str, int]) -> None:
    """Our webhooks for a revision or a tag, once its istiod has written its CA into them.

    There is no network for Services here: the name of this one is another for the loopback, and the port is istiod's.
    """
    revision = TAGS.get(name, name)
    names = Names(NAMESPACE, revision)
    service = {"type": "ExternalName", "externalName": "localhost"}
    metadata = {"name": names.istiod, "namespace": NAMESPACE}
    cluster.apply({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service})
    named = Names(NAMESPACE, name)
    (configuration,) = templates.render("webhooks/mutating.yaml.j2", names=named, plane=plane())
    configuration["metadata"]["labels"]["istio.io/rev"] = revision
    for webhook in configuration["webhooks"]:
        webhook["clientConfig"]["service"] |= {"name": names.istiod, "port": ports[revision]}
    cluster.apply(configuration)
    path = f"{WEBHOOKS}/mutatingwebhookconfigurations/{configuration['metadata']['name']}"

    def trusted() -> bool:
        return all(each["clientConfig"].get("caBundle") for each in cluster.must_get(path)["webhooks"])

    wait_until(trusted, f"the CA of {revision}", seconds=60, pause=0.1)


def pod(space: str, name: str, labels: Json, annotations: Json, **spec: Any) -> Json:
    metadata = {"name": name, "namespace": space, "labels": labels, "annotations": annotations}
    container = {"name": "web", "image": "example.org/web:1"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container], **spec}}


def sidecar(pod: Json) -> str | None:
    """The revision of what was injected, by the containers that there are and what istiod says of itself."""
    containers = [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]
    if not any(each["name"] == "istio-proxy" for each in containers):
        return None
    revision: str = json.loads(pod["metadata"]["annotations"]["sidecar.istio.io/status"])["revision"]
    return revision


def test_each_pod_gets_the_sidecar_that_it_asks_for(bed: Bed) -> None:
    pods = [
        pod(space, f"pod{number}", labels, annotations)
        for space in bed.namespaces
        for number, (labels, annotations) in enumerate(itertools.product(OF_PODS, ANNOTATIONS))
    ]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        made = list(pool.map(bed.create, pods))
    differences = []
    injected = 0
    for before, after in zip(pods, made, strict=True):
        said = before["metadata"]
        asks = asks_for(bed.namespaces[said["namespace"]], said["labels"], said["annotations"], said["namespace"])
        expected = TAGS.get(asks, asks) if asks in (*REVISIONS, *TAGS) else None
        found = sidecar(after)
        injected += found is not None
        if found != expected:
            differences.append(
                (bed.namespaces[said["namespace"]], said["labels"], said["annotations"], expected, found)
            )
        # What injection leaves says so as well, and asks for no other verdict afterwards.
        left = pod_of(after)
        verdict = Verdict.INJECTED if found else Verdict.MISSING
        assert judge(left.annotations, revision=found or "", image=IMAGE) is verdict
        assert asks_for(bed.namespaces[left.namespace], left.labels, left.annotations, left.namespace) == asks
    print(f"{len(pods)} pods, {injected} of them injected")
    assert differences == []
    assert 0 < injected < len(pods)


@pytest.mark.parametrize("space", IGNORED)
def test_kubernetes_own_namespaces_are_never_injected(bed: Bed, space: str) -> None:
    labels = {INJECT: "true"}
    assert sidecar(bed.create(pod(space, "pod", labels, {}))) is None
    assert asks_for({"istio-injection": "enabled"}, labels, {}, space) is None


def test_pods_on_the_hosts_network_are_neither_injected_nor_looked_at(bed: Bed) -> None:
    """The API server takes the field selector, and it sees the pods that it should."""
    labels = {INJECT: "true", "istio.io/rev": "canary"}
    asking = pod("default", "on-the-host", labels, {}, hostNetwork=True)
    assert sidecar(bed.create(asking)) is None
    for manifest in (asking, pod("default", "on-its-own", labels, {})):
        bed.cluster.create(manifest)
    try:
        listed = bed.cluster.must_get(f"{POD.path('default')}?fieldSelector={INJECTABLE_POD.fields}")["items"]
        assert [each["metadata"]["name"] for each in listed] == ["on-its-own"]
        assert sidecar(listed[0]) == "canary"
    finally:
        for name in ("on-the-host", "on-its-own"):
            bed.cluster.delete(f"{POD.path('default')}/{name}")


@pytest.mark.parametrize(
    ("annotations", "verdict"),
    [
        ({}, Verdict.INJECTED),
        ({"sidecar.istio.io/proxyImageType": "distroless"}, Verdict.INJECTED),
        ({"sidecar.istio.io/proxyImage": "example.org/own:1"}, Verdict.INJECTED),
        (
            {"sidecar.istio.io/status": "{}", "meshwright.dev/proxy-image": "stale"},
            Verdict.INJECTED,
        ),  # copied from a pod
    ],
)
def test_what_is_left_on_a_pod_tells_its_version(bed: Bed, annotations: Json, verdict: Verdict) -> None:
    made = bed.create(pod("default", "pod", {"istio.io/rev": "canary"}, annotations))
    assert judge(made["metadata"]["annotations"], revision="canary", image=IMAGE) is verdict
    if "sidecar.istio.io/proxyImage" not in annotations:
        assert judge(made["metadata"]["annotations"], revision="canary", image=f"{IMAGE}0") is Verdict.OTHER_VERSION
