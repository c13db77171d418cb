"""The budget of one registry under a clock of the test's own: pace, pauses, quota, and when it is left alone."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oci import limits
from oci.budget import Budget, Quota
from oci.errors import NotFound, Unreachable
from tests.oci.virtual_time import VirtualTime

EPOCH = 1_700_000_000.0


@pytest.fixture
def time_() -> VirtualTime:
    return VirtualTime()


def budget_of(virtual: VirtualTime, **more: float) -> Budget:
    return Budget(
        "r.example",
        clock=virtual.clock,
        wall=lambda: EPOCH + virtual.now,
        sleep=virtual.sleep,
        rng=random.Random(1),
        **more,  # type: ignore[arg-type]
    )


async def ask(budget: Budget, error: Exception | None = None, *, counted: bool = False) -> None:
    async with budget.turn(counted=counted):
        if error is not None:
            raise error


async def fail(budget: Budget, times: int, error: Callable[[], Exception] | None = None) -> None:
    for _ in range(times):
        with pytest.raises(Unreachable):
            await ask(budget, error() if error else Unreachable("r.example/a: cannot connect"))


def started(*jobs: Awaitable[None]) -> list[asyncio.Future[None]]:
    return [asyncio.ensure_future(job) for job in jobs]


async def test_requests_leave_at_the_rate_after_some_seconds_worth(time_: VirtualTime) -> None:
    budget = budget_of(time_, requests_per_second=10)
    left: list[float] = []

    async def one() -> None:
        await ask(budget)
        left.append(time_.now - 1000)

    at_once = round(10 * limits.REQUEST_BURST_SECONDS)
    jobs = started(*(one() for _ in range(at_once + 20)))
    await time_.advance(0)
    assert (len(left), budget.figures.waiting) == (at_once, 20)
    await time_.advance(10)
    assert left[-1] == pytest.approx(2.0)
    assert all(job.done() for job in jobs)
    assert budget.figures.requests == at_once + 20


@settings(max_examples=30, deadline=None)
@given(gaps=st.lists(st.floats(0, 2), min_size=1, max_size=40), rate=st.sampled_from([0.5, 3.0, 20.0]))
def test_no_window_holds_more_than_rate_and_burst(gaps: list[float], rate: float) -> None:
    async def run() -> list[float]:
        virtual = VirtualTime()
        budget = budget_of(virtual, requests_per_second=rate, concurrency=100)
        left: list[float] = []

        async def one() -> None:
            await ask(budget)
            left.append(virtual.now)

        for gap in gaps:
            started(one())
            await virtual.advance(gap)
        await virtual.advance(len(gaps) / rate + 1)
        return left

    left = asyncio.run(run())
    assert len(left) == len(gaps)
    for first in range(len(left)):
        for last in range(first, len(left)):
            assert (
                last - first + 1
                <= (left[last] - left[first]) * rate + max(1.0, rate * limits.REQUEST_BURST_SECONDS) + 1e-3
            )


async def test_so_many_at_once_and_blobs_besides(time_: VirtualTime) -> None:
    budget = budget_of(time_, concurrency=2, blobs=1)
    go = asyncio.Event()

    async def hold() -> None:
        async with budget.turn():
            await go.wait()

    async def read() -> None:
        async with budget.blob():
            await go.wait()

    jobs = started(hold(), hold(), hold(), read(), read())
    await time_.settle()
    figures = budget.figures
    assert (figures.active, figures.waiting, figures.blobs) == (2, 1, 1)
    go.set()
    await asyncio.gather(*jobs)
    assert (budget.figures.active, budget.figures.waiting, budget.figures.blobs) == (0, 0, 0)


async def test_one_429_holds_everyone(time_: VirtualTime) -> None:
    budget = budget_of(time_)
    await fail(budget, 1, lambda: Unreachable("429", status=429, retry_after_seconds=40))
    jobs = started(*(ask(budget) for _ in range(5)))
    await time_.advance(39)
    figures = budget.figures
    assert (figures.requests, figures.waiting, figures.state, figures.failures) == (1, 5, "closed", 0)
    assert figures.paused_until == pytest.approx(EPOCH + 1040)
    await time_.advance(2)
    await asyncio.gather(*jobs)
    assert (budget.figures.requests, budget.figures.paused_until) == (6, None)


async def test_a_pause_that_comes_while_waiting_for_a_slot_counts(time_: VirtualTime) -> None:
    budget = budget_of(time_, concurrency=1)
    go = asyncio.Event()

    async def refused() -> None:
        async with budget.turn():
            await go.wait()
            raise Unreachable("429", status=429, retry_after_seconds=60)

    first, second = started(refused(), ask(budget))
    await time_.settle()
    go.set()
    await time_.advance(59)
    assert (first.done(), second.done()) == (True, False)
    assert isinstance(first.exception(), Unreachable)
    await time_.advance(2)
    await second


async def test_a_long_pause_is_not_waited_for(time_: VirtualTime) -> None:
    budget = budget_of(time_)
    budget.heard({"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "0;w=21600"})
    await fail(budget, 1, lambda: Unreachable("429", status=429, retry_after_seconds=3600))
    until = time.strftime("%H:%M:%S", time.localtime(EPOCH + 4600))
    with pytest.raises(Unreachable, match=rf"until {until} \(0 of 100 left\)") as caught:
        await ask(budget)
    assert caught.value.retry_after_seconds == pytest.approx(3600)
    assert budget.figures.requests == 1
    await time_.advance(3600)
    await ask(budget)


async def test_nobody_asks_for_years(time_: VirtualTime) -> None:
    budget = budget_of(time_)
    await fail(budget, 1, lambda: Unreachable("503", status=503, retry_after_seconds=1e9))
    assert budget.figures.failures == 1
    await time_.advance(limits.PAUSE_ASKED_SECONDS_MAX)
    await ask(budget)


async def test_429s_without_a_time_pause_longer_and_longer(time_: VirtualTime) -> None:
    budget = budget_of(time_)
    waits = []
    for _ in range(12):
        await fail(budget, 1, lambda: Unreachable("429", status=429))
        until = budget.figures.paused_until
        assert until is not None
        waits.append(until - EPOCH - time_.now)
        await time_.advance(waits[-1] + 0.1)
    assert 0.7 * limits.PAUSE_SECONDS_BASE < waits[0] <= limits.PAUSE_SECONDS_BASE < waits[3]
    assert max(waits) <= limits.PAUSE_SECONDS_MAX
    await ask(budget)
    await fail(budget, 1, lambda: Unreachable("429", status=429))
    assert (budget.figures.paused_until or 0) - EPOCH - time_.now <= limits.PAUSE_SECONDS_BASE


async def test_it_is_left_alone_after_failures_in_a_row_and_tried_with_one_request(time_: VirtualTime) -> None:
    budget = budget_of(time_)
    await fail(budget, 4)
    await ask(budget)  # an answer in between
    await fail(budget, 4)
    assert budget.figures.state == "closed"
    await fail(budget, 1)
    figures = budget.figures
    assert (figures.state, figures.failures, figures.last_error) == ("open", 5, "r.example/a: cannot connect")
    assert figures.open_until is not None
    until = time.strftime("%H:%M:%S", time.localtime(figures.open_until))
    says = f"r.example: left alone until {until} after 5 failures: r.example/a: cannot connect"
    with pytest.raises(Unreachable, match=re.escape(says)):
        await ask(budget)
    assert budget.figures.requests == figures.requests

    await time_.advance(limits.BREAKER_SECONDS_BASE)
    go = asyncio.Event()
    seen: list[str] = []

    async def probe(name: str) -> None:
        async with budget.turn():
            seen.append(name)
            await go.wait()

    jobs = started(*(probe(name) for name in "abc"))
    await time_.settle()
    assert (seen, budget.figures.state) == (["a"], "half-open")
    go.set()
    await asyncio.gather(*jobs)
    assert (seen, budget.figures.state, budget.figures.failures) == (["a", "b", "c"], "closed", 0)


async def test_a_probe_that_fails_doubles_the_time(time_: VirtualTime) -> None:
    budget = budget_of(time_)
    await fail(budget, 5)
    times = []
    for _ in range(8):
        until = budget.figures.open_until
        assert until is not None
        times.append(until - EPOCH - time_.now)
        await time_.advance(times[-1] + 0.01)
        await fail(budget, 1)
    for number, taken in enumerate(times):
        ceiling = min(limits.BREAKER_SECONDS_BASE * 2**number, limits.BREAKER_SECONDS_MAX)
        assert ceiling * 0.75 <= taken <= ceiling
    assert times[-1] > limits.BREAKER_SECONDS_MAX / 2


async def test_who_waits_for_a_probe_that_fails_is_told_at_once(time_: VirtualTime) -> None:
    budget = budget_of(time_)
    await fail(budget, 5)
    await time_.advance(limits.BREAKER_SECONDS_BASE)
    go = asyncio.Event()

    async def probe() -> None:
        async with budget.turn():
            await go.wait()
            raise Unreachable("still down")

    jobs = started(probe(), ask(budget))
    await time_.settle()
    go.set()
    said = await asyncio.gather(*jobs, return_exceptions=True)
    assert [str(one).partition(" until")[0] for one in said] == ["still down", "r.example: left alone"]


async def test_a_cancelled_probe_leaves_the_next_one_to_try(time_: VirtualTime) -> None:
    budget = budget_of(time_)
    await fail(budget, 5)
    await time_.advance(limits.BREAKER_SECONDS_BASE)

    async def hang() -> None:
        async with budget.turn():
            await asyncio.Event().wait()

    (probe,) = started(hang())
    await time_.settle()
    (waiting,) = started(ask(budget))
    await time_.settle()
    probe.cancel()
    await waiting
    assert budget.figures.state == "closed"


async def test_failures_of_one_moment_are_one_failure(time_: VirtualTime) -> None:
    budget = budget_of(time_, concurrency=20)
    go = asyncio.Event()

    async def one() -> None:
        async with budget.turn():
            await go.wait()
            raise Unreachable("reset")

    jobs = started(*(one() for _ in range(10)))
    await time_.advance(1)
    go.set()
    await asyncio.gather(*jobs, return_exceptions=True)
    assert (budget.figures.failures, budget.figures.state) == (1, "closed")


async def test_what_goes_wrong_elsewhere_and_refusals_do_not_count(time_: VirtualTime) -> None:
    budget = budget_of(time_)
    await fail(budget, 9, lambda: Unreachable("storage is down", elsewhere=True))
    for _ in range(9):
        with pytest.raises(NotFound):
            await ask(budget, NotFound("no"))
    assert (budget.figures.state, budget.figures.failures) == ("closed", 0)


@pytest.mark.parametrize(
    ("limit", "remaining", "quota"),
    [
        ("100;w=21600", "76;w=21600", Quota(100, 76, 21600)),
        ("200", "3", Quota(200, 3, 0)),
        ("100;w=21600", "", None),
        ("0;w=1", "0;w=1", None),
        ("many", "76;w=21600", None),
        ("-1", "-1", None),
        ("9" * 40, "1", None),
    ],
)
def test_quota_headers(limit: str, remaining: str, quota: Quota | None) -> None:
    budget = Budget("docker.io")
    budget.heard({"ratelimit-limit": limit, "ratelimit-remaining": remaining})
    assert budget.figures.quota == quota


async def test_little_quota_spaces_what_counts_and_nothing_else(time_: VirtualTime) -> None:
    budget = budget_of(time_)
    budget.heard({"ratelimit-limit": "1000;w=10000", "ratelimit-remaining": "101;w=10000"})
    await asyncio.gather(*(ask(budget, counted=True) for _ in range(5)))
    budget.heard({"ratelimit-limit": "1000;w=10000", "ratelimit-remaining": "100;w=10000"})
    jobs = started(*(ask(budget, counted=True) for _ in range(3)))
    await asyncio.gather(*(ask(budget) for _ in range(5)))
    await time_.settle()
    assert [job.done() for job in jobs] == [True, False, False]
    await time_.advance(10)
    assert [job.done() for job in jobs] == [True, True, False]
    await time_.advance(10)
    await asyncio.gather(*jobs)
