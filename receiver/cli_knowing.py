"""The command that tells what was: history."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated

import typer

from receiver.cli_app import Config, Json, app, settings_of
from runtime.commandline import examples
from runtime.errors import EXIT_USAGE, UserError
from runtime.units import parse_duration


@app.command(
    epilog=examples(
        "checkvalve-receiver history",
        "checkvalve-receiver history --since 2d --limit 100",
        "checkvalve-receiver history --since 2026-01-31 --json | jq .incidents",
    )
)
def history(
    since: Annotated[
        str | None, typer.Option(metavar="WHEN", help="How long ago (2d, 6h), or a date or time (UTC).")
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=100_000, help="At most so many of each kind.")] = 20,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """List releases as they came, gaps, what was dropped or refused, alarms, and the loss of the link over time."""
    from receiver.history import history as show

    moment = None if since is None else _moment(since)
    raise typer.Exit(show(settings_of(config), since=moment, limit=limit, as_json=as_json))


def _moment(text: str) -> float:
    """Return what --since says as Unix s."""
    try:
        return time.time() - parse_duration(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(
            f"--since: {text!r} is neither a duration nor a time; give e.g. 2d, 6h or 2026-01-31T08:00",
            exit_code=EXIT_USAGE,
        ) from None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
