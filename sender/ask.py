"""Asks a registry what a rule's tags are: the list where it takes one, then HEAD for each tag that it means.

A question that fails leaves the tags of the answer before in place. Writes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final

from oci.descriptor import Descriptor
from oci.errors import NotFound, OciError
from oci.store import Source, TagList, Upstream
from sender.created import created_of
from sender.images import Rule
from sender.lock import LockEntry
from sender.resolve import Answer, Tagged
from sender.tags import SlowPattern

DATED_MAX: Final = 1_000  # tags of one rule whose creation date is asked for
TAGS_MAX: Final = 10_000  # that one rule may mean
_AT_ONCE: Final = 64  # questions of one rule in flight; the registry's own budget is smaller


async def ask(
    rule: Rule,
    source: Upstream | Source,
    before: Answer | None,
    locked: Mapping[str, LockEntry],
    *,
    now: Callable[[], float],
    advice: Callable[[Exception], str] = str,
) -> Answer:
    """Return the new answer; *locked*: the lock's entries by tag; a rule that does not follow leaves these."""
    before = before or Answer()
    try:
        listed = await _listed(rule, source, before)
        if listed is None:
            meant, etag, dates = list({**before.tags, **before.failures}), before.etag, before.dates
        else:
            meant, etag = await asyncio.to_thread(rule.tags.candidates, listed.tags), listed.etag
            if not meant:
                return replace(before, error=None, warning=_nothing(rule, listed.tags), etag=None)
            meant, dates = await _newest(rule, source, meant, before.dates)
    except SlowPattern as error:
        return replace(before, error=str(error), warning=None)
    except OciError as error:
        return replace(before, error=f"{rule.key}: {advice(error)}", warning=None)
    if len(meant) > TAGS_MAX:
        return replace(before, error=f"{rule.key}: means {len(meant):,} tags; narrow it to {TAGS_MAX:,} at most")
    found: dict[str, Tagged] = {}
    failures: dict[str, str] = {}
    unreachable: list[str] = []
    slots = asyncio.Semaphore(_AT_ONCE)

    async def look(tag: str) -> None:
        known = before.tags.get(tag)
        entry = locked.get(tag)
        if not rule.follow and entry is not None:  # what is not locked yet may still move
            found[tag] = known if known is not None and known.digest == entry.digest else _of_lock(entry)
            return
        try:
            async with slots:
                root = await _moved(source, tag, known)
        except OciError as error:
            failures[tag] = f"tag {tag}: {advice(error)}"
            if not isinstance(error, NotFound):
                unreachable.append(advice(error))
                if known is not None:
                    found[tag] = known
            return
        if known is not None and (root is None or root.digest == known.digest):
            found[tag] = known
        elif root is not None:
            found[tag] = Tagged(root.digest, root.media_type, root.size, now())

    await asyncio.gather(*map(look, meant))
    if len(unreachable) == len(meant):  # one line for a registry that does not answer, not one for each tag
        return replace(before, error=f"{rule.key}: {unreachable[0]}", warning=None)
    return Answer({tag: found[tag] for tag in meant if tag in found}, failures, etag=etag, dates=dates)


async def _listed(rule: Rule, source: Upstream | Source, before: Answer) -> TagList | None:
    """Return the registry's tags; none for a rule that names its own; None if they are those of *before*."""
    if not rule.tags.listed:
        return TagList([], None)
    if isinstance(source, Upstream):
        whole = before.error is None and before.warning is None
        return await source.tag_list(before.etag if whole else None)
    return TagList(await source.tags(), None)


async def _moved(source: Upstream | Source, tag: str, known: Tagged | None) -> Descriptor | None:
    """Return where *tag* leads, None if that is as known."""
    if known is not None and isinstance(source, Upstream):
        return await source.moved(tag, known.digest)
    return await source.resolve(tag)


async def _newest(
    rule: Rule, source: Source, meant: list[str], before: Mapping[str, float | None]
) -> tuple[list[str], dict[str, float | None]]:
    """Return what ``keep`` leaves, and the dates by digest that it took; OciError where it cannot have them.

    *before* are dates that are known already: of these only the digest is asked for.
    """
    if not rule.tags.needs_dates(meant):
        return rule.tags.newest(meant), {}
    if len(meant) > DATED_MAX:
        raise OciError(
            f"keep newest {rule.tags.keep} of {len(meant):,} tags that are no versions needs the date of each; "
            f"narrow the rule to {DATED_MAX:,} tags at most"
        )
    slots = asyncio.Semaphore(_AT_ONCE)
    dates: dict[str, float | None] = {}

    async def date(tag: str) -> float | None:
        async with slots:
            digest = (await source.resolve(tag)).digest
            dates[digest] = before[digest] if digest in before else await created_of(source, digest)
            return dates[digest]

    found = await asyncio.gather(*map(date, meant))
    known = {tag: moment for tag, moment in zip(meant, found, strict=True) if moment is not None}
    return rule.tags.newest(meant, known), dates


def _of_lock(entry: LockEntry) -> Tagged:
    return Tagged(entry.digest, entry.media_type, entry.size, entry.resolved.timestamp())


def _nothing(rule: Rule, tags: Iterable[str]) -> str:
    tags = list(tags)
    nearest = rule.tags.nearest(tags)
    hint = f"; nearest is {nearest}" if nearest is not None else ""
    count = "1 tag" if len(tags) == 1 else f"{len(tags):,} tags"
    return f"{rule.key}: matches nothing of {count}{hint}"
