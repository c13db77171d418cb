"""The receiving half, without I/O: bursts in, events out (DESIGN §5.7).

Routes datagrams by type and session tag, assembles and verifies announcements, and keeps the rule that old things
stay old. No bytes from the wire raise past :meth:`Decoder.receive_burst`, take unbounded memory, or are answered.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from protocol.announcement import Announcement, open_announcement, same_session, traffic_key, unwrap_session_key
from protocol.buffers import BufferPool
from protocol.drops import Drop
from protocol.errors import WireError
from protocol.events import Event, SessionOpened
from protocol.fragments import Assembler
from protocol.handover import OpenSession
from protocol.incoming import IncomingBlock, IncomingObject
from protocol.limits import (
    BUFFER_BYTES_MAX,
    BUFFERS_MAX,
    DATAGRAMS_PER_VERIFICATION,
    HEADER_BYTES,
    MARGINS_MAX,
    RECEIVE_BURST_BYTES_MAX,
    REFUSED_ANNOUNCEMENTS_MAX,
    VERIFICATIONS_MAX,
)
from protocol.ranges import RangeSet
from protocol.receive_session import ReceiveCounters, ReceiveSession
from protocol.runs import equal_end
from protocol.trust import Remembered, TrustedSenders
from protocol.wire import MAGIC, VERSION, BurstView, Type

VIEWS_MAX = 16  # datagram sizes in use by running sessions at once
_SENDER_IN_ANNOUNCEMENT = slice(48, 80)
_TAG_IN_ANNOUNCEMENT = slice(16, 20)  # of an announcement: the first bytes of the session id


class ReceiveBuffer:
    """Memory for one received burst of up to 64 KiB, sliced once for each datagram size that sessions use."""

    def __init__(self) -> None:
        self.memory = memoryview(bytearray(RECEIVE_BURST_BYTES_MAX + 1))
        self._views: dict[int, BurstView] = {}

    def view(self, datagram_bytes: int) -> BurstView:
        """Return the slicing for a valid datagram size."""
        view = self._views.get(datagram_bytes)
        if view is None:
            if len(self._views) >= VIEWS_MAX:
                del self._views[next(iter(self._views))]
            count = len(self.memory) // datagram_bytes
            view = self._views[datagram_bytes] = BurstView(self.memory, datagram_bytes, count)
        return view


class Decoder:
    """All sessions of one receiver. *remembered* is read and updated; its owner persists it on SessionOpened.

    *lane*: receive only datagrams of this lane, in buffers of *pool*; by default those of all lanes.
    """

    def __init__(
        self,
        trusted: TrustedSenders,
        private: X25519PrivateKey,
        remembered: Remembered,
        *,
        buffers: int = BUFFERS_MAX,
        lane: int | None = None,
        pool: BufferPool | None = None,
    ) -> None:
        self.counters = ReceiveCounters()
        self._trusted = trusted
        self._private = private
        self._remembered = remembered
        self._lane = lane
        self._pool = pool or BufferPool(buffers, BUFFER_BYTES_MAX)
        self._assembler = Assembler()
        self._sessions: dict[bytes, ReceiveSession] = {}  # by tag
        self._refused: OrderedDict[bytes, Drop] = OrderedDict()  # SHA-256 of an announcement -> why it is of no use
        self._credit = VERIFICATIONS_MAX * DATAGRAMS_PER_VERIFICATION
        self._accepted: dict[bytes, bytes] = {}  # SHA-256 of a whole announcement in force -> tag
        self._announcements: dict[bytes, bytes] = {}  # tag -> the announcement that opened its session

    # --- bytes in --------------------------------------------------------------------------------------------

    def receive_burst(self, buffer: ReceiveBuffer, size: int, datagram_bytes: int) -> list[Event]:
        """Take *size* received bytes: datagrams of *datagram_bytes* each, the last perhaps shorter."""
        events: list[Event] = []
        counters = self.counters
        counters.bytes += size
        whole, rest = divmod(size, datagram_bytes) if datagram_bytes > 0 else (0, size)
        counters.datagrams += whole + (rest > 0)
        if self._credit < VERIFICATIONS_MAX * DATAGRAMS_PER_VERIFICATION:
            self._credit += whole + (rest > 0)
        if whole and any(s.parameters.datagram_bytes == datagram_bytes for s in self._sessions.values()):
            self._burst(buffer.view(datagram_bytes), whole, events)
        else:
            for at in range(0, whole * datagram_bytes, datagram_bytes):
                self._single(buffer.memory[at : at + datagram_bytes], events)
        if rest:
            self._single(buffer.memory[size - rest : size], events)
        return events

    def _burst(self, view: BurstView, count: int, events: list[Event]) -> None:
        """Hand runs of symbols of one session to it, all else to :meth:`_single`."""
        prefixes = view.prefixes(count)
        start = 0
        while start < count:
            first = prefixes[start]
            session = self._sessions.get((first >> 32).to_bytes(4, "little"))
            if (
                session is None
                or first != session.symbol_prefix
                or session.parameters.datagram_bytes != view.datagram_bytes
            ):
                self._single(view.datagrams[start], events)
                start += 1
                continue
            end = equal_end(prefixes, start, count)
            session.symbols(view, start, end - start, events)
            start = end

    def _single(self, datagram: memoryview, events: list[Event]) -> None:
        try:
            self._route(datagram, events)
        except WireError as error:
            self.counters.drops[error.drop] += 1

    def _route(self, datagram: memoryview, events: list[Event]) -> None:
        if len(datagram) < HEADER_BYTES:
            raise WireError(Drop.TRUNCATED, f"{len(datagram)} bytes")
        if bytes(datagram[:2]) != MAGIC:
            raise WireError(Drop.BAD_MAGIC, bytes(datagram[:2]).hex())
        if datagram[2] != VERSION:
            raise WireError(Drop.BAD_VERSION, str(datagram[2]))
        kind = datagram[3]
        if kind not in Type.__members__.values():
            raise WireError(Drop.BAD_TYPE, str(kind))
        if any(datagram[28:32]):
            raise WireError(Drop.BAD_FIELD, "reserved bytes set")
        if kind == Type.ANNOUNCEMENT:
            if any(datagram[8:16]) or any(datagram[20:28]):
                raise WireError(Drop.BAD_FIELD, "announcement header")
            self._announcement(datagram, events)
            return
        session = self._sessions.get(bytes(datagram[4:8]))
        if session is None:
            raise WireError(Drop.UNKNOWN_SESSION, bytes(datagram[4:8]).hex())
        expected = session.parameters.datagram_bytes
        if len(datagram) != expected:
            reason = Drop.TRUNCATED if len(datagram) < expected else Drop.OVERSIZED
            raise WireError(reason, f"{len(datagram)} bytes in a session of {expected}")
        if kind == Type.SYMBOL:
            session.odd_symbol(datagram, events)
        else:
            session.control(Type(kind), datagram, events)

    # --- announcements ---------------------------------------------------------------------------------------

    def _announcement(self, datagram: memoryview, events: list[Event]) -> None:
        whole = self._assembler.add(datagram)
        if self._assembler.evicted:
            self.counters.drops[Drop.FRAGMENT_EVICTED] += self._assembler.evicted
            self._assembler.evicted = 0
        if whole is None:
            return
        identity = hashlib.sha256(whole).digest()
        if bytes(datagram[4:8]) != whole[_TAG_IN_ANNOUNCEMENT]:
            raise WireError(Drop.BAD_FRAGMENT, "the header names another session than the announcement")
        if identity not in self._accepted:
            self._new_announcement(whole, identity, events)
        self.counters.announcements += 1

    def _new_announcement(self, whole: bytes, identity: bytes, events: list[Event]) -> None:
        """Verify an announcement that is not in force and open its session; WireError if there is a reason not to."""
        refused = self._refused.get(identity)
        if refused is not None:
            raise WireError(refused, "as before")
        if whole[_SENDER_IN_ANNOUNCEMENT] in self._trusted.keys:
            if self._credit < DATAGRAMS_PER_VERIFICATION:
                raise WireError(Drop.TOO_MANY_ANNOUNCEMENTS, "too few other datagrams")
            self._credit -= DATAGRAMS_PER_VERIFICATION
        try:
            announcement = open_announcement(whole, self._trusted)
            if not self._is_new(announcement):
                return
            session_key = unwrap_session_key(announcement, self._private)
        except WireError as error:
            if error.drop is not Drop.EPOCH_REUSED:  # that may change; all else is for ever
                self._refused[identity] = error.drop
                if len(self._refused) > REFUSED_ANNOUNCEMENTS_MAX:
                    self._refused.popitem(last=False)
            raise
        self._open(announcement, traffic_key(session_key, announcement.signed), identity, events)
        running = self._announcements
        running[announcement.parameters.tag] = whole
        self._announcements = {tag: each for tag, each in running.items() if tag in self._sessions}

    def _is_new(self, announcement: Announcement) -> bool:
        """Whether this opens a session; False if that session runs already, WireError if it must not be opened."""
        parameters = announcement.parameters
        epoch, session_id = self._remembered.epochs.get(announcement.sender, (0, b""))
        if parameters.epoch < epoch:
            raise WireError(Drop.STALE_EPOCH, f"epoch {parameters.epoch} after {epoch}")
        if parameters.epoch > epoch:
            return True
        running = self._sessions.get(parameters.tag)
        if running is not None and running.sender != announcement.sender:
            running = None
        other_bytes = running is not None and running.signed != announcement.signed
        if not same_session(parameters.session_id, session_id) or other_bytes:
            raise WireError(Drop.EPOCH_REUSED, f"epoch {epoch}")
        return running is None

    def _open(self, announcement: Announcement, key: bytes, identity: bytes, events: list[Event]) -> None:
        sender, parameters = announcement.sender, announcement.parameters
        for tag, old in list(self._sessions.items()):
            if old.sender == sender or tag == parameters.tag:
                old.close(events)
                del self._sessions[tag]
        self._accepted = {known: tag for known, tag in self._accepted.items() if tag in self._sessions}
        self._remembered.epochs[sender] = (parameters.epoch, parameters.session_id)
        session = ReceiveSession(
            sender, parameters, announcement.signed, key, self._pool, self.counters, lane=self._lane
        )
        self._sessions[parameters.tag] = session
        self._accepted[identity] = parameters.tag
        events.append(SessionOpened(sender, parameters))

    # --- what the I/O layer answers --------------------------------------------------------------------------

    def want(self, announced: IncomingObject, have: RangeSet) -> None:
        """Receive *announced*; *have* are the coded bytes already on disk."""
        announced.have = have
        announced.wanted = True

    def forget(self, announced: IncomingObject) -> None:
        """Start *announced* again from nothing, because its finished bytes did not match the coded digest."""
        announced.have = RangeSet()
        announced.done = RangeSet()

    def give_back(self, block: IncomingBlock) -> None:
        """Return a block's buffer after its event was handled."""
        counters = self.counters
        counters.repaired += block.repaired
        if block.worst * max(1, counters.worst_repair_of) >= counters.worst_repair * block.shape.m and block.worst:
            counters.worst_repair, counters.worst_repair_of = block.worst, block.shape.m
        margin = block.worst, block.shape.m, block.shape.k
        if block.worst and (margin in counters.margins or len(counters.margins) < MARGINS_MAX):
            counters.margins[margin] += 1
        self._pool.give_back(block.buffer)

    def close(self) -> list[Event]:
        """End all sessions; unfinished blocks come back as BlockAbandoned, so that their codewords can be kept."""
        events: list[Event] = []
        for session in self._sessions.values():
            session.close(events)
        self._sessions.clear()
        self._accepted.clear()
        self._announcements.clear()
        return events

    # --- from one process to the next ------------------------------------------------------------------------

    def hand_over(self) -> list[OpenSession]:
        """Return what another decoder needs to go on from here; then call :meth:`close`, which abandons nothing."""
        return [session.hand_over(self._announcements[tag]) for tag, session in self._sessions.items()]

    def take_over(self, former: list[OpenSession]) -> list[Event]:
        """Open the sessions of another decoder as its announcements say, if they may still be opened.

        Handle the events, then call :meth:`take_blocks`. What is not good is dropped and counted, as from the wire.
        """
        events: list[Event] = []
        for each in former:
            try:
                self._new_announcement(each.announcement, hashlib.sha256(each.announcement).digest(), events)
                if (session := self._session_of(each)) is not None:
                    session.take_over(each, events)
            except WireError as error:
                self.counters.drops[error.drop] += 1
            except ValueError:
                self.counters.drops[Drop.BAD_FIELD] += 1
        return events

    def take_blocks(self, former: list[OpenSession]) -> list[Event]:
        """Go on with the unfinished blocks of what is wanted; the events are of those that are complete now."""
        events: list[Event] = []
        for each in former:
            session = self._session_of(each)
            for block in each.blocks if session is not None else ():
                assert session is not None
                try:
                    session.take_block(block, events)
                except ValueError:
                    self.counters.drops[Drop.BAD_FIELD] += 1
        return events

    def _session_of(self, former: OpenSession) -> ReceiveSession | None:
        tag = self._accepted.get(hashlib.sha256(former.announcement).digest())
        return None if tag is None else self._sessions.get(tag)

    @property
    def out_of_buffers(self) -> bool:
        """Whether the next block would find no buffer (NO_BUFFER) until one is given back."""
        return self._pool.exhausted

    @property
    def lost(self) -> int:
        """Datagrams that sessions sent and this receiver did not get, by gaps in packet numbers."""
        return self.counters.lost + sum(session.lost for session in self._sessions.values())
