"""Secrets that systemd hands to one service: LoadCredential= and LoadCredentialEncrypted= (systemd.exec(5))."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

Place = TypeVar("Place", Path, Path | None)


def credential(key: str, path: Place) -> Path | Place:
    """Return where the secret of the setting *key* is: the service's credential of this name, or else *path*."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    found = Path(folder) / key
    return found if os.path.isabs(folder) and found.is_file() else path
