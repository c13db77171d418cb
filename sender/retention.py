"""What the sender's journal keeps, so that it does not grow without end.

Envelopes and locks of all releases stay: they are the audit trail. What the newest ``storage.keep_releases`` of each
collection have besides goes from the others: the images, which the envelope holds as well (desired.py reads them
there), closures of no kept release and no wanted image, and the memory that their contents were sent. An old
release can be rolled back to all the same; what it alone needs is then fetched and sent anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

from runtime.database import transaction
from sender.decisions import Decisions
from sender.desired import read_image, read_state
from sender.journal import SenderJournal

VERDICTS_MAX: Final = 10_000  # the newest; one that is lost is judged anew

_KEPT = (
    "SELECT collection, sequence, images FROM (SELECT collection, sequence, images,"
    " ROW_NUMBER() OVER (PARTITION BY collection ORDER BY sequence DESC) AS age FROM releases) WHERE age <= ?"
)


class Retention:
    """Uses *journal*, and so belongs to its thread. *keep* releases of each collection are at hand."""

    def __init__(self, journal: SenderJournal, keep: int) -> None:
        self._connection = journal.connection
        self._decisions = Decisions(journal)
        self._keep = keep
        self._kept: set[str] = set()
        self._kept_of: object = None

    def kept(self) -> set[str]:
        """Return the contents of the kept releases."""
        stamp = self._connection.execute("SELECT COUNT(*), MAX(created) FROM releases").fetchall()
        if stamp != self._kept_of:
            rows = self._connection.execute(_KEPT, (self._keep,)).fetchall()
            found = (image for *_, images in rows if images for image in read_state(images))
            self._kept = {content.digest for image in found for content in image.contents()}
            self._kept_of = stamp
        return self._kept

    def remember(self, contents: Iterable[str], sent: float) -> None:
        """Note, in the caller's transaction, that *contents* of kept releases were sent, last at *sent*."""
        kept = self.kept()
        rows = [(digest, sent) for digest in contents if digest in kept]
        self._connection.executemany("INSERT OR REPLACE INTO evicted VALUES (?, ?)", rows)

    def apply(self, desired: set[str]) -> None:
        """Let go of what is too old; *desired* are the contents that releases, proposals and wanted images need."""
        kept = self.kept() | desired
        with transaction(self._connection):
            find = self._connection.execute
            gone = [(digest,) for (digest,) in find("SELECT digest FROM evicted").fetchall() if digest not in kept]
            self._connection.executemany("DELETE FROM evicted WHERE digest = ?", gone)
            old = [
                (pin,)
                for pin, document in find("SELECT pin, document FROM closures").fetchall()
                if read_image(json.loads(document)).root.digest not in kept
            ]
            self._connection.executemany("DELETE FROM closures WHERE pin = ?", old)
            find(
                "UPDATE releases SET images = '' WHERE images <> '' AND sequence <= (SELECT MAX(newest.sequence)"
                " FROM releases AS newest WHERE newest.collection = releases.collection) - ?",
                (self._keep,),
            )
            find(
                "DELETE FROM verdicts WHERE judged IN"
                " (SELECT judged FROM verdicts ORDER BY updated DESC LIMIT -1 OFFSET ?)",
                (VERDICTS_MAX,),
            )
