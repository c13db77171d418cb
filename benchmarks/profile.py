"""Where the time goes: CPU seconds of each thread of both roles while one object crosses as fast as it can.

The rate is set beyond what the machine can do: the slowest thread sets the pace. Spool to spool, everything on.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import places
from benchmarks.crossing import Carried, Content, Crossing
from benchmarks.measure import MEGA
from tests.lab.oneway import missing


@dataclass(frozen=True, slots=True)
class Effort:
    """Size (bytes), rate, and (place, MTU, loss)."""

    size: int = 1_000 * MEGA
    rate_mbit: int = 5_000
    places: tuple[tuple[str, int, float], ...] = (
        ("lab", 1500, 0.01),
        ("loopback", 1500, 0.0),
        ("loopback", 9000, 0.0),
    )


FULL: Final = Effort()
QUICK: Final = Effort(100 * MEGA)
TINY: Final = Effort(MEGA, 200, (("loopback", 1500, 0.0),))


def measure(effort: Effort) -> dict[str, Any]:
    """Return a row for each place, or ``{"skipped": reason}`` where no lab can be built."""
    if reason := missing():
        return {"skipped": reason}
    rows = []
    with tempfile.TemporaryDirectory(prefix="profile-", dir=places.scratch_folder()) as scratch:
        content = Content.random(Path(scratch) / "content", effort.size)
        for name, mtu, loss in effort.places:
            with places.PLACES[name](mtu) as place:
                place.set_loss(loss)
                crossing = Crossing(place, Path(scratch) / "crossing", rate_mbit=effort.rate_mbit)
                crossing.queue(content)
                carried = crossing.carry([(content.digest, content.size)])
            where = {"place": name, "mtu": mtu, "loss": loss, "seconds": carried.seconds, "note": carried.note}
            rows.append(where | {"threads": _threads(carried)})
            print(f"  {name} {mtu}: {carried.seconds or 0:.2f} s", flush=True)
    return {"bytes": effort.size, "rate_mbit": effort.rate_mbit, "rows": rows}


def _threads(carried: Carried) -> list[dict[str, Any]]:
    return [
        {"role": role, "thread": thread, "user_s": round(cpu.user_s, 2), "system_s": round(cpu.system_s, 2)}
        for role, threads in carried.threads.items()
        for thread, cpu in sorted(threads.items())
    ]
