"""Every example is what the API server takes, to the letter."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from api.world import Cluster

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_accepted(cluster: Cluster, example: Path) -> None:
    for manifest in yaml.safe_load_all(example.read_text()):
        stored = cluster.create(manifest, "dryRun=All&fieldValidation=Strict").body
        assert stored["spec"]["version"] == manifest["spec"]["version"]
