"""From the last datagram of an image to its tag in the internal registry, with both daemons as they are run.

Through the one-way lab, with Debian's docker-registry on the isolated side. The clock starts when the sender's log
says that the last block of the image has left, and stops when the tag is on the registry's disk. In between are what
is still to be restored, written, made durable and hashed, the look at the closure, and the push of the whole image.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.measure import MEGA, Spread
from oci.layout import Layout
from tests.lab.oneway import OneWay, missing
from tests.lab.world import INTERNAL, UPSTREAM, Registries, Sides, docker_registry, missing_programs, until
from tests.support.images import random_image
from tests.support.processes import Process

_NAME: Final = "library/landing"
_PREFIX: Final = "internal"
_POLL_S: Final = 0.005


@dataclass(frozen=True, slots=True)
class Effort:
    """Size of the image's only layer (bytes), images, and the link's rate."""

    size: int = 50 * MEGA
    images: int = 10
    rate: str = "1000Mbit"
    timeout_s: float = 60.0


FULL: Final = Effort()
QUICK: Final = Effort(images=3)
TINY: Final = Effort(MEGA, 1, "200Mbit")


def measure(effort: Effort) -> dict[str, Any]:
    """Return the spread of the time to the tag, and its steps, or ``{"skipped": reason}``."""
    if reason := missing() or missing_programs():
        return {"skipped": reason}
    with (
        tempfile.TemporaryDirectory(prefix="landing-") as scratch,
        OneWay() as lab,
        docker_registry(lab.in_low, Path(scratch) / "upstream", UPSTREAM),
        docker_registry(lab.in_high, Path(scratch) / "internal", INTERNAL) as data,
    ):
        (Path(scratch) / "sides").mkdir()
        world = Registries(lab, Path(scratch), data)
        sides = Sides(lab, Path(scratch) / "sides", _PREFIX, rate=effort.rate, repeats={"carousel": "1h"})
        with (sides.low / "sender.yaml").open("a") as settings:
            settings.write("\nlogs: {format: json, level: debug}\n")
        try:
            receiver, sender = sides.start_receiver(), sides.start_sender()
            sender.wait_line("session_opened")
            landed = [_land(world, sides, sender, receiver, number, effort) for number in range(effort.images)]
        finally:
            sides.stop()
    return {
        "image_bytes": effort.size,
        "rate": effort.rate,
        "steps_s": {step: Spread.of([each[step] for each in landed]).as_json() for step in landed[0]},
    }


def _land(
    world: Registries, sides: Sides, sender: Process, receiver: Process, number: int, effort: Effort
) -> dict[str, float]:
    layout, tag = Layout(world.folder / "layout"), str(number)
    image = asyncio.run(random_image(layout, _NAME, tag, [effort.size], seed=number))
    digest = world.upload(layout.root, _NAME, tag)
    shutil.rmtree(layout.root)
    sides.list_images(*(f"docker.io/{_NAME}:{tag}@{digest}" for tag, digest in [(tag, digest)]))
    repository, deadline = f"{_PREFIX}/docker.io/{_NAME}", time.monotonic() + effort.timeout_s
    while world.tagged(repository, tag) != digest:
        if time.monotonic() > deadline:
            raise TimeoutError(f"no tag within {effort.timeout_s:g} s")
        time.sleep(_POLL_S)
    tagged = time.time()
    (layer,) = image.layers
    objects = _objects(sides.low / "state/journal.sqlite", [layer.digest, digest])
    until(lambda: all(_moment(sender, "object_sent", each) for each in objects), 5, "the sender said so")
    left = max(_moment(sender, "object_sent", each) or 0.0 for each in objects)
    received = max(_moment(receiver, "object_received", each) or left for each in objects)
    print(f"  {tagged - left:.2f} s to the tag", flush=True)
    return {"received": received - left, "tag": tagged - left}


def _objects(journal: Path, contents: list[str]) -> set[str]:
    """Return the digests of the objects that carry *contents*."""
    with closing(sqlite3.connect(journal)) as connection:
        marks = ", ".join("?" * len(contents))
        query = f"SELECT o.digest FROM carried c JOIN objects o ON o.id = c.object WHERE c.digest IN ({marks})"
        return {str(digest) for (digest,) in connection.execute(query, contents)}


def _moment(process: Process, event: str, digest: str) -> float | None:
    """Return when *process* first logged *event* about *digest* (Unix time)."""
    for line in process.lines():
        if event in line and digest in line:
            return datetime.fromisoformat(json.loads(line)["timestamp"]).timestamp()
    return None
