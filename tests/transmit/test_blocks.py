"""Reading ahead: order, bounds, and files that are not what the queue says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.errors import ProtocolMisuse
from protocol.geometry import LinkProfile
from protocol.objects import ObjectEntry
from sender.blocks import BUFFERS, BlockReader, BlockUnreadable, Order, ReadyBlock
from sender.journal import QueuedObject
from tests.support.content import some_bytes
from tests.support.waits import wait_for
from tests.transmit.rig import queued

PROFILE = LinkProfile(1424, k=20, m=2, depth=2, outage=0)
BLOCK = 20 * 2 * 1424


@pytest.fixture
def reader() -> Iterator[BlockReader]:
    made = BlockReader(1424)
    yield made
    made.close()


def on_disk(folder: Path, data: bytes, object_id: int = 1) -> QueuedObject:
    path = folder / str(object_id)
    path.write_bytes(data)
    return queued(object_id, len(data), path=path)


def start(reader: BlockReader, row: QueuedObject, sbn: int) -> None:
    geometry = PROFILE.geometry(row.coded_size)
    entry = ObjectEntry(row.id, row.kind, row.coding, row.digest, row.content_size, row.coded_digest, geometry)
    reader.start(Order(row.id, row.path, entry, geometry.block(sbn)))


def ready(reader: BlockReader) -> ReadyBlock:
    block: ReadyBlock = wait_for(reader.peek)
    return block


def test_blocks_come_in_the_order_asked_for_with_their_bytes(tmp_path: Path, reader: BlockReader) -> None:
    data = some_bytes(7 * BLOCK + 1234)
    row = on_disk(tmp_path, data)
    blocks, asked, got = PROFILE.geometry(len(data)).blocks, 0, b""
    while len(got) < len(data):
        while reader.has_room and asked < blocks:
            start(reader, row, asked)
            asked += 1
        block = ready(reader)
        reader.pop()
        got += bytes(block.buffer.memory[: block.order.shape.size])
        reader.give_back(block.buffer)
    assert got == data


def test_buffers_never_exceed_the_bound(tmp_path: Path, reader: BlockReader) -> None:
    row = on_disk(tmp_path, some_bytes(9 * BLOCK))
    for sbn in range(BUFFERS):
        assert reader.has_room
        start(reader, row, sbn)
    assert not reader.has_room
    with pytest.raises(ProtocolMisuse):
        start(reader, row, BUFFERS)
    block = ready(reader)
    reader.pop()
    assert not reader.has_room, "a popped buffer is still lent"
    reader.give_back(block.buffer)
    assert reader.has_room


def test_a_short_file_is_told_once_and_gives_its_buffer_back(tmp_path: Path, reader: BlockReader) -> None:
    row = on_disk(tmp_path, some_bytes(3 * BLOCK))
    row.path.write_bytes(some_bytes(100))
    start(reader, row, 0)
    with pytest.raises(BlockUnreadable, match=r"ends at 100 of \d+ bytes"):
        wait_for(reader.peek)
    assert reader.peek() is None
    assert reader.orders() == []


def test_a_vanished_file_is_told_and_does_not_disturb_the_next(tmp_path: Path, reader: BlockReader) -> None:
    gone, good = on_disk(tmp_path, some_bytes(500), 1), on_disk(tmp_path, some_bytes(600, 2), 2)
    gone.path.unlink()
    start(reader, gone, 0)
    start(reader, good, 0)
    with pytest.raises(BlockUnreadable, match="No such file") as caught:
        wait_for(reader.peek)
    assert caught.value.order.object_id == gone.id
    assert bytes(ready(reader).buffer.memory[:600]) == some_bytes(600, 2)


def test_a_file_put_right_again_is_opened_anew(tmp_path: Path, reader: BlockReader) -> None:
    data = some_bytes(2 * BLOCK)
    row = on_disk(tmp_path, data)
    row.path.write_bytes(data[:10])
    start(reader, row, 0)
    with pytest.raises(BlockUnreadable):
        wait_for(reader.peek)
    row.path.unlink()
    row.path.write_bytes(data)
    start(reader, row, 0)
    block = ready(reader)
    assert bytes(block.buffer.memory[: block.order.shape.size]) == data[: block.order.shape.size]


def test_dropping_an_object_keeps_the_others(tmp_path: Path, reader: BlockReader) -> None:
    one, two = on_disk(tmp_path, some_bytes(2 * BLOCK), 1), on_disk(tmp_path, some_bytes(600, 2), 2)
    start(reader, one, 0)
    start(reader, two, 0)
    start(reader, one, 1)
    dropped: list[Order] = []
    reader.drop(lambda order: order.object_id == 1)
    wait_for(lambda: [order.object_id for order in dropped] == [1, 1] or dropped.extend(reader.swept()))
    assert not reader.sweeping
    assert [order.object_id for order in reader.orders()] == [2]
    assert bytes(ready(reader).buffer.memory[:600]) == some_bytes(600, 2)
