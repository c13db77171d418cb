"""What the capture role and the processes of its further lanes say to each other (runtime/channel.py)."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field, TypeAdapter

from receiver.config import Listen
from receiver.lane import Figures
from runtime.channel import Message

Entry = tuple[bytes, int]  # of the object table: as it is on the wire, and its symbol size (parse_entry's arguments)
RANGES_MAX: Final = 2_000  # in one message: at most 90 kB


class Begin(Message):
    """To a lane: the first message."""

    kind: Literal["begin"] = "begin"
    lane: int
    listen: dict[str, Any]  # Listen
    hpke_key: bytes = Field(repr=False)  # 32 raw bytes
    senders: list[bytes]  # public keys, 32 raw bytes each
    epochs: list[tuple[bytes, int, bytes]]  # sender, epoch, session id
    log_format: Literal["auto", "console", "json"]
    log_level: str

    def settings(self) -> Listen:
        """Return where it listens, and how."""
        return Listen.model_validate(self.listen)


class Epoch(Message):
    """To a lane: the newest epoch of a sender, on disk now. Answers SessionFound; also sent unasked."""

    kind: Literal["epoch"] = "epoch"
    sender: bytes
    epoch: int
    session: bytes


class OfObject(Message):
    """Base of what is about one object of one session."""

    session: bytes
    toi: int


class Have(OfObject):
    """To a lane: bytes of an object that are on disk."""

    kind: Literal["have"] = "have"
    ranges: list[tuple[int, int]]


class Want(OfObject):
    """To a lane: receive the object, but for what Have messages have told."""

    kind: Literal["want"] = "want"


class Settled(OfObject):
    """To a lane: the object is not wanted any more."""

    kind: Literal["settled"] = "settled"


class Forget(OfObject):
    """To a lane: nothing of the object is here."""

    kind: Literal["forget"] = "forget"


class Again(OfObject):
    """To a lane: a block that was complete is needed again."""

    kind: Literal["again"] = "again"
    sbn: int


class Free(Message):
    """To a lane: the buffer of a block has been read."""

    kind: Literal["free"] = "free"
    slot: int


class SessionFound(Message):
    """From a lane: an announcement opens a session. It takes nothing in until Epoch answers."""

    kind: Literal["session"] = "session"
    sender: bytes
    epoch: int
    session: bytes
    datagram_bytes: int
    created_ms: int
    lanes: int


class Stop(Message):
    """To a lane: hand over what is in flight; answered by Stopped."""

    kind: Literal["stop"] = "stop"


class Stopped(Message):
    """From a lane: that was all."""

    kind: Literal["stopped"] = "stopped"


class Announced(Message):
    """From a lane: a new object."""

    kind: Literal["announced"] = "announced"
    session: bytes
    entry: Entry


class BlockReady(Message):
    """From a lane: a block, restored as far as it can be; its buffer is the role's until Free."""

    kind: Literal["block"] = "block"
    session: bytes
    entry: Entry
    sbn: int
    complete: bool
    slot: int
    pieces: list[tuple[int, int, int]]  # offset in the object, start in the slot, bytes


class Counts(Message):
    """From a lane, a few times a second; the first says that it has its socket."""

    kind: Literal["counts"] = "counts"
    figures: Figures


ForLane = Begin | Epoch | Have | Want | Settled | Forget | Again | Free | Stop
OfLane = SessionFound | Announced | BlockReady | Counts | Stopped
FOR_LANE: Final[TypeAdapter[ForLane]] = TypeAdapter(Annotated[ForLane, Field(discriminator="kind")])
OF_LANE: Final[TypeAdapter[OfLane]] = TypeAdapter(Annotated[OfLane, Field(discriminator="kind")])
