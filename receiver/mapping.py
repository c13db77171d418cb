"""From the name of a source image to its name in a target: by the first rule that fits, else the source stays in it.

``docker.io/library/nginx`` becomes ``internal/docker.io/library/nginx``, or what a rule makes of it; in a folder of
archives it keeps its name, as nodes will ask for it. Knows names only, no tags and no registry.

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
from dataclasses import dataclass
from typing import Final

from oci.errors import ReferenceError_
from oci.reference import check_registry, check_repository
from receiver.publish_config import TargetSection

_HOST: Final = re.compile(r"(?:\[(?P<six>[0-9a-f:]+)\]|(?P<name>[a-z0-9.-]+))(?::(?P<port>[0-9]{1,5}))?\Z")


@dataclass(frozen=True, slots=True)
class Rule:
    """Names that begin with *source* begin with *target* instead, at the ends of whole components."""

    source: str
    target: str

    def fits(self, name: str) -> bool:
        """Whether *name* is or lies beneath the source."""
        return name == self.source or name.startswith(self.source.removesuffix("/") + "/")

    def apply(self, name: str) -> str:
        """Return the other name of *name*, which fits."""
        return self.target + name[len(self.source) :]


@dataclass(frozen=True, slots=True)
class Mapping:
    """The names in one target."""

    prefix: str = ""
    rules: tuple[Rule, ...] = ()
    archives: bool = False  # names keep their registry

    @classmethod
    def of(cls, target: TargetSection) -> Mapping:
        """Return what the settings of a target say."""
        rules = tuple(Rule(rule.source, rule.target) for rule in target.map)
        return cls(target.prefix, rules, archives=target.images is not None)

    def name(self, name: str) -> str:
        """Return the repository for the source image *name*, for archives its name with a registry.

        Raises ReferenceError_ with one line if that is no such name.
        """
        rule = next((rule for rule in self.rules if rule.fits(name)), None)
        if rule is None:
            return name if self.archives else target_repository(name, self.prefix)
        found = rule.apply(name)
        if not self.archives:
            return check_repository(found, name)
        host, _, path = found.partition("/")
        check_repository(path, name)
        return f"{check_registry(host, name)}/{path}"

    def ours(self, path: str) -> bool:
        """Whether we might put something at *path* today: what stands under a former name is not ours to judge."""
        if self.archives or any(path.startswith(rule.target) for rule in self.rules):
            return True
        host = path.partition("/")[0]
        return (
            path.startswith(f"{self.prefix}/") if self.prefix else "." in host or "_" in host or host == "localhost"
        )


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
