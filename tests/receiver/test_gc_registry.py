"""Deleting from real registries: what nobody needs goes, what anybody needs stays, what cannot go is named."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from oci.client import Registry, RegistryRepository
from oci.errors import NotFound, Unreachable
from tests.oci_layout.images import Image, multi_image, referrer_to, single_image
from tests.receiver.peers import DockerRegistry
from tests.receiver.site import Cli, Site, release_image
from tests.receiver.test_retention import NGINX, REDIS, SIGNATURE, gc, pass_time, said, whole


@pytest.fixture
async def deleting(tmp_path: Path) -> AsyncIterator[DockerRegistry]:
    folder = tmp_path / "deleting"
    folder.mkdir()
    made = DockerRegistry(folder, deletes=True)
    made.start()
    yield made
    made.stop()


async def test_a_registry_loses_what_nobody_needs_and_nothing_else(site: Site, deleting: DockerRegistry) -> None:
    index, plain, stays = multi_image(), single_image("one", "amd64"), single_image("stays")
    assert plain.root.descriptor.digest in {one.descriptor.digest for one in index.manifests}
    signature, other = (referrer_to(index.root.descriptor, SIGNATURE, text) for text in ("mine", "theirs"))
    site.fill(index, plain, stays, signature)
    rule = "retention: {releases: 1, shrink: 100%}\n"
    settings = site.configure(f"{{registry: {{url: '{deleting.url}'}}}}", more=rule)
    site.release(
        release_image(NGINX, ["multi"], index, signature),
        release_image(NGINX, ["plain", "both"], plain),
        release_image(REDIS, ["gone", "prod"], stays),
    )
    assert await site.once(settings) == 0
    async with Registry(deleting.host, plain_http=True) as client:
        nginx, redis = client.repository(f"internal/{NGINX}"), client.repository(f"internal/{REDIS}")
        await stays.push(redis, "operators-own")  # somebody else relies on it
        assert len(await nginx.referrers(index.root.descriptor.digest)) == 1
        site.release(release_image(NGINX, ["both"], plain), release_image(NGINX, ["new"], stays), sequence=2)
        assert await site.once(settings) == 0
        outcome = await gc(site, settings)
        assert outcome.complete
        # of nginx the index and the child that only it had are gone, and so is the list of its referrers
        assert set(await nginx.tags()) == {"both", "new", "plain"}
        for gone in (index.root, index.manifests[1], signature.root):
            with pytest.raises(NotFound):
                await nginx.manifest(gone.descriptor.digest)
        assert await nginx.referrers(index.root.descriptor.digest) == []
        assert await whole(nginx, "both") == await whole(nginx, plain.root.descriptor.digest)
        # this registry deletes no tag alone: named, and remembered
        refused = {(path, reference): reason for path, reference, reason in outcome.pruned.refused}
        assert "deletes no tag by itself" in refused[f"internal/{NGINX}", "plain"]
        assert "somebody else" in refused[f"internal/{REDIS}", stays.root.descriptor.digest]
        assert await whole(redis, "operators-own")
        again = await gc(site, settings)
        assert (again.plan.drops, len(again.plan.undeletable)) == ({"default": []}, 4)
    assert other.root.descriptor.digest not in site.spool.digests()


async def test_a_referrer_alone_goes_from_the_list_that_others_stay_in(site: Site, deleting: DockerRegistry) -> None:
    image = single_image()
    old, new = (referrer_to(image.root.descriptor, SIGNATURE, text) for text in ("old", "new"))
    site.fill(image, old, new)
    settings = site.configure(f"{{registry: {{url: '{deleting.url}'}}}}", more="retention: {releases: 1}\n")
    site.release(release_image(NGINX, ["1"], image, old))
    assert await site.once(settings) == 0
    site.release(release_image(NGINX, ["1"], image, new), sequence=2)
    assert await site.once(settings) == 0
    async with Registry(deleting.host, plain_http=True) as client:
        repository = client.repository(f"internal/{NGINX}")
        assert len(await repository.referrers(image.root.descriptor.digest)) == 2
        assert (await gc(site, settings)).pruned.refused == []
        left = await repository.referrers(image.root.descriptor.digest)
        assert [one.digest for one in left] == [new.root.descriptor.digest]
        with pytest.raises(NotFound):
            await repository.manifest(old.root.descriptor.digest)


async def test_what_a_broken_off_run_left_behind_goes_with_the_next(
    site: Site, deleting: DockerRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, other = multi_image(), single_image("other")
    site.fill(index, other)
    rule = "retention: {releases: 1, shrink: 100%}\n"
    settings = site.configure(f"{{registry: {{url: '{deleting.url}'}}}}", more=rule)
    site.release(release_image(NGINX, ["1", "2"], index), release_image(NGINX, ["3"], other))
    assert await site.once(settings) == 0
    site.release(release_image(NGINX, ["3"], other), sequence=2)
    assert await site.once(settings) == 0
    delete, left = RegistryRepository.delete_manifest, 2

    async def breaks_off(repository: RegistryRepository, digest: str) -> None:
        nonlocal left
        if not left:
            raise Unreachable("the registry went away")
        left -= 1
        await delete(repository, digest)

    monkeypatch.setattr(RegistryRepository, "delete_manifest", breaks_off)
    assert not (await gc(site, settings)).complete
    monkeypatch.undo()
    assert (await gc(site, settings)).complete
    async with Registry(deleting.host, plain_http=True) as client:
        repository = client.repository(f"internal/{NGINX}")
        assert await repository.tags() == ["3"]
        for manifest in index.manifests:
            with pytest.raises(NotFound):
                await repository.manifest(manifest.descriptor.digest)
    assert set(site.journal.published()) == {
        (f"internal/{NGINX}", ref) for ref in ("3", other.root.descriptor.digest)
    }


async def test_a_registry_that_deletes_nothing_is_named_and_asked_again_when_told(
    site: Site, two: tuple[Image, Image], registry: DockerRegistry, cli: Cli
) -> None:
    one, other = two
    settings = site.configure(f"{{registry: {{url: '{registry.url}'}}}}", more="retention: {releases: 1}\n")
    assert await site.once(settings) == 0
    site.release(release_image(NGINX, ["2"], other), sequence=2)
    assert await site.once(settings) == 0
    assert cli("confirm", "default", 2, "--config", site.config)[0] == 0
    pass_time(site, 0.0, settings.retention)
    found = said(cli("gc", "--dry-run", "--json", "--config", site.config)[1])
    assert (found["releases"], found["tags"]) == ([["default", 1]], [f"internal/{NGINX}:1"])
    assert found["spool_contents"] == len(one.all_files().keys() - other.all_files().keys())
    assert site.spool.size(one.root.descriptor.digest) is not None
    outcome = await gc(site, settings)
    assert "does not allow it (405" in outcome.pruned.refused[0][2]
    assert site.spool.size(one.root.descriptor.digest) is None  # the spool does not wait for it
    before = len(registry.requests)
    await gc(site, settings)
    assert len(registry.requests) == before
    code, out, _ = await asyncio.to_thread(cli, "gc", "--json", "--config", site.config)
    found = said(out)
    assert (code, len(found["undeletable"])) == (0, 2)
    assert any("DELETE" in request for request in registry.requests[before:])


async def test_gc_by_hand_keeps_away_from_a_role_at_work(site: Site, two: tuple[Image, Image], cli: Cli) -> None:
    settings = site.configure("{layout: published}")
    async with site.publishing(settings):
        await site.until(NGINX, "published")
        code, _, err = await asyncio.to_thread(cli, "gc", "--config", site.config)
        assert code == 1
        assert "a publish role is at work here; publish does this by itself: use --dry-run" in err
        assert (await asyncio.to_thread(cli, "gc", "-n", "--config", site.config))[0] == 0
    assert (await asyncio.to_thread(cli, "gc", "--config", site.config))[0] == 0
