"""One cluster for all end-to-end tests, with the operator installed as a user would install it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from e2e.inventory import inventory
from testbed import backends
from testbed.backends import Backend
from testbed.product import ROOT, Product

Manifest = dict[str, Any]
QUICKSTART = ROOT / "examples/quickstart.yaml"


@pytest.fixture(scope="session")
def backend() -> Iterator[Backend]:
    chosen = backends.choose("e2e", nodes=2)
    chosen.up()
    try:
        yield chosen
    finally:
        chosen.down()


@pytest.fixture(scope="session")
def before(backend: Backend) -> set[str]:
    """What there was in the cluster before anything of ours."""
    return inventory(Product(backend))


@pytest.fixture(scope="session")
def product(backend: Backend, before: set[str]) -> Product:
    product = Product(backend)
    product.install()
    return product


@pytest.fixture(scope="session")
def quickstart(product: Product) -> Manifest:
    """The README's MeshInstall, with what the back end's data plane needs."""
    return product.mesh(yaml.safe_load(QUICKSTART.read_text()))


@pytest.fixture(scope="session")
def mesh(product: Product, quickstart: Manifest) -> str:
    """The name of a mesh that is Ready."""
    product.apply(quickstart)
    name: str = quickstart["metadata"]["name"]
    product.wait_ready(name)
    return name
