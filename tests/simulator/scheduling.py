"""A sender whose order of sending is the real one: its journal, with the queue and what was sent, on a simulated
disk, and the role's Schedule. Encoder and content are the simulator's (sending.py).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from protocol.geometry import Geometry
from protocol.objects import Kind
from protocol.release import images_document
from sender.journal import QueuedObject, ReleaseRow, SenderJournal
from sender.schedule import Schedule
from tests.simulator.clock import VirtualClock
from tests.simulator.disk import Disk, Loss, PowerCut
from tests.simulator.link import Inlet
from tests.simulator.sending import Item, SendingWorld
from tests.support.content import digest_of

SPACING_S = 0.01


class Load(NamedTuple):
    """An object, whether it is urgent, and the contents that it carries."""

    item: Item
    urgent: bool
    contents: tuple[str, ...]


class ScheduledSender:
    """A sender that can lose its power. *inlet*, *after_burst*: as for SendingWorld."""

    def __init__(
        self,
        disk: Disk,
        signer: Ed25519PrivateKey,
        receivers: list[X25519PublicKey],
        random: Random,
        clock: VirtualClock,
        inlet: Inlet,
        datagram_bytes: int,
        after_burst: Callable[[], None],
        collection: str,
        coded: dict[str, bytes],
    ) -> None:
        self._disk, self._random, self._clock = disk, random, clock
        self.world = SendingWorld(signer, receivers, random, clock, inlet, datagram_bytes, after_burst, collection)
        self.collection = collection
        self.coded = coded  # every object that ever was, of all senders: coded digest -> bytes
        self.wanted: dict[str, bytes] = {}  # what the newest release needs: digest -> bytes
        self.cuts = 0
        self._items: dict[tuple[str, str], Item] = {}  # by digest and coded digest
        self._loads: list[Load] = []  # what the newest release needs, itself first
        self._epoch = 0
        self.plan_cut: Callable[[], int | None] = lambda: None  # calls from a start until the power goes
        self._open()

    def _open(self) -> None:
        """Start the role: a new epoch, durably, before anything is sent with it."""
        while True:
            self.arm()
            with contextlib.suppress(PowerCut):
                self.journal = SenderJournal(self._disk.root / "journal.sqlite")
                epoch = self.journal.next_epoch()
                assert epoch > self._epoch, f"epoch {epoch} after {self._epoch}: what was used came again"
                self._epoch = epoch
                self._enter()
                break
            self._fell()
        self.world.restart(epoch)
        self._sizes: dict[int, Geometry] = {}
        self._schedule = Schedule(self._geometry, SPACING_S, epoch - 1)
        self._left: dict[int, int] = {}  # blocks to go of the passes that have begun
        self.refresh()

    def arm(self) -> None:
        """Decide anew when the power goes."""
        calls = self.plan_cut()
        self._disk.cut_at = None if calls is None else self._disk.calls + calls

    def _geometry(self, size: int) -> Geometry:
        return self._sizes.setdefault(size, self.world.geometry(size))

    def crash(self) -> None:
        """Lose the power and come back."""
        self._disk.cut(self._random.choice(list(Loss)))
        self.rise()

    def _fell(self) -> None:
        self.journal.close()
        self._disk.restart()

    # --- content ------------------------------------------------------------------------------------------

    def publish(self, items: Iterable[Item], members: dict[str, bytes], keep: bool, urgent: bool) -> None:
        """Make a release of these objects, besides those before if *keep*; *members* are the batches' contents."""
        new = list(items)
        contents = {digest_of(item.content): item.content for item in new if item.kind is Kind.BLOB} | members
        self.wanted = {**(self.wanted if keep else {}), **contents}
        envelope = self.world.seal(self.wanted)
        sequence, digest = self.world.release
        loads = [
            Load(item, urgent, tuple(members) if item.kind is Kind.BATCH else (digest_of(item.content),))
            for item in new
        ]
        self._loads = [Load(Item(Kind.RELEASE, envelope), False, ()), *(self._loads[1:] if keep else []), *loads]
        assert self.world.image is not None
        images = json.dumps(images_document([self.world.image]))
        row, signed = ReleaseRow(self.collection, sequence, digest, images, envelope, 0.0), False
        while True:
            with contextlib.suppress(PowerCut):
                if sequence not in {each.sequence for each in self.journal.newest_releases()}:
                    assert not signed, f"release {sequence} was signed and is forgotten"
                    self.journal.save_release(row)
                    signed = True
                self._enter()
                break
            self.rise()
        self.refresh()

    def _enter(self) -> None:
        """Queue what the journal does not have, or has lost with the power; retire what no release needs."""
        for item, urgent, contents in self._loads:
            coded = item.coded
            key = digest_of(item.content), digest_of(coded)
            self._items[key], self.coded[key[1]] = item, coded
            self.journal.queue_object(
                kind=int(item.kind),
                coding=int(item.coding),
                digest=key[0],
                content_size=len(item.content),
                coded_digest=key[1],
                coded_size=len(coded),
                path=Path("/nonexistent") / key[1],
                label=json.dumps(key),
                passes=self._random.choice((1, 2)),
                contents=contents,
                now=self._clock.now,
                urgent=urgent,
            )
        self.journal.retire_releases([self.release_digest])

    # --- sending ------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Send the next block that is due; False when the queue is empty."""
        step = self._schedule.next_block(self._clock.now)
        if step is None:
            self._clock.advance(SPACING_S)
            return not self._schedule.empty
        queued, shape, _ = step
        item = self._items[queued.digest, queued.coded_digest]
        entry = self.world.entry(item, self._geometry(queued.coded_size))
        self._left.setdefault(queued.id, entry.geometry.blocks)
        self.world.send_block(entry, shape.sbn, self.coded[queued.coded_digest])
        self._left[queued.id] -= 1
        if not self._left[queued.id]:
            del self._left[queued.id]
            self._schedule.pass_ended(queued, self._clock.now)
            self._noted(queued)
        return True

    def _noted(self, queued: QueuedObject) -> None:
        with contextlib.suppress(PowerCut):
            self.journal.note_pass(queued.id, self._clock.now)
        self.rise()

    def carousel(self) -> None:
        """Repeat what the newest release needs, and the release."""
        with contextlib.suppress(PowerCut):
            self.journal.repeat(self.release_digest)
            self.journal.repeat_objects(self.journal.carriers(self.wanted))
        self.rise()
        self.refresh()

    @property
    def release_digest(self) -> str:
        """Digest of the newest release's envelope."""
        return digest_of(self._loads[0].item.content) if self._loads else ""

    def rise(self) -> None:
        """Come back, if the power is gone."""
        if self._disk.dead:
            self.cuts += 1
            self._fell()
            self._open()

    def refresh(self) -> None:
        """Take the queue as the journal has it now."""
        self._schedule.refresh(self.journal.queue())

    def close(self) -> None:
        """Free the journal."""
        self.journal.close()
