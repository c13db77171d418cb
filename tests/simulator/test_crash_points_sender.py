"""The power goes before each single call with which the sender's queue changes the disk: contents kept, compressed,
batched and queued, a release queued, what was sent evicted.

Whatever is left, each object of the queue has its bytes; what was promised to the other side is never taken back.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from pathlib import Path
from random import Random

import pytest

from oci.blobs import BlobStore
from oci.descriptor import sha256_digest
from protocol.release import Content
from runtime.durable import remove_leftovers
from sender.eviction import Evictor
from sender.journal import ReleaseRow, SenderJournal
from sender.prepare import Preparer
from sender.releases import queue_release
from tests.sender.conftest import Site
from tests.simulator.disk import Disk, Loss, PowerCut, watched
from tests.simulator.powerworld import points, quiet_folder

_NOISE = Random(11)
BODIES = [b"", b"small", _NOISE.randbytes(70_000), _NOISE.randbytes(9_000) * 12, b"another small one"]
CONTENTS = [Content("application/octet-stream", sha256_digest(body), len(body)) for body in BODIES]
ENVELOPE = _NOISE.randbytes(900) * 20  # compressed on its way; the signature is not looked at here
RELEASE = ReleaseRow("default", 1, sha256_digest(ENVELOPE), "[]", ENVELOPE, 0.0)


class Story:
    """A fetch and a transmit role's work on one state folder, without network."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        site = Site(folder)
        site.write()
        self.settings = site.settings()
        self.epoch = 0

    def tell(self) -> None:
        """From the first content to the last; what an earlier life has done is not done again."""
        settings = self.settings
        remove_leftovers(settings.coded)
        spool = BlobStore(settings.spool)
        with contextlib.closing(SenderJournal(settings.journal)) as journal:
            epoch = journal.next_epoch()
            assert epoch > self.epoch, "an epoch that was given out is given out again"
            self.epoch = epoch
            self._queue(spool, journal)
            if not journal.newest_releases():
                journal.save_release(RELEASE)
            queue_release(journal, RELEASE, settings.coded, 2, 1.0)
            for queued in journal.queue():
                for _ in range(queued.passes_left):
                    journal.note_pass(queued.id, 2.0)
            Evictor(settings, journal).evict(1 << 30)
            self._queue(spool, journal)  # evicted, wanted and fetched again

    def _queue(self, spool: BlobStore, journal: SenderJournal) -> None:
        for content, body in zip(CONTENTS, BODIES, strict=True):
            if spool.size(content.digest) is None:
                spool.write(content.digest, body)
        with Preparer(self.settings, spool) as preparer:
            asyncio.run(preparer.queue("app:1", CONTENTS))
        assert not journal.not_carried(content.digest for content in CONTENTS)

    def check(self) -> int:
        """Look at what is there; return how many objects were looked at."""
        settings = self.settings
        for path in (settings.spool / "blobs").rglob("*"):
            assert path.is_dir() or hashlib.sha256(path.read_bytes()).hexdigest() == path.name, f"{path} is wrong"
        if not settings.journal.exists():
            return 0
        with contextlib.closing(SenderJournal(settings.journal)) as journal:
            rows = journal.connection.execute("SELECT path, coded_digest, kind FROM objects").fetchall()
        for path, coded_digest, _ in rows:
            assert sha256_digest(Path(path).read_bytes()) == coded_digest, f"{path} is not what the queue says"
        return len(rows)


def run(cut_at: int | None, loss: Loss) -> int:
    """One run; returns how many calls it was."""
    with quiet_folder() as folder:
        story = Story(folder / "low")
        disk = Disk(folder / "low", Random(cut_at))
        disk.settle()
        with watched(disk):
            disk.cut_at, disk.loss = cut_at, loss
            with contextlib.suppress(PowerCut):
                story.tell()
            assert disk.dead == (cut_at is not None)
            calls = disk.calls
            if disk.dead:
                disk.restart()
                story.check()
                story.tell()
            assert story.check() > 3
        left = [path for path in (folder / "low/state").rglob("*") if path.name.startswith(".") and path.is_file()]
        assert not [path for path in left if path.name != ".lock"], left
        return calls


@pytest.fixture(scope="module")
def calls() -> int:
    return run(None, Loss.NOTHING)


@pytest.mark.parametrize(("loss", "first", "step"), points((Loss.EVERYTHING, 0, 7), (Loss.SOMETHING, 3, 7)))
def test_the_queue_has_its_bytes_whenever_the_power_goes(calls: int, loss: Loss, first: int, step: int) -> None:
    assert calls > 40
    for cut_at in range(first, calls, step):
        try:
            run(cut_at, loss)
        except Exception as error:
            raise AssertionError(f"cut before call {cut_at} of {calls}, {loss.value} lost") from error
