"""``history``: what came when, what never came, what was dropped or refused, and how the link did."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from protocol.errors import WireError
from receiver.config import ReceiverSettings
from receiver.incidents import Incidents
from receiver.journal import ReceiverJournal, ReleaseRow
from receiver.margin import percent
from receiver.meters import DAY, HOUR, MINUTE, Metered, Meters
from receiver.senders import Trust, trust
from runtime.terminal import human_bytes, print_json, table


@dataclass(frozen=True, slots=True)
class Received:
    """One release that is here. Times are Unix s; *skipped* releases before it were never received."""

    collection: str
    sequence: int
    digest: str
    received: float
    published: float | None
    images: int | None  # None: it cannot be opened, see note
    skipped: tuple[int, int] | None  # first and last
    note: str


def history(settings: ReceiverSettings, *, since: float | None, limit: int, as_json: bool) -> int:
    """Print the newest *limit* of each kind, none from before *since* (Unix s); return 0."""
    journal = ReceiverJournal(settings.journal, read_only=True)
    try:
        releases = received(journal, trust(settings), since, limit)
        ahead = _ahead(journal)
        incidents = Incidents(journal).newest(limit, since)
        loss = loss_over_time(Meters(journal), since, limit)
    finally:
        journal.close()
    if as_json:
        print_json(
            {
                "releases": [asdict(each) for each in releases],
                "not_received": ahead,
                "incidents": [asdict(each) for each in incidents],
                "loss": [each.document() for each in loss],
            }
        )
        return 0
    table(
        ("collection", "release", "received", "published", "images", "note"),
        [
            (each.collection, each.sequence, _at(each.received), _at(each.published), each.images, _note(each))
            for each in releases
        ],
        title="Releases",
        right=("release", "images"),
    )
    for each in ahead:
        print(f"release {each['collection']} {each['sequence']} is heard of and has not been received\n")
    table(
        ("when", "what", "of", "why", "bytes"),
        [
            (
                _at(each.moment),
                each.event,
                each.subject,
                ": ".join(filter(None, (each.reason, each.detail))),
                human_bytes(each.bytes) if each.bytes else "",
            )
            for each in incidents
        ],
        title="Dropped, refused, alarms",
        right=("bytes",),
    )
    _print_loss(loss)
    return 0


def received(journal: ReceiverJournal, trusted: Trust, since: float | None, limit: int) -> list[Received]:
    """Return the releases of all collections, the one received last first, whatever the clock said."""
    before = _before(journal)
    rows = journal.connection.execute(
        "SELECT collection, sequence, digest, envelope, received, published FROM releases"
        " WHERE ?1 IS NULL OR received >= ?1 ORDER BY rowid DESC LIMIT ?2",
        (since, limit),
    )
    found = []
    for row in (ReleaseRow(*values) for values in rows):
        former = before.get((row.collection, row.sequence))
        images, note = _opened(row, former, trusted)
        skipped = None
        if former is not None and former[0] < row.sequence - 1:
            skipped = former[0] + 1, row.sequence - 1
        found.append(
            Received(row.collection, row.sequence, row.digest, row.received, row.published, images, skipped, note)
        )
    return found


def _before(journal: ReceiverJournal) -> dict[tuple[str, int], tuple[int, str]]:
    """Return the next lower release (sequence, digest) that is here, by collection and sequence."""
    found = {}
    last: tuple[str, int, str] | None = None
    for row in journal.connection.execute("SELECT collection, sequence, digest FROM releases ORDER BY 1, 2"):
        if last is not None and last[0] == row[0]:
            found[row[0], row[1]] = last[1], last[2]
        last = row
    return found


def _opened(row: ReleaseRow, former: tuple[int, str] | None, trusted: Trust) -> tuple[int | None, str]:
    try:
        release = trusted.open(row.envelope).release
    except WireError as error:
        return None, f"not used: {error}"
    if former is not None and former[0] == row.sequence - 1 and release.previous != former[1]:
        return len(release.images), f"does not follow the {former[0]} that is here"
    return len(release.images), ""


def _ahead(journal: ReceiverJournal) -> list[dict[str, Any]]:
    marks = journal.newest_marks()
    return [
        {"collection": name, "sequence": sequence, "digest": digest, "heard": heard}
        for name, (sequence, digest, heard) in sorted(journal.heard().items())
        if sequence > marks.get(name, (0, ""))[0]
    ]


def loss_over_time(meters: Meters, since: float | None, limit: int) -> list[Metered]:
    """Return the link's past, newest first, in the finest span whose *limit* rows reach back to *since* (Unix s)."""
    if since is None:
        return meters.series(HOUR, limit)
    reach = max(0.0, time.time() - since)
    span = next((span for span in (MINUTE, HOUR) if reach <= span * limit), DAY)
    return meters.series(span, limit, since)


def _print_loss(loss: list[Metered]) -> None:
    rows = []
    for each in loss:
        meter = each.meter
        worst = f"{meter.worst} of {meter.worst_of}" if meter.worst_of else ""
        rows.append(
            (
                _at(each.start),
                f"{meter.datagrams:,}",
                human_bytes(meter.bytes),
                percent(meter.loss),
                worst,
                meter.blocks_lost or "",
                meter.kernel_drops or "",
            )
        )
    unit = {MINUTE: "minute", HOUR: "hour", DAY: "day"}[loss[0].span] if loss else "hour"
    table(
        (f"{unit} from", "datagrams", "bytes", "lost", "repair used, worst block", "blocks lost", "kernel drops"),
        rows,
        title=f"The link, by {unit}",
        right=("datagrams", "bytes", "lost", "blocks lost", "kernel drops"),
    )


def _note(each: Received) -> str:
    if each.skipped is None:
        return each.note
    first, last = each.skipped
    skipped = f"{first} never received" if first == last else f"{first} to {last} never received"
    return "; ".join(filter(None, (skipped, each.note)))


def _at(moment: float | None) -> str:
    """Return a time in UTC, to the second; a clock may have said anything."""
    if moment is None:
        return ""
    try:
        return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{moment:.0f} s"
