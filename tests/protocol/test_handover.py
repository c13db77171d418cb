"""A receiver that is replaced in mid-stream by another one goes on as if it were the same."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol import handover
from protocol.decoder import Decoder
from protocol.events import BlockComplete, Event, ObjectAnnounced, SessionOpened
from protocol.geometry import Geometry
from protocol.ranges import RangeSet
from tests.protocol.harness import RECEIVER, Receiver, bursts_of, encoder_of, entry_of, split, trusted
from tests.vectors import session as s
from tests.vectors.definition import pattern


def data_of(receiver: Receiver) -> bytes:
    return b"".join(handover.write(receiver.decoder.hand_over()))


class Successor(Receiver):
    """Takes the place of *former*, whose completed blocks are on disk."""

    def __init__(self, former: Receiver, data: bytes) -> None:
        super().__init__()
        self.remembered = former.remembered
        self.decoder = Decoder(trusted(), RECEIVER, self.remembered)
        self.contents = {name: bytearray(content) for name, content in former.contents.items()}
        self._on_disk: dict[str, RangeSet] = {}
        for event in former.events:
            if isinstance(event, BlockComplete):
                shape, entry = event.block.shape, event.block.owner.entry
                ranges = self._on_disk.setdefault(entry.coded_digest, RangeSet())
                ranges.add(shape.offset, shape.offset + shape.size)
        sessions = handover.parse(data)
        self.take(self.decoder.take_over(sessions))
        self.take(self.decoder.take_blocks(sessions))

    def take(self, events: list[Event]) -> None:
        self.events += events
        for event in events:
            if isinstance(event, ObjectAnnounced):
                digest = event.object.entry.coded_digest
                self.decoder.want(event.object, self._on_disk.get(digest, RangeSet()))
                self.contents.setdefault(digest, bytearray(event.object.entry.geometry.size))
            elif isinstance(event, BlockComplete):
                event.block.restore()
                for offset, piece in event.block.finished():
                    self.contents[event.block.owner.entry.coded_digest][offset : offset + len(piece)] = piece
                self.decoder.give_back(event.block)


@given(
    seed=st.integers(0, 2**32),
    shape=st.sampled_from([(4, 2, 2), (7, 3, 5), (1, 3, 1), (20, 4, 9), (3, 3, 40)]),
    size=st.integers(1, 60_000),
    loss=st.sampled_from([0.0, 0.02, 0.2]),
    place=st.floats(0, 1),
)
@example(seed=1, shape=(20, 4, 9), size=60_000, loss=0.0, place=0.5)
def test_nothing_is_lost_whenever_the_receiver_is_replaced(
    seed: int, shape: tuple[int, int, int], size: int, loss: float, place: float
) -> None:
    coin, content = random.Random(seed), pattern(size)
    objects = [(entry_of(content, Geometry(size, 512, *shape)), content)]
    every = split(bursts_of(encoder_of(s.Session()), objects), 560)
    come = [datagram for datagram in every if coin.random() >= loss]
    whole, former = Receiver(), Receiver()
    whole.feed_each(come)
    cut = int(place * len(come))
    former.feed_each(come[:cut])
    successor = Successor(former, data_of(former))
    successor.feed_each(come[cut:])
    assert successor.contents == whole.contents
    completed = {(e.block.shape.sbn) for r in (former, successor) for e in r.events if isinstance(e, BlockComplete)}
    assert completed == {e.block.shape.sbn for e in whole.events if isinstance(e, BlockComplete)}
    counts = former.decoder.counters.symbols + successor.decoder.counters.symbols
    assert counts == whole.decoder.counters.symbols
    assert former.decoder.lost + successor.decoder.lost == whole.decoder.lost
    assert set(successor.drops) <= set(whole.drops)


def half_way() -> tuple[Receiver, list[bytes]]:
    content = pattern(30_000)
    objects = [(entry_of(content, Geometry(len(content), 512, 20, 4, 3)), content)]
    every = split(bursts_of(encoder_of(s.Session()), objects), 560)
    receiver = Receiver()
    receiver.feed_each(every[: len(every) // 2])
    return receiver, every


def test_what_was_received_before_is_refused_as_replayed_after() -> None:
    receiver, every = half_way()
    successor = Successor(receiver, data_of(receiver))
    successor.feed(every[len(every) // 2 - 1])
    assert successor.drops == {"replayed": 1}


def test_a_session_that_is_over_is_not_opened_again() -> None:
    receiver, _ = half_way()
    data = data_of(receiver)
    receiver.feed_each(s.Session(epoch=8, name="session 2").fragments())
    successor = Successor(receiver, data)
    assert successor.events == []
    assert successor.drops == {"stale_epoch": 1}


def test_a_stranger_s_session_is_not_opened() -> None:
    receiver, _ = half_way()
    sessions = handover.parse(data_of(receiver))
    other = Receiver(senders=("other",))
    assert other.decoder.take_over(sessions) == []
    assert other.decoder.take_blocks(sessions) == []
    assert other.drops == {"untrusted_sender": 1}


def test_whatever_is_cut_off_is_refused() -> None:
    receiver, _ = half_way()
    data = data_of(receiver)
    for end in [*range(400), *range(400, len(data), 397), len(data) - 1]:
        with pytest.raises(handover.HandoverError):
            handover.parse(data[:end])
    with pytest.raises(handover.HandoverError, match="1 bytes too many"):
        handover.parse(data + b"\0")


@given(at=st.integers(0, 3_000), bit=st.integers(0, 7))
def test_damage_is_refused_or_counted_and_never_raises(at: int, bit: int) -> None:
    receiver, every = half_way()
    data = bytearray(data_of(receiver))
    data[at % len(data)] ^= 1 << bit
    try:
        handover.parse(bytes(data))
    except handover.HandoverError:
        return
    successor = Successor(receiver, bytes(data))
    successor.feed_each(every[len(every) // 2 :])
    assert all(isinstance(each, SessionOpened | ObjectAnnounced | BlockComplete) for each in successor.events)
