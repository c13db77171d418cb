"""Brings pinned images into the spool and the queue, each by a task of its own, for as long as they are wanted.

Content is asked for by digest only, verified while it is written, and fetched once however many images share it.
What one image cannot have, no other image suffers from.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from time import time
from typing import TypeVar, cast
from weakref import WeakValueDictionary

import structlog

from oci.descriptor import Descriptor
from oci.errors import ContentMismatch, OciError, StorageFull
from oci.layout import Layout
from oci.limits import MANIFEST_BYTES_MAX
from oci.mirrors import distrust
from oci.store import Source
from protocol.release import Content, ReleaseImage
from runtime.errors import UserError
from runtime.terminal import Progress
from sender.closures import artifact_types, key_of, line_of, walk_pin
from sender.config import Collection, SenderSettings
from sender.created import platforms_in
from sender.desired import read_image, read_state, release_image, write_image
from sender.images import ANY, PinnedImage
from sender.journal import SenderJournal
from sender.lock import Lock, LockEntry, closure_digest, lock_entry, mismatch
from sender.meters import Meter, Meters
from sender.prepare import Preparer, Terms
from sender.room import Room
from sender.sources import Sources, Spooled, advice
from sender.verification import Held, Verification

_T = TypeVar("_T")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Ready:
    """An image of which everything is in the spool and in the queue, and its line of the lock."""

    image: ReleaseImage
    entry: LockEntry


class Fetcher:
    """Use as an async context manager, and from one event loop. *wake* is called whenever an image settles."""

    def __init__(
        self,
        settings: SenderSettings,
        journal: SenderJournal,
        spool: Layout,
        preparer: Preparer,
        progress: Progress,
        sources: Sources,
        verification: Verification,
        report: Callable[[str], None],
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self.ready: dict[PinnedImage, Ready] = {}
        self.failed: dict[PinnedImage, str] = {}
        self.objects = 0  # queued since the start
        self.version = 0  # another one whenever something has become ready or failed, or is not wanted any more
        self._settings = settings
        self._journal = journal
        self._spool = spool
        self._preparer = preparer
        self._sources = sources
        self._verification = verification
        self._report = report
        self._wake = wake
        self._room = Room(settings, preparer, spool.blobs)
        self.lock = Lock()  # as it was read or written last
        self._old_lock = Lock()
        self._look_afresh: set[PinnedImage] = set()  # held ones, whose signatures may come later
        self._jobs: dict[PinnedImage, asyncio.Task[None]] = {}
        self._broken: BaseException | None = None  # what no image should have raised
        # For each place its own, so that one that does not answer holds up none but its own images; and urgent
        # ones do not queue behind others.
        self._images_at_once: defaultdict[tuple[str, bool], asyncio.Semaphore] = defaultdict(self._slots)
        self._blobs_at_once: defaultdict[tuple[str, bool], asyncio.Semaphore] = defaultdict(self._slots)
        self._all_blobs: defaultdict[bool, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(settings.fetch.parallel_total)
        )
        self._being_fetched: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by digest
        self._meters = Meters(journal, progress)
        self._noting: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Fetcher:
        self._noting = asyncio.ensure_future(self._meters.run())
        return self

    async def __aexit__(self, *exc: object) -> None:
        jobs = [*self._jobs.values(), *([self._noting] if self._noting else [])]
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)

    # --- what is wanted ------------------------------------------------------------------------------------------

    def want(self, pins: Iterable[PinnedImage], lock: Lock, old: Lock) -> None:
        """Fetch these images, urgent ones first, and no others; what has failed is left to :meth:`retry`.

        *old* has the lines of those that a rollback wants.
        """
        before, self.lock, self._old_lock = self.lock, lock, old
        wanted = dict.fromkeys(sorted(pins, key=lambda pin: not pin.options.urgent))
        gone = [pin for known in (self._jobs, self.ready, self.failed) for pin in known if pin not in wanted]
        for pin in gone:
            self._forget(pin)
        self._room.needed.keep(wanted)
        for pin in [*self.ready, *self.failed]:
            line = lock.entries.get(pin.slot)
            known = self.ready.get(pin)
            if line != before.entries.get(pin.slot) and line is not None and (known is None or known.entry != line):
                self._forget(pin)
        for pin in wanted:
            if pin not in self._jobs and pin not in self.ready and pin not in self.failed:
                self._start(pin)

    def _forget(self, pin: PinnedImage) -> None:
        job = self._jobs.pop(pin, None)
        if job is not None:
            job.cancel()
        self.ready.pop(pin, None)
        self.failed.pop(pin, None)
        self._meters.end(pin)
        self.version += 1

    def check(self) -> None:
        """Raise what no image should have raised: a bug, or the journal. The role ends then, and is started again."""
        if self._broken is not None:
            raise self._broken

    def retry(self) -> None:
        """Try again what has failed, and look after what was ready: the spool may have lost something."""
        for pin in [*self.failed, *self.ready]:
            if pin not in self._jobs:
                self._start(pin)

    async def tidy(self) -> None:
        """Keep spool and journal within their bounds; see eviction.py."""
        await self._room.tidy(time())

    @property
    def busy(self) -> tuple[PinnedImage, ...]:
        """Images that are neither ready nor failed."""
        return tuple(pin for pin in self._jobs if pin not in self.ready)

    async def settled(self) -> None:
        """Wait until every wanted image is ready or has failed."""
        while self._jobs:
            # not one by one: each look costs all that are left
            await asyncio.wait(list(self._jobs.values()), return_when=asyncio.FIRST_EXCEPTION)
            self.check()

    def _slots(self) -> asyncio.Semaphore:
        return asyncio.Semaphore(self._settings.fetch.parallel)

    def _start(self, pin: PinnedImage) -> None:
        job = asyncio.ensure_future(self._image(pin))
        self._jobs[pin] = job
        job.add_done_callback(partial(self._over, pin))

    def _over(self, pin: PinnedImage, job: asyncio.Task[None]) -> None:
        if not job.cancelled():
            self._broken = self._broken or job.exception()
        if self._jobs.get(pin) is job:
            del self._jobs[pin]
            self.version += 1
            self._wake()

    # --- one image -----------------------------------------------------------------------------------------------

    async def _image(self, pin: PinnedImage) -> None:
        """Bring the image into the spool and the queue, and note what became of it."""
        try:
            self._verification.check_source(pin)
            image = await self._complete_before(pin)
            if image is None:
                self.ready.pop(pin, None)
                async with self._images_at_once[_place(pin), pin.options.urgent]:
                    image = await self._fetch(pin)
            entry = await self._entry(pin, image)
            entry = entry.model_copy(update={"signers": await self._verify(pin, image, entry)})
            contents = image.contents()
            queue = partial(self._preparer.queue, pin.label, contents, self._terms(pin, image))
            self.objects += await self._with_room(queue, contents)
        except Held as held:
            self._hold(pin, str(held))
        except (OciError, UserError, ValueError) as error:
            self._fail(pin, advice(error, pin.reference.registry))
        except OSError as error:
            self._fail(pin, f"{error.filename or self._settings.state}: {error.strerror or error}")
        else:
            self.failed.pop(pin, None)
            self._meters.end(pin)
            self.ready[pin] = Ready(image, entry)
            self._note(pin, "ready")

    async def _complete_before(self, pin: PinnedImage) -> ReleaseImage | None:
        """Return the image if it was fetched whole before and the spool still has everything."""
        known = self._journal.closure(key_of(self._settings.fetch, pin))
        if known is None or not known[1]:
            return None
        image = read_image({**known[0], "name": pin.target})
        locked = self._locked(pin)
        if locked is not None and locked.closure != closure_digest(image):
            return None  # what referred to it then is to be brought, not what did when it was fetched here
        self._check_lock(pin, image)
        size = self._spool.blobs.size
        contents = image.contents()
        self._room.needed.hold(pin, [part.digest for part in contents])
        there = await asyncio.to_thread(lambda: all(size(part.digest) == part.size for part in contents))
        return image if there else None

    async def _with_room(self, step: Callable[[], Awaitable[_T]], contents: Sequence[Content]) -> _T:
        """Do *step*; where the disk is full, once more if what was sent before could give way."""
        try:
            return await step()
        except StorageFull:
            if not await self._room.make(contents):
                raise
        return await step()

    async def _fetch(self, pin: PinnedImage) -> ReleaseImage:
        self._note(pin, "fetching")
        source = await self._sources.of(pin)
        with self._room.needed.walking():
            image, blobs, foreign = await self._walk(pin, source)
            contents = image.contents()
            self._room.needed.hold(pin, [part.digest for part in contents])
        async with self._room.of(pin, contents):
            await self._with_room(partial(self._blobs, pin, source, blobs, foreign), contents)
            self._journal.save_closure(key_of(self._settings.fetch, pin), write_image(image), True, time())
        return image

    async def _walk(
        self, pin: PinnedImage, source: Source
    ) -> tuple[ReleaseImage, Sequence[Descriptor], Sequence[Descriptor]]:
        """Return what the image comes to, its blobs, and those foreign ones that travel."""
        spooled = Spooled(source, self._spool)
        closure = await walk_pin(spooled, self._settings.fetch, pin, self._locked(pin))
        for line in closure.skipped:
            log.warning("referrer_left_out", image=pin.short, reason=line)
        foreign = closure.foreign if self._settings.fetch.foreign_layers == "fetch" else []
        image = release_image(pin.target, closure, foreign=bool(foreign))
        self._check_lock(pin, image)
        self._verification.check_descriptors(pin, image)
        return image, closure.blobs, foreign

    async def _blobs(
        self, pin: PinnedImage, source: Source, blobs: Sequence[Descriptor], foreign: Sequence[Descriptor]
    ) -> None:
        meter = self._meters.begin(pin)
        meter.total = sum(blob.size for blob in (*blobs, *foreign))
        jobs = [
            self._blob(pin, blob, lambda layer: source.blob(layer, verify=False), meter, source) for blob in blobs
        ]
        jobs += [
            self._blob(pin, blob, lambda layer: self._sources.foreign_layer(source, layer), meter) for blob in foreign
        ]
        await _all(jobs)

    async def _verify(self, pin: PinnedImage, image: ReleaseImage, entry: LockEntry) -> tuple[str, ...]:
        """Return who signed; Held after having arranged that what refers to the image is looked up afresh."""
        try:
            signers = await self._verification.signers(pin, image, json.loads(entry.line()))
        except Held:
            self._journal.forget_closure(key_of(self._settings.fetch, pin))
            self._look_afresh.add(pin)
            raise
        self._look_afresh.discard(pin)
        return signers

    async def _blob(
        self,
        pin: PinnedImage,
        blob: Descriptor,
        opener: Callable[[Descriptor], AsyncIterator[bytes]],
        meter: Meter,
        source: Source | None = None,
    ) -> None:
        """Bring one blob into the spool, which verifies it; whoever asks for the same meanwhile waits for it."""
        store = self._spool.blobs
        name = source.name if source is not None else ""
        lock = self._being_fetched.setdefault(blob.digest, asyncio.Lock())
        async with lock:
            if await asyncio.to_thread(store.size, blob.digest) == blob.size:
                meter.advance(blob.size)
                return
            urgent = pin.options.urgent
            async with self._blobs_at_once[_place(pin), urgent], self._all_blobs[urgent]:
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

    async def _entry(self, pin: PinnedImage, image: ReleaseImage) -> LockEntry:
        """Return the line of the lock; one that is there and right keeps its time."""
        locked, types = self._locked(pin), artifact_types(self._settings.fetch, pin)
        read = partial(self._spool.blobs.read, size_max=MANIFEST_BYTES_MAX)
        platforms = await asyncio.to_thread(platforms_in, read, image)
        return lock_entry(
            pin,
            image,
            platforms,
            types=None if types == ANY else types,
            foreign=self._settings.fetch.foreign_layers == "fetch",
            resolved=locked.resolved if locked is not None else datetime.now(UTC).replace(microsecond=0),
        )

    def _terms(self, pin: PinnedImage, image: ReleaseImage) -> Terms:
        """Return how the contents are queued: where releases are approved by hand, they wait for that."""
        collection = pin.options.collection
        if self._settings.collections.get(collection, Collection()).approval == "auto":
            return Terms(pin.options.urgent)
        mine = closure_digest(image)
        approved = any(
            released.root.digest == image.root.digest and closure_digest(released) == mine
            for row in self._journal.newest_releases()
            if row.collection == collection and image.root.digest in row.images
            for released in read_state(row.images)
        )
        return Terms(pin.options.urgent, cleared=approved)

    # --- the lock ------------------------------------------------------------------------------------------------

    def _locked(self, pin: PinnedImage) -> LockEntry | None:
        """Return the line of the lock that resolved *pin* as it is asked for now."""
        if pin in self._look_afresh:
            return None
        fetch = self._settings.fetch
        return line_of(self.lock, fetch, pin) or line_of(self._old_lock, fetch, pin)

    def _check_lock(self, pin: PinnedImage, image: ReleaseImage) -> None:
        locked = self._locked(pin)
        if locked is None:
            return
        wrong = mismatch(locked, image)
        if wrong is not None:
            raise ValueError(
                f"{self._settings.lock_file}: {locked.image}: {wrong}; mend the line, or delete it to have it "
                "resolved again"
            )

    # --- what people see -------------------------------------------------------------------------------------------

    def _fail(self, pin: PinnedImage, error: str, state: str = "failed") -> None:
        self.ready.pop(pin, None)
        self.failed[pin] = error
        self._note(pin, state, error)
        self._report(f"{pin.short}: {error}")

    def _hold(self, pin: PinnedImage, reasons: str) -> None:
        self._fail(pin, f"held: {reasons}", "held")

    def _note(self, pin: PinnedImage, state: str, error: str | None = None) -> None:
        reference, source = str(pin.reference), str(pin.origin)
        self._journal.note_image(pin.options.collection, reference, source, pin.digest, state, time(), error)


def _place(pin: PinnedImage) -> str:
    """What can be slow or out of order by itself: a registry, or a folder."""
    return pin.reference.registry if pin.origin.kind == "registry" else str(pin.origin)


async def _all(jobs: Sequence[Coroutine[None, None, None]]) -> None:
    """Run all jobs to their end, so that one bad blob wastes no other, then raise the first error."""
    results = await asyncio.gather(*jobs, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
