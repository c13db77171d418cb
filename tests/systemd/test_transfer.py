"""An image that appears in one registry can be pulled from the other; nothing comes back; the journal tells of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab.world import INTERNAL, UPSTREAM
from tests.systemd.machine import Machine
from tests.systemd.site import RECEIVER, SENDER, Site

pytestmark = [pytest.mark.booted, pytest.mark.timeout(900)]


async def test_an_image_crosses_and_the_journal_tells_of_it(
    site: Site, tmp_path: Path, say: Callable[[str], None]
) -> None:
    places = {machine: machine.cursor() for machine in (site.low, site.high)}
    site.lab.set_loss(100)
    digest = await site.push("crosses", 20_000_000, seed=1)
    site.wait("crosses", digest)
    before = site.registries.download(site.lab.in_low, f"{UPSTREAM}/library/mirrored:crosses", tmp_path / "before")
    name = "internal/docker.io/library/mirrored:crosses"
    after = site.registries.download(site.lab.in_high, f"{INTERNAL}/{name}", tmp_path / "after")
    assert after == before
    assert site.lab.counts().high_sent == 0
    assert site.lab.counts().dropped > 20

    story = [f"{each.name:4}  {line}" for each, after in places.items() for line in told(each, after)]
    say("the story in both journals:\n        " + "\n        ".join(story))
    for machine, events in (
        ("low", ("proposed", "release_signed", "object_sent")),
        ("high", ("release_received", "object_received", "image_published", "release_complete")),
    ):
        for event in events:
            assert any(line.startswith(machine) and event in line for line in story), event
    assert len(story) <= 18
    assert not any("{" in line or "[error" in line for line in story)


def told(machine: Machine, after: str) -> list[str]:
    """Return what the services logged, without what is said of each repetition again."""
    lines = machine.journal(*(f"{name}.service" for name in (*SENDER, *RECEIVER)), after=after)
    first: dict[str, str] = {}
    for line in lines:
        first.setdefault(re.sub(r"passes=\d+", "", line), line)
    return list(first.values())
