"""The client against Debian's docker-registry, where nothing is pretended."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import AsyncIterator

import pytest

from oci import limits
from oci import upload as upload_module
from oci.client import Registry
from oci.descriptor import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    referrers_tag,
    sha256_digest,
)
from oci.errors import ContentMismatch, NotFound, ReferenceError_, Refused, Unreachable
from oci.store import Target
from tests.oci.peers import (
    CONFIG,
    described,
    entry,
    free_port,
    image_of,
    index_of,
    manifest_of,
    opener,
    push_artifact,
    push_image,
)

pytestmark = pytest.mark.registry


async def collected(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


async def test_ping(registry: Registry) -> None:
    await registry.ping()


async def test_repository_is_a_target(registry: Registry) -> None:
    target: Target = registry.repository("a/target")
    assert target.name == f"{registry.host}/a/target"


@pytest.mark.parametrize("size", [0, 1, 300_000])
async def test_small_blob_goes_in_one_put_and_comes_back(registry: Registry, size: int) -> None:
    data = os.urandom(size)
    repository = registry.repository("small/blob")
    moved: list[int] = []
    assert await repository.push_blob(described(data), opener(data), progress=moved.append)
    assert sum(moved) == size
    assert await repository.exists(described(data))
    assert not await repository.push_blob(described(data), opener(data))
    assert await collected(repository.blob(described(data))) == data
    assert await collected(repository.blob(described(data), size // 2)) == data[size // 2 :]


async def test_large_blob_goes_in_chunks(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "UPLOAD_CHUNK_BYTES", 1_000_000)
    data = os.urandom(3_500_001)
    repository = registry.repository("large/blob")
    offsets: list[int] = []
    moved: list[int] = []
    assert await repository.push_blob(described(data), opener(data, offsets), progress=moved.append)
    assert offsets == [0]
    assert sum(moved) == len(data)
    assert await collected(repository.blob(described(data))) == data


async def test_broken_chunk_is_sent_again(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection breaks in the middle of a chunk; whatever the registry makes of it, the blob arrives."""
    monkeypatch.setattr(limits, "UPLOAD_CHUNK_BYTES", 1_000_000)
    monkeypatch.setattr(limits, "BACKOFF_SECONDS_BASE", 0.01)
    data = os.urandom(3_000_000)
    repository = registry.repository("broken/chunk")
    taken = upload_module.VerifiedReader.take
    broken: list[int] = []

    async def breaking(self: upload_module.VerifiedReader, offset: int, count: int) -> AsyncIterator[bytes]:
        async for piece in taken(self, offset, count):
            yield piece
            if offset == 1_000_000 and not broken:
                broken.append(offset)
                raise OSError("cable pulled")

    monkeypatch.setattr(upload_module.VerifiedReader, "take", breaking)
    moved: list[int] = []
    assert await repository.push_blob(described(data), opener(data), progress=moved.append)
    assert broken
    assert sum(moved) == len(data)
    assert await collected(repository.blob(described(data))) == data


async def test_mount_moves_no_bytes(registry: Registry) -> None:
    data = os.urandom(1000)
    await registry.repository("mount/source").push_blob(described(data), opener(data))
    target = registry.repository("mount/target")
    offsets: list[int] = []
    assert not await target.push_blob(described(data), opener(data, offsets), mount_from="mount/source")
    assert offsets == []
    assert await collected(target.blob(described(data))) == data


async def test_mount_of_what_is_not_there_becomes_an_upload(registry: Registry) -> None:
    data = os.urandom(1000)
    target = registry.repository("mount/target")
    assert await target.push_blob(described(data), opener(data), mount_from="mount/nowhere")
    assert await collected(target.blob(described(data))) == data


@pytest.mark.parametrize("chunk", [100, 1_000_000])
@pytest.mark.parametrize("fault", ["short", "long", "digest"])
async def test_wrong_content_is_never_completed(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, chunk: int, fault: str
) -> None:
    monkeypatch.setattr(limits, "UPLOAD_CHUNK_BYTES", chunk)
    data = os.urandom(1000)
    stated = Descriptor("a/b", sha256_digest(data), 1000)
    sent, says = {
        "short": (data[:-1], "expected 1,000 bytes, got 999"),
        "long": (data + b"x", "expected 1,000 bytes, got more"),
        "digest": (bytes(1000), "have digest"),
    }[fault]
    repository = registry.repository(f"wrong/{fault}")
    with pytest.raises(ContentMismatch, match=says):
        await repository.push_blob(stated, opener(sent, piece_bytes=64))
    assert not await repository.exists(stated)


async def test_a_failing_opener_is_what_gets_told(registry: Registry) -> None:
    async def failing(_: int) -> AsyncIterator[bytes]:
        yield b"x"
        raise NotFound("oci:/srv/layout: blob is gone")

    with pytest.raises(NotFound, match="/srv/layout"):
        await registry.repository("failing/opener").push_blob(described(b"xyz"), failing)


async def test_manifest_bytes_are_kept(registry: Registry) -> None:
    repository = registry.repository("keep/bytes")
    manifest = await push_image(repository, "bytes", "v1")
    digest = manifest.descriptor.digest
    assert await repository.resolve("v1") == manifest.descriptor
    assert await repository.resolve(digest) == manifest.descriptor
    assert await repository.manifest("v1") == manifest
    assert await repository.manifest(digest) == manifest
    assert await repository.exists(manifest.descriptor)
    assert await repository.tags() == ["v1"]


@pytest.mark.parametrize(("list_type", "image_type"), [(OCI_INDEX, OCI_MANIFEST), (DOCKER_LIST, DOCKER_MANIFEST)])
async def test_indexes(registry: Registry, list_type: str, image_type: str) -> None:
    repository = registry.repository("an/index")
    child = await push_image(repository, "child", mediaType=image_type)
    assert child.descriptor.media_type == image_type
    index = index_of(entry(child.descriptor, platform={"os": "linux", "architecture": "arm64"}), mediaType=list_type)
    await repository.push_manifest(index, "multi")
    assert await repository.manifest("multi") == index


async def test_nested_index(registry: Registry) -> None:
    repository = registry.repository("nested/index")
    child = await push_image(repository, "nested")
    inner = index_of(entry(child.descriptor))
    outer = index_of(entry(inner.descriptor), entry(child.descriptor))
    await repository.push_manifest(inner)
    await repository.push_manifest(outer, "nested")
    assert await repository.manifest("nested") == outer


async def test_manifest_without_its_blobs_is_refused(registry: Registry) -> None:
    config = Descriptor(CONFIG, sha256_digest(b"nowhere"), 7)
    with pytest.raises(Refused, match="MANIFEST_BLOB_UNKNOWN"):
        await registry.repository("no/blobs").push_manifest(image_of(config), "v1")


async def test_subject_goes_into_the_fallback_index(registry: Registry) -> None:
    repository = registry.repository("sub/ject")
    subject = (await push_image(repository, "subject", "v1")).descriptor
    assert await repository.referrers(subject.digest) == []
    first = await push_artifact(repository, "test/sbom", subject)
    second = await push_artifact(repository, "test/signature", subject)
    await repository.push_manifest(first)  # again: no second entry
    listed = await repository.referrers(subject.digest)
    assert [item.digest for item in listed] == [first.descriptor.digest, second.descriptor.digest]
    assert [item.artifact_type for item in listed] == ["test/sbom", "test/signature"]
    assert listed[0].annotations == {"kind": "test/sbom"}
    filtered = await repository.referrers(subject.digest, "test/signature")
    assert [item.digest for item in filtered] == [second.descriptor.digest]
    assert await repository.tags() == [referrers_tag(subject.digest), "v1"]


async def test_fallback_index_keeps_what_others_wrote(registry: Registry) -> None:
    repository = registry.repository("keep/others")
    subject = (await push_image(repository, "others", "v1")).descriptor
    other = await push_artifact(repository, "other/tool", None)
    foreign = entry(other.descriptor, artifactType="other/tool", **{"x-unknown": [1]})
    await repository.push_manifest(
        index_of(foreign, annotations={"by": "another tool"}), referrers_tag(subject.digest)
    )
    await push_artifact(repository, "test/sbom", subject)
    document = json.loads((await repository.manifest(referrers_tag(subject.digest))).raw)
    assert document["manifests"][0] == foreign
    assert document["annotations"] == {"by": "another tool"}
    assert len(document["manifests"]) == 2


async def test_fallback_tag_that_is_an_image_is_not_overwritten(registry: Registry) -> None:
    repository = registry.repository("not/ours")
    subject = (await push_image(repository, "not ours", "v1")).descriptor
    image = await push_image(repository, "squatter", referrers_tag(subject.digest))
    with pytest.raises(ContentMismatch, match="expected the referrers index"):
        await push_artifact(repository, "test/sbom", subject)
    assert await repository.manifest(referrers_tag(subject.digest)) == image
    assert await repository.referrers(subject.digest) == []


async def test_bytes_that_are_not_the_descriptors_are_not_pushed(registry: Registry) -> None:
    good = manifest_of({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []})
    with pytest.raises(ContentMismatch, match="do not have the digest"):
        await registry.repository("bad/bytes").push_manifest(Manifest(good.descriptor, good.raw + b" "))


async def test_what_is_not_there(registry: Registry) -> None:
    repository = registry.repository("no/where")
    missing = described(b"missing")
    assert not await repository.exists(missing)
    assert not await repository.exists(Descriptor(OCI_MANIFEST, missing.digest, 7))
    with pytest.raises(NotFound, match=r"no/where: manifest v1: not found"):
        await repository.resolve("v1")
    with pytest.raises(NotFound, match="MANIFEST_UNKNOWN"):
        await repository.manifest("v1")
    with pytest.raises(NotFound, match="NAME_UNKNOWN"):
        await repository.tags()
    with pytest.raises(NotFound, match="blob sha256:"):
        await collected(repository.blob(missing))


async def test_size_of_the_descriptor_counts(registry: Registry) -> None:
    repository = registry.repository("size/counts")
    data = os.urandom(500)
    await repository.push_blob(described(data), opener(data))
    wrong = Descriptor("a/b", sha256_digest(data), 501)
    assert not await repository.exists(wrong)
    with pytest.raises(ContentMismatch, match="expected 501 bytes, got 500"):
        await collected(repository.blob(wrong))


@pytest.mark.parametrize("reference", ["", "../x", "a/b", "a?b", "sha256:xyz", "x" * 129])
async def test_only_tags_and_digests_reach_a_path(registry: Registry, reference: str) -> None:
    for ask in (registry.repository("a/b").resolve, registry.repository("a/b").manifest):
        with pytest.raises(ReferenceError_):
            await ask(reference)


@pytest.mark.parametrize("path", ["", "..", "a//b", "A", "a/../b", "a?x"])
def test_only_repository_names_reach_a_path(path: str) -> None:
    with pytest.raises(ReferenceError_):
        Registry("r.example").repository(path)


async def test_nobody_there() -> None:
    async with Registry(f"127.0.0.1:{free_port()}", plain_http=True) as registry:
        registry._http._sleep = _no_sleep
        with pytest.raises(Unreachable, match="cannot connect"):
            await registry.ping()


async def _no_sleep(_: float) -> None:
    return


async def test_skopeo_reads_what_we_push(registry: Registry, registry_host: str) -> None:
    manifest = await push_image(registry.repository("by/skopeo"), "skopeo", "v1")
    command = ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{registry_host}/by/skopeo:v1"]
    try:
        done = subprocess.run(command, capture_output=True, check=True, timeout=30)
    except FileNotFoundError:
        pytest.skip("skopeo is not installed: sudo apt-get install skopeo")
    assert done.stdout == manifest.raw
