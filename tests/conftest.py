"""What every test shares: how Hypothesis behaves on a busy machine, and a log that no earlier test has set up."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

# How fast a machine draws examples is no property of the code. A failing run prints the seed that repeats it.
settings.register_profile("checkvalve", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("checkvalve")


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    """Commands that a test runs in process set up logging for good, with a level that hides lines from the next."""
    yield
    structlog.reset_defaults()
