"""What the command lines of both sides share: their look, where settings are found, and files that init writes."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from runtime.errors import EXIT_USAGE, UserError

_COLLECT_AFTER = 20_000  # objects made; the interpreter's own 700 is for programs that are small


def collect_seldom() -> None:
    """Let the cyclic garbage collector run less often: nearly all that start-up and a long list of images make stays.

    With 10,000 images its walks were a seventh of the start.
    """
    gc.set_threshold(_COLLECT_AFTER, 20, 20)


@dataclass(frozen=True)
class Program:
    """One console script and the places where its settings file may be."""

    name: str  # "checkvalve-sender"
    variable: str  # environment variable that names the settings file
    places: Sequence[Path]

    def app(self, summary: str) -> typer.Typer:
        """Return the typer application, in the look that both sides share."""
        return typer.Typer(
            name=self.name,
            help=summary,
            no_args_is_help=True,
            add_completion=False,
            pretty_exceptions_enable=False,
            rich_markup_mode=None,
            context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
        )

    @property
    def config_help(self) -> str:
        """The help text of ``--config``."""
        places = ", ".join(str(place) if place.is_absolute() else f"./{place}" for place in self.places)
        return f"The settings file. Default: ${self.variable}, {places}."

    def find_config(self, given: Path | None) -> Path | None:
        """Return the settings file to use, None if there is none."""
        if given is not None:
            return given
        if named := os.environ.get(self.variable):
            return Path(named)
        return next((place for place in self.places if place.is_file()), None)

    def config(self, given: Path | None) -> Path:
        """Return the settings file to use; UserError (exit code 2) if there is none."""
        path = self.find_config(given)
        if path is None:
            raise UserError(
                f"no settings file: neither --config nor ${self.variable} is given, and there is no "
                f"{' or '.join(map(str, self.places))}; `{self.name} init` creates one",
                exit_code=EXIT_USAGE,
            )
        return path


def examples(*lines: str) -> str:
    """The end of a help text; ``\\b`` keeps its lines as they are."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def write_new(path: Path, text: str, created: list[Path], kept: list[Path]) -> bool:
    """Write a file that does not exist yet (mode 0644) and list it under *created*; else list it under *kept*."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        kept.append(path)
        return False
    with open(handle, "w", encoding="utf-8") as file:
        file.write(text)
    created.append(path)
    return True
