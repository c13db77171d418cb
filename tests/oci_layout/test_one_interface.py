"""The contract of store.py, driven against a layout, a repository in one, and our client over our server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from oci import limits
from oci.client import Registry
from oci.descriptor import OCI_MANIFEST, Manifest, sha256_digest
from oci.errors import ContentMismatch, NotFound, OciError
from oci.layout import Layout
from oci.server import serve
from oci.store import Target
from tests.oci_layout.images import describe, multi_image, opener, referrer_to, single_image
from tests.oci_layout.test_archive import read_all, read_closure

NAME = "internal/docker.io/library/app"


@pytest.fixture(params=["layout", "repository", "server"])
async def target(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Target]:
    layout = Layout(tmp_path)
    if request.param != "server":
        yield layout if request.param == "layout" else layout.repository(NAME)
        return
    server = await serve(layout)
    async with Registry(f"127.0.0.1:{server.port}", plain_http=True) as registry:
        yield registry.repository(NAME)
    await server.close()


async def test_what_goes_in_comes_out(target: Target) -> None:
    image = multi_image()
    for descriptor, data in image.blobs.values():
        assert not await target.exists(descriptor)
        told: list[int] = []
        assert await target.push_blob(descriptor, opener(data), progress=told.append)
        assert sum(told) == len(data)
        assert not await target.push_blob(descriptor, opener(data))
        assert await target.exists(descriptor)
        assert await read_all(target, descriptor, 5) == data[5:]
    for manifest in image.manifests:
        await target.push_manifest(manifest)
    await target.push_manifest(image.root, "1.0")
    await target.push_manifest(image.manifests[0], "0.9")
    assert await target.tags() == ["0.9", "1.0"]
    assert await target.resolve("1.0") == image.root.descriptor
    assert await target.manifest("1.0") == image.root
    assert await read_closure(target, "1.0") == image.all_files()
    for manifest in image.manifests:
        assert await target.resolve(manifest.descriptor.digest) == manifest.descriptor
        assert await target.manifest(manifest.descriptor.digest) == manifest
        assert await target.exists(manifest.descriptor)


async def test_referrers(target: Target) -> None:
    image = single_image()
    await image.push(target, "1")
    subject = image.root.descriptor
    made = [referrer_to(subject, kind) for kind in ("application/x.sig", "application/x.sbom")]
    for artifact in made:
        await artifact.push(target, None)
    found = await target.referrers(subject.digest)
    assert {(item.digest, item.artifact_type) for item in found} == {
        (artifact.root.descriptor.digest, kind)
        for artifact, kind in zip(made, ("application/x.sig", "application/x.sbom"), strict=True)
    }
    (only,) = await target.referrers(subject.digest, "application/x.sbom")
    assert only.digest == made[1].root.descriptor.digest
    assert only.annotations == {"note": "application/x.sbom"}
    # The server has the API, so no client leaves an index of the tag schema behind.
    assert await target.tags() == ["1"]
    assert await target.referrers(sha256_digest(b"absent")) == []


async def test_what_is_absent_or_wrong(target: Target) -> None:
    image = single_image()
    descriptor, data = next(iter(image.blobs.values()))
    for reference in ("absent", descriptor.digest):
        with pytest.raises(NotFound):
            await target.resolve(reference)
        with pytest.raises(NotFound):
            await target.manifest(reference)
    with pytest.raises(NotFound):
        await read_all(target, descriptor)
    with pytest.raises(ContentMismatch):
        await target.push_blob(descriptor, opener(data[:-1] + b"?"))
    assert not await target.exists(descriptor)
    with pytest.raises(OciError):
        await target.push_manifest(image.root, "1")
    wrong = Manifest(describe(OCI_MANIFEST, b"{}"), image.root.raw)
    with pytest.raises(ContentMismatch):
        await target.push_manifest(wrong, "1")


async def test_a_blob_of_many_chunks(target: Target) -> None:
    data = bytes(range(256)) * 40_000
    descriptor = describe("application/octet-stream", data)

    async def chunks(offset: int) -> AsyncIterator[bytes]:
        for start in range(offset, len(data), limits.BLOB_CHUNK_BYTES):
            yield data[start : start + limits.BLOB_CHUNK_BYTES]

    assert await target.push_blob(descriptor, chunks)
    assert await read_all(target, descriptor) == data
