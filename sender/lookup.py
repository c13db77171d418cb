"""What images.yaml comes to right now: every rule asked about once, nothing written. For plan and check."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass

from oci.errors import OciError
from runtime.errors import UserError
from sender.ask import ask
from sender.by_hand import pin_by_hand
from sender.config import SenderSettings
from sender.decisions import Decisions
from sender.images import ImageList, Rule
from sender.intent import load_images
from sender.journal import SenderJournal
from sender.lock import Lock, load_lock
from sender.resolve import Answer, Wanted, resolve
from sender.sources import Sources, advice


@dataclass(frozen=True, slots=True)
class LookedUp:
    """The files as they are, and what they and the registries come to."""

    images: ImageList
    lock: Lock
    wanted: Wanted


async def look_up(settings: SenderSettings, journal: SenderJournal | None, sources: Sources) -> LookedUp:
    """Read both files and ask about every rule; *journal* is None where nothing has run yet. UserError."""
    images = load_images(settings.images, settings.collection)
    lock = load_lock(settings.lock_file)
    decisions = Decisions(journal) if journal is not None else None
    by_hand = [pin_by_hand(one) for one in decisions.by_hand()] if decisions else []
    known = {key: one.answer for key, one in decisions.answers().items()} if decisions else {}
    answers = await _ask_all(sources, images, known, lock)
    return LookedUp(images, lock, resolve(images, answers, lock, by_hand))


async def _ask_all(sources: Sources, images: ImageList, known: Mapping[str, Answer], lock: Lock) -> dict[str, Answer]:
    """Ask about every rule; nothing is written down."""

    async def one(rule: Rule) -> Answer:
        before = known.get(rule.key)
        try:
            source = await sources.place(rule.reference, rule.origin)
            locked = {
                slot[2]: entry
                for slot, entry in lock.entries.items()
                if entry.image == f"{rule.reference.name}:{slot[2]}"
            }
            return await ask(
                rule,
                source,
                before,
                locked,
                now=time.time,
                advice=lambda error: advice(error, rule.reference.registry),
            )
        except (OciError, UserError, ValueError) as error:
            return Answer((before or Answer()).tags, error=f"{rule.key}: {advice(error, rule.reference.registry)}")

    rules = {rule.key: rule for rule in images.rules}
    return dict(zip(rules, await asyncio.gather(*map(one, rules.values())), strict=True))
