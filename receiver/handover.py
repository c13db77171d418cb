"""What capture leaves for its successor when it is stopped: open sessions and unfinished blocks, in a file.

Used once and removed. It is worth something only for what the kernel's buffer holds meanwhile, so it is neither
synced nor kept: without it nothing is lost but time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from pathlib import Path
from typing import Final

import structlog

from protocol import handover
from protocol.handover import HandoverError, OpenSession

FILE_NAME: Final = "handover.bin"
BYTES_MAX: Final = 1 << 30
AGE_S_MAX: Final = 300.0  # what is older is of no use: the link went on without us

log = structlog.get_logger()


def save(folder: Path, sessions: list[OpenSession]) -> None:
    """Write the file, if there is anything to hand over and room for it; never raises."""
    path = folder / FILE_NAME
    if not sessions:
        return
    hashed = hashlib.sha256()
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            for piece in handover.write(sessions):
                hashed.update(piece)
                file.write(piece)
            file.write(hashed.digest())
    except OSError as error:
        log.warning("handover_not_written", path=str(path), error=str(error))
        with contextlib.suppress(OSError):
            path.unlink()


def take(folder: Path) -> list[OpenSession]:
    """Return what the file holds, and remove it; nothing if there is none, or none that is whole and young."""
    path = folder / FILE_NAME
    try:
        with path.open("rb") as file:
            path.unlink()
            about = os.fstat(file.fileno())
            if about.st_size > BYTES_MAX or abs(time.time() - about.st_mtime) > AGE_S_MAX:
                return []
            data = file.read()
    except OSError:
        return []
    body, digest = data[: -hashlib.sha256().digest_size], data[-hashlib.sha256().digest_size :]
    try:
        if hashlib.sha256(body).digest() != digest:
            raise HandoverError("cut off or damaged")
        return handover.parse(body)
    except HandoverError as error:
        log.warning("handover_not_used", path=str(path), error=str(error))
        return []
