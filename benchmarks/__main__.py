"""``python -m benchmarks``: runs the measurements, writes benchmarks/results/ and the tables of benchmarks/README.md.

``--quick`` (or BENCH=quick) takes about three minutes and only prints: its figures are too few to keep.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks import (
    bursts,
    codec,
    converge,
    fetch,
    landing,
    memory,
    pacing,
    peers,
    pipeline,
    poll,
    profile,
    publish,
    registry,
    repair,
    report,
    sizes,
    urgent,
)
from benchmarks.measure import kept_memory, machine
from tests.support.processes import ROOT

HERE: Final = Path(__file__).parent
_MODES: Final = ("full", "quick", "tiny")
MEASUREMENTS: Final[dict[str, Callable[[str], dict[str, Any]]]] = {
    "codec": lambda mode: codec.measure(_of(mode, codec.FULL, codec.QUICK, codec.TINY)),
    "pipeline": lambda mode: pipeline.measure(_of(mode, pipeline.FULL, pipeline.QUICK, pipeline.TINY)),
    "bursts": lambda mode: bursts.measure(_of(mode, bursts.FULL, bursts.QUICK, bursts.TINY)),
    "pacing": lambda mode: pacing.measure(_of(mode, pacing.FULL, pacing.QUICK, pacing.TINY)),
    "peers": lambda mode: peers.measure(_of(mode, peers.FULL, peers.QUICK, peers.TINY)),
    "profile": lambda mode: profile.measure(_of(mode, profile.FULL, profile.QUICK, profile.TINY)),
    "registry": lambda mode: registry.measure(_of(mode, registry.FULL, registry.QUICK, registry.TINY)),
    "sizes": lambda mode: sizes.measure(_of(mode, sizes.FULL, sizes.QUICK, sizes.TINY)),
    "fetch": lambda mode: fetch.measure(_of(mode, fetch.FULL, fetch.QUICK, fetch.TINY)),
    "publish": lambda mode: publish.measure(_of(mode, publish.FULL, publish.QUICK, publish.TINY)),
    "landing": lambda mode: landing.measure(_of(mode, landing.FULL, landing.QUICK, landing.TINY)),
    "poll": lambda mode: poll.measure(_of(mode, poll.FULL, poll.QUICK, poll.TINY)),
    "urgent": lambda mode: urgent.measure(_of(mode, urgent.FULL, urgent.QUICK, urgent.TINY)),
    "repair": lambda mode: repair.measure(_of(mode, repair.FULL, repair.QUICK, repair.TINY)),
    "converge": lambda mode: converge.measure(_of(mode, converge.FULL, converge.QUICK, converge.TINY)),
    "memory": lambda mode: memory.measure(_of(mode, memory.FULL, memory.QUICK, memory.TINY)),
}


def _of(mode: str, *efforts: Any) -> Any:
    return efforts[_MODES.index(mode)]


def measured(name: str, mode: str) -> dict[str, Any]:
    """Run one measurement; return its figures with where, when and how they were taken."""
    here, start = machine(), time.monotonic()
    figures = MEASUREMENTS[name](mode)
    return {
        "measurement": name,
        "mode": mode,
        "command": f"python -m benchmarks {name}",
        "when": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "seconds": round(time.monotonic() - start, 1),
        "machine": here,
        "figures": figures,
    }


def keep(document: dict[str, Any], folder: Path) -> None:
    """Write the figures to results/ in *folder* and their table into its README.md."""
    name = document["measurement"]
    results = folder / "results"
    results.mkdir(exist_ok=True)
    (results / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
    readme = folder / "README.md"
    readme.write_text(report.replaced(readme.read_text(), name, report.section(name, document)))


def draw(results: Path) -> None:
    """Draw the plots of *results* anew, by matplotlib in the peers' environment; say so where that is missing."""
    python = ROOT / ".venv-bench/bin/python"
    if not python.exists():
        print("no plots: matplotlib is not installed (run: benchmarks/make-venv)", flush=True)
        return
    subprocess.run([python, HERE / "plots.py", results], check=True)


def _measure(name: str, mode: str) -> bool:
    """Take, show and keep one measurement; return whether it was skipped."""
    print(f"# {name}", flush=True)
    document = measured(name, mode)
    print(report.section(name, document), end="\n\n", flush=True)
    skipped = "skipped" in document["figures"]
    if mode == "full" and not skipped:
        keep(document, HERE)
        draw(HERE / "results")
    return skipped


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for; return 0, or 1 if a measurement could not be taken."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    known = ", ".join(MEASUREMENTS)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {known}; default: all")
    default = os.environ.get("BENCH", "full")
    parser.add_argument("--mode", choices=_MODES, default=default, help="tiny: only whether it runs")
    parser.add_argument("--quick", action="store_const", const="quick", dest="mode", help="short, prints only")
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.names if name not in MEASUREMENTS]:
        parser.error(f"{unknown[0]!r} is no measurement; there are {known}")
    if given.mode not in _MODES:
        parser.error(f"BENCH={given.mode}: give {', '.join(_MODES)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all that was set up is taken down
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # what is installed has its bytecode, and so has this
    skipped = 0
    with kept_memory():
        for name in given.names or MEASUREMENTS:
            skipped += _measure(name, given.mode)
    return 1 if skipped else 0


if __name__ == "__main__":
    sys.exit(main())
