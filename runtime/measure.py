"""Short measurements of this machine for ``doctor``: how fast a piece of work goes, how fast a folder takes bytes.

Each lasts a fraction of a second. The fastest of several slices counts: what else runs now only slows things down.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

SECONDS = 0.25  # for each figure
_SLICES: Final = 5
DISK_SECONDS = 0.8
_DISK_BYTES_MAX: Final = 512 << 20
_CHUNK: Final = 4 << 20


def per_second(work: Callable[[], float]) -> float:
    """Return how many units a second *work* does; it returns the units of one call."""
    work()  # warm caches, tables and pools
    best = 0.0
    for _ in range(_SLICES):
        begun = time.perf_counter()
        end = begun + SECONDS / _SLICES
        units = 0.0
        while (now := time.perf_counter()) < end:
            units += work()
        best = max(best, units / (now - begun))
    return best


def timed_part(work: Callable[[], tuple[float, float]]) -> float:
    """Return units a second where *work* times itself; it returns the units and seconds of one call."""
    work()
    best = 0.0
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        units, taken = work()
        best = max(best, units / taken if taken > 0 else 0.0)
    return best


def sha256_speed() -> float:
    """Return bytes a second of SHA-256 on one core."""
    block = os.urandom(1 << 20)

    def work() -> float:
        hashlib.sha256(block).digest()
        return len(block)

    return per_second(work)


def disk_speed(folder: Path) -> float:
    """Return bytes a second of writing a file in *folder*, fsync included; it is gone afterwards."""
    room = min(_DISK_BYTES_MAX, shutil.disk_usage(folder).free // 4)
    chunk = os.urandom(_CHUNK)  # so that no file system compresses it
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        begun = time.perf_counter()
        written = 0
        while time.perf_counter() - begun < DISK_SECONDS and written + len(chunk) <= room:
            written += file.write(chunk)
        os.fsync(file.fileno())
        taken = time.perf_counter() - begun
    if not written:
        raise ValueError(f"{folder}: no room to measure with")
    return written / taken


def nearest_folder(folder: Path) -> Path:
    """Return *folder*, or the nearest folder above it that exists."""
    while not folder.is_dir():
        folder = folder.parent
    return folder
