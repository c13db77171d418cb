"""Writes a small file so that a crash leaves the old one or the new one, never half of either."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

_SUFFIX: Final = ".tmp"


def write_durably(path: Path, data: bytes, *, mode: int = 0o640) -> None:
    """Put *data* at *path* by temp file, fsync, rename and fsync of the folder, which is made if absent.

    Raises OSError (ENOSPC among them); then *path* is as it was.
    """
    _make_folder(path.parent)
    temp = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_SUFFIX}")
    descriptor = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temp.replace(path)
    except BaseException:
        temp.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed calls of ``write_durably`` left in *folder*. Only while nobody writes there with it."""
    for stale in folder.glob(f".*{_SUFFIX}"):
        stale.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in *folder* durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
