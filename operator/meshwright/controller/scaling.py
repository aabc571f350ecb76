"""Measures, decides, and writes down what is to be done. Nothing else is written here: the next look carries it out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from meshwright.api.errors import Conflict, MeshwrightError
from meshwright.api.meshaction import ActionSpec, ActionStatus, MeshAction
from meshwright.api.meshinstall import Size
from meshwright.api.scaling import Action, ReconnectStatus, RuleMode
from meshwright.cluster.client import Client, Manifest
from meshwright.cluster.kinds import EVENT, MESH_ACTION, NAMESPACE, SERVICE
from meshwright.cluster.together import together
from meshwright.controller import report
from meshwright.controller.joining import Site
from meshwright.mesh import reconnects, signals
from meshwright.mesh.desired import ControlPlane
from meshwright.mesh.evidence import Replies
from meshwright.mesh.health import own_istiod
from meshwright.mesh.objects import labels_of
from meshwright.mesh.observed import Cluster, Observed
from meshwright.mesh.quantity import parse
from meshwright.mesh.record import record
from meshwright.mesh.rules import frozen, rules_of
from meshwright.mesh.scaling import (
    PATIENCE_FOR_OOM,
    Clock,
    Look,
    Move,
    Question,
    Step,
    names,
    rfc3339,
    step,
)
from meshwright.mesh.scoping import Scene, places, proposal
from meshwright.mesh.signals import PODS, History, Limits, Reading
from meshwright.mesh.sizing import ROWS, Sizing, size_for, size_of

log = structlog.get_logger()

MANAGER = "meshwright-scaling"
KEPT = 50  # actions of a cluster that have ended


REMEMBERED = 6 * 60 * 4  # looks: six hours


@dataclass
class _Course:
    """What was seen of one cluster, and since when; and the looks of the last hours, for a plot."""

    history: History = field(default_factory=History)
    clocks: dict[Action, Clock] = field(default_factory=dict)
    points: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    def remember(self, look: Look, answer: Step) -> None:
        at = rfc3339(look.now)
        if not self.points or self.points[-1]["at"] != at:
            rules = {each.action: [each.value, each.threshold, each.state] for each in answer.verdicts}
            self.points.append({"at": at, "replicas": look.replicas, "pods": look.pods, "rules": rules})


class Scaling:
    """`client` is of the operator's own cluster, where the journal is; `instance` names this process in Events."""

    def __init__(self, client: Client, *, instance: str) -> None:
        self._client = client
        self._instance = instance
        self._courses: dict[tuple[str, str], _Course] = {}

    async def look(
        self, site: Site, observed: Observed, replies: Replies, *, proceed: Callable[[], None]
    ) -> tuple[report.Scaled, bool]:
        """What each rule says of a cluster, and whether something was written that is to be carried out now."""
        mesh, course = observed.mesh, self._courses.setdefault((observed.mesh.name, site.name), _Course())
        readouts = {each.pod: each.readout for each in replies.answers if each.readout}
        course.history = course.history.seen(readouts).of(site.cluster.istiod_pods)
        look = look_at(site, observed, course.history)
        question = Question(
            mesh=mesh.name, cluster=site.name, rules=rules_of(mesh.spec.scaling), look=look,
            clocks=dict(course.clocks),
            journal=tuple(_brief(each) for each in observed.journal if each.spec.cluster == site.name),
        )  # fmt: skip
        answer = step(question)
        course.clocks = dict(answer.clocks)
        course.remember(look, answer)
        if advice := [each for each in answer.new if each.action not in (Action.RESIZE, Action.ADD_REPLICA)]:
            scene = await self._scene(site, observed, course.history)
            texts = {each.action: proposal(each.action, scene, pods=look.pods) for each in advice}
            new = tuple(each.model_copy(update={"proposal": texts.get(each.action)}) for each in answer.new)
            acted = await self._write(question, answer, new, observed, proceed)
        else:
            acted = await self._write(question, answer, answer.new, observed, proceed)
        await self._prune(question, proceed)
        return _scaled(look, answer, site.plane, course.history), acted

    def remembered(self) -> list[dict[str, Any]]:
        """Of each cluster of each mesh, the looks of the last hours, oldest first."""
        return [
            {"mesh": mesh, "cluster": cluster, "points": list(course.points)}
            for (mesh, cluster), course in sorted(self._courses.items())
        ]

    def forget(self, mesh: str) -> None:
        self._courses = {key: course for key, course in self._courses.items() if key[0] != mesh}

    async def _scene(self, site: Site, observed: Observed, history: History) -> Scene:
        """Looked at only when something new is advised."""
        names = site.plane.names
        services, namespaces = await together(
            site.member.client.list(SERVICE, metadata_only=True), site.member.reader.list(NAMESPACE, metadata_only=True)
        )
        sizes = [looks[-1].config_bytes for looks in history.looks.values() if looks]
        return Scene(
            mesh=observed.mesh.name,
            namespace=names.namespace,
            cluster=site.name,
            places=places(
                (each["metadata"]["namespace"] for each in services),
                site.cluster.proxy_namespaces,
                {each["metadata"]["name"]: labels_of(each) for each in namespaces},
                revision=names.revision,
            ),
            gateways=frozenset(each.namespace for each in site.plane.gateways),
            config_bytes=max(sizes, default=0.0),
        )

    async def _write(
        self, question: Question, answer: Step, new: Sequence[ActionSpec], observed: Observed,
        proceed: Callable[[], None],
    ) -> bool:  # fmt: skip
        """The journal first. An action that is there already was written before a crash: it is gone on with."""
        journal = {each.name: each for each in question.journal}
        now = rfc3339(question.look.now)
        for move in answer.moves:
            proceed()
            await self._client.apply(MESH_ACTION, _status(move.name, move, now), field_manager=MANAGER,
                                     subresource="status")  # fmt: skip
            await self._tell(observed, journal[move.name].spec, f"{move.phase}: {move.message}")
        for name, spec in zip(names(new), new, strict=True):
            proceed()
            action = MeshAction(name=name, spec=spec.model_copy(update={"record": record(question, answer)}))
            try:
                await self._client.create(
                    MESH_ACTION, action.manifest(owner_uid=observed.mesh.uid), field_manager=MANAGER
                )
            except Conflict:
                continue
            carried_out = spec.action in (Action.RESIZE, Action.ADD_REPLICA) and spec.mode is RuleMode.ENFORCE
            text = "written down; it is carried out next" if carried_out else "nothing is changed: it is advice"
            begun = Move(name, action.phase, text)
            await self._client.apply(MESH_ACTION, _status(name, begun, now), field_manager=MANAGER,
                                     subresource="status")  # fmt: skip
            await self._tell(observed, spec, spec.reason)
        return bool(answer.new or answer.moves)

    async def _prune(self, question: Question, proceed: Callable[[], None]) -> None:
        ended = [each for each in question.journal if each.ended]
        for each in ended[: max(len(ended) - KEPT, 0)]:
            proceed()
            await self._client.delete(MESH_ACTION, {"metadata": {"name": each.name, "uid": each.uid}})

    async def _tell(self, observed: Observed, spec: ActionSpec, text: str) -> None:
        note = f"cluster {spec.cluster}: {text}"
        log.info("scaling", mesh=spec.mesh, cluster=spec.cluster, action=spec.action, mode=spec.mode, message=text)
        event = report.note(
            observed.mesh, reason=spec.action, text=note, now=observed.now, reporter=self._instance, action="Scale"
        )
        try:
            await self._client.create(EVENT, event, field_manager=MANAGER)
        except MeshwrightError as error:  # the MeshAction says the same
            log.warning("event not written", mesh=spec.mesh, error=str(error))


def look_at(site: Site, observed: Observed, history: History) -> Look:
    """What the rules rest on, from what was read and measured."""
    plane, cluster, spec = site.plane, site.cluster, observed.mesh.spec
    istiod, now = own_istiod(cluster, plane.names), observed.now
    limits = plane.sizing.share.limits
    measured = signals.read(
        history, cluster.istiod_pods, Limits(float(parse(limits.cpu)), float(parse(limits.memory))), now=now
    )
    asked = spec.control_plane
    refused = plane.resize.refused
    killed = [pod for pod, at in cluster.killed if now - at < PATIENCE_FOR_OOM]
    return Look(
        now=now,
        pods=cluster.enrolled,
        proxies=cluster.proxies,
        replicas=istiod.replicas if istiod else 0,
        base=plane.base,
        settled=_is_settled(plane, cluster),
        readings=measured | {PODS: Reading(float(cluster.enrolled))},
        size=plane.sizing.size,
        demanded=demanded(cluster.enrolled, observed),
        fixed=asked.size is not Size.AUTO,
        most=(asked.autoscaling.max_replicas or 0) if asked.autoscaling.enabled else 0,
        foreign_autoscaler=cluster.autoscaled,
        killed=killed[0] if killed else "",
        memory=limits.memory,
        memory_used=max((looks[-1].memory for looks in history.looks.values() if looks), default=0.0),
        refused=refused.message if refused else "",
        refused_size=refused.size if refused else None,
        refused_memory=str(refused.resources.limits.memory or "") if refused else "",
        trouble=next((f"pod {each.pod}: {each.reason}" for each in cluster.troubles), ""),
        frozen=frozen(spec.scaling.freezes, now),
    )


def demanded(pods: int, observed: Observed) -> Size:
    """The size for so many pods, or the next that lets them reconnect in time."""
    override, rows = observed.mesh.spec.control_plane.resources, list(ROWS)
    first = rows.index(size_for(pods))
    sizes: list[Sizing] = [size_of(row, override) for row in rows[first:]]
    return next((each.size for each in sizes if reconnects.is_bearable(pods, each)), rows[first])


def _is_settled(plane: ControlPlane, cluster: Cluster) -> bool:
    istiod = own_istiod(cluster, plane.names)
    if istiod is None or not istiod.rolled_out:
        return False
    lowest = plane.bounds.minimum if plane.bounds else plane.sizing.replicas
    return istiod.replicas >= lowest and plane.sizing.share.is_that_of(istiod.resources)


def _brief(action: MeshAction) -> MeshAction:
    """Without what it was decided by, which would be in the next record, and so on."""
    spec = action.spec.model_copy(update={"record": "", "proposal": None})
    return action.model_copy(update={"spec": spec})


def _status(name: str, move: Move, now: str) -> Manifest:
    status = ActionStatus(phase=move.phase, since=now, message=move.message[: report.MESSAGE_LIMIT])
    head: dict[str, Any] = {"apiVersion": MESH_ACTION.api_version, "kind": MESH_ACTION.kind, "metadata": {"name": name}}
    return head | {"status": status.model_dump(mode="json", by_alias=True, exclude_none=True)}


def _scaled(look: Look, answer: Step, plane: ControlPlane, history: History) -> report.Scaled:
    cores = float(parse(plane.sizing.share.limits.cpu))
    lost, restart = (
        reconnects.after_one_lost(look.proxies, look.replicas, cores),
        reconnects.after_restart(look.proxies, look.replicas, cores),
    )
    return report.Scaled(
        verdicts=answer.verdicts,
        next_size=next_size(look),
        estimate=estimate(look, plane, history),
        reconnects=ReconnectStatus(one_replica=f"{lost:.1f}s", restart=f"{restart:.1f}s"),
    )


def next_size(look: Look) -> str:
    row, rows = ROWS[look.size], list(ROWS.values())
    larger = rows[rows.index(row) + 1 :]
    then = f"{larger[0].size} from {row.below_pods} pods on" if larger else f"none: one cluster is for {row.below_pods}"
    return f"{look.pods} pods in the mesh; next size: {then}" + (" (the size is set by hand)" if look.fixed else "")


def estimate(look: Look, plane: ControlPlane, history: History) -> str:
    """What istiod needs by what it uses, with room: CPU to 60 %, memory to 70 % of a limit."""
    cpu, memory = look.readings[signals.CPU], look.readings[signals.MEMORY]
    if cpu.missing or memory.missing or not history.looks:
        return ""
    limits = plane.sizing.share.limits
    cores = cpu.value / 100 * float(parse(limits.cpu)) / 0.6
    mebibytes = look.memory_used / 2**20 / 0.7
    return (
        f"by what it uses now, each replica needs {max(cores * 1000, 10):.0f}m CPU and {mebibytes:.0f}Mi;"
        f" it may use {limits.cpu} CPU and {limits.memory}"
    )
