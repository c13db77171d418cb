"""Logging set-up: structlog to stderr, console for people and journald, JSON for programs.

One event per thing that happened. Values under names of secrets are dropped before anything is rendered, and
tracebacks never show local variables. Refuses to know what is logged.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Literal, TextIO, cast

import structlog
from structlog.typing import Processor

Format = Literal["auto", "console", "json"]

_SECRET_WORDS = frozenset({"key", "token", "password", "passwd", "authorization", "secret", "credential", "cookie"})
_HARMLESS = frozenset({"public_key", "publickey"})
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "exception": 3, "critical": 2}  # sd-daemon(3)
_DEPTH_MAX = 4


def configure(format: Format = "auto", level: str = "info", *, stream: TextIO | None = None) -> None:
    """Send every event, of structlog and of the standard library, to stderr (or ``stream``).

    ``auto`` is console on a terminal and under systemd, where people read the journal, and JSON elsewhere. Under
    systemd lines carry ``<N>`` and no time, as journald keeps its own. ``level`` is debug, info, warning, error or
    critical.
    """
    out = sys.stderr if stream is None else stream
    number = logging.getLevelNamesMapping()[level.upper()]
    on_terminal = out.isatty()
    journal = to_journal(out)
    console = format == "console" or (format == "auto" and (on_terminal or journal))
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        drop_secrets,
    ]
    if not journal:
        stamp = "%H:%M:%S" if console else "iso"
        processors.append(structlog.processors.TimeStamper(fmt=stamp, utc=not console))
    *steps, renderer = _console(on_terminal) if console else _json()
    processors += [*steps, _WithPriority(renderer) if journal else renderer]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, _Stderr()) if stream is None else out),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_ToStructlog()], level=max(number, logging.WARNING), force=True)


def looks_secret(name: str) -> bool:
    """Whether a name says that its value is a secret: ``token``, ``private_key``, ``X-Auth-Token``."""
    flat = re.sub(r"([a-z])([A-Z])", r"\1_\2", name).replace("-", "_").lower()
    return flat not in _HARMLESS and flat.rsplit("_", 1)[-1] in _SECRET_WORDS


def drop_secrets(logger: Any, method: str, event_dict: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: removes entries named like secrets, in nested mappings and lists too."""
    for name in [name for name in event_dict if looks_secret(str(name))]:
        del event_dict[name]
    for name, value in event_dict.items():
        if isinstance(value, dict | list | tuple):
            event_dict[name] = _without_secrets(value, _DEPTH_MAX)
    return event_dict


def to_journal(stream: TextIO) -> bool:
    """Whether ``stream`` goes to journald: JOURNAL_STREAM names its device and inode (systemd.exec(5))."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _console(colors: bool) -> list[Processor]:
    return [
        _printable,
        structlog.dev.ConsoleRenderer(
            colors=colors, pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
        ),
    ]


def _json() -> list[Processor]:
    return [
        structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False)),
        structlog.processors.JSONRenderer(default=str, ensure_ascii=False),
    ]


def _without_secrets(value: Any, depth: int) -> Any:
    if depth == 0:
        return "…" if isinstance(value, dict | list | tuple) else value
    if isinstance(value, dict):
        return {k: _without_secrets(v, depth - 1) for k, v in value.items() if not looks_secret(str(k))}
    if isinstance(value, list | tuple):
        return [_without_secrets(item, depth - 1) for item in value]
    return value


def _printable(logger: Any, method: str, event_dict: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Escape control characters, so that no name from outside steers the terminal."""
    for name, value in event_dict.items():
        if isinstance(value, str) and not value.isprintable():
            event_dict[name] = "".join(c if c.isprintable() else repr(c)[1:-1] for c in value)
    return event_dict


class _Stderr:
    """What ``sys.stderr`` is at the moment of writing: progress bars put a stand-in there."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


class _WithPriority:
    """Renders, then puts journald's ``<N>`` before each line."""

    def __init__(self, renderer: Processor) -> None:
        self._renderer = renderer

    def __call__(self, logger: Any, method: str, event_dict: MutableMapping[str, Any]) -> str:
        prefix = f"<{_PRIORITIES.get(str(event_dict.get('level')), 6)}>"
        lines = str(self._renderer(logger, method, event_dict)).splitlines()
        return "\n".join(prefix + line for line in lines)


class _ToStructlog(logging.Handler):
    """Passes warnings of libraries on to structlog, so that all lines have one shape."""

    def emit(self, record: logging.LogRecord) -> None:
        logger = structlog.get_logger(source=record.name)
        try:
            logger.log(record.levelno, record.getMessage(), exc_info=record.exc_info)
        except Exception:
            self.handleError(record)
