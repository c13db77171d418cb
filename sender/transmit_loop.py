"""The loop of the transmit role: keeps the wire busy, and tells how it goes; see transmit.py."""

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
from protocol.objects import Kind
from runtime import notify
from runtime.reload import AGAIN, Reload
from runtime.signals import StopFlag
from runtime.terminal import human_bytes, human_rate
from runtime.zones import zone
from sender.carousel import Carousel
from sender.config import SenderSettings
from sender.decisions import Decisions
from sender.dispatch import Dispatch, Outcome
from sender.far_lane import FarLane
from sender.gate import Gate
from sender.journal import QueuedObject, ReleaseRow, SenderJournal
from sender.lane import Lane
from sender.outbox import RETRY_S, Outbox
from sender.releases import Signer, desired_contents, queue_release
from sender.repair_queue import RepairQueue, bytes_to_go
from sender.schedule import Schedule
from sender.session import Session

HOUSEKEEPING_S: Final = 0.2
LIVE_S: Final = 0.5
CLOSING_S: Final = 1.0  # how long the end of a session is announced
LOOKAHEAD_S: Final = 0.1  # of link time that the object table describes ahead
IDLE_S: Final = 0.01
LISTEN_S: Final = 0.002  # between looks at what further lanes say
WINDOW_S: Final = 0.01  # between looks at the windows
QUEUE_SHARE: Final = 0.05  # of the time, at most, goes into reading a long queue
RELEASE_PASSES: Final = 3

log = structlog.get_logger()


class Transmitter:
    """The loop's state. Times are monotonic seconds."""

    def __init__(
        self,
        settings: SenderSettings,
        journal: SenderJournal,
        lane: Lane,
        open_session: Callable[[], Session],
        signer: Ed25519PrivateKey,
        *,
        once: bool,
        round_token: str | None,
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._decisions = Decisions(journal)
        self._repairs = RepairQueue(journal)
        self._carousel = Carousel(journal, settings.repeats.carousel)
        self._signer = Signer(journal, signer, settings.collections)
        self._lane = lane
        lane.on_down = lambda: self._tell_live(time.monotonic(), "link down")
        self._far: list[FarLane] = []
        self._lanes: list[Lane | FarLane] = [lane]
        self._open_session = open_session
        self._session = open_session()
        journal.be_brief()
        turn = self._session.parameters.epoch - 1
        self._schedule = Schedule(self._session.profile.geometry, settings.repeats.spacing, turn)
        self._once = once
        self._round = round_token
        self._dispatch = Dispatch(self._schedule, settings.link.rate / 8 * LOOKAHEAD_S)
        self._gate = Gate(
            settings.windows(),
            self._dispatch,
            settings.link.rate,
            urgent_ignores=settings.schedule.urgent_ignores_windows,
            zone=zone(settings.schedule.timezone),
        )
        self._urgent: list[QueuedObject] = []  # and repairs, as seen last
        self._newest: list[ReleaseRow] = []
        self._release_digests: dict[str, str] = {}  # collection -> content digest of its release object
        self._proposals_seen: object = None
        self._outbox = Outbox()
        self._due_housekeeping = self._due_live = self._due_queue = float("-inf")
        self._due_listen = self._due_renewal = self._due_window = float("-inf")
        self._due_release = time.monotonic() + settings.repeats.release_every
        self._closing_until: float | None = None
        self._started = time.time()
        self._objects_sent = 0
        self._queued: dict[str, int] = {}
        self._rate_mark = (time.monotonic(), 0)

    def run(self, stop: StopFlag, reload: Reload[SenderSettings]) -> int:
        """Drive the wire until stopped, or until the closing of a ``once`` run has been announced; the exit code.

        AGAIN for newer settings.
        """
        for number in range(1, self._settings.link.lanes):
            self._far.append(FarLane(self._settings, number))
            self._lanes.append(self._far[-1])
        self._open_lanes()
        reload.started()
        while not stop.is_set():
            now = time.monotonic()
            if reload.wanted():
                return AGAIN
            if now >= self._due_window:
                self._look_at_windows(now)
            if now >= self._due_housekeeping:
                self._housekeeping(now)
                if self._closing_until is not None and now >= self._closing_until:
                    break
            if self._far and now >= self._due_listen:
                self._due_listen = now + LISTEN_S
                for far in self._far:
                    far.listen()
            self._feed(now)
            sent = self._lane.turn(now, stop)
            outcome = self._dispatch.collect(now)
            if outcome is not None:
                self._learn(outcome)
            if not sent:
                idle = min(IDLE_S, max(0.0, self._lane.next_time() - now)) or IDLE_S
                stop.wait(idle, [far.fileno() for far in self._far])
                self._due_listen = now
        self._outbox.attempt(self._outbox.deliver)
        notify.stopping()
        self._outbox.attempt(lambda: self._publish_live(time.monotonic(), "closed"))
        return 0

    def close(self) -> None:
        """Free what the role holds."""
        for far in self._far:
            far.close()
        self._lane.close()
        self._journal.close()

    # --- the lanes -----------------------------------------------------------------------------------------------

    def _open_lanes(self) -> None:
        self._lane.open(self._session.opening, self._encoder)
        for far in self._far:
            far.open(self._session.opening)
        self._dispatch.open(self._session, self._lanes)

    def _feed(self, now: float) -> None:
        """Keep the lanes busy; a new session waits until what they have has left."""
        if self._far:
            self._session.sealed_elsewhere = sum(far.sealed for far in self._far)
        if self._session.worn and now >= self._due_renewal and not self._encoder.closing:
            if self._dispatch.busy:
                return
            self._renew(now)
        self._dispatch.feed(now)

    def _look_at_windows(self, now: float) -> None:
        self._due_window = now + WINDOW_S if self._settings.schedule.windows else float("inf")
        was_open = self._gate.open
        if self._gate.look(time.time()):
            for lane in self._lanes:
                lane.set_rate(self._gate.rate / len(self._lanes), now)
        if self._gate.open != was_open:
            log.info("window_opened" if self._gate.open else "window_closed", until=self._gate.until, once=self._once)

    def _renew(self, now: float) -> None:
        try:
            self._session = self._open_session()
        except sqlite3.OperationalError as error:  # the old session has as much again to go before its limit
            log.error("session_not_renewed", error=str(error))
            self._due_renewal = now + RETRY_S
            return
        self._open_lanes()
        self._due_release = self._due_housekeeping = now  # every session carries the newest releases
        self._encoder.queued_bytes = self._queued.get("queued_bytes", 0)
        self._set_newest()

    def _learn(self, outcome: Outcome) -> None:
        for queued in outcome.passes:
            if queued.spans:
                self._outbox.later(partial(self._repairs.done, queued))
                log.info("repair_sent", label=queued.label, digest=queued.digest, bytes=bytes_to_go(queued))
                continue
            self._outbox.later(partial(self._journal.note_pass, queued.id, time.time()))
            self._objects_sent += 1
            log.info(
                "object_sent",
                label=queued.label,
                digest=queued.digest,
                bytes=queued.coded_size,
                passes=queued.passes_done + 1,
            )
        if outcome.passes and self._idle:
            self._due_housekeeping = min(self._due_housekeeping, time.monotonic() + IDLE_S)
        for queued, reason in outcome.unreadable:
            log.error("object_unreadable", label=queued.label, path=str(queued.path), error=reason)
            self._outbox.later(partial(self._repairs.drop_object, queued))
            if queued.kind == Kind.RELEASE:  # ours to make again
                self._proposals_seen = None
            self._carousel.forget()
            self._due_housekeeping = time.monotonic()

    @property
    def _idle(self) -> bool:
        """Whether all that is known to be queued has left."""
        return not self._dispatch.busy and self._schedule.empty

    # --- a few times a second ------------------------------------------------------------------------------------

    def _housekeeping(self, now: float) -> None:
        going_round = self._schedule.empty and self._carousel.due(now)
        self._due_housekeeping = now + (IDLE_S if going_round else HOUSEKEEPING_S)
        if not self._outbox.attempt(lambda: self._look_at_journal(now)):
            self._due_housekeeping = now + RETRY_S
        self._set_newest()
        self._tell_live(now, self._state())

    def _state(self) -> str:
        if not self._queued.get("queued_objects"):
            return "idle"
        return "sending" if self._gate.open or self._dispatch.busy else "waiting for a window"

    def _look_at_journal(self, now: float) -> None:
        over = self._round_over()  # first: what a finished round has proposed and queued is then seen below
        self._outbox.deliver()
        self._look_at_releases(now)
        self._look_at_urgent()
        if not self._idle and now < self._due_queue:
            return
        begun = time.monotonic()
        queue = self._journal.queue() + self._repairs.queue()
        self._schedule.refresh(queue)
        if self._schedule.empty and self._repeat(now):  # while the last blocks before are on the wire
            queue = self._journal.queue() + self._repairs.queue()
            self._schedule.refresh(queue)
        self._dispatch.announce()
        self._encoder.queued_bytes = sum(map(bytes_to_go, queue))
        self._queued = {
            "queued_objects": len(queue),
            "queued_bytes": self._encoder.queued_bytes,
            "queued_urgent": sum(queued.urgent for queued in self._urgent),
            "queued_repairs": sum(bool(queued.spans) for queued in self._urgent),
        }
        self._due_queue = now + (time.monotonic() - begun) / QUEUE_SHARE
        if self._once and over and not queue and not self._dispatch.busy and self._closing_until is None:
            for lane in self._lanes:
                lane.end_session(now)
            self._closing_until = now + CLOSING_S

    def _look_at_urgent(self) -> None:
        """See what is urgent or a repair each time, where the whole of a long queue is looked at seldom."""
        urgent = self._repairs.queue() + self._journal.urgent()
        if urgent != self._urgent:
            self._urgent = urgent
            self._schedule.hurry(urgent)
            self._dispatch.announce()

    def _look_at_releases(self, now: float) -> None:
        proposals = self._decisions.stamps()
        if proposals != self._proposals_seen:
            self._signer.sign_approved()
            self._refresh_releases()
            self._proposals_seen = proposals
        elif now >= self._due_release:
            for digest in self._release_digests.values():
                self._journal.repeat(digest)
        else:
            return
        self._due_release = now + self._settings.repeats.release_every
        self._due_queue = now

    def _repeat(self, now: float) -> bool:
        """Idle link time repeats the desired state; whether anything was queued for that."""
        share = self._settings.schedule.carousel_share
        if self._once or share <= 0 or not self._gate.open:
            return False
        size = self._carousel.turn(self._newest, now, time.time())
        if size is not None and share < 1:
            self._carousel.wait(now, self._link_time(size) / share)
        return size is not None

    def _link_time(self, coded_size: int) -> float:
        """Return the seconds that a pass takes of the link at the rate it has now."""
        datagrams = self._session.profile.geometry(coded_size).datagrams()
        link = self._lane.link
        return datagrams * (link.datagram_bytes + link.header_bytes) * 8 / self._gate.rate

    def _refresh_releases(self) -> None:
        now = time.time()
        self._newest = self._journal.newest_releases()
        self._journal.clear(desired_contents(self._newest))  # a crash may have come between signing and this
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
        wire_bytes = sum(lane.wire_bytes for lane in self._lanes)
        before, bytes_before = self._rate_mark
        rate = (wire_bytes - bytes_before) * 8 / (now - before) if now > before else 0.0
        self._rate_mark = (now, wire_bytes)
        document: dict[str, Any] = {
            "state": state,
            "epoch": self._session.parameters.epoch,
            "session": self._session.parameters.session_id.hex(),
            "object": self._live_object(),
            "rate_bits": round(rate),
            "datagrams": sum(lane.datagrams for lane in self._lanes),
            "content_datagrams": self._dispatch.content_datagrams,
            "wire_bytes": wire_bytes,
            "content_bytes": self._dispatch.content_bytes,
            "objects_sent": self._objects_sent,
            "release": {newest.collection: newest.sequence for newest in self._encoder.newest},
            "started": self._started,
            "path": self._lane.link.path,
            "lanes": self._settings.link.lanes,
            "window": self._gate.live(),
            **self._queued,
        }
        self._journal.set_live("transmit", document, time.time())
        waiting = human_bytes(self._queued.get("queued_bytes", 0))
        sending = f"{document['object']['label']}, " if document["object"] else ""
        notify.status(f"{state}: session {document['epoch']}, {sending}{human_rate(rate)}, {waiting} queued")

    def _live_object(self) -> dict[str, Any] | None:
        current = self._dispatch.current()
        if current is None:
            return None
        queued, order = current
        return {
            "label": queued.label,
            "kind": Kind(queued.kind).name.lower(),
            "sbn": order.shape.sbn,
            "blocks": order.entry.geometry.blocks,
            "bytes": queued.coded_size,
            "pass": queued.passes_done + 1,
        }

    @property
    def _encoder(self) -> Encoder:
        return self._session.encoder
