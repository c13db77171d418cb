"""Room in the spool for what an image lacks, before it is fetched: what was sent and nobody needs gives way.

First come, first served, and urgent images come first. One that does not fit is held and tried again with what has
failed; smaller ones behind it may still fit, and nothing else waits. Coded files are counted when they are there, so
the budget may be exceeded, until the next proposal, by those of the images on their way. Sizes are bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial

from oci.blobs import BlobStore
from protocol.release import Content
from runtime.terminal import human_bytes
from sender.config import SenderSettings
from sender.eviction import Evictor, Needed, Removed
from sender.images import PinnedImage
from sender.journal import SenderJournal
from sender.prepare import Preparer
from sender.verification import Held


class Room:
    """Use from one event loop; removes files in the thread of *preparer*."""

    def __init__(self, settings: SenderSettings, preparer: Preparer, blobs: BlobStore) -> None:
        self.needed = Needed()
        self._settings = settings
        self._preparer = preparer
        self._blobs = blobs
        self._turn = asyncio.Lock()
        self._coming: dict[PinnedImage, dict[str, int]] = {}  # digest -> size, of images on their way

    @asynccontextmanager
    async def of(self, pin: PinnedImage, contents: Iterable[Content]) -> AsyncIterator[None]:
        """Keep room for *contents* while the body fetches them; Held if there is none."""
        wanted = {content.digest: content.size for content in contents}
        if self._settings.storage.budget is not None:
            async with self._turn:
                await self._admit(pin, wanted)
                self._coming[pin] = wanted
        try:
            yield
        finally:
            self._coming.pop(pin, None)

    async def make(self, contents: Iterable[Content]) -> bool:
        """The disk is full: remove as much as the missing ones of *contents* take; False if nothing could go."""
        missing = await asyncio.to_thread(self._missing, {content.digest: content.size for content in contents})
        return bool(await self._evict(lambda evictor: max(missing, 1)))

    async def tidy(self, now: float) -> None:
        """Remove orphans, and what is above the budget and may go; let go of old rows."""
        await self._preparer.between(lambda journal: self._evictor(journal).tidy(now))

    async def _admit(self, pin: PinnedImage, wanted: dict[str, int]) -> None:
        coming = {digest: size for other in self._coming.values() for digest, size in other.items()}
        if not await asyncio.to_thread(self._missing, wanted):
            return
        measure = partial(self._short, coming | wanted)
        await self._evict(measure)
        short = await self._preparer.between(lambda journal: measure(self._evictor(journal)))
        if short > 0:
            self.needed.drop(pin)  # what is there of it is nobody's, until it fits
            raise Held(
                f"the spool's budget of {human_bytes(self._settings.storage.budget or 0)} is taken by what is wanted "
                f"or not sent yet; this image needs {human_bytes(short)} more: raise storage.budget in sender.yaml, "
                "or want less"
            )

    def _short(self, coming: dict[str, int], evictor: Evictor) -> int:
        """What is there and what is on its way, less the budget."""
        return evictor.used() + self._missing(coming) - (self._settings.storage.budget or 0)

    def _missing(self, wanted: dict[str, int]) -> int:
        return sum(size for digest, size in wanted.items() if self._blobs.size(digest) != size)

    async def _evict(self, goal: Callable[[Evictor], int]) -> list[Removed]:
        def work(journal: SenderJournal) -> list[Removed]:
            evictor = self._evictor(journal)
            return evictor.evict(goal(evictor))

        return await self._preparer.between(work)

    def _evictor(self, journal: SenderJournal) -> Evictor:
        return Evictor(self._settings, journal, self.needed)
