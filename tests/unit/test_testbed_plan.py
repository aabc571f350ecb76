"""The address plan of the test bed: no two things share an address."""

from __future__ import annotations

import ipaddress
import itertools

import pytest

from testbed.console import TestbedError
from testbed.plan import BEDS, CLUSTERS, NODES, SERVICE_CIDR, plan_bed, routes


def test_addresses_and_networks_of_a_bed_do_not_overlap() -> None:
    bed = plan_bed("demo", 3, clusters=CLUSTERS, nodes=NODES)
    networks = [ipaddress.ip_network(SERVICE_CIDR)]
    networks += [ipaddress.ip_network(node.pod_cidr) for node in bed.nodes]
    networks += [ipaddress.ip_network(cluster.load_balancer_cidr) for cluster in bed.clusters]
    networks += [ipaddress.ip_network(node.address) for node in bed.nodes]
    networks += [ipaddress.ip_network(bed.host_address)]
    assert not [pair for pair in itertools.combinations(networks, 2) if pair[0].overlaps(pair[1])]


def test_node_pod_networks_lie_in_their_clusters() -> None:
    for cluster in plan_bed("demo", 0, clusters=CLUSTERS, nodes=NODES).clusters:
        whole = ipaddress.IPv4Network(cluster.pod_cidr)
        assert all(ipaddress.IPv4Network(node.pod_cidr).subnet_of(whole) for node in cluster.nodes)


def test_beds_have_interfaces_and_addresses_of_their_own() -> None:
    beds = [plan_bed("demo", index, clusters=CLUSTERS, nodes=NODES) for index in range(BEDS)]
    interfaces = [node.host_interface for bed in beds for node in bed.nodes] + [bed.bridge for bed in beds]
    addresses = [node.address for bed in beds for node in bed.nodes] + [bed.host_address for bed in beds]
    assert len(set(interfaces)) == len(interfaces)
    assert len(set(addresses)) == len(addresses)
    assert max(map(len, interfaces)) <= 15  # what the kernel takes


def test_routes_stay_in_the_cluster_unless_the_bed_is_flat() -> None:
    apart = plan_bed("demo", 0, clusters=2, nodes=2)
    assert routes(apart, apart.clusters[0], apart.nodes[0]).via == (("10.232.2.0/24", "10.231.0.12"),)
    assert routes(apart, apart.clusters[0], apart.nodes[0]).unmasked == ("10.232.0.0/16",)
    flat = plan_bed("demo", 0, clusters=2, nodes=2, flat=True)
    assert routes(flat, flat.clusters[0], flat.nodes[0]).via == (
        ("10.232.2.0/24", "10.231.0.12"),
        ("10.233.1.0/24", "10.231.0.21"),
        ("10.233.2.0/24", "10.231.0.22"),
    )
    assert routes(flat, flat.clusters[0], flat.nodes[0]).unmasked == ("10.232.0.0/16", "10.233.0.0/16")


@pytest.mark.parametrize("name", ["", "Demo", "a b", "../etc", "-a", "a-", "x" * 21])
def test_names_that_cannot_be_folders_and_node_names_are_refused(name: str) -> None:
    with pytest.raises(TestbedError, match="cannot name a bed"):
        plan_bed(name, 0)


@pytest.mark.parametrize(("clusters", "nodes"), [(0, 1), (4, 1), (1, 0), (1, 3)])
def test_sizes_outside_the_plan_are_refused(clusters: int, nodes: int) -> None:
    with pytest.raises(TestbedError, match="not"):
        plan_bed("demo", 0, clusters=clusters, nodes=nodes)
