"""The interfaces of a bed in the host's network namespace: a bridge with an address, and one veth a node."""

from __future__ import annotations

import ipaddress
import json
from contextlib import suppress
from typing import Any

from .console import TestbedError, run
from .plan import INTERFACE_PREFIX, BedPlan, NodePlan

_ALIAS = "meshwright-testbed/"


def create_bridge(bed: BedPlan) -> None:
    run(["ip", "link", "add", bed.bridge, "type", "bridge", "forward_delay", "0"])
    run(["ip", "link", "set", bed.bridge, "alias", _ALIAS + bed.name])
    run(["ip", "address", "add", f"{bed.host_address}/24", "dev", bed.bridge])
    run(["ip", "link", "set", bed.bridge, "up"])


def attach(bed: BedPlan, node: NodePlan, pid: int) -> None:
    """Gives the network namespace of `pid` an eth0 on the bridge; the kernel removes both ends with it."""
    run(["ip", "link", "add", node.host_interface, "type", "veth", "peer", "name", "eth0", "netns", str(pid)])
    run(["ip", "link", "set", node.host_interface, "alias", _ALIAS + bed.name, "master", bed.bridge, "up"])


def remove(bed: BedPlan) -> None:
    present = {link["ifname"] for link in _links()}
    for name in (*(node.host_interface for node in bed.nodes), bed.bridge):
        if name in present:
            with suppress(TestbedError):  # gone in the meantime with its namespace
                run(["ip", "link", "delete", name])


def existing(bed: str | None = None) -> list[tuple[str, str]]:
    """(bed, interface) of every interface of a bed, or of all."""
    found = []
    for link in _links():
        owner = str(link.get("ifalias", "")).removeprefix(_ALIAS)
        if link["ifname"].startswith(INTERFACE_PREFIX) and (bed is None or owner == bed):
            found.append((owner, str(link["ifname"])))
    return found


def taken(subnet: str) -> bool:
    """Whether the machine has a route into the network already: a bed must not hide it."""
    wanted = ipaddress.ip_network(subnet)
    routes: list[dict[str, Any]] = json.loads(run(["ip", "-json", "-4", "route", "show", "table", "all"]) or "[]")
    for route in routes:
        destination = str(route["dst"])
        if destination != "default" and wanted.overlaps(ipaddress.ip_network(destination, strict=False)):
            return True
    return False


def _links() -> list[dict[str, Any]]:
    links: list[dict[str, Any]] = json.loads(run(["ip", "-json", "link", "show"]) or "[]")
    return [link for link in links if link.get("ifname")]
