from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oci import layout_index
from oci.descriptor import OCI_INDEX, OCI_MANIFEST, Descriptor, Manifest, sha256_digest
from oci.errors import (
    ContentMismatch,
    Misconfigured,
    NotFound,
    OciError,
    ReferenceError_,
    Refused,
    StorageFull,
    TooLarge,
    Unsupported,
)
from oci.layout import Layout
from oci.store import Source, Target
from tests.oci_layout.images import (
    as_json,
    describe,
    layout_files,
    manifest_of,
    multi_image,
    opener,
    referrer_to,
    single_image,
    write_files,
)

NAME = "internal/docker.io/library/nginx"
REF_NAME = "org.opencontainers.image.ref.name"


def index_of(root: Path) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads((root / "index.json").read_bytes())["manifests"]
    return entries


async def test_a_layout_and_its_repositories_are_targets(tmp_path: Path) -> None:
    image = multi_image()
    layout = Layout(tmp_path / "new" / "layout")
    whole: Target = layout
    await image.push(whole, "1.27")
    for descriptor, data in image.blobs.values():
        assert not await layout.push_blob(descriptor, opener(b"never asked"))
        assert await layout.exists(descriptor)
        assert not await layout.exists(replace(descriptor, size=descriptor.size + 1))
        assert b"".join([chunk async for chunk in layout.blob(descriptor)]) == data
    for manifest in image.manifests:
        assert await layout.manifest(manifest.descriptor.digest) == manifest
        assert await layout.resolve(manifest.descriptor.digest) == manifest.descriptor
    source: Source = Layout.open(tmp_path / "new" / "layout")
    assert await source.manifest("1.27") == image.root
    assert await source.tags() == ["1.27"]
    assert json.loads((layout.root / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}


async def test_repositories_keep_their_tags_apart(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    one, two = single_image("one"), single_image("two")
    await one.push(layout.repository(NAME), "1.27")
    await two.push(layout.repository("other/nginx"), "1.27")
    await two.push(layout.repository(NAME), "2")
    assert await layout.repository(NAME).tags() == ["1.27", "2"]
    assert await layout.repository("other/nginx").tags() == ["1.27"]
    assert await layout.repository("other").tags() == []
    assert await layout.tags() == [f"{NAME}:1.27", f"{NAME}:2", "other/nginx:1.27"]
    assert await layout.repositories() == [NAME, "other/nginx"]
    assert await layout.repository(NAME).manifest("1.27") == one.root
    assert await layout.manifest(f"{NAME}:2") == two.root
    assert layout.repository(NAME).name == f"oci:{tmp_path}:{NAME}"
    with pytest.raises(NotFound, match=r"no tag '9'"):
        await layout.repository(NAME).resolve("9")


async def test_a_tag_moves_and_nothing_else_changes(tmp_path: Path) -> None:
    repository = Layout(tmp_path).repository(NAME)
    one, two = single_image("one"), single_image("two")
    await one.push(repository, "latest")
    await one.push(repository, "1.0")
    await two.push(repository, "latest")
    assert (await repository.resolve("latest")).digest == two.root.descriptor.digest
    assert (await repository.resolve("1.0")).digest == one.root.descriptor.digest
    assert [entry["annotations"][REF_NAME] for entry in index_of(tmp_path)] == [f"{NAME}:1.0", f"{NAME}:latest"]
    before = (tmp_path / "index.json").stat().st_mtime_ns
    await two.push(repository, "latest")
    assert (tmp_path / "index.json").stat().st_mtime_ns == before
    assert await repository.manifest(one.root.descriptor.digest) == one.root


async def test_referrers_of_images_children_and_referrers(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    repository = layout.repository(NAME)
    image = multi_image()
    await image.push(repository, "1.27")
    root, child = image.root.descriptor, image.manifests[0].descriptor
    signature = referrer_to(root, "application/x.sig")
    bill = referrer_to(child, "application/x.sbom")
    second = referrer_to(signature.root.descriptor, "application/x.countersign")
    for artifact in (signature, bill, second):
        await artifact.push(repository, None)
    found = await repository.referrers(root.digest)
    assert [item.digest for item in found] == [signature.root.descriptor.digest]
    assert found[0].artifact_type == "application/x.sig"
    assert found[0].annotations == {"note": "application/x.sig"}
    assert [item.digest for item in await repository.referrers(child.digest)] == [bill.root.descriptor.digest]
    assert len(await repository.referrers(signature.root.descriptor.digest)) == 1
    assert await repository.referrers(root.digest, "application/x.sbom") == []
    assert await repository.referrers(second.root.descriptor.digest) == []
    with pytest.raises(ReferenceError_):
        await repository.referrers("1.27")
    # A referrer that loses its tag is still found.
    await signature.push(repository, "sig")
    await image.push(repository, "sig")
    assert len(await repository.referrers(root.digest)) == 1


async def test_referrers_of_the_tag_schema(tmp_path: Path) -> None:
    repository = Layout(tmp_path).repository(NAME)
    image = single_image()
    await image.push(repository, "1")
    subject = image.root.descriptor
    listed = describe(OCI_MANIFEST, b"elsewhere")
    index = manifest_of(
        {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [as_json(listed, artifactType="application/x.old")],
        }
    )
    await repository.push_manifest(index, subject.digest.replace(":", "-"))
    assert [item.digest for item in await repository.referrers(subject.digest, "application/x.old")] == [
        listed.digest
    ]


async def test_a_sparse_index_is_taken_but_a_missing_layer_is_not(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    image = multi_image()
    await layout.push_manifest(image.root, "sparse")
    assert [item.digest for item in layout.missing_children(image.root)] == [image.manifests[-2].descriptor.digest]
    with pytest.raises(Refused, match="not there yet"):
        await layout.push_manifest(image.manifests[0], "broken")
    assert await layout.tags() == ["sparse"]


async def test_foreign_layers_may_be_absent(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    config = describe("application/vnd.oci.image.config.v1+json", b"{}")
    await layout.push_blob(config, opener(b"{}"))
    foreign = as_json(
        describe("application/vnd.oci.image.layer.nondistributable.v1.tar", b"far away"),
        urls=["https://example.org/layer"],
    )
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": as_json(config),
        "layers": [foreign],
    }
    await layout.push_manifest(manifest_of(document), "win")
    assert layout.missing_children(await layout.manifest("win")) == []


async def test_what_is_pushed_is_verified(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    image = single_image()
    descriptor, data = next(iter(image.blobs.values()))
    with pytest.raises(ContentMismatch):
        await layout.push_blob(descriptor, opener(data[:-1]))
    with pytest.raises(ContentMismatch):
        await layout.push_blob(descriptor, opener(data[:-1] + b"?"))
    assert not await layout.exists(descriptor)
    for descriptor, data in image.blobs.values():
        await layout.push_blob(descriptor, opener(data))
    root = image.root
    with pytest.raises(ContentMismatch, match="are not"):
        await layout.push_manifest(Manifest(root.descriptor, root.raw + b" "), "1")
    with pytest.raises(ContentMismatch, match="Content-Type"):
        await layout.push_manifest(Manifest(replace(root.descriptor, media_type=OCI_INDEX), root.raw), "1")
    big = b" " * (4 * 1024 * 1024 + 1)
    with pytest.raises(TooLarge):
        await layout.push_manifest(Manifest(describe(OCI_MANIFEST, big), big), "1")
    for tag in ("a b", "", "-x", "x" * 129, "a:b", "a/b"):
        with pytest.raises(ReferenceError_, match="is not a tag"):
            await layout.repository(NAME).push_manifest(root, tag)
    with pytest.raises(ReferenceError_):
        await layout.push_manifest(root, root.descriptor.digest)
    for name in ("", "../up", "a:", "a b", "/abs"):
        with pytest.raises(ReferenceError_, match="is not a repository name"):
            layout.repository(name)
    assert await layout.tags() == []


async def test_a_blob_is_no_manifest(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    image = single_image()
    await image.push(layout, "1")
    for descriptor, _ in image.blobs.values():
        with pytest.raises(NotFound, match="no manifest"):
            await layout.resolve(descriptor.digest)
    with pytest.raises(NotFound, match="no manifest"):
        await layout.manifest(sha256_digest(b"absent"))


async def test_a_damaged_manifest_is_noticed(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    image = single_image()
    await image.push(layout, "1")
    path = layout.blobs.path(image.root.descriptor.digest)
    path.write_bytes(image.root.raw.replace(b"schemaVersion", b"schemaVersioN"))
    for reference in ("1", image.root.descriptor.digest):
        with pytest.raises(ContentMismatch):
            await layout.manifest(reference)


async def test_layouts_of_other_tools(tmp_path: Path) -> None:
    image = multi_image()
    root, child = image.root.descriptor, image.manifests[0].descriptor
    containerd = {REF_NAME: "1.27", "io.containerd.image.name": "docker.io/library/nginx:1.27", "own": "kept"}
    files = layout_files(
        image,
        as_json(root, annotations=containerd),
        as_json(child, annotations={REF_NAME: "docker.io/library/nginx:amd64"}, platform={"os": "linux"}),
    )
    index = json.loads(files["index.json"]) | {"annotations": {"own": "kept"}}
    files["index.json"] = json.dumps(index).encode()
    layout = Layout.open(write_files(tmp_path, files))
    nginx = layout.repository("docker.io/library/nginx")
    for source, tag in ((layout, "1.27"), (layout, "docker.io/library/nginx:1.27"), (nginx, "1.27")):
        resolved = await source.resolve(tag)
        assert resolved == replace(root, annotations={"own": "kept"})
    assert (await nginx.resolve("amd64")).digest == child.digest
    assert await nginx.tags() == ["1.27", "amd64"]
    # Nothing we do not know is lost by a write, and a name of ours comes before containerd's.
    await nginx.push_manifest(image.manifests[1], "new")
    await nginx.push_manifest(image.manifests[1], "1.27")
    assert json.loads((tmp_path / "index.json").read_bytes())["annotations"] == {"own": "kept"}
    assert index_of(tmp_path)[:2] == index["manifests"]
    assert (await nginx.resolve("1.27")).digest == image.manifests[1].descriptor.digest


@pytest.mark.parametrize(
    ("name", "data", "error", "message"),
    [
        ("oci-layout", b'{"imageLayoutVersion":"9"}', Unsupported, "'9', only '1.0.0'"),
        ("oci-layout", b"nonsense", OciError, "not valid JSON"),
        ("index.json", b"nonsense", OciError, "not valid JSON"),
        ("index.json", b"[" * 100_000, OciError, "not valid JSON"),
        ("index.json", b"[]", OciError, "not an OCI image index"),
        ("index.json", b'{"manifests":[1]}', OciError, r"manifests\[0\] is no descriptor"),
        (
            "index.json",
            b'{"manifests":[{"mediaType":"a","digest":"sha256:1","size":1}]}',
            OciError,
            r"manifests\[0\]: digest",
        ),
        (
            "index.json",
            b'{"manifests":[{"mediaType":"a","digest":"b","size":true}]}',
            OciError,
            r"manifests\[0\] is no descriptor",
        ),
    ],
)
async def test_broken_layouts_are_named(
    tmp_path: Path, name: str, data: bytes, error: type[OciError], message: str
) -> None:
    write_files(tmp_path, {**layout_files(single_image()), name: data})
    with pytest.raises(error, match=message) as caught:
        await Layout(tmp_path).tags()
    assert str(tmp_path / name) in str(caught.value)


async def test_what_is_no_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFound, match="not an OCI image layout"):
        Layout.open(tmp_path / "absent")
    assert await Layout(tmp_path / "absent").tags() == []
    assert not (tmp_path / "absent").exists()
    write_files(tmp_path, layout_files(single_image()))
    monkeypatch.setattr(layout_index, "LAYOUT_INDEX_BYTES_MAX", 20)
    with pytest.raises(TooLarge):
        await Layout(tmp_path).tags()


WRITER = """
import asyncio, sys
from pathlib import Path
from tests.oci_layout.images import single_image
from oci.layout import Layout
async def main(root, who):
    image = single_image("shared")
    for number in range(8):
        await image.push(Layout(Path(root)).repository(f"repo/{who}"), f"t{number}")
asyncio.run(main(*sys.argv[1:]))
"""


async def test_writers_in_many_processes_lose_no_tag(tmp_path: Path) -> None:
    repository = Path(__file__).parents[2]
    running = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(who)], cwd=repository) for who in range(3)
    ]
    layout = Layout(tmp_path)
    image = single_image("mine")
    await asyncio.gather(*(image.push(layout, f"m{number}") for number in range(8)))
    for process in running:
        assert await asyncio.to_thread(process.wait) == 0
    assert len(await layout.tags()) == 3 * 8 + 8
    assert not list(tmp_path.glob(".index.json.*"))


@pytest.mark.parametrize("step", ["fsync", "replace"])
async def test_a_failed_index_write_leaves_the_old_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    layout = Layout(tmp_path)
    image = single_image()
    await image.push(layout, "1")
    before = (tmp_path / "index.json").read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(StorageFull):
        await layout.push_manifest(image.root, "2")
    monkeypatch.undo()
    assert (tmp_path / "index.json").read_bytes() == before
    assert not list(tmp_path.glob(".index.json.*"))
    await layout.push_manifest(image.root, "2")
    assert await Layout(tmp_path).tags() == ["1", "2"]


async def test_a_foreign_broken_manifest_does_not_hide_referrers(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    image = single_image()
    await image.push(layout, "1")
    subject = image.root.descriptor
    await referrer_to(subject, "application/x.sig").push(layout, None)
    index = json.loads((tmp_path / "index.json").read_bytes())
    broken = Descriptor(OCI_MANIFEST, sha256_digest(b"absent"), 3)
    layout.blobs.write(sha256_digest(b"no json"), b"no json")
    other = Descriptor(OCI_MANIFEST, sha256_digest(b"no json"), 7)
    index["manifests"] = [as_json(broken), as_json(other), *index["manifests"]]
    (tmp_path / "index.json").write_text(json.dumps(index))
    assert len(await layout.referrers(subject.digest)) == 1


async def test_a_place_that_is_no_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    image = single_image()
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        assert await Layout(root).tags() == []
        with pytest.raises(Misconfigured, match="expected a folder") as caught:
            await image.push(Layout(root), "1")
        assert str(tmp_path / "file") in str(caught.value)
    (tmp_path / "layout" / "index.json").mkdir(parents=True)
    with pytest.raises(Misconfigured, match="expected a file"):
        await Layout(tmp_path / "layout").tags()
