"""The capture role: the diode's socket in, blobs and releases in the spool and journal out.

    diode ═▶ link.py ─▶ protocol.Decoder ─▶ assemble.py (threads) ─▶ intake.py ─▶ spool, journal
                   └─▶ ledger.py (thread) ─▶ journal: counters, beacons, what status shows

The loop here only receives, decodes and hands over. It waits for no disk and no lock, with two exceptions: the epoch
of a new session has to be on disk before anything of that session counts; and while every block buffer is on its way
to disk, the kernel's buffer may hold what arrives for ROOM_S. Needs no network but its socket, and no registry
credentials.
"""

from __future__ import annotations

import sqlite3
import sys
import time
from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

import structlog

from oci.blobs import BlobStore
from protocol.decoder import Decoder, ReceiveBuffer
from protocol.drops import Drop
from protocol.events import (
    BeaconReceived,
    BlockAbandoned,
    BlockComplete,
    Event,
    ObjectAnnounced,
    SessionOpened,
)
from protocol.incoming import IncomingObject
from protocol.limits import TRACKED_OBJECTS_MAX
from protocol.objects import Kind, ObjectEntry
from protocol.ranges import RangeSet
from protocol.trust import Remembered, TrustedSenders
from receiver.assemble import Assembler, BlockWritten, ObjectRefused, ObjectTaken, PartialForgotten
from receiver.config import ReceiverSettings
from receiver.journal import ReceiverJournal
from receiver.ledger import Ledger
from receiver.link import Link
from runtime import keys, logs, notify
from runtime.errors import UserError
from runtime.signals import StopFlag

LIVE_S: Final = 0.5
SWITCH_INTERVAL_S: Final = 0.000_5  # the socket's loop gets the interpreter back this soon from other threads
BURSTS_PER_TURN: Final = 64  # between looks at the clock
RETRY_S: Final = 2.0
ROOM_S: Final = 0.05  # without a single buffer coming back; then what arrives is dropped by name
REFUSED_MAX: Final = 4_096
PATROL: Final = 64  # objects looked after at each LIVE_S
STRANGERS: Final = {
    Drop.NOT_FOR_US: "add this receiver's public key to the sender's receivers",
    Drop.UNTRUSTED_SENDER: "add the sender's public key to senders, if it is yours",
    Drop.BAD_SIGNATURE: "somebody else sends in the name of a trusted sender",
    Drop.STALE_EPOCH: "an old session is played again, or the sender lost its journal",
}

log = structlog.get_logger()


def main(settings: ReceiverSettings, once: bool = False) -> int:
    """Run the role until stopped (``once`` changes nothing here: publish knows when all is done)."""
    logs.configure(settings.logs.format, settings.logs.level)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    private = keys.load_hpke_key(settings.hpke_key, created_by=ReceiverSettings.created_by)
    trusted = TrustedSenders.of(
        *(keys.load_signing_public(path, created_by="checkvalve-sender init") for path in settings.senders)
    )
    journal = ReceiverJournal(settings.journal)
    link = Link(settings.listen.on, settings.listen.receive_buffer, gro=settings.listen.gro)
    remembered = Remembered(epochs=journal.epochs())
    capture = _Capture(settings, journal, link, Decoder(trusted, private, remembered), trusted)
    host, port = link.address
    log.info(
        "listening",
        on=f"{host}:{port}",
        receive_buffer=link.receive_buffer,
        gro=link.gro,
        path=link.path,
        senders=len(trusted.keys),
    )
    with StopFlag() as stop:
        notify.ready()
        try:
            capture.run(stop)
        finally:
            capture.close()
    return 0


class _Capture:
    """The loop's state."""

    def __init__(
        self,
        settings: ReceiverSettings,
        journal: ReceiverJournal,
        link: Link,
        decoder: Decoder,
        trusted: TrustedSenders,
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._link = link
        self._decoder = decoder
        self._spool = BlobStore(settings.spool)
        self._assembler = Assembler(
            self._spool, settings.partial, settings.journal, trusted, settings.limits.partial_space
        )
        self._ledger = Ledger(settings.journal)
        # Keyed by coded digest; the first is what is on disk, the others are of running sessions.
        self._have = self._assembler.start()
        self._receiving: OrderedDict[str, IncomingObject] = OrderedDict()
        self._settled: OrderedDict[str, IncomingObject] = OrderedDict()  # here already
        self._refused: OrderedDict[tuple[object, ...], None] = OrderedDict()  # turned out wrong, in this process
        self._sessions: dict[bytes, bytes] = {}  # sender -> session id
        self._closed: dict[bytes, float] = {}  # session id -> when its sender said that all was sent (Unix s)
        self._told: set[Drop] = set()
        self._patient = True  # whether waiting for a block buffer is worth it
        self._stop: StopFlag | None = None
        self._session: dict[str, Any] | None = None
        self._last_datagram = self._last_beacon = 0.0
        self._due_live = 0.0
        self._rate_mark = (time.monotonic(), 0)
        self._ledger.start()

    def run(self, stop: StopFlag) -> None:
        """Receive until stopped."""
        self._stop = stop
        buffer = ReceiveBuffer()
        while not stop.is_set():
            if self._assembler.failed is not None or not self._ledger.alive:
                raise UserError(
                    "capture stopped: a thread failed, see the log line before"
                ) from self._assembler.failed
            if self._link.wait(0.1):
                self._turn(buffer)
            self._results()
            now = time.monotonic()
            if now >= self._due_live:
                self._due_live = now + LIVE_S
                self._patrol()
                self._tell_strangers()
                self._publish_live(now, "receiving")
                notify.watchdog()

    def close(self) -> None:
        """Save what is in flight and free what the role holds."""
        for event in self._decoder.close():
            self._handle(event)
        if self._assembler.failed is None:
            self._assembler.stop()
        self._results()
        self._publish_live(time.monotonic(), "stopped")
        self._ledger.stop()
        self._link.close()
        self._journal.close()

    def _turn(self, buffer: ReceiveBuffer) -> None:
        receive, decode, results = self._link.receive, self._decoder.receive_burst, self._assembler.results
        for _ in range(BURSTS_PER_TURN):
            size, segment = receive(buffer)
            if segment == 0:
                break
            for event in decode(buffer, size, segment):
                self._handle(event)
            if results:  # small objects use up the block buffers within a turn
                self._results()
            if self._patient and self._decoder.out_of_buffers:
                self._wait_for_room()
        self._last_datagram = time.time()

    def _wait_for_room(self) -> None:
        """Let the threads write and the kernel hold what arrives, until a buffer is back or they seem stuck."""
        until = time.monotonic() + ROOM_S
        while self._decoder.out_of_buffers:
            if time.monotonic() >= until:
                self._patient = False
                return
            time.sleep(0.001)
            self._results()

    # --- what the decoder says -------------------------------------------------------------------------------------

    def _handle(self, event: Event) -> None:
        match event:
            case BlockComplete(block) | BlockAbandoned(block):
                if self._assembler.put(block):
                    self._decoder.give_back(block)
            case ObjectAnnounced(announced):
                self._announced(announced)
            case BeaconReceived(_, session, beacon):
                self._last_beacon = time.time()
                self._ledger.heard(beacon.newest, self._last_beacon)
                if beacon.closing:
                    self._closed.setdefault(session, self._last_beacon)
            case SessionOpened(sender, parameters):
                self._save_epoch(event)
                self._session = {
                    "epoch": parameters.epoch,
                    "sender": sender.hex(),
                    "datagram_bytes": parameters.datagram_bytes,
                }
                self._sessions[sender] = parameters.session_id
                running = set(self._sessions.values())
                self._closed = {session: when for session, when in self._closed.items() if session in running}
                for objects in (self._receiving, self._settled):
                    for digest in [digest for digest, owner in objects.items() if owner.session not in running]:
                        del objects[digest]
                log.info("session_joined", **self._session)

    def _save_epoch(self, opened: SessionOpened) -> None:
        told = False
        while True:
            try:
                parameters = opened.parameters
                self._journal.save_epoch(opened.sender, parameters.epoch, parameters.session_id)
            except sqlite3.OperationalError as error:
                if not told:
                    log.error("journal_failed", error=str(error), retry_s=RETRY_S)
                    told = True
                notify.watchdog()
                if self._stop is not None and self._stop.wait(RETRY_S):
                    raise
            else:
                return

    def _announced(self, announced: IncomingObject) -> None:
        entry, limits = announced.entry, self._settings.limits
        for size, most, key in (
            (entry.content_size, limits.object_size, "limits.object_size"),
            (entry.geometry.size, limits.object_size, "limits.object_size"),
            (entry.geometry.size, limits.partial_space, "limits.partial_space"),
        ):
            if size > most:
                self._drop(Drop.OBJECT_TOO_LARGE)
                log.warning("object_refused", digest=entry.digest, bytes=size, reason=key)
                return
        if _identity(entry) in self._refused:
            return
        if self._is_here(entry):
            _keep(self._settled, announced, TRACKED_OBJECTS_MAX)
            return
        self._decoder.want(announced, self._have.get(entry.coded_digest) or RangeSet())
        _keep(self._receiving, announced, TRACKED_OBJECTS_MAX)

    def _is_here(self, entry: ObjectEntry) -> bool:
        if entry.kind is Kind.BLOB:
            return self._spool.size(entry.digest) is not None
        return self._journal.is_unpacked(entry.digest)

    def _patrol(self) -> None:
        """Look whether what was here still is: publish removes content that was damaged on disk."""
        for _ in range(min(PATROL, len(self._settled))):
            coded_digest, owner = self._settled.popitem(last=False)
            entry = owner.entry
            here = self._is_here(entry)
            members = self._journal.members(entry.digest) if here and entry.kind is Kind.BATCH else ()
            if here and all(self._spool.size(member) is not None for member in members):
                self._settled[coded_digest] = owner
            else:
                log.warning("object_gone", kind=entry.kind.name.lower(), digest=entry.digest)
                self._decoder.forget(owner)
                self._decoder.want(owner, owner.have)
                _keep(self._receiving, owner, TRACKED_OBJECTS_MAX)
            if members:
                return  # enough for one turn: a batch has up to 4,096

    # --- what the threads say --------------------------------------------------------------------------------------

    def _results(self) -> None:
        results = self._assembler.results
        while results:
            result = results.popleft()
            match result:
                case BlockWritten():
                    self._written(result)
                case ObjectTaken():
                    self._taken(result)
                case ObjectRefused():
                    self._refuse(result)
                case PartialForgotten(coded_digest):
                    self._start_again(coded_digest)

    def _written(self, result: BlockWritten) -> None:
        block, owner = result.block, result.block.owner
        self._decoder.give_back(block)
        self._patient = True
        if result.whole:
            return
        for start, end in result.ranges:
            owner.have.add(start, end)
        if result.ranges and owner.wanted:
            self._have.setdefault(owner.entry.coded_digest, owner.have)
        shape = block.shape
        if block.complete and not owner.have.covers(shape.offset, shape.offset + shape.size):
            # given up or with the intake meanwhile: let the block come again, should it be needed
            owner.done = RangeSet(_without(owner.done, shape.sbn))

    def _taken(self, result: ObjectTaken) -> None:
        entry = result.owner.entry
        owner = self._receiving.pop(entry.coded_digest, result.owner)
        owner.wanted = result.owner.wanted = False
        if owner.session in self._sessions.values():
            _keep(self._settled, owner, TRACKED_OBJECTS_MAX)
        self._have.pop(entry.coded_digest, None)
        log.info(
            "object_received",
            kind=entry.kind.name.lower(),
            digest=entry.digest,
            bytes=entry.content_size,
            wire_bytes=entry.geometry.size,
        )

    def _refuse(self, result: ObjectRefused) -> None:
        entry = result.owner.entry
        self._drop(result.drop)
        log.warning("object_dropped", digest=entry.digest, reason=result.drop.value, detail=result.detail)
        if result.drop is Drop.CODED_DIGEST_MISMATCH:  # damaged on our side; the next pass may bring it right
            self._decoder.forget(result.owner)
            self._start_again(entry.coded_digest)
            return
        self._have.pop(entry.coded_digest, None)
        owner = self._receiving.pop(entry.coded_digest, result.owner)
        owner.wanted = result.owner.wanted = False
        self._refused[_identity(entry)] = None
        if len(self._refused) > REFUSED_MAX:
            self._refused.popitem(last=False)

    def _start_again(self, coded_digest: str) -> None:
        self._have.pop(coded_digest, None)
        owner = self._receiving.get(coded_digest)
        if owner is not None:
            self._decoder.forget(owner)

    def _tell_strangers(self) -> None:
        """Say once why announcements are refused: to whoever set up keys, silence would look like a broken link."""
        for reason, advice in STRANGERS.items():
            if reason not in self._told and self._decoder.counters.drops.get(reason, 0):
                self._told.add(reason)
                log.warning("session_refused", reason=reason.value, advice=advice)

    def _drop(self, reason: Drop) -> None:
        self._decoder.counters.drops[reason] += 1

    # --- what status sees ------------------------------------------------------------------------------------------

    def _counts(self) -> dict[str, int]:
        counters = self._decoder.counters
        return {
            "datagrams": counters.datagrams,
            "bytes": counters.bytes,
            "symbols": counters.symbols,
            "surplus": counters.surplus,
            "repaired": counters.repaired,
            "blocks": counters.blocks,
            "lost": self._decoder.lost,
            "kernel_drops": self._link.kernel_drops,
            **{f"drop.{drop.value}": count for drop, count in counters.drops.items()},
        }

    def _publish_live(self, now: float, state: str) -> None:
        counts = self._counts()
        before, bytes_before = self._rate_mark
        rate = (counts["bytes"] - bytes_before) * 8 / (now - before) if now > before else 0.0
        self._rate_mark = (now, counts["bytes"])
        drops = {name.removeprefix("drop."): count for name, count in counts.items() if name.startswith("drop.")}
        worst = self._decoder.counters
        document = {
            "state": state,
            **{name: count for name, count in counts.items() if not name.startswith("drop.")},
            "drops": drops,
            "worst_repair": [worst.worst_repair, worst.worst_repair_of],
            "session": self._session,
            "last_datagram": self._last_datagram,
            "last_beacon": self._last_beacon,
            "closed": max(self._closed.values()) if 0 < len(self._closed) == len(self._sessions) else None,
            "objects": [
                {
                    "digest": owner.entry.digest,
                    "kind": owner.entry.kind.name.lower(),
                    "done_bytes": min(owner.have.total, owner.entry.geometry.size),
                    "size": owner.entry.geometry.size,
                }
                for owner in islice(self._receiving.values(), 100)
            ],
            "rate_bits": round(rate),
            "path": self._link.path,
        }
        self._ledger.publish(document, counts)
        notify.status(
            f"{state}, {counts['datagrams']} datagrams, {counts['lost']} lost, {len(self._receiving)} objects open"
        )


def _identity(entry: ObjectEntry) -> tuple[object, ...]:
    return entry.kind, entry.coding, entry.digest, entry.content_size, entry.coded_digest


def _keep(objects: OrderedDict[str, IncomingObject], owner: IncomingObject, most: int) -> None:
    """Put *owner* at the end; the oldest gives way beyond *most*."""
    objects[owner.entry.coded_digest] = owner
    objects.move_to_end(owner.entry.coded_digest)
    if len(objects) > most:
        objects.popitem(last=False)


def _without(numbers: RangeSet, number: int) -> Iterator[tuple[int, int]]:
    for start, end in numbers:
        if start <= number < end:
            yield start, number
            yield number + 1, end
        else:
            yield start, end
