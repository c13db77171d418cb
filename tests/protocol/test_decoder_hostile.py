"""What an attacker on the low side may do to good traffic with datagrams of his own: cost time, nothing else."""

from __future__ import annotations

import time
import tracemalloc
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.decoder import VIEWS_MAX
from protocol.events import BlockComplete, SessionOpened
from protocol.geometry import checked
from protocol.limits import ACTIVE_BLOCKS_MAX
from protocol.wire import BurstView
from tests.protocol.harness import Receiver, bursts_of, encoder_of, entry_of, split
from tests.vectors import definition
from tests.vectors import session as s

SESSION = s.Session()
CONTENT = definition.pattern(30_000)
ENTRY = entry_of(CONTENT, checked(len(CONTENT), 512, 8, 3, 3))
GOOD = split(bursts_of(encoder_of(SESSION), [(ENTRY, CONTENT)]), 560)


def complete(receiver: Receiver) -> bool:
    return bytes(receiver.contents.get(ENTRY.coded_digest, b"")) == CONTENT


def test_good_traffic_alone_completes() -> None:
    receiver = Receiver()
    receiver.feed_each(GOOD)
    assert complete(receiver)
    assert receiver.drops == {}
    restored = [event.block.shape.sbn for event in receiver.events if isinstance(event, BlockComplete)]
    assert restored == list(range(ENTRY.geometry.blocks)), "each block once; its later symbols are surplus"
    assert receiver.decoder.counters.surplus > 0


@st.composite
def garbage(draw: st.DrawFn) -> bytes:
    """Random bytes, or a good datagram with bytes changed, cut off or added."""
    if draw(st.booleans()):
        return draw(st.binary(min_size=1, max_size=700))
    datagram = bytearray(draw(st.sampled_from(GOOD)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, 47) | st.integers(0, len(datagram) - 1))
        datagram[at] ^= draw(st.integers(1, 255))
    return bytes(datagram[: draw(st.integers(1, 560))]) if draw(st.booleans()) else bytes(datagram)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(garbage(), st.integers(0, 9_300) | st.sampled_from((560, 32, 48, 576, 1_472))), max_size=40)
)
def test_anything_may_come_and_good_traffic_still_completes(noise: list[tuple[bytes, int]]) -> None:
    receiver = Receiver()
    for index, datagram in enumerate(GOOD):
        if noise and index % (len(GOOD) // len(noise) + 1) == 0:
            data, size = noise[index // (len(GOOD) // len(noise) + 1)]
            receiver.feed(data, size)
        receiver.feed(datagram)
    assert complete(receiver)
    assert sum(isinstance(event, SessionOpened) for event in receiver.events) == 1


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_bursts_mixed_with_forgeries_lose_only_the_forgeries(data: st.DataObject) -> None:
    """The kernel coalesces a forger's datagrams with good ones of the same size."""
    receiver = Receiver()
    position = next(index for index, datagram in enumerate(GOOD) if datagram[3] == s.SYMBOL)
    receiver.feed_each(GOOD[:position])
    while position < len(GOOD):
        count = data.draw(st.integers(1, 20))
        burst = []
        for datagram in GOOD[position : position + count]:
            if data.draw(st.integers(0, 3)) == 0:
                forged = data.draw(garbage()).ljust(560, b"\0")[:560]
                burst.append(forged if forged not in GOOD else bytes(560))
            burst.append(datagram)
        receiver.feed(b"".join(burst), 560)
        position += count
    assert complete(receiver)


@pytest.mark.parametrize("at", [28, 31])
def test_one_forged_datagram_costs_no_other_of_its_burst(at: int) -> None:
    receiver = Receiver()
    lead = next(index for index, datagram in enumerate(GOOD) if datagram[3] == s.SYMBOL)
    receiver.feed_each(GOOD[:lead])
    forged = bytearray(GOOD[lead])
    forged[at] = 1
    burst = [*GOOD[lead : lead + 10], bytes(forged), *GOOD[lead + 10 : lead + 20]]
    receiver.feed(b"".join(burst), 560)
    assert receiver.decoder.counters.symbols == 20
    assert receiver.drops == {"bad_field": 1}


@pytest.mark.parametrize("spoiled", [0, 4, 9])
def test_a_spoiled_datagram_within_a_burst_leaves_its_own_number_open(spoiled: int) -> None:
    receiver = Receiver()
    lead = next(index for index, datagram in enumerate(GOOD) if datagram[3] == s.SYMBOL)
    receiver.feed_each(GOOD[:lead])
    burst = [bytearray(datagram) for datagram in GOOD[lead : lead + 10]]
    burst[spoiled][100] ^= 1
    receiver.feed(b"".join(burst), 560)
    assert receiver.drops == {"not_authentic": 1}
    receiver.feed(GOOD[lead + spoiled])
    assert receiver.drops == {"not_authentic": 1}
    receiver.feed_each(GOOD[lead : lead + 10])
    assert receiver.drops == {"not_authentic": 1, "replayed": 10}
    receiver.feed_each(GOOD[lead + 10 :])
    assert complete(receiver)
    assert receiver.decoder.lost == 0


@pytest.mark.parametrize("kind", [s.OBJECTS, s.BEACON, s.SYMBOL])
def test_any_flipped_bit_of_a_sealed_datagram_is_counted_and_changes_nothing(kind: int) -> None:
    receiver = Receiver()
    place = next(index for index, datagram in enumerate(GOOD) if datagram[3] == kind)
    receiver.feed_each(GOOD[:place])
    before = receiver.decoder.counters.symbols, len(receiver.events)
    flips = 8 * len(GOOD[place])
    for bit in range(flips):
        flipped = bytearray(GOOD[place])
        flipped[bit // 8] ^= 1 << bit % 8
        receiver.feed(bytes(flipped))
    assert sum(receiver.drops.values()) == flips
    assert (receiver.decoder.counters.symbols, len(receiver.events)) == before
    receiver.feed_each(GOOD[place:])
    assert complete(receiver)
    assert receiver.decoder.lost == 0


def test_a_forged_packet_number_does_not_move_the_window() -> None:
    receiver = Receiver()
    for index, datagram in enumerate(GOOD):
        if index % 3 == 2 and datagram[3] != s.ANNOUNCEMENT:
            far = datagram[:8] + ((1 << 56) - 1 - index).to_bytes(8, "little") + datagram[16:]
            receiver.feed(far)
        receiver.feed(datagram)
    assert complete(receiver)
    assert set(receiver.drops) == {"not_authentic"}
    assert receiver.decoder.lost == 0


def test_every_split_into_bursts_gives_the_same_content() -> None:
    random = Random(4)
    for _ in range(30):
        receiver, at = Receiver(), 0
        while at < len(GOOD):
            count = random.randrange(1, 60)
            if GOOD[at][3] == s.OBJECTS:  # the answer to an announced object comes after its burst
                count = 1
            ends = [i for i in range(at + 1, min(at + count, len(GOOD))) if GOOD[i][3] == s.OBJECTS]
            count = ends[0] + 1 - at if ends else count
            receiver.feed(b"".join(GOOD[at : at + count]), 560)
            at += count
        assert complete(receiver)
        assert receiver.drops == {}


def test_a_short_last_datagram_of_a_larger_burst_is_taken() -> None:
    receiver = Receiver()
    for datagram in GOOD:
        receiver.feed(b"\xff" * 576 + datagram, 576)
    assert complete(receiver)
    assert receiver.drops == {"bad_magic": len(GOOD)}


def test_memory_is_bounded_whatever_sizes_come() -> None:
    receiver, random = Receiver(), Random(5)
    receiver.feed_each(GOOD[:3])
    tracemalloc.start()
    for _ in range(2_000):
        size = random.randrange(1, 9_400)
        receiver.feed(random.randbytes(random.randrange(1, 9_400)), size)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 1_000_000
    assert len(receiver.buffer._views) <= VIEWS_MAX


def test_buffers_are_only_taken_for_authentic_symbols_of_wanted_blocks() -> None:
    receiver = Receiver()
    lead = next(index for index, datagram in enumerate(GOOD) if datagram[3] == s.SYMBOL)
    receiver.feed_each(GOOD[:lead])
    for sbn in range(50):
        forged = s.header(s.SYMBOL, SESSION.tag, 10_000 + sbn, 1, sbn) + bytes(528)
        receiver.feed(forged)
        receiver.feed(SESSION.symbol(20_000 + sbn, bytes(512), sbn=0, row=40))
        receiver.feed(SESSION.symbol(30_000 + sbn, bytes(512), sbn=999))
        receiver.feed(SESSION.symbol(40_000 + sbn, bytes(512), toi=77))
    assert receiver.decoder._pool._lent == 0
    assert receiver.drops == {"not_authentic": 50, "bad_position": 100, "unknown_object": 50}
    receiver.feed_each(GOOD[lead:])
    assert complete(receiver)
    assert len([event for event in receiver.events if isinstance(event, BlockComplete)]) == ENTRY.geometry.blocks


def test_a_sender_who_opens_blocks_without_end_keeps_within_the_buffers() -> None:
    receiver = Receiver()
    content = definition.pattern(512 * 200)
    receiver.feed_each([*SESSION.fragments(), SESSION.control(s.OBJECTS, 0, s.entry(content, k=2, m=1, depth=1))])
    for sbn in range(100):
        receiver.feed(SESSION.symbol(1 + sbn, content[1_024 * sbn :][:512], sbn=sbn))
        assert receiver.decoder._pool._lent <= ACTIVE_BLOCKS_MAX
    assert receiver.drops == {"block_abandoned": 100 - ACTIVE_BLOCKS_MAX}


def test_a_session_announced_again_with_other_bytes_changes_nothing() -> None:
    receiver = Receiver()
    half = len(GOOD) // 2
    receiver.feed_each(GOOD[:half])
    receiver.feed_each(replace(SESSION, ephemeral="again").fragments())
    receiver.feed_each(replace(SESSION, lanes=2).fragments())
    receiver.feed_each(GOOD[half:])
    assert complete(receiver)
    assert receiver.drops == {"epoch_reused": 2}


def test_senders_whose_session_tags_collide_take_turns_and_never_mix() -> None:
    class Colliding(s.Session):
        @property
        def session_id(self) -> bytes:
            return SESSION.session_id[:4] + s.seed("rest")[:12]

    other = Colliding(sender="second sender")
    receiver = Receiver(senders=("sender", "second sender"))
    receiver.feed_each(GOOD[:20])
    receiver.feed_each(other.fragments())
    receiver.feed(GOOD[20])
    assert receiver.drops.get("not_authentic", 0) + receiver.drops.get("replayed", 0) >= 1
    receiver.feed_each(SESSION.fragments())
    receiver.feed_each(GOOD)
    assert complete(receiver)


def test_a_whole_session_replayed_in_force_is_dropped() -> None:
    receiver = Receiver()
    receiver.feed_each(GOOD)
    events = len(receiver.events)
    receiver.feed_each(GOOD)
    sealed = sum(datagram[3] != s.ANNOUNCEMENT for datagram in GOOD)
    assert receiver.drops == {"replayed": sealed}
    assert len(receiver.events) == events


def test_time_for_alternating_forgeries_is_bounded() -> None:
    """A burst in which every second datagram is forged must not cost many times what a clean one does."""
    receiver = Receiver()
    receiver.feed_each(GOOD[:1])
    view = BurstView(receiver.buffer.memory, 560, 64)

    def seconds(forge: bool) -> float:
        best = 1.0
        for turn in range(20):
            for index in range(64):
                kind = s.BEACON if forge and index % 2 else s.SYMBOL
                view.datagrams[index][:32] = s.header(kind, SESSION.tag, 1_000 * turn + index, toi=1)
            begun = time.perf_counter()
            receiver.decoder.receive_burst(receiver.buffer, 64 * 560, 560)
            best = min(best, time.perf_counter() - begun)
        return best

    assert seconds(True) < 8 * seconds(False)
