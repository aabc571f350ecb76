"""One profile for all: reproducible in CI, and no deadline, because machines are shared."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "meshwright", max_examples=150, deadline=None, derandomize=True, print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)  # fmt: skip
settings.load_profile("meshwright")
