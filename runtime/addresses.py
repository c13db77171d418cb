"""Addresses for ``IPAddressAllow=``: a literal is itself, a name is what it means now, and who knows it."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path
from typing import Final

from runtime.errors import UserError

RESOLVER: Final = Path("/etc/resolv.conf")


def literal(host: str) -> str | None:
    """*host* as an address, None if it is a name."""
    try:
        return str(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        return None


def allow(host: str, key: str, command: str, resolver: Path = RESOLVER) -> list[str]:
    """Return the lines that let a unit talk to *host*, which the setting *key* names; UserError if it is unknown."""
    if address := literal(host):
        return [f"# {key}", f"IPAddressAllow={address}"]
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise UserError(
            f"{key}: {host}: {error.strerror}; its addresses are what publish is allowed to reach: run this where "
            "the name is known, or give an address"
        ) from None
    addresses = sorted({str(entry[4][0]).partition("%")[0] for entry in found})
    return [
        f"# {key}: what {host} meant when this was written; `{command} --write` again when that changes",
        *(f"IPAddressAllow={address}" for address in addresses),
        *_name_servers(resolver),
    ]


def _name_servers(resolver: Path) -> list[str]:
    """The servers that names are asked of, those on this host left out: the units allow it."""
    try:
        lines = [line.split() for line in resolver.read_text("utf-8", errors="replace").splitlines()]
    except OSError:
        return []
    servers = [line[1].partition("%")[0] for line in lines if len(line) > 1 and line[0] == "nameserver"]
    elsewhere = [server for server in servers if literal(server) and not ipaddress.ip_address(server).is_loopback]
    return [f"# name servers of {resolver}", *(f"IPAddressAllow={s}" for s in elsewhere)] if elsewhere else []
