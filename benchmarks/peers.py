"""Everything that carries a file one way, in one run: the one-way lab and loopback, several MTUs, rising random loss.

For each: the highest rate at which the payload arrives whole, compared by SHA-256, in every one of several runs. Raw
datagrams, with nothing done to them and no promise to arrive, are the ceiling. Payloads go from memory to memory.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from benchmarks import places, raw
from benchmarks.contenders import VENV, Checkvalve, Contender, Flute, Pydiode, Udpcast
from benchmarks.crossing import Content
from benchmarks.measure import MEGA
from benchmarks.places import Place
from benchmarks.search import Run, highest
from tests.lab.oneway import missing

LOSSES: Final = (0.0, 0.001, 0.005, 0.01, 0.02, 0.05, 0.10)
_RATES: Final = (
    1_000, 1_300, 1_600, 2_000, 2_250, 2_500, 2_800, 3_150, 3_550, 4_000, 4_500, 5_000, 6_300, 8_000, 12_500,
)  # fmt: skip
_GOALS: Final = (("lab", 1500, 0.0), ("lab", 1500, 0.01), ("loopback", 1500, 0.0), ("loopback", 9000, 0.0))
NOT_COMPARABLE: Final = {
    "iperf3 -u": "agrees on every test by a TCP connection back, and carries no file",
    "UFTP": "needs a return path",
    "lidi": "in neither Debian nor PyPI",
    "any of them on loopback with loss": "loopback hands over whole bursts; losing one loses dozens of datagrams",
}


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is done for each figure."""

    contenders: tuple[Contender, ...]
    places: tuple[tuple[str, int, tuple[float, ...]], ...]  # lab or loopback, MTU, losses
    runs: int
    size: int
    raw_bytes: int
    size_big: int = 0  # where a goal is set, if larger
    start_mbit: dict[tuple[str, int], int] = field(default_factory=dict)  # where our own search begins


def _contenders(rates: Sequence[int]) -> tuple[Contender, ...]:
    """Return all of them: our own at three repair ratios, the higher ones where the loss asks for them."""
    return (
        Checkvalve("checkvalve", tuple(rates), 0.10),
        Checkvalve("checkvalve, repair 20 %", tuple(rates), 0.20, (0.05,)),
        Checkvalve("checkvalve, repair 30 %", tuple(rates), 0.30, (0.10,)),
        Pydiode(1, (4_000, 5_000, 6_300, 8_000, 16_000), True),
        Pydiode(2, (1_000, 4_000)),
        Udpcast((800, 6_000)),
        Flute((800, 1_300, 2_000)),
    )


_STARTS: Final = {("lab", 1500): 4_000, ("lab", 9000): 5_000, ("loopback", 1500): 5_000, ("loopback", 9000): 5_000}
FULL: Final = Effort(
    _contenders(_RATES),
    (
        ("lab", 1500, LOSSES),
        ("lab", 9000, (0.0, 0.01)),
        ("loopback", 1500, (0.0,)),
        ("loopback", 9000, (0.0,)),
    ),
    5, 500 * MEGA, 1_000 * MEGA, 1_000 * MEGA, _STARTS,
)  # fmt: skip
QUICK: Final = Effort(
    (
        Checkvalve("checkvalve", (500, 1_000, 1_500, 2_000, 2_500, 3_000), 0.10),
        Pydiode(1, (2_000, 8_000), True),
        Pydiode(2, (500,)),
        Udpcast((800,)),
        Flute((400, 800)),
    ),
    (("lab", 1500, (0.0, 0.01)), ("loopback", 1500, (0.0,))),
    2, 40 * MEGA, 200 * MEGA, 0, {("lab", 1500): 1_500, ("loopback", 1500): 2_000},
)  # fmt: skip
TINY: Final = Effort(
    (
        Checkvalve("checkvalve", (100,), 0.10),
        Pydiode(2, (500,)),
        Udpcast((400,)),
        Flute((200,)),
    ),
    (("lab", 1500, (0.01,)), ("loopback", 1500, (0.0,))),
    1, MEGA, MEGA,
)  # fmt: skip


def measure(effort: Effort) -> dict[str, Any]:
    """Return the figures, or ``{"skipped": reason}`` where no lab can be built."""
    if reason := missing():
        return {"skipped": reason}
    absent = {each.name: reason for each in effort.contenders if (reason := each.missing())}
    rows: list[dict[str, Any]] = []
    ceilings: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="peers-", dir=places.scratch_folder()) as scratch:
        folder = Path(scratch)
        contents = _Contents(folder)
        for name, mtu, losses in effort.places:
            with places.PLACES[name](mtu) as place:
                ceilings.append(_ceiling(place, effort, folder))
                for contender in effort.contenders:
                    if contender.name not in absent:
                        rows += _rows(place, contender, losses, effort, contents)
    return {
        "peers": _versions(),
        "missing": absent,
        "not_comparable": NOT_COMPARABLE,
        "raw": ceilings,
        "rows": rows,
    }


class _Contents:
    """Random payloads, one of each size."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: dict[int, Content] = {}

    def of(self, size: int) -> Content:
        if size not in self._made:
            self._made[size] = Content.random(self.folder / f"payload-{size}", size)
        return self._made[size]


def _ceiling(place: Place, effort: Effort, folder: Path) -> dict[str, Any]:
    figures = raw.measure(place, place.mtu, effort.raw_bytes, effort.runs, folder / "raw")
    print(f"  {place.name} {place.mtu} raw: {figures['mb_s']['median']:.0f} MB/s", flush=True)
    return {"place": place.name, **figures}


def _rows(
    place: Place, contender: Contender, losses: Sequence[float], effort: Effort, contents: _Contents
) -> Iterator[dict[str, Any]]:
    """Yield a row for each loss, the least first; each search begins where the one before ended."""
    wanted = effort.start_mbit.get((place.name, place.mtu), 0) if isinstance(contender, Checkvalve) else 0
    start = sum(rate < wanted for rate in contender.rates)
    lost_at: float | None = None  # the least loss at which nothing was whole
    for loss in losses:
        row: dict[str, Any] = {"place": place.name, "mtu": place.mtu, "loss": loss, "peer": contender.name}
        size = max(effort.size, effort.size_big) if (place.name, place.mtu, loss) in _GOALS else effort.size
        content = contents.of(min(size, contender.size_max or size))
        reason = contender.refuses(place, loss)
        if lost_at is not None:
            reason = f"nothing was whole at {lost_at:.1%}"
        if reason:
            yield {**row, "not_run": reason}
            continue

        def carry(rate: int, loss: float = loss, content: Content = content) -> Run:
            place.set_loss(loss)
            return contender.carry(place, rate, content, contents.folder / "run")

        found = highest(
            carry,
            contender.rates[:1] if contender.hopeless(loss) else contender.rates,
            content.size,
            runs=effort.runs,
            start=start,
            misses_max=1 if loss else 2,  # the search began where less loss ended
        )
        if found["rate_mbit"] is None:
            lost_at = loss
        else:
            start = contender.rates.index(found["rate_mbit"])
        print(f"  {place.name} {place.mtu} {loss:.1%} {contender.name}: {_short(found)}", flush=True)
        yield row | found


def _short(found: dict[str, Any]) -> str:
    if found["rate_mbit"] is None:
        return "none whole (" + ", ".join(f"{rate} Mbit/s: {how}" for rate, how in found["failed"].items()) + ")"
    return f"{found['goodput_mb_s']['median']:.0f} MB/s at {found['rate_mbit']} Mbit/s"


def _versions() -> dict[str, str]:
    """Return the versions of what is compared."""
    found = {"checkvalve": version("checkvalve")}
    script = "from importlib.metadata import version as v; print(v('pydiode'), v('flute-alc'))"
    with_python = subprocess.run([VENV / "python", "-c", script], check=False, capture_output=True, text=True) if (
        VENV / "python"
    ).exists() else None  # fmt: skip
    if with_python and with_python.returncode == 0:
        found |= dict(zip(("pydiode", "flute-alc"), with_python.stdout.split(), strict=True))
    debian = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Version}", "udpcast"], check=False, capture_output=True, text=True
    )
    return found | ({"udpcast": debian.stdout} if debian.returncode == 0 and debian.stdout else {})
