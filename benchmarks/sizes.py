"""Cost against size: seconds, CPU seconds and peak memory of each role, for objects of rising size and many small.

Spool to spool through the one-way lab without loss, at one configured rate, by transmit and capture with their
defaults. The small ones are queued as fetch queues them, in batches. The largest object is made of numbered zeros, as
its bytes would not fit the memory twice; nothing on the way looks at the bytes' values.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import places
from benchmarks.crossing import Content, Crossing
from benchmarks.measure import MEGA
from benchmarks.places import Place
from oci.blobs import BlobStore
from oci.descriptor import sha256_digest
from protocol.release import Content as Part
from runtime.settings import load_settings
from sender.config import SenderSettings
from sender.prepare import Preparer
from tests.lab.oneway import missing

MTU: Final = 1500
RATE_MBIT: Final = 1_600
SMALL_BYTES: Final = 2_000
SPARE_BYTES: Final = 2_000 * MEGA  # of free space that must remain


@dataclass(frozen=True, slots=True)
class Effort:
    """Sizes of single objects (bytes), those made of numbered zeros, and how many small ones."""

    random: tuple[int, ...] = (10 * MEGA, 100 * MEGA, 1_000 * MEGA)
    sparse: tuple[int, ...] = (10_000 * MEGA,)
    small: int = 10_000
    rate_mbit: int = RATE_MBIT


FULL: Final = Effort()
QUICK: Final = Effort((10 * MEGA, 100 * MEGA), (), 1_000)
TINY: Final = Effort((MEGA,), (2 * MEGA,), 20, 200)


def measure(effort: Effort) -> dict[str, Any]:
    """Return a row for each size, or ``{"skipped": reason}`` where no lab can be built."""
    if reason := missing():
        return {"skipped": reason}
    rows = []
    with tempfile.TemporaryDirectory(prefix="sizes-", dir=places.scratch_folder()) as scratch:
        with places.lab(MTU) as place:
            for size in effort.random:
                rows.append(_one(place, Path(scratch), size, effort.rate_mbit, Content.random, "random"))
            for size in effort.sparse:
                rows.append(_one(place, Path(scratch), size, effort.rate_mbit, Content.sparse, "numbered zeros"))
            rows.append(_small(place, Path(scratch), effort.small, effort.rate_mbit))
    return {"rate_mbit": effort.rate_mbit, "mtu": MTU, "rows": rows}


def _one(
    place: Place, folder: Path, size: int, rate: int, make: Callable[[Path, int], Content], what: str
) -> dict[str, Any]:
    row = {"objects": 1, "bytes": size, "content": what}
    with tempfile.TemporaryDirectory(prefix="sizes-") as on_disk:
        for each in (folder, Path(on_disk)):
            if shutil.disk_usage(each).free >= 2 * size + SPARE_BYTES:
                return _in(each, place, size, rate, make, row)
    return {**row, "not_run": f"neither {folder.parent} nor {Path(on_disk).parent} has room for it"}


def _in(
    folder: Path, place: Place, size: int, rate: int, make: Callable[[Path, int], Content], row: dict[str, Any]
) -> dict[str, Any]:
    content = make(folder / "content", size)
    crossing = Crossing(place, folder / "crossing", rate_mbit=rate)
    crossing.queue(content)
    return _row(row, crossing, [(content.digest, size)])


def _small(place: Place, folder: Path, count: int, rate: int) -> dict[str, Any]:
    """Queue *count* contents as the fetch role does."""
    crossing = Crossing(place, folder / "crossing", rate_mbit=rate)
    settings = load_settings(crossing.folder / "sender.yaml", SenderSettings)
    spool = BlobStore(settings.spool)
    parts = []
    for _ in range(count):
        body = os.urandom(SMALL_BYTES)
        digest = sha256_digest(body)
        spool.write(digest, body)
        parts.append(Part("application/octet-stream", digest, SMALL_BYTES))
    with Preparer(settings, spool) as preparer:
        objects = asyncio.run(preparer.queue("benchmark", parts))
    row = {"objects": count, "bytes": count * SMALL_BYTES, "content": f"random, in {objects} batches"}
    return _row(row, crossing, [(part.digest, part.size) for part in parts])


def _row(row: dict[str, Any], crossing: Crossing, wanted: list[tuple[str, int]]) -> dict[str, Any]:
    carried = crossing.carry(wanted)
    if carried.seconds is None:
        return {**row, "not_run": f"did not arrive whole: {carried.note}"}
    print(f"  {row['objects']} x {row['bytes'] // row['objects']} bytes: {carried.seconds:.1f} s", flush=True)
    return {
        **row,
        "seconds": round(carried.seconds, 2),
        "used": {role: asdict(used) for role, used in carried.used.items()},
    }
