"""``checkvalve-sender plan``: what would change on the other side, what it costs, and what is held, without doing it.

Asks registries afresh (or, offline, takes what was proposed last) and compares with the newest releases. Writes
nothing; a running sender is not disturbed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from protocol.release import ReleaseImage
from runtime.terminal import human_bytes, human_duration, print_json, table
from sender.candidates import pending, waiting_line
from sender.changes import Change, changes, contents
from sender.config import SenderSettings
from sender.decisions import Decisions
from sender.desired import desired_state, read_state
from sender.images import PinnedImage, Slot
from sender.journal import SenderJournal
from sender.lock import LockEntry, read_lines
from sender.lookup import look_up
from sender.preview import Preview, Seen
from sender.resolve import Wanted
from sender.sources import Sources
from sender.wire_cost import Cost, cost_of

EXIT_CHANGES: Final = 3
UNSIGNED: Final = ("unsigned",)


@dataclass
class Plan:
    """All that ``plan`` shows, by collection where it says so."""

    changes: dict[str, list[Change]] = field(default_factory=dict)
    cost: Cost = field(default_factory=lambda: Cost(0, 0, 0.0))
    new_bytes: int = 0  # never sent before
    warnings: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    pending: list[dict[str, Any]] = field(default_factory=list)  # proposals that wait for approval
    images: int = 0

    @property
    def exit_code(self) -> int:
        """0: nothing would change; 3: something would; 1: something is wrong."""
        if self.faults or self.held:
            return 1
        return EXIT_CHANGES if any(self.changes.values()) else 0

    def document(self) -> dict[str, Any]:
        """Return the plan ready for JSON; sizes in bytes, time in seconds."""
        return {
            "changes": {name: [one.document() for one in found] for name, found in self.changes.items()},
            "images": self.images,
            "bytes_needed": self.cost.content_bytes,
            "bytes_new": self.new_bytes,
            "bytes_on_the_wire": self.cost.wire_bytes,
            "seconds_at_link_rate": round(self.cost.seconds, 3),
            "warnings": self.warnings,
            "held": self.held,
            "faults": self.faults,
            "pending": self.pending,
        }


def show(settings: SenderSettings, *, offline: bool, as_json: bool) -> int:
    """Make the plan and print it; return its exit code."""
    journal = SenderJournal(settings.journal, read_only=True) if settings.journal.exists() else None
    try:
        plan = _proposed(settings, journal) if offline else asyncio.run(_looked_up(settings, journal))
    finally:
        if journal is not None:
            journal.close()
    if as_json:
        print_json(plan.document())
    else:
        _print(plan, settings)
    return plan.exit_code


# --- what there is to compare --------------------------------------------------------------------------------------


async def _looked_up(settings: SenderSettings, journal: SenderJournal | None) -> Plan:
    """Compare what registries have now."""
    async with Sources(settings.fetch, settings.state / "scratch") as sources:
        looked = await look_up(settings, journal, sources)
        images, lock, wanted = looked.images, looked.lock, looked.wanted
        preview = Preview(settings, journal, sources, lock)
        slots = asyncio.Semaphore(settings.fetch.parallel_total)

        async def look(pin: PinnedImage) -> Seen:
            async with slots:
                return await preview.look(pin)

        seen = dict(zip(wanted.pins, await asyncio.gather(*map(look, wanted.pins)), strict=True))
        plan = _compare(settings, journal, wanted, seen, faulty=bool(images.faults))
        plan.warnings = [*wanted.warnings, *await _suspicions(plan, seen, preview, journal)]
    plan.faults = [*images.faults, *lock.faults]
    plan.held = [one for one in wanted.reasons if one not in plan.faults]
    plan.held += [f"{pin.label}: {one.held}" for pin, one in seen.items() if one.held is not None]
    return plan


def _proposed(settings: SenderSettings, journal: SenderJournal | None) -> Plan:
    """Compare what was proposed last."""
    plan = Plan()
    if journal is None:
        return plan
    after = {one.collection: read_state(one.images) for one in Decisions(journal).proposals()}
    _fill(plan, settings, journal, after)
    fetch = journal.live().get("fetch", ({}, 0.0))[0]
    plan.faults, plan.held = list(fetch.get("faults", [])), list(fetch.get("held", []))
    plan.warnings = list(fetch.get("warnings", []))
    plan.held += [
        f"{row['reference']}: {row['error'].removeprefix('held: ')}" for row in journal.images() if row["error"]
    ]
    return plan


def _compare(
    settings: SenderSettings,
    journal: SenderJournal | None,
    wanted: Wanted,
    seen: dict[PinnedImage, Seen],
    *,
    faulty: bool,
) -> Plan:
    plan = Plan(images=len(wanted.pins))
    good = {pin.slot: one.image for pin, one in seen.items() if one.image is not None and one.held is None}
    held = {pin.slot for pin in wanted.pins if pin.slot not in good}

    def keeps(slot: Slot) -> bool:
        return faulty or slot in held or wanted.keeps(slot)

    proposals = {one.collection: one.images for one in Decisions(journal).proposals()} if journal else {}
    after = {}
    for collection in sorted({slot[0] for slot in good} | proposals.keys()):
        ready = [(slot, image) for slot, image in good.items() if slot[0] == collection]
        state = desired_state(ready, proposals.get(collection), keeps, collection)
        after[collection] = read_state(state)
    _fill(plan, settings, journal, after)
    return plan


def _fill(
    plan: Plan,
    settings: SenderSettings,
    journal: SenderJournal | None,
    after: dict[str, tuple[ReleaseImage, ...]],
) -> None:
    """Add changes, cost and what waits for approval."""
    released = {row.collection: read_state(row.images) for row in journal.newest_releases()} if journal else {}
    for collection, images in after.items():
        plan.changes[collection] = changes(released.get(collection, ()), images)
    plan.images = sum(len(image.tags) or 1 for images in after.values() for image in images)
    needed = contents(image for images in after.values() for image in images)
    new = set(journal.not_sent(needed)) if journal else set(needed)
    plan.cost = cost_of(settings, [content.size for digest, content in needed.items() if digest in new])
    plan.new_bytes = plan.cost.content_bytes
    plan.cost = Cost(sum(content.size for content in needed.values()), plan.cost.wire_bytes, plan.cost.seconds)
    if journal is not None:
        plan.pending = pending(settings.collections, journal)


# --- what a person should look at ---------------------------------------------------------------------------------


async def _suspicions(
    plan: Plan, seen: dict[PinnedImage, Seen], preview: Preview, journal: SenderJournal | None
) -> list[str]:
    """Warn of tags that moved to an older build, or to one that somebody else signed."""
    lines = _released_lines(journal)
    found = []
    by_name = {f"{pin.target}:{pin.reference.tag}": (pin, one) for pin, one in seen.items()}
    for collection, some in plan.changes.items():
        for change in some:
            pin, now = by_name.get(change.name, (None, None))
            if change.kind != "moved" or pin is None or now is None or change.before is None:
                continue
            before = lines.get((collection, pin.target, pin.reference.tag or ""))
            old = await preview.look(pin_at(pin, change.before.root.digest))
            if now.created is not None and old.created is not None and now.created < old.created:
                age = human_duration(old.created - now.created)
                found.append(f"{change.name}: moves to an older build, by {age}")
            was = before.signers if before is not None else old.signers
            if was and now.signers != was:
                found.append(f"{change.name}: was {_by(was)}, is {_by(now.signers)}")
    return found


def pin_at(pin: PinnedImage, digest: str) -> PinnedImage:
    """Return *pin* at another digest, judged by no policy."""
    reference = replace(pin.reference, digest=digest)
    return replace(pin, reference=reference, options=replace(pin.options, verify=None))


def _by(signers: Sequence[str]) -> str:
    return "unsigned" if tuple(signers) in ((), UNSIGNED) else f"signed by {', '.join(signers)}"


def _released_lines(journal: SenderJournal | None) -> dict[Slot, LockEntry]:
    found: dict[Slot, LockEntry] = {}
    for row in journal.newest_releases() if journal is not None else ():
        found.update(read_lines(row.lock))
    return found


# --- for people ----------------------------------------------------------------------------------------------------


def _print(plan: Plan, settings: SenderSettings) -> None:
    rows = [
        (one.kind, one.name, one.digests, collection) for collection, some in plan.changes.items() for one in some
    ]
    if rows:
        table(("change", "image", "digest", "collection"), rows)
        counts = ", ".join(
            f"{sum(row[0] == kind for row in rows)} {kind}"
            for kind in ("new", "moved", "changed", "dropped")
            if any(row[0] == kind for row in rows)
        )
        print(counts)
    else:
        print(f"nothing would change; {plan.images} image{'' if plan.images == 1 else 's'} as released")
    for line in _notes(plan):
        print(line)
    if plan.new_bytes:
        print(
            f"to send: {human_bytes(plan.new_bytes)} of {human_bytes(plan.cost.content_bytes)} were never sent; "
            f"at most {human_bytes(plan.cost.wire_bytes)} on the wire, {human_duration(plan.cost.seconds)} at "
            "link.rate"
        )
    for one in plan.pending:
        print(waiting_line(one))


def _notes(plan: Plan) -> Iterable[str]:
    yield from (f"warning: {line}" for line in plan.warnings)
    yield from (f"held: {line}" for line in plan.held)
    yield from (f"fault: {line}" for line in plan.faults)
