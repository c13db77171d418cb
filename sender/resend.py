"""``checkvalve-sender resend``: one more pass of everything that the newest releases need.

For a receiver that was off, or lost more than the code repairs, and cannot say so. Touches the queue only; a running
sender takes it up at once, and ``run --once`` afterwards sends it and ends.
"""

from __future__ import annotations

from sender.config import SenderSettings
from sender.journal import SenderJournal
from sender.releases import desired_contents


def resend(settings: SenderSettings) -> dict[str, int]:
    """Queue the passes; return how many objects and bytes are queued now. UserError before the first run."""
    journal = SenderJournal.existing(settings.journal)
    try:
        releases = journal.newest_releases()
        journal.repeat_objects(journal.carriers(desired_contents(releases)))
        totals = journal.totals()
    finally:
        journal.close()
    return {"releases": len(releases), "objects": totals["queued_objects"], "bytes": totals["queued_bytes"]}
