"""The token bucket on a virtual clock."""

from __future__ import annotations

import random

import pytest

from sender.pacing import Pacer

RATE, BURST, SEND = 100e6, 128_000, 64_000  # bits per second, bytes, bytes


def run(pacer: Pacer, sends: int, oversleep: float, seed: int = 1) -> list[tuple[float, int]]:
    """Send as the role does, waking up late by up to *oversleep* seconds."""
    draw, now, log = random.Random(seed), 0.0, []
    for _ in range(sends):
        delay = pacer.delay(now)
        if delay:
            now += delay + draw.uniform(0, oversleep)
        count = draw.choice([SEND, SEND, 1_500])
        pacer.sent(count, now)
        log.append((now, count))
    return log


@pytest.mark.parametrize("oversleep", [0.0, 0.0002, 0.004])
def test_the_long_run_rate_is_exact_and_does_not_drift(oversleep: float) -> None:
    log = run(Pacer(RATE, BURST, SEND), 20_000, oversleep)
    seconds = log[-1][0] - log[0][0]
    sent = sum(count for _, count in log[:-1])
    assert sent * 8 / seconds == pytest.approx(RATE, rel=0.001)


def test_in_no_interval_more_than_the_burst_leaves_beyond_the_rate() -> None:
    pacer = Pacer(RATE, BURST, SEND)
    log = run(pacer, 2_000, 0.003)
    bound = BURST + 1
    for first in range(0, len(log), 7):
        sent = 0
        for now, count in log[first : first + 60]:
            sent += count
            assert sent - (now - log[first][0]) * RATE / 8 <= bound


def test_after_idling_a_burst_may_leave_and_no_more() -> None:
    pacer = Pacer(RATE, BURST, SEND)
    pacer.sent(SEND, 0.0)
    sent = 0
    while pacer.delay(1_000.0) == 0:
        pacer.sent(SEND, 1_000.0)
        sent += SEND
    assert sent == BURST


def test_a_send_larger_than_the_burst_takes_its_time() -> None:
    pacer = Pacer(8_000.0, 500, 1_500)  # 1,000 bytes a second
    pacer.sent(1_500, 0.0)
    assert pacer.delay(0.0) == pytest.approx(1.5)
    pacer.sent(1_500, 1.5)
    assert pacer.delay(1.5) == pytest.approx(1.5)


def test_a_new_rate_counts_for_what_was_sent_ahead_as_well() -> None:
    pacer = Pacer(RATE, BURST, SEND)
    for _ in range(4):
        pacer.sent(SEND, 1.0)
    wait = pacer.delay(1.0)
    assert wait > 0
    pacer.set_rate(RATE / 4, 1.0)
    assert pacer.delay(1.0) == pytest.approx(4 * wait)
    fresh = Pacer(RATE, BURST, SEND)
    fresh.set_rate(RATE / 4, 1.0)
    assert fresh.delay(1.0) == 0
    log = run(pacer, 2_000, 0.0)
    seconds, sent = log[-1][0] - log[9][0], sum(count for _, count in log[9:-1])
    assert sent * 8 / seconds == pytest.approx(RATE / 4, rel=0.01)
