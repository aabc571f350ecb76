"""Which endpoints come first: those of the same zone and region, unless `spec.locality` says otherwise.

Regions and zones are those of the nodes' labels `topology.kubernetes.io/region` and `…/zone`; istiod reads them itself.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from meshwright.api.meshinstall import LocalityDistribute, LocalityFailover, MeshSpec
from meshwright.mesh.gateways import gateway_addresses
from meshwright.mesh.observed import Cluster

REGION = re.compile(r"[A-Za-z0-9._-]+")
LOCALITY = re.compile(r"\*|[A-Za-z0-9._-]+(/(\*|[A-Za-z0-9._-]+)){0,2}")
WHOLE = 100  # percent


def mesh_config(spec: MeshSpec) -> dict[str, Any]:
    """The part of MeshConfig that `spec.locality` stands for; empty when it is unset, as Istio has it then."""
    if (locality := spec.locality) is None:
        return {}
    setting: dict[str, Any] = {"enabled": locality.enabled}
    if locality.failover:
        setting["failover"] = [{"from": each.source, "to": each.to} for each in locality.failover]
    if locality.distribute:
        setting["distribute"] = [{"from": each.source, "to": dict(each.to)} for each in locality.distribute]
    return {"localityLbSetting": setting}


def ejects(spec: MeshSpec) -> bool:
    """Whether endpoints that fail are ejected everywhere: without that, no endpoint of another region is ever used as
    long as one of the own is listed, and istiod says nothing of it.
    """
    return spec.locality is not None and spec.locality.enabled


def problems(spec: MeshSpec) -> list[str]:
    """What Istio would refuse or silently not do, by field."""
    if (locality := spec.locality) is None:
        return []
    both = (
        "spec.locality: failover and distribute exclude each other: distribute says where traffic goes at any time, so"
        " remove one of the two"
    )
    clash = [both] if locality.failover and locality.distribute else []
    return [*clash, *_failover(locality.failover), *_distribute(locality.distribute)]


def _failover(rules: Sequence[LocalityFailover]) -> Iterator[str]:
    for name, count in Counter(each.source for each in rules).items():
        if count > 1:
            yield f"spec.locality.failover: {name} is in `from` {count} times: a region has one to fail over to"
    for number, rule in enumerate(rules):
        path = f"spec.locality.failover[{number}]"
        for field, name in (("from", rule.source), ("to", rule.to)):
            if not REGION.fullmatch(name):
                yield f"{path}.{field}: {name!r} is no region: write it as the nodes' label has it, without zone"
        if rule.source == rule.to:
            yield f"{path}: {rule.to} cannot fail over to itself: name another region"


def _distribute(rules: Sequence[LocalityDistribute]) -> Iterator[str]:
    for number, rule in enumerate(rules):
        path = f"spec.locality.distribute[{number}]"
        for name in (rule.source, *rule.to):
            if not LOCALITY.fullmatch(name):
                yield f"{path}: {name!r} is no locality: write REGION, REGION/ZONE or REGION/ZONE/SUBZONE; * is all"
        if (total := sum(rule.to.values())) != WHOLE:
            yield f"{path}.to: the weights make {total}, not {WHOLE}: correct them"


def notes(spec: MeshSpec, clusters: Iterable[Cluster]) -> Iterator[str]:
    """What is as declared, and yet worth knowing."""
    if not ejects(spec) or len(spec.members) == 1:
        return
    lone = [each.name for each in clusters if len(gateway_addresses(spec, each)) == 1]
    if lone:
        yield (
            f"the east-west gateway of {' and '.join(sorted(lone))} has one address: where that is ejected for its"
            " errors, the whole cluster is, for half a minute; give it a second one"
        )
