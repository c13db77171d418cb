"""Time zones: by name, or the machine's own with its rules for summer time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

MACHINE: Final = Path("/etc/localtime")


def zone(name: str | None) -> ZoneInfo:
    """Return the zone *name*, else the one of TZ or /etc/localtime, else UTC. ValueError for a name nobody knows."""
    name = name or os.environ.get("TZ", "").removeprefix(":")
    try:
        if name:
            return ZoneInfo(name)
        with MACHINE.open("rb") as file:
            return ZoneInfo.from_file(file, key="localtime")
    except FileNotFoundError:
        return ZoneInfo("UTC")
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"{name!r} is no time zone that this machine knows; give e.g. Europe/Berlin") from None
