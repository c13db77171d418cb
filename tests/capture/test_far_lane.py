"""What capture makes of a lane's process that a stranger has taken over, and the memory that both see."""

from __future__ import annotations

import contextlib
import gc
import os
from pathlib import Path

import pytest

from protocol.events import SessionOpened
from protocol.limits import BLOCK_BYTES_MAX, BUFFER_BYTES_MAX
from receiver import far_lane
from receiver.far_lane import FarBlock, FarEvent, FarLane
from receiver.messages import Begin
from receiver.shared import SLOTS, SharedBuffer, SharedBuffers, SharedView, create
from runtime.errors import UserError
from tests.support.lying_lane import SIZE
from tests.support.processes import ROOT
from tests.support.waits import wait_for


def lane(monkeypatch: pytest.MonkeyPatch, lie: str) -> FarLane:
    monkeypatch.setattr(far_lane, "MODULE", "tests.support.lying_lane")
    monkeypatch.setenv("LIE", lie)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    listen = {"on": "127.0.0.1:4433", "lanes": 2}
    return FarLane(
        Begin(lane=1, listen=listen, hpke_key=bytes(32), senders=[], epochs=[], log_format="json", log_level="info")
    )


@pytest.mark.parametrize(
    "lie",
    [
        "slot", "negative slot", "beyond the slot", "before the slot", "beyond the block", "before the block",
        "negative size", "no such block", "negative block", "entry", "twice", "no message", "another's message",
    ],
)  # fmt: skip
def test_a_lie_ends_the_process_and_goes_no_further(monkeypatch: pytest.MonkeyPatch, lie: str) -> None:
    liar = lane(monkeypatch, lie)
    with pytest.raises(UserError, match="lane 1: its process is not to be trusted and was killed"):
        wait_for(lambda: liar.listen() and False)
    assert liar.listen() == []
    assert liar.stopped
    liar.close()


def test_the_same_without_a_lie_is_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = lane(monkeypatch, "none")
    events: list[FarEvent] = []
    wait_for(lambda: events.extend(honest.listen()) or len(events) == 2)
    block, opened = events
    assert isinstance(block, FarBlock)
    assert isinstance(opened, SessionOpened)
    ((offset, piece),) = block.finished()
    assert (offset, len(piece)) == (block.shape.offset, block.shape.size)
    assert block.owner.entry.geometry.size == SIZE
    honest.close()


def test_what_one_process_writes_the_other_reads_and_cannot_change() -> None:
    descriptor = create()
    buffers, view = SharedBuffers(descriptor), SharedView(descriptor)
    first, second = buffers.pool.take(100, 1_424), buffers.pool.take(100, 1_424)
    assert isinstance(first, SharedBuffer)
    assert isinstance(second, SharedBuffer)
    first.symbols[3][:] = b"a" * 1_424
    second.symbols[0][:] = b"b" * 1_424
    assert view.piece(first.slot, 3 * 1_424, 1_424) == b"a" * 1_424
    assert view.piece(second.slot, 0, 1_424) == b"b" * 1_424
    assert view.piece(second.slot, 0, 1).readonly
    os.close(descriptor)


def test_memory_is_given_back_with_the_buffers_and_slots_are_used_again() -> None:
    descriptor = create()
    pool = SharedBuffers(descriptor).pool

    def taken() -> int:
        return os.fstat(descriptor).st_blocks * 512

    for size in (1_424, 8_928, 1_424, 4_096, 8_928):  # sessions of other datagram sizes: no buffer fits the next
        lent = []
        while not pool.exhausted and (buffer := pool.take(BLOCK_BYTES_MAX // size, size)) is not None:
            buffer.memory[:] = b"x" * len(buffer.memory)
            lent.append(buffer)
        assert len(lent) == BUFFER_BYTES_MAX // BLOCK_BYTES_MAX
        assert taken() <= BUFFER_BYTES_MAX
        for buffer in lent:
            pool.give_back(buffer)
    small = [pool.take(1, 560) for _ in range(SLOTS)]
    assert None not in small
    assert taken() < BLOCK_BYTES_MAX
    os.close(descriptor)


def test_a_lane_that_is_closed_and_forgotten_leaves_no_memory_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_memories() -> int:
        links = []
        for each in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):
                links.append(os.readlink(each))
        return sum("checkvalve-lane" in link for link in links)

    gc.collect()
    before = open_memories()
    one = lane(monkeypatch, "none")
    wait_for(one.listen)
    assert open_memories() == before + 1
    one.close()
    del one
    gc.collect()
    assert open_memories() == before
