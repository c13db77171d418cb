"""The command that says what is not here, for people, programs, and for the sender: missing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from receiver.cli_app import Config, Json, app, settings_of
from runtime.commandline import examples
from runtime.errors import EXIT_USAGE, UserError


@app.command(
    epilog=examples(
        "checkvalve-receiver missing --json",
        "checkvalve-receiver missing --code                      # to be typed or photographed",
        "checkvalve-receiver missing --code --png missing.png",
    )
)
def missing(
    config: Config = None,
    as_json: Json = False,
    code: Annotated[
        bool, typer.Option("--code", help="A repair code for `checkvalve-sender repair`, as text and QR code.")
    ] = False,
    every: Annotated[bool, typer.Option("--all", help="All codes, where one does not hold it all.")] = False,
    characters: Annotated[
        int, typer.Option("--characters", metavar="N", help="How long a code may be, without dashes.")
    ] = 300,
    png: Annotated[Path | None, typer.Option("--png", metavar="FILE", help="The QR code as a PNG file.")] = None,
    svg: Annotated[Path | None, typer.Option("--svg", metavar="FILE", help="The QR code as an SVG file.")] = None,
) -> None:
    """List what the newest releases need and is not here; exit code 1 if that is anything."""
    from receiver import missing as work

    if not code and (every or png is not None or svg is not None):
        raise UserError("--all, --png and --svg are about the repair code: give --code as well", exit_code=EXIT_USAGE)
    settings = settings_of(config)
    if not code:
        raise typer.Exit(work.missing(settings, as_json=as_json))
    raise typer.Exit(work.print_code(settings, work.Output(characters, every, png, svg), as_json=as_json))
