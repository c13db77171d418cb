"""Asking the person at the terminal for what has to be put in or named; never anybody else."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path


def ask_for_volume() -> Callable[[str], Path | None] | None:
    """Return a function that asks for a volume by name; None where no person is at a terminal.

    It returns the path that was typed, the folder of before (``.``) for a bare Enter, None at the end of input.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None

    def ask(name: str) -> Path | None:
        print(f"{name} is needed: put its medium in and press Enter, or type where it is: ", end="", file=sys.stderr)
        sys.stderr.flush()
        line = sys.stdin.readline()
        return Path(line.strip() or ".") if line else None

    return ask
