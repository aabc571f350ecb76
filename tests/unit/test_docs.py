"""The documentation is true where a machine can tell: links, commands, verbs, rooms, and every MeshInstall shown."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshes import REPOSITORY
from meshwright.api.conditions import REASONS
from meshwright.api.meshinstall import KIND, MeshInstall
from meshwright.cli.main import parser
from meshwright.cli.render import meshes, objects
from meshwright.mesh.sizing import ROWS

PAGES = sorted(
    [
        *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        *(REPOSITORY / "docs").rglob("*.md"),
    ]
)
EXAMPLES = sorted((REPOSITORY / "examples").glob("*.yaml"))
ROOMS = sorted(path.parent.name for path in (REPOSITORY / "operator/meshwright").glob("*/__init__.py"))

FENCE = re.compile(r"^[ ]*```.*?^[ ]*```[ ]*$", re.MULTILINE | re.DOTALL)
YAML_BLOCK = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]+`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
TARGET = re.compile(r"(?:^[$#] |`|&& )make ([a-z][a-z0-9-]*)", re.MULTILINE)
VERB = re.compile(r"kubectl[ -]mesh ([a-z]+)")
# Of one machine, not of the project.
MACHINE = re.compile(r"/(?:work|root|tmp)/|/home/(?!kubernetes/)|\b127\.0\.0\.1\b|pypi\.org|proxy\.golang")


def name(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def prose(path: Path) -> str:
    """A page without its code blocks."""
    return FENCE.sub("", path.read_text())


def slugs(path: Path) -> set[str]:
    """The anchors of a page's headings, as they are made by GitHub."""
    headings = re.findall(r"^#+ +(.+?) *$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links() -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        yield from ((page, link) for link in LINK.findall(CODE.sub("", prose(page))) if "://" not in link)


def shown() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every MeshInstall that a reader could copy, with where it is."""
    for page in PAGES:
        for number, block in enumerate(YAML_BLOCK.findall(page.read_text()), start=1):
            documents = [each for each in yaml.safe_load_all(block) if isinstance(each, dict)]
            yield from ((f"{name(page)} block {number}", each) for each in documents if each.get("kind") == KIND)
    for path in EXAMPLES:
        yield from ((name(path), each) for each in yaml.safe_load_all(path.read_text()))


SHOWN = list(shown())


def test_there_is_something_to_check() -> None:
    assert len(PAGES) > 20
    assert len(EXAMPLES) >= 4
    assert len(SHOWN) > len(EXAMPLES)
    assert sum(1 for _ in links()) > 50


@pytest.mark.parametrize(
    ("page", "link"), list(links()), ids=lambda value: name(value) if isinstance(value, Path) else value
)
def test_a_link_leads_somewhere(page: Path, link: str) -> None:
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    assert target.is_relative_to(REPOSITORY.resolve())
    assert target.exists(), f"{name(page)} links to {link}"
    if anchor:
        assert anchor in slugs(target), f"{name(page)} links to {link}; there is {sorted(slugs(target))}"


@pytest.mark.parametrize("manifest", [each for _, each in SHOWN], ids=[where for where, _ in SHOWN])
def test_a_meshinstall_that_is_shown_renders(manifest: dict[str, Any]) -> None:
    kinds = [each["kind"] for each in objects(MeshInstall.parse(manifest), crds=False)]
    assert {"Deployment", "MutatingWebhookConfiguration", "PeerAuthentication"} <= set(kinds)


@pytest.mark.parametrize("path", EXAMPLES, ids=name)
def test_an_example_is_read_as_a_user_would_have_it_read(path: Path) -> None:
    assert len(list(meshes(str(path)))) == 1
    assert path.read_text().startswith("# ")  # says what it is for


def test_the_readme_shows_the_quick_start() -> None:
    (first,) = [each for where, each in SHOWN if where == "README.md block 1"]
    assert first == yaml.safe_load((REPOSITORY / "examples/quickstart.yaml").read_text())


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_make_target_that_is_named_exists(page: Path) -> None:
    known = set(re.findall(r"^([a-z0-9-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    assert set(TARGET.findall(page.read_text())) <= known


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_verb_that_is_named_exists(page: Path) -> None:
    subparsers = next(each for each in parser()._actions if isinstance(each, argparse._SubParsersAction))  # noqa: SLF001
    assert set(VERB.findall(page.read_text())) <= set(subparsers.choices)


@pytest.mark.parametrize("path", [*PAGES, *EXAMPLES], ids=name)
def test_nothing_of_one_machine_is_in_the_documentation(path: Path) -> None:
    assert not MACHINE.findall(path.read_text())


def test_the_architecture_names_every_room() -> None:
    text = (REPOSITORY / "docs/explanation/architecture.md").read_text()
    assert sorted(re.findall(r"^\| `([a-z]+)` \|", text, re.MULTILINE)) == ROOMS


def test_the_architecture_names_every_wave_in_its_order() -> None:
    text = (REPOSITORY / "docs/explanation/architecture.md").read_text()
    source = (REPOSITORY / "operator/meshwright/render/objects.py").read_text()
    waves = re.findall(r'Wave\(\s*"([a-z ]+)"', source)
    assert len(waves) == 11
    assert [row for row in re.findall(r"^ +\| ([a-z ]+?) \|", text, re.MULTILINE) if row != "wave"] == waves


def test_every_reason_is_on_the_troubleshooting_page() -> None:
    text = (REPOSITORY / "docs/how-to/troubleshoot.md").read_text()
    assert [reason for reason in REASONS if f"`{reason}`" not in text and reason != "Installed"] == []


def test_the_sizes_are_those_of_the_table() -> None:
    text = (REPOSITORY / "docs/how-to/sizes.md").read_text()
    for row in ROWS.values():
        line = next(each for each in text.splitlines() if each.startswith(f"| `{row.size}`"))
        limits = f"{row.cpu} CPU, {row.memory.replace('Gi', ' GiB')}"
        assert f"| less than {row.below_pods} | {row.replicas} | {limits} |" in line


def test_every_decision_is_listed() -> None:
    folder = REPOSITORY / "docs/adr"
    pages = sorted(path.name for path in folder.glob("[0-9]*.md"))
    assert re.findall(r"\]\((\d{4}-[a-z0-9-]+\.md)\)", (folder / "README.md").read_text()) == pages
    for page in pages:
        assert re.search(r"^Date: \d{4}-\d\d-\d\d\. Status: ", (folder / page).read_text(), re.MULTILINE), page


@pytest.mark.parametrize("example", ["two-clusters", "flat-network", "primary-remote"])
def test_the_meshes_of_the_page_about_clusters_are_the_examples(example: str) -> None:
    """Those of the page are what the tests on real clusters apply."""
    written = yaml.safe_load((REPOSITORY / f"examples/{example}.yaml").read_text())
    blocks = YAML_BLOCK.findall((REPOSITORY / "docs/how-to/clusters.md").read_text())
    assert written in [yaml.safe_load(each) for each in blocks]
