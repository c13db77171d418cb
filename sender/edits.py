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
        """Watch until cancelled. That the kernel's notices fail, or end, only delays what is seen."""
        notices = asyncio.ensure_future(self._notices())
        try:
            while True:
                await asyncio.sleep(RESCAN_S)
                await self._compare()
        finally:
            notices.cancel()

    async def _notices(self) -> None:
        try:
            async for _ in watchfiles.awatch(
                self._path.parent, watch_filter=lambda _, name: name == str(self._path), recursive=False
            ):
                await self._compare()
        except (OSError, RuntimeError, ExceptionGroup) as error:  # no inotify here, or the folder went away
            log.warning("edits_seen_by_rescan_only", path=str(self._path), error=str(error))

    async def _compare(self) -> None:
        """Set ``changed`` if the file is another one, once it has stopped changing."""
        found = _stamp(self._path)
        while found != self._seen:
            await asyncio.sleep(SETTLE_S)
            before, found = found, _stamp(self._path)
            if found == before != self._seen:
                self.changed.set()
                return


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
