"""Fixtures of the receiver's tests: a site, and registries."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.receiver.peers import DockerRegistry, Fault, FaultyRegistry
from tests.receiver.site import Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "site")
    yield made
    made.journal.close()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[DockerRegistry]:
    """A docker-registry with an empty store."""
    folder = tmp_path / "registry"
    folder.mkdir()
    made = DockerRegistry(folder)
    made.start()
    yield made
    made.stop()


@pytest.fixture
async def faulty(tmp_path: Path) -> AsyncIterator[Callable[[Fault], Awaitable[FaultyRegistry]]]:
    """``await faulty(fault)`` starts the embedded registry with faults."""
    started: list[FaultyRegistry] = []

    async def start(fault: Fault) -> FaultyRegistry:
        started.append(FaultyRegistry(tmp_path / f"faulty-{len(started)}", fault))
        await started[-1].start()
        return started[-1]

    yield start
    for made in started:
        await made.close()
