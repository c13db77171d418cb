"""The real capture role on a simulated disk: its loop, threads, journal and spool, fed by the simulated link.

A crash may come at any call that changes the disk. What it left is looked at before the role is started again: no
blob with other bytes than its digest says, no range in the journal whose bytes are not there, no epoch or release
that was accepted and is forgotten.
"""

from __future__ import annotations

import contextlib
import hashlib
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, Final
from unittest import mock

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from oci.blobs import BlobStore
from protocol.decoder import Decoder, ReceiveBuffer
from protocol.drops import Drop
from protocol.trust import Remembered, TrustedSenders
from receiver import assemble
from receiver.capture_loop import Capture
from receiver.config import ReceiverSettings
from receiver.journal import ReceiverJournal
from receiver.lane import Lane
from receiver.senders import Trust
from tests.simulator.disk import Disk, Loss, PowerCut

IDLE_S: Final = 20.0  # for the threads to be through, on a busy machine
_POLL_S: Final = 0.000_1


class QueueLink:
    """What the role takes for its socket."""

    def __init__(self) -> None:
        self.kernel_drops = 0
        self.path = "plain"
        self.bursts: list[tuple[bytes, int]] = []

    def receive(self, into: ReceiveBuffer) -> tuple[int, int]:
        """As Link.receive."""
        if not self.bursts:
            return 0, 0
        burst, size = self.bursts.pop(0)
        into.memory[: len(burst)] = burst
        return len(burst), size

    def close(self) -> None:
        """Nothing is open."""


class _Followed(queue.SimpleQueue[Any]):
    """A queue with one taker that tells whether something waits or is being worked on."""

    def __init__(self) -> None:
        self.open = 0
        self._lock = threading.Lock()
        self._handed = False

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        with self._lock:
            self.open += 1
        super().put(item)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        if self._handed:
            with self._lock:
                self.open -= 1
            self._handed = False
        item = super().get(block, timeout)
        self._handed = True
        return item


class CaptureOnDisk:
    """*coded* is what senders send: coded digest -> bytes, to compare. *space* bounds partial objects (bytes)."""

    def __init__(
        self,
        disk: Disk,
        trusted: TrustedSenders,
        private: X25519PrivateKey,
        coded: Mapping[str, bytes],
        random: Random,
        space: int = 1 << 30,
        plan_cut: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._disk, self._random, self._coded = disk, random, coded
        self._trusted, self._private = trusted, private
        self._settings = ReceiverSettings.model_validate(
            {
                "state": disk.root,
                "hpke_key": disk.root / "none",
                "senders": [disk.root / "none"],
                "listen": {"on": "127.0.0.1:4433"},
                "publish": {"layout": disk.root / "published"},
                "limits": {"partial_space": space},
            }
        )
        self.drops: Counter[Drop] = Counter()
        self.starts = self.cuts = 0
        self.checked = Counter[str]()  # what crashes left, and was found sound
        self._epochs: dict[bytes, int] = {}
        self._releases: dict[str, int] = {}
        self._capture: Capture | None = None
        self.damage = 0.0  # probability at each crash that the disk has changed a bit
        self.damaged: set[str] = set()  # coded digests
        self.damages = 0
        self.plan_cut = plan_cut  # calls from a start until the power goes, None: it stays
        self._start()

    # --- the role's life -------------------------------------------------------------------------------------------

    def _start(self) -> None:
        while self._capture is None:
            self.starts += 1
            self.arm()
            with contextlib.suppress(PowerCut):
                journal = ReceiverJournal(self._settings.journal)
                remembered = Remembered(epochs=journal.epochs())
                self._link = QueueLink()
                lane = Lane(self._link, Decoder(self._trusted, self._private, remembered))  # type: ignore[arg-type]
                self._lane, self._journal, self._remembered = lane, journal, remembered
                with mock.patch.object(assemble, "queue", SimpleNamespace(SimpleQueue=_Followed, Empty=queue.Empty)):
                    self._capture = Capture(self._settings, journal, lane, Trust(self._trusted), remembered)
            if self._disk.dead:
                self._fell()

    def arm(self) -> None:
        """Decide anew when the power goes."""
        calls = self.plan_cut()
        self._disk.cut_at = None if calls is None else self._disk.calls + calls

    def receive(self, burst: bytes, datagram_bytes: int) -> None:
        """Take one burst, as the loop of the role does; a cut ends the role and starts it again."""
        capture = self._running()
        with contextlib.suppress(PowerCut):
            self._link.bursts.append((burst, datagram_bytes))
            self._lane.turn(capture._handle, capture._results)
            capture._results()
            if self._random.random() < 0.5:
                self._settle()
            if self._random.random() < 0.02:
                capture._wanted.patrol()
                capture._publish_live(time.monotonic(), "receiving")
        if self._disk.dead:
            self._fell()
        assert capture._assembler.failed is None or capture is not self._capture, capture._assembler.failed

    def settle(self) -> None:
        """Wait until the threads have nothing to do."""
        with contextlib.suppress(PowerCut):
            self._settle()
        if self._disk.dead:
            self._fell()

    def crash(self, loss: Loss) -> None:
        """End the role here and now, with that *loss*."""
        self._disk.cut(loss)
        self._fell()

    def stop(self) -> None:
        """End it in order and start it again."""
        capture = self._running()
        with contextlib.suppress(PowerCut):
            self._settle()
            self._tally()
            capture.close()
            self._capture = None
            self._check()
        if self._disk.dead:
            self._fell()
        self._start()

    def close(self) -> None:
        """End the role for good."""
        capture, self._capture = self._running(), None
        self._disk.cut_at = None
        with contextlib.suppress(PowerCut):
            capture.close()

    def _running(self) -> Capture:
        assert self._capture is not None
        return self._capture

    def _settle(self) -> None:
        capture = self._running()
        assembler = capture._assembler
        until = time.monotonic() + IDLE_S
        while True:
            capture._results()
            blocks, whole = assembler._blocks, assembler._whole
            assert isinstance(blocks, _Followed)
            assert isinstance(whole, _Followed)
            busy = blocks.open or whole.open or assembler._taking
            if self._disk.dead or assembler.failed is not None:
                return
            if not busy and not assembler.results:
                return
            assert time.monotonic() < until, "the threads of the role are stuck"
            time.sleep(_POLL_S)

    def _fell(self) -> None:
        """The power went: end what is left of the process, look at the disk, start the role again."""
        self.cuts += 1
        capture, self._capture = self._capture, None
        if capture is not None:
            with contextlib.suppress(PowerCut):
                capture._assembler.stop()
            capture._ledger.stop()
            self._tally()
            self._journal.close()
        self._disk.restart()
        self._check()
        if self._random.random() < self.damage:
            self._damage()
        self._start()

    def _damage(self) -> None:
        """A bit of a partial file changes while nobody runs; what is hashed anew afterwards shows it."""
        files = [path for path in self.partial_files() if path.stat().st_size]
        if files:
            path = self._random.choice(files)
            content = bytearray(path.read_bytes())
            content[self._random.randrange(len(content))] ^= 1 << self._random.randrange(8)
            with path.open("r+b") as file:
                file.write(content)
            self.damaged.add(f"sha256:{path.name}")
            self.damages += 1

    def _tally(self) -> None:
        self.drops += self._lane.decoder.counters.drops
        # Both are committed so that a power cut does not take them back: what can be seen has to stay.
        self._epochs = {sender: epoch for sender, (epoch, _) in self._journal.epochs().items()}
        self._releases = {name: sequence for name, (sequence, _) in self._journal.newest_marks().items()}

    # --- what must hold whatever happens ------------------------------------------------------------------------

    def _check(self) -> None:
        self._blobs_are_right()
        path = self._settings.journal
        if not path.exists():
            assert not self._epochs, "the journal is gone"
            return
        journal = ReceiverJournal(path)
        try:
            self._ranges_are_there(journal)
            now = {sender: epoch for sender, (epoch, _) in journal.epochs().items()}
            behind = {sender: epoch for sender, epoch in self._epochs.items() if now.get(sender, 0) < epoch}
            assert not behind, f"epochs were used and are forgotten: {behind}"
            marks = {collection: sequence for collection, (sequence, _) in journal.newest_marks().items()}
            older = {name: last for name, last in self._releases.items() if marks.get(name, 0) < last}
            assert not older, f"releases were accepted and are forgotten: {older}"
        finally:
            journal.close()

    def _blobs_are_right(self) -> None:
        for path in (self._settings.spool / "blobs").rglob("*"):
            if path.is_file():
                found = hashlib.new(path.parent.name, path.read_bytes()).hexdigest()
                assert found == path.name, f"{path}: {path.stat().st_size} bytes that are not what the name says"
                self.checked["blobs"] += 1

    def _ranges_are_there(self, journal: ReceiverJournal) -> None:
        for partial, finished, _ in journal.partials():
            path = self._settings.partial / partial.coded_digest.removeprefix("sha256:")
            if (
                partial.coded_digest in self.damaged
                or not finished
                or not path.exists()
                or path.stat().st_size != partial.coded_size
            ):
                continue  # which recover() sees
            there, wanted = path.read_bytes(), self._coded[partial.coded_digest]
            for start, end in journal.ranges(partial.coded_digest):
                assert there[start:end] == wanted[start:end], (
                    f"the journal has bytes {start} to {end} of {partial.coded_digest}, the disk has not"
                )
                self.checked["ranges"] += 1

    # --- what the world asks ----------------------------------------------------------------------------------------

    def has(self, digest: str) -> bool:
        """Whether a blob is in the spool."""
        return self._spool.size(digest) is not None

    def content(self, digest: str) -> bytes:
        """Return a blob, verified."""
        return self._spool.read(digest, 1 << 30)

    def releases(self) -> dict[str, tuple[int, str]]:
        """Return collection -> (sequence, digest) of its newest release."""
        return self._journal.newest_marks()

    def partial_files(self) -> list[Path]:
        """Return the files of unfinished objects."""
        folder = self._settings.partial
        return sorted(folder.iterdir()) if folder.is_dir() else []

    def leftovers(self) -> list[Path]:
        """Return temporary files; there is none while nobody writes."""
        folder = self._settings.spool / ".ingest"
        return sorted(folder.iterdir()) if folder.is_dir() else []

    @property
    def _spool(self) -> BlobStore:
        return self._running()._spool
