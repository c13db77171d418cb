"""One image of a release on its way into one target: wait for its content, push, try again, note how it stands.

Each image is on its own: none waits for another, and the failure of one stops no other. Which images are wanted is
decided in publish.py.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import structlog

from oci.blobs import BlobStore
from oci.descriptor import Descriptor, short_digest
from oci.errors import ContentMismatch, NotFound, OciError, Refused, StorageFull
from oci.http import Transient
from protocol.release import Content, ReleaseImage
from receiver.border import Border, HeldAtBorder
from receiver.closure import IncompleteImage, absent, listed, references
from receiver.gates import Gates
from receiver.journal import ReceiverJournal, ReleaseRow
from receiver.mapping import Mapping
from receiver.push import Moved, NotKept, Sink

State = Literal["receiving", "publishing", "published", "failed", "held"]
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Pace:
    """How often to look and how long to wait, in seconds."""

    poll: float = 0.2
    retry: float = 1.0  # first wait when the target is down; doubles, with jitter
    retry_max: float = 30.0
    failed: float = 60.0  # first wait after a refusal that a person has to mend
    failed_max: float = 900.0
    keep: float = 60.0  # how often retention looks
    look: float = 5.0  # how often alarms are judged; the first time after twice that, when capture has reported
    # What --once does when all was complete before: a sender that has just begun may still be fetching what is new.
    silence: float = 2.5  # beacons come about once a second; after this it has ended
    settle: float = 20.0  # one that goes on is not waited for any longer


class Arrivals:
    """Wakes who waits for content whenever the spool has changed."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def announce(self) -> None:
        """The spool has changed."""
        self._event.set()
        self._event = asyncio.Event()

    def next(self) -> asyncio.Event:
        """Return the event that the next change sets; take it before looking."""
        return self._event


@dataclass(slots=True)
class Workshop:
    """What all jobs of one target share."""

    spool: BlobStore
    journal: ReceiverJournal
    target: str  # its name in the settings
    place: str  # for people
    sink: Sink
    mapping: Mapping
    border: Border
    parallel: int
    published: dict[tuple[str, str], str]  # (repository, tag or digest) -> digest, as the journal has it
    rival: Callable[[ImageJob, str], str | None]  # why another image's claim to a tag goes first
    pace: Pace = field(default_factory=Pace)
    rng: random.Random = field(default_factory=random.Random)
    arrivals: Arrivals = field(default_factory=Arrivals)
    gates: Gates = field(default_factory=Gates)
    slots: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self.slots = asyncio.Semaphore(self.parallel)


@dataclass(frozen=True, slots=True)
class _Noted:
    """What the journal says of an image."""

    sequence: int
    state: State
    missing: int
    missing_bytes: int
    error: str | None


class TagTaken(OciError):
    """Two images claim one tag."""


class ImageJob:
    """Publishes one image; ``run`` ends when it is published."""

    def __init__(self, row: ReleaseRow, image: ReleaseImage, shop: Workshop) -> None:
        self.row = row
        self.image = image
        self.state: State = "receiving"
        self.failed = False  # the last attempt ended in a refusal that waiting does not mend
        self.changed = False  # this process has put something into the target
        self.moved = Moved()
        self.total_bytes = sum(content.size for content in listed(image).values())
        self.shop = shop
        self.path: str | None = None  # its name in the target, once it is known to have one
        self._noted: _Noted | None = None

    def rebind(self, row: ReleaseRow) -> None:
        """The newer release *row* wants the same image: go on under its name."""
        self.row = row
        if self._noted is not None:
            self._write(replace(self._noted, sequence=row.sequence))

    def name_in_target(self) -> str:
        """Return what the image is called in the target; ReferenceError_ if that is no name."""
        if self.path is None:
            self.path = self.shop.mapping.name(self.image.name)
        return self.path

    async def run(self) -> None:
        """Keep at it until the image is published."""
        pace, waits, failures = self.shop.pace, 0, 0
        while True:
            try:
                await self._attempt()
                return
            except HeldAtBorder as error:
                self._hold(str(error))
                await error.wait()
            except IncompleteImage as error:
                self._fail(str(error), missing=error.missing)
                await self._until_here(error.missing, self._delay(pace.failed, pace.failed_max, failures))
                failures += 1
            except (OciError, OSError) as error:
                if isinstance(error, NotFound) and await self._anything_absent():
                    continue  # it went while we looked
                if isinstance(error, ContentMismatch) and await self._drop_damaged():
                    continue
                if isinstance(error, Transient | StorageFull | NotKept | OSError):
                    delay = self._delay(pace.retry, pace.retry_max, waits)
                    waits += 1
                    asked = getattr(error, "retry_after_seconds", None)
                    delay = max(delay, min(asked or 0.0, pace.failed_max))
                    log.warning(
                        "image_waits",
                        target=self.shop.target,
                        image=self.image.name,
                        error=str(error),
                        retry_s=round(delay, 1),
                    )
                    self._note("publishing", error=str(error))
                else:
                    delay = self._delay(pace.failed, pace.failed_max, failures)
                    failures += 1
                    self._fail(f"{error}{self._about_sparse(error)}")
                await asyncio.sleep(delay)

    async def _attempt(self) -> None:
        shop, image = self.shop, self.image
        path = self.name_in_target()
        rival = shop.rival(self, path)
        if rival is not None:
            raise TagTaken(rival)
        shop.border.refuse_rejected(image)
        wanted = references(image)
        if all(shop.published.get((path, reference)) == digest for reference, digest in wanted.items()):
            async with shop.slots, shop.gates.using(path):
                if await shop.sink.holds(image, path):
                    self._published()
                    return
        await self._all_listed()
        whole = await shop.border.admit(self.row, image)
        async with shop.slots, shop.gates.using(path):
            shop.border.refuse_rejected(image)  # it may have waited long for its turn
            self._note("publishing")
            self.moved, started = Moved(), time.monotonic()
            await shop.sink.push(image, whole, path, self.moved)
            await shop.border.published(self.row, image, f"{shop.place}/{path}")
            shop.journal.note_published(self.row, path, wanted, time.time(), target=shop.target)
            shop.published.update({(path, reference): digest for reference, digest in wanted.items()})
            shop.journal.note_locations(path, [blob.digest for blob in whole.blobs], shop.target)
        self.changed = True
        self._published()
        log.info(
            "image_published",
            target=shop.target,
            image=image.name,
            tags=list(image.tags),
            digest=image.root.digest,
            repository=path,
            bytes=self.moved.bytes,
            blobs=self.moved.blobs,
            blobs_spared=len(self.moved.spared),
            seconds=round(time.monotonic() - started, 2),
        )

    async def _all_listed(self) -> None:
        """Wait until all that the release lists is in the spool."""
        missing = list(listed(self.image).values())
        while True:
            arrival = self.shop.arrivals.next()
            missing = await asyncio.to_thread(absent, self.shop.spool, missing)
            if not missing:
                return
            self._note("receiving", missing=missing)
            await arrival.wait()

    async def _until_here(self, missing: tuple[Descriptor, ...], timeout_s: float) -> None:
        """Wait for content that no list promises; another image may bring it."""
        wanted = [Content(item.media_type, item.digest, item.size) for item in missing]
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    arrival = self.shop.arrivals.next()
                    if not await asyncio.to_thread(absent, self.shop.spool, wanted):
                        return
                    await arrival.wait()
        except (TimeoutError, OciError):
            return  # the next attempt finds out

    async def _anything_absent(self) -> bool:
        try:
            return bool(await asyncio.to_thread(absent, self.shop.spool, listed(self.image).values()))
        except ContentMismatch:
            return False  # the next attempt meets it as well

    async def _drop_damaged(self) -> bool:
        """Remove content whose bytes have changed on disk since it arrived, so that it is received again."""
        dropped = False
        for digest in listed(self.image):
            try:
                await asyncio.to_thread(self.shop.spool.verify, digest)
            except ContentMismatch as error:
                await asyncio.to_thread(self.shop.spool.remove, digest)
                log.error("damaged_content_removed", error=str(error))
                dropped = True
            except NotFound:
                dropped = True
        return dropped

    def _about_sparse(self, error: Exception) -> str:
        """Say what a registry most likely minds, if the image comes without some of its platforms."""
        if not self.image.absent or not isinstance(error, Refused):
            return ""
        return (
            f"; {len(self.image.absent)} of the manifests that its index names stay on the other side, and this "
            "registry may not take such an index: drop `platforms:` there, or publish to a registry that does"
        )

    def _published(self) -> None:
        self.failed = False
        self._note("published")

    def _hold(self, reason: str) -> None:
        if self.state != "held":
            log.warning("image_held", image=self.image.name, tags=list(self.image.tags), reason=reason)
        self.failed = True  # only a person, or another release, can mend it
        self._note("held", error=reason)

    def _fail(self, error: str, missing: tuple[Descriptor, ...] = ()) -> None:
        self.failed = True
        log.error(
            "image_not_published",
            target=self.shop.target,
            image=self.image.name,
            tags=list(self.image.tags),
            error=error,
        )
        self._note("failed", missing=missing, error=error)

    def _note(
        self,
        state: State,
        *,
        missing: list[Content] | tuple[Descriptor, ...] = (),
        error: str | None = None,
    ) -> None:
        self.state = state
        size = sum(item.size for item in missing)
        self._write(_Noted(self.row.sequence, state, len(missing), size, error))

    def _write(self, noted: _Noted) -> None:
        if noted == self._noted:
            return
        self._noted = noted
        self.shop.journal.note_image(
            self.row,
            self.image.name,
            self.image.root.digest,
            noted.state,
            time.time(),
            missing=noted.missing,
            missing_bytes=noted.missing_bytes,
            total_bytes=self.total_bytes,
            error=noted.error,
            target=self.shop.target,
        )

    def _delay(self, first: float, most: float, attempt: int) -> float:
        return min(most, first * 2.0 ** min(attempt, 30)) * self.shop.rng.uniform(0.5, 1.0)

    def __str__(self) -> str:
        return f"{self.image.name}@{short_digest(self.image.root.digest)}"
