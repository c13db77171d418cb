"""The command line ``checkvalve-receiver``: options in, exit codes out. What a command does is in its own module.

Exit codes: 0 all is well, 1 something is wrong or missing, 2 usage or configuration.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from oci.errors import OciError
from receiver.cli_app import PROGRAM, Config, Json, app, settings_of
from runtime.commandline import collect_seldom, examples
from runtime.errors import EXIT_USAGE, UserError, guard
from runtime.units import parse_duration, parse_rate, parse_ratio

Once = Annotated[bool, typer.Option("--once", help="End when the newest release heard of is published.")]


@app.command(
    epilog=examples(
        "checkvalve-receiver init /etc/checkvalve -s sender.pub --registry https://registry.internal:5000"
    )
)
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write.")] = Path(),
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where the diode's datagrams arrive.")
    ] = "0.0.0.0:4433",
    sender: Annotated[
        list[Path] | None,
        typer.Option("--sender", "-s", metavar="PUBKEY", help="A sender's public key; may be repeated."),
    ] = None,
    registry: Annotated[str | None, typer.Option(metavar="URL", help="Publish to this registry.")] = None,
    layout: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Publish into this OCI image layout. The default: published.")
    ] = None,
    serve: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Serve the layout as a read-only registry.")
    ] = None,
    state: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Spool, journal and layout. The default: beside the settings.")
    ] = None,
) -> None:
    """Write a commented receiver.yaml and a key pair. Overwrites nothing."""
    from receiver import setup

    made = setup.make(
        folder,
        listen=listen,
        senders=sender or [],
        registry=registry,
        layout=layout,
        serve=serve,
        state=state,
    )
    for path in made.created:
        print(f"created {path}")
    for path in made.kept:
        print(f"kept    {path} (exists already)")
    print(f"\nreceiver key {made.fingerprint}")
    steps = [
        *made.open_points,
        f"give {folder / 'keys' / 'receiver.pub'} to the sender and compare the fingerprint there",
        f"{PROGRAM.name} check --config {folder / 'receiver.yaml'}",
        f"{PROGRAM.name} run --config {folder / 'receiver.yaml'}",
    ]
    print("\nnext:")
    for number, step in enumerate(steps, 1):
        print(f"  {number}. {step}")


@app.command(epilog=examples("checkvalve-receiver check --config /etc/checkvalve/receiver.yaml"))
def check(config: Config = None) -> None:
    """Try settings, keys, address and target, changing nothing."""
    from receiver.check import check as try_all

    raise typer.Exit(try_all(PROGRAM.config(config)))


@app.command(epilog=examples("checkvalve-receiver run", "checkvalve-receiver run --once"))
def run(once: Once = False, config: Config = None) -> None:
    """Receive and publish: both roles of this side under one command."""
    from receiver.run import run as run_both

    raise typer.Exit(run_both(settings_of(config), PROGRAM.config(config), once=once))


@app.command(epilog=examples("checkvalve-receiver capture --config /etc/checkvalve/receiver.yaml"))
def capture(config: Config = None) -> None:
    """Only receive: the role that listens to the diode and needs no other network."""
    from receiver import capture as role

    raise typer.Exit(role.main(settings_of(config), read=lambda: settings_of(config)))


@app.command(epilog=examples("checkvalve-receiver publish --once"))
def publish(
    once: Once = False,
    since: Annotated[float | None, typer.Option(hidden=True)] = None,
    config: Config = None,
) -> None:
    """Only publish: the role that talks to the internal registry and never to the diode."""
    from receiver import publish as role

    raise typer.Exit(role.main(settings_of(config), once=once, since=since, read=lambda: settings_of(config)))


@app.command(epilog=examples("checkvalve-receiver status --json | jq .link"))
def status(as_json: Json = False, config: Config = None) -> None:
    """Show releases, images, link and drops; exit code 1 if something is missing or alarming."""
    from receiver.status import status as show

    raise typer.Exit(show(settings_of(config), as_json=as_json))


@app.command(epilog=examples("checkvalve-receiver doctor --rate 1Gbit", "checkvalve-receiver doctor --json"))
def doctor(
    rate: Annotated[
        str | None, typer.Option(metavar="RATE", help="The sender's link.rate. Default: listen.rate.")
    ] = None,
    mtu: Annotated[int, typer.Option(metavar="BYTES", help="The sender's link.mtu.")] = 1500,
    repair: Annotated[str, typer.Option(metavar="RATIO", help="The sender's link.repair.")] = "10%",
    outage: Annotated[str, typer.Option(metavar="DURATION", help="The sender's link.outage.")] = "10ms",
    interface: Annotated[
        str | None, typer.Option(metavar="NAME", help="Where the diode is plugged in. Default: what has listen.on.")
    ] = None,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Try whether this machine can receive at the link's rate, in a few seconds; exit code 1 if it cannot."""
    from receiver import doctor as look

    def parsed(option: str, parse: Callable[[object], float], text: str) -> float:
        try:
            return parse(text)
        except ValueError as error:
            raise UserError(f"{option}: {error}", exit_code=EXIT_USAGE) from None

    facts = look.LinkFacts(
        rate=None if rate is None else parsed("--rate", parse_rate, rate),
        mtu=mtu,
        repair=parsed("--repair", parse_ratio, repair),
        outage=parsed("--outage", parse_duration, outage),
        interface=interface,
    )
    raise typer.Exit(look.doctor(settings_of(config), facts, as_json=as_json))


import receiver.cli_border  # noqa: E402 - registers its commands after ours
import receiver.cli_keeping  # noqa: E402
import receiver.cli_knowing  # noqa: E402
import receiver.cli_missing  # noqa: E402
import receiver.cli_nodes  # noqa: E402
import receiver.cli_units  # noqa: E402, F401


def main() -> int:
    """The console script: returns the exit code, and prints mistakes as one line."""
    collect_seldom()
    return guard(partial(app, prog_name=PROGRAM.name), OciError)()


if __name__ == "__main__":
    sys.exit(main())
