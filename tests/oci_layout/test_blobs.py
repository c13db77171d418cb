from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oci import blobs as blobs_module
from oci.blobs import BlobStore
from oci.descriptor import sha256_digest
from oci.errors import ContentMismatch, NotFound, ReferenceError_, StorageFull, TooLarge
from tests.support.content import digest_of

DATA = b"some blob" * 1000
DIGEST = sha256_digest(DATA)


def files_below(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


@settings(max_examples=60, deadline=None)
@given(
    chunks=st.lists(st.binary(max_size=300), max_size=8),
    algorithm=st.sampled_from(["sha256", "sha512"]),
    late=st.booleans(),
)
def test_written_bytes_come_back(chunks: list[bytes], algorithm: str, late: bool) -> None:
    data = b"".join(chunks)
    digest = digest_of(data, algorithm)
    with tempfile.TemporaryDirectory() as folder:
        store = BlobStore(Path(folder))
        with store.writer(None if late else digest, None if late else len(data)) as writer:
            for chunk in chunks:
                writer.write(memoryview(chunk))
            assert store.size(digest) is None
            if late:
                writer.commit(digest)
        assert store.size(digest) == len(data)
        assert store.read(digest, len(data)) == data
        assert list(store.digests()) == [digest]
        store.verify(digest)
        assert files_below(Path(folder)) == [f"blobs/{digest.replace(':', '/')}"]


@settings(max_examples=60, deadline=None)
@given(data=st.binary(min_size=1, max_size=400), where=st.data())
def test_any_prefix_or_flip_or_tail_leaves_nothing(data: bytes, where: st.DataObject) -> None:
    digest = sha256_digest(data)
    position = where.draw(st.integers(0, len(data) - 1))
    bit = where.draw(st.integers(0, 7))
    flipped = bytearray(data)
    flipped[position] ^= 1 << bit
    with tempfile.TemporaryDirectory() as folder:
        store = BlobStore(Path(folder))
        for wrong, size in (
            (data[:position], len(data)),
            (data[:position], None),
            (bytes(flipped), len(data)),
            (data + b"x", len(data)),
            (data + b"x", None),
        ):

            def write(content: bytes = wrong, size: int | None = size) -> None:
                with store.writer(digest, size) as writer:
                    writer.write(content)

            with pytest.raises(ContentMismatch):
                write()
            assert files_below(Path(folder)) == []
            assert store.size(digest) is None


def test_an_exception_inside_the_block_drops_the_blob(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)

    def write() -> None:
        with store.writer(DIGEST) as writer:
            writer.write(DATA)
            raise KeyError("source failed")

    with pytest.raises(KeyError):
        write()
    assert files_below(tmp_path) == []


CRASH = """
import os, sys
from pathlib import Path
from oci import blobs
step, count = int(sys.argv[2]), 0
def dying(real):
    def call(*args):
        global count
        count += 1
        if count > step:
            os.kill(os.getpid(), 9)
        return real(*args)
    return call
os.fsync, os.replace = dying(os.fsync), dying(os.replace)
store = blobs.BlobStore(Path(sys.argv[1]))
store.write(sys.argv[3], b"some blob" * 1000)
print("whole", flush=True)
"""


def test_a_crash_between_any_two_steps_leaves_nothing_or_the_whole_blob(tmp_path: Path) -> None:
    repository = Path(__file__).parents[2]
    outcomes = []
    for step in range(20):
        root = tmp_path / str(step)
        done = subprocess.run(
            [sys.executable, "-c", CRASH, str(root), str(step), DIGEST],
            cwd=repository,
            capture_output=True,
            text=True,
            check=False,
        )
        store = BlobStore(root)
        present = store.size(DIGEST) is not None
        if present:
            store.verify(DIGEST)
        # Opening the store has removed what the dead process left.
        assert files_below(root) == ([f"blobs/{DIGEST.replace(':', '/')}"] if present else [])
        outcomes.append(present)
        if done.returncode == 0:
            assert present
            assert done.stdout == "whole\n"
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
    else:
        pytest.fail("it never ended")
    assert outcomes == sorted(outcomes)
    assert outcomes[0] is False


def test_temp_files_of_living_writers_survive_another_opening(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    writer = store.writer(DIGEST, len(DATA))
    writer.write(DATA[:10])
    dead = tmp_path / ".ingest" / "123-abc"
    dead.write_bytes(b"left behind")
    # Another process, as flock of this one must hold against it too.
    subprocess.run(
        [sys.executable, "-c", f"from oci.blobs import *; BlobStore(Path({str(tmp_path)!r}))"],
        cwd=Path(__file__).parents[2],
        check=True,
    )
    assert not dead.exists()
    assert BlobStore(tmp_path).remove_stale() == 0
    writer.write(DATA[10:])
    assert writer.commit() == DIGEST
    assert store.read(DIGEST, 10**6) == DATA


def test_opening_does_not_write(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "absent")
    assert store.size(DIGEST) is None
    assert list(store.digests()) == []
    assert not (tmp_path / "absent").exists()


def test_many_writers_of_one_digest(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def write() -> None:
        try:
            for _ in range(10):
                BlobStore(tmp_path).write(DIGEST, DATA)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert files_below(tmp_path) == [f"blobs/{DIGEST.replace(':', '/')}"]
    BlobStore(tmp_path).verify(DIGEST)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    store = BlobStore(tmp_path)
    writer = store.writer(DIGEST, len(DATA))
    writer.write(DATA)

    def full(_handle: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(blobs_module.os, "fsync", full)
    with pytest.raises(StorageFull, match="free space"):
        writer.commit()
    monkeypatch.undo()
    assert files_below(tmp_path) == []
    with pytest.raises(ValueError, match="closed"):
        writer.write(b"")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small tmpfs")
def test_a_really_full_disk(tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", tmp_path], check=False)
    if mounted.returncode:
        pytest.skip("mount is not permitted here")
    try:
        data = bytes(1024 * 1024)
        with pytest.raises(StorageFull, match="No space left"):
            BlobStore(tmp_path).write(sha256_digest(data), data)
        assert files_below(tmp_path) == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize("verified", [True, False])
def test_adopt(tmp_path: Path, verified: bool) -> None:
    store = BlobStore(tmp_path / "store")
    finished = tmp_path / "finished"
    finished.write_bytes(DATA)
    with pytest.raises(ContentMismatch, match="expected 5"):
        store.adopt(finished, DIGEST, 5, verified=verified)
    store.adopt(finished, DIGEST, len(DATA), verified=verified)
    assert not finished.exists()
    assert store.read(DIGEST, 10**6) == DATA


def test_adopt_hashes_unless_told_otherwise(tmp_path: Path) -> None:
    finished = tmp_path / "finished"
    finished.write_bytes(b"other")
    with pytest.raises(ContentMismatch, match="not sha256"):
        BlobStore(tmp_path / "store").adopt(finished, DIGEST, 5, verified=False)
    assert files_below(tmp_path) == ["finished"]


@pytest.mark.parametrize(
    "name", ["sha256:../../etc/passwd", "md5:00", "sha256:" + "A" * 64, "", "sha256:" + "a" * 63]
)
def test_what_is_no_digest_reaches_no_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(ReferenceError_):
        BlobStore(tmp_path).path(name)


def test_reads_are_bounded_and_verified(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    with pytest.raises(NotFound):
        store.read(DIGEST, 10)
    store.write(DIGEST, DATA)
    with pytest.raises(TooLarge):
        store.read(DIGEST, len(DATA) - 1)
    store.path(DIGEST).write_bytes(DATA[:-1] + b"?")
    with pytest.raises(ContentMismatch):
        store.read(DIGEST, len(DATA))
    with pytest.raises(ContentMismatch):
        store.verify(DIGEST)
    assert store.remove(DIGEST)
    assert not store.remove(DIGEST)


async def test_streams_hold_the_last_bytes_back_until_they_are_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs_module, "_READ_BYTES", 1000)
    store = BlobStore(tmp_path)
    told: list[int] = []

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(DATA), 700):
            yield DATA[start : start + 700]

    await store.write_stream(DIGEST, len(DATA), chunks(), told.append)
    assert sum(told) == len(DATA)
    assert b"".join([chunk async for chunk in store.stream(DIGEST, len(DATA))]) == DATA
    assert b"".join([chunk async for chunk in store.stream(DIGEST, len(DATA), 1234)]) == DATA[1234:]
    assert [chunk async for chunk in store.stream(DIGEST, len(DATA), len(DATA))] == []
    store.path(DIGEST).write_bytes(b"X" + DATA[1:])
    got = bytearray()

    async def read(size: int) -> None:
        async for chunk in store.stream(DIGEST, size):
            got.extend(chunk)

    with pytest.raises(ContentMismatch):
        await read(len(DATA))
    assert len(got) == len(DATA) - 1000
    with pytest.raises(ContentMismatch, match="expected 5"):
        await read(5)


async def test_a_cancelled_stream_leaves_nothing(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    started = asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        yield DATA[:100]
        started.set()
        await asyncio.sleep(60)

    task = asyncio.create_task(store.write_stream(DIGEST, len(DATA), chunks()))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert files_below(tmp_path) == []
