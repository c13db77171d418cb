"""The command ``capacity``."""

from __future__ import annotations

from typing import Annotated

import typer

from runtime.commandline import examples
from runtime.errors import EXIT_USAGE, UserError
from runtime.settings import load_settings
from runtime.units import parse_duration, parse_rate, parse_ratio, parse_size
from sender.cli_app import PROGRAM, Config, Json, app
from sender.config import Link, Repeats, SenderSettings


@app.command(
    short_help="Work out what a link carries and what both sides need.",
    epilog=examples(
        "checkvalve-sender capacity --rate 1Gbit --content 500GB --change 20GB",
        "checkvalve-sender capacity --rate 100Mbit --repair 20% --outage 20ms --content 2TB --json",
    ),
)
def capacity(
    rate: Annotated[str | None, typer.Option(metavar="RATE", help="Of the diode. [default: link.rate]")] = None,
    mtu: Annotated[int | None, typer.Option(min=624, max=9216, help="Of the way. [default: link.mtu]")] = None,
    repair: Annotated[str | None, typer.Option(metavar="RATIO", help="[default: link.repair]")] = None,
    outage: Annotated[str | None, typer.Option(metavar="DURATION", help="[default: link.outage]")] = None,
    passes: Annotated[int | None, typer.Option(min=1, max=100, help="[default: repeats.passes]")] = None,
    content: Annotated[str, typer.Option(metavar="SIZE", help="Of all images that are mirrored.")] = "100GB",
    change: Annotated[str, typer.Option(metavar="SIZE", help="New content a day.")] = "5GB",
    keep: Annotated[str, typer.Option(metavar="DURATION", help="How long old releases stay.")] = "30d",
    largest: Annotated[str, typer.Option(metavar="SIZE", help="The largest layer.")] = "5GB",
    hold: Annotated[
        str, typer.Option(metavar="DURATION", help="What the kernel shall hold while capture restarts.")
    ] = "2s",
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Work out what a link carries, how long content takes on it, and the disks and buffers that both sides need.

    Needs no settings if --rate is given. Exit code 1 if a day's change does not cross in a day.
    """
    from sender.capacity import Wishes, report

    path = PROGRAM.find_config(config)
    settings = load_settings(path, SenderSettings) if path is not None else None
    link = settings.link if settings is not None else None
    if rate is None and link is None:
        raise UserError(
            "--rate: no sender.yaml was found to take it from; give e.g. --rate 1Gbit", exit_code=EXIT_USAGE
        )
    usual = Link.model_fields
    try:
        wishes = Wishes(
            rate=parse_rate(rate) if rate is not None else link.rate,  # type: ignore[union-attr]
            mtu=mtu or (link.mtu if link is not None else usual["mtu"].default),
            repair=parse_ratio(repair) if repair else (link.repair if link is not None else usual["repair"].default),
            outage=parse_duration(outage)
            if outage
            else (link.outage if link is not None else usual["outage"].default),
            passes=passes or (settings.repeats if settings is not None else Repeats()).passes,
            content=parse_size(content),
            change=parse_size(change),
            keep=parse_duration(keep),
            largest=parse_size(largest),
            hold=parse_duration(hold),
        )
    except ValueError as error:
        raise UserError(str(error), exit_code=EXIT_USAGE) from None
    raise typer.Exit(report(wishes, as_json=as_json))
