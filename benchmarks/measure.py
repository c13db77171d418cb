"""What all measurements share: spread over runs, one core to run on, and what the machine is."""

from __future__ import annotations

import mmap
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from protocol import aead

MEGA: Final = 1_000_000
_REPORTING: Final = Path("/sys/module/page_reporting/parameters/page_reporting_order")
_TOUCHED_BYTES: Final = 6_000_000_000
_NEVER: Final = "11"  # above the order of the largest pages
_LIBRARIES: Final = ("cryptography", "pyeclib", "reedsolo", "zstandard", "aiohttp")


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of several runs with the lowest and the highest."""

    median: float
    low: float
    high: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise at least one value."""
        return cls(statistics.median(values), min(values), max(values), len(values))

    def as_json(self) -> dict[str, float]:
        """Four significant digits are more than such a measurement has."""
        return {name: float(f"{value:.4g}") for name, value in asdict(self).items()}


def timed(work: Callable[[], object]) -> float:
    """Return how long *work* takes (seconds)."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this process on one core while the block lasts, where the system can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


@contextmanager
def kept_memory() -> Iterator[None]:
    """Let a virtual machine give no free memory back to its host while the block lasts, as far as we may.

    What was given back is fetched again page by page, whoever happens to need it: up to 1.4 CPU seconds a GB here.
    """
    try:
        before = _REPORTING.read_text()
        _REPORTING.write_text(_NEVER)
    except OSError:  # no such machine, or not root
        yield
        return
    try:
        _fetch_memory()
        yield
    finally:
        _REPORTING.write_text(before)


def _fetch_memory() -> None:
    """Have as much memory as payloads take, which the host may have taken before; it stays when it is free again."""
    pages = min(_TOUCHED_BYTES // mmap.PAGESIZE, os.sysconf("SC_AVPHYS_PAGES") // 2)
    if pages > 0:
        with mmap.mmap(-1, pages * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
            for at in range(0, len(memory), mmap.PAGESIZE):
                memory[at] = 1


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "keeps_free_memory": _REPORTING.exists() and _REPORTING.read_text().strip() == _NEVER,
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in _LIBRARIES} | {"AES-256-GCM": f"by {aead.NAME}"},
        "load_before": [round(load, 2) for load in os.getloadavg()],
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
