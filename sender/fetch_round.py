"""One pass over the pinned images: what is missing comes into the spool, what is complete into the queue.

Content is asked for by digest only, verified while it is written, and fetched once however many images share it.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Final, cast

import aiohttp
import structlog

from oci.closure import walk
from oci.descriptor import Descriptor
from oci.errors import ContentMismatch, OciError
from oci.layout import Layout
from oci.mirrors import distrust
from oci.store import Source
from protocol.release import ReleaseImage
from runtime.errors import UserError
from runtime.terminal import Progress
from sender.config import SenderSettings
from sender.desired import contents_of, desired_state, read_image, release_image, write_image
from sender.images import ImageList, PinnedImage
from sender.journal import SenderJournal
from sender.prepare import Preparer
from sender.sources import Sources, Spooled

NOTE_S: Final = 0.3  # how often progress goes into the journal

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a round came to; *failed* counts images and faulty entries."""

    ready: int
    failed: int
    objects: int
    proposed: bool  # whether the desired state has changed


class Meter:
    """Bytes of one image, done and to do."""

    def __init__(self) -> None:
        self.done = 0
        self.total = 0
        self.noted = (0, 0)

    def advance(self, count: int) -> None:
        """Count bytes that have arrived, or were there already."""
        self.done += count


class Round:
    """One round; use an instance once."""

    def __init__(
        self,
        settings: SenderSettings,
        journal: SenderJournal,
        spool: Layout,
        preparer: Preparer,
        progress: Progress,
        report: Callable[[str], None],
        sources: Sources,
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._spool = spool
        self._preparer = preparer
        self._progress = progress
        self._report = report
        self._sources = sources
        # For each place its own, so that one that does not answer holds up none but its own images.
        self._images_at_once: defaultdict[str, asyncio.Semaphore] = defaultdict(self._slots)
        self._blobs_at_once: defaultdict[str, asyncio.Semaphore] = defaultdict(self._slots)
        self._all_blobs = asyncio.Semaphore(settings.fetch.parallel_total)
        self._being_fetched: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._meters: dict[PinnedImage, Meter] = {}
        self._objects = 0

    async def run(self, images: ImageList) -> Outcome:
        """Bring every image as far as it goes, then propose the desired state."""
        collection = self._settings.collection
        if not images.faults:
            self._journal.keep_images(collection, [str(pin.reference) for pin in images.images])
        noting = asyncio.ensure_future(self._note_progress())
        try:
            done = await asyncio.gather(*(self._image(pin) for pin in images.images))
        finally:
            noting.cancel()
            with suppress(asyncio.CancelledError):
                await noting
        found = list(zip(images.images, done, strict=True))
        ready = [(pin, image) for pin, image in found if image is not None]
        failed = [pin for pin, image in found if image is None]
        state = desired_state(ready, failed, self._journal.proposed(collection), keep_unnamed=bool(images.faults))
        proposed = self._journal.propose(collection, state, time.time())
        return Outcome(len(ready), len(failed) + len(images.faults), self._objects, proposed)

    def _slots(self) -> asyncio.Semaphore:
        return asyncio.Semaphore(self._settings.fetch.parallel)

    async def _image(self, pin: PinnedImage) -> ReleaseImage | None:
        """Return the image once all of it is in the spool and in the queue, None if it failed."""
        try:
            image = await self._complete_before(pin)
            if image is None:
                async with self._images_at_once[_place(pin)]:
                    image = await self._fetch(pin)
            objects = await self._preparer.queue(pin.short.partition("@")[0], contents_of(image))
            self._objects += objects
        except (OciError, UserError, ValueError) as error:
            self._failed(pin, advice(error, pin.reference.registry))
            return None
        except OSError as error:
            self._failed(pin, f"{error.filename or self._settings.state}: {error.strerror or error}")
            return None
        self._note(pin, "ready")
        return image

    async def _complete_before(self, pin: PinnedImage) -> ReleaseImage | None:
        """Return the image if an earlier round has fetched it whole and the spool still has everything."""
        known = self._journal.closure(self._key(pin))
        if known is None or not known[1]:
            return None
        image = read_image(known[0])
        size = self._spool.blobs.size
        contents = contents_of(image)
        there = await asyncio.to_thread(lambda: all(size(part.digest) == part.size for part in contents))
        return image if there else None

    async def _fetch(self, pin: PinnedImage) -> ReleaseImage:
        self._note(pin, "fetching")
        meter = self._meters[pin] = Meter()
        source = await self._sources.of(pin)
        spooled = Spooled(source, self._spool)
        root = (await spooled.manifest(pin.digest)).descriptor
        options = self._settings.fetch
        referrers = options.referrers if pin.referrers is None else pin.referrers
        closure = await walk(spooled, root, referrers=referrers)
        for line in closure.skipped:
            log.warning("referrer_left_out", image=pin.short, reason=line)
        foreign = closure.foreign if options.foreign_layers == "fetch" else []
        image = release_image(pin.reference.name, closure, foreign=bool(foreign))
        meter.total = sum(blob.size for blob in (*closure.blobs, *foreign))
        place = _place(pin)
        jobs = [
            self._blob(blob, lambda layer: source.blob(layer, verify=False), meter, place, source)
            for blob in closure.blobs
        ]
        outside = self._sources.foreign_layer
        jobs += [self._blob(blob, lambda layer: outside(source, layer), meter, place) for blob in foreign]
        await _all(jobs)
        self._journal.save_closure(self._key(pin), write_image(image), True, time.time())
        return image

    async def _blob(
        self,
        blob: Descriptor,
        opener: Callable[[Descriptor], AsyncIterator[bytes]],
        meter: Meter,
        place: str,
        source: Source | None = None,
    ) -> None:
        """Bring one blob into the spool, which verifies it; whoever asks for the same meanwhile waits for it."""
        store = self._spool.blobs
        name = source.name if source is not None else ""
        async with self._being_fetched[blob.digest]:
            if await asyncio.to_thread(store.size, blob.digest) == blob.size:
                meter.advance(blob.size)
                return
            async with self._blobs_at_once[place], self._all_blobs:
                while True:
                    try:
                        chunks = cast(AsyncGenerator[bytes, None], opener(blob))
                        async with aclosing(chunks):
                            await store.write_stream(blob.digest, blob.size, chunks, meter.advance, source=name)
                        return
                    except ContentMismatch:
                        if not distrust(source, blob.digest):
                            raise
                        meter.advance(-blob.size)

    def _failed(self, pin: PinnedImage, error: str) -> None:
        self._note(pin, "failed", error)
        self._report(f"{pin.short}: {error}")

    def _note(self, pin: PinnedImage, state: str, error: str | None = None) -> None:
        reference, source = str(pin.reference), str(pin.origin)
        self._journal.note_image(self._settings.collection, reference, source, pin.digest, state, time.time(), error)

    async def _note_progress(self) -> None:
        """Show progress on the terminal and in the journal, the last state included."""
        bars: dict[PinnedImage, int] = {}
        try:
            while True:
                self._note_meters(bars)
                await asyncio.sleep(NOTE_S)
        finally:
            self._note_meters(bars)
            for bar in bars.values():
                self._progress.remove(bar)

    def _note_meters(self, bars: dict[PinnedImage, int]) -> None:
        for pin, meter in self._meters.items():
            now = (meter.done, meter.total)
            if now == meter.noted:
                continue
            meter.noted = now
            self._journal.note_progress(self._settings.collection, str(pin.reference), *now)
            if pin not in bars:
                bars[pin] = self._progress.add(f"fetch {pin.short.partition('@')[0]}")
            self._progress.update(bars[pin], completed=meter.done, total=meter.total)

    def _key(self, pin: PinnedImage) -> str:
        """What decides the closure of a pin: repositories differ in referrers, options in what is taken along."""
        options = self._settings.fetch
        referrers = options.referrers if pin.referrers is None else pin.referrers
        flags = f"{'referrers' if referrers else 'bare'} {options.foreign_layers}"
        return f"{pin.reference.name}@{pin.digest} {flags}"


def _place(pin: PinnedImage) -> str:
    """What can be slow or out of order by itself: a registry, or a folder."""
    return pin.reference.registry if pin.origin.kind == "registry" else str(pin.origin)


async def _all(jobs: Sequence[Coroutine[None, None, None]]) -> None:
    """Run all jobs to their end, so that one bad blob wastes no other, then raise the first error."""
    results = await asyncio.gather(*jobs, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


def advice(error: Exception, registry: str) -> str:
    """The line of *error*, with the key of sender.yaml that mends it where there is one."""
    line = str(error)
    if isinstance(error.__cause__, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
        return f'{line}; sender.yaml: fetch.registries: {{"{registry}": {{ca: FILE}}}}'
    if isinstance(error.__cause__, aiohttp.ClientSSLError | ssl.SSLError):
        return f'{line}; sender.yaml: fetch.registries: {{"{registry}": {{plain_http: true}}}}'
    return line
