"""The sending half of a session, without I/O: the next burst of sealed datagrams for a given time.

The caller offers object table entries ahead (:meth:`Encoder.set_upcoming`), then blocks one at a time
(:meth:`Encoder.load`), and asks for bursts. Announcements, beacons and the object table are woven in by time, each
repeated often enough that an outage of some tens of milliseconds costs no object. Does not know where blocks come
from, how fast bursts may leave, or what a release is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocol.aead import sealer
from protocol.announcement import SessionParameters, signed_part, traffic_key
from protocol.beacon import Beacon, Newest, newest_per_beacon
from protocol.errors import ProtocolMisuse
from protocol.fragments import fragment
from protocol.limits import LANES_MAX
from protocol.objects import ObjectEntry, encode_table, entries_per_datagram
from protocol.outgoing import OutgoingBlock
from protocol.wire import COUNTER_MAX, HEADER, LANE_SHIFT, MAGIC, VERSION, BurstView, Type, prefix, symbol_bytes

TABLE_DATAGRAMS_MAX: Final = 16  # of one copy of the object table


@dataclass(frozen=True, slots=True)
class Cadence:
    """How often control datagrams are repeated, in seconds."""

    announcement: float = 0.25  # a receiver that starts late loses this much of the session
    beacon: float = 1.0
    table: float = 0.02
    lead_in: float = 0.05  # between the copies that precede the first symbol of a session
    lead_in_copies: int = 4
    table_copies: int = 3  # of an entry, before the first symbol of its object
    closing: float = 0.1  # between announcements and beacons once the session closes


@dataclass
class SendCounters:
    """What left, in datagrams."""

    announcements: int = 0
    beacons: int = 0
    tables: int = 0
    source: int = 0
    repair: int = 0

    @property
    def datagrams(self) -> int:
        """All datagrams."""
        return self.announcements + self.beacons + self.tables + self.source + self.repair


class Encoder:
    """One lane of one session; lane 0 has the beacons. *session_key* (32 bytes) is what *announcement* wraps."""

    def __init__(
        self,
        parameters: SessionParameters,
        session_key: bytes,
        announcement: bytes,
        *,
        lane: int = 0,
        cadence: Cadence | None = None,
        clock_ms: Callable[[float], int] = lambda now: 0,
    ) -> None:
        if not 0 <= lane < min(parameters.lanes, LANES_MAX):
            raise ProtocolMisuse(f"lane {lane} of {parameters.lanes}")
        self.parameters = parameters
        self.symbol_bytes = symbol_bytes(parameters.datagram_bytes)
        self.counters = SendCounters()
        self.newest: list[Newest] = []
        self.queued_bytes = 0
        self._closing = False
        self._cadence = cadence or Cadence()
        self._clock_ms = clock_ms
        key = traffic_key(session_key, signed_part(announcement))
        self._aead = AESGCM(key)
        self._sealer = sealer(key)
        self._fragments = fragment(announcement, parameters.tag, parameters.datagram_bytes)
        self._tag = int.from_bytes(parameters.tag, "little")
        self._symbol_prefix = prefix(Type.SYMBOL, parameters.tag)
        self._lane = lane << LANE_SHIFT
        self._counter = 0
        self._beacon_sequence = 0
        self._newest_at = 0
        self._upcoming: list[ObjectEntry] = []
        self._table_sent: dict[int, int] = {}
        self._block: OutgoingBlock | None = None
        self._lead_ins_left = self._cadence.lead_in_copies
        self._due_announcement = self._due_beacon = self._due_table = float("-inf")
        self._control: list[tuple[Type, bytes]] = []

    # --- what the caller feeds -------------------------------------------------------------------------------

    def set_upcoming(self, entries: list[ObjectEntry]) -> None:
        """Name the objects on the wire now and next, in order: the table repeats as many as max_upcoming."""
        self._upcoming = entries[: self.max_upcoming]
        current = {entry.toi for entry in self._upcoming}
        self._table_sent = {toi: sent for toi, sent in self._table_sent.items() if toi in current}

    @property
    def max_upcoming(self) -> int:
        """How many objects the table names at once."""
        return TABLE_DATAGRAMS_MAX * entries_per_datagram(self.symbol_bytes)

    def may_start(self, toi: int) -> bool:
        """Whether the session's and the object's lead-in are over, so that its symbols will find a receiver ready."""
        return self._lead_ins_left == 0 and self._table_sent.get(toi, 0) >= self._cadence.table_copies

    @property
    def closing(self) -> bool:
        """Whether beacons say that all was sent and the session ends."""
        return self._closing

    def close(self, now: float) -> None:
        """Say from *now* on, often, that all was sent; keep calling next_burst for as long as that shall be heard."""
        self._closing = True
        self._due_announcement = self._due_beacon = now

    @property
    def wants_block(self) -> bool:
        """Whether :meth:`load` may be called."""
        return self._block is None

    def load(self, block: OutgoingBlock) -> None:
        """Put *block* on the wire next; its buffer belongs to the encoder until wants_block is true again."""
        if self._block is not None:
            raise ProtocolMisuse("the block before is not sent yet")
        self._block = block

    # --- what the caller sends -------------------------------------------------------------------------------

    def next_burst(self, into: BurstView, now: float) -> int:
        """Write the next burst and return its datagrams; 0 when nothing is due at *now* (seconds, monotonic)."""
        if into.datagram_bytes != self.parameters.datagram_bytes:
            raise ProtocolMisuse("the burst buffer is sliced for another datagram size")
        self._gather_control(now)
        if self._control:
            return self._seal_control(into)
        if self._block is None:
            return 0
        return self._seal_symbols(into, self._block)

    def next_time(self) -> float:
        """Return when control traffic is due next (seconds, same clock as *now*)."""
        due = self._due_announcement if self._lane else min(self._due_announcement, self._due_beacon)
        return min(due, self._due_table) if self._upcoming else due

    # --- inside ----------------------------------------------------------------------------------------------

    def _gather_control(self, now: float) -> None:
        cadence = self._cadence
        if now >= self._due_announcement:
            leading = self._lead_ins_left > 0
            self._lead_ins_left -= leading
            usual = cadence.closing if self.closing else cadence.announcement
            self._due_announcement = now + (cadence.lead_in if self._lead_ins_left else usual)
            self._control += [(Type.ANNOUNCEMENT, datagram) for datagram in self._fragments]
            if leading:  # a receiver that joins by any of these learns all at once
                self._due_beacon = self._due_table = now
        if self._lane == 0 and now >= self._due_beacon:  # one lane's numbers order them
            self._due_beacon = now + (cadence.closing if self.closing else cadence.beacon)
            self._control.append((Type.BEACON, self._beacon(now)))
        if self._upcoming and now >= self._due_table:
            self._due_table = now + cadence.table
            room = entries_per_datagram(self.symbol_bytes)
            for at in range(0, len(self._upcoming), room):
                self._control.append((Type.OBJECTS, encode_table(self._upcoming[at : at + room], self.symbol_bytes)))
            for entry in self._upcoming:
                self._table_sent[entry.toi] = self._table_sent.get(entry.toi, 0) + 1

    def _beacon(self, now: float) -> bytes:
        self._beacon_sequence += 1
        room = newest_per_beacon(self.symbol_bytes)
        newest = self.newest[self._newest_at : self._newest_at + room]
        self._newest_at = self._newest_at + room if self._newest_at + room < len(self.newest) else 0
        block = self._block
        return Beacon(
            sequence=self._beacon_sequence,
            clock_ms=self._clock_ms(now),
            toi=block.entry.toi if block else 0,
            sbn=block.shape.sbn if block else 0,
            queued_bytes=self.queued_bytes,
            closing=self.closing,
            collections=len(self.newest),
            newest=tuple(newest),
        ).encode(self.symbol_bytes)

    def _seal_control(self, into: BurstView) -> int:
        count = min(len(self._control), into.count)
        for index, (kind, payload) in enumerate(self._control[:count]):
            if kind is Type.ANNOUNCEMENT:
                into.write_datagram(index, payload)
                self.counters.announcements += 1
                continue
            header = HEADER.pack(MAGIC, VERSION, kind, self._tag, self._take_numbers(1), 0, 0, 0, 0, 0)
            into.write_header(index, header)
            self._aead.encrypt_into(into.nonces[index], payload, header, into.sealed[index])
            if kind is Type.BEACON:
                self.counters.beacons += 1
            else:
                self.counters.tables += 1
        del self._control[:count]
        return count

    def _seal_symbols(self, into: BurstView, block: OutgoingBlock) -> int:
        at, count = block.next_symbols(into.count)
        first = self._take_numbers(count)
        positions = block.order.words[at : at + count]
        into.write_headers(self._symbol_prefix, first, block.entry.toi, block.shape.sbn, positions)
        self._sealer.seal(into, count, block.symbols, at)
        source = max(0, min(count, block.shape.symbols - at))  # they come first
        self.counters.source += source
        self.counters.repair += count - source
        if block.done:
            self._block = None
        return count

    def _take_numbers(self, count: int) -> int:
        first = self._counter
        self._counter += count
        if self._counter > COUNTER_MAX:
            raise ProtocolMisuse("packet numbers are used up; open a new session")
        return self._lane | first
