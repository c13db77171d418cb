"""Settings read again while a service runs (SIGHUP, ``systemctl reload``): all of them take effect, or none does.

The role's body ends and begins anew within the process, which keeps its sockets and its watchdog. Settings that
cannot be read, that change what a process cannot change, or with which the body does not start, leave the former ones
in force; the log says why, and ``systemctl status`` until it is mended.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Final, Generic, Self, TypeVar

import structlog
from pydantic import BaseModel

from runtime import logs, notify
from runtime.errors import EXIT_USAGE, UserError

AGAIN: Final = -1
"""What a body returns that ends for its settings to take effect; no exit code."""

S = TypeVar("S", bound=BaseModel)

log = structlog.get_logger()


class Reload(Generic[S]):
    """The settings in force, and how to get newer ones. ``with`` it, in the main thread, SIGHUP asks for that.

    *read* returns settings with which the body can be expected to start, or raises UserError. *fixed* are the keys,
    with dots, that need a restart. Without *read* SIGHUP does what it does.
    """

    def __init__(self, settings: S, read: Callable[[], S] | None, fixed: Sequence[str]) -> None:
        self.settings = settings
        self.asked = False
        self._read = read
        self._fixed = fixed
        self._former: S | None = None  # in force until the body has started with the new ones
        self._handler: object = None

    def __enter__(self) -> Self:
        if self._read is not None:
            self._handler = signal.signal(signal.SIGHUP, self._on_signal)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._read is not None:
            signal.signal(signal.SIGHUP, self._handler)  # type: ignore[arg-type]

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self.asked = True

    def wanted(self) -> bool:
        """Whether newer settings were asked for and can be had: then the body shall end and return AGAIN."""
        if not self.asked or self._read is None:
            return False
        self.asked = False
        notify.reloading()
        try:
            settings = self._read()
            self._compare(settings)
        except UserError as error:
            self._refuse(error)
            notify.ready()
            return False
        self._former, self.settings = self.settings, settings
        return True

    def serve(self, body: Callable[[S], int]) -> int:
        """Run *body*, which calls :meth:`started` once it works, until it returns another code than AGAIN."""
        while True:
            try:
                code = body(self.settings)
            except UserError as error:
                if self._former is None:
                    raise
                self.settings, self._former = self._former, None
                self._refuse(error)
                continue
            if code != AGAIN:
                return code
            if (current := getattr(self.settings, "logs", None)) is not None:
                logs.configure(current.format, current.level)

    def started(self) -> None:
        """The body works with the settings that it was given: tell systemd, and forget the former ones."""
        if self._former is not None:
            self._former = None
            notify.fault(None)
            log.info("reloaded")
        notify.ready()

    def _compare(self, settings: S) -> None:
        changed = [key for key in self._fixed if _at(settings, key) != _at(self.settings, key)]
        if changed:
            plural = "" if len(changed) == 1 else "s"
            raise UserError(
                f"changed setting{plural} {', '.join(changed)}: systemctl restart is needed, reload does not do it",
                exit_code=EXIT_USAGE,
            )

    def _refuse(self, error: UserError) -> None:
        log.error("reload_failed", error=str(error), settings="the former ones stay in force")
        notify.fault(f"reload failed, the former settings stay in force: {str(error).splitlines()[0]}")


def _at(settings: BaseModel, key: str) -> object:
    found: object = settings
    for name in key.split("."):
        found = getattr(found, name)
    return found
