"""istio-cni's objects: what they may do on a node and in the cluster, and no more."""

from __future__ import annotations

from typing import Any

import pytest

from meshes import plane, rendered
from rbac import Permission, in_rules

Json = dict[str, Any]


def documents(*, revision: str = "default", **data_plane: Any) -> dict[str, Json]:
    """What belongs to istio-cni of a mesh in namespace `mesh`, by kind."""
    spec: Json = {"namespace": "mesh", "revision": revision, "dataPlane": {"cni": "Enabled", **data_plane}}
    found = [each.manifest for each in rendered(**spec)]
    return {each["kind"]: each for each in found if each["metadata"].get("labels", {}).get("app") == "istio-cni"}


def pod(**data_plane: Any) -> Json:
    found: Json = documents(**data_plane)["DaemonSet"]["spec"]["template"]["spec"]
    return found


def agent() -> Json:
    (only,) = pod()["containers"]
    found: Json = only
    return found


def environment() -> Json:
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in agent()["env"]}


def folders(spec: Json) -> Json:
    """Paths on the node by where the container sees them."""
    sources = {each["name"]: each["hostPath"] for each in spec["volumes"]}
    (container,) = spec["containers"]
    return {mount["mountPath"]: sources[mount["name"]] for mount in container["volumeMounts"]}


def test_it_is_there_when_it_is_asked_for() -> None:
    assert documents().keys() == {"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "DaemonSet"}
    assert documents(cni="Disabled") == {}


def test_one_for_all_revisions() -> None:
    assert documents(revision="canary") == documents()


def test_names_that_the_plugin_and_istiod_rely_on() -> None:
    """The plugin lets through the pods of this name, and istiod finds them by this label."""
    daemonset = documents()["DaemonSet"]
    assert (daemonset["metadata"]["name"], daemonset["metadata"]["namespace"]) == ("istio-cni-node", "mesh")
    labels = daemonset["spec"]["template"]["metadata"]["labels"]
    assert labels["k8s-app"] == "istio-cni-node"
    assert daemonset["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert labels["sidecar.istio.io/inject"] == "false"


def test_in_the_cluster_it_reads_pods() -> None:
    found = documents()
    assert in_rules(found["ClusterRole"]["rules"]) == {
        Permission("", "pods", verb) for verb in ("get", "list", "watch")
    }
    binding = found["ClusterRoleBinding"]
    assert binding["roleRef"]["name"] == found["ClusterRole"]["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "istio-cni", "namespace": "mesh"}]
    assert pod()["serviceAccountName"] == found["ServiceAccount"]["metadata"]["name"] == "istio-cni"


def test_it_is_on_every_node_and_is_not_the_first_to_go() -> None:
    assert pod()["tolerations"] == [{"operator": "Exists"}]
    assert pod()["priorityClassName"] == "system-node-critical"


def test_root_with_what_repair_needs_and_nothing_else() -> None:
    security = agent()["securityContext"]
    assert security["privileged"] is False
    assert security["readOnlyRootFilesystem"] is True
    assert security["capabilities"] == {
        "drop": ["ALL"],
        "add": ["NET_ADMIN", "NET_RAW", "SYS_ADMIN", "SYS_PTRACE", "DAC_OVERRIDE"],
    }
    assert not pod().keys() & {"hostNetwork", "hostPID", "hostIPC"}


def test_pods_that_came_too_early_are_repaired_on_the_same_node() -> None:
    found = environment()
    assert found["REPAIR_REPAIR_PODS"] == "true"
    assert found["REPAIR_NODE_NAME"] == {"fieldRef": {"fieldPath": "spec.nodeName"}}
    assert found["POD_NAMESPACE"] == {"fieldRef": {"fieldPath": "metadata.namespace"}}


def test_it_has_limits_and_knows_them() -> None:
    resources = agent()["resources"]
    assert resources["limits"].keys() == resources["requests"].keys() == {"cpu", "memory"}
    assert environment()["GOMEMLIMIT"]["resourceFieldRef"]["resource"] == "limits.memory"


def test_folders_of_the_node() -> None:
    assert folders(pod()) == {
        "/host/opt/cni/bin": {"path": "/opt/cni/bin", "type": "Directory"},
        "/host/etc/cni/net.d": {"path": "/etc/cni/net.d", "type": "Directory"},
        "/var/run/istio-cni": {"path": "/var/run/istio-cni", "type": "DirectoryOrCreate"},
        "/host/proc": {"path": "/proc", "type": "Directory"},
    }
    (processes,) = [each for each in agent()["volumeMounts"] if each["mountPath"] == "/host/proc"]
    assert processes["readOnly"] is True


def test_folders_of_another_platform() -> None:
    found = folders(pod(cniBinDir="/home/kubernetes/bin", cniConfDir="/etc/cni/multus/net.d"))
    assert found["/host/opt/cni/bin"]["path"] == "/home/kubernetes/bin"
    assert found["/host/etc/cni/net.d"]["path"] == "/etc/cni/multus/net.d"


def test_the_image_is_of_the_control_planes_version() -> None:
    assert agent()["image"] == "docker.io/istio/install-cni:1.31.4"
    assert agent()["imagePullPolicy"] == plane().pull_policy


@pytest.mark.parametrize("names", [[], ["registry"]])
def test_pull_secrets(names: list[str]) -> None:
    assert pod(imagePullSecrets=names).get("imagePullSecrets", []) == [{"name": name} for name in names]


def test_sidecars_are_as_restricted_as_pod_security_knows() -> None:
    values = plane(dataPlane={"cni": "Enabled"}).injector_values
    assert values["pilot"]["cni"]["enabled"] is True
    assert values["global"]["proxy"]["seccompProfile"] == {"type": "RuntimeDefault"}
