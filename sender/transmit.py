"""The transmit role: signs releases, opens a session and keeps the wire busy at the link's rate.

    journal ─▶ releases.py ─▶ schedule.py ─▶ blocks.py ─▶ protocol.Encoder ─▶ pacing.py ─▶ link.py ═▶ diode

One thread drives the wire; a second reads blocks ahead. The journal is looked at a few times a second, in short
transactions; while it is locked or its disk is full, the wire goes on with what is known. Holds the signing key;
needs no network but the diode's.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol.beacon import Newest
from protocol.encoder import Encoder
from protocol.geometry import LinkProfile, profile_for_link
from protocol.objects import Kind
from protocol.outgoing import OutgoingBlock
from protocol.wire import BurstView, datagrams_per_burst, symbol_bytes
from runtime import keys, logs, notify
from runtime.durable import remove_leftovers
from runtime.signals import StopFlag
from sender.alone import alone
from sender.blocks import BlockReader, BlockUnreadable, ReadyBlock
from sender.config import SenderSettings
from sender.journal import QueuedObject, ReleaseRow, SenderJournal
from sender.link import Link
from sender.outbox import RETRY_S, Outbox
from sender.pacing import Pacer
from sender.releases import desired_contents, queue_release, sign_proposals
from sender.schedule import Schedule
from sender.session import Session

HOUSEKEEPING_S: Final = 0.2
LIVE_S: Final = 0.5
CLOSING_S: Final = 1.0  # how long the end of a session is announced
LOOKAHEAD_S: Final = 0.1  # of link time that the object table describes ahead
UPCOMING_MIN: Final = 8
IDLE_S: Final = 0.01
NAP_S: Final = 0.05  # longer waits of the pacer listen for the stop
LINK_RETRY_S: Final = 0.2
CAROUSEL_S: Final = 1.0  # between looks for something to repeat
QUEUE_SHARE: Final = 0.05  # of the time, at most, goes into reading a long queue
RELEASE_PASSES: Final = 3

log = structlog.get_logger()


def main(settings: SenderSettings, once: bool = False, round_token: str | None = None) -> int:
    """Run the role until stopped; with *once*, until the fetch round *round_token* is over and all was sent."""
    logs.configure(settings.logs.format, settings.logs.level)
    with alone(settings, "transmit"):
        remove_leftovers(settings.coded)
        return _run(settings, once, round_token)


def _run(settings: SenderSettings, once: bool, round_token: str | None) -> int:
    signer = keys.load_signing_key(settings.signing_key, created_by=SenderSettings.created_by)
    receivers = [keys.load_hpke_public(path, created_by="checkvalve-receiver init") for path in settings.receivers]
    journal = SenderJournal(settings.journal)
    link = Link(settings.link.to, settings.link.mtu, gso=settings.link.gso, interface=settings.link.interface)
    profile = link_profile(settings, link)
    survived = profile.outage / _datagrams_per_second(settings, link)
    if survived < settings.link.outage * 0.99:
        log.warning(
            "outage_beyond_one_pass",
            wanted_ms=round(settings.link.outage * 1000, 1),
            survived_ms=round(survived * 1000, 1),
            mend="raise link.repair, or leave longer outages to further passes",
        )

    def open_session() -> Session:
        session = Session(
            journal.next_epoch(),
            signer,
            receivers,
            profile,
            datagram_bytes=link.datagram_bytes,
            datagrams_per_second=_datagrams_per_second(settings, link),
            now=time.monotonic(),
            unix_now=time.time(),
        )
        log.info(
            "session_opened",
            epoch=session.parameters.epoch,
            to=str(settings.link.to),
            datagram_bytes=link.datagram_bytes,
            k=profile.k,
            m=profile.m,
            depth=profile.depth,
            gso=link.gso,
            path=link.path,
        )
        return session

    with StopFlag() as stop:
        transmitter = _Transmitter(settings, journal, link, open_session, signer, once=once, round_token=round_token)
        try:
            notify.ready()
            transmitter.run(stop)
        finally:
            transmitter.close()
    return 0


def link_profile(settings: SenderSettings, link: Link) -> LinkProfile:
    """Return the geometry parameters for the configured link."""
    return profile_for_link(
        symbol_bytes(link.datagram_bytes),
        _datagrams_per_second(settings, link),
        settings.link.repair,
        settings.link.outage,
    )


def _datagrams_per_second(settings: SenderSettings, link: Link) -> float:
    return settings.link.rate / 8 / (link.datagram_bytes + link.header_bytes)


class _Transmitter:
    """The loop's state. Times are monotonic seconds."""

    def __init__(
        self,
        settings: SenderSettings,
        journal: SenderJournal,
        link: Link,
        open_session: Callable[[], Session],
        signer: Ed25519PrivateKey,
        *,
        once: bool,
        round_token: str | None,
    ) -> None:
        self._signer = signer
        self._settings = settings
        self._journal = journal
        self._link = link
        self._open_session = open_session
        self._session = open_session()
        journal.be_brief()
        self._schedule = Schedule(self._session.profile.geometry, settings.repeats.spacing)
        self._reader = BlockReader(self._session.profile.symbol_bytes)
        self._once = once
        self._round = round_token
        wire_bytes = link.datagram_bytes + link.header_bytes
        count = max(1, min(datagrams_per_burst(link.datagram_bytes), settings.link.burst // 2 // wire_bytes))
        self._view = BurstView(memoryview(bytearray(count * link.datagram_bytes)), link.datagram_bytes, count)
        self._pacer = Pacer(settings.link.rate, settings.link.burst, count * wire_bytes)
        self._on_wire: ReadyBlock | None = None
        self._lookahead_bytes = settings.link.rate / 8 * LOOKAHEAD_S
        self._newest: list[ReleaseRow] = []
        self._release_digests: dict[str, str] = {}  # collection -> content digest of its release object
        self._proposals_seen: object = None
        self._desired: set[int] = set()  # objects that carry the newest releases' contents
        self._desired_of: object = None  # what the set was made from
        self._outbox = Outbox()
        self._due_housekeeping = self._due_live = self._due_queue = self._due_carousel = float("-inf")
        self._due_release = time.monotonic() + settings.repeats.release_every
        self._closing_until: float | None = None
        self._started = time.time()
        self._objects_sent = 0
        self._content_bytes = self._content_datagrams = 0  # of blobs and batches; all else is control traffic
        self._wire_bytes = self._datagrams = 0
        self._queued: dict[str, int] = {}
        self._rate_mark = (time.monotonic(), 0)

    def run(self, stop: StopFlag) -> None:
        """Drive the wire until stopped, or until the closing of a ``once`` run has been announced."""
        while not stop.is_set():
            now = time.monotonic()
            if now >= self._due_housekeeping:
                self._housekeeping(now)
                if self._closing_until is not None and now >= self._closing_until:
                    break
            self._feed(now)
            count = self._encoder.next_burst(self._view, now)
            if count == 0:
                stop.wait(min(IDLE_S, max(0.0, self._encoder.next_time() - now)) or IDLE_S)
                continue
            if not self._send(count, stop):
                break
            if self._encoder.wants_block and self._on_wire is not None:
                self._block_left(self._on_wire)
        self._outbox.attempt(self._outbox.deliver)
        self._outbox.attempt(lambda: self._publish_live(time.monotonic(), "closed"))

    def close(self) -> None:
        """Free what the role holds."""
        self._reader.close()
        self._link.close()
        self._journal.close()

    # --- the wire ----------------------------------------------------------------------------------------------

    def _send(self, count: int, stop: StopFlag) -> bool:
        """Send the burst when its time has come; False if told to stop while the interface was down."""
        wire = count * (self._link.datagram_bytes + self._link.header_bytes)
        if self._settings.link.pacing:
            delay = self._pacer.delay(time.monotonic())
            if delay > NAP_S:
                stop.wait(delay)
            elif delay > 0:
                time.sleep(delay)
        burst = self._view.buffer[: count * self._link.datagram_bytes]
        while not self._link.send(burst):
            self._tell_live(time.monotonic(), "link down")
            if stop.wait(LINK_RETRY_S):
                return False
        self._pacer.sent(wire, time.monotonic())
        self._wire_bytes += wire
        self._datagrams += count
        return True

    def _feed(self, now: float) -> None:
        """Keep blocks being read, and load the next one into the encoder once its lead-in is over."""
        while self._reader.has_room:
            step = self._schedule.next_block(now)
            if step is None:
                break
            self._reader.start(*step)
            self._announce_objects()
        if not self._encoder.wants_block:
            return
        try:
            block = self._reader.peek()
        except BlockUnreadable as error:
            self._unreadable(error)
            return
        if block is None:
            return
        if self._session.worn and not self._encoder.closing:
            self._rotate(now)
        entry = self._session.entry_of(block.queued)
        if not self._encoder.may_start(entry.toi):
            return
        self._reader.pop()
        self._on_wire = block
        self._encoder.load(OutgoingBlock(entry, block.shape, block.buffer, block.encoded))

    def _rotate(self, now: float) -> None:
        try:
            self._session = self._open_session()
        except sqlite3.OperationalError as error:  # the old session has as much again to go before its limit
            log.error("session_not_renewed", error=str(error))
            return
        self._due_release = self._due_housekeeping = now  # every session carries the newest releases
        self._encoder.queued_bytes = self._queued.get("queued_bytes", 0)
        self._announce_objects()
        self._set_newest()

    def _block_left(self, block: ReadyBlock) -> None:
        self._on_wire = None
        self._reader.give_back(block.buffer)
        queued = block.queued
        if queued.kind != Kind.RELEASE:
            self._content_bytes += block.shape.size
            self._content_datagrams += block.shape.datagrams
        if not block.last:
            return
        self._outbox.later(partial(self._journal.note_pass, queued.id, time.time()))
        self._schedule.pass_ended(queued, time.monotonic())
        self._objects_sent += 1
        log.info(
            "object_sent",
            label=queued.label,
            digest=queued.digest,
            bytes=queued.coded_size,
            passes=queued.passes_done + 1,
        )
        if self._idle:
            self._due_housekeeping = min(self._due_housekeeping, time.monotonic() + IDLE_S)

    @property
    def _idle(self) -> bool:
        """Whether all that is known to be queued has left."""
        return self._on_wire is None and self._schedule.empty and not self._reader.objects()

    def _unreadable(self, error: BlockUnreadable) -> None:
        queued = error.queued
        log.error("object_unreadable", label=queued.label, path=str(queued.path), error=str(error))
        self._reader.drop(queued.id)
        self._schedule.abandon(queued)
        self._outbox.later(partial(self._journal.drop_object, queued.id))
        if queued.kind == Kind.RELEASE:  # ours to make again
            self._proposals_seen = None
        self._desired_of = None
        self._due_housekeeping = time.monotonic()

    def _announce_objects(self) -> None:
        """Name the objects of the next moments: an entry has to be on the wire well before its object."""
        most = self._encoder.max_upcoming
        objects = [self._on_wire.queued] if self._on_wire else []
        objects += self._reader.objects() + self._schedule.upcoming(most)
        ahead: dict[int, QueuedObject] = {}  # each once, in order
        size = 0
        for queued in objects:
            if len(ahead) >= most or (len(ahead) >= UPCOMING_MIN and size > self._lookahead_bytes):
                break
            if queued.id not in ahead:
                ahead[queued.id] = queued
                size += queued.coded_size
        self._encoder.set_upcoming([self._session.entry_of(queued) for queued in ahead.values()])

    # --- a few times a second ------------------------------------------------------------------------------------

    def _housekeeping(self, now: float) -> None:
        self._due_housekeeping = now + HOUSEKEEPING_S
        if not self._outbox.attempt(lambda: self._look_at_journal(now)):
            self._due_housekeeping = now + RETRY_S
        self._set_newest()
        self._tell_live(now, "sending" if self._queued.get("queued_objects") else "idle")

    def _look_at_journal(self, now: float) -> None:
        over = self._round_over()  # first: what a finished round has proposed and queued is then seen below
        self._outbox.deliver()
        self._look_at_releases(now)
        if not self._idle and now < self._due_queue:
            return
        begun = time.monotonic()
        queue = self._journal.queue()
        if not queue and self._carousel(now):
            queue = self._journal.queue()
        self._schedule.refresh(queue)
        self._announce_objects()
        self._encoder.queued_bytes = sum(queued.coded_size * queued.passes_left for queued in queue)
        self._queued = {"queued_objects": len(queue), "queued_bytes": self._encoder.queued_bytes}
        self._due_queue = now + (time.monotonic() - begun) / QUEUE_SHARE
        if self._once and over and not queue and self._on_wire is None and self._closing_until is None:
            self._encoder.close(now)
            self._closing_until = now + CLOSING_S

    def _look_at_releases(self, now: float) -> None:
        proposals = self._journal.proposal_stamps()
        if proposals != self._proposals_seen:
            sign_proposals(self._journal, self._signer, time.time)
            self._refresh_releases()
            self._proposals_seen = proposals
        elif now >= self._due_release:
            for digest in self._release_digests.values():
                self._journal.repeat(digest)
        else:
            return
        self._due_release = now + self._settings.repeats.release_every
        self._due_queue = now

    def _carousel(self, now: float) -> bool:
        """Idle link time repeats the desired state, oldest first, for receivers that are new or missed something."""
        every = self._settings.repeats.carousel
        if self._once or every <= 0 or now < self._due_carousel:
            return False
        stamp = (self._journal.newest_object(), tuple(row.digest for row in self._newest))
        if stamp != self._desired_of:
            self._desired = self._journal.carriers(desired_contents(self._newest))
            self._desired_of = stamp
        if self._journal.repeat_oldest(self._desired, time.time() - every):
            return True
        self._due_carousel = now + min(CAROUSEL_S, every)
        return False

    def _refresh_releases(self) -> None:
        now = time.time()
        self._newest = self._journal.newest_releases()
        self._release_digests = {}
        for row in self._newest:
            digest = queue_release(self._journal, row, self._settings.coded, RELEASE_PASSES, now)
            self._release_digests[row.collection] = digest
            self._journal.repeat(digest)  # a session always carries the newest releases
        for path in self._journal.retire_releases(self._release_digests.values()):
            path.unlink(missing_ok=True)

    def _set_newest(self) -> None:
        self._encoder.newest = [
            Newest(row.collection, row.sequence, row.digest, self._release_toi(row)) for row in self._newest
        ]

    def _release_toi(self, row: ReleaseRow) -> int:
        digest = self._release_digests.get(row.collection)
        return self._session.toi_of(digest) if digest else 0

    def _round_over(self) -> bool:
        return self._round is None or self._journal.round_failed(self._round) is not None

    def _tell_live(self, now: float, state: str) -> None:
        """Say twice a second that we are alive, and what we do."""
        if now >= self._due_live:
            self._due_live = now + LIVE_S
            self._outbox.attempt(lambda: self._publish_live(now, state))
            notify.watchdog()

    def _publish_live(self, now: float, state: str) -> None:
        before, bytes_before = self._rate_mark
        rate = (self._wire_bytes - bytes_before) * 8 / (now - before) if now > before else 0.0
        self._rate_mark = (now, self._wire_bytes)
        document: dict[str, Any] = {
            "state": state,
            "epoch": self._session.parameters.epoch,
            "session": self._session.parameters.session_id.hex(),
            "object": self._live_object(),
            "rate_bits": round(rate),
            "datagrams": self._datagrams,
            "content_datagrams": self._content_datagrams,
            "wire_bytes": self._wire_bytes,
            "content_bytes": self._content_bytes,
            "objects_sent": self._objects_sent,
            "release": {newest.collection: newest.sequence for newest in self._encoder.newest},
            "started": self._started,
            "path": self._link.path,
            **self._queued,
        }
        self._journal.set_live("transmit", document, time.time())
        notify.status(f"{state}, {self._queued.get('queued_bytes', 0)} bytes queued, epoch {document['epoch']}")

    def _live_object(self) -> dict[str, Any] | None:
        block = self._on_wire
        if block is None:
            return None
        return {
            "label": block.queued.label,
            "kind": Kind(block.queued.kind).name.lower(),
            "sbn": block.shape.sbn,
            "blocks": self._session.entry_of(block.queued).geometry.blocks,
            "bytes": block.queued.coded_size,
            "pass": block.queued.passes_done + 1,
        }

    @property
    def _encoder(self) -> Encoder:
        return self._session.encoder
