"""Which objects are being received, which are here already, and which are refused: what the capture loop remembers.

Keyed by coded digest, over all lanes and sessions: their owners (one for each lane and session that announced the
object) share one set of finished bytes. Tells the lanes what they need not receive.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from typing import Any, Final

import structlog

from oci.blobs import BlobStore
from protocol.drops import Drop
from protocol.incoming import IncomingObject
from protocol.limits import TRACKED_OBJECTS_MAX
from protocol.objects import Kind, ObjectEntry
from protocol.ranges import RangeSet
from receiver.config import Limits
from receiver.far_lane import FarLane
from receiver.journal import ReceiverJournal
from receiver.lane import Lane
from receiver.results import BlockWritten, ObjectRefused, ObjectTaken

REFUSED_MAX: Final = 4_096
PATROL: Final = 64  # objects looked after at each patrol
SHOWN_MAX: Final = 100

log = structlog.get_logger()


class Wanted:
    """Use from the capture loop only. *drops* counts; *have* is what is on disk of unfinished objects."""

    def __init__(
        self,
        spool: BlobStore,
        journal: ReceiverJournal,
        limits: Limits,
        lanes: Sequence[Lane | FarLane],
        have: dict[str, RangeSet],
        drops: dict[Drop, int],
    ) -> None:
        self._spool = spool
        self._journal = journal
        self._limits = limits
        self._lanes = lanes
        self._drops = drops
        self._have = have
        self._receiving: OrderedDict[str, list[IncomingObject]] = OrderedDict()
        self._settled: OrderedDict[str, list[IncomingObject]] = OrderedDict()  # here already
        self._refused: OrderedDict[tuple[object, ...], None] = OrderedDict()  # turned out wrong, in this process
        self._running: Collection[bytes] = ()

    def __len__(self) -> int:
        return len(self._receiving)

    def sessions(self, running: Collection[bytes]) -> None:
        """Forget the owners of sessions (ids) that are not running any more."""
        self._running = running
        for objects in (self._receiving, self._settled):
            for digest, owners in list(objects.items()):
                owners[:] = [owner for owner in owners if owner.session in running]
                if not owners:
                    del objects[digest]

    def announced(self, owner: IncomingObject) -> None:
        """A lane has announced an object."""
        entry, limits = owner.entry, self._limits
        for size, most, key in (
            (entry.content_size, limits.object_size, "limits.object_size"),
            (entry.geometry.size, limits.object_size, "limits.object_size"),
            (entry.geometry.size, limits.partial_space, "limits.partial_space"),
        ):
            if size > most:
                self._drop(Drop.OBJECT_TOO_LARGE)
                log.warning("object_refused", digest=entry.digest, bytes=size, reason=key)
                return
        if _identity(entry) in self._refused:
            return
        if self._is_here(entry):
            _keep(self._settled, owner)
            return
        others = self._receiving.get(entry.coded_digest)
        have = others[0].have if others else self._have.get(entry.coded_digest)
        owner.have = have if have is not None else RangeSet()
        self._lanes[owner.lane].want(owner)
        _keep(self._receiving, owner)

    def _is_here(self, entry: ObjectEntry) -> bool:
        if entry.kind is Kind.BLOB:
            return self._spool.size(entry.digest) is not None
        return self._journal.is_unpacked(entry.digest)

    def patrol(self) -> None:
        """Look whether what was here still is: publish removes content that was damaged on disk."""
        for _ in range(min(PATROL, len(self._settled))):
            coded_digest, owners = self._settled.popitem(last=False)
            entry = owners[0].entry
            here = self._is_here(entry)
            members = self._journal.members(entry.digest) if here and entry.kind is Kind.BATCH else ()
            if here and all(self._spool.size(member) is not None for member in members):
                self._settled[coded_digest] = owners
            else:
                log.warning("object_gone", kind=entry.kind.name.lower(), digest=entry.digest)
                self._forget(owners)
                for owner in owners:
                    self._lanes[owner.lane].want(owner)
                    _keep(self._receiving, owner)
            if members:
                return  # enough for one turn: a batch has up to 4,096

    def written(self, result: BlockWritten) -> None:
        """A block has been dealt with."""
        if result.whole:
            return
        block, owner = result.block, result.block.owner
        digest = owner.entry.coded_digest
        for start, end in result.ranges:
            owner.have.add(start, end)
        if result.ranges and owner.wanted:
            self._have.setdefault(digest, owner.have)
            for other in self._receiving.get(digest, ()):
                if other is not owner and other.have is owner.have:
                    self._lanes[other.lane].learned(other, result.ranges)
        shape = block.shape
        if block.complete and not owner.have.covers(shape.offset, shape.offset + shape.size):
            # given up or with the intake meanwhile: let the block come again, should it be needed
            self._lanes[owner.lane].again(owner, shape.sbn)

    def taken(self, result: ObjectTaken) -> None:
        """An object is in the spool or the journal."""
        entry = result.owner.entry
        for owner in self._settle(result.owner):
            if owner.session in self._running:
                _keep(self._settled, owner)
        log.info(
            "object_received",
            kind=entry.kind.name.lower(),
            digest=entry.digest,
            bytes=entry.content_size,
            wire_bytes=entry.geometry.size,
        )

    def refuse(self, result: ObjectRefused) -> None:
        """An object is whole and wrong."""
        entry = result.owner.entry
        self._drop(result.drop)
        log.warning("object_dropped", digest=entry.digest, reason=result.drop.value, detail=result.detail)
        if result.drop in (
            Drop.CODED_DIGEST_MISMATCH,
            Drop.NO_ROOM,
        ):  # our side's fault: the next pass may bring it right
            if result.owner not in self._receiving.get(entry.coded_digest, ()):
                self._lanes[result.owner.lane].forget(result.owner)
            self.start_again(entry.coded_digest)
            return
        self._settle(result.owner)
        self._refused[_identity(entry)] = None
        if len(self._refused) > REFUSED_MAX:
            self._refused.popitem(last=False)

    def start_again(self, coded_digest: str) -> None:
        """Nothing of an object is on disk any more."""
        self._have.pop(coded_digest, None)
        self._forget(self._receiving.get(coded_digest, ()))

    def named(self, session: bytes, toi: int) -> str | None:
        """Return the digest of the object that is *toi* in *session*, if it is being received."""
        for owners in self._receiving.values():
            for owner in owners:
                if owner.entry.toi == toi and owner.session == session:
                    return owner.entry.digest
        return None

    def shown(self) -> list[dict[str, Any]]:
        """Return what status shows of the objects being received."""
        return [
            {
                "digest": owners[0].entry.digest,
                "kind": owners[0].entry.kind.name.lower(),
                "done_bytes": min(owners[0].have.total, owners[0].entry.geometry.size),
                "size": owners[0].entry.geometry.size,
            }
            for owners in islice(self._receiving.values(), SHOWN_MAX)
        ]

    def _settle(self, finished: IncomingObject) -> list[IncomingObject]:
        """Receive no more of an object; return its owners."""
        digest = finished.entry.coded_digest
        self._have.pop(digest, None)
        owners = self._receiving.pop(digest, [])
        if finished not in owners:
            owners.append(finished)
        for owner in owners:
            self._lanes[owner.lane].settle(owner)
        return owners

    def _forget(self, owners: Iterable[IncomingObject]) -> None:
        fresh = RangeSet()
        for owner in owners:
            self._lanes[owner.lane].forget(owner)
            owner.have = fresh

    def _drop(self, reason: Drop) -> None:
        self._drops[reason] += 1


def _identity(entry: ObjectEntry) -> tuple[object, ...]:
    return entry.kind, entry.coding, entry.digest, entry.content_size, entry.coded_digest


def _keep(objects: OrderedDict[str, list[IncomingObject]], owner: IncomingObject) -> None:
    """Put *owner*'s object at the end, for that of the same lane and session; the oldest object gives way."""
    digest = owner.entry.coded_digest
    others = [
        other for other in objects.get(digest, ()) if (other.lane, other.session) != (owner.lane, owner.session)
    ]
    objects[digest] = [*others, owner]
    objects.move_to_end(digest)
    if len(objects) > TRACKED_OBJECTS_MAX:
        objects.popitem(last=False)
