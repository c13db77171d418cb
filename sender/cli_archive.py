"""The commands of the way across by hand: archive (export) and import."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from runtime.ask import ask_for_volume
from runtime.commandline import examples
from runtime.errors import EXIT_USAGE, UserError, print_error
from runtime.terminal import human_bytes, print_json
from runtime.units import parse_size
from sender.cli_app import Config, Json, app, settings_of

Number = Annotated[int, typer.Argument(metavar="N", min=1, help="As `history` shows it.")]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="PATH", help="The tar to write; a name in .tar.")]
VolumeSize = Annotated[
    str | None, typer.Option(metavar="SIZE", show_default=False, help="Split into PATH.001 and so on.")
]
Collection = Annotated[
    str | None,
    typer.Option("--collection", "-C", metavar="NAME", show_default=False, help="Default: as sender.yaml."),
]


@app.command("export", hidden=True, epilog=examples("checkvalve-sender export 7 --out release-7.tar"))
@app.command(
    short_help="Write a release with all it needs to a file.",
    epilog=examples(
        "checkvalve-sender archive 7 --out /media/disk/release-7.tar",
        "checkvalve-sender archive 7 --out release-7.tar --volume-size 4GB",
    ),
)
def archive(
    sequence: Number,
    out: Out,
    volume_size: VolumeSize = None,
    collection: Collection = None,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Write a signed release, its lock and all its contents as one OCI layout in a tar, to be carried by hand.

    `checkvalve-receiver import` takes it where no link leads, or before one is there.
    """
    from sender import archive as work

    try:
        size = None if volume_size is None else parse_size(volume_size)
    except ValueError as error:
        raise UserError(f"--volume-size: {error}", exit_code=EXIT_USAGE) from None
    if out.suffix != ".tar":
        raise UserError(f"--out {out}: give a name that ends in .tar", exit_code=EXIT_USAGE)
    settings = settings_of(config)
    written = work.archive(settings, collection or settings.collection, sequence, out, size)
    if as_json:
        print_json(asdict(written))
    else:
        files = written.files[0] if len(written.files) == 1 else f"{written.files[0]} to {written.files[-1]}"
        print(
            f"wrote {files}: release {written.collection} {written.sequence}, {written.blobs} contents, "
            f"{human_bytes(written.size)}"
        )


@app.command(
    "import",
    short_help="Take in images from an archive or layout.",
    epilog=examples(
        "checkvalve-sender import /media/disk/release-7.tar >> images.yaml",
        "checkvalve-sender import /media/disk/app.tar           # docker save, ctr images export",
        "checkvalve-sender import --verify-only /media/one /media/two",
    ),
)
def import_(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="An archive, volumes of one, their folders, or a layout.")
    ],
    verify_only: Annotated[bool, typer.Option("--verify-only", help="Read all of it, and write nothing.")] = False,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Copy the images of an archive or OCI layout into the state folder, and print their lines for images.yaml.

    The medium may be taken away afterwards. Everything is verified by its digest; what is to cross, you pin.
    """
    from sender import importing as work

    found = work.take(settings_of(config), paths, verify_only=verify_only, ask=ask_for_volume())
    if as_json:
        print_json(asdict(found) | {"ok": not found.faults})
    elif found.faults:
        print_error(UserError("\n".join([*found.faults, f"{found.source}: not taken"])))
    else:
        for line in found.lines:
            print(line)
        whose = "" if found.release is None else f", release {found.release}"
        signed = " signed by this sender" if found.ours else ""
        done = "is whole" if verify_only else f"{found.new} new contents, {human_bytes(found.new_bytes)}"
        typer.echo(f"{found.source}{whose}{signed}: {found.images} images, {done}", err=True)
    raise typer.Exit(1 if found.faults else 0)
