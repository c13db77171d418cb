"""``sendmmsg`` and ``recvmmsg`` through ctypes: many datagrams a system call, where GSO or GRO is missing.

The kernel's structures are prepared once for a buffer and used again; the calls release the GIL. Layouts are those of
<sys/socket.h> (sendmmsg(2), recvmmsg(2)); on musl the padding takes the place of the wider length fields. Knows
nothing of what the datagrams mean, nor when to give up.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from ctypes import Structure, addressof, byref, c_char, c_int, c_size_t, c_ssize_t, c_uint, c_void_p, memmove, sizeof
from typing import Any, Final

MESSAGES_MAX: Final = 1_024  # UIO_MAXIOV: the kernel takes no more in one call
SO_RXQ_OVFL: Final = 40
SLOTS_MAX: Final = 128
_CMSG: Final = struct.Struct("@Nii")  # cmsg_len, cmsg_level, cmsg_type
_UINT: Final = struct.Struct("=I")
_CONTROL_BYTES: Final = socket.CMSG_SPACE(4)


class _Iovec(Structure):
    _fields_ = [("base", c_void_p), ("len", c_size_t)]


class _Msghdr(Structure):
    _fields_ = [
        ("name", c_void_p),
        ("namelen", c_uint),
        ("iov", c_void_p),
        ("iovlen", c_size_t),
        ("control", c_void_p),
        ("controllen", c_size_t),
        ("flags", c_int),
    ]


class _Mmsghdr(Structure):
    _fields_ = [("hdr", _Msghdr), ("len", c_uint)]


_HEADER_BYTES: Final = sizeof(_Mmsghdr)
_LEN_AT: Final = _Mmsghdr.len.offset


def _function(name: str, *arguments: Any) -> Any:
    """Return libc's function *name*, None where it has none."""
    try:
        found = getattr(ctypes.CDLL(None, use_errno=True), name)
    except (OSError, AttributeError):
        return None
    found.argtypes = arguments
    found.restype = c_int
    return found


_sendmmsg: Final = _function("sendmmsg", c_int, c_void_p, c_uint, c_int)
_recvmmsg: Final = _function("recvmmsg", c_int, c_void_p, c_uint, c_int, c_void_p)
HAVE_SENDMMSG: Final[bool] = _sendmmsg is not None
HAVE_RECVMMSG: Final[bool] = _recvmmsg is not None


class _Messages:
    """An array of message headers with one iovec each."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.iovecs = (_Iovec * count)()
        self.headers = (_Mmsghdr * count)()
        for index in range(count):
            header = self.headers[index].hdr
            header.iov = addressof(self.iovecs) + index * sizeof(_Iovec)
            header.iovlen = 1


class SendVector:
    """Sends bursts of datagrams of *datagram_bytes* each, the last perhaps shorter. Use from one thread."""

    def __init__(self, datagram_bytes: int) -> None:
        self._datagram_bytes = datagram_bytes
        self._messages = _Messages(0)
        self._base = 0  # address that the first *_based* iovecs start from
        self._based = 0
        self._copy = bytearray()  # of a burst in memory that may not be written to, which ctypes cannot address

    def send(self, fd: int, burst: memoryview, start: int = 0) -> int:
        """Send *burst* from byte *start* (a whole number of datagrams) on; return the bytes that left, at least one
        datagram's. OSError if the first of them was not taken; what then stopped later ones, the next call tells.
        """
        size = self._datagram_bytes
        first, last = start // size, -(-len(burst) // size)
        last = min(last, first + MESSAGES_MAX)
        if burst.readonly:
            if start == 0 or len(self._copy) != len(burst):
                self._copy = bytearray(burst)
            burst = memoryview(self._copy)
        anchor = c_char.from_buffer(burst)  # keeps the memory in place
        self._prepare(addressof(anchor), last)
        short = len(burst) - (last - 1) * size
        if short < size:
            self._messages.iovecs[last - 1].len = short
        try:
            sent = _sendmmsg(fd, byref(self._messages.headers, first * _HEADER_BYTES), last - first, 0)
        finally:
            if short < size:
                self._messages.iovecs[last - 1].len = size
        if sent < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return min(int(sent) * size, len(burst) - start)

    def _prepare(self, base: int, count: int) -> None:
        """Point the first *count* iovecs at the burst; nothing to do for a buffer that is used again."""
        if count > self._messages.count:
            self._messages = _Messages(count)
            self._based = 0
        if base != self._base:
            self._base, self._based = base, 0
        for index in range(self._based, count):
            iovec = self._messages.iovecs[index]
            iovec.base = base + index * self._datagram_bytes
            iovec.len = self._datagram_bytes
        self._based = max(self._based, count)


class ReceiveVector:
    """Receives into slots of *memory*, a slot a datagram; :meth:`slice` says how large they are.

    A datagram larger than its slot runs on into the next ones, so it is whole only if none followed it. So no memory
    beyond the burst's own is needed. *memory* is writable and stays this object's to write while it is in use.
    """

    def __init__(self, memory: memoryview, slot: int) -> None:
        self.memory = memory
        self.kernel_drops = 0
        self._anchor = c_char.from_buffer(memory)
        self._messages = _Messages(SLOTS_MAX)
        self._control = (c_char * (SLOTS_MAX * _CONTROL_BYTES))()
        self._control_view = memoryview(self._control).cast("B")
        for index in range(SLOTS_MAX):
            header = self._messages.headers[index].hdr
            header.control = addressof(self._control) + index * _CONTROL_BYTES
            header.controllen = _CONTROL_BYTES
        # The kernel writes lengths and flags into the headers; this is what they were.
        self._fresh = (_Mmsghdr * SLOTS_MAX)()
        memmove(self._fresh, self._messages.headers, sizeof(self._fresh))
        words = memoryview(self._messages.headers).cast("B").cast("I")
        self._lengths = words[_LEN_AT // 4 :: _HEADER_BYTES // 4]
        self.slot = self.slots = 0
        self.slice(slot)

    def slice(self, slot: int) -> None:
        """Make the slots *slot* bytes large, as many as there is room for."""
        self.slot = slot
        self.slots = min(SLOTS_MAX, len(self.memory) // slot)
        base = addressof(self._anchor)
        for index in range(self.slots):
            iovec = self._messages.iovecs[index]
            iovec.base = base + index * slot
            iovec.len = len(self.memory) - index * slot

    def receive(self, fd: int) -> list[int]:
        """Return the sizes of the datagrams received, the first in slot 0; OSError (EAGAIN: nothing is there)."""
        messages = self._messages.headers
        memmove(messages, self._fresh, self.slots * _HEADER_BYTES)
        count = _recvmmsg(fd, byref(messages), self.slots, socket.MSG_DONTWAIT, None)
        if count < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        if count == 0:
            return []
        self._read_drops(count - 1)
        return self._lengths[:count].tolist()

    def _read_drops(self, index: int) -> None:
        """Take the kernel's count of drops from the newest message; it only grows."""
        if self._messages.headers[index].hdr.controllen < _CONTROL_BYTES - _UINT.size:
            return
        at = index * _CONTROL_BYTES
        _, level, kind = _CMSG.unpack_from(self._control_view, at)
        if level == socket.SOL_SOCKET and kind == SO_RXQ_OVFL:
            (self.kernel_drops,) = _UINT.unpack_from(self._control_view, at + socket.CMSG_LEN(0))


assert sizeof(c_ssize_t) == sizeof(c_size_t)
assert _HEADER_BYTES % 4 == 0
assert _LEN_AT % 4 == 0
