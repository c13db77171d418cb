"""Asks the kernel for routes, neighbours and addresses (rtnetlink(7)), as ``ip`` does; needs no root.

Reads only. The answers are the kernel's own, so lengths are checked for sense but not for malice.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_HEADER: Final = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ATTRIBUTE: Final = struct.Struct("=HH")  # length, type
_ROUTE: Final = struct.Struct("=BBBBBBBBI")
_NEIGHBOUR: Final = struct.Struct("=BBHiHBB")  # family, -, -, interface, state, flags, type
_ADDRESS: Final = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, interface
_ERROR: Final = struct.Struct("=i")
_NEWADDR: Final = 20
_GETADDR: Final = 22
_NEWROUTE: Final = 24
_GETROUTE: Final = 26
_NEWNEIGH: Final = 28
_GETNEIGH: Final = 30
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_REQUEST: Final = 0x1
_DUMP: Final = 0x300
_RTA_DST: Final = 1
_RTA_OIF: Final = 4
_RTA_GATEWAY: Final = 5
_NDA_DST: Final = 1
_NDA_LLADDR: Final = 2
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_TYPE_MASK: Final = 0x3FFF  # above it are flags
_STATES: Final = {
    0x01: "incomplete",
    0x02: "reachable",
    0x04: "stale",
    0x08: "delay",
    0x10: "probe",
    0x20: "failed",
    0x40: "noarp",
    0x80: "permanent",
}


@dataclass(frozen=True, slots=True)
class Route:
    """The way to an address: the interface, and the gateway if it is not on that link itself."""

    interface: str
    gateway: str | None


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An entry of the ARP or neighbour-discovery table; *state* as ``ip neigh`` names it."""

    address: str
    interface: str
    link_address: str | None
    state: str


def route_to(address: str) -> Route:
    """Return the route that the kernel would take to *address*; OSError if it has none or cannot be asked."""
    target = ipaddress.ip_address(address)
    family = socket.AF_INET6 if target.version == 6 else socket.AF_INET
    packed = target.packed
    body = _ROUTE.pack(family, len(packed) * 8, 0, 0, 0, 0, 0, 0, 0)
    body += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(packed), _RTA_DST) + packed
    for kind, payload in _ask(_GETROUTE, _REQUEST, body):
        if kind == _NEWROUTE:
            return parse_route(payload)
    raise OSError("the kernel names no route")


def neighbours() -> list[Neighbour]:
    """Return the neighbour tables of all interfaces, IPv4 and IPv6; OSError if they cannot be read."""
    body = _NEIGHBOUR.pack(socket.AF_UNSPEC, 0, 0, 0, 0, 0, 0)
    found = [
        parse_neighbour(payload) for kind, payload in _ask(_GETNEIGH, _REQUEST | _DUMP, body) if kind == _NEWNEIGH
    ]
    return [entry for entry in found if entry is not None]


def addresses() -> list[tuple[str, str]]:
    """Return (interface, address) for every address of this machine; OSError if they cannot be read."""
    body = _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    found = [parse_address(payload) for kind, payload in _ask(_GETADDR, _REQUEST | _DUMP, body) if kind == _NEWADDR]
    return [entry for entry in found if entry is not None]


def parse_route(payload: bytes) -> Route:
    """Read the body of an RTM_NEWROUTE."""
    parts = dict(attributes(payload[_ROUTE.size :]))
    if _RTA_OIF not in parts:
        raise OSError("the route leads to no interface")
    gateway = parts.get(_RTA_GATEWAY)
    return Route(_interface(struct.unpack("=I", parts[_RTA_OIF])[0]), None if gateway is None else _text(gateway))


def parse_neighbour(payload: bytes) -> Neighbour | None:
    """Read the body of an RTM_NEWNEIGH; None if it names no address (a bridge's table)."""
    family, _, _, index, state, _, _ = _NEIGHBOUR.unpack_from(payload)
    parts = dict(attributes(payload[_NEIGHBOUR.size :]))
    if _NDA_DST not in parts or family not in (socket.AF_INET, socket.AF_INET6):
        return None
    hardware = parts.get(_NDA_LLADDR)
    return Neighbour(
        _text(parts[_NDA_DST]),
        _interface(index),
        hardware.hex(":") if hardware else None,
        _STATES.get(state, f"state {state:#x}"),
    )


def parse_address(payload: bytes) -> tuple[str, str] | None:
    """Read the body of an RTM_NEWADDR."""
    *_, index = _ADDRESS.unpack_from(payload)
    parts = dict(attributes(payload[_ADDRESS.size :]))
    own = parts.get(_IFA_LOCAL) or parts.get(_IFA_ADDRESS)
    return None if own is None else (_interface(index), _text(own))


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (type, body) of the netlink messages in *data*; OSError for one that says so."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            raise OSError("netlink answered a message without length")
        payload = data[at + _HEADER.size : at + length]
        if kind == _NLMSG_ERROR:
            (code,) = _ERROR.unpack_from(payload)
            if code:
                raise OSError(-code, os.strerror(-code))
        yield kind, payload
        at += length + -length % 4


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (type, value) of the attributes in *data*."""
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind & _TYPE_MASK, data[at + _ATTRIBUTE.size : at + length]
        at += length + -length % 4


def _ask(kind: int, flags: int, body: bytes) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        sock.settimeout(2)
        sock.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body)
        while True:
            for answer in messages(sock.recv(1 << 16)):
                if answer[0] in (_NLMSG_DONE, _NLMSG_ERROR):
                    return found
                found.append(answer)
            if not flags & _DUMP:
                return found


def _interface(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"interface {index}"


def _text(packed: bytes) -> str:
    return str(ipaddress.ip_address(packed))
