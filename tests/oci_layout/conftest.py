from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from oci.layout import Layout
from oci.server import serve
from tests.oci_layout.served import Client


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    layout = Layout(tmp_path / "layout")
    running = await serve(layout)
    async with aiohttp.ClientSession() as session:
        yield Client(running, layout, session)
    await running.close()
    assert not any((tmp_path / "layout").glob(".ingest/*"))
