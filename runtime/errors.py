"""Errors meant for a person, and the wrapper that ends a command with one line instead of a traceback.

Refuses to know what any command does; errors of other packages are named by the caller of ``guard``.
"""

from __future__ import annotations

import errno
import functools
import os
import sys
from collections.abc import Callable
from typing import Any

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class UserError(Exception):
    """A mistake or trouble that the person at the keyboard can mend.

    ``str()`` is one line that names the file, key or image, the value, and what would be right; several
    independent faults are joined by newlines, each a line of its own. ``exit_code`` is 2 for usage and
    configuration, 1 for everything else.
    """

    def __init__(self, message: str, *, exit_code: int = EXIT_FAILURE) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def guard(main: Callable[..., int | None], *also: type[Exception]) -> Callable[..., int]:
    """Wrap an entry point: returns its exit code, and prints ``UserError`` and ``also`` as ``error: ...``.

    ``also`` lists the base classes of other packages' errors whose ``str()`` is a line for people. Works as a
    bare decorator too. An interrupt gives 130, a reader that went away 141, both silently; a full disk is a line.
    Standard streams that were closed become /dev/null. ``SystemExit`` passes through; any other exception is a bug
    of ours and keeps its traceback.
    """
    for_people: tuple[type[Exception], ...] = (UserError, *also)

    @functools.wraps(main)
    def guarded(*args: Any, **kwargs: Any) -> int:
        _open_streams()
        try:
            code = main(*args, **kwargs)
            sys.stdout.flush()  # a closed pipe must show here, not in the interpreter's shutdown
        except for_people as error:
            print_error(error)
            return int(getattr(error, "exit_code", EXIT_FAILURE))
        except KeyboardInterrupt:
            return EXIT_INTERRUPTED
        except BrokenPipeError:
            _silence_stdout()
            return EXIT_BROKEN_PIPE
        except OSError as error:
            if error.errno not in _DISK_FULL:
                raise
            _silence_stdout()
            print_error(UserError(f"{error.filename or 'output'}: cannot be written: {error.strerror}"))
            return EXIT_FAILURE
        return int(code or 0)

    return guarded


def print_error(error: BaseException) -> None:
    """Print each line of ``str(error)`` to stderr as ``error: ...``."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    for line in lines:
        print(f"error: {line}", file=sys.stderr)


def _open_streams() -> None:
    """Give closed standard descriptors /dev/null: else the next file opened, a journal, would be standard output."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, "w" if descriptor else "r", closefd=False))  # noqa: SIM115


def _silence_stdout() -> None:
    """Point stdout at /dev/null, so that the flush at shutdown does not complain a second time."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(devnull, sys.stdout.fileno())
    finally:
        os.close(devnull)
