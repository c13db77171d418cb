"""The capture role's side of a lane that a process of its own drives: hears its events, tells it what is wanted.

What the process says is checked as if it came from the wire: it is the one that reads what strangers may send.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

import structlog

from protocol.announcement import SessionParameters
from protocol.errors import WireError
from protocol.events import ObjectAnnounced, SessionOpened
from protocol.geometry import BlockShape
from protocol.incoming import IncomingObject
from protocol.limits import TRACKED_OBJECTS_MAX
from receiver import shared
from receiver.messages import (
    OF_LANE,
    RANGES_MAX,
    Again,
    Announced,
    Begin,
    Block,
    Counts,
    Epoch,
    Forget,
    Free,
    Have,
    OfLane,
    SessionFound,
    Settled,
    Stop,
    Stopped,
    Table,
    Want,
)
from runtime.channel import ChannelEnded, Child, Message
from runtime.errors import EXIT_USAGE, UserError

MODULE: Final = "receiver.lane_process"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, eq=False)
class FarBlock:
    """A block that a lane's process has restored: used as an IncomingBlock is."""

    owner: IncomingObject
    shape: BlockShape
    complete: bool
    slot: int
    pieces: list[tuple[int, memoryview]]  # offset in the object, bytes

    def restore(self) -> None:
        """Do nothing: that was the lane's work."""

    def finished(self) -> Iterator[tuple[int, memoryview]]:
        """Yield (offset into the object, bytes)."""
        return iter(self.pieces)


FarEvent = SessionOpened | ObjectAnnounced | FarBlock


class FarLane:
    """Nothing here waits for the process. :meth:`listen` gives its events."""

    def __init__(self, begin: Begin) -> None:
        self.number = begin.lane
        self.counts: dict[str, int] = {}
        self.worst_repair = (0, 0)
        self.last_datagram = 0.0
        self.path = "?"
        self.stopped = False
        self._gone = False
        self._sessions: dict[bytes, bytes] = {}  # sender -> session id, as admitted
        self._objects: OrderedDict[tuple[bytes, int], IncomingObject] = OrderedDict()
        self._slots: set[int] = set()  # being read here
        memory = shared.create()
        try:
            self._memory = shared.SharedView(memory)
            self._child: Child[OfLane] = Child(MODULE, OF_LANE, [memory])
        finally:
            os.close(memory)
        log.info("lane_started", lane=self.number, pid=self._child.pid, on=str(begin.settings().on.lane(self.number)))
        self._say(begin)

    @property
    def ready(self) -> bool:
        """Whether the process has its socket."""
        return bool(self.counts)

    def fileno(self) -> int:
        """Return a descriptor that is readable when there is something to listen to."""
        return self._child.channel.fileno()

    def listen(self) -> list[FarEvent]:
        """Return what has happened since; UserError if the process has ended or says what cannot be."""
        if self._gone:
            return []
        try:
            told = self._child.channel.receive()
        except ChannelEnded:
            self._ended()
        events: list[FarEvent] = []
        for message in told:
            try:
                self._hear(message, events)
            except (WireError, ValueError) as error:
                raise UserError(f"lane {self.number}: its process is not to be trusted: {error}") from error
        return events

    def _hear(self, message: OfLane, events: list[FarEvent]) -> None:
        match message:
            case Counts():
                self.counts, self.worst_repair = message.counts, message.worst_repair
                self.last_datagram, self.path = message.last_datagram, message.path
            case SessionFound():
                parameters = SessionParameters(
                    message.epoch, message.session, message.datagram_bytes, message.created_ms, message.lanes
                )
                events.append(SessionOpened(message.sender, parameters))
            case Announced():
                if message.session in self._sessions.values():
                    events.append(ObjectAnnounced(self._owner(message.session, message.table)))
            case Stopped():
                self.stopped = True
            case Block():
                self._block(message, events)

    def _owner(self, session: bytes, table: Table) -> IncomingObject:
        entry = table.entry()
        key = session, entry.toi
        owner = self._objects.get(key)
        if owner is None or owner.entry != entry:
            owner = self._objects[key] = IncomingObject(entry, session, self.number)
            if len(self._objects) > TRACKED_OBJECTS_MAX:
                self._objects.popitem(last=False)
        return owner

    def _block(self, message: Block, events: list[FarEvent]) -> None:
        if message.slot in self._slots:
            raise ValueError(f"slot {message.slot} is in use")
        owner = self._owner(message.session, message.table)
        if message.sbn not in range(owner.entry.geometry.blocks):
            raise ValueError(f"block {message.sbn} of {owner.entry.geometry.blocks}")
        shape, pieces = owner.entry.geometry.block(message.sbn), []
        for offset, start, size in message.pieces:
            if not shape.offset <= offset <= offset + size <= shape.offset + shape.size:
                raise ValueError(f"bytes {offset} to {offset + size} are not of block {message.sbn}")
            pieces.append((offset, self._memory.piece(message.slot, start, size)))
        self._slots.add(message.slot)
        block = FarBlock(owner, shape, message.complete, message.slot, pieces)
        events.append(block)

    # --- what it is told -----------------------------------------------------------------------------------------

    def epoch(self, sender: bytes, epoch: int, session: bytes) -> None:
        """The newest epoch of a sender is on disk."""
        self._sessions[sender] = session
        self._say(Epoch(sender=sender, epoch=epoch, session=session))

    def give_back(self, block: FarBlock) -> None:
        """A block's buffer has been read."""
        self._slots.discard(block.slot)
        self._say(Free(slot=block.slot))

    def want(self, owner: IncomingObject) -> None:  # noqa: D102
        owner.wanted = True
        self.learned(owner, list(owner.have))
        self._say(Want(session=owner.session, toi=owner.entry.toi))

    def forget(self, owner: IncomingObject) -> None:  # noqa: D102
        self._say(Forget(session=owner.session, toi=owner.entry.toi))

    def settle(self, owner: IncomingObject) -> None:  # noqa: D102
        owner.wanted = False
        self._say(Settled(session=owner.session, toi=owner.entry.toi))

    def again(self, owner: IncomingObject, sbn: int) -> None:  # noqa: D102
        self._say(Again(session=owner.session, toi=owner.entry.toi, sbn=sbn))

    def learned(self, owner: IncomingObject, ranges: Sequence[tuple[int, int]]) -> None:  # noqa: D102
        for at in range(0, len(ranges), RANGES_MAX):
            piece = list(ranges[at : at + RANGES_MAX])
            self._say(Have(session=owner.session, toi=owner.entry.toi, ranges=piece))

    def _say(self, message: Message) -> None:
        if self._gone:
            return  # which has been told
        try:
            self._child.channel.send(message)
        except ChannelEnded:
            self._ended()

    def _ended(self) -> NoReturn:
        self._gone = self.stopped = True
        how = self._child.end()
        code = EXIT_USAGE if how == f"exit code {EXIT_USAGE}" else 1
        raise UserError(f"lane {self.number}: its process has ended ({how}), see the line before", exit_code=code)

    def stop(self) -> None:
        """Have all handed over that is in flight; ``stopped`` when that is done."""
        self._say(Stop())

    def close(self) -> None:
        """End the process."""
        if self._gone:
            return
        how = self._child.end()
        if how != "exit code 0":
            log.warning("lane_ended", lane=self.number, how=how)
