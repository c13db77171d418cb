"""A receiver's folder with keys and settings, its capture role as a process, and a real encoder to feed it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from oci.blobs import BlobStore
from protocol.buffers import BlockBuffer, block_symbols
from protocol.coding import compress
from protocol.geometry import Geometry, LinkProfile
from protocol.objects import Coding, Kind, ObjectEntry
from protocol.outgoing import OutgoingBlock
from protocol.trust import TrustedSenders
from protocol.wire import BurstView, Type, datagrams_per_burst, symbol_bytes
from receiver.journal import ReceiverJournal
from runtime import keys
from sender.journal import QueuedObject
from sender.session import Session
from tests.support.content import digest_of
from tests.support.waits import wait_for

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Cargo:
    """One transport object: what the table says of it, and the coded bytes that are really sent."""

    coded: bytes
    kind: Kind = Kind.BLOB
    coding: Coding = Coding.IDENTITY
    digest: str = ""
    content_size: int = -1
    coded_digest: str = ""

    def row(self, number: int) -> QueuedObject:
        coded_digest = self.coded_digest or digest_of(self.coded)
        return QueuedObject(
            id=number,
            kind=self.kind,
            coding=self.coding,
            digest=self.digest or coded_digest,
            content_size=len(self.coded) if self.content_size < 0 else self.content_size,
            coded_digest=coded_digest,
            coded_size=len(self.coded),
            path=Path("/nonexistent"),
            label=f"object {number}",
            passes_left=1,
            passes_done=0,
        )

    def entry(self, toi: int = 1) -> ObjectEntry:
        row = self.row(toi)
        return ObjectEntry(
            toi=toi,
            kind=self.kind,
            coding=self.coding,
            digest=row.digest,
            content_size=row.content_size,
            coded_digest=row.coded_digest,
            geometry=Geometry(len(self.coded), 1424, 20, 4, 4),
        )


def zstd(content: bytes, **changes: Any) -> Cargo:
    given = {"digest": digest_of(content), "content_size": len(content), **changes}
    return Cargo(b"".join(compress([content], len(content))), coding=Coding.ZSTD, **given)


class Side:
    """One receiver's folder, with the keys of its sender."""

    def __init__(self, folder: Path, more: str = "") -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        keys.create_signing_key(folder / "s.pem")
        keys.create_hpke_key(folder / "r.pem")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.config = folder / "receiver.yaml"
        self.config.write_text(
            f"state: state\nhpke_key: r.pem\nsenders: [s.pub]\nlisten: {{on: '127.0.0.1:{self.port}'}}\n"
            f"publish: {{layout: out}}\nlogs: {{format: json}}\n{more}"
        )
        self.state = folder / "state"
        self.log = folder / "log"
        self.said: Counter[int] = Counter()  # datagrams by lane, of all mouths

    @property
    def signer(self) -> Ed25519PrivateKey:
        return keys.load_signing_key(self.folder / "s.pem", created_by="test")

    @property
    def trusted(self) -> TrustedSenders:
        return TrustedSenders.of(self.signer.public_key())

    @property
    def spool(self) -> BlobStore:
        return BlobStore(self.state / "spool")

    def journal(self) -> ReceiverJournal:
        return ReceiverJournal(self.state / "journal.sqlite")

    def partials(self) -> list[Path]:
        return sorted((self.state / "partial").iterdir())

    def start(self) -> subprocess.Popen[bytes]:
        code = (
            "import sys; from runtime.settings import load_settings; from receiver.config import ReceiverSettings;"
            "from receiver.capture import main;"
            f"sys.exit(main(load_settings({str(self.config)!r}, ReceiverSettings)))"
        )
        before = self.told().count('"listening"')
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stderr=log,
                stdout=log,
            )
        wait_for(lambda: self.told().count('"listening"') > before or process.poll() is not None)
        assert process.poll() is None, self.told()
        return process

    def told(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def events(self, name: str) -> list[dict[str, Any]]:
        events = [json.loads(line) for line in self.told().splitlines() if line.startswith("{")]
        return [event for event in events if event["event"] == name]


def end(process: subprocess.Popen[bytes], signum: int = signal.SIGTERM, within: float = 10.0) -> tuple[int, float]:
    begun = time.monotonic()
    process.send_signal(signum)
    try:
        return process.wait(within), time.monotonic() - begun
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def rss_bytes(process: subprocess.Popen[bytes]) -> int:
    """The most memory that the process ever had."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


class Wire:
    """One session of the real encoder on a virtual clock; gives datagrams, sends none."""

    def __init__(
        self,
        side: Side,
        epoch: int = 1,
        *,
        datagram_bytes: int = 1472,
        signer: Ed25519PrivateKey | None = None,
        profile: LinkProfile | None = None,
        lanes: int = 1,
    ) -> None:
        self.profile = profile or LinkProfile(symbol_bytes(datagram_bytes), k=50, m=8, depth=10)
        self.now = 0.0
        self.session = Session(
            epoch,
            signer or side.signer,
            [keys.load_hpke_public(side.folder / "r.pub", created_by="test")],
            self.profile,
            datagram_bytes=datagram_bytes,
            datagrams_per_second=10_000,
            now=0.0,
            unix_now=time.time(),
            lanes=lanes,
        )
        count = datagrams_per_burst(datagram_bytes)
        self._view = BurstView(memoryview(bytearray(count * datagram_bytes)), datagram_bytes, count)
        self._size = datagram_bytes

    def _burst(self) -> list[bytes]:
        count = self.session.encoder.next_burst(self._view, self.now)
        self.now += 0.0002 if count else 0.005
        return [bytes(datagram) for datagram in self._view.datagrams[:count]]

    def idle(self, seconds: float) -> list[bytes]:
        """Control traffic only."""
        found, until = [], self.now + seconds
        while self.now < until:
            found += self._burst()
        return found

    def send(self, cargo: Sequence[Cargo], passes: int = 1, first: int = 1) -> list[bytes]:
        """All datagrams of these objects, one after the other."""
        encoder, found = self.session.encoder, []
        for number, each in enumerate(list(cargo) * passes):
            entry = self.session.entry_of(each.row(first + number % len(cargo)))
            encoder.set_upcoming([entry])
            while not encoder.may_start(entry.toi):
                found += self._burst()
            for sbn in range(entry.geometry.blocks):
                found += self._block(each, entry, sbn)
        return found

    def _block(self, cargo: Cargo, entry: ObjectEntry, sbn: int) -> list[bytes]:
        encoder, found = self.session.encoder, []
        shape = entry.geometry.block(sbn)
        buffer = BlockBuffer(block_symbols(shape), entry.geometry.symbol_bytes)
        buffer.memory[: shape.size] = cargo.coded[shape.offset : shape.offset + shape.size]
        encoder.load(OutgoingBlock(entry, shape, buffer))
        while not encoder.wants_block:
            found += self._burst()
        return found


def is_symbol(datagram: bytes) -> bool:
    return datagram[3] == Type.SYMBOL


class Mouth:
    """A UDP socket that sends datagrams no faster than a receiver of small buffers takes them."""

    def __init__(self, side: Side, lane: int = 0) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect(("127.0.0.1", side.port + lane))
        self._side, self._lane = side, lane
        self._per_second = 40_000 if os.geteuid() == 0 else 8_000  # root's receive buffer is larger

    def say(self, datagrams: Iterable[bytes]) -> None:
        begun = time.monotonic()
        for sent, datagram in enumerate(datagrams, 1):
            try:
                self._socket.send(datagram)
                self._side.said[self._lane] += 1
            except ConnectionRefusedError:
                pass
            if sent % 50 == 0:
                ahead = sent / self._per_second - (time.monotonic() - begun)
                if ahead > 0:
                    time.sleep(ahead)

    def close(self) -> None:
        self._socket.close()
