"""What the kernel and the network card say about themselves, read without root and without other programs.

Every method raises OSError or ValueError where something cannot be read; judging what was read is checks.py's.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import socket
import struct
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_SIOCETHTOOL: Final = 0x8946
_ETHTOOL_GRINGPARAM: Final = 0x10  # <linux/ethtool.h>, struct ethtool_ringparam: the command and eight numbers
_IFF_UP: Final = 0x1
_IFF_LOOPBACK: Final = 0x8
_IFF_NOARP: Final = 0x80
_IP_MTU: Final = 14
_IPV6_MTU: Final = 24
_SO_RCVBUFFORCE: Final = 33
_UNKNOWN_SPEED: Final = 2**32 - 1


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True)
class Rings:
    """Descriptors of a network card's queues: set now, and the most it takes."""

    receive: int
    receive_max: int
    transmit: int
    transmit_max: int


@dataclass(frozen=True, slots=True)
class Host:
    """This machine, or a picture of one: *proc* and *sys* are where its files are."""

    proc: Path = Path("/proc")
    sys: Path = Path("/sys")

    def sysctl(self, name: str) -> list[int]:
        """Return the numbers of a sysctl such as ``net.core.rmem_max``."""
        return [int(part) for part in (self.proc / "sys" / name.replace(".", "/")).read_text().split()]

    def cpu_flags(self) -> frozenset[str]:
        """Return what the first processor can do, in the kernel's words (x86 "flags", arm64 "Features")."""
        for line in (self.proc / "cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return frozenset(value.split())
        raise ValueError(f"{self.proc / 'cpuinfo'} names no flags")

    def interfaces(self) -> list[str]:
        """Return the interfaces that are up and not loopback."""
        names = sorted(path.name for path in (self.sys / "class/net").iterdir())
        found = []
        for name in names:
            with contextlib.suppress(OSError, ValueError):
                if self._flags(name) & (_IFF_UP | _IFF_LOOPBACK) == _IFF_UP:
                    found.append(name)
        return found

    def is_loopback(self, interface: str) -> bool:
        """Whether it leads back to this machine."""
        return bool(self._flags(interface) & _IFF_LOOPBACK)

    def resolves(self, interface: str) -> bool:
        """Whether a neighbour's link address is needed to send there."""
        return not self._flags(interface) & (_IFF_NOARP | _IFF_LOOPBACK)

    def mtu(self, interface: str) -> int:
        """Return the largest IP packet it carries, in bytes."""
        return int(self._read(interface, "mtu"))

    def speed(self, interface: str) -> int | None:
        """Return its speed in bits per second; None where the driver does not tell (a virtual one, or no cable)."""
        try:
            megabits = int(self._read(interface, "speed"))
        except OSError:  # EINVAL: the driver has none
            if (self.sys / "class/net" / interface).exists():
                return None
            raise
        return megabits * 1_000_000 if 0 < megabits < _UNKNOWN_SPEED else None

    def queues(self, interface: str) -> int:
        """Return how many receive queues it has."""
        return sum(1 for path in (self.sys / "class/net" / interface / "queues").iterdir() if path.name[:3] == "rx-")

    def governors(self) -> dict[str, str]:
        """Return the frequency governor and its driver for each processor; empty where none is told."""
        found = {}
        for path in sorted((self.sys / "devices/system/cpu").glob("cpu[0-9]*/cpufreq")):
            with contextlib.suppress(OSError):
                governor, driver = ((path / f"scaling_{name}").read_text().strip() for name in ("governor", "driver"))
                found[path.parent.name] = f"{governor} ({driver})"
        return found

    def _flags(self, interface: str) -> int:
        return int(self._read(interface, "flags"), 16)

    def _read(self, interface: str, name: str) -> str:
        return (self.sys / "class/net" / interface / name).read_text().strip()


def rings(interface: str) -> Rings:
    """Ask the driver for its queue lengths; OSError (EOPNOTSUPP) where it has none."""
    command = array("I", [_ETHTOOL_GRINGPARAM, *[0] * 8])
    address, _ = command.buffer_info()
    request = struct.pack("16sP", interface.encode(), address)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCETHTOOL, request.ljust(40, b"\0"))
    return parse_rings(command.tobytes())


def parse_rings(answer: bytes) -> Rings:
    """Read a struct ethtool_ringparam."""
    _, receive_max, _, _, transmit_max, receive, _, _, transmit = struct.unpack("=9I", answer)
    return Rings(receive, receive_max, transmit, transmit_max)


def path_mtu(address: str, port: int = 9) -> int:
    """Return the MTU of the route to *address*, in bytes; nothing is sent."""
    six = ":" in address
    with socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((address, port))
        return sock.getsockopt(socket.IPPROTO_IPV6 if six else socket.IPPROTO_IP, _IPV6_MTU if six else _IP_MTU)


def send_buffer(wanted: int) -> int:
    """Return how many bytes of send buffer the kernel grants a socket that asks for *wanted*."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, wanted)
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2


def receive_buffer(wanted: int) -> tuple[int, int | None]:
    """Return what the kernel grants for *wanted* bytes: to anyone, and to CAP_NET_ADMIN (None without it)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, wanted)
        plain = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, wanted)
        except OSError:
            return plain, None
        return plain, sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2


def machine() -> str:
    """Return the architecture as ``uname -m`` names it."""
    return platform.machine()
