"""A layout as one tar in volumes: the same bytes every time, damage is named, and nothing of a header believed."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pty
import resource
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oci.archive import open_archive
from oci.blobs import BlobStore
from oci.bundle import Bundle, BundleReader, Taken, index_entries
from oci.descriptor import sha256_digest
from oci.errors import ContentMismatch, Misconfigured, NotFound, OciError, StorageFull, TooLarge
from oci.tar_stream import END, TarReader, member_header, padding
from oci.volumes import VOLUME_BYTES_MIN, VolumeSet, VolumeStream, VolumeWriter
from runtime.ask import ask_for_volume
from tests.oci_layout.images import multi_image, referrer_to
from tests.receiver.site import noise

DOCUMENT = "checkvalve/release"


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    made = BlobStore(tmp_path / "spool")
    for number in range(4):
        data = noise(70_000, number)
        made.write(sha256_digest(data), data)
    made.write("sha512:" + hashlib.sha512(b"long name").hexdigest(), b"long name")
    return made


def bundle_of(store: BlobStore) -> Bundle:
    return Bundle({DOCUMENT: b"envelope"}, [], {digest: store.size(digest) or 0 for digest in store.digests()})


def write(store: BlobStore, path: Path, volume_bytes: int | None = VOLUME_BYTES_MIN) -> list[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with VolumeWriter(path, volume_bytes) as writer:
        bundle_of(store).write(writer.write, store)
        return [path.with_name(volume.name) for volume in writer.commit()]


def read(store: BlobStore, *paths: Path, into: BlobStore | None = None) -> tuple[Taken, list[str]]:
    stream = VolumeStream(VolumeSet.find(paths))
    reader = BundleReader(stream)
    reader.open({DOCUMENT: 100})
    taken = reader.take(bundle_of(store).blobs, into)
    stream.rest()
    stream.close()
    return taken, stream.faults


def test_the_same_content_gives_the_same_bytes_and_joins_to_one_tar(store: BlobStore, tmp_path: Path) -> None:
    volumes = write(store, tmp_path / "a/x.tar")
    (whole,) = write(store, tmp_path / "b/x.tar", None)
    joined = b"".join(path.read_bytes() for path in volumes)
    assert len(volumes) == 5
    assert joined == whole.read_bytes()
    assert len(joined) == bundle_of(store).size
    assert not [path for path in (tmp_path / "a").iterdir() if path.name.startswith(".")]
    with tarfile.open(whole) as tar:
        names = tar.getnames()
    assert names[:3] == ["oci-layout", DOCUMENT, "index.json"]
    assert len(names) == 3 + 5


async def test_other_tools_see_an_image_layout_with_its_referrers(tmp_path: Path) -> None:
    store, image = BlobStore(tmp_path / "spool"), multi_image()
    signature = referrer_to(image.root.descriptor, "application/vnd.example.signature")
    for digest, data in (image.all_files() | signature.all_files()).items():
        store.write(digest, data)
    named = [("docker.io/library/nginx:1", image.root.descriptor), (None, signature.root.descriptor)]
    with VolumeWriter(tmp_path / "x.tar", None) as writer:
        blobs = {digest: store.size(digest) or 0 for digest in store.digests()}
        Bundle({}, index_entries(named, store), blobs).write(writer.write, store)
        writer.commit()
    with open_archive(tmp_path / "x.tar") as source:
        assert (await source.manifest("docker.io/library/nginx:1")).raw == image.root.raw
        assert len(await source.referrers(image.root.descriptor.digest)) == 1


def test_volumes_in_any_order_and_any_folder(store: BlobStore, tmp_path: Path) -> None:
    volumes = write(store, tmp_path / "a/x.tar")
    for number, path in enumerate(volumes):
        place = tmp_path / f"medium-{number % 2}"
        place.mkdir(exist_ok=True)
        path.rename(place / path.name)
    (tmp_path / "a/x.tar.json").rename(tmp_path / "medium-1/x.tar.json")
    into = BlobStore(tmp_path / "into")
    taken, faults = read(store, tmp_path / "medium-1", tmp_path / "medium-0", into=into)
    assert (taken.broken, taken.damaged, faults) == (None, [], [])
    assert list(into.digests()) == list(store.digests())
    again, _ = read(store, tmp_path / "medium-0", tmp_path / "medium-1", into=into)
    assert again.new == 0
    (tmp_path / "medium-1/x.tar.json").unlink()  # names are enough
    taken, faults = read(store, *(path for path in tmp_path.glob("medium-*/x.tar.*")))
    assert (taken.broken, taken.damaged, faults) == (None, [], [])


Damage = Callable[[list[Path]], object]


def flip(paths: list[Path]) -> None:
    data = bytearray(paths[2].read_bytes())
    data[30_000] ^= 1
    paths[2].write_bytes(data)


def swap(paths: list[Path]) -> None:
    one, two = paths[1].read_bytes(), paths[2].read_bytes()
    paths[1].write_bytes(two)
    paths[2].write_bytes(one)


def cut(paths: list[Path]) -> None:
    paths[2].write_bytes(paths[2].read_bytes()[:40_000])


def longer(paths: list[Path]) -> None:
    paths[2].write_bytes(paths[2].read_bytes() + b"more")


@pytest.mark.parametrize(
    ("damage", "named", "blobs"),
    [
        (flip, ["x.tar.003: damaged: its bytes are not those"], True),
        (swap, ["x.tar.002: damaged: it holds what x.tar.003 should"], True),
        (cut, ["x.tar.003: cut off: 40,000 bytes, its list says 65,536"], True),
        (longer, ["x.tar.003: too long: 65,540 bytes, its list says 65,536"], False),
    ],
    ids=["flip", "swap", "cut", "longer"],
)
def test_damage_is_named_by_volume_and_by_blob(
    store: BlobStore, tmp_path: Path, damage: Damage, named: list[str], blobs: bool
) -> None:
    volumes = write(store, tmp_path / "a/x.tar")
    damage(volumes)
    into = BlobStore(tmp_path / "into")
    taken, faults = read(store, tmp_path / "a", into=into)
    assert [line for line in named if not any(fault.startswith(line) for fault in faults)] == []
    assert bool(taken.damaged or taken.broken) == blobs
    if damage is not swap:  # which tears the frame of the archive too
        assert taken.broken is None
        assert taken.seen == set(store.digests())  # what is behind the damage was read all the same
    for digest in into.digests():
        into.verify(digest)
    for line in taken.damaged:
        assert line.startswith("x.tar.00")
        assert any(digest in line for digest in store.digests())


def test_a_volume_that_is_missing_is_asked_for_or_named(store: BlobStore, tmp_path: Path) -> None:
    volumes = write(store, tmp_path / "a/x.tar")
    other = tmp_path / "other"
    other.mkdir()
    volumes[3].rename(other / volumes[3].name)
    found = VolumeSet.find([tmp_path / "a"])
    assert found.missing() == ["x.tar.004"]
    taken, _ = read(store, tmp_path / "a")
    assert taken.broken == "x.tar.004: volume is missing; name the folder that it lies in as well"
    asked: list[str] = []

    def ask(name: str) -> Path:
        asked.append(name)
        return tmp_path if len(asked) == 1 else other  # the wrong one first

    stream = VolumeStream(VolumeSet.find([tmp_path / "a"]), ask)
    reader = BundleReader(stream)
    reader.open({DOCUMENT: 100})
    assert reader.take(bundle_of(store).blobs, None).broken is None
    assert asked == ["x.tar.004", "x.tar.004"]


def test_a_list_on_another_medium_is_asked_for_once(store: BlobStore, tmp_path: Path) -> None:
    write(store, tmp_path / "a/x.tar")
    other = tmp_path / "other"
    other.mkdir()
    for name in ("x.tar.json", "x.tar.004", "x.tar.005"):
        (tmp_path / "a" / name).rename(other / name)
    asked: list[str] = []

    def ask(name: str) -> Path:
        asked.append(name)
        return other

    found = VolumeSet.find([tmp_path / "a"])
    assert found.order == ["x.tar.001", "x.tar.002", "x.tar.003"]
    found.ask_for_list(ask)
    found.ask_for_list(ask)
    assert (len(found.order), found.missing(), asked) == (5, [], ["x.tar.json"])
    whole = write(store, tmp_path / "b/y.tar", None)
    VolumeSet.find(whole).ask_for_list(lambda name: pytest.fail("one file needs no list"))


def test_a_person_at_a_terminal_is_asked_and_nobody_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert ask_for_volume() is None
    leader, follower = pty.openpty()
    with os.fdopen(follower, "r+b", buffering=0) as raw, io.TextIOWrapper(raw) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(os.fdopen(os.dup(follower), "wb", buffering=0)))
        ask = ask_for_volume()
        assert ask is not None
        os.write(leader, b"/media/two\n\n\x04")
        assert [ask("x.tar.002") for _ in range(3)] == [Path("/media/two"), Path(), None]
        said = b""
        while said.count(b"x.tar.002 is needed: put its medium in") < 3:  # a pty gives what there is, in pieces
            said += os.read(leader, 4096)
    os.close(leader)


def test_what_exists_is_kept_and_a_failure_leaves_nothing(store: BlobStore, tmp_path: Path) -> None:
    write(store, tmp_path / "a/x.tar")
    with pytest.raises(Misconfigured, match="exists already"):
        VolumeWriter(tmp_path / "a/x.tar", VOLUME_BYTES_MIN)
    digest = next(store.digests())
    store.path(digest).write_bytes(b"x" * 70_000)
    with pytest.raises(ContentMismatch):
        write(store, tmp_path / "b/x.tar")
    assert list((tmp_path / "b").iterdir()) == []
    (tmp_path / "a/y.tar").write_bytes(b"")
    with pytest.raises(NotFound, match=r"holds x.tar, y.tar; name one"):
        VolumeSet.find([tmp_path / "a"])


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system of 128 KiB: run as root")
def test_a_full_disk_is_one_line_and_leaves_nothing(store: BlobStore, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "none", str(small)], check=False).returncode:
        pytest.skip("this machine does not let us mount: run as root with CAP_SYS_ADMIN")
    try:
        with pytest.raises(StorageFull, match="No space left"):
            write(store, small / "x.tar")
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_file_system_that_takes_no_large_files_is_told_what_to_do(store: BlobStore, tmp_path: Path) -> None:
    """As FAT does above 4 GiB; here it is a limit of the process."""
    (tmp_path / "b").mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(Misconfigured, match=r"b/x.tar: cannot be written \(File too large\).*write volumes"):
            write(store, tmp_path / "b/x.tar", None)
        write(store, tmp_path / "b/x.tar")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with pytest.raises(Misconfigured, match="no such folder"):
        VolumeWriter(tmp_path / "nowhere/x.tar", None)


class Bytes(io.BytesIO):
    where = "x.tar"


def tar_of(*members: tuple[str, bytes]) -> bytes:
    return b"".join(member_header(name, len(data)) + data + padding(len(data)) for name, data in members)


def names_in(reader: TarReader) -> list[str]:
    names = []
    while (member := reader.next()) is not None:
        names.append(member.name)
    return names


def one(kind: bytes, name: str = "blobs/sha256/a", **fields: object) -> bytes:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in fields.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.GNU_FORMAT) + END


@pytest.mark.parametrize(
    ("raw", "error", "says"),
    [
        (one(tarfile.SYMTYPE, linkname="../../etc/passwd"), OciError, "is a symbolic link; refused"),
        (one(tarfile.LNKTYPE, linkname="oci-layout"), OciError, "is a hard link; refused"),
        (one(tarfile.CHRTYPE), OciError, "is a device; refused"),
        (one(tarfile.FIFOTYPE), OciError, "is a pipe; refused"),
        (one(tarfile.DIRTYPE), OciError, "is a folder; refused"),
        (one(tarfile.GNUTYPE_SPARSE), OciError, "is a sparse file; refused"),
        (one(tarfile.GNUTYPE_LONGNAME), OciError, "a long name of GNU tar"),
        (one(tarfile.REGTYPE, "../x"), OciError, "leaves the archive; refused"),
        (one(tarfile.REGTYPE, "/etc/passwd"), OciError, "leaves the archive; refused"),
        (one(tarfile.REGTYPE, "a/./b"), OciError, "leaves the archive; refused"),
        (one(tarfile.REGTYPE, size=1 << 60), TooLarge, "claims 1,152,921,504,606,846,976 bytes; refused"),
        (one(tarfile.XHDTYPE, size=1 << 40), TooLarge, "an extended header of"),
        (one(tarfile.XHDTYPE, size=1025), TooLarge, "an extended header of 1,025 bytes"),
        (tar_of(("a", b"1"), ("a", b"2")) + END, OciError, "is in the archive twice; refused"),
        (tar_of(("a", b"1")) + END + b"more", ContentMismatch, "goes on, or breaks off, behind its end"),
        (tar_of(("a", b"1")), ContentMismatch, "cut off"),
        (b"x" * 512, ContentMismatch, "not a header of a tar archive"),
    ],
)
def test_tricks_of_tar_are_refused_by_name(raw: bytes, error: type[OciError], says: str) -> None:
    reader = TarReader(Bytes(raw))
    with pytest.raises(error) as caught:
        names_in(reader)
    assert says in str(caught.value)
    assert str(caught.value).startswith("x.tar: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "record", ["20 size=99999999999\n", "17 GNU.sparse=1.0\n", "12 path=a\x00b\n", "99 path=x\n"]
)
def test_an_extended_header_may_hold_a_name_only(record: str) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, len(record)
    raw = info.tobuf() + record.encode() + padding(len(record)) + tar_of(("a", b"")) + END
    with pytest.raises(OciError):
        TarReader(Bytes(raw)).next()


@given(st.binary(max_size=4096), st.integers(0, 3000))
def test_no_bytes_raise_anything_but_a_line(noise: bytes, cut: int) -> None:
    good = tar_of(("oci-layout", b"{}"), ("blobs/sha512/" + "a" * 128, b"long"), ("x", b"y")) + END
    for raw in (noise, good[:cut] + noise, good[:cut] + noise + good[cut + len(noise) :]):
        reader = TarReader(Bytes(raw))
        with contextlib.suppress(OciError):
            assert all(len(name) < 1_024 for name in names_in(reader))


@pytest.fixture
def listed(store: BlobStore, tmp_path: Path) -> Path:
    write(store, tmp_path / "a/x.tar")
    return tmp_path / "a/x.tar.json"


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:50],
        lambda text: text.replace("x.tar.002", "../x.tar.002"),
        lambda text: text.replace('"sha256"', '"sha255"'),
        lambda text: text.replace('"size": 65536', '"size": -1'),
        lambda text: json.dumps(json.loads(text) | {"volumes": []}),
        lambda text: "[" * 100_000,
    ],
)
def test_a_list_of_volumes_that_is_no_list_is_refused(listed: Path, change: Callable[[str], str]) -> None:
    listed.write_text(change(listed.read_text()))
    with pytest.raises(ContentMismatch, match=r"x.tar.json: damaged"):
        VolumeSet.find([listed.parent])
