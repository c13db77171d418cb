"""When every block buffer is on its way to disk: the kernel holds what arrives, for a moment; then it is dropped."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from protocol.buffers import BufferPool
from protocol.decoder import Decoder
from protocol.drops import Drop
from protocol.trust import Remembered
from receiver import lane
from receiver.assemble import Assembler
from receiver.capture_loop import Capture
from receiver.config import ReceiverSettings
from receiver.journal import ReceiverJournal
from receiver.link import Link
from receiver.senders import Trust
from runtime import keys
from runtime.reload import Reload
from runtime.settings import load_settings
from tests.capture.rig import Cargo, Mouth, Side, Wire
from tests.support.content import digest_of, some_bytes
from tests.support.waits import wait_for

BUFFERS = 4
DATA = some_bytes(20 * 50 * 10 * 1424)  # twenty blocks of Wire's profile
NEEDED_BYTES = 2 * len(DATA)  # of the kernel's receive buffer, to hold most of it


class InProcess:
    """A capture role with few buffers, in a thread of this process."""

    def __init__(self, side: Side) -> None:
        self.stop = threading.Event()
        self.capture: Capture | None = None
        self.granted = 0
        self._side = side
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        wait_for(lambda: self.capture is not None or not self._thread.is_alive())

    def _run(self) -> None:
        side = self._side
        settings = load_settings(side.config, ReceiverSettings)
        link = Link(settings.listen.on, settings.listen.receive_buffer)
        self.granted = link.receive_buffer
        private = keys.load_hpke_key(settings.hpke_key, created_by="test")
        remembered = Remembered()
        decoder = Decoder(side.trusted, private, remembered, buffers=BUFFERS)
        self.capture = Capture(
            settings, ReceiverJournal(settings.journal), lane.Lane(link, decoder), Trust(side.trusted), remembered
        )
        self.capture.run(self.stop, Reload(settings, None, ()))  # type: ignore[arg-type]
        self.capture.close()

    def dropped(self, reason: Drop) -> int:
        assert self.capture is not None
        return self.capture._lane.decoder.counters.drops[reason]

    def datagrams(self) -> int:
        assert self.capture is not None
        return self.capture._lane.decoder.counters.datagrams

    def end(self) -> None:
        self.stop.set()
        self._thread.join(10)
        assert not self._thread.is_alive()


@pytest.fixture
def running(side: Side) -> Iterator[InProcess]:
    side.state.mkdir()
    made = InProcess(side)
    if made.granted < NEEDED_BYTES:
        made.end()
        pytest.skip(f"the kernel grants a receive buffer of {made.granted} bytes only (run as root)")
    yield made
    made.end()


def test_a_slow_disk_costs_nothing_that_the_kernel_can_hold(
    side: Side, running: InProcess, mouth: Mouth, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, write, seen = [], Assembler._write, [False]

    def slowly(self: Assembler, *given: object) -> None:
        time.sleep(0.06)
        seen[0] = seen[0] or running.capture._lane.decoder.out_of_buffers
        written.append(1)
        write(self, *given)

    monkeypatch.setattr(Assembler, "_write", slowly)
    monkeypatch.setattr(lane, "ROOM_S", 10.0)  # this machine may be slower than the disk of this test
    mouth.say(Wire(side).send([Cargo(DATA)]))
    wait_for(lambda: side.spool.size(digest_of(DATA)), 30)
    side.spool.verify(digest_of(DATA))
    assert len(written) == 20
    assert seen[0], "it had no buffer left at some time"
    assert running.dropped(Drop.NO_BUFFER) == 0


def test_a_stuck_disk_is_not_waited_for(
    side: Side, running: InProcess, mouth: Mouth, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, write = threading.Event(), Assembler._write

    def stuck(self: Assembler, *given: object) -> None:
        free.wait(20)
        write(self, *given)

    monkeypatch.setattr(Assembler, "_write", stuck)
    sent = Wire(side).send([Cargo(DATA)])
    try:
        mouth.say(sent)
        wait_for(lambda: running.datagrams() == len(sent))
        assert running.dropped(Drop.NO_BUFFER) > 0
    finally:
        free.set()
    mouth.say(Wire(side, 2).send([Cargo(DATA)]))
    wait_for(lambda: side.spool.size(digest_of(DATA)), 30)
    side.spool.verify(digest_of(DATA))


def test_a_pool_is_exhausted_when_it_has_no_room_for_another_like_the_last() -> None:
    pool = BufferPool(most=3, bytes_max=10 * 16)
    assert not pool.exhausted
    first = pool.take(4, 16)
    assert not pool.exhausted
    pool.take(4, 16)
    assert pool.exhausted
    assert pool.take(4, 16) is None
    pool.give_back(first)
    assert not pool.exhausted
    pool.take(3, 16)
    small = BufferPool(most=2, bytes_max=1_000)
    small.take(1, 16)
    small.take(1, 16)
    assert small.exhausted
