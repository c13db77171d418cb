from __future__ import annotations

import asyncio
import gzip
import io
import json
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from oci import archive as archive_module
from oci import archive_members
from oci.archive import ArchiveSource, open_archive
from oci.descriptor import OCI_MANIFEST, Descriptor, sha256_digest
from oci.errors import ContentMismatch, NotFound, OciError, ReferenceError_, TooLarge, Unsupported
from oci.store import Source
from tests.oci_layout.images import (
    as_json,
    layer_tar,
    layout_files,
    legacy_files,
    multi_image,
    referrer_to,
    single_image,
    tar_of,
    zstd,
)

# The manifest made up for legacy_files(): pins of users depend on it, so it may never change.
LEGACY_PIN = "sha256:5fb6879adf041596ef5295d7092bff18f6e8f9a03e46610718cf833f0fb13232"


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def check_one_line(error: OciError) -> None:
    assert "\n" not in str(error)


async def read_all(source: Source, descriptor: Descriptor, offset: int = 0) -> bytes:
    return b"".join([chunk async for chunk in source.blob(descriptor, offset)])


async def read_closure(source: Source, reference: str) -> dict[str, bytes]:
    """Everything below *reference*, by digest; all of it verified by the source."""
    root = await source.manifest(reference)
    found = {root.descriptor.digest: root.raw}
    document = json.loads(root.raw)
    for child in document.get("manifests", []):
        found |= await read_closure(source, child["digest"])
    for child in [document["config"], *document["layers"]] if "config" in document else []:
        descriptor = Descriptor(child["mediaType"], child["digest"], child["size"])
        found[descriptor.digest] = await read_all(source, descriptor)
    return found


async def test_oci_archive_gives_every_byte_back(tmp_path: Path) -> None:
    image = multi_image()
    with open_archive(write(tmp_path / "a.tar", tar_of(layout_files(image)))) as source:
        assert await read_closure(source, "latest") == image.all_files()
        assert await source.resolve(image.root.descriptor.digest) == image.root.descriptor
        assert await source.tags() == ["latest"]
        layer = next(iter(image.blobs.values()))
        assert await source.exists(layer[0])
        assert await read_all(source, layer[0], 17) == layer[1][17:]
        assert source.name == f"oci-archive:{tmp_path / 'a.tar'}"


@pytest.mark.parametrize("compress", [gzip.compress, zstd], ids=["gzip", "zstd"])
async def test_compressed_archive_is_read_through_a_bounded_copy(
    tmp_path: Path, compress: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = single_image()
    plain = tar_of(layout_files(image))
    path = write(tmp_path / "a.tar.x", compress(plain))  # type: ignore[operator]
    with open_archive(path, scratch=tmp_path) as source:
        assert await read_closure(source, "latest") == image.all_files()
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.setattr(archive_module, "ARCHIVE_UNPACKED_BYTES_MAX", len(plain) - 1)
    with pytest.raises(TooLarge, match="unpacks to more than"):
        open_archive(path)


async def test_names_as_containerd_and_docker_write_them(tmp_path: Path) -> None:
    image = single_image("one")
    first = image.root
    single_image("two", image=image)
    entries = [
        as_json(
            manifest.descriptor,
            annotations={
                "org.opencontainers.image.ref.name": "1.0",
                "io.containerd.image.name": f"docker.io/library/{name}:1.0",
            },
        )
        for manifest, name in ((first, "one"), (image.root, "two"))
    ]
    with open_archive(write(tmp_path / "a.tar", tar_of(layout_files(image, *entries)))) as source:
        assert (await source.resolve("docker.io/library/one:1.0")).digest == first.descriptor.digest
        assert (await source.resolve("docker.io/library/two:1.0")).digest == image.root.descriptor.digest
        with pytest.raises(ReferenceError_, match=r"2 images; use one of 'docker.io/library/one:1.0'"):
            await source.resolve("1.0")
        with pytest.raises(NotFound, match=r"no tag '2\.0'"):
            await source.resolve("2.0")


async def test_referrers_of_an_archive(tmp_path: Path) -> None:
    image = single_image()
    subject = image.root.descriptor
    signature = referrer_to(subject, "application/x.sig")
    image.blobs |= signature.blobs
    image.manifests.append(signature.root)
    files = layout_files(image, as_json(subject), as_json(signature.root.descriptor))
    with open_archive(write(tmp_path / "a.tar", tar_of(files))) as source:
        found = await source.referrers(subject.digest)
        assert [(item.digest, item.artifact_type) for item in found] == [
            (signature.root.descriptor.digest, "application/x.sig")
        ]
        assert await source.referrers(subject.digest, "application/other") == []


async def test_legacy_archive_has_a_reproducible_pin(tmp_path: Path) -> None:
    files, links, config, stack = legacy_files()
    with open_archive(write(tmp_path / "a.tar", tar_of(files, links))) as source:
        manifest = await source.manifest("example.org/app:1.0")
        assert manifest.descriptor.digest == LEGACY_PIN
        assert manifest.descriptor.media_type == OCI_MANIFEST
        document = json.loads(manifest.raw)
        assert document["config"]["digest"] == sha256_digest(config)
        assert [layer["digest"] for layer in document["layers"]] == [sha256_digest(data) for data in stack]
        assert {layer["mediaType"] for layer in document["layers"]} == {"application/vnd.oci.image.layer.v1.tar"}
        closure = await read_closure(source, LEGACY_PIN)
        assert closure == {sha256_digest(data): data for data in [manifest.raw, config, *stack]}
        assert (await source.resolve("1.0")).digest == LEGACY_PIN
        assert source.name.startswith("docker-archive:")
    # Order of the members and compression around them do not count.
    turned = dict(reversed(files.items()))
    with open_archive(write(tmp_path / "b.tar", gzip.compress(tar_of(turned, links)))) as source:
        assert (await source.resolve(LEGACY_PIN)).digest == LEGACY_PIN


def test_legacy_archive_with_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    files, links, _, _ = legacy_files()
    layer = next(name for name in files if name.endswith("layer.tar"))
    broken = files | {layer: files[layer][:-1] + b"x"}
    with pytest.raises(ContentMismatch, match=r"layer sha256:\w+ should be sha256"):
        open_archive(write(tmp_path / "a.tar", tar_of(broken, links)))
    config = next(name for name in files if name.endswith(".json") and name != "manifest.json")
    with pytest.raises(ContentMismatch, match="copy the file again"):
        open_archive(write(tmp_path / "b.tar", tar_of(files | {config: files[config] + b" "}, links)))


async def test_oci_archive_with_a_flipped_bit_fails_before_the_last_byte(tmp_path: Path) -> None:
    image = single_image()
    files = layout_files(image)
    descriptor, data = next(iter(image.blobs.values()))
    files[f"blobs/sha256/{descriptor.digest[7:]}"] = bytes([data[0] ^ 1]) + data[1:]
    got = bytearray()
    with open_archive(write(tmp_path / "a.tar", tar_of(files))) as source:

        async def read() -> None:
            async for chunk in source.blob(descriptor):
                got.extend(chunk)

        with pytest.raises(ContentMismatch):
            await read()
    assert len(got) < len(data)


@pytest.mark.parametrize(
    ("name", "message"),
    [("../evil", "leaves the archive"), ("/etc/passwd", "leaves the archive"), ("a/../../b", "leaves")],
)
def test_member_names_that_leave_the_archive(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(OciError, match=message):
        open_archive(write(tmp_path / "a.tar", tar_of({**layout_files(single_image()), name: b""})))


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../../etc/passwd", "../loop/layer.tar"])
def test_links_are_followed_inside_only(tmp_path: Path, target: str) -> None:
    files, links, _, _ = legacy_files()
    name = next(iter(links))
    links = {name: target, "loop/layer.tar": "layer.tar"}
    with pytest.raises(OciError, match=r"leaves the archive|links one after the other"):
        open_archive(write(tmp_path / "a.tar", tar_of(files, links)))


def huge_pax_header() -> bytes:
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 0o77777777777
    return info.tobuf(tarfile.USTAR_FORMAT) + b"\0" * 4096


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"", OciError, "neither|not a readable"),
        (b"garbage" * 400, ContentMismatch, "not a readable tar"),
        (b"BZh91AY", Unsupported, "bzip2; expected a tar"),
        (b"\xfd7zXZ\x00\x00", Unsupported, "xz; expected"),
        (tar_of({"a": b"b"}), Unsupported, "neither an OCI archive"),
        (tar_of(layout_files(single_image()))[:3000], ContentMismatch, "not a readable tar|cut off"),
        (gzip.compress(tar_of({"a": b"b"}))[:-9], ContentMismatch, "damaged or cut off"),
        (zstd(b"x")[:4] + b"\xff" * 20, ContentMismatch, "damaged or cut off"),
        (huge_pax_header(), TooLarge, "a tar header larger"),
        (tar_of({"oci-layout": b'{"imageLayoutVersion":"2.0"}', "index.json": b"{}"}), Unsupported, "'2.0'"),
        (tar_of({"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": b"["}), OciError, "not valid JSON"),
        (tar_of({"manifest.json": b"{}"}), OciError, "not a list of images"),
        (tar_of({"manifest.json": b'[{"Config":"c","Layers":[]}]'}), NotFound, "no 'c' in the archive"),
        (tar_of({"manifest.json": b'[{"Layers":[]}]'}), OciError, "Config"),
    ],
)
def test_bad_archives_are_named(tmp_path: Path, data: bytes, error: type[OciError], message: str) -> None:
    path = write(tmp_path / "bad.tar", data)
    with pytest.raises(error, match=message) as caught:
        open_archive(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_absent_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such file"):
        open_archive(tmp_path / "absent.tar")
    with pytest.raises(OciError, match="expected an image archive"):
        open_archive(tmp_path)


def test_number_of_members_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_members, "ARCHIVE_MEMBERS_MAX", 3)
    with pytest.raises(TooLarge, match="more than 3 files"):
        open_archive(write(tmp_path / "a.tar", tar_of({str(number): b"" for number in range(4)})))


async def test_legacy_layers_may_be_compressed_hard_linked_or_shared(tmp_path: Path) -> None:
    plain = layer_tar("f", b"data")
    config = json.dumps({"rootfs": {"diff_ids": [sha256_digest(plain)] * 2}}).encode()
    described = [{"Config": "c", "RepoTags": None, "Layers": ["one.tar.gz", "two.tar.gz"]}]
    out = io.BytesIO(tar_of({"c": config, "one.tar.gz": gzip.compress(plain, mtime=0)}))
    with tarfile.open(fileobj=out, mode="a") as tar:
        link = tarfile.TarInfo("./two.tar.gz")
        link.type, link.linkname = tarfile.LNKTYPE, "one.tar.gz"
        tar.addfile(link)
        data = json.dumps(described).encode()
        info = tarfile.TarInfo("manifest.json")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    with open_archive(write(tmp_path / "a.tar", out.getvalue())) as source:
        assert isinstance(source, ArchiveSource)
        assert await source.tags() == []
        (entry,) = source.entries()
        layers = json.loads((await source.manifest(entry["digest"])).raw)["layers"]
        assert layers[0] == layers[1]
        assert layers[0]["mediaType"] == "application/vnd.oci.image.layer.v1.tar+gzip"


PLAIN = tar_of(layout_files(single_image()))
LEGACY = tar_of(*legacy_files()[:2])


@settings(max_examples=150, deadline=None)
@given(
    whole=st.sampled_from([PLAIN, LEGACY, gzip.compress(PLAIN), zstd(LEGACY)]),
    cut=st.floats(0, 1),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
)
def test_any_damage_is_an_error_of_ours_or_harmless(whole: bytes, cut: float, flips: list[tuple[float, int]]) -> None:
    damaged = bytearray(whole[: int(len(whole) * cut)])
    for position, value in flips:
        if damaged:
            damaged[int(len(damaged) * position)] = value
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "a.tar", bytes(damaged))

        async def use() -> None:
            with open_archive(path, scratch=Path(folder)) as source:
                for tag in await source.tags():
                    await read_closure(source, tag)

        try:
            asyncio.run(use())
        except OciError as error:
            check_one_line(error)


VALUES = st.sampled_from(
    [None, 0, 7, "", "c\n", "layer", "../x", "/x", [], ["layer"], ["layer", 3], {}, ["a\nb:1\n"]]
)


@settings(max_examples=120, deadline=None)
@given(
    images=st.lists(st.dictionaries(st.sampled_from(["Config", "Layers", "RepoTags"]), VALUES) | VALUES, max_size=2),
    config=st.dictionaries(st.just("rootfs"), st.dictionaries(st.just("diff_ids"), VALUES)) | VALUES,
)
@example(images=[{"Config": "c\n", "Layers": [], "RepoTags": 7}], config={"rootfs": {"diff_ids": []}})
def test_any_legacy_manifest_is_read_or_refused(images: object, config: object) -> None:
    files = {"manifest.json": json.dumps(images).encode(), "c\n": json.dumps(config).encode(), "layer": b""}
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "a.tar", tar_of(files))
        try:
            with open_archive(path) as source:
                asyncio.run(source.tags())
        except OciError as error:
            check_one_line(error)
