"""The publish role against Debian's docker-registry and against a layout served by the embedded one."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from oci.client import Registry
from oci.errors import NotFound
from oci.layout import Layout
from oci.store import Source
from protocol.release import ReleaseImage
from receiver.journal import ReceiverJournal
from receiver.publish import publish
from tests.oci_layout.images import Image, multi_image, referrer_to, single_image, zstd
from tests.receiver.peers import DockerRegistry
from tests.receiver.site import FAST, Site, hear, noise, release_image

NGINX = "docker.io/library/nginx"
SIGNATURE = "application/vnd.example.signature"


async def same_in(source: Source, tag: str, *images: Image) -> None:
    """Every byte of *images* is in *source*, and *tag* leads to the first."""
    assert (await source.resolve(tag)).digest == images[0].root.descriptor.digest
    for image in images:
        for manifest in image.manifests:
            assert (await source.manifest(manifest.descriptor.digest)).raw == manifest.raw
        for descriptor, data in image.blobs.values():
            assert b"".join([chunk async for chunk in source.blob(descriptor)]) == data


def with_zstd(image: Image) -> Image:
    """One manifest with all the layers there are, and a zstd layer more."""
    image.add_blob("application/vnd.oci.image.layer.v1.tar+zstd", zstd(noise(300_000)))
    image.manifests.clear()
    layers = [blob for blob, _ in image.blobs.values() if "layer" in blob.media_type]
    former, raw = next(pair for pair in image.blobs.values() if "config" in pair[0].media_type)
    del image.blobs[former.digest]
    rootfs = {
        "type": "layers",
        "diff_ids": [layer.digest for layer in layers],
    }  # as many as layers: all that is checked
    config = image.add_blob(former.media_type, json.dumps(json.loads(raw) | {"rootfs": rootfs}).encode())
    image.add_manifest(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": config.media_type, "digest": config.digest, "size": config.size},
            "layers": [{"mediaType": b.media_type, "digest": b.digest, "size": b.size} for b in layers],
        }
    )
    return image


async def test_nested_index_referrer_and_zstd_layer_reach_a_docker_registry(
    site: Site, registry: DockerRegistry
) -> None:
    image, app = multi_image(), with_zstd(single_image("app"))
    signature = referrer_to(image.root.descriptor, SIGNATURE)
    site.fill(image, app, signature)
    site.release(
        release_image(NGINX, ["1.27", "latest"], image, signature),
        release_image("localhost:5000/team/app", ["v1"], app),
    )
    settings = site.configure(f"{{registry: {{url: '{registry.url}'}}}}")
    assert await site.once(settings) == 0
    async with Registry(registry.host, plain_http=True) as client:
        nginx = client.repository(f"internal/{NGINX}")
        await same_in(nginx, "1.27", image, signature)
        await same_in(nginx, "latest", image)
        assert [item.digest for item in await nginx.referrers(image.root.descriptor.digest)] == [
            signature.root.descriptor.digest
        ]
        await same_in(client.repository("internal/localhost_5000/team/app"), "v1", app)
    assert {row["state"] for row in site.journal.images()} == {"published"}
    assert site.journal.newest_releases()[0].published is not None


async def test_a_second_run_only_looks(site: Site, registry: DockerRegistry) -> None:
    image = single_image()
    site.fill(image)
    site.release(release_image(NGINX, ["1"], image))
    settings = site.configure(f"{{registry: {{url: '{registry.url}'}}}}")
    assert await site.once(settings) == 0
    finished = site.journal.newest_releases()[0].published
    before = len(registry.requests)
    assert await site.once(settings) == 0
    asked = registry.requests[before:]
    assert asked
    assert {request.split()[0] for request in asked} == {"HEAD"}
    assert site.journal.newest_releases()[0].published == finished


async def test_a_registry_that_lost_everything_is_filled_again(site: Site, registry: DockerRegistry) -> None:
    image = single_image()
    site.fill(image)
    site.release(release_image(NGINX, ["1"], image))
    settings = site.configure(f"{{registry: {{url: '{registry.url}'}}}}")
    assert await site.once(settings) == 0
    registry.forget_everything()
    assert await site.once(settings) == 0
    async with Registry(registry.host, plain_http=True) as client:
        await same_in(client.repository(f"internal/{NGINX}"), "1", image)


async def test_no_tag_shows_before_the_last_byte_is_here(site: Site, registry: DockerRegistry) -> None:
    image, other = multi_image(), single_image("other")
    late = next(digest for digest in image.all_files() if digest not in other.all_files())
    site.fill(image, other, without=[late])
    site.release(release_image(NGINX, ["1"], image), release_image("quay.io/other", ["2"], other))
    settings = site.configure(f"{{registry: {{url: '{registry.url}'}}}}")
    async with site.publishing(settings), Registry(registry.host, plain_http=True) as client:
        await site.until("quay.io/other", "published")  # none waits for another
        row = await site.until(NGINX, "receiving")
        assert (row["missing"], row["missing_bytes"]) == (1, len(image.all_files()[late]))
        await asyncio.sleep(0.1)
        assert not any("library/nginx" in request for request in registry.requests)
        site.fill(image)
        await site.until(NGINX, "published")
        await same_in(client.repository(f"internal/{NGINX}"), "1", image)


async def test_layers_that_images_share_are_uploaded_once_and_mounted(site: Site, registry: DockerRegistry) -> None:
    first = Image()
    shared = first.add_blob("application/vnd.oci.image.layer.v1.tar+zstd", zstd(noise(200_000)))
    with_zstd(single_image("first", image=first))
    others = [single_image(f"other {number}") for number in range(3)]
    for other in others:
        other.blobs[shared.digest] = first.blobs[shared.digest]
        with_zstd(other)
    site.fill(first, *others)
    site.release(*(release_image(f"docker.io/team/app{n}", ["1"], one) for n, one in enumerate([first, *others])))
    settings = site.configure(f"{{registry: {{url: '{registry.url}'}}}}")
    assert await site.once(settings) == 0
    mounts = [
        r for r in registry.requests if r.startswith("POST") and f"mount={shared.digest}" in r.replace("%3A", ":")
    ]
    puts = [r for r in registry.requests if r.startswith("PUT") and shared.digest in r.replace("%3A", ":")]
    assert (len(mounts), len(puts)) == (3, 1)
    # another process, another release, another repository: it is remembered
    new = single_image("new")
    new.blobs[shared.digest] = first.blobs[shared.digest]
    with_zstd(new)
    site.fill(new)
    site.release(release_image("docker.io/team/new", ["1"], new), sequence=2)
    before = len(registry.requests)
    assert await site.once(settings) == 0
    asked = [request.replace("%3A", ":") for request in registry.requests[before:]]
    assert not [r for r in asked if r.startswith("PUT") and "/blobs/" in r and shared.digest in r]


async def test_a_registry_that_goes_away_and_comes_back(site: Site, registry: DockerRegistry) -> None:
    images = [with_zstd(single_image(str(number))) for number in range(3)]
    site.fill(*images)
    settings = site.configure(f"{{registry: {{url: '{registry.url}'}}, parallel: 1}}")
    site.release(*(release_image(f"docker.io/team/app{n}", ["1"], image) for n, image in enumerate(images)))
    async with site.publishing(settings), Registry(registry.host, plain_http=True) as client:
        async with asyncio.timeout(10):
            while not any(row["state"] == "published" for row in site.journal.images()):
                await asyncio.sleep(0.005)
        registry.stop()
        await asyncio.sleep(0.3)
        assert not all(row["state"] == "published" for row in site.journal.images())
        registry.start()
        for number, image in enumerate(images):
            await site.until(f"docker.io/team/app{number}", "published")
            await same_in(client.repository(f"internal/docker.io/team/app{number}"), "1", image)


async def test_into_a_layout_that_is_served(site: Site) -> None:
    image = multi_image()
    signature = referrer_to(image.root.descriptor, SIGNATURE)
    site.fill(image, signature)
    settings = site.configure("{layout: published, serve: {on: '127.0.0.1:0'}}")
    async with site.publishing(settings):
        await asyncio.sleep(0.1)
        site.release(release_image(NGINX, ["1.27"], image, signature))  # found while running
        await site.until(NGINX, "published")
        place = site.journal.live()["publish"][0]["target"]
        async with Registry(place.removeprefix("http://"), plain_http=True) as client:
            repository = client.repository(f"internal/{NGINX}")
            await same_in(repository, "1.27", image, signature)
            assert len(await repository.referrers(image.root.descriptor.digest)) == 1
    await same_in(Layout.open(site.folder / "published").repository(f"internal/{NGINX}"), "1.27", image)


def sparse(image: Image) -> ReleaseImage:
    """An image of several platforms that comes without one of them."""
    left = image.manifests[1].descriptor.digest
    entry = release_image(NGINX, ["1.27"], image)
    return replace(entry, closure=tuple(item for item in entry.closure if item.digest != left), absent=(left,))


async def test_an_index_without_some_of_its_platforms_keeps_its_digest(site: Site) -> None:
    image = multi_image()
    entry = sparse(image)
    site.fill(image, without=entry.absent)
    site.release(entry)
    settings = site.configure("{layout: published}")
    assert await site.once(settings) == 0
    repository = Layout.open(site.folder / "published").repository(f"internal/{NGINX}")
    assert (await repository.manifest("1.27")).raw == image.root.raw
    assert (await repository.manifest(image.manifests[0].descriptor.digest)).raw == image.manifests[0].raw
    with pytest.raises(NotFound):
        await repository.manifest(entry.absent[0])


async def test_a_registry_that_minds_is_named_with_the_remedy(site: Site, registry: DockerRegistry) -> None:
    image = multi_image()
    entry = sparse(image)
    site.fill(image, without=entry.absent)
    site.release(entry)
    assert await site.once(site.configure(f"{{registry: {{url: '{registry.url}'}}}}")) == 1
    row = site.images()[NGINX]
    assert row["state"] == "failed"
    assert "1 of the manifests that its index names stay on the other side" in row["error"]


async def test_a_newer_release_takes_over_and_keeps_what_is_equal(site: Site) -> None:
    one, two, late = single_image("one"), single_image("two"), single_image("late")
    missing = late.root.descriptor.digest
    site.fill(one, two, late, without=[missing])
    settings = site.configure("{layout: published}")
    site.release(release_image(NGINX, ["1"], one), release_image("quay.io/late", ["1"], late))
    async with site.publishing(settings):
        await site.until(NGINX, "published")
        site.release(release_image(NGINX, ["1"], two), release_image("quay.io/late", ["1"], late), sequence=2)
        async with asyncio.timeout(5):
            while site.journal.published()[f"internal/{NGINX}", "1"] != two.root.descriptor.digest:
                await asyncio.sleep(0.01)
        assert site.journal.newest_releases()[0].published is None
        site.fill(late)
        async with asyncio.timeout(5):
            while site.journal.newest_releases()[0].published is None:
                await asyncio.sleep(0.01)
    assert [(row["sequence"], row["state"]) for row in site.journal.images()] == [(2, "published")] * 2
    layout = Layout.open(site.folder / "published")
    await same_in(layout.repository(f"internal/{NGINX}"), "1", two)
    await same_in(layout.repository("internal/quay.io/late"), "1", late)


async def test_a_signature_that_comes_later_is_published_for_the_same_image(site: Site) -> None:
    image = single_image()
    signature = referrer_to(image.root.descriptor, SIGNATURE)
    site.fill(image, signature)
    settings = site.configure("{layout: published}")
    site.release(release_image(NGINX, ["1"], image))
    assert await site.once(settings) == 0
    repository = Layout.open(site.folder / "published").repository(f"internal/{NGINX}")
    assert await repository.referrers(image.root.descriptor.digest) == []
    site.release(release_image(NGINX, ["1"], image, signature), sequence=2)
    assert await site.once(settings) == 0
    assert len(await repository.referrers(image.root.descriptor.digest)) == 1


async def test_a_release_that_lists_too_little_fails_that_image_only(site: Site) -> None:
    good, bad = single_image("good"), multi_image()
    layer = next(d for d, _ in bad.blobs.values() if "layer" in d.media_type and d.digest not in good.blobs)
    entry = release_image("quay.io/bad", ["1"], bad)
    short = replace(entry, closure=tuple(item for item in entry.closure if item.digest != layer.digest))
    site.fill(good, bad, without=[layer.digest])
    site.release(short, release_image("quay.io/good", ["1"], good))
    settings = site.configure("{layout: published}")
    assert await site.once(settings) == 1
    rows = site.images()
    assert (rows["quay.io/good"]["state"], rows["quay.io/bad"]["state"]) == ("published", "failed")
    assert "the release does not list" in rows["quay.io/bad"]["error"]
    assert (rows["quay.io/bad"]["missing"], rows["quay.io/bad"]["missing_bytes"]) == (1, layer.size)
    layout = Layout.open(site.folder / "published")
    assert await layout.repositories() == ["internal/quay.io/good"]
    site.fill(bad)  # another release may bring it
    assert await site.once(settings) == 0
    assert await layout.repositories() == ["internal/quay.io/bad", "internal/quay.io/good"]


async def test_content_that_rotted_in_the_spool_is_received_again(site: Site) -> None:
    image = single_image()
    digest = next(iter(image.blobs))
    site.fill(image)
    path = site.spool.path(digest)
    path.write_bytes(b"x" * path.stat().st_size)
    site.release(release_image(NGINX, ["1"], image))
    async with site.publishing(site.configure("{layout: published}")):
        row = await site.until(NGINX, "receiving")
        assert row["missing"] == 1
        assert site.spool.size(digest) is None
        site.fill(image)
        await site.until(NGINX, "published")


async def test_once_waits_for_the_release_that_beacons_name(site: Site) -> None:
    image = single_image()
    site.fill(image)
    settings = site.configure("{layout: published}")
    site.release(release_image(NGINX, ["1"], image))
    hear(site.journal, "default", 2, "sha256:" + "2" * 64, 4e9)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await site.once(settings)
    site.release(release_image(NGINX, ["1"], image), sequence=2)
    assert await site.once(settings) == 0


async def test_once_gives_a_sender_that_has_just_begun_time_for_what_is_new(site: Site) -> None:
    one, two = single_image("one"), single_image("two")
    site.fill(one, two)
    settings = site.configure("{layout: published}")
    site.release(release_image(NGINX, ["1"], one))
    assert await site.once(settings) == 0
    pace = replace(FAST, silence=0.3, settle=5.0)
    run = asyncio.create_task(publish(settings, once=True, since=time.time(), pace=pace))
    for _ in range(5):
        site.release(release_image(NGINX, ["1"], one))  # its beacons still name what was complete before
        await asyncio.sleep(0.1)
    assert not run.done()
    site.release(release_image(NGINX, ["1"], two), sequence=2)
    assert await run == 0
    assert site.journal.published()[f"internal/{NGINX}", "1"] == two.root.descriptor.digest
    for pace in (replace(FAST, silence=0.2, settle=9.0), replace(FAST, silence=9.0, settle=0.2)):
        hear(site.journal, "default", 2, site.journal.newest_marks()["default"][1], time.time())
        async with asyncio.timeout(2):
            assert await publish(settings, once=True, since=time.time() - 0.1, pace=pace) == 0


async def test_once_waits_until_something_is_heard_in_this_run(site: Site) -> None:
    image = single_image()
    site.fill(image)
    site.release(release_image(NGINX, ["1"], image))
    settings = site.configure("{layout: published}")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await publish(settings, once=True, since=time.time() + 60, pace=FAST)
    assert site.images()[NGINX]["state"] == "published"


async def test_a_release_of_an_untrusted_sender_is_not_published(site: Site) -> None:
    image = single_image()
    site.fill(image)
    site.release(release_image(NGINX, ["1"], image), signer=Ed25519PrivateKey.generate())
    assert await site.once(site.configure("{layout: published}")) == 1
    assert not (site.folder / "published").exists()
    assert site.journal.images() == []


async def test_two_collections_that_claim_one_tag_do_not_take_turns(site: Site) -> None:
    one, two = single_image("one"), single_image("two")
    site.fill(one, two)
    settings = site.configure("{layout: published}")
    site.release(release_image(NGINX, ["1"], two), collection="zone")
    assert await site.once(settings) == 0
    site.release(release_image(NGINX, ["1"], one), collection="area")
    assert await site.once(settings) == 1
    rows: dict[str, Any] = {row["collection"]: row for row in site.journal.images()}
    assert rows["zone"]["state"] == "published"  # who was first keeps it
    assert "collection 'zone' publishes another image under this tag" in rows["area"]["error"]
    await same_in(Layout.open(site.folder / "published").repository(f"internal/{NGINX}"), "1", two)


async def test_the_journal_survives_the_role(site: Site) -> None:
    """A role that is killed in the middle goes on where it was."""
    images = [single_image(str(number)) for number in range(2)]
    site.fill(images[0])
    settings = site.configure("{layout: published}")
    site.release(*(release_image(f"quay.io/app{number}", ["1"], image) for number, image in enumerate(images)))
    async with site.publishing(settings):
        await site.until("quay.io/app0", "published")
    reader = ReceiverJournal(settings.journal, read_only=True)
    assert reader.live()["publish"][0]["state"] == "stopped"
    reader.close()
    site.fill(images[1])
    assert await site.once(settings) == 0
