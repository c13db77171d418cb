"""The commands at the border: held, release, reject; and those that read the audit log."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from receiver.cli_app import PROGRAM, Config, Json, app, settings_of
from runtime.commandline import examples
from runtime.errors import print_error
from runtime.terminal import human_duration, print_json, table

audit_app = PROGRAM.app("Read the audit log: what was decided about releases and images, by whom and why.")
app.add_typer(audit_app, name="audit")

_IMAGE = typer.Argument(metavar="IMAGE[@DIGEST]", help="As `held` shows it; a tag will do where it means one image.")
_REASON = typer.Option("--reason", metavar="TEXT", help="Why, for the audit log.")
_BY = typer.Option("--by", metavar="NAME", help="Who decides. Default: the name of this login.", show_default=False)


@app.command(
    short_help="List the images that are held, and why.",
    epilog=examples("checkvalve-receiver held", "checkvalve-receiver held --json | jq -r '.held[].digest'"),
)
def held(as_json: Json = False, config: Config = None) -> None:
    """List the images of the newest releases that are held at the border, and why; exit code 1 if there are any."""
    from receiver import deciding

    found = deciding.held(settings_of(config))
    now = time.time()
    if as_json:
        print_json({"held": found})
    elif not found:
        print("nothing is held")
    else:
        table(
            ("image", "digest", "release", "since", "why"),
            [
                (
                    f"{one['image']}:{one['tags'][0]}" if one["tags"] else one["image"],
                    one["digest"],
                    f"{one['collection']} {one['release']}",
                    f"{human_duration(max(0.0, now - one['since']))} ago" if one["since"] else "",
                    one["reason"],
                )
                for one in found
            ],
        )
        print("let one pass: checkvalve-receiver release IMAGE@DIGEST --reason TEXT; for good: reject")
    raise typer.Exit(1 if found else 0)


@app.command(
    short_help="Let a held image pass.",
    epilog=examples(
        'checkvalve-receiver release quay.io/team/app:1.4 --reason "scanner: CVE-2026-1 does not apply to us"',
        'checkvalve-receiver release nginx@sha256:0123456789ab --reason "ticket 4711" --by alice',
    ),
)
def release(
    image: Annotated[str, _IMAGE],
    reason: Annotated[str, _REASON],
    by: Annotated[str | None, _BY] = None,
    config: Config = None,
) -> None:
    """Let an image pass that is held by `border` or was rejected: its digest, under this name, from now on.

    What breaks the image spec, is incomplete or not authentic passes by nobody's word. The reason is kept in the
    audit log.
    """
    from receiver import deciding

    print(deciding.decide(settings_of(config), image, "released", reason, by))


@app.command(
    short_help="Never publish an image.",
    epilog=examples(
        'checkvalve-receiver reject quay.io/team/app:1.4 --reason "ships a miner"',
        'checkvalve-receiver reject quay.io/team/app@sha256:… --reason "recalled by the vendor"   # before it comes',
    ),
)
def reject(
    image: Annotated[str, _IMAGE],
    reason: Annotated[str, _REASON],
    by: Annotated[str | None, _BY] = None,
    config: Config = None,
) -> None:
    """Never publish an image: its digest, under any name and in any release, until it is released.

    What is in the target already stays there, and is an alarm of `status`. The reason is kept in the audit log.
    """
    from receiver import deciding

    print(deciding.decide(settings_of(config), image, "rejected", reason, by))


@audit_app.command(
    "verify",
    short_help="Recompute the chain.",
    epilog=examples("checkvalve-receiver audit verify", "checkvalve-receiver audit verify --head 3f2a9c11d0e4…"),
)
def audit_verify(
    head: Annotated[
        str | None,
        typer.Option("--head", metavar="HASH", help="What `audit head` printed once: that line has to be there."),
    ] = None,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Recompute the chain of the audit log and name the first bad line; exit code 1 if there is one.

    Without --head it cannot be told whether the end was cut off, or the whole log written anew.
    """
    from receiver.audit import Audit, Broken

    log = Audit(settings_of(config).audit)
    try:
        count, found = log.verify(head)
    except Broken as error:
        if as_json:
            print_json({"ok": False, "line": error.line, "error": str(error)})
        else:
            print_error(error)
        raise typer.Exit(1) from None
    if as_json:
        print_json({"ok": True, "records": count, "head": found.document() if found is not None else None})
    elif found is None:
        print(f"{log.path}: the chain of {count} records is whole")
    else:
        print(f"{log.path}: the chain of {count} records is whole; record {found.seq} is the one that was noted")


@audit_app.command(
    "show",
    short_help="List the records.",
    epilog=examples("checkvalve-receiver audit show", "checkvalve-receiver audit show --json | jq '.records[-1]'"),
)
def audit_show(
    last: Annotated[
        int | None, typer.Option("--last", metavar="N", min=1, help="Only the newest N.", show_default=False)
    ] = None,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """List the records, oldest first, as far as the chain is whole; exit code 1 if it is not."""
    from receiver.audit import Audit, Broken, Record

    records: list[Record] = []
    broken = None
    try:
        for record in Audit(settings_of(config).audit).records():
            records.append(record)
            if last is not None and len(records) > 2 * last:
                del records[:-last]
    except Broken as error:
        broken = error
    shown = records if last is None else records[-last:]
    if as_json:
        document = {"records": [record.document() for record in shown]}
        print_json(document if broken is None else document | {"error": str(broken)})
    else:
        table(
            ("record", "time", "who", "what", "object", "why"),
            [(one.seq, one.time, one.actor, one.action, one.object, one.reason) for one in shown],
            right=("record",),
        )
    if broken is not None:
        print_error(broken)
        raise typer.Exit(1)


@audit_app.command(
    "head",
    short_help="Print the hash to note on paper.",
    epilog=examples("checkvalve-receiver audit head"),
)
def audit_head(as_json: Json = False, config: Config = None) -> None:
    """Print number and hash of the newest record: noted elsewhere, it seals the log up to there.

    Checks nothing: run `audit verify` with the note before this one first.
    """
    from receiver.audit import Audit, Broken

    try:
        head = Audit(settings_of(config).audit).head()
    except Broken as error:
        print_error(error)
        raise typer.Exit(1) from None
    if as_json:
        print_json({"record": head.seq, "hash": head.hash})
        return
    groups = " ".join(head.hash[at : at + 8] for at in range(0, len(head.hash), 8))
    print(f"record {head.seq}\n{groups}")
