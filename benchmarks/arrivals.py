"""When data begins to arrive, seen from outside: the packets that an interface has received."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.support.processes import Process

GREETING_PACKETS: Final = 32  # announcements and hellos, which may come long before; the clock begins after them


class Packets:
    """How many packets an interface has received, as a process in its namespace sees it (proc(5): net/dev)."""

    def __init__(self, process: Process, device: str) -> None:
        self._path = Path(f"/proc/{process.pid}/net/dev")
        self._device = f"{device}:"
        self.first = self.now()
        self.greeting = self.first + GREETING_PACKETS

    def now(self) -> int:
        """Return the count; 0 when the process has ended."""
        try:
            lines = self._path.read_text().splitlines()
        except OSError:
            return 0
        return next((int(line.split()[2]) for line in lines if line.split()[0] == self._device), 0)
