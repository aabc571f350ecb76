"""Clusters that join, renew and leave, with the operator killed at many more of its writes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from api.world import short_istio_api
from unit.test_controller_joining import STORIES, Story, assert_same_end

KILLS = 10


@pytest.fixture(autouse=True)
def _short() -> Iterator[None]:
    with short_istio_api():
        yield


@pytest.mark.parametrize("story", STORIES, ids=[each.__name__ for each in STORIES])
def test_whenever_the_operator_dies_the_end_is_the_same(story: Story) -> None:
    assert_same_end(story, kills=KILLS)
