"""A receiver built from nothing, by listening alone: how long the carousel takes, and how many bytes on the wire.

The sender has sent its desired state before, to nobody, and goes round it without a pause. Both roles are processes;
between them is a link on loopback that loses datagrams, half of them singly and half in bursts. The time runs from
the receiver's start until all content is in its spool, verified.
"""

from __future__ import annotations

import json
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.measure import MEGA, Spread
from tests.repair.rig import Pair
from tests.support.content import some_bytes
from tests.support.processes import Process, module

IP_UDP_BYTES: Final = 28
POLL_S: Final = 0.05
_CAROUSEL: Final = "repeats: {carousel: 1ms, release_every: 1s}\n"


@dataclass(frozen=True, slots=True)
class Effort:
    """The desired state as object sizes (bytes), the link's rate, the losses, and runs of each."""

    sizes: tuple[int, ...] = (300 * MEGA, 100 * MEGA, 50 * MEGA, *[5 * MEGA] * 10)
    rate: str = "400Mbit"
    losses: tuple[float, ...] = (0.0, 0.01, 0.05, 0.1)
    runs: int = 3
    timeout_s: float = 300.0


FULL: Final = Effort()
QUICK: Final = Effort((30 * MEGA, *[MEGA] * 5), losses=(0.0, 0.1), runs=1, timeout_s=60.0)
TINY: Final = Effort((2 * MEGA, MEGA), rate="100Mbit", losses=(0.02,), runs=1, timeout_s=30.0)


def measure(effort: Effort) -> dict[str, Any]:
    """Return a row for each loss."""
    rows = []
    for loss in effort.losses:
        runs = [_run(effort, loss, number) for number in range(effort.runs)]
        whole = [each for each in runs if each is not None]
        row: dict[str, Any] = {"loss": loss, "runs": len(runs), "whole": len(whole)}
        if whole:
            for at, key in enumerate(("seconds", "wire_bytes", "rounds")):
                row[key] = Spread.of([each[at] for each in whole]).as_json()
        rows.append(row)
    return {"content_bytes": sum(effort.sizes), "objects": len(effort.sizes), "rate": effort.rate, "rows": rows}


def _run(effort: Effort, loss: float, number: int) -> tuple[float, float, float] | None:
    """Return seconds, wire bytes and rounds until the receiver is whole; None if that takes too long."""
    with tempfile.TemporaryDirectory(prefix="converge-") as scratch:
        pair = Pair(Path(scratch), rate=effort.rate, more=_CAROUSEL)
        digests = pair.release(*(some_bytes(size, seed) for seed, size in enumerate(effort.sizes)))
        sizes = [*effort.sizes, 300]
        one_round = sum(pair.geometry(size).datagrams() for size in sizes)
        options = ["--single", str(loss / 2), "--burst", str(loss / 2), "--seed", str(number)]
        on, to = f"127.0.0.1:{pair.low.port}", f"127.0.0.1:{pair.port}"
        relay = [*module("tests.support.lossylink"), "--on", on, "--to", to, *options]
        link = Process("link", relay, Path(scratch) / "link")
        link.wait_line("port")
        sender = pair.low.start()
        receiver = None
        try:
            deadline = time.monotonic() + effort.timeout_s
            _wait(lambda: sum("layer" in label for label in pair.low.passes()) >= len(digests), deadline)
            receiver = pair.start_receiver()
            start, before = time.monotonic(), _counters(link)
            if not _wait(lambda: all(pair.spool.size(digest) is not None for digest in digests), deadline):
                return None
            seconds, after = time.monotonic() - start, _counters(link)
        finally:
            for process in (sender, receiver):
                if process is not None:
                    process.kill()
                    process.wait()
            link.stop()
    datagrams = after["received"] - before["received"]
    wire = after["bytes"] - before["bytes"] + datagrams * IP_UDP_BYTES
    return seconds, wire, datagrams / one_round


def _wait(condition: Any, deadline: float) -> bool:
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def _counters(link: Process) -> dict[str, int]:
    said = len(link.lines())
    link.signal(signal.SIGUSR1)
    while len(link.lines()) == said:
        time.sleep(0.005)
    return dict(json.loads(link.lines()[-1]))
