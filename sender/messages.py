"""What the transmit role and the processes of its further lanes say to each other (runtime/channel.py)."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field, TypeAdapter

from protocol.announcement import SessionParameters
from protocol.encoder import Cadence
from runtime.channel import Message
from sender.config import Link as LinkSettings
from sender.config import SenderSettings
from sender.session import Opening

Entry = tuple[bytes, int]  # of the object table: as it is on the wire, and its symbol size (parse_entry's arguments)
ENTRIES_MAX: Final = 256  # of the object table, in one message: 44 kB


class Begin(Message):
    """To a lane: the first message."""

    kind: Literal["begin"] = "begin"
    lane: int
    link: dict[str, Any]  # LinkSettings
    log_format: Literal["auto", "console", "json"]
    log_level: str

    @classmethod
    def of(cls, lane: int, settings: SenderSettings) -> Begin:
        """Return the message for one lane of *settings*."""
        link = {**settings.link.model_dump(), "to": str(settings.link.to)}
        return cls(lane=lane, link=link, log_format=settings.logs.format, log_level=settings.logs.level)

    def settings(self) -> LinkSettings:
        """Return the link's settings."""
        return LinkSettings.model_validate(self.link)


class Open(Message):
    """To a lane: a new session."""

    kind: Literal["open"] = "open"
    epoch: int
    session_id: bytes
    datagram_bytes: int
    created_ms: int
    lanes: int
    session_key: bytes = Field(repr=False)
    announcement: bytes
    table_s: float
    lead_in_s: float

    @classmethod
    def of(cls, opening: Opening) -> Open:
        """Return the message for *opening*."""
        parameters, cadence = opening.parameters, opening.cadence
        return cls(
            epoch=parameters.epoch,
            session_id=parameters.session_id,
            datagram_bytes=parameters.datagram_bytes,
            created_ms=parameters.created_ms,
            lanes=parameters.lanes,
            session_key=opening.session_key,
            announcement=opening.announcement,
            table_s=cadence.table,
            lead_in_s=cadence.lead_in,
        )

    def opening(self) -> Opening:
        """Return what :meth:`of` was given."""
        parameters = SessionParameters(self.epoch, self.session_id, self.datagram_bytes, self.created_ms, self.lanes)
        cadence = Cadence(table=self.table_s, lead_in=self.lead_in_s)
        return Opening(parameters, self.session_key, self.announcement, cadence)


class Send(Message):
    """To a lane: a block to send. Answered by one BlockTold with this serial number."""

    kind: Literal["send"] = "send"
    serial: int
    object_id: int
    path: str
    entry: Entry
    sbn: int
    rank: int


class Announce(Message):
    """To a lane: the objects of the next moments."""

    kind: Literal["announce"] = "announce"
    entries: list[Entry]


class DropObject(Message):
    """To a lane: forget the blocks of an object that are not on the wire."""

    kind: Literal["drop"] = "drop"
    object_id: int


class Recall(Message):
    """To a lane: forget the blocks of a rank lower than *below* that are not on the wire."""

    kind: Literal["recall"] = "recall"
    below: int


class SetRate(Message):
    """To a lane: send at this rate (bits per second)."""

    kind: Literal["rate"] = "rate"
    rate: float = Field(gt=0)


class EndSession(Message):
    """To a lane: announce the end."""

    kind: Literal["end"] = "end"


class BlockTold(Message):
    """From a lane: what became of a block."""

    kind: Literal["block"] = "block"
    serial: int
    outcome: Literal["left", "failed", "dropped"]
    reason: str = ""


class Figures(Message):
    """From a lane, a few times a second: what it has sent."""

    kind: Literal["figures"] = "figures"
    wire_bytes: int
    datagrams: int
    sealed: int  # datagrams, in the session that is open


ForLane = Begin | Open | Send | Announce | DropObject | Recall | SetRate | EndSession
OfLane = BlockTold | Figures
FOR_LANE: Final[TypeAdapter[ForLane]] = TypeAdapter(Annotated[ForLane, Field(discriminator="kind")])
OF_LANE: Final[TypeAdapter[OfLane]] = TypeAdapter(Annotated[OfLane, Field(discriminator="kind")])
