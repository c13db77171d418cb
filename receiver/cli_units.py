"""The commands that are about the host and its services: units."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from receiver.cli_app import Config, Json, app, settings_of
from runtime.commandline import examples
from runtime.dropins import FOLDER, deliver, how


@app.command(
    short_help="Write what the systemd units need of the settings.",
    epilog=examples(
        "checkvalve-receiver units                    # look at it",
        "checkvalve-receiver units --write && systemctl daemon-reload",
        "checkvalve-receiver units --check            # exit code 1: settings have changed since",
    ),
)
def units(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where units are configured.")] = FOLDER,
    write: Annotated[bool, typer.Option("--write", help="Write the drop-ins below DIR.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Compare those below DIR; write nothing.")] = False,
    interface: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Where the diode is plugged in: take datagrams from there only."),
    ] = None,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Print, --write or --check drop-ins for the units: the addresses, folders and limits that the settings name."""
    from receiver import units as work

    mode = how(write=write, check=check)
    raise typer.Exit(
        deliver(work.drop_ins(settings_of(config), interface), work.COMMAND, mode, folder, as_json=as_json)
    )
