"""Image references: the distribution reference grammar and Docker Hub's short names.

Knows text only: nothing of hosts that answer, of default tags, or of what a reference points at.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from oci import limits
from oci.descriptor import check_digest
from oci.errors import ReferenceError_

DOCKER_HUB: Final = "docker.io"
_HUB_ALIASES: Final = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_COMPONENT: Final = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*\Z", re.ASCII)
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z", re.ASCII)
_HOST: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*\Z", re.ASCII)
_PORT: Final = re.compile(r"[0-9]{1,5}\Z", re.ASCII)
_BARE_DIGEST: Final = re.compile(r"[0-9a-f]{64}\Z", re.ASCII)
_EXAMPLE: Final = "registry.example:5000/team/app:1.2@sha256:<64 hex digits>"


@dataclass(frozen=True, slots=True)
class Reference:
    """Where an image is: ``registry/repository[:tag][@digest]``, all parts normalised and checked."""

    registry: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    @property
    def name(self) -> str:
        """The repository with its registry: ``docker.io/library/nginx``."""
        return f"{self.registry}/{self.repository}"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag is not None else ""
        digest = f"@{self.digest}" if self.digest is not None else ""
        return f"{self.name}{tag}{digest}"


def parse_reference(text: str) -> Reference:
    """Parse a reference; short names mean Docker Hub (``nginx`` is ``docker.io/library/nginx``).

    No default tag is added. Raises ReferenceError_ with one line that says what would be right.
    """
    if not text:
        raise ReferenceError_(f"reference '': empty; expected for example {_EXAMPLE}")
    if len(text) > limits.REFERENCE_LENGTH_MAX:
        raise ReferenceError_(
            f"reference {text[:40]!r}…: {len(text):,} characters; expected at most {limits.REFERENCE_LENGTH_MAX:,}"
        )
    rest, at, digest = text.partition("@")
    try:
        checked_digest = check_digest(digest) if at else None
    except ReferenceError_ as error:
        raise ReferenceError_(f"reference {text!r}: {error}") from None
    rest, tag = _split_tag(rest)
    if tag is not None and not is_tag(tag):
        raise ReferenceError_(
            f"reference {text!r}: tag {tag!r}: expected 1 to 128 letters, digits, '_', '.', '-', "
            "not starting with '.' or '-'"
        )
    registry, repository = _split_registry(text, rest)
    return Reference(registry, check_repository(repository, text), tag, checked_digest)


def is_tag(text: str) -> bool:
    """Whether *text* is a tag (distribution-spec: ``[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}``)."""
    return _TAG.match(text) is not None


def check_repository(path: str, where: str | None = None) -> str:
    """Return *path* if it is a repository name (distribution-spec ``<name>``); raise ReferenceError_ otherwise."""
    prefix = f"reference {where!r}: " if where is not None else ""
    if len(path) > limits.REPOSITORY_LENGTH_MAX:
        raise ReferenceError_(
            f"{prefix}repository {path[:40]!r}… has {len(path)} characters; "
            f"expected at most {limits.REPOSITORY_LENGTH_MAX}"
        )
    for component in path.split("/"):
        if not component:
            raise ReferenceError_(f"{prefix}repository {path!r}: empty path component; expected for example team/app")
        if _COMPONENT.match(component) is None:
            raise ReferenceError_(
                f"{prefix}repository component {component!r}: expected lower-case letters and digits, "
                "joined by single '.', '_', '__' or '-'"
            )
    return path


def check_registry(text: str, where: str | None = None) -> str:
    """Return the registry ``host[:port]`` in lower case, IPv6 in brackets; raise ReferenceError_ otherwise."""
    prefix = f"reference {where!r}: " if where is not None else ""
    lowered = text.lower()
    if lowered.startswith("["):
        inner, bracket, port_part = lowered[1:].partition("]")
        good = bracket == "]" and _is_ipv6(inner) and (not port_part or port_part.startswith(":"))
        port = port_part[1:] if port_part else None
    else:
        host, colon, port_text = lowered.partition(":")
        good = len(host) <= 253 and _HOST.match(host) is not None
        port = port_text if colon else None
    if not good:
        raise ReferenceError_(
            f"{prefix}registry {text!r}: expected a host name or address, optionally with a port, "
            "such as registry.example:5000 or [fd00::1]:5000"
        )
    if port is not None and (_PORT.match(port) is None or not 0 < int(port) < 65536):
        raise ReferenceError_(f"{prefix}registry {text!r}: port {port!r}: expected a number from 1 to 65535")
    return DOCKER_HUB if lowered in _HUB_ALIASES else lowered


def _split_tag(rest: str) -> tuple[str, str | None]:
    """Split at a colon that comes after the last slash: one before it belongs to a port."""
    slash = rest.rfind("/")
    colon = rest.find(":", slash + 1)
    # "[::1]" without a path: the colons are the address's, and the caller names the missing repository.
    if colon < 0 or (slash < 0 and rest.startswith("[")):
        return rest, None
    return rest[:colon], rest[colon + 1 :]


def _split_registry(text: str, rest: str) -> tuple[str, str]:
    """Tell a registry from a first path component as the distribution grammar does: by '.', ':' or localhost."""
    first, slash, path = rest.partition("/")
    named = "." in first or ":" in first or first.lower() == "localhost"
    if not slash and rest.startswith("["):
        raise ReferenceError_(
            f"reference {text!r}: no repository after the registry; expected for example {_EXAMPLE}"
        )
    if not slash or not named or first in {".", ".."}:
        if _BARE_DIGEST.match(rest):
            raise ReferenceError_(
                f"reference {text!r}: 64 hex digits are a digest, not a name; expected for example {_EXAMPLE}"
            )
        return DOCKER_HUB, rest if slash else f"library/{rest}" if rest else rest
    registry = check_registry(first, text)
    if registry == DOCKER_HUB and path and "/" not in path:
        path = f"library/{path}"
    return registry, path


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.IPv6Address(text).scope_id is None
    except ValueError:
        return False
