"""What is kept and what goes: by counted time, never what a kept release needs, and not before a person confirms."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oci.blobs import BlobStore
from oci.descriptor import OCI_INDEX
from oci.layout import Layout
from oci.store import Source
from receiver.closure import references
from receiver.config import ReceiverSettings
from receiver.desired import activate, release_of
from receiver.gates import Gates
from receiver.gc import UNCLAIMED_S, Outcome, collect
from receiver.mapping import target_repository
from receiver.retention import TICK_S_MAX, Keeping
from receiver.target import open_targets
from tests.oci_layout.images import Image, as_json, referrer_to, single_image
from tests.receiver.site import FAST, Cli, Site, release_image

DAY = 86_400.0
NGINX, REDIS = "docker.io/library/nginx", "docker.io/library/redis"
SIGNATURE = "application/vnd.example.signature"


def pass_time(site: Site, seconds: float, rule: Any) -> None:
    """As if publish had been at work for *seconds*."""
    keeping = Keeping(site.journal, rule)
    keeping.tick(0.0)
    site.journal.connection.execute("UPDATE retention_clock SET counted = counted + ?", (seconds,))
    keeping.tick(0.0)


def said(out: str) -> Any:
    """The document that a command printed, behind what roles of this process logged before."""
    lines = out.splitlines()
    return json.loads("\n".join(lines[lines.index("{") :]))


async def gc(site: Site, settings: ReceiverSettings) -> Outcome:
    Keeping(site.journal, settings.retention).tick(0.0)
    spool = BlobStore(settings.spool)
    async with open_targets(settings.publish, spool, site.journal.locations, serving=False) as targets:
        return await collect(settings, site.journal, [(target, Gates()) for target in targets])


async def whole(source: Source, reference: str) -> set[str]:
    """Every digest beneath *reference*, all of it read from *source*."""
    root = await source.manifest(reference)
    found, document = {root.descriptor.digest}, json.loads(root.raw)
    for child in document.get("manifests", []):
        found |= await whole(source, child["digest"])
    for blob in [document["config"], *document["layers"]] if "config" in document else []:
        found.add(blob["digest"])
    return found


def both(one: Image, other: Image) -> Image:
    """An index over two images that may be there by themselves as well."""
    made = Image(dict(one.blobs | other.blobs), [*one.manifests, *other.manifests])
    entries = [as_json(part.root.descriptor) for part in (one, other)]
    made.add_manifest({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
    return made


# --- the law -----------------------------------------------------------------------------------------------------

POOL = [single_image("a"), single_image("b"), single_image("c")]
POOL.append(both(POOL[0], POOL[1]))
SIGNED = referrer_to(POOL[0].root.descriptor, SIGNATURE)
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("release"),
            st.sampled_from(["east", "west"]),
            st.dictionaries(st.sampled_from(["1", "2"]), st.integers(0, 3), max_size=2),
        ),
        st.tuples(st.just("days"), st.integers(1, 20)),
        st.tuples(st.just("gc")),
        st.tuples(st.just("activate"), st.sampled_from(["east", "west"]), st.integers(1, 4)),
    ),
    min_size=4,
    max_size=14,
)


@settings(max_examples=20)
@given(steps=STEPS, rule=st.sampled_from(["{releases: 1}", "{releases: 2}", "{age: 10d}", "{releases: 2, age: 5d}"]))
def test_whatever_comes_and_goes_what_a_kept_release_needs_stays(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[Any, ...]], rule: str
) -> None:
    site = Site(tmp_path_factory.mktemp("law"))
    try:
        asyncio.run(_law(site, site.configure("{layout: published}", more=f"retention: {rule}\n"), steps))
    finally:
        site.journal.close()


async def _law(site: Site, settings: ReceiverSettings, steps: list[tuple[Any, ...]]) -> None:
    sequences = {"east": 0, "west": 0}
    for step in [*steps, ("days", 40), ("gc",)]:
        if step[0] == "release":
            _, collection, chosen = step
            sequences[collection] += 1
            images = []
            for tag, number in chosen.items():
                extra = [SIGNED] if number == 0 and tag == "1" else []
                site.fill(POOL[number], *extra)
                images.append(release_image(f"docker.io/{collection}/app", [tag], POOL[number], *extra))
            site.release(*images, collection=collection, sequence=sequences[collection])
            assert await site.once(settings) == 0
        elif step[0] == "days":
            pass_time(site, step[1] * DAY, settings.retention)
        elif step[0] == "activate":
            row = site.journal.release(step[1], step[2])
            if row is not None and all(site.spool.size(one) for one in release_of(row).contents()):
                activate(site.journal, row, time.time())
                await _publish_desired(site, settings)
        before = set(site.journal.published())
        if step[0] == "gc":
            await gc(site, settings)
        await _check(site, settings, before, collected=step[0] == "gc")


async def _publish_desired(site: Site, settings: ReceiverSettings) -> None:
    assert await site.once(settings) == 0


async def _check(site: Site, settings: ReceiverSettings, before: set[tuple[str, str]], *, collected: bool) -> None:
    needed: set[str] = set()
    published, layout = site.journal.published(), Layout(settings.publish.layout or Path())
    for collection, sequence in Keeping(site.journal, settings.retention).kept():
        row = site.journal.release(collection, sequence)
        assert row is not None
        for image in release_of(row).images:
            contents = (image.root, *image.closure, *image.referrers)
            needed |= {content.digest for content in contents}
            for content in contents:
                assert site.spool.size(content.digest) == content.size
            path = target_repository(image.name, settings.publish.prefix)
            shown = {(path, reference) for reference in references(image)} & before
            assert shown <= published.keys()  # what waits behind an activation was never shown
            for _, reference in shown:
                assert await whole(layout.repository(path), reference)
            if all((path, one.digest) in shown for one in (image.root, *image.referrers)):
                assert len(await layout.repository(path).referrers(image.root.digest)) >= len(image.referrers)
    if collected:  # and no more than that
        unclaimed = {row[0] for row in site.journal.connection.execute("SELECT digest FROM unclaimed")}
        assert set(site.spool.digests()) <= needed | unclaimed
        tags = set(await layout.tags())
        rows = {f"{path}:{tag}" for path, tag in site.journal.published() if ":" not in tag}
        assert tags == rows
        assert set(layout.blobs.digests()) <= needed


# --- time --------------------------------------------------------------------------------------------------------


async def test_a_clock_that_leaps_by_years_deletes_nothing(
    site: Site, two: tuple[Image, Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = two
    settings = site.configure("{layout: published}", more="retention: {age: 30d}\n")
    assert await site.once(settings) == 0
    site.release(release_image(NGINX, ["1"], other), sequence=2)
    assert await site.once(settings) == 0
    now = time.time()
    for leap in (10 * 365 * DAY, -10 * 365 * DAY):
        monkeypatch.setattr(time, "time", lambda leap=leap: now + leap)
        async with site.publishing(settings):
            await asyncio.sleep(0.3)
        assert (await gc(site, settings)).plan.retire == []
    Keeping(site.journal, settings.retention).tick(1e12)  # nor does one leap of the other clock
    assert Keeping(site.journal, settings.retention).counted <= TICK_S_MAX + 5
    assert site.spool.size(one.root.descriptor.digest) is not None
    pass_time(site, 31 * DAY, settings.retention)
    assert (await gc(site, settings)).plan.retire == [("default", 1)]
    assert site.spool.size(one.root.descriptor.digest) is None


async def test_publish_counts_time_and_collects_by_itself(site: Site, two: tuple[Image, Image]) -> None:
    one, other = two
    settings = site.configure("{layout: published}", more="retention: {age: 1s}\n")
    layout = Layout(site.folder / "published")
    async with site.publishing(settings, pace=replace(FAST, keep=0.1)):
        await site.until(NGINX, "published")
        site.release(release_image(NGINX, ["2"], other), sequence=2)
        await asyncio.sleep(1.5)
        assert site.spool.size(one.root.descriptor.digest) is not None  # all that there was is dropped: who says so?
        Keeping(site.journal, settings.retention).confirm("default", 2)
        async with asyncio.timeout(10):
            while site.spool.size(one.root.descriptor.digest) is not None:
                await asyncio.sleep(0.05)
        assert await layout.tags() == [f"internal/{NGINX}:2"]
        assert set(layout.blobs.digests()) == set(other.all_files())
        assert set(site.spool.digests()) == set(other.all_files())
        # wanted again: it is received again, and shown
        site.fill(one)
        site.release(release_image(NGINX, ["1"], one), sequence=3)
        async with asyncio.timeout(10):
            while (f"internal/{NGINX}", "1") not in site.journal.published():
                await asyncio.sleep(0.05)
    assert await whole(layout.repository(f"internal/{NGINX}"), "1")


async def test_contents_that_no_release_names_wait_for_theirs(site: Site, two: tuple[Image, Image]) -> None:
    _, other = two
    settings = site.configure("{layout: published}", more="retention: {releases: 1}\n")
    assert await site.once(settings) == 0
    for _ in range(2):
        await gc(site, settings)
        assert site.spool.size(other.root.descriptor.digest) is not None
        pass_time(site, UNCLAIMED_S / 2, settings.retention)
    await gc(site, settings)
    assert site.spool.size(other.root.descriptor.digest) is None


async def test_a_new_prefix_deletes_nothing_of_the_old_one(site: Site, two: tuple[Image, Image]) -> None:
    rule = "retention: {releases: 1}\n"
    for prefix in ("internal", "mirror", "''", "internal"):
        settings = site.configure(f"{{layout: published, prefix: {prefix}}}", more=rule)
        assert await site.once(settings) == 0
        assert (await gc(site, settings)).pruned.done == []
    names = await Layout(site.folder / "published").repositories()
    assert names == [NGINX, f"internal/{NGINX}", f"mirror/{NGINX}"]


async def test_an_empty_section_keeps_everything(site: Site, two: tuple[Image, Image]) -> None:
    one, other = two
    settings = site.configure("{layout: published}", more="retention: {}\n")
    assert await site.once(settings) == 0
    site.release(release_image(NGINX, ["2"], other), sequence=2)
    assert await site.once(settings) == 0
    pass_time(site, 1000 * DAY, settings.retention)
    outcome = await gc(site, settings)
    assert (outcome.plan.retire, outcome.pruned.done, outcome.spool) == ([], [], [])
    assert site.spool.size(one.root.descriptor.digest) is not None


async def test_batches_whose_members_went_are_received_again(site: Site, two: tuple[Image, Image]) -> None:
    one, other = two
    settings = site.configure("{layout: published}", more="retention: {releases: 1}\n")
    site.journal.note_unpacked("sha256:" + "b" * 64, 1.0, [one.root.descriptor.digest])
    assert await site.once(settings) == 0
    site.release(release_image(NGINX, ["1"], other), sequence=2)
    assert await site.once(settings) == 0
    await gc(site, settings)
    assert not site.journal.is_unpacked("sha256:" + "b" * 64)


# --- shrinking ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "waits"),
    [(10, 4, True), (10, 5, False), (4, 2, False), (5, 2, True), (1, 0, True), (2, 0, True), (2, 1, False)],
)
async def test_a_release_that_shrinks_deletes_nothing_until_a_person_says_so(
    site: Site, cli: Cli, before: int, after: int, waits: bool
) -> None:
    image, new = single_image("x"), single_image("new")
    site.fill(image, new)
    settings = site.configure("{layout: published}", more="retention: {releases: 1}\n")
    site.release(*(release_image(f"docker.io/team/app{n}", ["1"], image) for n in range(before)))
    assert await site.once(settings) == 0
    await gc(site, settings)
    left = [release_image(f"docker.io/team/app{n}", ["1"], image) for n in range(after)]
    site.release(*left, release_image("docker.io/team/new", ["1"], new), sequence=2)
    assert await site.once(settings) == 0  # what it adds is published
    layout = Layout(site.folder / "published")
    assert "internal/docker.io/team/new" in await layout.repositories()
    await gc(site, settings)
    assert len(await layout.repositories()) == (before if waits else after) + 1
    out = said(cli("status", "--json", "--config", site.config)[1])
    alarm = f"release default 2 drops {before - after} of the {before} images of release 1: nothing is deleted until"
    assert any(each["text"].startswith(alarm) for each in out["alarms"]) == waits
    code, _, err = cli("confirm", "default", 2, "--config", site.config)
    if not waits:
        assert (code, err) == (1, "error: release default 2 waits for no confirmation; none does\n")
        return
    assert code == 0
    await gc(site, settings)
    assert len(await layout.repositories()) == after + 1


async def test_a_release_that_brings_the_images_back_ends_the_alarm(site: Site, two: tuple[Image, Image]) -> None:
    one, _ = two
    settings = site.configure("{layout: published}", more="retention: {releases: 1}\n")
    assert await site.once(settings) == 0
    site.release(sequence=2)
    assert await site.once(settings) == 0
    site.release(sequence=3)  # no more drops than before, and still not believed
    assert await site.once(settings) == 0
    assert (await gc(site, settings)).plan.retire == []
    keeping = Keeping(site.journal, settings.retention)
    assert [(found.sequence, found.baseline) for found in keeping.shrunk()] == [(3, 1)]
    site.release(release_image(NGINX, ["1"], one), sequence=4)
    assert await site.once(settings) == 0
    assert (await gc(site, settings)).plan.retire == [("default", 1), ("default", 2), ("default", 3)]
    assert keeping.shrunk() == []
    assert site.spool.size(one.root.descriptor.digest) is not None
