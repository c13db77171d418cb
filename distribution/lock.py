"""Reads requirements locked with hashes, as ``make lock`` writes them. Knows no registry and no wheel."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from distribution.project import BuildError

_LINE: Final = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;]+)\s*(?:;\s*(?P<marker>.+))?")
_HASH: Final = re.compile(r"--hash=(sha256:[0-9a-f]{64})")
_NEVER: Final = re.compile(r"sys_platform == 'win32'")
_BY_PYTHON: Final = re.compile(r"python_(full_)?version")


@dataclass(frozen=True, slots=True)
class Locked:
    """One distribution in the lock: a normalised name, its version, and the hashes of all its files."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]

    def requirement(self) -> str:
        """Return the lines of a requirements file that pip reads with --require-hashes."""
        return " \\\n    ".join([f"{self.name}=={self.version}", *(f"--hash={value}" for value in self.hashes)])


def normalised(name: str) -> str:
    """Return *name* as PEP 503 compares names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_lock(path: Path) -> tuple[Locked, ...]:
    """Return what *path* pins for CPython on Linux, in its order. BuildError for a line without version or hash."""
    found = []
    for line in path.read_text().replace("\\\n", " ").splitlines():
        text = line.partition(" --hash=")[0].strip()
        if not text or text.startswith("#"):
            continue
        match = _LINE.fullmatch(text)
        hashes = tuple(_HASH.findall(line))
        if match is None or not hashes:
            raise BuildError(f"{path}: {text!r}: expected NAME==VERSION and hashes; run `make lock`")
        marker = (match["marker"] or "").strip()
        if _BY_PYTHON.search(marker):
            raise BuildError(f"{path}: {text!r}: depends on Python's version; the offline file has one lock for all")
        if not _NEVER.search(marker):
            found.append(Locked(normalised(match["name"]), match["version"], marker, hashes))
    return tuple(found)
