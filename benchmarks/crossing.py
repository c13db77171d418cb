"""checkvalve with everything on, as one measured run: an object from the sender's spool to the receiver's.

Transmit and capture run as they do in service, with their defaults: sealing, forward error correction, journal and
fsync included. Timed is from the first data at the receiving interface to the verified object in the spool, as for
every other contender.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.arrivals import Packets
from benchmarks.measure import MEGA
from benchmarks.places import Place
from benchmarks.search import Run
from benchmarks.usage import ThreadCpu, Usage, Used
from oci.blobs import BlobStore
from protocol.objects import Coding, Kind
from receiver.journal import ReceiverJournal
from runtime import keys
from sender.journal import SenderJournal
from tests.lab.oneway import HIGH
from tests.support.processes import Process, Processes, ProcessFailed, command

PORT: Final = 4_433
RECEIVE_BUFFER: Final = "256MiB"  # 200 ms of 10 Gbit/s, as doctor asks for there
ARRIVAL_S: Final = 3.0  # from the end of sending, without anything new arriving
_COUNTS: Final = ("lost", "repaired", "kernel_drops")


@dataclass(frozen=True, slots=True)
class Content:
    """A file and what it is."""

    path: Path
    digest: str
    size: int

    @classmethod
    def random(cls, path: Path, size: int) -> Content:
        """Write *size* random bytes."""
        sha = hashlib.sha256()
        with path.open("wb") as file:
            for start in range(0, size, MEGA):
                piece = os.urandom(min(MEGA, size - start))
                sha.update(piece)
                file.write(piece)
        return cls(path, f"sha256:{sha.hexdigest()}", size)

    @classmethod
    def sparse(cls, path: Path, size: int) -> Content:
        """Make *size* bytes that take no room: zeros, but every megabyte begins with its own number."""
        sha = hashlib.sha256()
        with path.open("wb") as file:
            file.truncate(size)
            for start in range(0, size, MEGA):
                piece = (start // MEGA).to_bytes(8, "big").ljust(MEGA, b"\0")[: size - start]
                sha.update(piece)
                file.seek(start)
                file.write(piece[:8])
        return cls(path, f"sha256:{sha.hexdigest()}", size)


@dataclass(frozen=True, slots=True)
class Carried(Run):
    """A run and what it cost."""

    counts: dict[str, int] = field(default_factory=dict)
    used: dict[str, Used] = field(default_factory=dict)
    threads: dict[str, dict[str, ThreadCpu]] = field(default_factory=dict)


class Crossing:
    """One pass of whatever is queued, both roles fresh."""

    def __init__(
        self, place: Place, folder: Path, *, rate_mbit: int, repair: float | None = None, burst_kb: int | None = None
    ) -> None:
        """*folder* is emptied. *repair* is the repair ratio, *burst_kb* link.burst; by default the sender's own."""
        self._place = place
        self.folder = folder
        shutil.rmtree(folder, ignore_errors=True)
        keys.create_signing_key(folder / "sender.pem")
        keys.create_hpke_key(folder / "receiver.pem")
        link: dict[str, Any] = {"to": f"{HIGH}:{PORT}", "rate": f"{rate_mbit}Mbit", "mtu": place.mtu}
        if repair is not None:
            link["repair"] = repair
        if burst_kb is not None:
            link["burst"] = f"{burst_kb}kB"
        self._write("sender", {
            "state": "low", "images": "images.yaml", "signing_key": "sender.pem", "receivers": ["receiver.pub"],
            "link": link, "logs": {"format": "json"},
        })  # fmt: skip
        self._write("receiver", {
            "state": "high", "hpke_key": "receiver.pem", "senders": ["sender.pub"],
            "listen": {"on": f"{HIGH}:{PORT}", "receive_buffer": RECEIVE_BUFFER},
            "publish": {"layout": "published"}, "logs": {"format": "json"},
        })  # fmt: skip
        (folder / "low").mkdir()

    def queue(self, content: Content) -> None:
        """Queue one object."""
        journal = SenderJournal(self.folder / "low/journal.sqlite")
        journal.queue_object(
            kind=Kind.BLOB,
            coding=Coding.IDENTITY,
            digest=content.digest,
            content_size=content.size,
            coded_digest=content.digest,
            coded_size=content.size,
            path=content.path,
            label="benchmark",
            passes=1,
            contents=[content.digest],
            now=time.time(),
        )
        journal.close()

    def carry(self, wanted: Sequence[tuple[str, int]], timeout_s: float = 600.0) -> Carried:
        """Send what is queued once; *wanted* are digests and sizes. ``seconds`` is None if one is not there then."""
        with Processes(self.folder / "logs") as processes:
            capture = self._start(processes, "receiver", "capture", self._place.in_high())
            capture.wait_line("listening")
            packets = Packets(capture, self._place.high_device)
            transmit = self._start(processes, "sender", "transmit", self._place.in_low(), "--once")
            with Usage({"transmit": transmit.pid, "capture": capture.pid}) as usage:
                begun = _begun(packets, transmit)
                if transmit.wait(timeout_s) != 0:
                    raise ProcessFailed(transmit.describe(f"ended with exit code {transmit.code}"))
                spool = BlobStore(self.folder / "high/spool")
                whole = _settled(lambda: sum(spool.size(digest) == size for digest, size in wanted), len(wanted))
            seconds = None
            if whole:
                seconds = _last(capture, "object_received") - begun
            capture.stop()
        wire, counts = self._counts()
        note = f"{counts['kernel_drops']} kernel drops" if counts["kernel_drops"] else "lost beyond repair"
        return Carried(seconds, wire, "" if whole else note, counts, usage.used(), usage.threads())

    def _start(self, processes: Processes, side: str, role: str, prefix: list[str], *more: str) -> Process:
        argv = [*command(f"checkvalve-{side}"), role, "--config", str(self.folder / f"{side}.yaml"), *more]
        return processes.start(role, argv, prefix=prefix)

    def _counts(self) -> tuple[int, dict[str, int]]:
        sent = SenderJournal(self.folder / "low/journal.sqlite")
        received = ReceiverJournal(self.folder / "high/journal.sqlite", read_only=True)
        counters, live = received.counters(), sent.live()["transmit"][0]
        sent.close()
        received.close()
        return int(live["wire_bytes"]), {name: counters.get(name, 0) for name in _COUNTS}

    def _write(self, side: str, document: dict[str, Any]) -> None:
        (self.folder / f"{side}.yaml").write_text(json.dumps(document))  # JSON is YAML


def _begun(packets: Packets, transmit: Process) -> float:
    """Return when data began to arrive (Unix time), or when the sender ended without any."""
    while packets.now() <= packets.greeting and transmit.code is None:
        time.sleep(0.002)
    return time.time()


def _settled(count: Callable[[], int], wanted: int) -> bool:
    """Wait until *count* is *wanted*, or has not grown for a while."""
    seen, since = -1, time.monotonic()
    while (here := count()) != wanted:
        if here > seen:
            seen, since = here, time.monotonic()
        if time.monotonic() > since + ARRIVAL_S:
            return False
        time.sleep(0.02)
    return True


def _last(process: Process, event: str) -> float:
    """Return when a process last logged *event* (Unix time); the log is written a moment after what it tells."""
    process.wait_line(event, 5)
    line = [line for line in process.lines() if event in line][-1]
    return datetime.fromisoformat(json.loads(line)["timestamp"]).timestamp()
