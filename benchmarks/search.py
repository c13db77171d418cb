"""The highest rate at which a payload arrives whole every time: single runs to find it, several to confirm it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.measure import MEGA, Spread

GAIN_MIN: Final = 1.03  # a higher rate that brings less than this has met another limit


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt. *seconds* is None if the payload is not whole on the other side."""

    seconds: float | None
    wire_bytes: int | None = None
    note: str = ""  # why it is not whole, as far as that can be told


def highest(
    carry: Callable[[int], Run],
    rates: Sequence[int],
    size: int,
    *,
    runs: int,
    start: int = 0,
    misses_max: int = 2,
    fails_max: int = 3,
) -> dict[str, Any]:
    """Return the row of ``carry(rate)``, which carries *size* bytes: the fastest rate that is whole in all *runs*.

    From ``rates[start]`` upwards, a single run each, until *misses_max* rates in a row bring nothing more; where the
    start fails, lower ones first. Then the fastest again, and slower ones, until one has been whole in *runs* of
    *runs*, its first run included. After *fails_max* rates that were not, another limit than the rate is at work.
    """
    tried: dict[int, Run] = {}  # by index into rates
    failed: dict[str, str] = {}

    def speed(at: int) -> float:
        """MB/s of the first run at a rate, 0 if it was not whole."""
        if at not in tried:
            tried[at] = carry(rates[at])
            if tried[at].seconds is None:
                failed[str(rates[at])] = _failure(0, 1, tried[at])
        return size / (tried[at].seconds or float("inf")) / MEGA

    at = min(start, len(rates) - 1)
    while not speed(at) and at > 0:
        at //= 2
    best, misses = speed(at), 0 if speed(at) else misses_max
    while misses < misses_max and at + 1 < len(rates) and at + 1 not in tried:
        at += 1
        misses = 0 if speed(at) > best * GAIN_MIN else misses + 1
        best = max(best, speed(at))
    row: dict[str, Any] = {
        "rate_mbit": None,
        "runs": runs,
        "content_bytes": size,
        "single_runs_mb_s": {str(rates[at]): round(speed(at), 1) for at in sorted(tried)},
        "failed": failed,
    }
    fastest, unsteady = max(tried, key=speed), 0
    for at in range(fastest if best else -1, -1, -1):
        if unsteady >= fails_max:
            break
        if not speed(at):
            continue
        done = [tried[at]]
        while len(done) < runs and done[-1].seconds is not None:
            done.append(carry(rates[at]))
        if done[-1].seconds is not None:
            return row | {"rate_mbit": rates[at]} | _figures(done, size)
        unsteady += 1
        failed[str(rates[at])] = _failure(len(done) - 1, len(done), done[-1])
    return row


def _failure(whole: int, runs: int, last: Run) -> str:
    return f"{whole} of {runs} whole{last.note and f', {last.note}'}"


def _figures(done: Sequence[Run], size: int) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "goodput_mb_s": Spread.of([size / run.seconds / MEGA for run in done if run.seconds]).as_json()
    }
    wires = [run.wire_bytes for run in done if run.wire_bytes is not None]
    if wires:
        figures["wire_overhead"] = Spread.of([wire / size - 1 for wire in wires]).as_json()
    return figures
