"""Asking about a rule: what is looked at, and what is known already."""

from __future__ import annotations

from pathlib import Path

from oci.descriptor import Descriptor, Manifest
from oci.layout import Layout
from oci.reference import Reference
from sender.ask import ask
from sender.images import Rule
from sender.resolve import Answer
from sender.tags import Pattern, Range, TagRule
from tests.sender.test_plan import built


class Counted:
    """A repository of a layout that counts what is asked of it."""

    def __init__(self, layout: Layout) -> None:
        self._repository = layout.repository("app")
        self.name = self._repository.name
        self.blob, self.exists = self._repository.blob, self._repository.exists
        self.tags, self.referrers = self._repository.tags, self._repository.referrers
        self.read: list[str] = []

    async def resolve(self, reference: str) -> Descriptor:
        return await self._repository.resolve(reference)

    async def manifest(self, reference: str) -> Manifest:
        self.read.append(reference)
        return await self._repository.manifest(reference)


def rule(tags: TagRule) -> Rule:
    return Rule(Reference("up.example", "app"), tags)


async def answer(source: Counted, tags: TagRule, before: Answer | None = None) -> Answer:
    return await ask(rule(tags), source, before, {}, now=lambda: 1.0)


async def test_the_newest_by_date_are_kept_and_a_date_is_read_once_for_each_digest(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    for tag, day in (("old", 1), ("newer", 3), ("new", 2), ("undated", 0)):
        image = built(f"2026-11-0{day}T00:00:00Z" if day else "some day", tag)
        await image.push(layout.repository("app"), tag)
    source, tags = Counted(layout), TagRule(pattern=Pattern(".*"), keep=2)
    found = await answer(source, tags)
    assert (list(found.tags), len(source.read)) == (["newer", "new"], 4)
    again = await answer(source, tags, found)
    assert (again, len(source.read)) == (found, 4)
    await built("2026-11-09T00:00:00Z", "edge").push(layout.repository("app"), "edge")
    moved = await answer(source, tags, again)
    assert (list(moved.tags), len(source.read)) == (["edge", "newer"], 5)
    assert len(moved.dates) == 5


async def test_a_rule_that_matches_nothing_is_a_warning_and_reads_nothing(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    await built("2026-11-01T00:00:00Z", "one").push(layout.repository("app"), "a")
    source = Counted(layout)
    found = await answer(source, TagRule(semver=Range("^9")))
    assert found.warning == "up.example/app semver ^9: matches nothing of 1 tag"
    assert source.read == []
