"""Closures of real content: in Debian's docker-registry, and in an image layout."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from oci import limits
from oci.client import Registry
from oci.closure import Closure, cosign_tags, walk
from oci.descriptor import OCI_INDEX, OCI_MANIFEST, Descriptor, Manifest, referrers_tag, sha256_digest
from oci.errors import ContentMismatch, NotFound, TooLarge, Unsupported
from oci.layout import Layout
from oci.server import make_app
from oci.store import Target
from tests.oci.peers import (
    CONFIG,
    EMPTY,
    described,
    entry,
    image_of,
    index_of,
    opener,
    push_artifact,
    push_image,
)

AMD64 = {"platform": {"os": "linux", "architecture": "amd64"}}
ARM = {"platform": {"os": "linux", "architecture": "arm", "variant": "v7"}}
UNKNOWN = {"os": "unknown", "architecture": "unknown"}


@pytest.fixture(params=["docker-registry", "embedded", "layout"])
async def target(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Target]:
    """Without the referrers API, with it, and on disk."""
    path = f"closure/{request.node.name.partition('[')[0].replace('_', '-')}"
    if request.param == "layout":
        yield Layout(tmp_path)
    elif request.param == "docker-registry":
        host: str = request.getfixturevalue("registry_host")
        async with Registry(host, plain_http=True) as registry:
            yield registry.repository(path)
    else:
        runner = web.AppRunner(make_app(Layout(tmp_path / "embedded")), access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            async with Registry(f"127.0.0.1:{runner.addresses[0][1]}", plain_http=True) as registry:
                yield registry.repository(path)
        finally:
            await runner.cleanup()


async def push_index(target: Target, *entries: dict[str, object], tag: str | None = None) -> Manifest:
    index = index_of(*entries)
    await target.push_manifest(index, tag)
    return index


def digests(manifests: list[Manifest]) -> list[str]:
    return [manifest.descriptor.digest for manifest in manifests]


def assert_push_order(closure: Closure) -> None:
    """Every manifest comes after the manifests and blobs it names, and nothing comes twice."""
    seen = {blob.digest for blob in closure.blobs}
    assert len(seen) == len(closure.blobs)
    for manifest in closure.manifests:
        for blob in (*closure.blobs, *(other.descriptor for other in closure.manifests)):
            if blob.digest.encode() in manifest.raw and blob.digest != manifest.descriptor.digest:
                subject_or_child = blob.digest in seen
                assert subject_or_child
        assert manifest.descriptor.digest not in seen
        seen.add(manifest.descriptor.digest)


async def test_image(target: Target) -> None:
    image = await push_image(target, "plain", "v1")
    closure = await walk(target, await target.resolve("v1"))
    assert closure.manifests == [image]
    assert len(closure.blobs) == 2  # the layer that is named twice comes once
    assert (closure.referrers, closure.foreign, closure.tagged, closure.skipped) == ([], [], {}, [])


async def test_nested_indexes_with_referrers_everywhere(target: Target) -> None:
    amd64, arm = await push_image(target, "amd64"), await push_image(target, "arm")
    inner = await push_index(target, entry(amd64.descriptor), entry(arm.descriptor))
    outer = await push_index(target, entry(inner.descriptor), entry(amd64.descriptor), tag="multi")
    on_child = await push_artifact(target, "on/child", arm.descriptor)
    on_root = await push_artifact(target, "on/root", outer.descriptor)
    on_referrer = await push_artifact(target, "on/referrer", on_root.descriptor)
    closure = await walk(target, outer.descriptor)
    assert digests(closure.manifests)[:4] == digests([amd64, arm, inner, outer])
    assert set(digests(closure.referrers)) == set(digests([on_child, on_root, on_referrer]))
    assert set(digests(closure.manifests)[4:]) == set(digests(closure.referrers))
    assert [blob.size for blob in closure.blobs if blob.media_type == EMPTY] == [2]
    assert_push_order(closure)
    bare = await walk(target, outer.descriptor, referrers=False)
    assert digests(bare.manifests) == digests([amd64, arm, inner, outer])
    assert bare.referrers == []


async def test_closure_can_be_pushed_elsewhere_in_its_order(target: Target, tmp_path: Path) -> None:
    image = await push_image(target, "carried")
    root = await push_index(target, entry(image.descriptor), tag="v1")
    await push_artifact(target, "test/sbom", image.descriptor)
    await push_image(target, "signature", cosign_tags(root.descriptor.digest)[0])
    closure = await walk(target, root.descriptor)
    copy = Layout(tmp_path / "copy").repository("internal/app")
    for blob in closure.blobs:
        await copy.push_blob(blob, lambda offset, blob=blob: target.blob(blob, offset))
    for manifest in closure.manifests:
        await copy.push_manifest(manifest)
    for tag, descriptor in closure.tagged.items():
        await copy.push_manifest(await target.manifest(descriptor.digest), tag)
    again = await walk(copy, root.descriptor)
    assert set(digests(again.manifests)) == set(digests(closure.manifests))
    assert again.tagged == closure.tagged


async def test_cosign_tags_of_root_and_children(target: Target) -> None:
    image = await push_image(target, "signed")
    root = await push_index(target, entry(image.descriptor), tag="v1")
    signature, attestation, _ = cosign_tags(root.descriptor.digest)
    sbom = cosign_tags(image.descriptor.digest)[2]
    assert signature == referrers_tag(root.descriptor.digest) + ".sig"
    for tag in (signature, attestation, sbom):
        await push_image(target, f"cosign {tag}", tag)
    closure = await walk(target, root.descriptor)
    assert set(closure.tagged) == {signature, attestation, sbom}
    assert {found.digest for found in closure.tagged.values()} <= set(digests(closure.manifests))
    assert closure.tagged[signature].digest == (await target.resolve(signature)).digest
    assert_push_order(closure)


async def test_platform_filter_takes_variants_and_attestations(target: Target) -> None:
    amd64, arm = await push_image(target, "amd64"), await push_image(target, "arm")
    proof_amd64, proof_arm = await push_artifact(target, "a/1", None), await push_artifact(target, "a/2", None)
    root = await push_index(
        target,
        entry(amd64.descriptor, **AMD64),
        entry(arm.descriptor, **ARM),
        entry(
            proof_amd64.descriptor,
            platform=UNKNOWN,
            annotations={"vnd.docker.reference.digest": amd64.descriptor.digest},
        ),
        entry(
            proof_arm.descriptor,
            platform=UNKNOWN,
            annotations={"vnd.docker.reference.digest": arm.descriptor.digest},
        ),
        tag="multi",
    )
    closure = await walk(target, root.descriptor, platforms=frozenset({"linux/arm"}))
    assert digests(closure.manifests) == digests([arm, proof_arm, root])
    with pytest.raises(NotFound, match=r"nothing for linux/ar; the index has linux/amd64, linux/arm/v7"):
        await walk(target, root.descriptor, platforms=frozenset({"linux/ar"}))


async def test_foreign_layers_are_listed_apart(tmp_path: Path) -> None:
    target = Layout(tmp_path)
    await target.push_blob(described(b"{}", CONFIG), opener(b"{}"))
    foreign = Descriptor("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", sha256_digest(b"f"), 1)
    document = image_of(described(b"{}", CONFIG), foreign)
    closure = await walk(_Lying(target, document, []), document.descriptor)
    assert [item.digest for item in closure.foreign] == [foreign.digest]
    assert [item.digest for item in closure.blobs] == [sha256_digest(b"{}")]


async def test_index_entry_of_unknown_type_is_a_blob(tmp_path: Path) -> None:
    target = Layout(tmp_path)
    await target.push_blob(described(b"data", "application/x-data"), opener(b"data"))
    index = await push_index(target, entry(described(b"data", "application/x-data")))
    assert (await walk(target, index.descriptor)).blobs == [described(b"data", "application/x-data")]


async def test_depth_is_bounded(target: Target) -> None:
    descriptor = (await push_image(target, "deep")).descriptor
    for _ in range(limits.INDEX_DEPTH_MAX):
        descriptor = (await push_index(target, entry(descriptor))).descriptor
    assert len((await walk(target, descriptor)).manifests) == limits.INDEX_DEPTH_MAX + 1
    descriptor = (await push_index(target, entry(descriptor))).descriptor
    with pytest.raises(TooLarge, match="nested more than 8 deep"):
        await walk(target, descriptor)


async def test_chain_of_referrers_is_bounded(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "INDEX_DEPTH_MAX", 3)
    root = (await push_image(target, "chain", "v1")).descriptor
    last = root
    for number in range(3):
        last = (await push_artifact(target, f"chain/{number}", last)).descriptor
    assert len((await walk(target, root)).referrers) == 3
    await push_artifact(target, "chain/last", last)
    with pytest.raises(TooLarge, match="refer to each other more than 3 deep"):
        await walk(target, root)


async def test_number_of_descriptors_is_bounded(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    image = await push_image(target, "many", "v1")
    monkeypatch.setattr(limits, "CLOSURE_DESCRIPTORS_MAX", 3)
    with pytest.raises(TooLarge, match="more than 3 descriptors"):
        await walk(target, image.descriptor)


async def test_bytes_of_manifests_are_bounded(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    image = await push_image(target, "big", "v1")
    monkeypatch.setattr(limits, "CLOSURE_MANIFEST_BYTES_MAX", len(image.raw) - 1)
    with pytest.raises(TooLarge, match="in one image"):
        await walk(target, image.descriptor)


async def test_listing_that_lies_about_a_manifest(target: Target) -> None:
    image = await push_image(target, "lie", "v1")
    right = image.descriptor
    with pytest.raises(ContentMismatch, match="bytes, got"):
        await walk(target, Descriptor(right.media_type, right.digest, right.size + 1))
    with pytest.raises(ContentMismatch):
        await walk(target, Descriptor(OCI_INDEX, right.digest, right.size))
    with pytest.raises(Unsupported, match="expected one as the root"):
        await walk(target, Descriptor("application/x-data", right.digest, right.size))


async def test_two_sizes_of_one_blob(tmp_path: Path) -> None:
    target = Layout(tmp_path)
    await target.push_blob(described(b"{}", CONFIG), opener(b"{}"))
    config = described(b"{}", CONFIG)
    manifest = image_of(config, Descriptor("a/b", config.digest, 3))
    source = _Lying(target, manifest, [])
    with pytest.raises(ContentMismatch, match="is listed with 3 bytes and 2"):
        await walk(source, manifest.descriptor)


class _Lying:
    """A source that adds one manifest and any referrers to a layout."""

    def __init__(self, layout: Layout, manifest: Manifest, referrers: list[Descriptor]) -> None:
        self._layout = layout
        self._manifest = manifest
        self._referrers = referrers
        self.resolve, self.blob, self.exists, self.tags = layout.resolve, layout.blob, layout.exists, layout.tags
        self.name = "lying"

    async def manifest(self, reference: str) -> Manifest:
        if reference == self._manifest.descriptor.digest:
            return self._manifest
        return await self._layout.manifest(reference)

    async def referrers(self, digest: str, artifact_type: str | None = None) -> list[Descriptor]:
        return self._referrers


async def test_referrers_that_are_none_are_left_out_and_named(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    root = await push_image(layout, "root", "v1")
    stranger = (await push_artifact(layout, "no/subject", None)).descriptor
    unrelated = (await push_image(layout, "unrelated", "v2")).descriptor
    gone = described(b"gone", OCI_MANIFEST)
    blob = described(b"blob", "application/x-data")
    source = _Lying(layout, root, [stranger, unrelated, gone, blob, root.descriptor])
    closure = await walk(source, root.descriptor)
    assert digests(closure.manifests) == [root.descriptor.digest]
    assert closure.referrers == []
    assert len(closure.skipped) == 4
    assert all(len(line.splitlines()) == 1 for line in closure.skipped)
    assert "its subject is another" in closure.skipped[0]
    assert len(closure.blobs) == 2  # nothing of the strangers came along
