"""The application ``checkvalve-sender`` and the options that its commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from runtime.commandline import Program
from runtime.settings import load_settings
from sender.config import SenderSettings

PROGRAM: Final = Program(
    "checkvalve-sender", "CHECKVALVE_SENDER_CONFIG", (Path("sender.yaml"), Path("/etc/checkvalve/sender.yaml"))
)
app = PROGRAM.app("Send container images through a one-way link: the connected side.")

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="PATH",
        show_default=False,
        help=PROGRAM.config_help,
    ),
]
Once = Annotated[bool, typer.Option("--once", help="End when everything has been done once.")]
RoundToken = Annotated[str | None, typer.Option("--round", metavar="TOKEN", help="Set by `run --once`.")]
Json = Annotated[bool, typer.Option("--json", help="JSON for programs instead of tables.")]


def settings_of(given: Path | None) -> SenderSettings:
    """Load the settings file that ``--config`` or the environment names, or the one that is found."""
    return load_settings(PROGRAM.config(given), SenderSettings)
