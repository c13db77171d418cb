"""Rounds against real registries, layouts and tarballs, and against upstreams that fail in every way we know."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from oci import limits
from oci.archive import open_archive
from oci.blobs import BlobStore
from oci.client import Registry
from oci.descriptor import OCI_MANIFEST, sha256_digest
from oci.layout import Layout
from protocol import coding
from protocol.batch import unpack
from protocol.objects import Coding, Kind
from sender.journal import QueuedObject
from tests.oci.peers import Serve, free_port
from tests.oci_layout.images import (
    Image,
    as_json,
    layout_files,
    legacy_files,
    multi_image,
    referrer_to,
    single_image,
    tar_of,
    write_files,
)
from tests.sender.conftest import Site, Upstream

ZEROS = "sha256:" + "0" * 64


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BACKOFF_SECONDS_BASE", 0.001)


def carried(queue: list[QueuedObject]) -> dict[str, bytes]:
    """Decode the queue as a receiver would: every content by its digest, each once."""
    found: dict[str, bytes] = {}

    def add(digest: str, body: bytes) -> None:
        assert digest not in found
        assert digest == f"{digest.partition(':')[0]}:{hashlib.new(digest.partition(':')[0], body).hexdigest()}"
        found[digest] = body

    for entry in queue:
        coded = entry.path.read_bytes()
        assert (len(coded), sha256_digest(coded)) == (entry.coded_size, entry.coded_digest)
        body = coded
        if entry.coding == Coding.ZSTD:
            body = b"".join(coding.decompress([coded], entry.content_size))
        assert len(body) == entry.content_size
        if entry.kind == Kind.BLOB:
            add(entry.digest, body)
        else:
            assert entry.digest == sha256_digest(body)
            for digest, member in unpack(body):
                add(digest, member)
    return found


async def push(host: str, repository: str, tag: str | None, *images: Image) -> None:
    async with Registry(host, plain_http=True) as registry:
        for image in images:
            await image.push(registry.repository(repository), tag if image is images[0] else None)


async def test_everything_of_an_image_is_queued_once_and_proposed(site: Site, upstream: Upstream) -> None:
    _, host = await upstream()
    image = multi_image()
    arm = image.manifests[1].descriptor
    signature = referrer_to(arm, "application/vnd.example.signature")
    sbom = referrer_to(signature.root.descriptor, "application/spdx+json")
    await push(host, "team/app", "1.0", image, signature, sbom)
    cosign = single_image("cosign")
    await push(host, "team/app", f"{arm.digest.replace(':', '-')}.sig", cosign)
    site.registries[host] = {"plain_http": True}
    site.write(f"{host}/team/app:1.0@{image.root.descriptor.digest}")

    outcome = await site.round()

    assert (outcome.ready, outcome.failed, outcome.proposed, site.said) == (1, 0, True, [])
    expected = {k: v for part in (image, signature, sbom, cosign) for k, v in part.all_files().items()}
    assert carried(site.queue()) == expected
    (proposed,) = site.proposal()
    assert (proposed.name, proposed.tags) == (f"{host}/team/app", ("1.0",))
    assert proposed.root.digest == image.root.descriptor.digest
    assert {content.digest for content in proposed.contents()} == set(expected)
    assert {content.digest for content in proposed.referrers} == {
        signature.root.descriptor.digest,
        sbom.root.descriptor.digest,
    }
    assert proposed.extra_tags == ((f"{arm.digest.replace(':', '-')}.sig", cosign.root.descriptor.digest),)
    order = [content.digest for content in proposed.closure]
    inner, child = image.manifests[2].descriptor.digest, image.manifests[0].descriptor.digest
    assert order.index(child) < order.index(inner)
    assert site.states() == {f"{host}/team/app:1.0": "ready"}


async def test_a_second_round_asks_for_nothing_and_queues_nothing(
    site: Site, upstream: Upstream, serve: Serve
) -> None:
    image = single_image()
    files = image.all_files()
    asked: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(request.path)
        digest = request.path.rpartition("/")[2]
        if digest not in files:
            return web.Response(status=404)
        kind = OCI_MANIFEST if "/manifests/" in request.path else "application/octet-stream"
        return web.Response(body=files[digest], content_type=kind)

    host = await serve(handler)
    site.registries[host] = {"plain_http": True}
    site.write(f"{host}/app:1@{image.root.descriptor.digest}")
    assert (await site.round()).objects == 1
    assert len([path for path in asked if "/blobs/" in path]) == 3
    asked.clear()
    before = site.proposal()
    outcome = await site.round()
    assert (outcome.ready, outcome.objects, outcome.proposed, asked) == (1, 0, False, [])
    assert site.proposal() == before
    # a spool that lost something is made whole again
    lost = image.root.descriptor.digest
    spool = BlobStore(site.settings().spool)
    spool.remove(lost)
    outcome = await site.round()
    assert (outcome.ready, outcome.objects, outcome.proposed) == (1, 0, False)
    assert spool.read(lost, 10_000) == files[lost]


async def test_what_rots_in_the_spool_is_fetched_again(site: Site) -> None:
    image = single_image()
    write_files(site.folder / "lay", layout_files(image))
    site.write({"image": f"example.org/app:1@{image.root.descriptor.digest}", "from": "oci:lay"})
    spool = BlobStore(site.settings().spool)
    manifest, (layer, _) = image.root, gzip_layer(image)
    for digest, rotten in ((manifest.descriptor.digest, manifest.raw[::-1]), (layer, image.blobs[layer][1][::-1])):
        path = spool.path(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rotten)
    assert (await site.round()).failed == 1
    (line,) = site.said
    assert line.endswith(
        f"{spool.path(layer)}: {len(image.blobs[layer][1])} bytes that do not have the digest of its name"
    )
    assert (await site.round()).failed == 0
    assert carried(site.queue()) == image.all_files()


async def test_from_dockers_registry(site: Site, registry_host: str) -> None:
    image = multi_image()
    await push(registry_host, "fetch/multi", "1", image)
    site.registries[registry_host] = {"plain_http": True}
    site.write(f"{registry_host}/fetch/multi:1@{image.root.descriptor.digest}")
    assert (await site.round()).failed == 0, site.said
    assert carried(site.queue()) == image.all_files()


async def test_layouts_and_tarballs(site: Site) -> None:
    layout, exported = multi_image(), single_image("exported")
    await layout.push(Layout(site.folder / "lay"), "latest")
    (site.folder / "app.tar").write_bytes(tar_of(layout_files(exported)))
    files, links, config, layers = legacy_files()
    (site.folder / "old.tar").write_bytes(tar_of(files, links))
    legacy = await legacy_digest(site.folder / "old.tar")
    site.write(
        {"image": f"example.org/lay:1@{layout.root.descriptor.digest}", "from": "oci:lay"},
        {"image": f"example.org/app:1@{exported.root.descriptor.digest}", "from": "archive:app.tar"},
        {"image": f"example.org/old:1.0@{legacy}", "from": "archive:old.tar", "referrers": False},
    )
    outcome = await site.round()
    assert (outcome.ready, outcome.failed) == (3, 0), site.said
    found = carried(site.queue())
    assert found.items() >= (layout.all_files() | exported.all_files()).items()
    assert {config, *layers} <= set(found.values())
    assert [image.name for image in site.proposal()] == ["example.org/app", "example.org/lay", "example.org/old"]


async def legacy_digest(path: Path) -> str:
    with open_archive(path) as source:
        return (await source.resolve("example.org/app:1.0")).digest


def misbehaving(image: Image, wrong: dict[str, bytes], **headers: str) -> Any:
    files = image.all_files() | wrong

    async def handler(request: web.Request) -> web.Response:
        body = files.get(request.path.rpartition("/")[2])
        if body is None or "/referrers/" in request.path:
            return web.Response(status=404)
        kind = OCI_MANIFEST if "/manifests/" in request.path else "application/octet-stream"
        return web.Response(body=body, headers={"Content-Type": headers.get("kind", kind)})

    return handler


def gzip_layer(image: Image) -> tuple[str, bytes]:
    return next((digest, data) for digest, (part, data) in image.blobs.items() if part.media_type.endswith("gzip"))


async def test_every_failure_is_one_line_and_other_images_still_go(
    site: Site, upstream: Upstream, serve: Serve, certificate: tuple[Path, Any]
) -> None:
    expected: dict[str, str] = {}  # the line of each host, after "host/app:1@sha256:…: host/app: "
    pins: dict[str, str] = {}

    def expect(host: str, kind: str, digest: str, text: str, pin: str | None = None) -> None:
        pins[host] = pin or digest
        expected[host] = f"{kind} {digest[:19]}…: {text}"

    image = single_image("wrong manifest")
    digest, lies = image.root.descriptor.digest, image.root.raw + b" "
    host = await serve(misbehaving(image, {digest: lies}))
    expect(host, "manifest", digest, f"the bytes have digest {sha256_digest(lies)}; expected {digest}")

    image = single_image("wrong digest")
    layer, data = gzip_layer(image)
    flipped = bytes([data[0] ^ 1]) + data[1:]
    host = await serve(misbehaving(image, {layer: flipped}))
    text = f"the bytes have digest {sha256_digest(flipped)}; expected {layer}"
    expect(host, "blob", layer, text, image.root.descriptor.digest)

    image = single_image("wrong size")
    layer, data = gzip_layer(image)
    host = await serve(misbehaving(image, {layer: data + b"more"}))
    text = f"expected {len(data):,} bytes, got {len(data) + 4:,}"
    expect(host, "blob", layer, text, image.root.descriptor.digest)

    digests = ["sha256:" + str(number) * 64 for number in range(5)]
    _, good_host = await upstream()
    text = f"not found (404: MANIFEST_UNKNOWN app: no manifest {digests[0]}); check repository, tag and digest"
    expect(good_host, "manifest", digests[0], text)
    _, host = await upstream(users={"me": "secret"})
    text = "credentials are missing or wrong (401: UNAUTHORIZED authentication required); log in to the registry"
    expect(host, "manifest", digests[1], text)
    gone = f"127.0.0.1:{(port := free_port())}"
    text = f"cannot connect to {gone} (Connect call failed ('127.0.0.1', {port})); check host, port and firewall"
    expect(gone, "manifest", digests[2], text)
    site.registries.update({host: {"plain_http": True} for host in expected})
    _, host = await upstream(tls=certificate[1])
    text = f"TLS certificate of {host} is not trusted (self-signed certificate); name its CA as ca_file; "
    text += f'sender.yaml: fetch.registries: {{"{host}": {{ca: FILE}}}}'
    expect(host, "manifest", digests[3], text)

    schema1 = json.dumps({"schemaVersion": 1, "name": "old", "tag": "1"}).encode()
    kind = "application/vnd.docker.distribution.manifest.v1+json"
    host = await serve(misbehaving(Image(), {sha256_digest(schema1): schema1}, kind=kind))
    site.registries[host] = {"plain_http": True}
    text = "Docker schema 1 is not mirrored; push the image again as schema 2 or OCI"
    expect(host, "manifest", sha256_digest(schema1), text)

    good = single_image("good")
    await push(good_host, "good", "1", good)
    _, plain_host = await upstream()
    site.write(
        *(f"{host}/app:1@{digest}" for host, digest in pins.items()),
        f"{plain_host}/app:1@{digests[4]}",
        f"{good_host}/good:1@{good.root.descriptor.digest}",
    )

    outcome = await site.round()

    said = {line.partition("/")[0]: line for line in site.said}
    assert len(said) == len(site.said) == len(expected) + 1
    for host, text in expected.items():
        assert said[host] == f"{host}/app:1@{pins[host][:19]}…: {host}/app: {text}"
    hint = f'set plain_http; sender.yaml: fetch.registries: {{"{plain_host}": {{plain_http: true}}}}'
    assert said[plain_host].endswith(hint)
    assert (outcome.ready, outcome.failed) == (1, len(expected) + 1)
    assert [proposed.name for proposed in site.proposal()] == [f"{good_host}/good"]
    assert carried(site.queue()) == good.all_files()
    journal = site.journal()
    noted = {row["reference"].partition("/")[0]: row for row in journal.images() if row["state"] == "failed"}
    assert {host: row["error"] for host, row in noted.items()} == {
        host: line.partition("…: ")[2] for host, line in said.items()
    }
    journal.close()


async def test_a_ca_and_a_login_open_the_door(site: Site, upstream: Upstream, certificate: tuple[Path, Any]) -> None:
    layout, host = await upstream(tls=certificate[1], users={"me": "secret"})
    image = single_image()
    await image.push(layout.repository("app"), "1")
    (site.folder / "config.json").write_text(json.dumps({"auths": {host: {"username": "me", "password": "secret"}}}))
    site.registries[host] = {"ca": str(certificate[0])}
    site.fetch["docker_config"] = "config.json"
    site.write(f"{host}/app:1@{image.root.descriptor.digest}")
    assert (await site.round()).failed == 0, site.said


async def test_missing_local_files_are_named(site: Site, upstream: Upstream) -> None:
    _, host = await upstream()
    site.registries[host] = {"ca": "gone.pem"}
    site.write(f"{host}/app:1@{ZEROS}")
    await site.round()
    assert site.said == [
        f"{host}/app:1@sha256:000000000000…: {site.folder}/gone.pem: No such file or directory; "
        "expected a readable PEM file of CA certificates"
    ]
    site.fetch["docker_config"] = "gone.json"
    site.write(f"{host}/app:1@{ZEROS}")
    await site.round()
    assert site.said == [
        f"{host}/app:1@sha256:000000000000…: {site.folder}/gone.json: no such file; expected docker's config.json"
    ]


async def test_shared_blobs_are_fetched_once_even_at_the_same_time(site: Site, serve: Serve) -> None:
    shared = Image()
    layer = shared.add_blob("application/vnd.oci.image.layer.v1.tar", b"x" * 500_000)
    for number in range(4):
        config = shared.add_blob("application/vnd.oci.image.config.v1+json", b'{"n": %d}' % number)
        shared.add_manifest(
            {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": as_json(config), "layers": [as_json(layer)]}
        )
    asked: list[str] = []
    answer = misbehaving(shared, {})

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append(request.path.rpartition("/")[2])
        await asyncio.sleep(0.02)
        response: web.StreamResponse = await answer(request)
        return response

    host = await serve(handler)
    site.registries[host] = {"plain_http": True}
    site.write(*(f"{host}/app:{number}@{one.descriptor.digest}" for number, one in enumerate(shared.manifests)))
    assert (await site.round()).ready == 4
    assert asked.count(layer.digest) == 1
    assert carried(site.queue()) == shared.all_files()


async def test_a_blob_that_one_upstream_lacks_comes_from_the_other(site: Site, serve: Serve) -> None:
    image = single_image()
    whole = await serve(misbehaving(image, {}))
    broken = await serve(misbehaving(image, dict.fromkeys(image.blobs, b"?")))
    site.registries.update({host: {"plain_http": True} for host in (whole, broken)})
    digest = image.root.descriptor.digest
    site.write(f"{broken}/app:1@{digest}", f"{whole}/app:1@{digest}")
    await site.round()
    assert site.states()[f"{whole}/app:1"] == "ready"
    assert (await site.round()).failed == 0  # all there is now in the spool


async def test_a_failing_pin_leaves_its_tag_where_it_was(site: Site) -> None:
    one, two = single_image("one"), single_image("two")
    for number, image in enumerate((one, two)):
        write_files(site.folder / f"lay{number}", layout_files(image))
    first = {"image": f"example.org/app:1@{one.root.descriptor.digest}", "from": "oci:lay0"}
    other = {"image": f"example.org/other:1@{two.root.descriptor.digest}", "from": "oci:lay1"}
    site.write(first, other)
    await site.round()
    site.list({"image": f"example.org/app:1@{ZEROS}", "from": "oci:lay0"}, other)
    outcome = await site.round()
    assert (outcome.failed, outcome.proposed) == (1, False)
    site.list({"image": f"example.org/app:1@{two.root.descriptor.digest}", "from": "oci:lay1"}, other)
    outcome = await site.round()
    assert (outcome.failed, outcome.proposed) == (0, True)
    roots = {image.name: image.root.digest for image in site.proposal()}
    assert roots == dict.fromkeys(("example.org/app", "example.org/other"), two.root.descriptor.digest)
    # a typing error takes nothing away, a removed line does
    site.list("example.org/other:1", {"image": f"example.org/app:2@{one.root.descriptor.digest}", "from": "oci:lay0"})
    assert (await site.round()).failed == 1
    assert [(image.name, image.tags) for image in site.proposal()] == [
        ("example.org/app", ("1",)),
        ("example.org/app", ("2",)),
        ("example.org/other", ("1",)),
    ]
    site.list({"image": f"example.org/app:2@{one.root.descriptor.digest}", "from": "oci:lay0"})
    await site.round()
    assert [(image.name, image.tags) for image in site.proposal()] == [("example.org/app", ("2",))]
    assert set(site.states()) == {"example.org/app:2"}


@pytest.mark.parametrize("policy", ["leave", "fetch"])
async def test_foreign_layers_as_the_policy_says(site: Site, serve: Serve, policy: str) -> None:
    data = b"windows " * 1000
    elsewhere_asked: list[str] = []

    async def elsewhere(request: web.Request) -> web.Response:
        elsewhere_asked.append(request.path)
        return web.Response(body=data) if request.path == "/layer" else web.Response(status=404)

    store = await serve(elsewhere)
    image = Image()
    config = image.add_blob("application/vnd.oci.image.config.v1+json", b"{}")
    foreign = {
        "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "digest": sha256_digest(data),
        "size": len(data),
        "urls": [f"http://{store}/gone", f"http://{store}/layer"],
    }
    image.add_manifest(
        {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": as_json(config), "layers": [foreign]}
    )
    host = await serve(misbehaving(image, {}))
    site.registries[host] = {"plain_http": True}
    site.fetch["foreign_layers"] = policy
    site.write(f"{host}/win:1@{image.root.descriptor.digest}")
    assert (await site.round()).failed == 0, site.said
    found = carried(site.queue())
    (proposed,) = site.proposal()
    assert (sha256_digest(data) in found) == (policy == "fetch")
    assert {content.digest for content in proposed.contents()} == set(found)
    assert elsewhere_asked == (["/gone", "/layer"] if policy == "fetch" else [])
