"""The names of a control plane's objects, as Istio and its tools expect them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from meshwright.api.meshinstall import COMPONENT_PROBE, LABEL_COMPONENT

DEFAULT_REVISION = "default"
CNI_AGENT = "istio-cni-node"  # Istio's plugin and istiod know it by this name
READER = "istio-reader-service-account"  # all revisions of a namespace share it
PRIMARY = "istio-primary-service-account"  # this one, too
CLUSTER_DOMAIN = "cluster.local"
SERVICE_NAME_LIMIT = 63  # characters


@dataclass(frozen=True)
class Names:
    """Names that follow from the mesh's namespace and revision; the default revision has no suffix."""

    namespace: str
    revision: str

    @property
    def is_default(self) -> bool:
        return self.revision == DEFAULT_REVISION

    def _with_revision(self, base: str) -> str:
        return base if self.is_default else f"{base}-{self.revision}"

    @property
    def istiod(self) -> str:
        """Deployment, Service, ServiceAccount, Role and PodDisruptionBudget share it."""
        return self._with_revision("istiod")

    @property
    def mesh_config(self) -> str:
        return self._with_revision("istio")

    @property
    def injector(self) -> str:
        return self._with_revision("istio-sidecar-injector")

    @property
    def mutating_webhook(self) -> str:
        # The suffix-less name is Istio's own for istio-system; elsewhere two namespaces could collide.
        suffix = "" if self.namespace == "istio-system" else f"-{self.namespace}"
        return self._with_revision("istio-sidecar-injector") + suffix

    @property
    def validating_webhook(self) -> str:
        return f"{self._with_revision('istio-validator')}-{self.namespace}"

    @property
    def reader(self) -> str:
        """ServiceAccount as which the istiods of other clusters read this one."""
        return READER

    @property
    def primary(self) -> str:
        """ServiceAccount as which the istiod of its primary works in a cluster without one."""
        return PRIMARY

    @property
    def east_west_gateway(self) -> str:
        return self._with_revision("istio-eastwestgateway")

    @property
    def locality(self) -> str:
        return self._with_revision("locality")

    @property
    def remotes(self) -> str:
        """The Service by which clusters without an istiod reach that of their primary."""
        return self._with_revision("istiod-remotes")

    @property
    def probe(self) -> str:
        return self._with_revision("meshwright-probe")

    def probe_of(self, cluster: str) -> str:
        """The Service of the probe in a cluster."""
        name = f"{self.probe}-{cluster}"
        return name if len(name) <= SERVICE_NAME_LIMIT else f"probe-{hashlib.sha256(name.encode()).hexdigest()[:16]}"

    @property
    def probe_selector(self) -> dict[str, str]:
        return {LABEL_COMPONENT: COMPONENT_PROBE, "istio.io/rev": self.revision}

    def cluster_role(self, base: str) -> str:
        return f"{self._with_revision(base)}-{self.namespace}"

    @property
    def discovery_host(self) -> str:
        return f"{self.istiod}.{self.namespace}.svc"

    @property
    def discovery_address(self) -> str:
        return f"{self.discovery_host}:15012"

    @property
    def pod_labels(self) -> dict[str, str]:
        """What istiod's pods carry."""
        return {
            "app": "istiod",
            "istio": "pilot" if self.is_default else "istiod",
            "istio.io/rev": self.revision,
            "istio.io/dataplane-mode": "none",
            "sidecar.istio.io/inject": "false",
        }

    @property
    def selector(self) -> dict[str, str]:
        """What Service, Deployment and PodDisruptionBudget select istiod's pods by (immutable once installed)."""
        if self.is_default:
            return {"app": "istiod", "istio": "pilot"}
        return {"app": "istiod", "istio.io/rev": self.revision}
