"""What a workload may do, by whichever roles its ServiceAccount is bound to: comparable whatever they are called."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from api.comparison.trees import address

Json = dict[str, Any]
EVERY_NAMESPACE = ""
ANY = "*"


class Grant(NamedTuple):
    namespace: str
    group: str
    resource: str
    name: str
    verb: str

    def covers(self, other: Grant) -> bool:
        """An empty namespace or name is every one, and `*` any of its kind; a resource is without its subresources."""
        return (
            self.namespace in (EVERY_NAMESPACE, other.namespace)
            and self.name in ("", other.name)
            and all(mine in (ANY, its) for mine, its in zip(self[1:3] + self[4:], other[1:3] + other[4:], strict=True))
        )


def of_workloads(manifests: Iterable[Json]) -> dict[str, set[Grant]]:
    """By the address of each Deployment and DaemonSet."""
    objects = {address(each): each for each in manifests}
    return {
        key: set(_granted(objects, each["metadata"]["namespace"], each["spec"]["template"]["spec"]))
        for key, each in objects.items()
        if each["kind"] in ("Deployment", "DaemonSet")
    }


def beyond(mine: set[Grant], theirs: set[Grant]) -> list[Grant]:
    """What the first may do and the second may not."""
    return sorted(grant for grant in mine if not any(other.covers(grant) for other in theirs))


def _granted(objects: dict[str, Json], namespace: str, pod: Json) -> Iterator[Grant]:
    for binding in objects.values():
        if binding["kind"] not in ("RoleBinding", "ClusterRoleBinding"):
            continue
        bound_in = binding["metadata"].get("namespace", EVERY_NAMESPACE)
        for subject in binding["subjects"]:
            # Without a namespace, istioctl means that of the binding.
            if (subject["name"], subject.get("namespace", bound_in)) == (pod["serviceAccountName"], namespace):
                yield from _of_role(_role(objects, binding), bound_in)


def _role(objects: dict[str, Json], binding: Json) -> Json:
    kind, name = binding["roleRef"]["kind"], binding["roleRef"]["name"]
    place = f"{binding['metadata']['namespace']}/" if kind == "Role" else ""
    return objects[f"{kind} {place}{name}"]


def _of_role(role: Json, namespace: str) -> Iterator[Grant]:
    for rule in role["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for name in rule.get("resourceNames") or [""]:
                    for verb in rule["verbs"]:
                        yield Grant(namespace, group, resource, name, verb)
