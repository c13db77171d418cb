"""What must never go back, kept apart from the journal: the highest epochs and releases, twice, with a checksum.

A journal that is damaged can be begun anew, because all that it says comes again over the link, but for this: without
it an old session or an old release would be believed. So both are written here first. Knows nothing of the journal.
"""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from protocol.trust import ReleaseMark
from runtime.durable import write_durably

COPIES: Final = ("floor-1.json", "floor-2.json")
BYTES_MAX: Final = 4 * 1024 * 1024  # of one copy: 1,024 collections are some 200 kB


@dataclass
class Marks:
    """The highest numbers: sender key id -> (epoch, session id), and collection -> its newest release."""

    epochs: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)
    releases: dict[str, ReleaseMark] = field(default_factory=dict)

    def raise_to(self, other: Marks) -> bool:
        """Take over what is higher in *other*; return whether anything was."""
        higher = False
        for sender, (epoch, session) in other.epochs.items():
            if epoch > self.epochs.get(sender, (0, b""))[0]:
                self.epochs[sender] = epoch, session
                higher = True
        for collection, mark in other.releases.items():
            known = self.releases.get(collection)
            if known is None or mark.sequence > known.sequence:
                self.releases[collection] = mark
                higher = True
        return higher


class Floor:
    """The two copies in *folder*. For any thread; each change is on disk, twice, when its call returns."""

    def __init__(self, folder: Path) -> None:
        self._paths = [folder / name for name in COPIES]
        self._lock = threading.Lock()
        for stale in folder.glob(".floor-*.tmp"):  # of killed calls of write_durably
            stale.unlink(missing_ok=True)
        found = [_read(path) for path in self._paths]
        self.present = sum(path.exists() for path in self._paths)  # copies that are there, sound or not
        self.sound = sum(each is not None for each in found)
        self.marks = Marks()
        self._generation = 0
        for each in found:
            if each is not None:
                self._generation = max(self._generation, each[0])
                self.marks.raise_to(each[1])

    @property
    def lost(self) -> bool:
        """Whether there are copies, and none of them can be read."""
        return self.present > 0 and self.sound == 0

    def raise_to(self, other: Marks) -> None:
        """Take over what is higher in *other*, and make both copies whole; OSError if the disk fails.

        May be repeated after an error: what is in memory is written, whether this call changes it or not.
        """
        with self._lock:
            if self.marks.raise_to(other) or self.sound < len(self._paths):
                self._write()

    def epoch(self, sender: bytes, epoch: int, session: bytes) -> None:
        """Note a session that is about to count; OSError if the disk fails, and the call may be repeated."""
        self.raise_to(Marks(epochs={sender: (epoch, session)}))

    def release(self, collection: str, mark: ReleaseMark) -> None:
        """Note a verified release that is about to count; OSError if the disk fails, and the call may be repeated."""
        self.raise_to(Marks(releases={collection: mark}))

    def keep(self) -> None:
        """Write both copies anew, whatever became of them; OSError if the disk fails."""
        with self._lock:
            self._write()

    def _write(self) -> None:
        self.sound = 0
        self._generation += 1
        data = _written(self._generation, self.marks)
        for path in self._paths:  # one after the other: at each instant one of them is whole
            write_durably(path, data)
            self.sound += 1
        self.present = len(self._paths)


def _written(generation: int, marks: Marks) -> bytes:
    document = {
        "generation": generation,
        "epochs": {sender.hex(): [epoch, session.hex()] for sender, (epoch, session) in marks.epochs.items()},
        "releases": {name: [mark.sequence, mark.digest] for name, mark in marks.releases.items()},
    }
    text = json.dumps(document, sort_keys=True)
    return f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}\n".encode()


def _read(path: Path) -> tuple[int, Marks] | None:
    """Return what a copy says, None if it is absent or not what was written."""
    try:
        with path.open("rb") as file:
            checksum, _, text = file.read(BYTES_MAX).partition(b"\n")
    except OSError:
        return None
    text = text.removesuffix(b"\n")
    if hashlib.sha256(text).hexdigest().encode() != checksum:
        return None
    document: dict[str, Any] = json.loads(text)
    return int(document["generation"]), Marks(
        {bytes.fromhex(key): (int(epoch), bytes.fromhex(at)) for key, (epoch, at) in document["epochs"].items()},
        {name: ReleaseMark(int(number), str(digest)) for name, (number, digest) in document["releases"].items()},
    )
