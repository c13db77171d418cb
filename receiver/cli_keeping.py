"""The commands that keep and let go: gc, confirm, activate, archive, import."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from receiver.cli_app import Config, Json, app, settings_of
from receiver.config import ReceiverSettings
from runtime import logs
from runtime.commandline import examples
from runtime.errors import EXIT_USAGE, UserError, print_error
from runtime.terminal import human_bytes, print_json, table
from runtime.units import parse_size

Collection = Annotated[
    str | None,
    typer.Option("--collection", "-C", metavar="NAME", show_default=False, help="Default: the only one there is."),
]


@app.command(
    short_help="Remove what no kept release needs.",
    epilog=examples("checkvalve-receiver gc --dry-run", "checkvalve-receiver gc --dry-run --json | jq .spool_bytes"),
)
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Remove nothing: show what would go.")] = False,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Remove tags from the target and contents from the spool that no release needs which `retention` keeps.

    A running publish role does this by itself; stop it first, or use --dry-run.
    """
    from receiver import gc_command as work

    settings = _settings(config)
    found = work.would(settings) if dry_run else asyncio.run(work.now(settings))
    if as_json:
        print_json(found)
        return
    if found["releases"]:
        table(("collection", "release"), found["releases"], title="Releases", right=("release",))
    if found["tags"]:
        table(("tag",), [[tag] for tag in found["tags"]], title="Tags")
    for line in found["waiting"]:
        print(f"waits: {line}")
    for entry in found["undeletable"]:
        print(f"stays in the target: {entry['reference']}: {entry['reason']}")
    print(
        f"{'would remove' if dry_run else 'removed'} {len(found['tags'])} tags from the target, and "
        f"{found['spool_contents']} contents, {human_bytes(found['spool_bytes'])}, from the spool"
    )


@app.command(
    short_help="Accept a release that drops most of its images.",
    epilog=examples("checkvalve-receiver confirm default 12"),
)
def confirm(
    collection: Annotated[str, typer.Argument(metavar="COLLECTION", help="As the alarm names it.")],
    sequence: Annotated[int, typer.Argument(metavar="SEQUENCE", min=1, help="Likewise.")],
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Accept that a release drops more images than `retention.shrink` lets pass, so that they are deleted in time."""
    from receiver import gc_command as work

    found = work.confirm(_settings(config), collection, sequence)
    if as_json:
        print_json(asdict(found))
    else:
        print(f"release {collection} {sequence} may drop {found.dropped} of {found.total} images, as retention says")


@app.command(
    short_help="Show an earlier release in the target again.",
    epilog=examples("checkvalve-receiver activate 7", "checkvalve-receiver activate --latest"),
)
def activate(
    sequence: Annotated[int | None, typer.Argument(metavar="N", min=1, help="The release's number.")] = None,
    latest: Annotated[bool, typer.Option("--latest", help="Follow the newest release again.")] = False,
    collection: Collection = None,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Put the tags of the target back to release N, and hold them there until `activate --latest`.

    Newer releases are received and wait: status says so. Exit code 1, with a list, if not all of N is here.
    """
    from receiver import archive as work

    if latest == (sequence is not None):
        raise UserError("give the number of a release, or --latest", exit_code=EXIT_USAGE)
    settings = _settings(config)
    if sequence is None:
        name, newest = work.end_activation(settings, collection)
        shown, said = newest, f"collection {name} follows its newest release again, {newest}"
    else:
        name, shown = work.activate_release(settings, collection, sequence).collection, sequence
        said = f"release {name} {sequence} is activated; newer ones wait until `activate --latest`"
    if as_json:
        print_json({"collection": name, "release": shown, "activated": sequence is not None})
    else:
        print(said)


@app.command(
    short_help="Write a release with all it needs to a file.",
    epilog=examples(
        "checkvalve-receiver archive 12 --out /media/disk/release-12.tar",
        "checkvalve-receiver archive 12 --out release-12.tar --volume-size 4GB",
    ),
)
def archive(
    sequence: Annotated[int, typer.Argument(metavar="N", min=1, help="The release's number.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="PATH", help="The tar to write; a name in .tar.")],
    volume_size: Annotated[
        str | None, typer.Option(metavar="SIZE", show_default=False, help="Split into PATH.001 and so on.")
    ] = None,
    collection: Collection = None,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Write a release, its signatures and all its contents as one OCI layout in a tar, which `import` takes."""
    from receiver import archive as work

    size = None if volume_size is None else volume_bytes(volume_size)
    written = work.archive(_settings(config), collection, sequence, tar_path(out), size)
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
    short_help="Take in an archive of a release.",
    epilog=examples(
        "checkvalve-receiver import /media/disk/release-12.tar",
        "checkvalve-receiver import /media/one /media/two      # volumes, wherever they lie",
        "checkvalve-receiver import --verify-only release-12.tar.001",
    ),
)
def import_(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="The tar, volumes of it, or their folders.")],
    verify_only: Annotated[bool, typer.Option("--verify-only", help="Read all of it, and change nothing.")] = False,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Take in an archive that `archive` made here or on a sender; publish then does what it does with any release.

    Its signatures are checked as those of a release that came over the link, and every byte by its digest. An older
    release than the newest here becomes history; `activate` shows it. On a terminal it asks for missing volumes.
    """
    from receiver import importing as work
    from runtime.ask import ask_for_volume

    found = work.take(_settings(config), paths, verify_only=verify_only, ask=ask_for_volume())
    if as_json:
        print_json(asdict(found) | {"ok": found.good})
    elif found.good:
        kind = "was here already" if found.known else "is here"
        kind = "is whole" if verify_only else kind
        shown = "" if found.desired or verify_only else "; a newer or activated one stays what the target shows"
        print(
            f"release {found.collection} {found.sequence} {kind}: {found.images} images, {found.blobs} contents, "
            f"{found.new} of them new ({human_bytes(found.new_bytes)}){shown}"
        )
    else:
        print_error(UserError("\n".join([*found.faults, f"{found.archive}: not taken; nothing of it is published"])))
    raise typer.Exit(0 if found.good else 1)


def _settings(config: Path | None) -> ReceiverSettings:
    """Load the settings; of what is logged a person at the terminal sees what goes wrong."""
    settings = settings_of(config)
    logs.configure(settings.logs.format, "warning")
    return settings


def volume_bytes(text: str) -> int:
    """Return the bytes of ``--volume-size``; UserError."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise UserError(f"--volume-size: {error}", exit_code=EXIT_USAGE) from None


def tar_path(path: Path) -> Path:
    """Return ``--out`` if `import` will know it for an archive; UserError."""
    if path.suffix != ".tar":
        raise UserError(f"--out {path}: give a name that ends in .tar", exit_code=EXIT_USAGE)
    return path
