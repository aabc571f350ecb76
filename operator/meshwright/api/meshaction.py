"""`meshactions.meshwright.dev/v1alpha1`: one scaling action, written down before it is carried out.

People read them (`kubectl get meshactions`); the operator writes them. What was decided never changes afterwards; how
far it came is the status.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError

from meshwright.api.meshinstall import API_VERSION, GROUP, LABEL_MESH, Quantity, Size
from meshwright.api.model import Model, rules
from meshwright.api.scaling import Action, Moment, RuleMode, Text

KIND = "MeshAction"
PLURAL = "meshactions"
LABEL_CLUSTER = f"{GROUP}/cluster"

RECORD_LIMIT = 32 << 10  # bytes


class Phase(StrEnum):
    """How far an action came."""

    ACTING = "Acting"
    VERIFYING = "Verifying"
    VERIFIED = "Verified"
    INEFFECTIVE = "Ineffective"
    UNDOING = "Undoing"
    UNDONE = "Undone"
    FAILED = "Failed"
    RECOMMENDED = "Recommended"
    WITHDRAWN = "Withdrawn"
    DONE = "Done"


IN_FLIGHT = (Phase.ACTING, Phase.VERIFYING, Phase.UNDOING)
IN_FORCE = (Phase.ACTING, Phase.VERIFYING, Phase.VERIFIED, Phase.INEFFECTIVE)
ENDED = (Phase.UNDONE, Phase.FAILED, Phase.WITHDRAWN, Phase.DONE)


class Shape(Model):
    """istiod as an action found it, or makes it; what it does not touch is unset."""

    replicas: Annotated[StrictInt, Field(ge=0, le=1000)] | None = None
    """Replicas at least."""
    max_replicas: Annotated[StrictInt, Field(ge=0, le=1000)] | None = None
    """Replicas at most."""
    size: Size | None = None
    """Row of the table of sizes."""
    memory: Quantity | None = None
    """Memory limit of each replica."""


class Evidence(Model):
    signal: Text
    """What was measured."""
    value: float | None = None
    """What it was when that was decided."""
    threshold: float
    """Above which value the rule acts."""
    unit: Annotated[str, Field(max_length=32)] = ""
    """Unit of both."""
    since: Moment
    """Since when it was above."""
    pods: StrictInt
    """Pods in the mesh of the cluster."""
    replicas: StrictInt
    """Replicas of istiod that were asked."""


class ActionSpec(Model):
    model_config = ConfigDict(json_schema_extra=rules(
        ("self == oldSelf", "what was decided is never changed: delete the MeshAction to have it decided anew"),
    ))  # fmt: skip

    mesh: Annotated[str, Field(max_length=63)]
    """The MeshInstall."""
    cluster: Annotated[str, Field(max_length=63)]
    """The member cluster."""
    action: Action
    """What is done, or recommended."""
    mode: RuleMode
    """Whether it is carried out."""
    decided: Moment
    """When."""
    reason: Text
    """Why, in a sentence."""
    evidence: Evidence
    """What it rests on."""
    before: Shape = Shape()
    """istiod as it was."""
    after: Shape = Shape()
    """istiod as the action makes it."""
    undo: Text = ""
    """When and how it is undone."""
    proposal: Annotated[str, Field(max_length=64 << 10)] | None = None
    """Of a recommendation: the object to write, as YAML, below what it would change for whom."""
    record: Annotated[str, Field(max_length=RECORD_LIMIT)] = ""
    """All that the decision rests on, and the decision, as JSON: `kubectl mesh replay` decides it again."""


class ActionStatus(Model):
    phase: Phase | None = None
    """`Acting`, `Verifying`, then `Verified` or `Ineffective`; `Undoing`, `Undone`; `Done` (it stays); `Failed`; of a
    recommendation `Recommended`, `Withdrawn`."""
    since: Moment | None = None
    """When it came to that phase."""
    message: Text = ""
    """What was seen."""


class MeshAction(BaseModel):
    """A MeshAction as it was read."""

    model_config = ConfigDict(frozen=True)

    name: str
    uid: str = ""
    resource_version: str = ""
    spec: ActionSpec
    status: ActionStatus = ActionStatus()

    @classmethod
    def parse(cls, manifest: dict[str, Any]) -> Self | None:
        """None for one that an older or newer Meshwright wrote in another shape."""
        metadata = manifest["metadata"]
        try:
            return cls(
                name=metadata["name"],
                uid=metadata.get("uid", ""),
                resource_version=metadata.get("resourceVersion", ""),
                spec=ActionSpec.model_validate(manifest.get("spec") or {}),
                status=ActionStatus.model_validate(manifest.get("status") or {}),
            )
        except ValidationError:
            return None

    def manifest(self, *, owner_uid: str) -> dict[str, Any]:
        """To create it with. It goes when its MeshInstall goes."""
        owner = {"apiVersion": API_VERSION, "kind": "MeshInstall", "name": self.spec.mesh, "uid": owner_uid}
        return {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {
                "name": self.name,
                "labels": {LABEL_MESH: self.spec.mesh, LABEL_CLUSTER: self.spec.cluster},
                "ownerReferences": [owner],
            },
            "spec": self.spec.model_dump(mode="json", by_alias=True, exclude_none=True),
        }

    @property
    def phase(self) -> Phase:
        """Also of one whose status was not written yet."""
        if self.status.phase:
            return self.status.phase
        if self.spec.mode is RuleMode.RECOMMEND:
            return Phase.RECOMMENDED
        return Phase.VERIFIED if self.spec.action is Action.MULTI_CLUSTER_REQUIRED else Phase.ACTING

    @property
    def in_force(self) -> bool:
        return self.spec.mode is RuleMode.ENFORCE and self.phase in IN_FORCE

    @property
    def in_flight(self) -> bool:
        return self.spec.mode is RuleMode.ENFORCE and self.phase in IN_FLIGHT

    @property
    def ended(self) -> bool:
        return self.phase in ENDED
