"""From the spool to the queue: what is batched, what is compressed, how often it goes, and nothing twice."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from oci.blobs import BlobStore
from oci.descriptor import sha256_digest
from oci.errors import OciError
from protocol import coding
from protocol.batch import unpack
from protocol.objects import Coding, Kind
from protocol.release import Content
from sender import prepare
from sender.decisions import Decisions, Proposal
from sender.journal import SenderJournal
from sender.prepare import Preparer, Terms
from tests.sender.conftest import Site

NOISE = random.Random(7)
SMALL = prepare.SMALL_BYTES_MAX


def put(site: Site, *bodies: bytes) -> list[Content]:
    spool = BlobStore(site.settings().spool)
    for body in bodies:
        spool.write(sha256_digest(body), body)
    return [Content("application/octet-stream", sha256_digest(body), len(body)) for body in bodies]


async def queue(site: Site, contents: list[Content], label: str = "app:1", urgent: bool = False) -> int:
    settings = site.settings()
    with Preparer(settings, BlobStore(settings.spool)) as preparer:
        return await preparer.queue(label, contents, Terms(urgent))


@pytest.fixture(autouse=True)
def written(site: Site) -> None:
    site.write()


async def test_sizes_decide_between_batch_and_object(site: Site) -> None:
    at, above = NOISE.randbytes(SMALL), NOISE.randbytes(SMALL + 1)
    contents = put(site, b"", b"tiny", at, above)
    assert await queue(site, contents) == 2
    batch, blob = site.queue()
    assert (batch.kind, batch.label) == (Kind.BATCH, "app:1: 3 small parts")
    members = dict(unpack(batch.path.read_bytes()))
    assert members == {sha256_digest(body): body for body in (b"", b"tiny", at)}
    assert batch.path == site.settings().coded / batch.coded_digest.removeprefix("sha256:")
    assert (blob.kind, blob.coding, blob.digest, blob.coded_digest) == (
        Kind.BLOB,
        Coding.IDENTITY,
        contents[3].digest,
        contents[3].digest,
    )
    assert blob.path == BlobStore(site.settings().spool).path(contents[3].digest)
    assert blob.label == f"app:1: {contents[3].digest[:19]}…"


async def test_what_is_carried_is_not_queued_again(site: Site) -> None:
    first = put(site, b"one", NOISE.randbytes(SMALL * 2))
    second = put(site, b"one", b"two")
    assert await queue(site, first) == 2
    assert await queue(site, first) == 0
    assert await queue(site, [*first, *second], "other:1") == 1
    *_, last = site.queue()
    assert [digest for digest, _ in unpack(last.path.read_bytes())] == [second[1].digest]
    assert last.label == "other:1: 1 small part"


async def test_an_urgent_image_takes_along_what_bulk_objects_carry_for_it_until_that_is_sent(site: Site) -> None:
    shared, sent, other, own = (NOISE.randbytes(SMALL * 2) for _ in range(4))
    bulk = put(site, shared, sent, other)
    assert await queue(site, bulk) == 3
    journal = site.journal()
    first, second, third = site.queue()
    for _ in range(second.passes_left):
        journal.note_pass(second.id, 1.0)
    assert await queue(site, [*bulk[:2], *put(site, own)], "urgent:1", urgent=True) == 1
    *_, last = site.queue()
    assert [each.id for each in journal.urgent()] == [first.id, last.id]
    assert [each.urgent for each in site.queue() if each.id == third.id] == [False]
    assert journal.totals()["queued_urgent"] == 2
    assert journal.make_urgent([bulk[1].digest], repeat=True) == 1
    assert second.id in {each.id for each in journal.urgent()}
    for each in journal.urgent():
        for _ in range(each.passes_left):
            journal.note_pass(each.id, 2.0)
    assert journal.urgent() == []
    assert journal.make_urgent([bulk[0].digest]) == 1
    assert journal.urgent() == [], "it has no passes to go"
    journal.repeat_objects({first.id})
    assert [each.urgent for each in site.queue() if each.id == first.id] == [False], "a repetition is bulk again"
    journal.close()


async def test_what_is_urgent_is_prepared_in_the_middle_of_a_layer_that_takes_its_time(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, urgent_done, real = threading.Event(), threading.Event(), prepare.compress

    def slow(chunks: Iterable[bytes], size: int) -> Iterator[bytes]:
        begun.set()
        while not urgent_done.is_set():
            time.sleep(0.005)
            yield b""
        yield from real(chunks, size)

    text, shared = b"checkvalve " * 100_000, b"shared " * 100_000
    bulk, urgent = put(site, text, shared), put(site, NOISE.randbytes(SMALL * 2), b"small", shared)
    settings = site.settings()
    with Preparer(settings, BlobStore(settings.spool)) as preparer:
        monkeypatch.setattr(prepare, "compress", slow)
        in_the_works = asyncio.ensure_future(preparer.queue("bulk:1", bulk))
        assert await asyncio.to_thread(begun.wait, 10)
        monkeypatch.setattr(prepare, "compress", real)
        assert await asyncio.wait_for(preparer.queue("urgent:1", urgent, Terms(urgent=True)), 10) == 3
        assert [(one.label.partition(":")[0], one.urgent) for one in site.queue()] == [("urgent", True)] * 3
        urgent_done.set()
        assert await in_the_works == 1, "what both need is queued once"
        gone = asyncio.ensure_future(preparer.queue("gone:1", [Content("a/b", "sha256:" + "0" * 64, 1)], Terms(True)))
        with pytest.raises(OciError):
            await gone
    assert [one.digest for one in site.queue()][-1] == bulk[0].digest
    assert not list(settings.coded.glob(f"{prepare._TEMP_PREFIX}*"))


async def test_text_is_compressed_noise_is_not_and_both_come_back(site: Site) -> None:
    text, noise = b"checkvalve " * 100_000, NOISE.randbytes(1_000_000)
    contents = put(site, text, noise)
    await queue(site, contents)
    packed, plain = site.queue()
    assert (packed.coding, plain.coding) == (Coding.ZSTD, Coding.IDENTITY)
    assert packed.coded_size < len(text) / 10
    coded = packed.path.read_bytes()
    assert sha256_digest(coded) == packed.coded_digest
    assert b"".join(coding.decompress([coded], packed.content_size)) == text


async def test_samples_that_promise_too_much_cost_nothing_on_the_wire(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "_SAMPLE_BYTES", 100)
    size = 1_000_000
    body = bytearray(NOISE.randbytes(size))
    for position in range(0, size, size // 8):
        body[position : position + 100] = bytes(100)
    (content,) = put(site, bytes(body))
    await queue(site, [content])
    (entry,) = site.queue()
    assert (entry.coding, entry.coded_size) == (Coding.IDENTITY, size)
    assert os.listdir(site.settings().coded) == []


async def test_batches_are_bounded_in_bytes_and_members(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "BATCH_BYTES_MAX", 100)
    monkeypatch.setattr(prepare, "BATCH_MEMBERS_MAX", 3)
    contents = put(site, *(bytes([number]) * 40 for number in range(5)), *(b"%d" % number for number in range(4)))
    await queue(site, contents)
    counts = []
    for entry in site.queue():
        body = entry.path.read_bytes()
        if entry.coding == Coding.ZSTD:
            body = b"".join(coding.decompress([body], entry.content_size))
        counts.append(len(list(unpack(body))))
    assert counts == [2, 2, 3, 2]


async def test_small_objects_go_more_often(site: Site) -> None:
    site.write(repeats={"passes": 3, "passes_small": 7})
    swallowed = prepare.swallowed_bytes(site.settings().link)
    assert swallowed == 1_250_000  # 10 ms at 1 Gbit/s
    sizes = (swallowed, swallowed + 1)
    await queue(site, put(site, *map(NOISE.randbytes, sizes)))
    assert [(entry.coded_size, entry.passes_left) for entry in site.queue()] == [(sizes[0], 7), (sizes[1], 3)]


async def test_a_sha512_blob_has_a_sha256_on_the_wire(site: Site) -> None:
    body = NOISE.randbytes(SMALL * 3)
    digest = f"sha512:{hashlib.sha512(body).hexdigest()}"
    BlobStore(site.settings().spool).write(digest, body)
    await queue(site, [Content("application/octet-stream", digest, len(body))])
    (entry,) = site.queue()
    assert (entry.digest, entry.coded_digest) == (digest, sha256_digest(body))


async def test_leftovers_of_a_killed_run_are_removed_and_a_lost_blob_is_an_error(site: Site) -> None:
    folder = site.settings().coded
    folder.mkdir(parents=True)
    (folder / ".temp-99").write_bytes(b"half")
    (kept := folder / ("0" * 64)).write_bytes(b"whole")
    (content,) = put(site, b"x" * (SMALL + 1))
    BlobStore(site.settings().spool).remove(content.digest)
    with pytest.raises(FileNotFoundError):
        await queue(site, [content])
    assert os.listdir(folder) == [kept.name]
    assert site.queue() == []


async def test_equal_contents_give_equal_objects(site: Site, tmp_path: Path) -> None:
    other = Site(tmp_path / "other")
    other.folder.mkdir()
    other.write()
    bodies = [b"a", b"b" * 10_000, b"text " * 50_000]
    for one in (site, other):
        await queue(one, put(one, *bodies))
    assert [entry.coded_digest for entry in site.queue()] == [entry.coded_digest for entry in other.queue()]


def test_a_journal_serves_many_processes(site: Site) -> None:
    one, two = SenderJournal(site.settings().journal), SenderJournal(site.settings().journal)
    assert Decisions(one).propose("default", "[]", "", 1.0)
    assert Decisions(two).proposal("default") == Proposal("default", "[]", "", 1.0)
    assert not Decisions(two).propose("default", "[]", "", 2.0)
    assert (one.next_epoch(), two.next_epoch(), one.epoch()) == (1, 2, 2)
    one.close()
    two.close()
