"""How exactly the transmit role keeps to its rate, second by second, and what that and idling take of a core.

The real role sends objects into the one-way lab, where nobody listens. Its interface's own counters, less
the Ethernet headers, are compared with the rate asked for: bits of whole IP packets, as ``link.rate`` counts them.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from benchmarks import places
from benchmarks.crossing import Content, Crossing
from benchmarks.measure import MEGA, Spread
from benchmarks.places import Place
from tests.lab.oneway import missing
from tests.support.processes import Process, Processes, command

MTU: Final = 1500
ETHERNET_BYTES: Final = 14
CONTENT_BYTES: Final = 100 * MEGA
SETTLE_S: Final = 0.5  # after the first burst: announcements lead in
_TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Effort:
    """Rates (Mbit/s) and bursts (kB; None: the default), and how many windows of which length (seconds)."""

    rates: tuple[tuple[int, int | None], ...] = (
        (100, None),
        (300, None),
        (1_000, None),
        (1_000, 1_000),
        (2_500, None),
        (3_500, None),
        (5_000, None),
        (10_000, None),
    )
    windows: int = 4
    window_s: float = 1.0


FULL: Final = Effort()
QUICK: Final = Effort(((100, None), (1_000, None), (5_000, None)), 2)
TINY: Final = Effort(((100, None),), 2)  # windows in which the clock of processor time ticks


@dataclass(frozen=True, slots=True)
class _Sample:
    at: float
    wire_bytes: int
    cpu_s: float


def measure(effort: Effort) -> dict[str, Any]:
    """Return a row for each rate, or ``{"skipped": reason}`` where no lab can be built."""
    if reason := missing():
        return {"skipped": reason}
    rows = []
    with tempfile.TemporaryDirectory(prefix="pacing-", dir=places.scratch_folder()) as scratch:
        content = Content.random(Path(scratch) / "content", CONTENT_BYTES)
        with places.lab(MTU) as place:
            for rate, burst in effort.rates:
                rows.append(_row(place, Path(scratch), content, rate, burst, effort))
                print(f"  {rate} Mbit/s: {rows[-1]['mbit_s']['median']} Mbit/s", flush=True)
            idle = _idle(place, Path(scratch), effort)
    return {"mtu": MTU, "window_s": effort.window_s, "rows": rows, "idle_core_share": idle}


def _row(
    place: Place, folder: Path, content: Content, rate: int, burst: int | None, effort: Effort
) -> dict[str, Any]:
    seconds = (effort.windows + 1) * effort.window_s + 3 * SETTLE_S
    size = int(rate * MEGA / 8 * seconds)
    crossing = Crossing(place, folder / "crossing", rate_mbit=rate, burst_kb=burst)
    for number in range(size // content.size + 1):  # the same file under other names: it is in memory
        crossing.queue(replace(content, digest=f"sha256:{number:064x}"))
    with Processes(crossing.folder / "logs") as processes:
        transmit = _start(processes, place, crossing)
        _await(transmit, place, lambda sent: sent > 100_000)
        samples = _sampled(transmit, place, effort)
        transmit.stop()
    rates = [
        (after.wire_bytes - before.wire_bytes) * 8 / (after.at - before.at) / MEGA
        for before, after in itertools.pairwise(samples)
    ]
    deviations = [100 * (each / rate - 1) for each in rates]
    return {
        "rate_mbit": rate,
        "burst_kb": burst,
        "mbit_s": Spread.of(rates).as_json(),
        "worst_percent": round(max(deviations, key=abs), 3),
        "core_share": _share(samples),
    }


def _idle(place: Place, folder: Path, effort: Effort) -> float:
    """Return the share of a core that a role takes which has nothing to send but beacons."""
    crossing = Crossing(place, folder / "crossing", rate_mbit=1_000)
    with Processes(crossing.folder / "logs") as processes:
        transmit = _start(processes, place, crossing)
        _await(transmit, place, lambda sent: sent > 0)
        samples = _sampled(transmit, place, effort)
        transmit.stop()
    return _share(samples)


def _start(processes: Processes, place: Place, crossing: Crossing) -> Process:
    argv = [*command("checkvalve-sender"), "transmit", "--config", str(crossing.folder / "sender.yaml")]
    return processes.start("transmit", argv, prefix=place.in_low())


def _await(transmit: Process, place: Place, reached: Any) -> None:
    """Wait until what has left in this role's time fulfils *reached* (bytes)."""
    deadline, first = time.monotonic() + 20, None
    while time.monotonic() < deadline and transmit.code is None:
        now = _sample(transmit, place).wire_bytes
        first = now if first is None else first
        if reached(now - first):
            time.sleep(SETTLE_S)
            return
        time.sleep(0.01)
    raise RuntimeError(transmit.describe("sends nothing"))


def _sampled(transmit: Process, place: Place, effort: Effort) -> list[_Sample]:
    samples = [_sample(transmit, place)]
    for _ in range(effort.windows):
        time.sleep(max(0.0, samples[0].at + len(samples) * effort.window_s - time.monotonic()))
        samples.append(_sample(transmit, place))
    return samples


def _sample(transmit: Process, place: Place) -> _Sample:
    """Read the sending interface's counters (proc(5): net/dev) and the process's time."""
    lines = Path(f"/proc/{transmit.pid}/net/dev").read_text().splitlines()
    at = time.monotonic()
    fields = next((line.split() for line in lines if line.split()[0] == f"{place.low_device}:"), ["0"] * 11)
    sent, packets = int(fields[9]), int(fields[10])
    stat = Path(f"/proc/{transmit.pid}/stat").read_text().rpartition(")")[2].split()
    return _Sample(at, sent - ETHERNET_BYTES * packets, (int(stat[11]) + int(stat[12])) / _TICKS)


def _share(samples: list[_Sample]) -> float:
    first, last = samples[0], samples[-1]
    return round((last.cpu_s - first.cpu_s) / (last.at - first.at), 3)
