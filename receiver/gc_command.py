"""``gc`` and ``confirm``: retention by hand, while no publish role is at work, or only shown."""

from __future__ import annotations

from typing import Any

from oci.blobs import BlobStore
from receiver.config import ReceiverSettings
from receiver.gates import Gates
from receiver.gc import Plan, collect, make_plan
from receiver.journal import ReceiverJournal
from receiver.keeper import summary
from receiver.noted import noted
from receiver.prune import shown
from receiver.retention import Keeping, Shrunk
from receiver.target import open_targets
from runtime.database import transaction
from runtime.errors import UserError
from runtime.lockfile import Busy, locked


def would(settings: ReceiverSettings) -> dict[str, Any]:
    """Return what ``now`` would remove; changes nothing and asks no target. Sizes in bytes."""
    journal = ReceiverJournal(settings.journal, read_only=True)
    try:
        plan = make_plan(settings, journal)
    finally:
        journal.close()
    return {
        "dry_run": True,
        "complete": True,
        "releases": [list(key) for key in plan.retire],
        "tags": [f"{drop.path}:{tag}" for drops in plan.drops.values() for drop in drops for tag in drop.tags],
        "manifests": sum(
            ":" in reference for drops in plan.drops.values() for drop in drops for reference in drop.rows
        ),
        "spool_contents": len(plan.spool),
        "spool_bytes": sum(size for _, size in plan.spool),
        **_notes(plan),
    }


async def now(settings: ReceiverSettings) -> dict[str, Any]:
    """Remove what may go; return what went. UserError while a publish role, an import or an archive is at work."""
    ReceiverJournal(settings.journal, read_only=True).close()
    journal = ReceiverJournal(settings.journal)
    try:
        with locked(settings.publish_lock):
            Keeping(journal, settings.retention).tick(0.0)
            with transaction(journal.connection) as connection:
                connection.execute("DELETE FROM undeletable")
            spool = BlobStore(settings.spool)
            async with open_targets(settings.publish, spool, journal.locations, serving=False) as targets:
                outcome = await collect(settings, journal, [(target, Gates()) for target in targets])
            return {"dry_run": False, **summary(outcome), **_notes(make_plan(settings, journal))}
    except Busy as busy:
        role = "a publish role" if str(busy) == str(settings.publish_lock) else "an import or archive"
        raise UserError(
            f"{settings.state}: {role} is at work here; publish does this by itself: use --dry-run, or stop it first"
        ) from None
    finally:
        journal.close()


def confirm(settings: ReceiverSettings, collection: str, sequence: int) -> Shrunk:
    """Accept a release that shrinks; UserError if it does not wait for that."""
    ReceiverJournal(settings.journal, read_only=True).close()
    journal = ReceiverJournal(settings.journal)
    try:
        found = Keeping(journal, settings.retention).confirm(collection, sequence)
    finally:
        journal.close()
    noted(settings.audit, "shrinking_confirmed", f"{collection} {sequence}", dropped=found.dropped)
    return found


def _notes(plan: Plan) -> dict[str, Any]:
    return {
        "waiting": [str(one) for one in plan.shrunk],
        "undeletable": [
            {"target": target, "reference": shown(path, reference), "reason": reason}
            for target, path, reference, reason in plan.undeletable
        ],
    }
