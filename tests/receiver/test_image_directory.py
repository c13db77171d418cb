"""Images as archives in a folder: their names, when they change and go, and that containerd takes them as is."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from oci.archive import open_archive
from oci.archive_writer import read_entries, write_archive
from oci.blobs import BlobStore
from oci.errors import OciError
from receiver import image_directory
from receiver.image_directory import ImageDirectory
from receiver.publish_config import ImageFolder
from tests.oci_layout.images import multi_image, referrer_to, single_image
from tests.receiver.nodes import Containerd
from tests.receiver.site import Site, noise, release_image
from tests.receiver.test_publish import NGINX, SIGNATURE, same_in, sparse, with_zstd
from tests.support.processes import ROOT

FOLDER = "{images: {path: images}}"


def archives(site: Site) -> list[Path]:
    return sorted(path for path in (site.folder / "images").iterdir() if ".tar" in path.name)


def names(paths: Iterable[Path]) -> set[str]:
    return {entry["annotations"]["io.containerd.image.name"] for path in paths for entry in read_entries(path)}


@pytest.mark.parametrize(
    ("settings", "end"), [(FOLDER, ".tar.zst"), ("{images: {path: images, compress: none}}", ".tar")]
)
async def test_an_archive_holds_the_image_as_it_is(site: Site, settings: str, end: str) -> None:
    image = multi_image()
    signature = referrer_to(image.root.descriptor, SIGNATURE)
    site.fill(image, signature)
    site.release(release_image(NGINX, ["1.27", "latest"], image, signature))
    assert await site.once(site.configure(settings)) == 0
    (path,) = archives(site)
    assert path.name.startswith("checkvalve-library_nginx-1.27-")
    assert path.name.endswith(end)
    assert path.stat().st_mode & 0o777 == 0o644
    with open_archive(path) as source:
        for tag in ("1.27", "latest"):
            await same_in(source, tag, image)
        assert await source.referrers(image.root.descriptor.digest) == []  # nodes do not import those
    assert names([path]) == {f"{NGINX}:1.27", f"{NGINX}:latest"}
    assert os.listdir(path.parent) == [path.name]


async def test_containerd_imports_it_under_the_names_that_pods_use(site: Site, containerd: Containerd) -> None:
    image, tool, plain = multi_image(), single_image("tool"), single_image("plain")
    site.fill(image, tool, plain)
    site.release(
        release_image(NGINX, ["1.27", "latest"], image),
        release_image("localhost:5000/team/tool", ["v1"], tool),
        release_image("quay.io/plain", [], plain),
    )
    assert await site.once(site.configure(FOLDER)) == 0
    for path in archives(site):  # what K3s asks of containerd: WithAllPlatforms(true), nothing unpacked
        containerd.import_archive(path, "--all-platforms")
    assert containerd.images() == {
        f"{NGINX}:1.27": image.root.descriptor.digest,
        f"{NGINX}:latest": image.root.descriptor.digest,
        "localhost:5000/team/tool:v1": tool.root.descriptor.digest,
        f"quay.io/plain@{plain.root.descriptor.digest}": plain.root.descriptor.digest,
    }
    assert containerd.content() >= set(image.all_files()) | set(tool.all_files()) | set(plain.all_files())


async def test_nothing_is_written_again_for_the_same_image(site: Site) -> None:
    """K3s imports again what has another size or time."""
    image, other = single_image("one"), single_image("two")
    site.fill(image, other)
    settings = site.configure(FOLDER)
    site.release(release_image(NGINX, ["1"], image))
    assert await site.once(settings) == 0
    (path,) = archives(site)
    (site.folder / "images/.cache.json").write_text("{}")
    (site.folder / "images/others.tar").write_bytes(b"not ours")
    before = path.stat()
    signature = referrer_to(image.root.descriptor, SIGNATURE)
    site.fill(signature)
    site.release(release_image(NGINX, ["1"], image, signature), release_image("quay.io/b", ["1"], other), sequence=2)
    assert await site.once(settings) == 0
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_size) == (before.st_ino, before.st_mtime_ns, before.st_size)
    assert (site.folder / "images/.cache.json").read_text() == "{}"
    assert len(archives(site)) == 3


async def test_a_moved_tag_is_in_one_archive_only(site: Site) -> None:
    """K3s imports all archives when it starts, and the last one would have the tag."""
    old, new = single_image("old"), single_image("new")
    site.fill(old, new)
    settings = site.configure(FOLDER)
    site.release(release_image(NGINX, ["1.26", "latest"], old))
    assert await site.once(settings) == 0
    site.release(release_image(NGINX, ["1.26"], old), release_image(NGINX, ["1.27", "latest"], new), sequence=2)
    assert await site.once(settings) == 0
    found = {
        entry["annotations"]["io.containerd.image.name"]: entry["digest"]
        for path in archives(site)
        for entry in read_entries(path)
    }
    assert len(archives(site)) == 2
    assert found == {
        f"{NGINX}:1.26": old.root.descriptor.digest,
        f"{NGINX}:1.27": new.root.descriptor.digest,
        f"{NGINX}:latest": new.root.descriptor.digest,
    }


@pytest.mark.parametrize(("withdrawn", "left"), [("keep", 2), ("remove", 1)])
async def test_what_becomes_of_a_withdrawn_image(site: Site, withdrawn: str, left: int) -> None:
    one, two, other = single_image("one"), single_image("two"), single_image("other")
    site.fill(one, two, other)
    settings = site.configure(f"{{images: {{path: images, withdrawn: {withdrawn}}}}}")
    site.release(release_image("quay.io/other", ["1"], other), collection="edge")
    site.release(release_image("quay.io/a", ["1"], one), release_image("quay.io/b", ["1"], two))
    assert await site.once(settings) == 0
    assert len(archives(site)) == 3
    (site.folder / "images/theirs.tar").write_bytes(b"not ours")
    site.release(release_image("quay.io/a", ["1"], one), sequence=2)
    assert await site.once(settings) == 0
    found = archives(site)
    assert len([path for path in found if path.name.startswith("checkvalve-")]) == left + 1
    assert (site.folder / "images/theirs.tar") in found
    assert names(path for path in found if path.name.startswith("checkvalve-")) >= {"quay.io/a:1", "quay.io/other:1"}


async def test_nothing_is_withdrawn_while_a_release_is_not_understood(site: Site) -> None:
    one, other = single_image("one"), single_image("other")
    site.fill(one, other)
    settings = site.configure("{images: {path: images, withdrawn: remove}}")
    site.release(release_image("quay.io/other", ["1"], other), collection="edge")
    site.release(release_image("quay.io/a", ["1"], one))
    assert await site.once(settings) == 0
    site.journal.connection.execute("UPDATE releases SET envelope = x'00' WHERE collection = 'edge'")
    site.release(release_image("quay.io/a", ["1", "2"], one), sequence=2)
    assert await site.once(settings) == 1
    assert names(archives(site)) == {"quay.io/other:1", "quay.io/a:1", "quay.io/a:2"}


async def test_an_archive_that_somebody_removed_is_written_again(site: Site) -> None:
    image = single_image()
    site.fill(image)
    site.release(release_image(NGINX, ["1"], image))
    settings = site.configure(FOLDER)
    assert await site.once(settings) == 0
    (path,) = archives(site)
    path.unlink()
    assert await site.once(settings) == 0
    assert archives(site) == [path]


async def test_the_rest_of_a_writer_that_was_killed_goes_and_is_never_imported(site: Site) -> None:
    image = single_image()
    site.fill(image)
    site.release(release_image(NGINX, ["1"], image))
    (site.folder / "images").mkdir()
    left = site.folder / "images/.checkvalve-0123456789abcdef.part"
    left.write_bytes(b"half")
    assert await site.once(site.configure(FOLDER)) == 0
    assert not left.exists()


async def test_a_writer_that_is_not_wanted_any_more_is_not_the_last(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread cannot be cancelled: one that writes the archive of an older release goes on while a newer comes."""
    old, new = single_image("old"), single_image("new")
    site.fill(old, new)
    begun, go_on = threading.Event(), threading.Event()

    def slowly(out: BinaryIO, entries: list[Any], *arguments: Any, **options: Any) -> None:
        write_archive(out, entries, *arguments, **options)
        if entries[0]["digest"] == old.root.descriptor.digest:
            begun.set()
            assert go_on.wait(10)

    monkeypatch.setattr(image_directory, "write_archive", slowly)
    site.release(release_image(NGINX, ["1"], old))
    async with site.publishing(site.configure(FOLDER)):
        assert await asyncio.to_thread(begun.wait, 10)
        site.release(release_image(NGINX, ["1"], new), sequence=2)
        await site.until(NGINX, "published")
        go_on.set()
        async with asyncio.timeout(10):
            while len(os.listdir(site.folder / "images")) > 1:
                await asyncio.sleep(0.01)
    (path,) = archives(site)
    assert [entry["digest"] for entry in read_entries(path)] == [new.root.descriptor.digest]


async def test_a_writer_that_is_killed_leaves_no_half_archive(site: Site) -> None:
    """The real process, killed while an archive grows; then it is whole, once, and nothing else is left."""
    big = single_image("big")
    big.add_blob("application/vnd.oci.image.layer.v1.tar", noise(40_000_000))
    big = with_zstd(big)
    site.fill(big)
    site.release(release_image(NGINX, ["1"], big))
    site.configure("{images: {path: images}}")
    argv = [sys.executable, "-m", "receiver", "publish", "--once", "--since", "0", "--config", str(site.config)]
    folder, environment = site.folder / "images", os.environ | {"PYTHONPATH": str(ROOT)}
    for least in (1, 20_000_000):
        process = subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            async with asyncio.timeout(30):
                while not any(size(path) >= least for path in folder.glob(".checkvalve-*.part")):
                    assert process.poll() is None
                    await asyncio.sleep(0.001)
        finally:
            process.kill()
            process.wait()
        assert not archives(site)
        assert len(list(folder.iterdir())) == 1  # the next one removes what the last one left
    assert subprocess.run(argv, env=environment, capture_output=True, timeout=60, check=False).returncode == 0
    (path,) = folder.iterdir()
    with open_archive(path) as source:
        await same_in(source, "1", big)


def size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


async def test_names_can_be_mapped(site: Site) -> None:
    image = single_image()
    site.fill(image)
    site.release(release_image(NGINX, ["1"], image), release_image("quay.io/a", ["1"], image))
    rules = "map: [{from: docker.io/library/, to: 'registry.internal:5000/hub/'}]"
    assert await site.once(site.configure(f"{{images: {{path: images}}, {rules}}}")) == 0
    assert names(archives(site)) == {"registry.internal:5000/hub/nginx:1", "quay.io/a:1"}


async def test_an_index_without_some_of_its_platforms(site: Site, containerd: Containerd) -> None:
    image = multi_image()
    entry = sparse(image)
    site.fill(image, without=entry.absent)
    site.release(entry)
    assert await site.once(site.configure(FOLDER)) == 0
    (path,) = archives(site)
    with open_archive(path) as source:
        assert (await source.manifest("1.27")).raw == image.root.raw
    containerd.import_archive(path)
    assert containerd.images() == {f"{NGINX}:1.27": image.root.descriptor.digest}


async def test_damage_in_the_spool_makes_no_archive(site: Site) -> None:
    image = single_image()
    digest = next(iter(image.blobs))
    site.fill(image)
    path = site.spool.path(digest)
    path.write_bytes(b"x" * path.stat().st_size)
    site.release(release_image(NGINX, ["1"], image))
    async with site.publishing(site.configure(FOLDER)):
        await site.until(NGINX, "receiving")
        assert os.listdir(site.folder / "images") == []
        site.fill(image)
        await site.until(NGINX, "published")
    with open_archive(archives(site)[0]) as source:
        await same_in(source, "1", image)


async def test_a_full_disk_is_waited_out(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    image = single_image()
    site.fill(image)
    site.release(release_image(NGINX, ["1"], image))
    full = True

    def no_room(descriptor: int) -> None:
        if full and ".part" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("receiver.image_directory.os.fsync", no_room)
    async with site.publishing(site.configure(FOLDER)):
        async with asyncio.timeout(10):
            while "free space" not in str(site.images().get(NGINX, {}).get("error")):
                await asyncio.sleep(0.01)
        assert os.listdir(site.folder / "images") == []
        full = False
        await site.until(NGINX, "published")


component = st.from_regex(r"[a-z0-9]{1,20}(?:(?:[.]|_|__|-{1,3})[a-z0-9]{1,20}){0,4}", fullmatch=True)
tag = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", fullmatch=True)
path = st.lists(component, min_size=1, max_size=4).map(lambda parts: "quay.io/" + "/".join(parts))


@given(
    st.tuples(path, st.lists(tag, max_size=3, unique=True)), st.tuples(path, st.lists(tag, max_size=3, unique=True))
)
def test_file_names_are_ours_and_one_for_each_image(one: Any, other: Any) -> None:
    """By the name alone it is told which files may be removed."""
    image = single_image()
    folder = ImageDirectory(ImageFolder(path=Path("images")), BlobStore(Path("spool")), 1)
    named = [folder._file_name(release_image(name, tags, image), name) for name, tags in (one, other)]
    assert all(image_directory._OURS.fullmatch(name) and len(name) <= 255 for name in named)
    assert (named[0] == named[1]) == (one[0] == other[0] and set(one[1]) == set(other[1]))
    assert folder._file_name(release_image(one[0], reversed(one[1]), image), one[0]) == named[0]
    folder.close()


def test_the_same_content_makes_the_same_bytes(site: Site) -> None:
    image = multi_image()
    site.fill(image)
    parts = [blob for blob, _ in image.blobs.values()] + [manifest.descriptor for manifest in image.manifests]
    entries = [{"mediaType": parts[-1].media_type, "digest": parts[-1].digest, "size": parts[-1].size}]
    made = []
    for compress in (True, True, False):
        out = io.BytesIO()
        write_archive(out, entries, [*parts, *parts], site.spool, compress=compress, progress=lambda count: None)
        made.append(out.getvalue())
    assert made[0] == made[1]
    assert zstandard.ZstdDecompressor().stream_reader(made[0]).read() == made[2]


def test_reading_what_is_no_archive_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    for data in (b"", b"x" * 2000, b"\x28\xb5\x2f\xfd junk"):
        path.write_bytes(data)
        with pytest.raises(OciError):
            read_entries(path)
    with tarfile.open(path, "w") as tar:
        tar.add(__file__, "other")
    with pytest.raises(OciError, match="no oci-layout at its beginning"):
        read_entries(path)
