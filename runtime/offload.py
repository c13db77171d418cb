"""Really tries the kernel's ways to move many datagrams in one call, between two sockets on loopback.

A socket option that is accepted proves nothing: sandboxes and containers accept ``UDP_SEGMENT`` and refuse the send,
or filter ``sendmmsg``. What loopback can do is what the kernel can do; a device may still refuse later, and the links
fall back then. Each probe takes a few milliseconds and nothing leaves the machine.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from runtime.mmsg import HAVE_RECVMMSG, HAVE_SENDMMSG, ReceiveVector, SendVector

SOL_UDP: Final = 17
UDP_SEGMENT: Final = 103
UDP_GRO: Final = 104
_SIZE: Final = 512
_COUNT: Final = 4
_WAIT_S: Final = 0.25


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of a probe: *works* None where it could not be tried (no loopback)."""

    works: bool | None
    reason: str = ""


class _Refused(Exception):
    """The kernel has it not, or not whole."""


def try_gso() -> Trial:
    """Send one buffer that the kernel cuts into datagrams (udp(7), UDP_SEGMENT)."""

    def send(near: socket.socket, burst: bytes) -> None:
        near.setsockopt(SOL_UDP, UDP_SEGMENT, _SIZE)
        near.send(burst)

    return _trial(send, _take_singly)


def try_sendmmsg() -> Trial:
    """Send several datagrams in one call."""

    def send(near: socket.socket, burst: bytes) -> None:
        if not HAVE_SENDMMSG:
            raise _Refused("libc has no sendmmsg")
        if SendVector(_SIZE).send(near.fileno(), memoryview(burst)) != len(burst):
            raise _Refused("only part of a burst was taken")

    return _trial(send, _take_singly)


def try_recvmmsg() -> Trial:
    """Receive several datagrams in one call."""

    def take(far: socket.socket) -> list[bytes]:
        if not HAVE_RECVMMSG:
            raise _Refused("libc has no recvmmsg")
        vector = ReceiveVector(memoryview(bytearray(_SIZE * _COUNT)), _SIZE)
        return [
            bytes(vector.memory[slot * _SIZE : slot * _SIZE + size])
            for slot, size in enumerate(vector.receive(far.fileno()))
        ]

    return _trial(_send_singly, take)


def try_gro() -> Trial:
    """Receive several datagrams as one buffer; a burst by GSO if that works, which loopback hands over whole.

    Without GSO nothing on loopback is ever merged: then accepting the option is all that can be told.
    """

    def send(near: socket.socket, burst: bytes) -> None:
        try:
            near.setsockopt(SOL_UDP, UDP_SEGMENT, _SIZE)
            near.send(burst)
        except OSError:
            raise _Untold("no GSO on this machine to try it with") from None

    def prepare(far: socket.socket) -> None:
        far.setsockopt(SOL_UDP, UDP_GRO, 1)

    def take(far: socket.socket) -> list[bytes]:
        data, ancillary, _, _ = far.recvmsg(65_535, socket.CMSG_SPACE(4))
        sizes = [
            int.from_bytes(value[:4], sys.byteorder)
            for level, kind, value in ancillary
            if (level, kind) == (SOL_UDP, UDP_GRO)
        ]
        if sizes != [_SIZE]:
            raise _Refused("the option is accepted, but datagrams arrive one by one")
        return [data[at : at + _SIZE] for at in range(0, len(data), _SIZE)]

    return _trial(send, take, prepare)


class _Untold(Exception):
    """Nothing can be said."""


def _trial(
    send: Callable[[socket.socket, bytes], None],
    take: Callable[[socket.socket], list[bytes]],
    prepare: Callable[[socket.socket], None] = lambda far: None,
) -> Trial:
    burst = os.urandom(_SIZE * _COUNT)
    with ExitStack() as stack:
        try:
            far, near = _pair(stack)
        except OSError as error:
            return Trial(None, f"loopback cannot be used: {error.strerror or error}")
        try:
            prepare(far)
            send(near, burst)
            arrived = _gather(far, take)
        except _Untold as error:
            return Trial(None, str(error))
        except _Refused as error:
            return Trial(False, str(error))
        except OSError as error:
            return Trial(False, error.strerror or str(error))
    if b"".join(arrived) != burst or len(arrived) != _COUNT:
        return Trial(False, f"{len(arrived)} of {_COUNT} datagrams arrived as they were sent")
    return Trial(True)


def _pair(stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    far = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    far.bind(("127.0.0.1", 0))
    near = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    near.connect(far.getsockname())
    near.send(b"")  # whether loopback carries anything at all
    far.settimeout(_WAIT_S)
    far.recv(1)
    return far, near


def _gather(far: socket.socket, take: Callable[[socket.socket], list[bytes]]) -> list[bytes]:
    arrived: list[bytes] = []
    end = time.monotonic() + _WAIT_S
    while len(arrived) < _COUNT and time.monotonic() < end:
        try:
            arrived += take(far)
        except TimeoutError:
            break
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EINTR):
                raise
            time.sleep(0.001)
    return arrived


def _send_singly(near: socket.socket, burst: bytes) -> None:
    for at in range(0, len(burst), _SIZE):
        near.send(burst[at : at + _SIZE])


def _take_singly(far: socket.socket) -> list[bytes]:
    return [far.recv(_SIZE + 1)]
