"""How partial objects were cut into source blocks: what a repair code has to say of them, kept beside their bytes.

Reception does not depend on it: finished bytes are ranges, whatever geometry brought them (partials.py).
"""

from __future__ import annotations

from typing import Final

from protocol.objects import ObjectEntry
from protocol.repair_code import Cut
from receiver.journal import ReceiverJournal
from runtime.database import transaction

_OWN_BYTES: Final = 1 << 20  # of a block, where nothing is known of the sender's
_OWN_MAX: Final = 4_096


def note_cut(journal: ReceiverJournal, entry: ObjectEntry) -> None:
    """Record the geometry of an object that the journal has as a partial one."""
    with transaction(journal.connection):
        journal.connection.execute(
            "INSERT OR REPLACE INTO cuts VALUES (?, ?, ?)",
            (entry.coded_digest, entry.geometry.symbol_bytes, entry.geometry.blocks),
        )


def cut_of(journal: ReceiverJournal, coded_digest: str, coded_size: int) -> Cut:
    """Return how a partial object was cut; in equal parts of our own where an older version has not recorded it."""
    row = journal.connection.execute(
        "SELECT symbol_bytes, blocks FROM cuts WHERE coded_digest = ?", (coded_digest,)
    ).fetchone()
    if row is not None and (cut := Cut(coded_size, int(row[0]), int(row[1]))).sound:
        return cut
    return Cut(coded_size, 1, max(1, min(_OWN_MAX, coded_size // _OWN_BYTES)))
