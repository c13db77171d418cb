"""A receiver's site, its command line and a docker-registry; and logs that do not get into what commands print."""

from __future__ import annotations

import pytest

from runtime import logs
from tests.receiver.conftest import cli, registry, site

__all__ = ["cli", "registry", "site"]


@pytest.fixture(autouse=True)
def quiet() -> None:
    logs.configure("json", "error")
