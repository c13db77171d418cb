"""From the name of a source image to its repository in the target: the source stays in the path.

``docker.io/library/nginx`` becomes ``internal/docker.io/library/nginx``. Knows names only, no tags and no registry.

A repository component takes neither ``:`` nor brackets, so a host is written differently where it has them. No two
hosts become one, because a host name has no ``_``:

    registry.example            registry.example
    localhost:5000              localhost_5000                   one "_": a port
    [fd00::1]                   fd00_0_0_0_0_0_0_1               seven: an IPv6 address, all groups written out
    [fd00::1]:5000              fd00_0_0_0_0_0_0_1_5000          eight: with a port
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from oci.errors import ReferenceError_
from oci.reference import check_repository

_HOST: Final = re.compile(r"(?:\[(?P<six>[0-9a-f:]+)\]|(?P<name>[a-z0-9.-]+))(?::(?P<port>[0-9]{1,5}))?\Z")


def target_repository(name: str, prefix: str) -> str:
    """Return the repository for the source image *name* (``host[:port]/path``) beneath *prefix* ('' for none).

    Raises ReferenceError_ with one line if the result is no repository name, such as one that is too long.
    """
    host, _, path = name.partition("/")
    match = _HOST.match(host.lower())  # host names know no case, and a repository has only the lower one
    if match is None or not path:
        raise ReferenceError_(f"image {name!r}: expected host[:port]/path, such as docker.io/library/nginx")
    parts = [_six_groups(match["six"], name) if match["six"] else match["name"]]
    if match["port"]:
        parts.append(str(int(match["port"])))
    return check_repository("/".join(part for part in (prefix, "_".join(parts), path) if part), name)


def _six_groups(text: str, name: str) -> str:
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        raise ReferenceError_(f"image {name!r}: [{text}] is no IPv6 address") from None
    return "_".join(f"{int(group, 16):x}" for group in address.exploded.split(":"))
