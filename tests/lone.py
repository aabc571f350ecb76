"""The members of a mesh that has only the operator's own cluster."""

from __future__ import annotations

from typing import Any

from meshes import NOW
from meshwright.cluster.kubeconfig import Access
from meshwright.controller.members import Member, Members

OPERATOR_NAMESPACE = "meshwright-system"


def alone(client: Any, reader: Any = None) -> Members:
    """Whoever asks for another cluster gets an error."""

    def nobody(_: Access | Any) -> Any:
        raise AssertionError("this mesh has one cluster")

    return Members(
        Member(client, reader or client), namespace=OPERATOR_NAMESPACE, connect=nobody, reflect=nobody,
        changed=lambda: None, now=lambda: NOW,
    )  # fmt: skip
