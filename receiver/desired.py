"""Which release of each collection the target is to show: the newest, unless a person has activated an earlier one.

An activation holds until it is ended, whatever arrives: who goes back has a reason that the sender does not know.
What waits behind it is an alarm. The rules of the wire are untouched: epochs and sequences only rise.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.errors import WireError
from protocol.release import Release, parse_envelope
from receiver.journal import ReceiverJournal, ReleaseRow
from runtime.database import transaction
from runtime.errors import EXIT_USAGE, UserError

Mark = tuple[int, str]
"""Sequence and digest of a release."""


@dataclass(frozen=True, slots=True)
class Activation:
    """A collection that shows release *sequence*, since *since* (Unix s)."""

    collection: str
    sequence: int
    digest: str
    since: float


def activations(journal: ReceiverJournal) -> dict[str, Activation]:
    """Return the activations, by collection."""
    rows = journal.connection.execute("SELECT collection, sequence, digest, since FROM activations")
    return {row[0]: Activation(*row) for row in rows}


def desired_marks(journal: ReceiverJournal) -> dict[str, Mark]:
    """Return collection -> the release that the target is to show."""
    held = {one.collection: (one.sequence, one.digest) for one in activations(journal).values()}
    return journal.newest_marks() | held


def activate(journal: ReceiverJournal, row: ReleaseRow, now: float) -> None:
    """Let the target show *row* until ``follow_newest``; publish takes it up at its next look."""
    with transaction(journal.connection) as connection:
        shown = desired_marks(journal).get(row.collection)
        connection.execute(
            "INSERT OR REPLACE INTO activations VALUES (?, ?, ?, ?)", (row.collection, row.sequence, row.digest, now)
        )
        if shown != (row.sequence, row.digest):
            _to_be_published(journal, row.collection, row.sequence)
        connection.execute(
            "UPDATE retained SET retired = 0 WHERE collection = ? AND sequence = ?", (row.collection, row.sequence)
        )


def follow_newest(journal: ReceiverJournal, collection: str) -> Activation | None:
    """End the activation of *collection*; return what it was, None if there was none."""
    with transaction(journal.connection) as connection:
        found = activations(journal).get(collection)
        connection.execute("DELETE FROM activations WHERE collection = ?", (collection,))
        newest = journal.newest_marks().get(collection)
        if found is not None and newest is not None and newest != (found.sequence, found.digest):
            _to_be_published(journal, collection, newest[0])
    return found


def release_of(row: ReleaseRow) -> Release:
    """Return the release in a row, which was verified when it came; UserError if the journal was changed since."""
    try:
        return parse_envelope(row.envelope)
    except WireError as error:
        raise UserError(f"release {row.collection} {row.sequence}: the journal has it damaged ({error})") from None


def find_release(journal: ReceiverJournal, collection: str | None, sequence: int) -> ReleaseRow:
    """Return a release by number, of the only collection unless one is named; UserError says which there are."""
    name = only_collection(journal, collection)
    row = journal.release(name, sequence)
    if row is not None:
        return row
    known = [
        number
        for (number,) in journal.connection.execute(
            "SELECT sequence FROM releases WHERE collection = ? ORDER BY sequence", (name,)
        )
    ]
    there = f"there are {', '.join(map(str, known[-10:]))}" if known else "it has none"
    raise UserError(f"collection {name} has no release {sequence}; {there}")


def only_collection(journal: ReceiverJournal, given: str | None) -> str:
    """Return *given*, or the only collection there is; UserError."""
    names = sorted(journal.newest_marks())
    if given is None and len(names) == 1:
        return names[0]
    if given in names:
        return str(given)
    there = f"there are {', '.join(names)}" if names else "no release was received yet"
    if given is None:
        raise UserError(f"--collection: not given; {there}", exit_code=EXIT_USAGE)
    raise UserError(f"--collection: {given!r} has no release; {there}", exit_code=EXIT_USAGE)


def _to_be_published(journal: ReceiverJournal, collection: str, sequence: int) -> None:
    """Forget that it was published once, and what status knows of its images: the target shows another now."""
    journal.connection.execute(
        "UPDATE releases SET published = NULL WHERE collection = ? AND sequence = ?", (collection, sequence)
    )
    journal.connection.execute(
        "DELETE FROM target_releases WHERE collection = ? AND sequence = ?", (collection, sequence)
    )
    journal.connection.execute("DELETE FROM image_states WHERE collection = ?", (collection,))
