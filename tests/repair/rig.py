"""Both roles as processes, with a link between them that knows which symbol is of which block, and can lose it."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from oci.blobs import BlobStore
from protocol.geometry import Geometry
from protocol.release import Content, ReleaseImage, images_document
from protocol.wire import HEADER, Type
from receiver.journal import ReceiverJournal
from runtime.errors import UserError
from runtime.settings import load_settings
from sender.config import SenderSettings
from sender.decisions import Decisions
from sender.link import Link
from sender.transmit import link_profile
from tests.support.content import some_bytes
from tests.transmit.rig import ROOT, Side, free_port

BUFFER_BYTES = 64 << 20
SO_RCVBUFFORCE = 33
Symbol = tuple[int, int]  # TOI, SBN


class SeenLink:
    """Carries datagrams one way; counts the symbols by block, and loses those of which *loses* says so."""

    def __init__(self, on: int, to: int) -> None:
        self.loses: Callable[[Symbol], bool] = lambda symbol: False
        self.symbols: Counter[Symbol] = Counter()
        self._to = ("127.0.0.1", to)
        self._in = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for option in (socket.SO_RCVBUF, SO_RCVBUFFORCE):
            with suppress(OSError):
                self._in.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
        self._in.bind(("127.0.0.1", on))
        self._in.setblocking(False)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._carry)

    def __enter__(self) -> SeenLink:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        self._in.close()

    def of(self, toi: int) -> dict[int, int]:
        """Block number -> symbols that came of it."""
        return {sbn: count for (each, sbn), count in sorted(self.symbols.items()) if each == toi}

    def _carry(self) -> None:
        out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        while not self._stop.is_set():
            if not select.select([self._in], [], [], 0.05)[0]:
                continue
            for _ in range(64):
                try:
                    datagram = self._in.recv(9_300)
                except BlockingIOError:
                    break
                fields = HEADER.unpack_from(datagram)
                if fields[2] == Type.SYMBOL:
                    symbol = (fields[5], fields[6])
                    self.symbols[symbol] += 1
                    if self.loses(symbol):
                        continue
                with suppress(OSError):  # nobody listens yet
                    out.sendto(datagram, self._to)
        out.close()


class Pair:
    """A sender's and a receiver's folder; the sender's port is that of the link."""

    def __init__(self, folder: Path, *, rate: str = "80Mbit", more: str = "") -> None:
        self.low = Side(folder / "low", rate=rate, more=more)
        self.high = folder / "high"
        self.high.mkdir()
        self.port = free_port()
        self.config = self.high / "receiver.yaml"
        self.config.write_text(
            f"state: state\nhpke_key: {self.low.folder}/r.pem\nsenders: [{self.low.folder}/s.pub]\n"
            f"listen: {{on: '127.0.0.1:{self.port}'}}\npublish: {{layout: out}}\nlogs: {{format: json}}\n"
        )
        self.spool = BlobStore(self.high / "state" / "spool")

    def link(self) -> SeenLink:
        return SeenLink(self.low.port, self.port)

    def release(self, *layers: bytes, tag: str = "1") -> list[str]:
        """Queue an image of these layers and propose its release; return the layers' digests."""
        digests = [self.low.queue(layer, label=f"layer {number}") for number, layer in enumerate(layers)]
        root = some_bytes(300, len(layers))
        closure = tuple(
            Content("application/vnd.oci.image.layer.v1.tar", digest, len(layer))
            for digest, layer in zip(digests, layers, strict=True)
        )
        manifest = Content("application/vnd.oci.image.manifest.v1+json", self.low.queue(root), len(root))
        image = ReleaseImage("docker.io/library/demo", (tag,), manifest, closure)
        with closing(self.low.journal()) as journal:
            Decisions(journal).propose("default", json.dumps(images_document([image])), "", time.time())
        return digests

    def geometry(self, size: int) -> Geometry:
        """How the sender cuts so many coded bytes now."""
        settings = load_settings(self.low.config, SenderSettings)
        link = Link(settings.link.to, settings.link.mtu)
        return link_profile(settings, link).geometry(size)

    def start_receiver(self) -> subprocess.Popen[bytes]:
        with (self.high / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "receiver", "capture", "--config", str(self.config)],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=log,
            )
        until(lambda: b"listening" in (self.high / "log").read_bytes())
        return process

    def cli(self, side: str, *words: str, stdin: str = "") -> tuple[int, str, str]:
        """Run a command of a side; (exit code, standard output, standard error)."""
        config = self.low.config if side == "sender" else self.config
        done = subprocess.run(
            [sys.executable, "-P", "-m", side, *words, "--config", str(config)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    def code(self) -> str:
        """The receiver's repair code, as it prints it."""
        code, out, err = self.cli("receiver", "missing", "--code", "--json")
        assert code == 1, err
        (found,) = json.loads(out)["codes"]
        return "\n".join(found["lines"])

    def here(self) -> dict[str, int]:
        """Coded digest -> bytes that the receiver's journal has of unfinished objects."""
        try:
            with closing(ReceiverJournal(self.high / "state" / "journal.sqlite", read_only=True)) as journal:
                return {partial.coded_digest: done for partial, done, _ in journal.partials()}
        except UserError:
            return {}

    def settle(self) -> dict[str, int]:
        """Wait until all is sent and the receiver has written what it got; return what is here in part."""
        until(lambda: self._queued() == 0)
        before: tuple[float, dict[str, int]] = time.monotonic(), self.here()
        while time.monotonic() - before[0] < 1.5:
            time.sleep(0.1)
            if self.here() != before[1]:
                before = time.monotonic(), self.here()
        return before[1]

    def _queued(self) -> int:
        with closing(self.low.journal()) as journal:
            totals = journal.totals()
        return totals["queued_objects"] if totals["sent_objects"] else 1

    def repairs(self) -> list[Any]:
        with closing(self.low.journal()) as journal:
            return journal.connection.execute("SELECT object, spans FROM repairs").fetchall()


def until(condition: Callable[[], object], seconds: float = 60.0, say: Callable[[], object] = str) -> None:
    """Wait for *condition*; *say* tells more when time is up."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, f"time is up: {say()}"
        time.sleep(0.02)
