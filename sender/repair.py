"""``checkvalve-sender repair``: re-sends just what a receiver's repair code names, before all else but releases.

The code names contents by their place in a release that was signed here, and source blocks as the receiver saw them;
they become spans of the coded bytes that are queued here now. Touches the journal only: a running transmit role takes
it up within a second, one that is started later finds it.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from dataclasses import dataclass, field
from typing import Any, Final

from oci.descriptor import short_digest
from protocol.objects import Kind
from protocol.ranges import RangeSet
from protocol.release import Content
from protocol.repair_code import CODED_BITS, Cut, Pieces, Section, decode, first_bits, refers_to
from protocol.repair_text import BadRepairCode
from runtime.errors import EXIT_USAGE, UserError
from sender.config import SenderSettings
from sender.desired import parse_envelope
from sender.journal import OBJECT_COLUMNS, QueuedObject, ReleaseRow, SenderJournal, object_of
from sender.repair_queue import RepairQueue, Spans

_RELEASE_DIGITS: Final = 7  # hexadecimal digits of a release's digest that a code has


@dataclass(slots=True)
class _Object:
    """What is to be sent of one object."""

    queued: QueuedObject
    spans: RangeSet = field(default_factory=RangeSet)
    contents: int = 0  # how many of the code's it carries
    note: str = ""


@dataclass(slots=True)
class Order:
    """What a code comes to: objects to send something of, and what cannot be sent, with the reason."""

    objects: dict[int, _Object] = field(default_factory=dict)
    gone: list[tuple[str, str]] = field(default_factory=list)  # (what, why)
    releases: list[tuple[str, int]] = field(default_factory=list)  # (collection, sequence)
    mended: int = 0  # mistyped characters

    def spans(self) -> dict[int, Spans]:
        """Return what to send by object id."""
        return {each: tuple(one.spans) for each, one in self.objects.items()}

    def document(self) -> dict[str, Any]:
        """Return it for people and programs; sizes in bytes."""
        return {
            "characters_mended": self.mended,
            "releases": [{"collection": name, "sequence": sequence} for name, sequence in self.releases],
            "objects": [
                {
                    "label": one.queued.label,
                    "kind": Kind(one.queued.kind).name.lower(),
                    "digest": one.queued.digest,
                    "contents": one.contents,
                    "spans": [list(span) for span in one.spans],
                    "bytes": one.spans.total,
                    "of_bytes": one.queued.coded_size,
                    "note": one.note,
                }
                for one in self.objects.values()
            ],
            "bytes": sum(one.spans.total for one in self.objects.values()),
            "not_sent": [{"what": what, "why": why} for what, why in self.gone],
        }


def repair(settings: SenderSettings, text: str, *, dry_run: bool = False) -> dict[str, Any]:
    """Queue what the code *text* names, unless *dry_run*; say what that is. UserError for what is no code of ours."""
    sections, mended = _read(text)
    SenderJournal(settings.journal, read_only=True).close()  # before the first run: says so and makes none
    journal = SenderJournal(settings.journal, read_only=dry_run)
    try:
        order = Order(mended=mended)
        for section in sections:
            _Reading(journal, section, order).read()
        if not dry_run:
            RepairQueue(journal).add(order.spans(), time.time())
    except sqlite3.OperationalError as error:
        raise UserError(f"{settings.journal}: {error}; try again") from None
    finally:
        journal.close()
    return order.document()


def _read(text: str) -> tuple[tuple[Section, ...], int]:
    """Return (sections, characters mended) of one code, over any lines, or of several, one a line."""
    try:
        return decode(text)
    except BadRepairCode as error:
        lines = [line for line in text.splitlines() if line.strip()]
        try:
            each = [decode(line) for line in lines if len(lines) > 1]
        except BadRepairCode:
            each = []
        if not each:
            raise UserError(f"repair code: {error}", exit_code=EXIT_USAGE) from None
        return tuple(section for sections, _ in each for section in sections), sum(mended for _, mended in each)


class _Reading:
    """One section of a code against the journal."""

    def __init__(self, journal: SenderJournal, section: Section, order: Order) -> None:
        self._journal = journal
        self._section = section
        self._order = order

    def read(self) -> None:
        """Add what the section names to the order."""
        row = self._release()
        section, order = self._section, self._order
        if (row.collection, row.sequence) not in order.releases:
            order.releases.append((row.collection, row.sequence))
        contents = list(parse_envelope(row.envelope).contents().values())
        highest = max([end for _, end in section.whole] + [piece.content + 1 for piece in section.pieces], default=0)
        if highest > len(contents):
            raise UserError(
                f"repair code: it names content {highest} of release {row.collection} {row.sequence}, which has "
                f"{len(contents)}: it is of another sender",
                exit_code=EXIT_USAGE,
            )
        if section.release:
            self._whole_release(row)
        superseded = self._superseded(row)
        for start, end in section.whole:
            for content in contents[start:end]:
                self._content(content, None, superseded)
        for piece in section.pieces:
            self._content(contents[piece.content], piece, superseded)

    def _release(self) -> ReleaseRow:
        """Return the release of the section; UserError if it was not signed here."""
        section = self._section
        rows = self._journal.connection.execute(
            "SELECT collection, sequence, digest, images, envelope, created, lock FROM releases WHERE sequence = ?",
            (section.sequence,),
        )
        for row in (ReleaseRow(*row) for row in rows):
            if refers_to(section, row.sequence, row.digest):
                return row
        known = [f"{row.collection} 1 to {row.sequence}" for row in self._journal.newest_releases()]
        raise UserError(
            f"repair code: it is about release {section.sequence}, sha256:{section.digest:0{_RELEASE_DIGITS}x}…, not "
            f"signed here (signed: {', '.join(known) or 'none yet'}): it is of another sender or collection",
            exit_code=EXIT_USAGE,
        )

    def _superseded(self, row: ReleaseRow) -> int | None:
        """Return the sequence of the release that came after, None if there is none."""
        newest = next(each.sequence for each in self._journal.newest_releases() if each.collection == row.collection)
        return newest if newest > row.sequence else None

    def _whole_release(self, row: ReleaseRow) -> None:
        """Send the newest release of the collection: an older one is of no use to a receiver any more."""
        newest = next(each for each in self._journal.newest_releases() if each.collection == row.collection)
        queued = self._object("objects.digest = ?", "sha256:" + hashlib.sha256(newest.envelope).hexdigest())
        if queued is None:
            what = f"release {row.collection} {row.sequence}"
            self._order.gone.append((what, "transmit queues the newest release by itself when it starts"))
            return
        found = self._order.objects.setdefault(queued.id, _Object(queued))
        found.spans.add(0, queued.coded_size)
        if newest.sequence != row.sequence:
            found.note = f"release {newest.sequence} in place of {row.sequence}"

    def _content(self, content: Content, piece: Pieces | None, superseded: int | None) -> None:
        queued = self._object("objects.id = (SELECT object FROM carried WHERE digest = ?)", content.digest)
        if queued is None:
            why = "not prepared here yet: fetch does that; give the code again then"
            if superseded is not None:
                why = f"not held any more; release {superseded} has come after, ask for what that lacks"
            self._order.gone.append((short_digest(content.digest), why))
            return
        found = self._order.objects.setdefault(queued.id, _Object(queued))
        found.contents += 1
        spans = ((0, queued.coded_size),) if piece is None else self._spans(queued, piece)
        if not spans:
            spans, found.note = ((0, queued.coded_size),), "coded in another way since: all of it"
        for span in spans:
            found.spans.add(*span)

    def _spans(self, queued: QueuedObject, piece: Pieces) -> Spans:
        """Return the bytes of the blocks that the receiver lacks; none if it has begun other coded bytes."""
        cut = Cut(queued.coded_size, self._section.symbol_bytes, piece.blocks)
        if piece.coded == first_bits(queued.coded_digest, CODED_BITS) and cut.sound:
            return cut.bytes_of(piece.missing)
        return ()

    def _object(self, where: str, value: object) -> QueuedObject | None:
        row = self._journal.connection.execute(
            f"SELECT {OBJECT_COLUMNS} FROM objects WHERE {where}",  # noqa: S608
            (value,),
        ).fetchone()
        return None if row is None else object_of(row)
