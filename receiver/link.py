"""The UDP socket at the diode's end: receives bursts of equal datagrams, by GRO where the kernel has it.

Three paths, the first that works here, tried on loopback at the start: ``UDP_GRO`` (Linux 5.0) hands over up to
64 KiB of datagrams of one size in a call and tells that size in a control message; ``recvmmsg`` fills the buffer
with datagrams (slots.py); plain calls take one. ``SO_RXQ_OVFL`` tells how often the kernel dropped something because
this socket's buffer was full, which is not the link's loss: a datagram, or with GRO a whole burst. The socket is only
ever read.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
from typing import Final, Literal

import structlog

from protocol.decoder import ReceiveBuffer
from receiver.config import Listen
from receiver.slots import SlotReceiver
from runtime.errors import UserError
from runtime.listen_fds import datagram_sockets
from runtime.mmsg import SO_RXQ_OVFL
from runtime.offload import SOL_UDP, UDP_GRO, Trial, try_gro, try_recvmmsg
from runtime.units import HostPort

Path = Literal["gro", "recvmmsg", "plain"]
SO_RCVBUFFORCE: Final = 33
_CONTROL_BYTES: Final = socket.CMSG_SPACE(4) * 2
_UINT: Final = struct.Struct("=I")
_INT: Final = struct.Struct("=i")

# a kernel or sandbox without the call
_NO_RECVMMSG: Final = frozenset({errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM})

log = structlog.get_logger()


class Link:
    """A bound UDP socket. Use from one thread.

    *gro*: ``auto`` (or True) takes the best path, ``mmsg`` the best without GRO, ``off`` (or False) plain calls.
    ``path`` says which is in use. *passed* is a socket that is bound already (runtime/listen_fds.py): its owner chose
    its buffer, and it stays open in systemd when this is closed.
    """

    def __init__(
        self,
        on: HostPort,
        receive_buffer: int,
        *,
        gro: bool | Literal["auto", "mmsg", "off"] = "auto",
        passed: socket.socket | None = None,
    ) -> None:
        self.kernel_drops = 0
        self._slots: SlotReceiver | None = None  # made for the buffer of the first call
        self._socket = _bound(on, receive_buffer) if passed is None else passed
        self.receive_buffer = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL, 1)
        self.path: Path = "plain"
        if gro in (True, "auto") and self._enable_gro():
            self.path = "gro"
        elif gro not in (False, "off"):
            trial = try_recvmmsg()
            if trial.works is False:
                log.info("recvmmsg_off", reason=trial.reason, path="plain")
            else:
                self.path = "recvmmsg"
        self._socket.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)

    @property
    def gro(self) -> bool:
        """Whether the kernel hands over merged datagrams."""
        return self.path == "gro"

    def _enable_gro(self) -> bool:
        trial = try_gro()
        try:
            if trial.works is not False:  # untold: datagrams that arrive one by one are taken one by one
                self._socket.setsockopt(SOL_UDP, UDP_GRO, 1)
        except OSError as error:
            trial = Trial(False, str(error.strerror))
        if trial.works is False:
            log.info("gro_off", reason=trial.reason)
        return trial.works is not False

    def watch(self, descriptor: int) -> None:
        """Let :meth:`wait` return when *descriptor* is readable, too."""
        self._poll.register(descriptor, select.POLLIN)

    def wait(self, timeout: float) -> bool:
        """Wait up to *timeout* seconds; whether there is something to receive."""
        if self._slots is not None and self._slots.pending:
            return True
        ours = self._socket.fileno()
        return any(descriptor == ours for descriptor, _ in self._poll.poll(timeout * 1000))

    def receive(self, into: ReceiveBuffer) -> tuple[int, int]:
        """Return (bytes received, size of each datagram); (0, 0) when nothing is there, (0, 1) for an empty one.

        Give the same buffer each time: datagrams of other sizes wait in it for the next call.
        """
        if self.path == "recvmmsg":
            try:
                return self._receive_slots(into)
            except OSError as error:
                if error.errno not in _NO_RECVMMSG:
                    raise
                log.info("recvmmsg_off", reason=error.strerror, path="plain")
                self.path = "plain"
        try:
            size, ancillary, _, _ = self._socket.recvmsg_into([into.memory], _CONTROL_BYTES)
        except BlockingIOError:
            return 0, 0
        segment = size or 1
        for level, kind, data in ancillary:
            if level == SOL_UDP and kind == UDP_GRO:
                segment = _INT.unpack(data[:4])[0]
            elif level == socket.SOL_SOCKET and kind == SO_RXQ_OVFL:
                self.kernel_drops = _UINT.unpack(data[:4])[0]
        return size, segment

    def _receive_slots(self, into: ReceiveBuffer) -> tuple[int, int]:
        slots = self._slots
        if slots is None or slots.memory is not into.memory:
            if slots is not None and slots.pending:
                return slots.hand_over(into.memory)
            slots = self._slots = SlotReceiver(into.memory)
        try:
            run = slots.receive(self._socket.fileno())
        except BlockingIOError:
            return 0, 0
        self.kernel_drops = max(self.kernel_drops, slots.kernel_drops)
        return run

    @property
    def address(self) -> tuple[str, int]:
        """The bound address."""
        name = self._socket.getsockname()
        return str(name[0]), int(name[1])

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def open_sockets(listen: Listen) -> list[socket.socket]:
    """Return a bound socket for each lane: those that systemd has passed to this process, else our own; UserError."""
    places = [listen.on.lane(number) for number in range(listen.lanes)]
    passed = datagram_sockets(places, "listen.on")
    sockets = passed if passed is not None else [_bound(place, listen.receive_buffer) for place in places]
    granted = min(each.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2 for each in sockets)
    if granted < listen.receive_buffer:
        log.warning(
            "receive_buffer_small",
            granted=granted,
            wanted=listen.receive_buffer,
            mend="`checkvalve-receiver units --write`, or ReceiveBuffer= in checkvalve-capture.socket"
            if passed is not None
            else f"sysctl -w net.core.rmem_max={listen.receive_buffer}",
        )
    return sockets


def _bound(on: HostPort, receive_buffer: int) -> socket.socket:
    """Return a socket of our own; UserError if it cannot be had."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            on.host, on.port, on.family, socket.SOCK_DGRAM, 0, socket.AI_NUMERICHOST
        )[0]
    except socket.gaierror:
        raise UserError(f"listen.on: {on.host!r} is not an IP address; give e.g. 0.0.0.0:4000") from None
    made = socket.socket(family, socket.SOCK_DGRAM)
    with contextlib.suppress(OSError):
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    with contextlib.suppress(OSError):  # past rmem_max, with CAP_NET_ADMIN
        made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, receive_buffer)
    try:
        made.bind(address)
    except OSError as error:
        made.close()
        raise UserError(
            f"listen.on: cannot bind {on}: {error.strerror}; another receiver, or not our address?"
        ) from None
    return made
