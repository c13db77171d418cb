"""What of disk and journal does not work now: logged once when it begins and once when it is over."""

from __future__ import annotations

from typing import Final

import structlog

_OVER: Final = {"disk_failed": "disk_works_again", "disk_low": "disk_has_room_again"}

log = structlog.get_logger()


class Trouble:
    """By name (``disk_failed``, ``disk_low``) and place (``partial``, ``spool``). For any thread."""

    def __init__(self) -> None:
        self._now: dict[tuple[str, str], str] = {}

    def began(self, name: str, place: str, detail: str) -> None:
        """It does not do what it should; *detail* is kept for status, the newest of it."""
        if (name, place) not in self._now:
            log.error(name, place=place, error=detail)
        self._now[name, place] = detail

    def ended(self, name: str, place: str) -> None:
        """It works; harmless if it did."""
        if self._now.pop((name, place), None) is not None:
            log.info(_OVER[name], place=place)

    def document(self) -> list[tuple[str, str, str]]:
        """Return (name, place, detail) of each."""
        return [(*key, detail) for key, detail in list(self._now.items())]
