"""The capture role's side of a lane that a process of its own drives: hears its events, tells it what is wanted.

What the process says is checked as if it came from the wire: it is the one that reads what strangers may send.
"""

from __future__ import annotations

import os
import socket
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from protocol.announcement import SessionParameters
from protocol.errors import WireError
from protocol.events import ObjectAnnounced, SessionOpened
from protocol.geometry import BlockShape
from protocol.incoming import IncomingObject
from protocol.limits import TRACKED_OBJECTS_MAX
from protocol.objects import parse_entry
from receiver import shared
from receiver.lane import Figures
from receiver.messages import (
    OF_LANE,
    RANGES_MAX,
    Again,
    Announced,
    Begin,
    BlockReady,
    Counts,
    Entry,
    Epoch,
    Forget,
    Free,
    Have,
    OfLane,
    SessionFound,
    Settled,
    Stop,
    Stopped,
    Want,
)
from runtime.channel import Child

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
    """Nothing here waits for the process. :meth:`listen` gives its events.

    *passed* is its socket where systemd has opened it.
    """

    def __init__(self, begin: Begin, passed: socket.socket | None = None) -> None:
        self.number = begin.lane
        self._stopped = False
        self._figures: Figures | None = None
        self._sessions: dict[bytes, bytes] = {}  # sender -> session id, as admitted
        self._objects: OrderedDict[tuple[bytes, int], IncomingObject] = OrderedDict()
        self._slots: set[int] = set()  # being read here
        memory = shared.create()
        try:
            self._memory = shared.SharedView(memory)
            self._child: Child[OfLane] = Child(
                f"lane {begin.lane}", MODULE, OF_LANE, [memory] if passed is None else [memory, passed.fileno()]
            )
        finally:
            os.close(memory)
        log.info("lane_started", lane=self.number, pid=self._child.pid, on=str(begin.settings().on.lane(self.number)))
        self._child.say(begin)

    @property
    def ready(self) -> bool:
        """Whether the process has its socket."""
        return self._figures is not None

    @property
    def stopped(self) -> bool:
        """Whether all that was in flight has been handed over, or nothing more will be."""
        return self._stopped or self._child.gone

    def figures(self) -> Figures:
        """Return the newest that the process has told."""
        return self._figures or Figures({}, (0, 0), 0.0, "?")

    def fileno(self) -> int:
        """Return a descriptor that is readable when there is something to listen to."""
        return self._child.fileno()

    def listen(self) -> list[FarEvent]:
        """Return what has happened since; UserError if the process has ended or says what cannot be."""
        events: list[FarEvent] = []
        for message in self._child.hear():
            try:
                self._hear(message, events)
            except (WireError, ValueError) as error:
                self._child.distrust(str(error))
        return events

    def _hear(self, message: OfLane, events: list[FarEvent]) -> None:
        match message:
            case Counts():
                self._figures = message.figures
            case SessionFound():
                parameters = SessionParameters(
                    message.epoch, message.session, message.datagram_bytes, message.created_ms, message.lanes
                )
                events.append(SessionOpened(message.sender, parameters))
            case Announced():
                if message.session in self._sessions.values():
                    events.append(ObjectAnnounced(self._owner(message.session, message.entry)))
            case Stopped():
                self._stopped = True
            case BlockReady():
                self._block(message, events)

    def _owner(self, session: bytes, written: Entry) -> IncomingObject:
        entry = parse_entry(*written)
        key = session, entry.toi
        owner = self._objects.get(key)
        if owner is None or owner.entry != entry:
            owner = self._objects[key] = IncomingObject(entry, session, self.number)
            if len(self._objects) > TRACKED_OBJECTS_MAX:
                self._objects.popitem(last=False)
        return owner

    def _block(self, message: BlockReady, events: list[FarEvent]) -> None:
        if message.slot in self._slots:
            raise ValueError(f"slot {message.slot} is in use")
        owner = self._owner(message.session, message.entry)
        if message.sbn not in range(owner.entry.geometry.blocks):
            raise ValueError(f"block {message.sbn} of {owner.entry.geometry.blocks}")
        shape, pieces = owner.entry.geometry.block(message.sbn), []
        for offset, start, size in message.pieces:
            if not shape.offset <= offset <= offset + size <= shape.offset + shape.size:
                raise ValueError(f"bytes {offset} to {offset + size} are not of block {message.sbn}")
            pieces.append((offset, self._memory.piece(message.slot, start, size)))
        self._slots.add(message.slot)
        events.append(FarBlock(owner, shape, message.complete, message.slot, pieces))

    # --- what it is told -----------------------------------------------------------------------------------------

    def epoch(self, sender: bytes, epoch: int, session: bytes) -> None:
        """The newest epoch of a sender is on disk."""
        self._sessions[sender] = session
        self._child.say(Epoch(sender=sender, epoch=epoch, session=session))

    def give_back(self, block: FarBlock) -> None:
        """A block's buffer has been read."""
        self._slots.discard(block.slot)
        self._child.say(Free(slot=block.slot))

    def want(self, owner: IncomingObject) -> None:
        """Receive what ``owner.have`` lacks."""
        owner.wanted = True
        self.learned(owner, list(owner.have))
        self._child.say(Want(session=owner.session, toi=owner.entry.toi))

    def forget(self, owner: IncomingObject) -> None:
        """Start again from nothing."""
        self._child.say(Forget(session=owner.session, toi=owner.entry.toi))

    def settle(self, owner: IncomingObject) -> None:
        """Receive no more of it."""
        owner.wanted = False
        self._child.say(Settled(session=owner.session, toi=owner.entry.toi))

    def again(self, owner: IncomingObject, sbn: int) -> None:
        """Let a complete block come again."""
        self._child.say(Again(session=owner.session, toi=owner.entry.toi, sbn=sbn))

    def learned(self, owner: IncomingObject, ranges: Sequence[tuple[int, int]]) -> None:
        """Bytes from another lane are on disk now."""
        for at in range(0, len(ranges), RANGES_MAX):
            piece = list(ranges[at : at + RANGES_MAX])
            self._child.say(Have(session=owner.session, toi=owner.entry.toi, ranges=piece))

    def stop(self) -> None:
        """Have all handed over that is in flight; ``stopped`` when that is done."""
        self._child.say(Stop())

    def close(self) -> None:
        """End the process."""
        self._child.close()
