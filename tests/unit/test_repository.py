"""The repository keeps to what it says of itself."""

from __future__ import annotations

import re
import sys
import tomllib

import pytest
import yaml

import meshwright
from meshes import REPOSITORY, observed
from meshwright.api.meshinstall import MeshInstall
from meshwright.mesh.checks import first_finding

PACKAGE = REPOSITORY / "operator/meshwright"
ROOMS = ("api", "mesh", "render", "keys", "cluster", "controller", "cli", "probe")
FOLDERS = (
    "crds", "templates", "manifests", "operator", "tests/unit", "tests/property", "tests/api", "tests/e2e",
    "tests/testbed", "docs", "examples",
)  # fmt: skip
ARCHITECTURE = REPOSITORY / "docs/explanation/architecture.md"


def test_the_source_root_is_no_package() -> None:
    """The standard library has a module of that name, and would be hidden by ours."""
    assert not (REPOSITORY / "operator/__init__.py").exists()
    import operator

    assert operator.add(1, 2) == 3
    assert "operator" in sys.stdlib_module_names


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_of_the_plan_is_there(folder: str) -> None:
    assert (REPOSITORY / folder).is_dir()


def test_the_rooms_are_those_of_the_plan() -> None:
    found = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert found == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_it_is_for(room: str) -> None:
    assert (PACKAGE / room / "__init__.py").read_text().startswith('"""')


@pytest.mark.skipif(not ARCHITECTURE.exists(), reason="the page is not written yet")
def test_the_architecture_page_names_every_room() -> None:
    text = ARCHITECTURE.read_text() if ARCHITECTURE.exists() else ""
    assert [room for room in ROOMS if not re.search(rf"`(operator/meshwright/)?{room}/?`", text)] == []


def test_the_templates_of_the_package_are_those_of_the_repository() -> None:
    assert (PACKAGE / "templates").resolve() == REPOSITORY / "templates"


def test_every_module_says_what_it_is() -> None:
    for path in PACKAGE.rglob("*.py"):
        assert path.read_text().startswith('"""'), path


def test_one_version() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["version"] == meshwright.__version__
    kustomization = yaml.safe_load((REPOSITORY / "manifests/base/kustomization.yaml").read_text())
    assert [image["newTag"] for image in kustomization["images"]] == [meshwright.__version__]


@pytest.mark.parametrize("path", sorted((REPOSITORY / "examples").glob("*.yaml")), ids=lambda path: path.stem)
def test_an_example_is_one_that_we_accept(path: object) -> None:
    from pathlib import Path

    assert isinstance(path, Path)
    for document in yaml.safe_load_all(path.read_text()):
        if document and document["kind"] == "MeshInstall":
            assert first_finding(observed(MeshInstall.parse(document))) is None
