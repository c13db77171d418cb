"""The command that makes room in the spool: gc."""

from __future__ import annotations

from typing import Annotated

import typer

from runtime.commandline import examples
from runtime.terminal import human_bytes, print_json, table
from sender.cli_app import Config, Json, app, settings_of


@app.command(
    short_help="Remove what was sent and nobody needs.",
    epilog=examples(
        "checkvalve-sender gc --dry-run",
        "checkvalve-sender gc --free 50GB",
        "checkvalve-sender gc --dry-run --json | jq .left_bytes",
    ),
)
def gc(
    config: Config = None,
    free: Annotated[
        str | None,
        typer.Option("--free", metavar="SIZE", show_default=False, help="Default: what exceeds storage.budget."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Remove nothing: show what would go.")] = False,
    as_json: Json = False,
) -> None:
    """Remove from the spool what was sent and no release, proposal, rollback or wanted image needs, oldest first.

    A running fetch role does this by itself after each proposal; stop it first, or use --dry-run.
    """
    from sender import gc as work

    found = work.gc(settings_of(config), goal=work.parse_goal(free), dry_run=dry_run)
    if as_json:
        print_json(found)
        return
    if found["objects"]:
        table(
            ("object", "size"),
            [(one["label"], human_bytes(one["bytes"])) for one in found["objects"]],
            right=("size",),
        )
    would = "would free" if dry_run else "freed"
    budget = "" if found["budget_bytes"] is None else f" of {human_bytes(found['budget_bytes'])}"
    print(
        f"{would} {human_bytes(found['evicted_bytes'])}, and {human_bytes(found['orphan_bytes'])} that belong to "
        f"nothing; then {human_bytes(found['left_bytes'])}{budget} are used"
    )
