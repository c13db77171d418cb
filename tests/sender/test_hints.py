"""A registry that tells of a push before the tag has moved, as docker-registry does: the move is seen anyway."""

from __future__ import annotations

import asyncio

import pytest

from sender.pipeline import Pipeline
from tests.oci_layout.images import single_image
from tests.sender.conftest import Site, Upstream
from tests.sender.test_fetch_role import until


@pytest.mark.parametrize("late_s", [0.0, 0.3])
async def test_a_hint_that_comes_before_the_tag_has_moved(site: Site, upstream: Upstream, late_s: float) -> None:
    layout, host = await upstream()
    await single_image("before").push(layout.repository("app"), "1")
    site.registries = {host: {"plain_http": True}}
    site.write({"image": f"{host}/app", "tags": ["1"], "follow": "digest", "interval": "1h"})
    journal, after = site.journal(), single_image("after")
    async with Pipeline(site.settings(), journal, site.said.append) as pipeline:

        def means() -> list[str]:
            return [tagged.digest for answer in pipeline.watch.answers.values() for tagged in answer.tags.values()]

        await pipeline.load(must=True)
        pipeline.watch.follow()
        await until(lambda: means() != [])
        assert pipeline.watch.poke(f"{host}/app") == 1
        await asyncio.sleep(late_s)
        await after.push(layout.repository("app"), "1")
        await until(lambda: means() == [after.root.descriptor.digest], 5)
    journal.close()


async def test_a_hint_names_a_registry_by_where_it_is_asked(site: Site, upstream: Upstream) -> None:
    layout, host = await upstream()
    await single_image("one").push(layout.repository("hub/app"), "1")
    site.registries = {"up.example": {"plain_http": True, "location": f"{host}/hub"}}
    site.write({"image": "up.example/app", "tags": ["1"], "follow": "digest", "interval": "1h"})
    journal = site.journal()
    async with Pipeline(site.settings(), journal, site.said.append) as pipeline:
        await pipeline.load(must=True)
        pipeline.watch.follow()
        assert [pipeline.watch.poke(name) for name in (f"{host}/hub/app", "hub/app", "up.example/app", "app")] == [
            1
        ] * 4
        assert pipeline.watch.poke(f"{host}/app") == 0
    journal.close()
