"""Edits are seen with the kernel's notices, before them, and without them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import watchfiles

from sender import edits
from sender.edits import Edits


@pytest.fixture(params=["notices", "nothing told", "no watch", "broken off"])
def notices(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    async def nothing_told(*_: Any, **__: Any) -> AsyncIterator[set[Any]]:
        await asyncio.sleep(60)
        yield set()

    def no_watch(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")  # what inotify says when there are too many watches

    async def broken_off(*_: Any, **__: Any) -> AsyncIterator[set[Any]]:
        yield set()
        raise ExceptionGroup("unhandled errors in a TaskGroup", [RuntimeError("the watched folder is gone")])

    ways = {"nothing told": nothing_told, "no watch": no_watch, "broken off": broken_off}
    if request.param in ways:
        monkeypatch.setattr(watchfiles, "awatch", ways[request.param])
        monkeypatch.setattr(edits, "RESCAN_S", 0.05)
    return str(request.param)


@pytest.mark.parametrize("how", ["written", "replaced", "removed", "touched"])
async def test_every_kind_of_edit_is_seen_and_told_once(notices: str, how: str, tmp_path: Path) -> None:
    path = tmp_path / "images.yaml"
    path.write_text("images: []\n")
    watched = Edits(path)
    task = asyncio.ensure_future(watched.watch())
    watched.reading()
    await asyncio.sleep(0.3)
    assert not watched.changed.is_set()
    match how:
        case "written":
            path.write_text("images: [a]\n")
        case "replaced":  # as editors do: same size, another file
            (tmp_path / "new").write_text("images: {}\n")
            (tmp_path / "new").replace(path)
        case "removed":
            path.unlink()
        case _:
            os.utime(path)
    await asyncio.wait_for(watched.changed.wait(), 10)
    watched.reading()
    await asyncio.sleep(0.3)
    assert not watched.changed.is_set()
    task.cancel()


async def test_an_edit_before_the_watch_began_is_seen(notices: str, tmp_path: Path) -> None:
    path = tmp_path / "images.yaml"
    path.write_text("images: []\n")
    watched = Edits(path)
    watched.reading()
    path.write_text("images: [a]\n")
    task = asyncio.ensure_future(watched.watch())
    await asyncio.wait_for(watched.changed.wait(), 10)
    task.cancel()


async def test_what_is_read_while_the_file_settles_is_no_edit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "images.yaml"
    path.write_text("images: []\n")
    watched = Edits(path)
    path.write_text("images: [a]\n")
    comparing = asyncio.ensure_future(watched._compare())
    await asyncio.sleep(0)
    watched.reading()
    await comparing
    assert not watched.changed.is_set()
