"""Every object of a cluster, whatever its kind."""

from __future__ import annotations

import json

from testbed.product import Product

# What moves by itself, on a cluster where nobody does anything.
RESTLESS = ("events", "events.events.k8s.io", "componentstatuses")
# What controllers make of something else, and take away with it.
DERIVED = ("apiservices", "endpoints", "endpointslices", "replicasets", "pods", "controllerrevisions", "ipaddresses")


def inventory(product: Product) -> set[str]:
    """As `Kind namespace/name`, of every kind that can be listed."""
    found: set[str] = set()
    kinds = product.kubectl("api-resources", "--verbs=list", "--output=name").split()
    for kind in kinds:
        if kind in RESTLESS or kind.partition(".")[0] in DERIVED or kind.endswith("metrics.k8s.io"):
            continue
        for item in json.loads(product.kubectl("get", kind, "-A", "--output=json"))["items"]:
            metadata = item["metadata"]
            found.add(f"{item['kind']} {metadata.get('namespace', '')}/{metadata['name']}")
    return found
