"""Edits of one file, seen at once where the kernel tells of them, and within a second in any case.

The kernel tells nothing of an edit before its watch began, nor of any on some file systems.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import structlog
import watchfiles

RESCAN_S: Final = 1.0
SETTLE_S: Final = 0.1  # editors write a file in several steps

log = structlog.get_logger()


class Edits:
    """Sets ``changed`` when the file at *path* is not what :meth:`reading` last saw."""

    def __init__(self, path: Path) -> None:
        self.changed = asyncio.Event()
        self._path = path
        self._seen = _stamp(path)

    def reading(self) -> None:
        """Say that the file is read from now on."""
        self.changed.clear()
        self._seen = _stamp(self._path)

    async def watch(self) -> None:
        """Watch until cancelled."""
        told = False
        while True:
            try:
                async for _ in watchfiles.awatch(
                    self._path.parent,
                    watch_filter=lambda _, name: name == str(self._path),
                    recursive=False,
                    rust_timeout=int(RESCAN_S * 1000),
                    yield_on_timeout=True,
                ):
                    await self._compare()
            except (OSError, RuntimeError) as error:  # no inotify here, or the folder went away
                if not told:
                    log.warning("edits_seen_by_rescan_only", path=str(self._path), error=str(error))
                    told = True
                await asyncio.sleep(RESCAN_S)
                await self._compare()

    async def _compare(self) -> None:
        if _stamp(self._path) != self._seen:
            await asyncio.sleep(SETTLE_S)
            self.changed.set()


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
