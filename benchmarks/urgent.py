"""From a moved tag to its last byte on the wire, while a bulk object of gigabytes is on its way.

Everything is real and stands in the one-way lab: docker-registry, which tells the sender's webhook of a push, fetch
and transmit, and capture on the far side. Both of two repositories have a tag that a rule follows, and one of the
rules says ``urgent``. Once the bulk object is being sent the other's tag is moved, then the urgent one's again and
again. The clock starts before the PUT of the manifest; the registry has the blobs by then, the spool nothing of them.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import tempfile
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Self

from benchmarks.crossing import PORT, RECEIVE_BUFFER, Content
from benchmarks.measure import MEGA, Spread
from benchmarks.upstream import DockerRegistry, SenderFolder, curl, free_port, upload
from oci.blobs import BlobStore
from oci.layout import Layout
from protocol.objects import Coding, Kind
from sender.journal import SenderJournal
from tests.lab.oneway import HIGH, OneWay, missing
from tests.lab.world import missing_programs
from tests.support.images import MadeImage, random_image
from tests.support.processes import Process, Processes, command, run

STEPS: Final = ("noticed", "fetched", "queued", "first_block", "last_block", "received")
_SECRET: Final = "not-a-secret-of-anyone"
_TAG: Final = "stable"
_NAMES: Final = {True: "bench/urgent", False: "bench/other"}
_LOOK_S: Final = 0.005


@dataclass(frozen=True, slots=True)
class Effort:
    """Bytes of the bulk object and of each image, how often the urgent tag moves, and the link's rate."""

    bulk: int = 5_000 * MEGA
    image: int = 20 * MEGA
    moves: int = 9
    rate: str = "1Gbit"
    timeout_s: float = 120.0


FULL: Final = Effort()
QUICK: Final = Effort(500 * MEGA, moves=2)
TINY: Final = Effort(60 * MEGA, MEGA, 1, "100Mbit")


def measure(effort: Effort) -> dict[str, Any]:
    """Return the seconds from the move to each step, urgent and not, or ``{"skipped": reason}``."""
    if reason := missing() or missing_programs():
        return {"skipped": reason}
    with tempfile.TemporaryDirectory(prefix="urgent-") as scratch, OneWay() as lab:
        folder = Path(scratch)
        with Processes(folder / "logs") as processes:
            world = _World(lab, folder, processes, effort)
            world.start()
            world.send_bulk()
            other = world.move(urgent=False, number=0)
            with _Watched(folder / "high/state/partial") as seen:
                urgent = []
                for number in range(effort.moves):
                    moved = world.move(urgent=True, number=number)
                    urgent.append(world.steps(moved, seen))
                    print(f"  urgent: {urgent[-1]['last_block']:.2f} s to the last block", flush=True)
                still_going = not world.bulk_is_sent()
                late = world.steps(other, seen)
            bulk = world.bulk_seconds()
    return {
        "bulk_bytes": effort.bulk,
        "bulk_seconds": round(bulk, 1),
        "bulk_was_going": still_going,
        "image_bytes": effort.image,
        "rate": effort.rate,
        "urgent_s": {step: Spread.of([each[step] for each in urgent]).as_json() for step in STEPS},
        "other_s": {step: round(late[step], 2) for step in STEPS},
    }


@dataclass(frozen=True, slots=True)
class _Moved:
    image: MadeImage
    urgent: bool
    at: float  # Unix time


class _World:
    """The registry, both sides and what they log."""

    def __init__(self, lab: OneWay, folder: Path, processes: Processes, effort: Effort) -> None:
        self._lab = lab
        self._folder = folder
        self._processes = processes
        self._effort = effort
        hook = f"127.0.0.1:{free_port()}"
        address = f"http://{hook}/hook/{_SECRET}"
        self._registry = DockerRegistry(processes, folder / "upstream", prefix=lab.in_low(), notify=address)
        receiver = [*command("checkvalve-receiver"), "init", str(folder / "high")]
        run([*receiver, "--listen", f"{HIGH}:{PORT}"])
        public = str(folder / "high/keys/receiver.pub")
        self._sender = SenderFolder(folder / "low", to=f"{HIGH}:{PORT}", rate=effort.rate, more=["-r", public])
        run([*receiver, "--sender", str(folder / "low/keys/sender.pub")])
        (folder / "secret").write_text(_SECRET)
        (folder / "secret").chmod(0o600)
        self._sender.configure({
            "fetch": {"registries": {self._registry.host: {"plain_http": True}}},
            "webhook": {"listen": hook, "secret_file": str(folder / "secret")},
            "logs": {"format": "json", "level": "debug"},
        })  # fmt: skip
        self._spool = BlobStore(folder / "low/state/spool")
        self._images = {
            urgent: [self._made(name, number, urgent) for number in range(effort.moves if urgent else 1)]
            for urgent, name in _NAMES.items()
        }

    def start(self) -> None:
        """Run all, and have the tags as they are at first on the far side."""
        for urgent, name in _NAMES.items():
            self._upload(name, _TAG, 2 * MEGA // 100, seed=int(urgent))
        self._sender.list_images(*(
            {"image": f"{self._registry.host}/{name}", "tags": [_TAG], "follow": "digest", "urgent": urgent}
            for urgent, name in _NAMES.items()
        ))  # fmt: skip
        config = ["--config", str(self._folder / "high/receiver.yaml")]
        argv = [*command("checkvalve-receiver"), "capture", *config]
        env = {
            "CHECKVALVE_RECEIVER__LISTEN__RECEIVE_BUFFER": RECEIVE_BUFFER,
            "CHECKVALVE_RECEIVER__LOGS__FORMAT": "json",
        }
        self._capture = self._processes.start("capture", argv, prefix=self._lab.in_high(), env=env)
        self._capture.wait_line("listening")
        low = self._lab.in_low()
        self._fetch = self._processes.start("fetch", self._sender.argv("fetch"), prefix=low)
        self._transmit = self._processes.start("transmit", self._sender.argv("transmit"), prefix=low)
        self._capture.wait_line(lambda line: "release_received" in line and '"images": 2' in line, 60)

    def send_bulk(self) -> None:
        """Queue the bulk object and wait until it is being sent."""
        self._bulk = Content.sparse(self._folder / "bulk", self._effort.bulk)
        with closing(SenderJournal(self._folder / "low/state/journal.sqlite")) as journal:
            journal.queue_object(
                kind=Kind.BLOB,
                coding=Coding.IDENTITY,
                digest=self._bulk.digest,
                content_size=self._bulk.size,
                coded_digest=self._bulk.digest,
                coded_size=self._bulk.size,
                path=self._bulk.path,
                label="bulk",
                passes=1,
                contents=[self._bulk.digest],
                now=time.time(),
            )
        self._queued = time.time()
        partial = self._folder / "high/state/partial" / self._bulk.digest.removeprefix("sha256:")
        _until(partial.exists, self._effort.timeout_s)

    def bulk_is_sent(self) -> bool:
        """Whether the last block of the bulk object has left."""
        return any("object_sent" in line and self._bulk.digest in line for line in self._transmit.lines())

    def bulk_seconds(self) -> float:
        """Return how long the bulk object took, with all that overtook it."""
        return self._moment(self._transmit, "object_sent", self._bulk.digest) - self._queued

    def move(self, *, urgent: bool, number: int) -> _Moved:
        """Let the tag mean another image, as a push does at its end."""
        image, name = self._images[urgent][number], _NAMES[urgent]
        manifest = self._folder / "manifest"
        manifest.write_bytes(Layout(self._folder / "images").blobs.path(image.root.digest).read_bytes())
        url = f"http://{self._registry.host}/v2/{name}/manifests/{_TAG}"
        kind = f"Content-Type: {image.root.media_type}"
        at = time.time()
        run(self._lab.in_low(*curl("--request", "PUT", "--header", kind, "--data-binary", f"@{manifest}", url)))
        return _Moved(image, urgent, at)

    def steps(self, moved: _Moved, seen: _Watched) -> dict[str, float]:
        """Wait until everything of the image has crossed; return the seconds from the move to each step."""
        (layer,) = moved.image.layers
        digests = self._objects([layer.digest, moved.image.root.digest])  # the layer travels alone
        sent = [self._moment(self._transmit, "object_sent", digest) for digest in digests]
        received = [self._moment(self._capture, "object_received", digest) for digest in digests]
        with closing(sqlite3.connect(self._folder / "low/state/journal.sqlite")) as journal:
            (queued,) = journal.execute(
                "SELECT MAX(queued) FROM objects WHERE digest = ?", (layer.digest,)
            ).fetchone()
        answers = [
            _time(line) for line in self._fetch.lines() if '"answered"' in line and _NAMES[moved.urgent] in line
        ]
        steps = {
            "noticed": min(at for at in answers if at > moved.at),
            "fetched": self._spool.path(layer.digest).stat().st_mtime,
            "queued": queued,
            "first_block": seen.first.get(layer.digest.removeprefix("sha256:"), min(received)),  # one block: no file
            "last_block": max(sent),
            "received": max(received),
        }
        return {step: at - moved.at for step, at in steps.items()}

    def _objects(self, contents: list[str]) -> list[str]:
        """Return the digests of the objects that carry *contents*, once they are queued."""
        found: list[str] = []

        def all_queued() -> bool:
            marks = ", ".join("?" * len(contents))
            query = f"SELECT o.digest FROM carried c JOIN objects o ON o.id = c.object WHERE c.digest IN ({marks})"
            with closing(sqlite3.connect(self._folder / "low/state/journal.sqlite")) as journal:
                found[:] = [str(row[0]) for row in journal.execute(query, contents)]
            return len(found) == len(contents)

        _until(all_queued, self._effort.timeout_s)
        return found

    def _moment(self, process: Process, event: str, digest: str) -> float:
        """Return when *process* first logged *event* about *digest* (Unix time)."""
        return _time(process.wait_line(lambda line: event in line and digest in line, self._effort.timeout_s))

    def _made(self, name: str, number: int, urgent: bool) -> MadeImage:
        return self._upload(name, f"next-{number}", self._effort.image, seed=1_000 * urgent + number + 10)

    def _upload(self, name: str, tag: str, size: int, seed: int) -> MadeImage:
        layout = Layout(self._folder / "images")
        image = asyncio.run(random_image(layout, name, tag, [size], seed=seed))
        upload(layout, name, tag, self._registry.host, self._folder, prefix=self._lab.in_low())
        return image


class _Watched:
    """When each file first stood in a folder, looked at every few milliseconds while the block lasts."""

    def __init__(self, folder: Path) -> None:
        self.first: dict[str, float] = {}
        self._folder = folder
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watched", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(_LOOK_S):
            for path in self._folder.iterdir():
                self.first.setdefault(path.name, time.time())


def _until(condition: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s")
        time.sleep(0.01)


def _time(line: str) -> float:
    return datetime.fromisoformat(json.loads(line)["timestamp"]).timestamp()
