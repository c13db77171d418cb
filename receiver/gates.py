"""Keeps apart who puts images into a repository of the target and who deletes from it, within one process.

Images never wait for a deletion that has not begun: who deletes finds a repository in use, and comes again later.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager


class Gates:
    """One gate for each repository, by path. Use from one event loop."""

    def __init__(self) -> None:
        self._users: Counter[str] = Counter()
        self._closed: set[str | None] = set()  # None: all of them
        self._opened = asyncio.Event()  # set, and replaced, whenever a gate opens

    @asynccontextmanager
    async def using(self, path: str) -> AsyncIterator[None]:
        """Put something into *path* while the body runs; waits for a deletion there to end."""
        while self._closed & {path, None}:
            await self._opened.wait()
        self._users[path] += 1
        try:
            yield
        finally:
            self._users[path] -= 1

    @contextmanager
    def closed(self, path: str | None) -> Iterator[bool]:
        """Delete from *path*, or with None from all, while the body runs; gives False where somebody is at work."""
        if self._users[path] if path is not None else self._users.total():
            yield False
            return
        self._closed.add(path)
        try:
            yield True
        finally:
            self._closed.discard(path)
            self._opened.set()
            self._opened = asyncio.Event()
