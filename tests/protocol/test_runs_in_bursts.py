"""Datagrams in bursts, whatever was lost, repeated, exchanged or forged, have the effect of the same one by one."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from protocol.geometry import Geometry
from protocol.order import _order
from protocol.runs import equal_end, rising_end
from tests.protocol.harness import Receiver, bursts_of, encoder_of, entry_of, split
from tests.vectors import session as s
from tests.vectors.definition import pattern

NUMBERS = st.lists(st.integers(0, 4), min_size=1, max_size=40)


@given(steps=NUMBERS, start=st.integers(0, 39))
def test_where_rising_numbers_end(steps: list[int], start: int) -> None:
    values = [sum(steps[: i + 1]) for i in range(len(steps))] if steps[0] % 2 else steps
    start %= len(values)
    end = start + 1
    while end < len(values) and values[end] == values[end - 1] + 1:
        end += 1
    assert rising_end(values, start) == end


@given(values=NUMBERS, start=st.integers(0, 39), end=st.integers(1, 40))
def test_where_equal_numbers_end(values: list[int], start: int, end: int) -> None:
    start %= len(values)
    end = max(start + 1, min(end, len(values)))
    expected = next((at for at in range(start, end) if values[at] != values[start]), end)
    assert equal_end(values, start, end) == expected


@given(
    seed=st.integers(0, 1 << 32),
    shape=st.sampled_from([(4, 2, 2), (7, 3, 5), (1, 3, 1), (20, 4, 9), (3, 3, 40)]),
    size=st.integers(1, 60_000),
    loss=st.sampled_from([0.0, 0.02, 0.2]),
    mess=st.sampled_from([0.0, 0.03, 0.3]),
    burst=st.integers(2, 64),
)
def test_bursts_have_the_effect_of_single_datagrams(
    seed: int, shape: tuple[int, int, int], size: int, loss: float, mess: float, burst: int
) -> None:
    coin, session = random.Random(seed), s.Session()
    content = pattern(size)
    objects = [(entry_of(content, Geometry(size, 512, *shape)), content)]
    every = split(bursts_of(encoder_of(session), objects), 560)
    first = next(at for at, datagram in enumerate(every) if datagram[3] == s.SYMBOL)
    sent = [datagram for datagram in every[first:] if coin.random() >= loss]
    for at in range(len(sent)):
        if coin.random() < mess:
            match coin.randrange(4):
                case 0:  # repeated
                    sent[at] = coin.choice(sent)
                case 1:  # exchanged
                    other = coin.randrange(len(sent))
                    sent[at], sent[other] = sent[other], sent[at]
                case 2:  # changed on the way, in any field
                    place = coin.randrange(len(sent[at]))
                    sent[at] = sent[at][:place] + bytes([coin.randrange(256)]) + sent[at][place + 1 :]
                case _:  # lost
                    sent[at] = b""
    sent = [datagram for datagram in sent if datagram]
    together, singly = Receiver(), Receiver()
    for receiver in (together, singly):  # that an object is wanted counts from the next burst on
        receiver.feed_each(every[:first])
    for at in range(0, len(sent), burst):
        together.feed(b"".join(sent[at : at + burst]), 560)
    singly.feed_each(sent)
    assert together.drops == singly.drops
    assert together.decoder.counters == singly.decoder.counters
    assert together.contents == singly.contents
    assert together.decoder.lost == singly.decoder.lost
    assert [type(event) for event in together.events] == [type(event) for event in singly.events]


def test_forged_symbols_have_nothing_computed() -> None:
    """Not even the wire order of a block that is of no use: only authentic symbols ask for that."""
    session, receiver = s.Session(), Receiver()
    entries = [s.entry(pattern(512 * size), toi=size, k=size, m=1, depth=1) for size in range(1, 200)]
    receiver.feed_each(session.fragments())
    for number, entry in enumerate(entries):
        receiver.feed(session.control(s.OBJECTS, number, entry))
    for announced in next(iter(receiver.decoder._sessions.values())).objects.values():
        announced.wanted = False
    before = _order.cache_info()
    forged = [session.symbol(1_000 + toi, bytes(512), toi=toi)[:-1] + b"!" for toi in range(1, 200)]
    receiver.feed_each(forged)
    assert receiver.drops == {"not_authentic": len(forged)}
    assert _order.cache_info() == before
    receiver.feed(session.symbol(1_000, bytes(512), toi=1))
    assert receiver.decoder.counters.surplus == 1
