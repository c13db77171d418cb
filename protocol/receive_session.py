"""One authenticated session at the receiver: opening sealed datagrams and sorting them by object and block.

Every sealed datagram is authenticated before it touches anything but a drop counter. Symbols of a block that has
a buffer are decrypted straight into their place there; all others go to a scratch symbol.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocol.aead import opener
from protocol.announcement import SessionParameters
from protocol.beacon import parse_beacon
from protocol.buffers import BufferPool, whole_symbols
from protocol.drops import Drop
from protocol.errors import WireError
from protocol.events import BeaconReceived, BlockAbandoned, BlockComplete, Event, ObjectAnnounced
from protocol.handover import OpenSession, UnfinishedBlock
from protocol.incoming import IncomingBlock, IncomingObject
from protocol.limits import ACTIVE_BLOCKS_MAX, PARSED_ENTRIES_MAX, TRACKED_OBJECTS_MAX
from protocol.objects import ObjectEntry, parse_entry, parse_table
from protocol.order import WireOrder, wire_order
from protocol.replay import ReplayWindow
from protocol.runs import equal_end, rising_end
from protocol.wire import LANE_SHIFT, BurstView, Type, prefix, symbol_bytes


@dataclass
class ReceiveCounters:
    """What came in; datagrams unless named otherwise. Kept by the decoder across sessions."""

    datagrams: int = 0
    bytes: int = 0
    announcements: int = 0
    beacons: int = 0
    tables: int = 0
    symbols: int = 0  # authentic and stored
    surplus: int = 0  # authentic, not needed any more
    repaired: int = 0  # source symbols restored
    blocks: int = 0  # completed
    worst_repair: int = 0  # most repair symbols one codeword needed, of worst_repair_of
    worst_repair_of: int = 0
    margins: Counter[tuple[int, int, int]] = field(default_factory=Counter)  # blocks by (worst need, m, k); need > 0
    lost: int = 0  # in sessions that ended; the running ones know their own
    drops: Counter[Drop] = field(default_factory=Counter)


class ReceiveSession:
    """State of one session; owned by the decoder, which routes bursts here by session tag."""

    def __init__(
        self,
        sender: bytes,
        parameters: SessionParameters,
        signed: bytes,
        key: bytes,
        pool: BufferPool,
        counters: ReceiveCounters,
        *,
        lane: int | None = None,
    ) -> None:
        self.sender = sender
        self.parameters = parameters
        self.signed = signed  # bytes of its announcement
        self.symbol_bytes = symbol_bytes(parameters.datagram_bytes)
        self.symbol_prefix = prefix(Type.SYMBOL, parameters.tag)
        self.objects: OrderedDict[int, IncomingObject] = OrderedDict()
        self._aead = AESGCM(key)
        self._opener = opener(key)
        self._pool = pool
        self._counters = counters
        self._lane = lane
        self._windows = {each: ReplayWindow() for each in range(parameters.lanes) if lane in (None, each)}
        self._active: OrderedDict[tuple[int, int], IncomingBlock] = OrderedDict()
        self._scratch = memoryview(bytearray(self.symbol_bytes))
        self._one = BurstView(memoryview(bytearray(parameters.datagram_bytes)), parameters.datagram_bytes, 1)
        self._beacon_sequence = 0
        self._parsed: dict[bytes, ObjectEntry] = {}
        self._handed_over = False
        self._last_surplus: tuple[tuple[int, int], WireOrder] | None = None  # of the last block asked about

    @property
    def lost(self) -> int:
        """Datagrams lost so far, over all lanes."""
        return sum(window.lost for window in self._windows.values())

    # --- bursts of symbols -----------------------------------------------------------------------------------

    def symbols(self, view: BurstView, first: int, count: int, events: list[Event]) -> None:
        """Take *count* symbol datagrams of this session from *view*, beginning with datagram *first*."""
        numbers, positions = view.numbers(count, first), view.positions(count, first)
        one_block = view.one_block(count, first)
        known = 1 if one_block else count  # how many of these have to be looked at
        tois, sbns, reserved = view.tois(known, first), view.sbns(known, first), view.reserved(known, first)
        start = 0
        while start < count:  # runs of one block and consecutive numbers; on a clean link, the whole burst
            at, end = (0 if one_block else start), rising_end(numbers, start)
            if reserved[at]:
                self._drop(Drop.BAD_FIELD)
                start += 1
                continue
            if not one_block:
                for column in (tois, sbns, reserved):
                    end = equal_end(column, start, end)
            self._run(view, first + start, numbers[start], (tois[at], sbns[at]), positions[start:end], events)
            start = end

    def odd_symbol(self, datagram: memoryview, events: list[Event]) -> None:
        """Take one symbol datagram that lies where no view of its burst has it; of this session's size."""
        self._one.datagrams[0][:] = datagram
        self.symbols(self._one, 0, 1, events)

    def _run(
        self,
        view: BurstView,
        first: int,
        number: int,
        key: tuple[int, int],
        positions: list[int],
        events: list[Event],
    ) -> None:
        """Authenticate and place datagrams from *first* on, whose packet numbers start at *number*."""
        count = len(positions)
        window = self._window(number)
        if window is None or (number + count - 1) >> LANE_SHIFT != number >> LANE_SHIFT:
            self._drop(self._misplaced(number), count)
            return
        if number <= window.highest and count > 1:  # late or repeated: one by one
            for i in range(count):
                self._run(view, first + i, number + i, key, positions[i : i + 1], events)
            return
        if not window.fresh(number):
            self._drop(Drop.REPLAYED)
            return
        if self._whole_run(view, first, number, window, key, positions, events):
            return
        for i, word in enumerate(positions):
            self._one_symbol(view, first + i, number + i, window, key, word & 0xFFFF, word >> 16, events)

    def _whole_run(
        self,
        view: BurstView,
        first: int,
        number: int,
        window: ReplayWindow,
        key: tuple[int, int],
        positions: list[int],
        events: list[Event],
    ) -> bool:
        """Take a run whose symbols are in wire order and all new, or all of no use: the way of most datagrams.

        False, with nothing counted, if it is neither or not authentic.
        """
        count, block = len(positions), self._active.get(key)
        if block is None:
            # authentic first: what is computed for a block that has no buffer is not to be had by forgery
            surplus = self._is_surplus(key) and self._opener.open(view, first, count)
            if not surplus or _position(self._surplus_order(key), positions) < 0:
                return False
            window.accept_run(number, count)
            self._counters.surplus += count
            return True
        at = _position(block.symbols.order, positions)
        rows = block.missing_rows(at, count) if at >= 0 else None
        if rows is None or not self._opener.open(view, first, count, block.symbols, at):
            return False
        window.accept_run(number, count)
        needed = block.mark_rows(rows)
        self._counters.symbols += needed
        self._counters.surplus += count - needed
        if block.complete:
            self._complete(block, events)
        return True

    def _is_surplus(self, key: tuple[int, int]) -> bool:
        """Whether a block is complete or not wanted."""
        owner = self.objects.get(key[0])
        return owner is not None and key[1] < owner.entry.geometry.blocks and not owner.needs(key[1])

    def _surplus_order(self, key: tuple[int, int]) -> WireOrder:
        """Return the wire order of a block that _is_surplus."""
        if self._last_surplus is None or self._last_surplus[0] != key:
            self._last_surplus = (key, wire_order(self.objects[key[0]].entry.geometry.block(key[1])))
        return self._last_surplus[1]

    def _one_symbol(
        self,
        view: BurstView,
        index: int,
        number: int,
        window: ReplayWindow,
        key: tuple[int, int],
        row: int,
        column: int,
        events: list[Event],
    ) -> None:
        """Take one symbol that is not one of a neat row: the first of its block, repeated, forged, out of place."""
        block = self._active.get(key)
        place = -1
        if block is not None:
            place = block.index(row, column)
            if place >= 0 and not block.needs(place, column):
                place = -1
        target = self._scratch if place < 0 or block is None else block.buffer.symbols[place]
        try:
            self._aead.decrypt_into(view.nonces[index], view.sealed[index], view.headers[index], target)
        except InvalidTag:
            self._drop(Drop.NOT_AUTHENTIC)
            return
        window.accept_run(number, 1)
        if place >= 0 and block is not None:
            block.mark(place, column)
            self._counters.symbols += 1
        else:
            block = self._unplaced(*key, row, column, block, events)
        if block is not None and block.complete:
            self._complete(block, events)

    def _unplaced(
        self, toi: int, sbn: int, row: int, column: int, block: IncomingBlock | None, events: list[Event]
    ) -> IncomingBlock | None:
        """An authentic symbol, now in the scratch, has no place: open its block, or count why not."""
        counters = self._counters
        if block is not None:
            if block.index(row, column) < 0:
                self._drop(Drop.BAD_POSITION)
            else:
                counters.surplus += 1
            return block
        owner = self.objects.get(toi)
        if owner is None:
            self._drop(Drop.UNKNOWN_OBJECT)
            return None
        geometry = owner.entry.geometry
        if sbn >= geometry.blocks or not geometry.block(sbn).sends(row, column):
            self._drop(Drop.BAD_POSITION)
            return None
        if not owner.needs(sbn):
            counters.surplus += 1
            return None
        block = self._open_block(owner, sbn, events)
        if block is None:
            self._drop(Drop.NO_BUFFER)
            return None
        place = block.index(row, column)
        if block.needs(place, column):
            block.buffer.symbols[place][:] = self._scratch
            block.mark(place, column)
            counters.symbols += 1
        else:
            counters.surplus += 1
        return block

    def _open_block(self, owner: IncomingObject, sbn: int, events: list[Event]) -> IncomingBlock | None:
        if len(self._active) >= ACTIVE_BLOCKS_MAX:
            self._abandon_oldest(events)
        needed = whole_symbols(owner.entry.geometry)
        buffer = self._pool.take(needed, self.symbol_bytes)
        if buffer is None:
            return None
        block = IncomingBlock(owner, sbn, buffer)
        self._active[owner.entry.toi, sbn] = block
        return block

    def _complete(self, block: IncomingBlock, events: list[Event]) -> None:
        del self._active[block.owner.entry.toi, block.shape.sbn]
        block.done.add(block.shape.sbn, block.shape.sbn + 1)
        self._counters.blocks += 1
        events.append(BlockComplete(block))

    def _abandon_oldest(self, events: list[Event]) -> None:
        _, block = self._active.popitem(last=False)
        self._drop(Drop.BLOCK_ABANDONED)
        events.append(BlockAbandoned(block))

    def close(self, events: list[Event]) -> None:
        """End the session: what is unfinished is abandoned, unless another one goes on with it."""
        while self._active:
            self._abandon_oldest(events)
            if self._handed_over:
                self._drop(Drop.BLOCK_ABANDONED, -1)
        self._counters.lost += self.lost

    # --- from one process to the next ------------------------------------------------------------------------

    def hand_over(self, announcement: bytes) -> OpenSession:
        """Return all that a session opened by *announcement* needs to go on where this one is."""
        self._handed_over = True
        return OpenSession(
            announcement,
            [window.hand_over(lane) for lane, window in self._windows.items()],
            self._beacon_sequence,
            [owner.entry.encode() for owner in self.objects.values()],
            [block.hand_over() for block in self._active.values()],
        )

    def take_over(self, former: OpenSession, events: list[Event]) -> None:
        """Go on with the windows and objects of *former*; ValueError or WireError if they make no sense."""
        for window in former.windows:
            if (ours := self._windows.get(window.lane)) is not None:
                ours.take_over(window)
        self._counters.lost -= self.lost  # who handed it over has counted them
        self._beacon_sequence = former.beacon_sequence
        for raw in former.entries:
            self._announced(self._parse_entry(raw, self.symbol_bytes), events)

    def take_block(self, block: UnfinishedBlock, events: list[Event]) -> None:
        """Go on with a block whose object is wanted; ValueError if it is none of that object."""
        owner = self.objects.get(block.toi)
        if owner is None or block.sbn >= owner.entry.geometry.blocks:
            raise ValueError("a block of no object")
        if not owner.needs(block.sbn) or (block.toi, block.sbn) in self._active:
            return
        opened = self._open_block(owner, block.sbn, events)
        if opened is None:
            return  # no buffer
        opened.take_over(block)
        if opened.complete:
            self._complete(opened, events)

    # --- single control datagrams ----------------------------------------------------------------------------

    def control(self, kind: Type, datagram: memoryview, events: list[Event]) -> None:
        """Take one sealed object table or beacon; WireError with the reason if it is not usable."""
        number = int.from_bytes(datagram[8:16], "little")
        window = self._window(number)
        if window is None:
            raise WireError(self._misplaced(number), f"lane {number >> LANE_SHIFT}")
        if any(datagram[16:32]):
            raise WireError(Drop.BAD_FIELD, "control datagram")
        if not window.fresh(number):
            raise WireError(Drop.REPLAYED, f"packet {number}")
        try:
            payload = self._aead.decrypt(bytes(datagram[4:16]), bytes(datagram[32:]), bytes(datagram[:32]))
        except InvalidTag:
            raise WireError(Drop.NOT_AUTHENTIC, f"packet {number}") from None
        window.accept_run(number, 1)
        if kind is Type.OBJECTS:
            self._counters.tables += 1
            for entry in parse_table(payload, self.symbol_bytes, self._parse_entry):
                if isinstance(entry, WireError):
                    self._drop(entry.drop)
                else:
                    self._announced(entry, events)
            return
        beacon = parse_beacon(payload)
        self._counters.beacons += 1
        if beacon.sequence > self._beacon_sequence:  # one overtaken by a later one says nothing new
            self._beacon_sequence = beacon.sequence
            events.append(BeaconReceived(self.sender, self.parameters.session_id, beacon))

    def _parse_entry(self, raw: bytes, symbol_bytes: int) -> ObjectEntry:
        entry = self._parsed.get(raw)
        if entry is None:
            if len(self._parsed) >= PARSED_ENTRIES_MAX:
                self._parsed.clear()
            entry = self._parsed[raw] = parse_entry(raw, symbol_bytes)
        return entry

    def _announced(self, entry: ObjectEntry, events: list[Event]) -> None:
        known = self.objects.get(entry.toi)
        if known is not None:
            if known.entry is not entry and known.entry != entry:
                self._drop(Drop.OBJECT_CONFLICT)
            self.objects.move_to_end(entry.toi)
            return
        if len(self.objects) >= TRACKED_OBJECTS_MAX:
            old = next((toi for toi in self.objects if not self._has_active(toi)), None)
            if old is None:
                self._drop(Drop.TOO_MANY_OBJECTS)
                return
            del self.objects[old]
        owner = self.objects[entry.toi] = IncomingObject(entry, self.parameters.session_id, self._lane or 0)
        events.append(ObjectAnnounced(owner))

    def _has_active(self, toi: int) -> bool:
        return any(active == toi for active, _ in self._active)

    # --- small things ----------------------------------------------------------------------------------------

    def _window(self, number: int) -> ReplayWindow | None:
        return self._windows.get(number >> LANE_SHIFT)

    def _misplaced(self, number: int) -> Drop:
        announced = number >> LANE_SHIFT < self.parameters.lanes
        return Drop.WRONG_LANE if announced and self._window(number) is None else Drop.BAD_FIELD

    def _drop(self, reason: Drop, count: int = 1) -> None:
        self._counters.drops[reason] += count


def _position(order: WireOrder, positions: list[int]) -> int:
    """Return where in a pass a run of ``row | column << 16`` is; -1 if it does not follow the wire order."""
    at = order.position(positions[0] & 0xFFFF, positions[0] >> 16)
    return at if at >= 0 and order.words[at : at + len(positions)].tolist() == positions else -1
