"""``checkvalve-sender gc``: keeping the spool within its bounds by hand, as fetch does itself, or only shown."""

from __future__ import annotations

import time
from typing import Any

from runtime.errors import EXIT_USAGE, UserError
from runtime.units import parse_size
from sender.alone import alone
from sender.config import SenderSettings
from sender.eviction import Evictor, Removed
from sender.journal import SenderJournal


def gc(settings: SenderSettings, *, goal: int | None, dry_run: bool) -> dict[str, Any]:
    """Free *goal* bytes, by default what is above the budget, and remove orphans; with *dry_run* say what would go.

    UserError before the first run and, but for a dry run, while a fetch role is at work: it does this by itself, and
    alone knows what it is fetching.
    """
    if dry_run:
        journal = SenderJournal(settings.journal, read_only=True)
        try:
            evictor = Evictor(settings, journal)
            orphans = sum(size for _, size in evictor.orphans(time.time()))
            goal = evictor.over() - orphans if goal is None else goal
            return _document(settings, evictor.used(), evictor.would_evict(goal), orphans, dry_run=True)
        finally:
            journal.close()
    with alone(settings, "fetch"):
        journal = SenderJournal.existing(settings.journal)
        try:
            now = time.time()
            evictor = Evictor(settings, journal)
            used, swept = evictor.used(), evictor.sweep(now)
            removed = evictor.evict(evictor.over() if goal is None else goal)
            evictor.retain()
            evictor.publish(removed, swept, now)
            return _document(settings, used, removed, swept, dry_run=False)
        finally:
            journal.close()


def _document(
    settings: SenderSettings, used: int, removed: list[Removed], orphans: int, *, dry_run: bool
) -> dict[str, Any]:
    freed = sum(one.size for one in removed)
    return {
        "dry_run": dry_run,
        "used_bytes": used,
        "budget_bytes": settings.storage.budget,
        "objects": [{"label": one.label, "bytes": one.size, "sent": one.sent} for one in removed],
        "evicted_bytes": freed,
        "orphan_bytes": orphans,
        "left_bytes": used - freed - orphans,
    }


def parse_goal(text: str | None) -> int | None:
    """Return the bytes that ``--free`` asks for; UserError."""
    try:
        return None if text is None else parse_size(text)
    except ValueError as error:
        raise UserError(f"--free: {error}", exit_code=EXIT_USAGE) from None
