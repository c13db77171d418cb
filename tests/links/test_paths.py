"""Every way of handing datagrams to the kernel and taking them from it carries the same bytes."""

from __future__ import annotations

import ctypes
import errno
import random
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import receiver.link
import runtime.mmsg
import sender.link
from protocol.decoder import ReceiveBuffer
from receiver.link import Link as ReceiverLink
from receiver.slots import SETTLE_DATAGRAMS, SLOT_MAX, runs
from runtime.errors import UserError
from runtime.mmsg import ReceiveVector, SendVector
from runtime.offload import Trial, try_gro, try_gso, try_recvmmsg, try_sendmmsg
from runtime.units import HostPort
from sender.link import Link as SenderLink

OUT = {"auto": "gso", "mmsg": "sendmmsg", "off": "plain"}
IN = {"auto": "gro", "mmsg": "recvmmsg", "off": "plain"}


@pytest.fixture
def ear() -> Iterator[Callable[..., ReceiverLink]]:
    opened: list[ReceiverLink] = []

    def listen(gro: Any = "auto", receive_buffer: int = 8 << 20) -> ReceiverLink:
        opened.append(ReceiverLink(HostPort("127.0.0.1", 0), receive_buffer, gro=gro))
        return opened[-1]

    yield listen
    for link in opened:
        link.close()


@pytest.fixture
def mouth() -> Iterator[Callable[..., SenderLink]]:
    opened: list[SenderLink] = []

    def talk(to: tuple[str, int], gso: Any = "auto", mtu: int = 1500) -> SenderLink:
        opened.append(SenderLink(HostPort(*to), mtu, gso=gso))
        return opened[-1]

    yield talk
    for link in opened:
        link.close()


def take(link: ReceiverLink, buffer: ReceiveBuffer, count: int, timeout: float = 3.0) -> list[bytes]:
    """Up to *count* datagrams as they were sent, empty ones too."""
    found: list[bytes] = []
    end = time.monotonic() + timeout
    while len(found) < count and time.monotonic() < end:
        if not link.wait(0.05):
            continue
        while True:
            size, segment = link.receive(buffer)
            if segment == 0:
                break
            found += [bytes(buffer.memory[at : min(at + segment, size)]) for at in range(0, size, segment)] or [b""]
    return found


def noise(size: int, seed: int = 1) -> bytearray:
    return bytearray(random.Random(seed).randbytes(size))


def cut(data: bytes | bytearray, size: int) -> list[bytes]:
    return [bytes(data[at : at + size]) for at in range(0, len(data), size)]


@pytest.mark.parametrize("gro", IN)
@pytest.mark.parametrize("gso", OUT)
@pytest.mark.parametrize("mtu", [1500, 9000])
def test_every_pair_of_paths_delivers_the_same_bytes(ear: Any, mouth: Any, gso: str, gro: str, mtu: int) -> None:
    far, buffer = ear(gro), ReceiveBuffer()
    near = mouth(far.address, gso, mtu)
    assert (near.path, far.path) == (OUT[gso], IN[gro])
    size = near.datagram_bytes
    burst = noise(size * (65_000 // size))
    for turn in range(12):  # the first bursts settle the slots
        burst[:8] = struct.pack("=Q", turn)
        assert near.send(memoryview(burst))
        assert take(far, buffer, len(burst) // size) == cut(burst, size), f"burst {turn}"
    assert near.send(memoryview(burst)[: 2 * size + 100]), "the last one may be shorter"
    assert take(far, buffer, 3) == cut(burst[: 2 * size + 100], size)
    assert near.send(memoryview(bytes(burst))), "memory that cannot be written to"
    assert take(far, buffer, len(burst) // size) == cut(burst, size)
    assert far.kernel_drops == 0


def test_recvmmsg_hands_over_whole_bursts_once_the_size_is_known(ear: Any, mouth: Any) -> None:
    far, buffer = ear("mmsg"), ReceiveBuffer()
    near = mouth(far.address, "mmsg")
    burst = noise(near.datagram_bytes * 40)
    for _ in range(-(-SETTLE_DATAGRAMS // 40) + 1):
        near.send(memoryview(burst))
        take(far, buffer, 40)
    near.send(memoryview(burst))
    assert far.wait(1)
    assert far.receive(buffer) == (len(burst), near.datagram_bytes)
    assert buffer.memory[: len(burst)] == burst


@pytest.mark.parametrize("gro", IN)
def test_mixed_sizes_and_empty_datagrams(ear: Any, gro: str) -> None:
    far, buffer = ear(gro), ReceiveBuffer()
    rng = random.Random(5)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as near:
        near.connect(far.address)
        for turn in range(30):
            sizes = rng.choices((0, 1, 100, 560, 1472, 1472, 1472, 8960, 9188), k=20)
            sent = [rng.randbytes(size) for size in sizes]
            for datagram in (noise(9188), *sent):  # a large one at the front: no slot is too small for the others
                near.send(datagram)
            assert take(far, buffer, 21)[1:] == sent, f"turn {turn}, sizes {sizes}"


def test_a_larger_datagram_than_of_late_costs_itself_at_most(ear: Any) -> None:
    far, buffer = ear("mmsg"), ReceiveBuffer()
    small = [bytes(noise(1472, seed)) for seed in range(44)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as near:
        near.connect(far.address)

        def sent(*datagrams: bytes) -> list[bytes]:
            for datagram in datagrams:
                near.send(datagram)
            return take(far, buffer, len(datagrams))

        for _ in range(5):
            assert sent(*small) == small
        large = bytes(noise(8960, 99))
        found = sent(*small[:3], large, *small[3:5])
        assert found[:3] + found[4:] == small[:5], "its neighbours are whole"
        assert found[3] == large[:1471], "cut, and so that no session takes it for one of its own"
        assert sent(large, *small, large) == [large, *small, large], "from now on there is room"
        for _ in range(6):
            assert sent(*small) == small
        assert sent(*small[:4], large) == [*small[:4], large], "the last of a call is whole in any case"


def test_a_datagram_beyond_every_session_is_handed_over_as_large_as_it_is(ear: Any) -> None:
    far, buffer = ear("mmsg"), ReceiveBuffer()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as near:
        near.connect(far.address)
        near.send(bytes(60_000))
        far.wait(1)
        assert far.receive(buffer) == (60_000, 60_000)
        near.send(bytes(100))
        assert take(far, buffer, 1) == [bytes(100)]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([8, 8, 8], [(0, 24, 8)]),
        ([8, 8, 3, 8], [(0, 19, 8), (24, 8, 8)]),
        ([3, 8], [(0, 3, 3), (8, 8, 8)]),
        ([0, 8, 0], [(0, 0, 1), (8, 8, 8), (16, 0, 1)]),
        ([8, 9, 8], [(0, 15, 8), (16, 8, 8)]),
        ([8, 8, 20], [(0, 16, 8), (16, 20, 20)]),
        ([9], [(0, 9, 9)]),
    ],
)
def test_runs(sizes: list[int], expected: list[tuple[int, int, int]]) -> None:
    assert runs(sizes, 8) == expected


@pytest.mark.parametrize("gro", IN)
def test_what_the_kernel_drops_is_counted(ear: Any, mouth: Any, gro: str) -> None:
    far, buffer = ear(gro), ReceiveBuffer()
    far._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    near = mouth(far.address, "off")
    burst = noise(near.datagram_bytes * 40)
    for _ in range(20):
        near.send(memoryview(burst))
    first = len(take(far, buffer, 800, timeout=0.2))
    assert first < 800
    near.send(memoryview(burst)[: near.datagram_bytes])  # the count comes with what is queued after the drop
    assert len(take(far, buffer, 1)) == 1
    if gro == "auto":  # merged datagrams count once
        assert 0 < far.kernel_drops <= 800 - first
    else:
        assert far.kernel_drops == 800 - first


@pytest.mark.parametrize("gso", OUT)
def test_a_closed_receiver_is_no_error(mouth: Any, gso: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        address = sock.getsockname()
    near = mouth(address, gso)
    for _ in range(50):
        assert near.send(memoryview(noise(10 * near.datagram_bytes)))
    assert (near.failures, near.path) == (0, OUT[gso])


@pytest.mark.parametrize("gso", OUT)
def test_datagrams_larger_than_the_socket_takes_end_with_one_line(ear: Any, mouth: Any, gso: str) -> None:
    near = mouth(ear().address, gso)
    near.datagram_bytes = 65_600  # more than UDP over IPv4 carries, so the kernel says EMSGSIZE on loopback too
    near._vector = SendVector(65_600)
    if gso == "auto":
        near._socket.setsockopt(17, 103, 65_535)
    with pytest.raises(UserError, match=r"^link\.mtu: a datagram of \d+ bytes does not fit .*lower link\.mtu[^\n]*$"):
        near.send(memoryview(bytearray(2 * 65_600)))


def test_a_send_buffer_that_fills_up_leaves_no_datagram_out_and_repeats_none(mouth: Any) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as far:
        far.bind(("127.0.0.1", 0))
        near = mouth(far.getsockname(), "mmsg")
        size = near.datagram_bytes
        burst = noise(size * 10)
        taken = iter([3, 1, 6])

        class Slowly(SendVector):
            def send(self, fd: int, burst: memoryview, start: int = 0) -> int:
                return super().send(fd, burst[: start + next(taken) * size], start)

        near._vector = Slowly(size)
        assert near.send(memoryview(burst))
        assert [far.recv(9000) for _ in range(10)] == cut(burst, size)
        far.setblocking(False)
        with pytest.raises(BlockingIOError):
            far.recv(9000)


def refuse(code: int) -> Callable[..., int]:
    """A system call that a kernel or a sandbox has not."""

    def call(*arguments: object) -> int:
        ctypes.set_errno(code)
        return -1

    return call


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EINVAL])
def test_where_sendmmsg_fails_later_plain_sends_go_on(
    ear: Any, mouth: Any, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    far, buffer = ear(), ReceiveBuffer()
    near = mouth(far.address, "mmsg")
    monkeypatch.setattr(runtime.mmsg, "_sendmmsg", refuse(code))
    burst = noise(near.datagram_bytes * 5)
    assert near.send(memoryview(burst))
    assert near.path == "plain"
    assert take(far, buffer, 5) == cut(burst, near.datagram_bytes)


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EPERM])
def test_where_recvmmsg_fails_later_plain_calls_go_on(
    ear: Any, mouth: Any, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    far, buffer = ear("mmsg"), ReceiveBuffer()
    monkeypatch.setattr(runtime.mmsg, "_recvmmsg", refuse(code))
    near = mouth(far.address)
    burst = noise(near.datagram_bytes * 5)
    assert near.send(memoryview(burst))
    assert take(far, buffer, 5) == cut(burst, near.datagram_bytes)
    assert far.path == "plain"


def test_what_the_trial_refuses_is_not_chosen(ear: Any, mouth: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender.link, "try_gso", lambda: Trial(False, "a sandbox"))
    monkeypatch.setattr(receiver.link, "try_gro", lambda: Trial(False, "a sandbox"))
    far = ear("auto")
    assert (mouth(far.address, "auto").path, far.path) == ("sendmmsg", "recvmmsg")
    monkeypatch.setattr(runtime.mmsg, "_sendmmsg", refuse(errno.ENOSYS))
    monkeypatch.setattr(runtime.mmsg, "_recvmmsg", refuse(errno.EPERM))
    assert try_sendmmsg() == Trial(False, "Function not implemented")
    assert try_recvmmsg() == Trial(False, "Operation not permitted")
    far = ear("auto")
    assert (mouth(far.address, "auto").path, far.path) == ("plain", "plain")


def test_without_loopback_the_first_send_decides(ear: Any, mouth: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    far, buffer = ear(), ReceiveBuffer()
    monkeypatch.setattr(sender.link, "try_gso", lambda: Trial(None, "no loopback"))
    near = mouth(far.address)
    assert near.path == "gso"
    near._socket.setsockopt(17, 103, 16)  # more segments than a send may have: the kernel says EINVAL
    burst = noise(near.datagram_bytes * 40)
    assert near.send(memoryview(burst))
    assert near.path == "sendmmsg"
    assert take(far, buffer, 40) == cut(burst, near.datagram_bytes)


def test_the_trials_work_on_this_kernel() -> None:
    assert [trial().works for trial in (try_sendmmsg, try_recvmmsg)] == [True, True]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.setsockopt(17, 103, 512)
        except OSError:
            pytest.skip("a kernel without UDP_SEGMENT")
    assert try_gso().works is True
    assert try_gro().works is True


def test_a_datagram_waits_in_the_buffer_until_it_is_asked_for(ear: Any) -> None:
    far, buffer = ear("mmsg"), ReceiveBuffer()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as near:
        near.connect(far.address)
        for size in (10, 20, 30):
            near.send(bytes([size]) * size)
        assert far.wait(1)
        assert far.receive(buffer) == (10, 10)
        assert far.wait(0), "though the socket is empty"
        other = ReceiveBuffer()
        assert far.receive(other) == (20, 20)
        assert other.memory[:20] == bytes([20]) * 20
        assert far.receive(buffer) == (30, 30)
        assert buffer.memory[:30] == bytes([30]) * 30
        assert not far.wait(0)
        assert far.receive(buffer) == (0, 0)


def test_the_vectors_take_no_more_memory_than_the_burst() -> None:
    memory = memoryview(bytearray(65_536))
    vector = ReceiveVector(memory, SLOT_MAX)
    assert vector.slots * SLOT_MAX <= len(memory)
    vector.slice(560)
    assert vector.slots * 560 <= len(memory)
    last = vector._messages.iovecs[vector.slots - 1]
    first = vector._messages.iovecs[0]
    assert last.base + last.len == first.base + len(memory), "no slot reaches beyond the buffer"


def test_a_vector_is_used_again_for_other_bytes_other_buffers_and_other_lengths() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as far,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as near,
    ):
        far.bind(("127.0.0.1", 0))
        far.settimeout(2)
        near.connect(far.getsockname())
        vector = SendVector(1000)
        first, second = noise(5_000, 1), noise(5_000, 2)
        for burst in (
            memoryview(first),
            memoryview(first)[:2_500],
            memoryview(first),
            memoryview(second),
            memoryview(bytes(first)),
            memoryview(bytes(second)),
            memoryview(second)[1_000:],
            memoryview(noise(90_000, 3)),
        ):
            assert vector.send(near.fileno(), burst) == len(burst)
            assert [far.recv(9000) for _ in range(-(-len(burst) // 1000))] == cut(bytes(burst), 1000)
        assert vector.send(near.fileno(), memoryview(first)[:4_100], 3_000) == 1_100
        assert [far.recv(9000) for _ in range(2)] == [first[3_000:4_000], first[4_000:4_100]]


def test_drops_are_told_by_the_newest_datagram_of_a_call() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as far,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as near,
    ):
        far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
        far.setsockopt(socket.SOL_SOCKET, runtime.mmsg.SO_RXQ_OVFL, 1)
        far.bind(("127.0.0.1", 0))
        far.setblocking(False)
        near.connect(far.getsockname())
        for _ in range(400):
            near.send(bytes(100))
        room = 40  # the kernel makes room in steps of a quarter of the buffer
        assert [len(far.recv(200)) for _ in range(room)] == [100] * room
        near.send(bytes(100))  # the first that knows of the drops, behind others that do not
        vector = ReceiveVector(memoryview(bytearray(65_536)), 512)
        taken = len(vector.receive(far.fileno()))
        assert 1 < taken < vector.slots, "all that is there, in one call"
        assert vector.kernel_drops == 400 - room - (taken - 1) > 0
