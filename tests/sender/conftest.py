"""A sender's folder in a temp directory, and upstreams for it: the embedded registry, docker-registry, bad ones."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from oci.layout import Layout
from oci.server import RunningServer
from oci.server import serve as serve_layout
from protocol.release import ReleaseImage, parse_images
from runtime import keys
from runtime.settings import load_settings
from sender.config import SenderSettings
from sender.decisions import Decisions
from sender.journal import QueuedObject, SenderJournal
from sender.pipeline import Pipeline
from tests.oci.conftest import locked_registry, registry_data, registry_host, serve  # noqa: F401 - fixtures
from tests.support.certificates import self_signed

REPOSITORY_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Outcome:
    """What a round came to."""

    ready: int
    failed: int
    objects: int
    proposed: bool


@dataclass
class Site:
    """One sender: its settings, images.yaml and journal."""

    folder: Path
    registries: dict[str, dict[str, Any]] = field(default_factory=dict)
    fetch: dict[str, Any] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    @property
    def config(self) -> Path:
        return self.folder / "sender.yaml"

    @property
    def images(self) -> Path:
        return self.folder / "images.yaml"

    def write(self, *entries: object, **top: Any) -> Path:
        """Write both files; entries are those of images.yaml."""
        document = {
            "state": "state",
            "images": "images.yaml",
            "signing_key": "keys/sender.pem",
            "receivers": ["keys/receiver.pub"],
            "link": {"to": "127.0.0.1:9", "rate": "1Gbit"},
            "fetch": {"registries": self.registries, **self.fetch},
            **top,
        }
        self.config.write_text(json.dumps(document))  # JSON is YAML
        self.list(*entries)
        return self.config

    def list(self, *entries: object) -> None:
        lines = ["images:", *(f"  - {json.dumps(entry)}" for entry in entries)]
        temp = self.images.with_suffix(".new")
        temp.write_text("\n".join(lines) + "\n")
        temp.replace(self.images)

    def settings(self) -> SenderSettings:
        return load_settings(self.config, SenderSettings)

    def journal(self) -> SenderJournal:
        return SenderJournal(self.settings().journal)

    async def round(self) -> Outcome:
        """One round in this process; what it reports is in ``said``."""
        self.said.clear()
        journal = self.journal()
        try:
            async with Pipeline(self.settings(), journal, self.said.append) as pipeline:
                await pipeline.round()
                fetcher = pipeline.fetcher
                return Outcome(len(fetcher.ready), pipeline.failed, fetcher.objects, pipeline.proposed)
        finally:
            journal.close()

    def proposal(self, collection: str = "default") -> tuple[ReleaseImage, ...]:
        journal = self.journal()
        found = Decisions(journal).proposal(collection)
        journal.close()
        assert found is not None
        return parse_images(json.loads(found.images))

    def queue(self) -> list[QueuedObject]:
        journal = self.journal()
        found = journal.queue()
        journal.close()
        return found

    def states(self) -> dict[str, str]:
        journal = self.journal()
        found = {row["reference"].partition("@")[0]: row["state"] for row in journal.images()}
        journal.close()
        return found

    def argv(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "sender", *arguments, "--config", str(self.config)]

    async def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run a command as a process of its own: exit code, stdout, stderr."""
        process = await asyncio.create_subprocess_exec(
            *self.argv(*arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
            cwd=self.folder,
        )
        out, err = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CHECKVALVE")}
    return {**kept, "PYTHONPATH": str(REPOSITORY_ROOT), "DOCKER_CONFIG": "/nonexistent"}


@pytest.fixture(autouse=True)
def no_logins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", "/nonexistent")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    folder = tmp_path / "site"
    keys.create_signing_key(folder / "keys" / "sender.pem")
    keys.create_hpke_key(folder / "keys" / "receiver.pem")
    return Site(folder)


Upstream = Callable[..., Awaitable[tuple[Layout, str]]]


@pytest.fixture
async def upstream(tmp_path: Path) -> AsyncIterator[Upstream]:
    """``layout, host = await upstream(**options of oci.server.serve)``."""
    running: list[RunningServer] = []

    async def start(**options: Any) -> tuple[Layout, str]:
        layout = Layout(tmp_path / f"upstream-{len(running)}")
        server = await serve_layout(layout, **options)
        running.append(server)
        return layout, f"127.0.0.1:{server.port}"

    yield start
    for server in running:
        await server.close()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """A certificate for 127.0.0.1 that no system trusts, and a server context with it."""
    public, private = self_signed(tmp_path_factory.mktemp("tls"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(public, private)
    return public, context
