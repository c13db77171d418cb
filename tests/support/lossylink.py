"""A one-way link that loses datagrams: a UDP relay between a loopback port and another, in a process of its own.

    sender ─▶ --on port ─▶ losses.py ─▶ --to port ─▶ receiver          nothing is ever carried back

Prints one JSON line when it listens, one at every SIGUSR1 and one at its end (SIGTERM, SIGINT). Bursts are received
by GRO and sent by GSO where the kernel has both; otherwise each datagram by itself.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import select
import signal
import socket
import struct
import sys
from typing import Final

from runtime.units import HostPort, parse_ratio
from tests.support.losses import LossPattern

SOL_UDP: Final = 17
UDP_SEGMENT: Final = 103
UDP_GRO: Final = 104
SO_RXQ_OVFL: Final = 40
SO_RCVBUFFORCE: Final = 33
SO_SNDBUFFORCE: Final = 32
IP_MTU_DISCOVER: Final = 10
IP_PMTUDISC_PROBE: Final = 3
_BUFFER_BYTES: Final = 64 * 2**20
_READS_PER_TURN: Final = 256
_UINT: Final = struct.Struct("=I")
_INT: Final = struct.Struct("=i")
_UINT16: Final = struct.Struct("=H")
# A receiver that is not there, or not yet: on a real link the light leaves the fibre all the same.
_NOBODY: Final = frozenset({errno.ECONNREFUSED, errno.ENOBUFS, errno.EAGAIN})


class LossyLink:
    """Relays datagrams from *on* to *to*; use from one thread."""

    def __init__(self, on: HostPort, to: HostPort, losses: LossPattern, *, offload: bool = True) -> None:
        self.losses = losses
        self.received = self.forwarded = self.kernel_drops = self.undeliverable = 0
        self.bytes = 0
        self._buffer = memoryview(bytearray(65_536))
        self._in = socket.socket(on.family, socket.SOCK_DGRAM)
        self._out = socket.socket(to.family, socket.SOCK_DGRAM)
        for option in (socket.SO_RCVBUF, SO_RCVBUFFORCE):  # the second passes rmem_max, where that is allowed
            with contextlib.suppress(OSError):
                self._in.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
        for option in (socket.SO_SNDBUF, SO_SNDBUFFORCE):
            with contextlib.suppress(OSError):
                self._out.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
        self._in.setsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL, 1)
        self.offload = offload and self._can_offload()
        if self.offload:
            self._in.setsockopt(SOL_UDP, UDP_GRO, 1)
        self._in.bind((on.host, on.port))
        self._in.setblocking(False)
        self._out.connect((to.host, to.port))
        if to.family == socket.AF_INET:
            self._out.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE)

    def _can_offload(self) -> bool:
        """Whether the kernel knows GRO and GSO for UDP; one without the other is of no use here."""
        try:
            self._in.setsockopt(SOL_UDP, UDP_GRO, 0)
            self._out.setsockopt(SOL_UDP, UDP_SEGMENT, 0)
        except OSError:
            return False
        return True

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._in.getsockname()[1])

    def fileno(self) -> int:
        """For poll."""
        return self._in.fileno()

    def turn(self) -> None:
        """Carry what has arrived by now, within bounds."""
        buffer = self._buffer
        space = socket.CMSG_SPACE(4) * 2
        for _ in range(_READS_PER_TURN):
            try:
                size, ancillary, _, _ = self._in.recvmsg_into([buffer], space)
            except BlockingIOError:
                return
            segment = size
            for level, kind, data in ancillary:
                if level == SOL_UDP and kind == UDP_GRO:
                    segment = _INT.unpack(data[:4])[0]
                elif level == socket.SOL_SOCKET and kind == SO_RXQ_OVFL:
                    self.kernel_drops = _UINT.unpack(data[:4])[0]
            self._carry(buffer[:size], max(segment, 1))

    def _carry(self, burst: memoryview, segment: int) -> None:
        count = max(1, -(-len(burst) // segment))
        self.received += count
        self.bytes += len(burst)
        kept = self.losses.kept(count)
        if not kept:
            return
        survivors = sum(end - start for start, end in kept)
        parts = [burst[start * segment : end * segment] for start, end in kept]
        self._send(parts, segment, survivors)

    def _send(self, parts: list[memoryview], segment: int, survivors: int) -> None:
        if survivors == 1:
            self._send_one(parts[0])
            return
        try:
            self._out.sendmsg(parts, [(SOL_UDP, UDP_SEGMENT, _UINT16.pack(segment))])
        except OSError as error:
            if error.errno in _NOBODY:
                self.undeliverable += survivors
                return
            # This kernel or route does not cut bursts: one by one, from now on also received so.
            self._in.setsockopt(SOL_UDP, UDP_GRO, 0)
            self.offload = False
            for part in parts:
                for at in range(0, len(part), segment):
                    self._send_one(part[at : at + segment])
            return
        self.forwarded += survivors

    def _send_one(self, datagram: memoryview) -> None:
        try:
            self._out.send(datagram)
        except OSError as error:
            if error.errno not in _NOBODY:
                raise
            self.undeliverable += 1
            return
        self.forwarded += 1

    def counters(self) -> dict[str, int | bool]:
        """Everything it has seen. ``received`` = ``forwarded`` + the lost ones + ``undeliverable``."""
        return {
            "port": self.port,
            "offload": self.offload,
            "received": self.received,
            "bytes": self.bytes,
            "forwarded": self.forwarded,
            "lost": self.losses.lost,
            "lost_single": self.losses.lost_single,
            "lost_burst": self.losses.lost_burst,
            "bursts": self.losses.bursts,
            "undeliverable": self.undeliverable,
            "kernel_drops": self.kernel_drops,  # lost before this link saw them: not part of its pattern
        }

    def close(self) -> None:
        """Close both sockets."""
        self._in.close()
        self._out.close()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.support.lossylink",
        description="Relay UDP datagrams in one direction and lose some of them. Prints its counters as JSON lines: "
        "at the start, at SIGUSR1 and at the end.",
        epilog="Example: python -m tests.support.lossylink --to 127.0.0.1:4433 --single 1% --burst 1%",
    )
    parser.add_argument("--on", type=HostPort.parse, default="127.0.0.1:0", help="default: %(default)s, a free port")
    parser.add_argument("--to", type=HostPort.parse, required=True, help="where the receiver listens")
    parser.add_argument("--single", type=parse_ratio, default="1%", help="lost one by one; default: %(default)s")
    parser.add_argument("--burst", type=parse_ratio, default="1%", help="lost in bursts; default: %(default)s")
    parser.add_argument("--lengths", type=int, nargs=2, default=(5, 100), metavar=("MIN", "MAX"), help="of bursts")
    parser.add_argument("--seed", type=int, default=1, help="of the losses; default: %(default)s")
    parser.add_argument("--offload", choices=("auto", "off"), default="auto", help="GRO and GSO")
    return parser.parse_args()


def main() -> int:
    """Relay until SIGTERM or SIGINT."""
    given = _arguments()
    losses = LossPattern(given.single, given.burst, tuple(given.lengths), given.seed)
    link = LossyLink(given.on, given.to, losses, offload=given.offload == "auto")
    wake, woken = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(signum, lambda *_: None)
    poll = select.poll()
    poll.register(link, select.POLLIN)
    poll.register(woken, select.POLLIN)

    def tell() -> None:
        print(json.dumps(link.counters()), flush=True)

    tell()
    while True:
        ready = {descriptor for descriptor, _ in poll.poll()}
        if link.fileno() in ready:
            link.turn()
        if woken.fileno() in ready:
            signals = woken.recv(64)
            link.turn()  # what was sent before the signal
            tell()
            if signal.SIGTERM in signals or signal.SIGINT in signals:
                link.close()
                return 0


if __name__ == "__main__":
    sys.exit(main())
