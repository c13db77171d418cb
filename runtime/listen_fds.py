"""Sockets that systemd has opened for us: the protocol of sd_listen_fds(3).

The kernel holds what arrives at them while no process of ours runs, and a process that has them needs no network.
"""

from __future__ import annotations

import os
import socket
from typing import Final

from runtime.errors import EXIT_USAGE, UserError
from runtime.units import HostPort

_FIRST: Final = 3  # SD_LISTEN_FDS_START


def datagram_sockets(wanted: list[HostPort], key: str) -> list[socket.socket] | None:
    """Return the socket for each of the places *wanted*, by its port; None if systemd has passed us none.

    The unit says on which address; here only ports are compared. *key* names the setting. UserError (exit code 2)
    names the socket that is missing or of the wrong kind. Asked once in a process: the variables are removed, as
    children must not believe that they are meant.
    """
    if not (sockets := _passed()):
        return None
    found: dict[int, socket.socket] = {}
    for each in sockets:
        if each.family not in (socket.AF_INET, socket.AF_INET6) or each.type != socket.SOCK_DGRAM:
            raise UserError(
                f"the socket unit passes a socket of type {each.family.name} {each.type.name}; "
                "ListenDatagram= with an address and a port is needed",
                exit_code=EXIT_USAGE,
            )
        found[each.getsockname()[1]] = each
    for place in wanted:
        if place.port not in found:
            raise UserError(
                f"{key}: {place} is not among the sockets of the socket unit ({_ports(found)}); have "
                "`checkvalve-receiver units --write` write it anew, then restart checkvalve-capture.socket",
                exit_code=EXIT_USAGE,
            )
    return [found[place.port] for place in wanted]


def _passed() -> list[socket.socket]:
    count, owner = os.environ.pop("LISTEN_FDS", ""), os.environ.pop("LISTEN_PID", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if not count.isdecimal() or owner != str(os.getpid()):
        return []
    sockets = []
    for descriptor in range(_FIRST, _FIRST + int(count)):
        os.set_inheritable(descriptor, False)
        sockets.append(socket.socket(fileno=descriptor))
    return sockets


def _ports(found: dict[int, socket.socket]) -> str:
    return f"port{'' if len(found) == 1 else 's'} {', '.join(map(str, sorted(found)))}"
