"""How much one registry is asked: rate, concurrency, pauses it asks for, its quota, and when to leave it alone.

One ``Budget`` a registry host, shared by all its repositories. It does no I/O: a request is sent inside a ``turn``,
whose outcome it learns from the error that leaves it. Time, sleep and randomness are arguments.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Final, Literal

from oci import limits
from oci.errors import LeftAlone, Unreachable

State = Literal["closed", "open", "half-open"]
"""Of the circuit breaker: asked as usual, left alone, tried with one request."""

_QUOTA: Final = re.compile(r"(\d{1,12})(?:\s*;\s*w=(\d{1,9}))?", re.ASCII)
_INSTANT_S: Final = 1e-6  # less is rounding
_SCARCE: Final = 0.1  # share of the quota that counts as little


@dataclass(frozen=True, slots=True)
class Quota:
    """Docker Hub's pull quota: *remaining* of *limit* manifests in any *window_s* seconds (``100;w=21600``)."""

    limit: int
    remaining: int
    window_s: int

    @property
    def scarce(self) -> bool:
        """Whether so little is left that it is to last."""
        return self.remaining <= self.limit * _SCARCE


@dataclass(frozen=True, slots=True)
class Figures:
    """What status shows of a registry; times are seconds since the epoch, None where it does not apply."""

    state: State
    requests: int  # sent so far, retries included
    active: int
    waiting: int
    blobs: int  # bodies of blobs that are being read
    failures: int  # in a row
    paused_until: float | None  # the registry asked for it
    open_until: float | None  # we leave it alone
    last_error: str | None  # of the failures in a row
    quota: Quota | None


class Budget:
    """See the module. *requests_per_second* is sustained; some seconds' worth may leave at once."""

    def __init__(
        self,
        name: str,
        *,
        requests_per_second: float = limits.REQUESTS_PER_SECOND,
        concurrency: int = limits.REQUESTS_AT_ONCE,
        blobs: int = limits.BLOBS_AT_ONCE,
        failures_max: int = limits.BREAKER_FAILURES,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self.name = name
        self.concurrency = concurrency
        self.blobs = blobs
        self._interval_s = 1 / requests_per_second
        self._burst_s = max(
            0.0, limits.REQUEST_BURST_SECONDS - self._interval_s
        )  # how far ahead of the sustained rate
        self._failures_max = failures_max
        self._clock = clock
        self._wall = wall
        self._sleep = sleep
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret
        self._slots = asyncio.Semaphore(concurrency)
        self._blob_slots = asyncio.Semaphore(blobs)
        self._due = clock()  # when the sustained rate has room again (GCRA, ITU-T I.371)
        self._counted_due = clock()  # the same for what counts against a quota that is nearly used up
        self._paused_until = clock()
        self._asks_in_a_row = 0  # 429 after 429
        self._open_until: float | None = None
        self._open_s = limits.BREAKER_SECONDS_BASE
        self._probe_over = asyncio.Event()
        self._probing = False
        self._failures = 0
        self._failed_at = clock()
        self._last_error: str | None = None
        self._cause: BaseException | None = None  # which says to people what to do about it
        self._quota: Quota | None = None
        self._requests = self._active = self._waiting = self._blobs_read = 0

    def turn(self, *, counted: bool = False) -> AbstractAsyncContextManager[None]:
        """Wait for one request's turn; send it, and read its answer if that is short, inside.

        *counted* requests use up a pull quota, such as Docker Hub's: GET of a manifest, not HEAD. Raises LeftAlone
        at once while the registry is left alone, or asked for a pause beyond limits.RETRY_AFTER_SECONDS_MAX. An
        Unreachable that leaves the block is a failure of the registry, or its wish to be asked later (429).
        """
        return self._turn(counted)

    @asynccontextmanager
    async def _turn(self, counted: bool) -> AsyncIterator[None]:
        probe = await self._enter(counted)
        started = self._clock()
        self._requests += 1
        self._active += 1
        answered = False
        try:
            yield
            answered = True
        except Unreachable as error:
            if not error.elsewhere:
                self._failed(error, started, probe)
            raise
        except Exception:  # refused, too large, not what was expected: it does answer
            answered = True
            raise
        finally:
            self._active -= 1
            self._slots.release()
            if answered:
                self._answered()
            if probe:
                self._probing = False
                self._probe_over.set()

    @asynccontextmanager
    async def blob(self) -> AsyncIterator[None]:
        """Count the body of one blob while it is read; its requests take turns besides."""
        async with self._blob_slots:
            self._blobs_read += 1
            try:
                yield
            finally:
                self._blobs_read -= 1

    def heard(self, headers: Mapping[str, str]) -> None:
        """Take note of ``ratelimit-limit`` and ``ratelimit-remaining`` (Docker Hub: usage and limits)."""
        limit = _QUOTA.fullmatch(headers.get("ratelimit-limit", "").strip())
        remaining = _QUOTA.fullmatch(headers.get("ratelimit-remaining", "").strip())
        if limit is not None and remaining is not None and int(limit[1]) > 0:
            self._quota = Quota(int(limit[1]), int(remaining[1]), int(limit[2] or 0))

    @property
    def figures(self) -> Figures:
        """What there is to tell now."""
        now = self._clock()
        return Figures(
            state="half-open" if self._probing else "closed" if self._open_until is None else "open",
            requests=self._requests,
            active=self._active,
            waiting=self._waiting,
            blobs=self._blobs_read,
            failures=self._failures,
            paused_until=self._at(self._paused_until) if self._paused_until > now else None,
            open_until=None if self._open_until is None else self._at(self._open_until),
            last_error=self._last_error,
            quota=self._quota,
        )

    async def _enter(self, counted: bool) -> bool:
        """Wait until a request may leave; True if it is the one that tries a registry that was left alone."""
        self._waiting += 1
        try:
            self._check()
            await self._pace(counted)
            while True:
                await self._unhindered()
                await self._slots.acquire()
                try:
                    self._check()
                except Unreachable:
                    self._slots.release()
                    raise
                if not self._probing and self._pause_s() <= 0:
                    break
                self._slots.release()  # something was said while this one waited for the slot
            self._probing = self._open_until is not None
            if self._probing:
                self._probe_over.clear()
            return self._probing
        finally:
            self._waiting -= 1

    async def _pace(self, counted: bool) -> None:
        now = self._clock()
        self._due = max(self._due, now) + self._interval_s
        start = self._due - self._interval_s - self._burst_s
        if counted and self._quota is not None and self._quota.scarce:
            # The window slides: what it allows on average never runs out.
            spacing = min(self._quota.window_s / self._quota.limit, limits.QUOTA_SPACING_SECONDS_MAX)
            self._counted_due = max(self._counted_due, now) + spacing
            start = max(start, self._counted_due - spacing)
        if (wait := start - now) > _INSTANT_S:
            await self._sleep(wait)

    async def _unhindered(self) -> None:
        while True:
            self._check()
            if self._probing:
                await self._probe_over.wait()
            elif (pause := self._pause_s()) > 0:
                await self._sleep(pause)
            else:
                return

    def _pause_s(self) -> float:
        return self._paused_until - self._clock()

    def _check(self) -> None:
        """Raise Unreachable if this registry is not to be asked, nor waited for."""
        if self._open_until is not None and not self._probing and (wait := self._open_until - self._clock()) > 0:
            raise LeftAlone(
                f"{self.name}: left alone until {self._time(self._open_until)} after {self._failures} failures: "
                f"{self._last_error}",
                retry_after_seconds=wait,
            ) from self._cause
        if (pause := self._pause_s()) > limits.RETRY_AFTER_SECONDS_MAX:
            raise LeftAlone(
                f"{self.name}: it asks not to be asked until {self._time(self._paused_until)}{self._left()}; "
                "log in for a higher limit, or try later",
                retry_after_seconds=pause,
            )

    def _failed(self, error: Unreachable, started: float, probe: bool) -> None:
        now = self._clock()
        if error.retry_after_seconds is not None or error.status == 429:
            self._pause(error.retry_after_seconds)
        if error.status == 429:
            self._recovered()  # alive, and busy
            return
        if self._failures and started < self._failed_at:
            return  # sent before the last failure was known: one outage, not two failures in a row
        self._failures += 1
        self._failed_at = now
        self._last_error = str(error)
        self._cause = error.__cause__.with_traceback(None) if error.__cause__ is not None else None
        if probe:
            self._open_s = min(self._open_s * 2, limits.BREAKER_SECONDS_MAX)
        if probe or self._failures >= self._failures_max:
            self._open_until = now + self._open_s * self._rng.uniform(0.75, 1.0)

    def _pause(self, asked_s: float | None) -> None:
        """All wait, as long as was asked for; else longer with each 429, as nobody said how long."""
        if asked_s is None:
            asked_s = min(limits.PAUSE_SECONDS_BASE * 2 ** min(self._asks_in_a_row, 30), limits.PAUSE_SECONDS_MAX)
            asked_s *= self._rng.uniform(0.75, 1.0)
        self._asks_in_a_row += 1
        pause_s = min(asked_s, limits.PAUSE_ASKED_SECONDS_MAX)
        self._paused_until = max(self._paused_until, self._clock() + pause_s)

    def _answered(self) -> None:
        self._asks_in_a_row = 0
        self._recovered()

    def _recovered(self) -> None:
        self._failures = 0
        self._last_error = self._cause = None
        self._open_until = None
        self._open_s = limits.BREAKER_SECONDS_BASE

    def _left(self) -> str:
        return f" ({self._quota.remaining:,} of {self._quota.limit:,} left)" if self._quota is not None else ""

    def _at(self, moment: float) -> float:
        return self._wall() + moment - self._clock()

    def _time(self, moment: float) -> str:
        return time.strftime("%H:%M:%S", time.localtime(self._at(moment)))
