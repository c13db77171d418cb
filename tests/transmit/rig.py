"""A sender's folder with keys and settings, its transmit role as a process, and a real decoder that hears it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protocol.coding import decompress
from protocol.decoder import Decoder, ReceiveBuffer
from protocol.events import BeaconReceived, BlockComplete, Event, ObjectAnnounced, SessionOpened
from protocol.objects import Coding, Kind
from protocol.ranges import RangeSet
from protocol.release import Content, ReleaseImage, images_document
from protocol.trust import Remembered, TrustedSenders
from runtime import keys
from sender.journal import QueuedObject, SenderJournal
from tests.support.content import digest_of

ROOT = Path(__file__).resolve().parents[2]


def free_port(lanes: int = 1) -> int:
    """The first of *lanes* ports in a row that nobody has."""
    while True:
        with contextlib.ExitStack() as stack:
            probes = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(lanes)]
            probes[0].bind(("127.0.0.1", 0))
            first = int(probes[0].getsockname()[1])
            try:
                for number, probe in enumerate(probes[1:], 1):
                    probe.bind(("127.0.0.1", first + number))
            except (OSError, OverflowError):
                continue
            return first


def queued(object_id: int = 1, size: int = 1000, **changes: Any) -> QueuedObject:
    """A row of the queue that needs no file."""
    text = f"{object_id:064x}"
    given: dict[str, Any] = {
        "id": object_id,
        "kind": Kind.BLOB,
        "coding": Coding.IDENTITY,
        "digest": f"sha256:{text}",
        "content_size": size,
        "coded_digest": f"sha256:{text}",
        "coded_size": size,
        "path": Path("/nonexistent") / text,
        "label": f"object {object_id}",
        "passes_left": 1,
        "passes_done": 0,
    }
    return QueuedObject(**{**given, **changes})


def images_of(*tags: str) -> str:
    """The canonical JSON of a proposal with one image for each tag."""
    images = [
        ReleaseImage(
            name="docker.io/library/demo",
            tags=(tag,),
            root=Content("application/vnd.oci.image.manifest.v1+json", digest_of(tag.encode()), len(tag)),
            closure=(),
        )
        for tag in tags
    ]
    return json.dumps(images_document(images), sort_keys=True, separators=(",", ":"))


class Side:
    """One sender's folder."""

    def __init__(
        self, folder: Path, *, rate: str = "200Mbit", port: int | None = None, more: str = "", lanes: int = 1
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        keys.create_signing_key(folder / "s.pem")
        keys.create_hpke_key(folder / "r.pem")
        self.port = port or free_port(lanes)
        self.lanes = lanes
        self.config = folder / "sender.yaml"
        self.config.write_text(
            f"state: state\nimages: i.yaml\nsigning_key: s.pem\nreceivers: [r.pub]\n"
            f"link: {{to: '127.0.0.1:{self.port}', rate: {rate}, lanes: {lanes}}}\n{more}"
        )
        self.log = folder / "log"
        self.modules: Path | None = None  # searched first, for a sitecustomize.py

    def journal(self) -> SenderJournal:
        return SenderJournal(self.folder / "state" / "journal.sqlite")

    def queue(
        self,
        data: bytes,
        passes: int = 1,
        label: str = "blob",
        contents: tuple[str, ...] | None = None,
        *,
        urgent: bool = False,
    ) -> str:
        """Put a blob into a file and the queue; return its digest."""
        digest = digest_of(data)
        path = self.folder / digest[7:]
        path.write_bytes(data)
        journal = self.journal()
        journal.queue_object(
            kind=Kind.BLOB,
            coding=Coding.IDENTITY,
            digest=digest,
            content_size=len(data),
            coded_digest=digest,
            coded_size=len(data),
            path=path,
            label=label,
            passes=passes,
            contents=[digest] if contents is None else contents,
            now=time.time(),
            urgent=urgent,
        )
        journal.close()
        return digest

    def start(self, *, once: bool = False, token: str | None = None) -> subprocess.Popen[bytes]:
        code = (
            "import sys; from runtime.settings import load_settings; from sender.config import SenderSettings;"
            "from sender.transmit import main;"
            f"sys.exit(main(load_settings({str(self.config)!r}, SenderSettings), once={once}, round_token={token!r}))"
        )
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                env={**os.environ, "PYTHONPATH": f"{self.modules}:{ROOT}" if self.modules else str(ROOT)},
                stderr=log,
                stdout=log,
            )

    def told(self) -> str:
        return self.log.read_text()

    def passes(self) -> list[str]:
        """The labels of the passes that have left, in order."""
        events = [json.loads(line) for line in self.told().splitlines() if line.startswith("{")]
        return [event["label"] for event in events if event["event"] == "object_sent"]


def end(process: subprocess.Popen[bytes], within: float = 10.0) -> tuple[int, float]:
    """SIGTERM; return (exit code, seconds it took)."""
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    try:
        return process.wait(within), time.monotonic() - begun
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@dataclass
class _Arriving:
    entry: Any
    parts: dict[int, bytes] = field(default_factory=dict)


class Ear:
    """UDP sockets, one a lane, and a real Decoder in a thread: keeps every object that arrives whole."""

    def __init__(self, side: Side) -> None:
        signer = keys.load_signing_key(side.folder / "s.pem", created_by="test")
        private = keys.load_hpke_key(side.folder / "r.pem", created_by="test")
        self.decoder = Decoder(TrustedSenders.of(signer.public_key()), private, Remembered())
        self.sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(side.lanes)]
        for lane, each in enumerate(self.sockets):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)
            each.setsockopt(socket.SOL_SOCKET, 33, 16 << 20) if os.geteuid() == 0 else None
            each.bind(("127.0.0.1", side.port + lane))
        self.headers: list[set[tuple[int, int]]] = [set() for _ in self.sockets]  # (type, lane) by socket
        self.objects: dict[str, bytes] = {}  # content digest -> coded bytes
        self.kinds: dict[str, Kind] = {}
        self.codings: dict[str, Coding] = {}
        self.sizes: dict[str, int] = {}
        self.sessions: list[Any] = []
        self.beacons: list[Any] = []
        self._arriving: dict[str, _Arriving] = {}  # by coded digest: an object may come over several sessions
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop)

    def __enter__(self) -> Ear:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        for each in self.sockets:
            each.close()

    def content(self, digest: str) -> bytes:
        coded = self.objects[digest]
        return b"".join(decompress([coded], self.sizes[digest])) if self.codings[digest] is Coding.ZSTD else coded

    def _loop(self) -> None:
        buffer = ReceiveBuffer()
        while not self._stop.is_set():
            for each in select.select(self.sockets, [], [], 0.05)[0]:
                size = each.recv_into(buffer.memory)
                self.headers[self.sockets.index(each)].add((buffer.memory[3], buffer.memory[15]))
                for event in self.decoder.receive_burst(buffer, size, size):
                    self._handle(event)

    def _handle(self, event: Event) -> None:
        match event:
            case SessionOpened():
                self.sessions.append(event.parameters)
            case BeaconReceived():
                self.beacons.append(event.beacon)
            case ObjectAnnounced(announced):
                self.decoder.want(announced, RangeSet())
            case BlockComplete(block):
                block.restore()
                owner = block.owner
                arriving = self._arriving.setdefault(owner.entry.coded_digest, _Arriving(owner.entry))
                for offset, piece in block.finished():
                    arriving.parts[offset] = bytes(piece)
                self.decoder.give_back(block)
                if sum(map(len, arriving.parts.values())) == owner.entry.geometry.size:
                    self._whole(owner, arriving)

    def _whole(self, owner: Any, arriving: _Arriving) -> None:
        entry = owner.entry
        coded = b"".join(arriving.parts[offset] for offset in sorted(arriving.parts))
        assert digest_of(coded) == entry.coded_digest
        self.objects[entry.digest] = coded
        self.sizes[entry.digest] = entry.content_size
        self.kinds[entry.digest], self.codings[entry.digest] = entry.kind, entry.coding
        arriving.parts.clear()
