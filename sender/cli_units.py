"""The commands that are about the host and its services: units."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runtime.commandline import examples
from runtime.dropins import FOLDER, deliver, how
from sender.cli_app import Config, Json, app, settings_of


@app.command(
    short_help="Write what the systemd units need of the settings.",
    epilog=examples(
        "checkvalve-sender units                    # look at it",
        "checkvalve-sender units --write && systemctl daemon-reload",
        "checkvalve-sender units --check            # exit code 1: settings have changed since",
    ),
)
def units(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where units are configured.")] = FOLDER,
    write: Annotated[bool, typer.Option("--write", help="Write the drop-ins below DIR.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Compare those below DIR; write nothing.")] = False,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Print, --write or --check drop-ins for the units: the addresses, folders and limits that the settings name."""
    from sender import units as work

    mode = how(write=write, check=check)
    raise typer.Exit(deliver(work.drop_ins(settings_of(config)), work.COMMAND, mode, folder, as_json=as_json))
