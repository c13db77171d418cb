"""What a burst led to, for the I/O layer to act on. Plain values; nothing here has happened on disk yet."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.announcement import SessionParameters
from protocol.beacon import Beacon
from protocol.incoming import IncomingBlock, IncomingObject


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """A session with a higher epoch. Persist (sender, epoch, session id) before handing in more datagrams."""

    sender: bytes  # key id
    parameters: SessionParameters


@dataclass(frozen=True, slots=True)
class ObjectAnnounced:
    """A new object. Answer with ``Decoder.want``; until then its symbols count as not needed."""

    object: IncomingObject


@dataclass(frozen=True, slots=True)
class BlockComplete:
    """Enough symbols: restore, write, note as done, then ``Decoder.give_back``."""

    block: IncomingBlock


@dataclass(frozen=True, slots=True)
class BlockAbandoned:
    """Too few symbols came; finished codewords may be kept as for BlockComplete, then ``Decoder.give_back``."""

    block: IncomingBlock


@dataclass(frozen=True, slots=True)
class BeaconReceived:
    """An authentic beacon."""

    sender: bytes  # key id
    session: bytes  # session id
    beacon: Beacon


Event = SessionOpened | ObjectAnnounced | BlockComplete | BlockAbandoned | BeaconReceived
