"""render: a control plane and its trust become waves of objects."""

from __future__ import annotations

import copy
import hashlib
import json
from functools import cache
from typing import Any

from meshwright.api.meshinstall import (
    ANNOTATION_ISTIO_API,
    ANNOTATION_REPLICAS,
    COMPONENT_PROBE,
    LABEL_COMPONENT,
    LABEL_MANAGED_BY,
    MANAGED_BY,
    MTLS,
)
from meshwright.mesh.availability import spread
from meshwright.mesh.desired import ControlPlane
from meshwright.mesh.gateways import Gateway
from meshwright.mesh.meshconfig import KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT
from meshwright.mesh.objects import Birth, Manifest, Packed, Rendered, Wave, crds_established, deployments_serve
from meshwright.mesh.trust import Trust
from meshwright.render import templates

INJECTION_TEMPLATES = ("sidecar", "gateway", "kube-gateway")
NOT_MADE_YET = "not-made-yet"  # in a plan, or rendered without a cluster


def render(plane: ControlPlane, trust: Trust | None) -> tuple[Wave, ...]:
    """Everything in one cluster, in the order in which it must be there. Raises TemplateError."""
    root = trust.root_fingerprint if trust else NOT_MADE_YET
    values = {
        "plane": plane, "names": plane.names, "root": root, "spread": spread,
        "pull_secrets": [{"name": name} for name in plane.pull_secrets],
        "keepalive": {"interval": KEEPALIVE_INTERVAL, "timeout": KEEPALIVE_TIMEOUT},
    }  # fmt: skip
    injected = _digest(root, plane.hub, plane.tag, templates.static("injection/gateway.tpl"))

    def component(name: str, *paths: str, **more: Any) -> tuple[Rendered, ...]:
        documents = [each for path in paths for each in templates.render(path, **values, **more)]
        return tuple(_ours(plane, name, document) for document in documents)

    def gateways(path: str) -> tuple[Rendered, ...]:
        return tuple(
            each
            for gateway in plane.gateways
            for each in component("gateway", path, gateway=gateway, injected=gateway.injected or injected)
        )

    def istiod(path: str, **more: Any) -> tuple[Rendered, ...]:
        return () if plane.primary else component("istiod", path, **more)

    def policies(name: str, path: str, **more: Any) -> tuple[Rendered, ...]:
        """They are read, and judged, where istiod is."""
        return () if plane.primary else component(name, path, **more)

    def remote(path: str) -> tuple[Rendered, ...]:
        return component("remote", path) if plane.joined else ()

    def probe(path: str) -> tuple[Rendered, ...]:
        return component(COMPONENT_PROBE, path) if plane.probe else ()

    def cni(path: str) -> tuple[Rendered, ...]:
        return component("cni", path) if plane.cni else ()

    waves = (
        # Large, and slow to take in for the API server; istiod waits for kinds that it does not find yet.
        Wave("crds", _crds(), apart=True),
        # Not marked as ours: it may be there before the mesh, and stays after it.
        Wave("namespace", tuple(Rendered(each) for each in templates.render("namespace/namespace.yaml.j2", **values))),
        Wave("identity", (
            *istiod("istiod/identity.yaml.j2"),
            *cni("cni/identity.yaml.j2"),
            *gateways("gateway/identity.yaml.j2"),
            *remote("remote/reader.yaml.j2"),
        )),
        # A binding is refused while its role is missing: whoever binds must hold what the role holds.
        Wave("bindings", (
            *istiod("istiod/bindings.yaml.j2"),
            *cni("cni/bindings.yaml.j2"),
            *gateways("gateway/bindings.yaml.j2"),
            *remote("remote/binding.yaml.j2"),
        )),
        # Before pods are injected that rely on it.
        Wave("cni", cni("cni/agent.yaml.j2")),
        Wave(
            "configuration",
            istiod(
                "istiod/configuration.yaml.j2",
                mesh_config=templates.as_yaml(plane.mesh_config),
                injector_config=templates.as_yaml(_injector_config()),
                # As JSON: istiod would take YAML too, but `istioctl analyze` reads JSON only.
                injector_values=json.dumps(plane.injector_values, indent=2, sort_keys=True),
            ),
        ),
        Wave(
            "control plane",
            (*(_scaled(each, replicas=plane.replicas.replicas, born=_born(plane), note=plane.replicas.annotation)
               for each in istiod("istiod/controlplane.yaml.j2")),
             *(istiod("istiod/remotes.yaml.j2") if plane.entry else ()),
             *(remote("remote/istiod.yaml.j2") if plane.primary else ())),
        ),
        # Earlier, a webhook that nobody answers would keep everybody's pods from being made.
        Wave(
            "webhooks",
            (*component("webhooks", "webhooks/mutating.yaml.j2"),
             *(_judged_later(each) for each in policies("webhooks", "webhooks/validating.yaml.j2"))),
            after=deployments_serve,
        ),
        Wave(
            "policy",
            (*policies("policy", "policy/peerauthentication.yaml.j2", mode=MODES[plane.mtls]),
             *(policies("policy", "policy/locality.yaml.j2") if plane.ejects else ()),
             *(each for gateway in plane.gateways if gateway.network
               for each in policies("gateway", "gateway/eastwest.yaml.j2", gateway=gateway))),
            after=crds_established,
        ),
        # After the webhooks: a pod that no webhook sees would keep the image `auto`.
        Wave(
            "gateways",
            tuple(
                _scaled(each, replicas=gateway.declared, born=_fewest(gateway))
                for gateway in plane.gateways
                for each in component(
                    "gateway", "gateway/gateway.yaml.j2", gateway=gateway, injected=gateway.injected or injected
                )
            ),
            after=deployments_serve,
        ),
        Wave("probe", probe("probe/probe.yaml.j2"), after=deployments_serve),
    )  # fmt: skip
    return tuple(wave for wave in waves if wave.objects)


MODES = {MTLS.PERMISSIVE: "PERMISSIVE", MTLS.STRICT: "STRICT"}


def warm_up() -> None:
    """Loads what every render needs, so that the first mesh does not wait for it. Raises TemplateError."""
    templates.compile_all()
    for rendered in _crds():
        _ = rendered.digest


def _ours(plane: ControlPlane, component: str, manifest: Manifest) -> Rendered:
    metadata = manifest["metadata"]
    metadata.setdefault("labels", {}).update({**plane.owner.labels, LABEL_COMPONENT: component})
    return Rendered(manifest)


@cache
def _crds() -> tuple[Rendered, ...]:
    version, items = templates.istio_crds()

    def stamped(manifest: Manifest) -> Manifest:
        metadata = manifest["metadata"]
        annotations = {**metadata.get("annotations", {}), ANNOTATION_ISTIO_API: version}
        labels = {**metadata.get("labels", {}), LABEL_MANAGED_BY: MANAGED_BY}
        return {**manifest, "metadata": {**metadata, "annotations": annotations, "labels": labels}}

    return tuple(Packed(stamped(manifest)) for manifest in items)


def _born(plane: ControlPlane) -> int:
    return plane.bounds.minimum if plane.bounds else plane.sizing.replicas


def _fewest(gateway: Gateway) -> int:
    return gateway.bounds.minimum if gateway.bounds else gateway.replicas


def _scaled(rendered: Rendered, *, replicas: int | None, born: int, note: str | None = None) -> Rendered:
    """Of a Deployment: the replicas, or nothing of them while an autoscaler decides; it is then `born` with some."""
    if rendered.key.kind != "Deployment":
        return rendered
    metadata, spec = rendered.manifest["metadata"], rendered.manifest["spec"]
    if note:
        metadata = {**metadata, "annotations": {**metadata.get("annotations", {}), ANNOTATION_REPLICAS: note}}
    manifest = {**rendered.manifest, "metadata": metadata}
    if replicas is not None:
        return Rendered({**manifest, "spec": {**spec, "replicas": replicas}})
    birth = Birth({**manifest, "spec": {**spec, "replicas": born}}, frozenset({"replicas"}))
    return Rendered(manifest, birth=birth, handed_over=("spec", "replicas"))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _judged_later(rendered: Rendered) -> Rendered:
    """A validating webhook starts as Ignore; istiod turns it to Fail once it answers, and it stays istiod's."""
    born = copy.deepcopy(rendered.manifest)
    for webhook in born["webhooks"]:
        webhook["failurePolicy"] = "Ignore"
    return Rendered(rendered.manifest, birth=Birth(born, frozenset({"failurePolicy"})))


def _injector_config() -> dict[str, Any]:
    return {
        "policy": "enabled",
        "defaultTemplates": ["sidecar"],
        "templates": {name: templates.static(f"injection/{name}.tpl") for name in INJECTION_TEMPLATES},
    }
