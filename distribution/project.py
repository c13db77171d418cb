"""What the tree says about itself: version, time of the commit, files. Knows nothing of wheels or archives."""

from __future__ import annotations

import os
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
SIDES: Final = ("sender", "receiver")
PYTHONS: Final = ("3.11", "3.12", "3.13")
ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}  # ours, and what Debian calls them
DOCUMENTS: Final = (
    "README.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "LICENSE",
    "ARCHITECTURE.md",
    "systemd/OPERATIONS.md",
    "protocol/WIRE_FORMAT.md",
)
_EARLIEST: Final = 315_532_800  # 1980-01-01: a zip knows no earlier time


class BuildError(Exception):
    """Something that the person who builds can mend, in one line."""


@dataclass(frozen=True, slots=True)
class Project:
    """The tree at *root*, as release *version*; *epoch* is the time that every file of the result gets."""

    root: Path
    version: str
    epoch: int
    table: dict[str, Any]  # [project] of pyproject.toml

    @classmethod
    def read(cls, root: Path = ROOT, version: str | None = None) -> Project:
        """Read pyproject.toml, and SOURCE_DATE_EPOCH or else the time of the commit."""
        table = tomllib.loads((root / "pyproject.toml").read_text())["project"]
        return cls(root, version or str(table["version"]), max(_EARLIEST, _epoch(root)), table)


def _epoch(root: Path) -> int:
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given is not None:
        if not given.isdecimal():
            raise BuildError(f"SOURCE_DATE_EPOCH: {given!r} is not a number; give seconds since 1970")
        return int(given)
    try:
        asked = subprocess.run(
            ["git", "log", "-1", "--format=%ct"], cwd=root, capture_output=True, text=True, check=True
        )
        return int(asked.stdout)
    except (OSError, ValueError, subprocess.CalledProcessError):
        raise BuildError(f"{root}: not a git repository with a commit; set SOURCE_DATE_EPOCH") from None
