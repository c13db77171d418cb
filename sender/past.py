"""``history``, ``diff`` and ``rollback``: a collection's releases, what lies between two, and going back to one."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from protocol.release import ReleaseImage
from runtime.errors import UserError
from sender.candidates import Approvals, Candidate, candidates
from sender.changes import Change, changes, contents
from sender.config import SenderSettings
from sender.decisions import Decisions, Proposal, Rollback
from sender.desired import read_state
from sender.journal import ReleaseRow, SenderJournal

PROPOSED = "proposed"


def history(settings: SenderSettings, collection: str | None) -> list[dict[str, Any]]:
    """Return the releases, oldest first, and what waits to become one."""
    journal = SenderJournal(settings.journal, read_only=True)
    try:
        decisions = Decisions(journal)
        rows = []
        before: dict[str, tuple[ReleaseImage, ...]] = {}
        for release in decisions.releases(collection):
            images = read_state(release.images)
            rows.append(_row(release, images, before.get(release.collection, ())))
            before[release.collection] = images
        approvals = Approvals(settings.collections, decisions)
        for candidate in candidates(journal, decisions):
            if isinstance(candidate, Candidate) and collection in (None, candidate.collection):
                old = read_state(candidate.before.images) if candidate.before else ()
                state = approvals.of(candidate)
                rows.append(
                    {
                        "collection": candidate.collection,
                        "sequence": candidate.release.sequence,
                        "state": "approved" if state.approved else f"waits, {state.given} of {state.needed}",
                        "digest": candidate.digest,
                        **_figures(changes(old, candidate.release.images), candidate.release.images),
                        "created": _time(candidate.created),
                    }
                )
        return rows
    finally:
        journal.close()


def difference(settings: SenderSettings, collection: str, one: str, other: str) -> list[Change]:
    """Return what changed from release *one* to *other*: sequence numbers, or ``proposed``. UserError."""
    journal = SenderJournal(settings.journal, read_only=True)
    try:
        decisions = Decisions(journal)
        return changes(_images(decisions, collection, one), _images(decisions, collection, other))
    finally:
        journal.close()


def roll_back(settings: SenderSettings, collection: str, sequence: int) -> dict[str, Any]:
    """Hold *collection* at the contents of release *sequence*, which will be its next release. UserError."""
    journal = SenderJournal.existing(settings.journal)
    try:
        decisions = Decisions(journal)
        release = _release(decisions, collection, sequence)
        newest = next(row for row in journal.newest_releases() if row.collection == collection)
        proposal = Proposal(collection, release.images, release.lock, time.time())
        if decisions.proposal(collection) is None:
            raise UserError(f"collection {collection}: nothing is proposed any more")
        decisions.roll_back(Rollback(proposal, sequence))
        images = read_state(release.images)
        found = changes(read_state(newest.images), images)
        needed = contents(images)
        return {
            "collection": collection,
            "contents_of": sequence,
            "release": newest.sequence + 1 if newest.images != release.images else newest.sequence,
            "changes": [one.document() for one in found],
            "bytes_new": sum(needed[digest].size for digest in journal.not_sent(needed)),
        }
    finally:
        journal.close()


def end_rollback(settings: SenderSettings, collection: str) -> None:
    """Let *collection* follow what is proposed again. UserError if it does already."""
    journal = SenderJournal.existing(settings.journal)
    try:
        if not Decisions(journal).end_rollback(collection):
            raise UserError(f"collection {collection} is not rolled back")
    finally:
        journal.close()


def _images(decisions: Decisions, collection: str, which: str) -> tuple[ReleaseImage, ...]:
    if which == PROPOSED:
        proposal = decisions.proposal(collection)
        if proposal is None:
            raise UserError(f"collection {collection}: nothing is proposed")
        return read_state(proposal.images)
    if not (which.isascii() and which.isdigit()):
        raise UserError(f"{which!r} is no release; give a number that `history` shows, or {PROPOSED}", exit_code=2)
    return read_state(_release(decisions, collection, int(which[:18])).images)


def _release(decisions: Decisions, collection: str, sequence: int) -> ReleaseRow:
    release = decisions.release(collection, sequence)
    if release is not None:
        return release
    known = [row.sequence for row in decisions.releases(collection)]
    if not known:
        names = sorted({row.collection for row in decisions.releases()})
        hint = f"there are releases of {', '.join(names)}" if names else "nothing was released yet"
        raise UserError(f"collection {collection} has no release; {hint}")
    raise UserError(f"collection {collection} has no release {sequence}; there are {known[0]} to {known[-1]}")


def _row(release: ReleaseRow, images: tuple[ReleaseImage, ...], before: tuple[ReleaseImage, ...]) -> dict[str, Any]:
    return {
        "collection": release.collection,
        "sequence": release.sequence,
        "state": "released",
        "digest": release.digest,
        **_figures(changes(before, images), images),
        "created": _time(release.created),
    }


def _figures(found: list[Change], images: tuple[ReleaseImage, ...]) -> dict[str, int]:
    kinds = {kind: sum(one.kind == kind for one in found) for kind in ("new", "moved", "changed", "dropped")}
    return {"images": sum(len(image.tags) or 1 for image in images), **kinds}


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
