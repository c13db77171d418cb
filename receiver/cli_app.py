"""The application ``checkvalve-receiver`` and the options that its commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from receiver.config import ReceiverSettings
from runtime.commandline import Program
from runtime.settings import load_settings

PROGRAM: Final = Program(
    "checkvalve-receiver",
    "CHECKVALVE_RECEIVER_CONFIG",
    (Path("receiver.yaml"), Path("/etc/checkvalve/receiver.yaml")),
)
app = PROGRAM.app("Receive container images through a one-way link and publish them: the isolated side.")

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="PATH",
        help=PROGRAM.config_help,
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="JSON for programs instead of tables.")]


def settings_of(given: Path | None) -> ReceiverSettings:
    """Load the settings file that ``--config`` or the environment names, or the one that is found."""
    return load_settings(PROGRAM.config(given), ReceiverSettings)
