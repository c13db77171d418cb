"""The loop of the capture role: receives, decodes, hands over, and tells how it goes; see capture.py."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

import structlog

from oci.blobs import BlobStore
from protocol.announcement import SessionParameters
from protocol.drops import Drop
from protocol.events import (
    BeaconReceived,
    BlockAbandoned,
    BlockComplete,
    Event,
    ObjectAnnounced,
    SessionOpened,
)
from protocol.handover import OpenSession
from protocol.incoming import IncomingBlock
from protocol.trust import Remembered
from protocol.wire import symbol_bytes
from receiver import handover
from receiver.assemble import Assembler
from receiver.config import ReceiverSettings
from receiver.far_lane import FarBlock, FarEvent, FarLane
from receiver.floor import Floor
from receiver.incidents import Incident
from receiver.journal import ReceiverJournal
from receiver.lane import NAP_S, Figures, Lane
from receiver.ledger import Ledger
from receiver.margin import is_margin
from receiver.messages import Begin
from receiver.partial_files import Bounds
from receiver.pulse import Pulse
from receiver.results import Block, BlockWritten, ObjectRefused, ObjectTaken, PartialForgotten
from receiver.senders import Trust
from receiver.wanted import Wanted
from runtime import notify
from runtime.errors import UserError
from runtime.reload import AGAIN, Reload
from runtime.signals import StopFlag
from runtime.terminal import human_rate

LIVE_S: Final = 0.5
RETRY_S: Final = 2.0
LANE_STOP_S: Final = 2.0
STRANGERS: Final = {
    Drop.NOT_FOR_US: "add this receiver's public key to the sender's receivers",
    Drop.UNTRUSTED_SENDER: "add the sender's public key to senders, if it is yours",
    Drop.BAD_SIGNATURE: "somebody else sends in the name of a trusted sender",
    Drop.STALE_EPOCH: "an old session is played again, or the sender lost its journal",
}

log = structlog.get_logger()


class Capture:
    """The loop's state."""

    def __init__(
        self,
        settings: ReceiverSettings,
        journal: ReceiverJournal,
        lane: Lane,
        trusted: Trust,
        remembered: Remembered,
        floor: Floor | None = None,
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._lane = lane
        self._spool = BlobStore(settings.spool)
        self._floor = floor or Floor(settings.state)
        limits = settings.limits
        bounds = Bounds(limits.partial_space, limits.partial_age, limits.disk_reserve)
        self._assembler = Assembler(self._spool, settings.partial, settings.journal, trusted, bounds, self._floor)
        self._ledger = Ledger(settings.journal, settings.alarms)
        self._pulse = Pulse()
        self._remembered = remembered
        self._far: list[FarLane] = []
        self._lanes: list[Lane | FarLane] = [lane]
        self._wanted = Wanted(
            self._spool,
            journal,
            settings.limits,
            self._lanes,
            self._assembler.start(),
            lane.decoder.counters.drops,
        )
        self._sessions: dict[bytes, bytes] = {}  # sender -> session id
        self._closed: dict[bytes, float] = {}  # session id -> when its sender said that all was sent (Unix s)
        self._told: set[Drop] = set()
        self._stop: StopFlag | None = None
        self._session: dict[str, Any] | None = None
        self._symbol_bytes = 0
        self._last_beacon = 0.0
        self._due_live = 0.0
        self._rate_mark = (time.monotonic(), 0)
        self._ledger.start()

    def start_lanes(self, begins: Iterable[Begin], sockets: Iterable[socket.socket], stop: StopFlag) -> None:
        """Start the processes of the further lanes, each with its socket, and wait until they are ready."""
        for begin, passed in zip(begins, sockets, strict=True):
            lane = FarLane(begin, passed)
            self._far.append(lane)
            self._lanes.append(lane)
            self._lane.link.watch(lane.fileno())
        while not all(far.ready for far in self._far) and not stop.wait(0.01):
            for far in self._far:
                for event in far.listen():
                    self._handle(event)

    def take_over(self, former: list[OpenSession]) -> None:
        """Go on with the sessions and the unfinished blocks that a predecessor has left."""
        decoder = self._lane.decoder
        for event in decoder.take_over(former):
            self._handle(event)
        for event in decoder.take_blocks(former):
            self._handle(event)
        if former:
            log.info("taken_over", sessions=len(former), blocks=sum(len(each.blocks) for each in former))

    def run(self, stop: StopFlag, reload: Reload[ReceiverSettings]) -> int:
        """Receive until stopped; the exit code, or AGAIN for newer settings."""
        self._stop = stop
        while not stop.is_set():
            if self._assembler.failed is not None or not self._ledger.alive:
                with contextlib.suppress(OSError):
                    self._floor.keep()  # the whole state folder may have vanished
                raise UserError(
                    "capture stopped: a thread failed, see the log line before"
                ) from self._assembler.failed
            if self._lane.link.wait(0.1):
                self._lane.turn(self._handle, self._results)
            for far in self._far:
                for event in far.listen():
                    self._handle(event)
            self._results()
            now = time.monotonic()
            if now >= self._due_live:
                self._due_live = now + LIVE_S
                self._wanted.patrol()
                self._tell_strangers()
                self._publish_live(now, "receiving")
                notify.watchdog()
                if reload.wanted():
                    return AGAIN
        notify.stopping()
        return 0

    def close(self) -> None:
        """Save what is in flight, for a successor and on disk, and free what the role holds."""
        handover.save(self._settings.state, self._lane.decoder.hand_over())
        for event in self._lane.decoder.close():
            self._handle(event)
        self._stop_lanes()
        if self._assembler.failed is None:
            self._assembler.stop()
        self._results()
        self._publish_live(time.monotonic(), "stopped")
        for far in self._far:
            far.close()
        self._ledger.stop()
        self._lane.link.close()
        self._journal.close()

    def _stop_lanes(self) -> None:
        """Take what the further lanes have in flight."""
        until = time.monotonic() + LANE_STOP_S
        stopping = list(self._far)
        for far in self._far:
            far.stop()
        while stopping and time.monotonic() < until:
            stopping = [far for far in stopping if not self._stopped(far)]
            self._results()
            time.sleep(NAP_S)

    def _stopped(self, far: FarLane) -> bool:
        """Take what a lane that shall stop has said; return whether that was all. Its faults are logged."""
        try:
            for event in far.listen():
                self._handle(event)
        except UserError as error:
            log.error("lane_failed", error=str(error))
            return True
        return far.stopped

    # --- what the decoder says -------------------------------------------------------------------------------------

    def _handle(self, event: Event | FarEvent) -> None:
        match event:
            case BlockComplete(block) | BlockAbandoned(block):
                self._put(block)
            case FarBlock():
                self._put(event)
            case ObjectAnnounced(announced):
                self._wanted.announced(announced)
            case BeaconReceived(_, session, beacon):
                self._last_beacon = time.time()
                self._pulse.beacon(session, beacon)
                self._ledger.heard(beacon.newest, self._last_beacon)
                if beacon.closing:
                    self._closed.setdefault(session, self._last_beacon)
            case SessionOpened(sender, parameters):
                self._session_opened(sender, parameters)

    def _put(self, block: Block) -> None:
        if self._assembler.put(block):
            self._give_back(block)

    def _give_back(self, block: Block) -> None:
        if isinstance(block, IncomingBlock):
            self._lane.give_back(block)
        elif isinstance(block, FarBlock):
            self._far[block.owner.lane - 1].give_back(block)

    def _session_opened(self, sender: bytes, parameters: SessionParameters) -> None:
        """A lane has found a session: first its epoch goes to disk, then all lanes learn of it."""
        epoch, session = self._remembered.epochs.get(sender, (0, b""))
        newest = parameters.epoch, parameters.session_id
        if newest[0] > epoch or newest == (epoch, session):
            if self._sessions.get(sender) != parameters.session_id:
                self._begin_session(sender, parameters)
            epoch, session = newest
        for far in self._far:  # also the answer to a lane that was told an older one
            far.epoch(sender, epoch, session)

    def _begin_session(self, sender: bytes, parameters: SessionParameters) -> None:
        self._save_epoch(sender, parameters)
        self._remembered.epochs[sender] = parameters.epoch, parameters.session_id
        self._session = {
            "epoch": parameters.epoch,
            "sender": sender.hex(),
            "datagram_bytes": parameters.datagram_bytes,
        }
        self._symbol_bytes = symbol_bytes(parameters.datagram_bytes)
        self._sessions[sender] = parameters.session_id
        running = set(self._sessions.values())
        self._closed = {session: when for session, when in self._closed.items() if session in running}
        self._wanted.sessions(running)
        log.info("session_joined", **self._session)
        ours = self._settings.listen.lanes
        if parameters.lanes != ours:
            log.warning(
                "lanes_differ",
                sender=parameters.lanes,
                receiver=ours,
                mend="set listen.lanes to the sender's link.lanes: what it sends on other lanes is not received",
            )

    def _save_epoch(self, sender: bytes, parameters: SessionParameters) -> None:
        told = False
        while True:
            try:
                self._floor.epoch(sender, parameters.epoch, parameters.session_id)
                self._journal.save_epoch(sender, parameters.epoch, parameters.session_id)
            except (OSError, sqlite3.OperationalError) as error:
                if not told:
                    log.error("journal_failed", error=str(error), retry_s=RETRY_S)
                    told = True
                notify.watchdog()
                if self._stop is not None and self._stop.wait(RETRY_S):
                    raise
            else:
                return

    # --- what the threads say --------------------------------------------------------------------------------------

    def _results(self) -> None:
        results = self._assembler.results
        while results:
            result = results.popleft()
            match result:
                case BlockWritten(block):
                    self._give_back(block)
                    self._wanted.written(result)
                    self._pulse.sending(block.owner.entry.digest)
                    if result.no_room:
                        self._lane.decoder.counters.drops[Drop.NO_ROOM] += 1
                case ObjectTaken():
                    self._wanted.taken(result)
                case ObjectRefused(owner, drop, detail):
                    self._wanted.refuse(result)
                    entry = owner.entry
                    self._ledger.note(
                        Incident("object_dropped", entry.digest, drop.value, detail, entry.content_size)
                    )
                case PartialForgotten(partial, reason):
                    self._wanted.start_again(partial.coded_digest)
                    self._ledger.note(Incident("partial_given_up", partial.digest, reason, bytes=partial.coded_size))

    def _tell_strangers(self) -> None:
        """Say once why announcements are refused: to whoever set up keys, silence would look like a broken link."""
        for reason, advice in STRANGERS.items():
            if reason not in self._told and self._lane.decoder.counters.drops.get(reason, 0):
                self._told.add(reason)
                log.warning("session_refused", reason=reason.value, advice=advice)

    # --- what status sees ------------------------------------------------------------------------------------------

    def _publish_live(self, now: float, state: str) -> None:
        lanes = [lane.figures() for lane in self._lanes]
        counts: Counter[str] = Counter()
        for lane in lanes:
            counts.update(lane.counts)
        before, bytes_before = self._rate_mark
        rate = (counts["bytes"] - bytes_before) * 8 / (now - before) if now > before else 0.0
        self._rate_mark = (now, counts["bytes"])
        drops = {name.removeprefix("drop."): count for name, count in counts.items() if name.startswith("drop.")}
        self._pulse.turn(counts, drops)
        self._assembler.live_s = self._pulse.live_s
        on_wire = self._pulse.on_wire
        if on_wire is not None and (digest := self._wanted.named(*on_wire)) is not None:
            self._pulse.sending(digest)
        document = {
            "state": state,
            **{name: count for name, count in counts.items() if not name.startswith("drop.") and not is_margin(name)},
            **self._pulse.document(drops, self._symbol_bytes),
            "trouble": self._assembler.trouble.document(),
            "drops": drops,
            "worst_repair": max((lane.worst_repair for lane in lanes), key=lambda of: of[0] / max(1, of[1])),
            "session": self._session,
            "last_datagram": max(lane.last_datagram for lane in lanes),
            "last_beacon": self._last_beacon,
            "closed": max(self._closed.values()) if 0 < len(self._closed) == len(self._sessions) else None,
            "objects": self._wanted.shown(),
            "rate_bits": round(rate),
            "path": lanes[0].path,
            "lanes": [_shown(lane) for lane in lanes] if self._far else [],
        }
        self._ledger.publish(document, counts)
        notify.status(self._line(state, rate, counts))

    def _line(self, state: str, rate: float, counts: Counter[str]) -> str:
        """What ``systemctl status`` shows."""
        if self._session is None:
            return f"{state}: no session yet, {counts['datagrams']:,} datagrams seen"
        sent = counts["datagrams"] + counts["lost"]
        objects = len(self._wanted)
        return (
            f"{state}: session {self._session['epoch']} of {self._session['sender'][:12]}, {human_rate(rate)}, "
            f"{objects} object{'' if objects == 1 else 's'} open, {100 * counts['lost'] / max(1, sent):.2f} % lost, "
            f"{counts['kernel_drops']:,} dropped by this kernel"
        )


def _shown(lane: Figures) -> dict[str, Any]:
    """What status shows of one of several lanes."""
    return {
        "datagrams": lane.counts.get("datagrams", 0),
        "lost": lane.counts.get("lost", 0),
        "last_datagram": lane.last_datagram,
        "path": lane.path,
    }
