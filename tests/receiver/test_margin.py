"""How near the link came to losing blocks, and the advice: arithmetic against brute force."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.margin import Meter, advise, margin_name, meter_of, percent, summary, symbols_needed

COUNTS = st.integers(0, 10_000)
METERS = st.builds(
    Meter,
    datagrams=COUNTS,
    bytes=COUNTS,
    lost=COUNTS,
    kernel_drops=COUNTS,
    repaired=COUNTS,
    blocks=COUNTS,
    blocks_lost=COUNTS,
    worst=st.integers(0, 20),
    worst_of=st.just(20),
    worst_k=st.just(200),
)


def test_it_is_said_as_people_say_it() -> None:
    meter = Meter(datagrams=98_800, lost=1_200, blocks=90, worst=11, worst_of=20, worst_k=200)
    assert summary(meter) == "1.2 % lost, worst block used 11 of 20 repair symbols"
    assert summary(Meter(datagrams=10, blocks=1)) == "0 % lost, no block needed a repair symbol"
    assert summary(Meter()) == "nothing received"
    assert summary(Meter(datagrams=5, lost=5, blocks_lost=1)) == "50 % lost, 1 block lost"


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0, "0 %"),
        (0.012, "1.2 %"),
        (0.0999, "10 %"),
        (0.5, "50 %"),
        (1, "100 %"),
        (0.000_04, "0.0040 %"),
        (1e-9, "below 0.0001 %"),
    ],
)
def test_percent(share: float, text: str) -> None:
    assert percent(share) == text


@given(METERS, METERS)
def test_together_they_count_all_and_keep_the_closest(one: Meter, other: Meter) -> None:
    both = one.plus(other)
    assert both.datagrams == one.datagrams + other.datagrams
    assert both.blocks_lost == one.blocks_lost + other.blocks_lost
    assert both.used == max(one.used, other.used)
    assert other.plus(one).document() == both.document()


def test_the_worst_block_is_the_one_that_used_most_of_what_it_had() -> None:
    counts = {margin_name(11, 20, 200): 3, margin_name(4, 5, 20): 1, margin_name(19, 20, 200): 0, "datagrams": 7}
    meter = meter_of(counts | {"drop.block_abandoned": 2})
    assert (meter.worst, meter.worst_of, meter.worst_k) == (4, 5, 20)
    assert (meter.datagrams, meter.blocks_lost) == (7, 2)


@pytest.mark.parametrize(("loss", "k"), [(0.01, 200), (0.02, 200), (0.05, 200), (0.1, 100), (0.3, 20)])
def test_the_repair_symbols_that_are_advised_are_enough_and_no_more(loss: float, k: int) -> None:
    """Against the distribution summed the plain way, with exact integers for the combinations."""

    def fails(m: int) -> float:
        n = k + m
        return math.fsum(math.comb(n, lost) * loss**lost * (1 - loss) ** (n - lost) for lost in range(m + 1, n + 1))

    m = symbols_needed(loss, k)
    assert fails(m) <= 1e-7 < fails(m - 1)


def test_what_is_advised_would_have_carried_the_link() -> None:
    draw, k, loss = Random(5), 200, 0.04
    wanted = advise(Meter(datagrams=96_000, lost=4_000, blocks=1, blocks_lost=9, worst=20, worst_of=20, worst_k=k))
    assert wanted.verdict == "raise"
    assert wanted.repair is not None
    m = round(k * wanted.repair)
    assert all(sum(draw.random() < loss for _ in range(k + m)) <= m for _ in range(2_000))


@pytest.mark.parametrize(
    ("meter", "verdict", "words"),
    [
        (Meter(datagrams=9, blocks=3, worst=11, worst_of=20, worst_k=200), "enough", "is enough"),
        (Meter(datagrams=9, blocks=3), "enough", "is enough"),
        (Meter(datagrams=9), "unknown", "not tried"),
        (
            Meter(datagrams=99_000, lost=1_000, blocks=3, worst=17, worst_of=20, worst_k=200),
            "raise",
            "the margin is small: raise link.repair on the sender to 15 %",
        ),
        (
            Meter(datagrams=95_000, lost=5_000, blocks=3, blocks_lost=2, worst=20, worst_of=20, worst_k=200),
            "raise",
            "blocks are lost: raise link.repair",
        ),
        (
            Meter(datagrams=999_000, lost=1_000, blocks=3, blocks_lost=2, worst=20, worst_of=20, worst_k=200),
            "bursts",
            "loss comes in bursts; raise link.outage",
        ),
        (Meter(datagrams=9, lost=9, blocks_lost=1), "bursts", "breaks off"),
        (
            Meter(
                datagrams=9_000,
                lost=500,
                kernel_drops=80,
                blocks=3,
                blocks_lost=2,
                worst=20,
                worst_of=20,
                worst_k=200,
            ),
            "kernel",
            "raise listen.receive_buffer",
        ),
        # a session that ended takes unfinished blocks with it, and loses nothing
        (Meter(datagrams=9, blocks=3, blocks_lost=2, worst=2, worst_of=20, worst_k=200), "enough", "is enough"),
    ],
)
def test_advice(meter: Meter, verdict: str, words: str) -> None:
    advice = advise(meter)
    assert advice.verdict == verdict
    assert words in advice.text


@given(METERS)
def test_whatever_was_seen_there_is_an_answer(meter: Meter) -> None:
    assert advise(meter).text
    assert summary(meter)
