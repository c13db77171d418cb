from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from oci.blobs import BlobStore
from oci.descriptor import OCI_INDEX, OCI_MANIFEST
from oci.errors import ContentMismatch, OciError, TooLarge, Unsupported
from protocol.release import Content
from receiver.closure import IncompleteImage, absent, listed, plan
from tests.oci_layout.images import (
    CONFIG,
    LAYER,
    Image,
    as_json,
    describe,
    multi_image,
    referrer_to,
    single_image,
)
from tests.receiver.site import content, release_image

FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"


def spool_with(folder: Path, *images: Image) -> BlobStore:
    spool = BlobStore(folder)
    for image in images:
        for digest, data in image.all_files().items():
            spool.write(digest, data)
    return spool


def image_with_layers(*layers: dict[str, object]) -> Image:
    image = Image()
    config = image.add_blob(CONFIG, b"{}")
    image.add_manifest(
        {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": as_json(config), "layers": list(layers)}
    )
    return image


def test_children_come_before_parents_and_referrers_last(tmp_path: Path) -> None:
    image = multi_image()
    signature = referrer_to(image.root.descriptor, "application/vnd.example.signature")
    found = plan(spool_with(tmp_path, image, signature), release_image("a.example/b", ["1", "2"], image, signature))
    order = [descriptor.digest for descriptor in found.manifests]
    assert order == [manifest.descriptor.digest for manifest in (*image.manifests, signature.root)]
    assert {blob.digest for blob in found.blobs} == {*image.blobs, *signature.blobs}
    assert [(tag, item.digest) for tag, item in found.tags] == [(tag, image.root.descriptor.digest) for tag in "12"]
    assert found.size_bytes == sum(map(len, (image.all_files() | signature.all_files()).values()))


def test_what_the_sender_left_behind_is_not_missed_and_nothing_else_is(tmp_path: Path) -> None:
    image = multi_image()
    entry = release_image("a.example/b", ["1"], image)
    left = image.manifests[0].descriptor.digest
    short = replace(entry, closure=tuple(item for item in entry.closure if item.digest != left))
    spool = spool_with(tmp_path, image)
    spool.remove(left)
    with pytest.raises(IncompleteImage):
        plan(spool, short)
    found = plan(spool, replace(short, absent=(left,)))
    assert left not in {descriptor.digest for descriptor in found.manifests}
    layer = json.loads(image.manifests[1].raw)["layers"][0]["digest"]
    spool.remove(layer)
    with pytest.raises(IncompleteImage):
        plan(spool, replace(short, absent=(left, layer)))


def test_tags_of_signatures_come_before_the_tag_of_the_image(tmp_path: Path) -> None:
    image, signature = single_image(), single_image("signature")
    tag = image.root.descriptor.digest.replace(":", "-") + ".sig"
    entry = release_image("a.example/b", ["1"], image, signature)
    entry = replace(
        entry,
        referrers=(),
        closure=(*entry.closure, *entry.referrers),
        extra_tags=((tag, signature.root.descriptor.digest),),
    )
    found = plan(spool_with(tmp_path, image, signature), entry)
    assert [name for name, _ in found.tags] == [tag, "1"]


def test_a_list_that_is_too_short_is_found_out(tmp_path: Path) -> None:
    image = multi_image()
    spool = spool_with(tmp_path, image)
    layer = next(descriptor for descriptor, _ in image.blobs.values() if descriptor.media_type == LAYER)
    entry = release_image("a.example/b", ["1"], image)
    short = replace(entry, closure=tuple(item for item in entry.closure if item.digest != layer.digest))
    assert plan(spool, short).size_bytes == plan(spool, entry).size_bytes  # it is here: nothing to complain of
    spool.remove(layer.digest)
    assert absent(spool, listed(short).values()) == []
    with pytest.raises(IncompleteImage) as caught:
        plan(spool, short)
    assert caught.value.missing == (layer,)
    assert f"does not list {layer.digest[:19]}… ({layer.size:,} bytes; manifest sha256:" in str(caught.value)


def test_a_missing_child_manifest_is_missing_content(tmp_path: Path) -> None:
    image = multi_image()
    spool = spool_with(tmp_path, image)
    child = image.manifests[0].descriptor
    spool.remove(child.digest)
    entry = release_image("a.example/b", ["1"], image)
    assert absent(spool, listed(entry).values()) == [content(child)]
    with pytest.raises(IncompleteImage):
        plan(spool, entry)


def test_foreign_layers_may_be_absent_and_others_not(tmp_path: Path) -> None:
    foreign = describe(FOREIGN, b"somewhere else")
    image = image_with_layers(as_json(foreign, urls=["https://example.com/layer"]))
    found = plan(spool_with(tmp_path / "one", image), release_image("a.example/b", ["1"], image))
    assert foreign.digest not in {blob.digest for blob in found.blobs}
    with_layer = spool_with(tmp_path / "two", image)
    with_layer.write(foreign.digest, b"somewhere else")
    assert foreign.digest in {
        blob.digest for blob in plan(with_layer, release_image("a.example/b", ["1"], image)).blobs
    }
    plain = image_with_layers(as_json(describe(LAYER, b"gone"), urls=["https://example.com/layer"]))
    with pytest.raises(IncompleteImage):
        plan(spool_with(tmp_path / "three", plain), release_image("a.example/b", ["1"], plain))


def test_sizes_that_do_not_agree_are_refused(tmp_path: Path) -> None:
    image = single_image()
    spool = spool_with(tmp_path, image)
    entry = release_image("a.example/b", ["1"], image)
    wrong = [replace(item, size=item.size + 1) for item in entry.closure]
    with pytest.raises(ContentMismatch, match="the release lists sha256:"):
        absent(spool, wrong)
    layer = image.add_blob(LAYER, b"three")
    lying = image_with_layers(as_json(replace(layer, size=4)))
    spool = spool_with(tmp_path / "lying", image, lying)
    with pytest.raises(ContentMismatch, match="with 4 bytes; it has 5"):
        plan(spool, release_image("a.example/b", ["1"], lying))


def test_a_referrer_must_refer_to_this_image(tmp_path: Path) -> None:
    image, other = single_image(), single_image("other")
    stray = referrer_to(other.root.descriptor, "application/vnd.example.signature")
    spool = spool_with(tmp_path, image, stray)
    with pytest.raises(ContentMismatch, match="expected a manifest of this image"):
        plan(spool, release_image("a.example/b", ["1"], image, stray))
    with pytest.raises(ContentMismatch, match="refers to nothing"):
        plan(spool_with(tmp_path, other), release_image("a.example/b", ["1"], image, other))


def nested(depth: int) -> Image:
    image = single_image()
    for _ in range(depth):
        image.add_manifest(
            {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [as_json(image.root.descriptor)]}
        )
    return image


def not_a_manifest() -> Image:
    image = single_image()
    descriptor = describe(OCI_MANIFEST, json.dumps({"schemaVersion": 1}).encode())
    image.manifests[-1] = replace(image.root, descriptor=descriptor, raw=b'{"schemaVersion": 1}')
    return image


@pytest.mark.parametrize(
    ("image", "error", "words"),
    [(nested(9), TooLarge, "nested more than 8 deep"), (not_a_manifest(), Unsupported, "schema 1")],
)
def test_documents_beyond_bounds_or_grammar(tmp_path: Path, image: Image, error: type[OciError], words: str) -> None:
    with pytest.raises(error, match=words):
        plan(spool_with(tmp_path, image), release_image("a.example/b", ["1"], image))


def test_a_root_that_is_no_manifest_is_refused(tmp_path: Path) -> None:
    image = single_image()
    entry = release_image("a.example/b", ["1"], image)
    with pytest.raises(Unsupported, match="text/plain"):
        plan(
            spool_with(tmp_path, image),
            replace(entry, root=Content("text/plain", entry.root.digest, entry.root.size)),
        )
