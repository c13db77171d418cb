"""Edits of some files, seen at once where the kernel tells of them, and within a second in any case.

A path may be a pattern: then a file that comes to fit it, or goes, is an edit.

The kernel tells nothing of an edit before its watch began, nor of any on some file systems.
"""

from __future__ import annotations

import asyncio
import glob
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import structlog
import watchfiles

RESCAN_S: Final = 1.0
SETTLE_S: Final = 0.1  # editors write a file in several steps

Stamp = tuple[object, ...] | None

log = structlog.get_logger()


class Edits:
    """Sets ``changed``, and calls *wake*, when one of the files is not what :meth:`reading` last saw."""

    def __init__(self, *paths: Path, wake: Callable[[], None] = lambda: None) -> None:
        self.changed = asyncio.Event()
        self._wake = wake
        self._seen = {path: _stamp(path) for path in paths}
        self._other_folders = asyncio.Event()

    def reading(self, paths: Iterable[Path] = ()) -> None:
        """Say that the files are read from now on; or which have been read since, new ones among them."""
        self.changed.clear()
        before = self._folders()
        paths = tuple(paths)
        if paths:  # what is known already was read after it was stamped
            self._seen = {path: self._seen[path] if path in self._seen else _stamp(path) for path in paths}
        else:
            self._seen = self._stamps()
        if self._folders() != before:
            self._other_folders.set()

    def wrote(self, path: Path) -> None:
        """Say that what is at *path* now is our own."""
        self._seen[path] = _stamp(path)

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
        while True:
            self._other_folders.clear()
            try:
                async for _ in watchfiles.awatch(
                    *self._folders(),
                    watch_filter=lambda _, name: Path(name) in self._seen,
                    recursive=False,
                    stop_event=self._other_folders,
                ):
                    await self._compare()
            except (OSError, RuntimeError, ExceptionGroup) as error:  # no inotify here, or the folder went away
                log.warning("edits_seen_by_rescan_only", error=str(error))
                return
            if not self._other_folders.is_set():
                return

    async def _compare(self) -> None:
        """Call ``changed`` if a file is another one, once they have stopped changing."""
        found = self._stamps()
        while found != self._seen:
            await asyncio.sleep(SETTLE_S)
            before, found = found, self._stamps()
            if found == before != self._seen:
                self.changed.set()
                self._wake()
                return

    def _folders(self) -> set[Path]:
        return {path.parent for path in self._seen if path.parent.is_dir()}

    def _stamps(self) -> dict[Path, Stamp]:
        return {path: _stamp(path) for path in self._seen}


def _stamp(path: Path) -> Stamp:
    """Return what changes when the file does, or for a pattern which files there are; None for no file."""
    try:
        found = path.stat()
    except OSError:
        return tuple(sorted(glob.glob(str(path), recursive=True))) if glob.has_magic(str(path)) else None
    return found.st_size, found.st_mtime_ns, found.st_ino
