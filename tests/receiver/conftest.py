"""Fixtures of the receiver's tests: a site, and registries."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from receiver.cli import main
from runtime.keys import create_signing_key
from tests.oci_layout.images import Image, single_image
from tests.receiver.nodes import Containerd
from tests.receiver.peers import DockerRegistry, Fault, FaultyRegistry
from tests.receiver.site import Cli, Site, release_image


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
def containerd(tmp_path: Path) -> Iterator[Containerd]:
    """A node's containerd with an empty store."""
    folder = tmp_path / "node"
    folder.mkdir()
    made = Containerd(folder)
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


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """``cli("status", "--json")`` -> (exit code, stdout, stderr)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["checkvalve-receiver", *map(str, arguments)])
        try:
            code: Any = main()
        except SystemExit as end:
            code = end.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def made(tmp_path: Path, cli: Cli) -> Path:
    """A folder that init made, with a sender's key."""
    create_signing_key(tmp_path / "sender.pem")
    assert cli("init", tmp_path / "high", "--sender", tmp_path / "sender.pub")[0] == 0
    return tmp_path / "high"


@pytest.fixture
def two(site: Site) -> tuple[Image, Image]:
    """Release 1 has an image that release 2 replaces by another."""
    one, other = single_image("one"), single_image("other")
    site.fill(one, other)
    site.release(release_image("docker.io/library/nginx", ["1"], one))
    return one, other
