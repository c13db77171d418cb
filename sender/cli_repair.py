"""The command that takes a receiver's repair code: repair."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from runtime.commandline import examples
from runtime.terminal import human_bytes, print_json, table
from sender.cli_app import Config, Json, app, settings_of


@app.command(
    short_help="Re-send what a receiver's repair code names.",
    epilog=examples(
        "checkvalve-sender repair 31R25-A7AAQ-AXBM8-PAZ73-AYDH8-9M3WK-H80D1-2ZBJF-J2T05",
        "checkvalve-sender repair --dry-run 31R25 A7AAQ AXBM8 PAZ73 AYDH8 9M3WK H80D1 2ZBJF J2T05",
        "zbarimg --quiet --raw photo.jpg | checkvalve-sender repair -",
    ),
)
def repair(
    words: Annotated[
        list[str],
        typer.Argument(metavar="CODE...", help="As `missing --code` prints it; - reads standard input."),
    ],
    config: Config = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Queue nothing: show what would be sent.")] = False,
    as_json: Json = False,
) -> None:
    """Re-send just the source blocks that a receiver's repair code names, before all but releases.

    Up to three mistyped characters are mended, ? stands for one that cannot be read. A running sender takes it up at
    once; otherwise the next run does. Exit code 1 if something that the code names cannot be sent.
    """
    from sender import repair as work

    text = sys.stdin.read(65_536) if words == ["-"] else " ".join(words)
    found = work.repair(settings_of(config), text, dry_run=dry_run)
    if as_json:
        print_json(found)
    else:
        _print(found, dry_run=dry_run)
    raise typer.Exit(1 if found["not_sent"] else 0)


def _print(found: dict[str, Any], *, dry_run: bool) -> None:
    if found["characters_mended"]:
        count = found["characters_mended"]
        print(f"{count} mistyped {'character' if count == 1 else 'characters'} mended")
    if found["objects"]:
        table(
            ("object", "to send", "of", ""),
            [
                (one["label"], human_bytes(one["bytes"]), human_bytes(one["of_bytes"]), one["note"])
                for one in found["objects"]
            ],
            right=("to send", "of"),
        )
    for one in found["not_sent"]:
        print(f"not sent: {one['what']}: {one['why']}")
    releases = ", ".join(f"{one['collection']} {one['sequence']}" for one in found["releases"])
    would = "would queue" if dry_run else "queued"
    print(f"{would} {human_bytes(found['bytes'])} of release {releases}, to go first")
