"""The command ``checkvalve-sender``: options and help; the work is in the modules it calls.

Imports a role only when that role is asked for, so that fetch never loads what can sign.
"""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from oci.errors import OciError
from runtime.commandline import collect_seldom, examples
from runtime.errors import UserError, guard
from runtime.settings import load_settings
from sender.cli_app import PROGRAM, Config, Json, Once, RoundToken, app, settings_of
from sender.config import SenderSettings


@app.command(
    short_help="Write settings, images.yaml and a signing key.",
    epilog=examples("checkvalve-sender init /etc/checkvalve --to 10.9.0.2:4433 --rate 1Gbit -r receiver.pub"),
)
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write.")] = Path(),
    to: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="The diode's address.")] = None,
    rate: Annotated[str | None, typer.Option(metavar="RATE", help="What the diode carries, e.g. 1Gbit.")] = None,
    receiver: Annotated[
        list[Path] | None,
        typer.Option("--receiver", "-r", metavar="PUBKEY", help="A receiver's public key; may be repeated."),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Spool, journal and images.lock. The default: beside the settings."),
    ] = None,
) -> None:
    """Write a commented sender.yaml, an images.yaml and a signing key. Overwrites nothing."""
    from sender import setup

    made = setup.make(folder, to=to, rate=rate, receivers=receiver or [], state=state)
    for path in made.created:
        print(f"created {path}")
    for path in made.kept:
        print(f"kept    {path} (exists already)")
    print(f"\nsigning key {made.fingerprint}")
    steps = [
        *made.open_points,
        f"give {folder / 'keys' / 'sender.pub'} to the receivers and compare the fingerprint there",
        f"list images in {folder / 'images.yaml'}; `checkvalve-sender pin REF` prints their lines",
        f"checkvalve-sender check --config {folder / 'sender.yaml'}",
        f"checkvalve-sender run --config {folder / 'sender.yaml'}",
    ]
    print("\nnext:")
    for number, step in enumerate(steps, 1):
        print(f"  {number}. {step}")


@app.command(
    short_help="Print the lines of images.yaml for images.",
    epilog=examples("checkvalve-sender pin nginx:1.27", "checkvalve-sender pin oci:layouts/redis >> images.yaml"),
)
def pin(
    references: Annotated[
        list[str], typer.Argument(metavar="REF...", help="An image with tag, oci:FOLDER or archive:FILE.")
    ],
    config: Config = None,
) -> None:
    """Print the lines of images.yaml for images, with the digest each has now."""
    from sender.inspect import pin_lines

    found = PROGRAM.find_config(config)
    settings = load_settings(found, SenderSettings) if found is not None else None
    lines, errors = asyncio.run(pin_lines(references, settings))
    for line in lines:
        print(line)
    if errors:
        raise UserError("\n".join(errors))


@app.command(
    short_help="Check settings, keys, images.yaml and sources.",
    epilog=examples(
        "checkvalve-sender check --config /etc/checkvalve/sender.yaml", "checkvalve-sender check --offline --json"
    ),
)
def check(
    config: Config = None,
    offline: Annotated[bool, typer.Option("--offline", help="Check the files only; ask no registry.")] = False,
    as_json: Json = False,
) -> None:
    """Check settings, keys and images.yaml, and ask every source for its images without fetching them."""
    from sender.inspect import check_all

    raise typer.Exit(check_all(settings_of(config), offline=offline, as_json=as_json))


@app.command(
    short_help="Fetch and send what is new, as a daemon or --once.",
    epilog=examples("checkvalve-sender run", "checkvalve-sender run --once"),
)
def run(config: Config = None, once: Once = False) -> None:
    """Fetch and send what is new: as a daemon that sees edits of images.yaml, or --once."""
    from sender.supervise import supervise

    path = PROGRAM.config(config)
    raise typer.Exit(supervise(load_settings(path, SenderSettings), path, once=once))


@app.command(
    short_help="Fetch what images.yaml names, and queue it.", epilog=examples("checkvalve-sender fetch --once")
)
def fetch(config: Config = None, once: Once = False, round_token: RoundToken = None) -> None:
    """Fetch what images.yaml names into the spool and queue it. Needs the Internet, not the signing key."""
    from sender import fetch as role

    raise typer.Exit(
        role.main(settings_of(config), once=once, round_token=round_token, read=lambda: settings_of(config))
    )


@app.command(short_help="Sign releases and send the queue.", epilog=examples("checkvalve-sender transmit"))
def transmit(config: Config = None, once: Once = False, round_token: RoundToken = None) -> None:
    """Sign releases and send the queue. Needs the signing key and the diode, not the Internet."""
    from sender import transmit as role

    raise typer.Exit(role.main(settings_of(config), once, round_token, read=lambda: settings_of(config)))


@app.command(
    short_help="Send the current releases and all they need once more.",
    epilog=examples("checkvalve-sender resend", "checkvalve-sender resend && checkvalve-sender run --once"),
)
def resend(
    config: Config = None, as_json: Annotated[bool, typer.Option("--json", help="JSON for programs.")] = False
) -> None:
    """Queue one more pass of the current releases and all they need, for a receiver that was off or lost too much.

    A running sender takes it up at once; otherwise `checkvalve-sender run --once` sends it.
    """
    from runtime.terminal import human_bytes, print_json
    from sender.resend import resend as queue_all

    queued = queue_all(settings_of(config))
    if as_json:
        print_json(queued)
    else:
        print(
            f"queued: {queued['objects']} objects, {human_bytes(queued['bytes'])}, of {queued['releases']} releases"
        )


@app.command(
    short_help="Show images, releases, the queue and the wire.",
    epilog=examples("checkvalve-sender status", "checkvalve-sender status --json"),
)
def status(config: Config = None, as_json: Json = False) -> None:
    """Show images, releases, what is queued, on the wire and sent. Exit code 1 if an image failed."""
    from sender import status as view

    raise typer.Exit(view.show(settings_of(config), as_json=as_json))


@app.command(
    short_help="Try whether this machine can send at link.rate.",
    epilog=examples("checkvalve-sender doctor", "checkvalve-sender doctor --json | jq '.findings[].mend'"),
)
def doctor(config: Config = None, as_json: Json = False) -> None:
    """Try whether this machine can send at link.rate, in a few seconds. Exit code 1 if it cannot."""
    from sender import doctor as look

    raise typer.Exit(look.doctor(settings_of(config), as_json=as_json))


import sender.cli_archive  # noqa: E402 - registers its commands after ours
import sender.cli_capacity  # noqa: E402
import sender.cli_releases  # noqa: E402
import sender.cli_repair  # noqa: E402
import sender.cli_storage  # noqa: E402
import sender.cli_units  # noqa: E402, F401


def main() -> int:
    """The console script. Returns the exit code: 0, 1 something failed, 2 usage or settings."""
    collect_seldom()
    return guard(partial(app, prog_name=PROGRAM.name), OciError)()


if __name__ == "__main__":
    sys.exit(main())
