"""What a person sees: tables, progress bars, and numbers with units. Results go to stdout, progress to stderr.

Progress shows only on a terminal, and only in the process that owns it: roles started by ``roles.run_roles``
stay silent. Text from outside never reaches the terminal with control characters in it.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Literal, Self, TextIO

from rich import box
from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

SUPERVISED = "CHECKVALVE_SUPERVISED"
"""Environment variable that ``run_roles`` sets in its children: the terminal belongs to the parent."""

_WIDTH_UNBOUNDED = 10_000
_DECIMAL = ("", "k", "M", "G", "T", "P")


def is_tty(stream: TextIO | None = None) -> bool:
    """Whether ``stream`` (default stderr) is a terminal that this process may draw on."""
    out = sys.stderr if stream is None else stream
    return out.isatty() and not os.environ.get(SUPERVISED) and os.environ.get("TERM") != "dumb"


def printable(value: object) -> str:
    """``str(value)`` with control characters escaped."""
    text = str(value)
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    title: str = "",
    right: Collection[str] = (),
    file: TextIO | None = None,
) -> None:
    """Print a table to stdout; ``right`` names the columns that hold numbers. Piped, no cell is cut or wrapped."""
    out = sys.stdout if file is None else file
    console = Console(file=out, highlight=False, width=None if out.isatty() else _WIDTH_UNBOUNDED)
    drawn = Table(title=printable(title) or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        drawn.add_column(Text(column), justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(printable("" if cell is None else cell)) for cell in row))
    console.print(drawn)


def print_json(value: Any, *, file: TextIO | None = None) -> None:
    """Print ``value`` as indented JSON to stdout; paths and times become text."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str), file=file or sys.stdout)


def human_bytes(count: float) -> str:
    """``1.2 GB``: powers of 1000, three significant digits at most."""
    return _scaled(count, "B")


def human_rate(bits_per_s: float) -> str:
    """``940 Mbit/s``."""
    return _scaled(bits_per_s, "bit/s")


def human_duration(seconds: float) -> str:
    """``12 ms``, ``3.4 s``, ``2 min 5 s``, ``1 h 12 min``, ``3 d 4 h``."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 0:
        return "-" + human_duration(-seconds)
    if round(seconds * 1000) < 1000:
        return f"{round(seconds * 1000)} ms"
    if round(seconds, 1) < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    for size, name, small, small_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size} {name}" + (f" {rest} {small_name}" if rest else "")
    raise AssertionError("unreachable: whole is at least 60")


class Progress:
    """Progress bars on stderr while used as a context manager; on anything but a terminal, nothing at all.

    ``unit`` says what totals count: bytes (shown with rate) or plain items. What is written to ``sys.stderr``
    meanwhile, log lines included, appears above the bars.
    """

    def __init__(self, *, unit: Literal["bytes", "items"] = "bytes", show: bool | None = None) -> None:
        self.shown = is_tty() if show is None else show
        self._bars = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            _Amount(unit),
            console=Console(file=sys.stderr, highlight=False),
            disable=not self.shown,
            refresh_per_second=5,
        )

    def __enter__(self) -> Self:
        if self.shown:
            self._bars.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.shown:
            self._bars.stop()

    def add(self, name: str, total: float | None = None) -> int:
        """A new bar; ``total`` None shows that something moves. Returns its number for ``update``."""
        return int(self._bars.add_task(_no_markup(name), total=total))

    def counter(self, name: str, total: float) -> Callable[[float], None]:
        """A new bar; returns what is told of each step forward."""
        bar, done = self.add(name, total), 0.0

        def moved(step: float) -> None:
            nonlocal done
            done += step
            self.update(bar, completed=done)

        return moved

    def update(
        self, bar: int, *, completed: float | None = None, total: float | None = None, name: str | None = None
    ) -> None:
        """Set what is known by now; None leaves a value as it is."""
        self._bars.update(
            TaskID(bar),
            completed=completed,
            total=total,
            description=None if name is None else _no_markup(name),
        )

    def remove(self, bar: int) -> None:
        """Take a bar off the screen."""
        self._bars.remove_task(TaskID(bar))


class _Amount(ProgressColumn):
    """``123 MB of 1.2 GB  940 Mbit/s  3.4 s left``."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        show = human_bytes if self._unit == "bytes" else lambda count: f"{round(count)}"
        parts = [show(task.completed) + (f" of {show(task.total)}" if task.total is not None else "")]
        if self._unit == "bytes" and task.speed and not task.finished:
            parts.append(human_rate(task.speed * 8))
        if task.time_remaining and not task.finished:
            parts.append(f"{human_duration(task.time_remaining)} left")
        return Text("  ".join(parts))


def _no_markup(text: str) -> str:
    return printable(text).replace("[", "\\[")


def _scaled(amount: float, unit: str) -> str:
    if amount < 0:
        return "-" + _scaled(-amount, unit)
    power = 0
    while power < len(_DECIMAL) - 1 and float(f"{amount:.3g}") >= 1000:
        amount, power = amount / 1000, power + 1
    if power == 0:
        return f"{amount:.0f} {unit}"
    text = f"{amount:.1f}" if round(amount, 1) < 10 else f"{amount:.0f}"
    return f"{text} {_DECIMAL[power]}{unit}"
