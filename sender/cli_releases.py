"""The commands that lead to a release, and back: plan, approve, history, diff, rollback, lock, send, schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from runtime.commandline import examples
from runtime.errors import UserError
from runtime.terminal import human_bytes, print_json, table
from sender.cli_app import Config, Json, app, settings_of

Collection = Annotated[
    str | None,
    typer.Option("--collection", "-C", metavar="NAME", show_default=False, help="Default: as sender.yaml."),
]


@app.command(
    short_help="Show what would change on the other side.",
    epilog=examples(
        "checkvalve-sender plan",
        "checkvalve-sender plan --offline            # what a running sender has proposed",
        "checkvalve-sender plan --json | jq '.changes.default[] | select(.change == \"moved\")'",
    ),
)
def plan(
    config: Config = None,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no registry: show what was proposed last.")] = False,
    as_json: Json = False,
) -> None:
    """Show what would change: new, moved and dropped images, bytes and time, what is held, what waits for approval.

    Asks registries, and writes nothing. Exit code 0: nothing would change; 3: something would; 1: something is wrong.
    """
    from sender import plan as work

    raise typer.Exit(work.show(settings_of(config), offline=offline, as_json=as_json))


@app.command(
    short_help="Agree to a proposed release.",
    epilog=examples(
        "checkvalve-sender approve 3f2a9c11d0e4",
        "checkvalve-sender approve 3f2a9c11d0e4 --key keys/alice.pem",
        "checkvalve-sender approve 3f2a9c11d0e4 --export proposal   # to be signed elsewhere: see endorse",
        "checkvalve-sender approve 3f2a9c11d0e4 --signature alice.sig",
    ),
)
def approve(
    proposal: Annotated[str, typer.Argument(metavar="ID", help="As `plan` and `history` show it.")],
    config: Config = None,
    key: Annotated[
        list[Path] | None, typer.Option("--key", metavar="PEM", help="An approver's private key; may be repeated.")
    ] = None,
    signature: Annotated[
        list[Path] | None, typer.Option("--signature", metavar="FILE", help="What `endorse` wrote; may be repeated.")
    ] = None,
    export: Annotated[
        Path | None, typer.Option("--export", metavar="FILE", help="Approve nothing: write what is to be signed.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Agree to the release with this ID, so that transmit signs and sends it.

    The ID names exact contents: if the proposal changes meanwhile, it has another one.
    """
    from sender import approve as work

    done = work.approve(settings_of(config), proposal, key or [], signature or [], export)
    if as_json:
        print_json(done.document())
        return
    release, state = done.candidate.release, done.state
    _print_changes([one.document() for one in done.changes])
    name = f"release {release.collection} {release.sequence}, {done.candidate.digest}"
    if export is not None:
        print(f"wrote {export}: {name}; sign it with `checkvalve-sender endorse {export} --key KEY --out FILE`")
    elif state.approved:
        print(f"approved: {name}")
    else:
        print(f"approved by {state.given} of {state.needed}: {name}")


@app.command(
    short_help="Sign an exported proposal with an approver's key.",
    epilog=examples("checkvalve-sender endorse proposal --key alice.pem --out alice.sig"),
)
def endorse(
    payload: Annotated[Path, typer.Argument(metavar="FILE", help="What `approve --export` wrote.")],
    key: Annotated[Path, typer.Option("--key", metavar="PEM", help="The approver's private key.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the signature goes.")],
) -> None:
    """Sign an exported proposal, on whatever machine the approver's key is. Needs no settings."""
    from sender import approve as work

    signed = work.endorse(payload, key, out)
    print(
        f"signed {signed['id']}: release {signed['collection']} {signed['sequence']}, {signed['images']} images; "
        f"bring {out} to the sender: checkvalve-sender approve {signed['id']} --signature {out}"
    )


@app.command(
    short_help="Make an approver's key pair.", epilog=examples("checkvalve-sender approver-key keys/alice.pem")
)
def approver_key(path: Annotated[Path, typer.Argument(metavar="PEM", help="Where the private key goes.")]) -> None:
    """Make an Ed25519 key pair for an approver; the public half goes into sender.yaml, and to the receivers."""
    from runtime import keys

    if path.exists():
        raise UserError(f"{path}: exists already; nothing was changed")
    public = keys.create_signing_key(path)
    print(f"created {path} and {keys.public_path(path)}\napprover's key {keys.fingerprint(public)}")


@app.command(
    short_help="List the releases.", epilog=examples("checkvalve-sender history", "checkvalve-sender history --json")
)
def history(config: Config = None, collection: Collection = None, as_json: Json = False) -> None:
    """List the releases of all collections or one, and what waits to become one."""
    from sender import past

    rows = past.history(settings_of(config), collection)
    if as_json:
        print_json(rows)
        return
    if not rows:
        print("no release yet")
        return
    columns = ("collection", "sequence", "state", "images", "new", "moved", "changed", "dropped", "created", "digest")
    shown = [{**row, "digest": row["digest"].partition(":")[2][:12]} for row in rows]  # as approve takes it
    table(columns, [[row[column] for column in columns] for row in shown], right=columns[3:8] + columns[1:2])


@app.command(
    short_help="Show what changed between two releases.",
    epilog=examples("checkvalve-sender diff 4 7", "checkvalve-sender diff 7 proposed --json"),
)
def diff(
    one: Annotated[str, typer.Argument(metavar="A", help="The number of a release, or `proposed`.")],
    other: Annotated[str, typer.Argument(metavar="B", help="Likewise.")],
    config: Config = None,
    collection: Collection = None,
    as_json: Json = False,
) -> None:
    """Show what changed from one release of a collection to another."""
    from sender import past

    settings = settings_of(config)
    found = [change.document() for change in past.difference(settings, collection or settings.collection, one, other)]
    if as_json:
        print_json(found)
    elif found:
        _print_changes(found)
    else:
        print("no difference")


@app.command(
    short_help="Release the contents of an earlier release again.",
    epilog=examples("checkvalve-sender rollback 5", "checkvalve-sender rollback --end"),
)
def rollback(
    sequence: Annotated[int | None, typer.Argument(metavar="N", min=1, help="As `history` shows it.")] = None,
    config: Config = None,
    collection: Collection = None,
    end: Annotated[bool, typer.Option("--end", help="Follow what is proposed again.")] = False,
    as_json: Json = False,
) -> None:
    """Make a new release with the contents of release N, and stay there until `rollback --end`.

    What was sent before is not sent again. A collection that asks for approval asks for it here too.
    """
    from sender import past

    settings = settings_of(config)
    name = collection or settings.collection
    if end == (sequence is not None):
        raise UserError("give the number of a release, or --end", exit_code=2)
    if sequence is None:
        past.end_rollback(settings, name)
        print(f"collection {name} follows what is proposed again")
        return
    done = past.roll_back(settings, name, sequence)
    if as_json:
        print_json(done)
        return
    _print_changes(done["changes"])
    print(
        f"release {name} {done['release']} will have the contents of {sequence}; "
        f"{human_bytes(done['bytes_new'])} of it were never sent; `rollback --end` lifts it"
    )


@app.command(
    short_help="Print the lock of a release.",
    epilog=examples("checkvalve-sender lock 7 > release-7.lock", "checkvalve-sender lock 7 -C edge"),
)
def lock(
    sequence: Annotated[int, typer.Argument(metavar="N", min=1, help="As `history` shows it.")],
    config: Config = None,
    collection: Collection = None,
) -> None:
    """Print the archived lock from which a release was made, and from which `reproduce` makes it again."""
    from sender import reproduce as work

    settings = settings_of(config)
    print(work.archived_lock(settings, collection or settings.collection, sequence), end="")


@app.command(
    short_help="Make a release again from its lock, and compare.",
    epilog=examples("checkvalve-sender lock 7 > release-7.lock && checkvalve-sender reproduce release-7.lock"),
)
def reproduce(
    path: Annotated[Path, typer.Argument(metavar="LOCK", help="What `lock` printed.")],
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Make a release again from its archived lock alone, and compare it bit for bit. Exit code 1 if it differs."""
    from sender import reproduce as work

    done = work.reproduce(settings_of(config), path)
    if as_json:
        print_json({"identical": done.identical, "digest": done.digest, "expected": done.archived.release})
    elif done.identical:
        print(f"identical: release {done.archived.collection} {done.archived.sequence}, {done.digest}")
    else:
        print(f"differs: {done.digest}; the lock says {done.archived.release}")
    raise typer.Exit(0 if done.identical else 1)


@app.command(
    short_help="Send an image by hand, first of all if --urgent.",
    epilog=examples(
        "checkvalve-sender send --urgent docker.io/library/nginx:1.27@sha256:…",
        "checkvalve-sender send --drop docker.io/library/nginx:1.27@sha256:…",
    ),
)
def send(
    reference: Annotated[str, typer.Argument(metavar="REF@DIGEST", help="An image, pinned.")],
    config: Config = None,
    urgent: Annotated[bool, typer.Option("--urgent", help="Overtake everything that is not urgent.")] = False,
    drop: Annotated[bool, typer.Option("--drop", help="Want it by hand no longer.")] = False,
    collection: Collection = None,
    as_json: Json = False,
) -> None:
    """Want an image besides images.yaml, in place of what has its tag there; a running sender takes it up at once.

    Approval is asked for as always. It stays until --drop.
    """
    from sender import by_hand as work

    settings = settings_of(config)
    done = work.send(settings, reference, collection or settings.collection, urgent=urgent, drop=drop)
    if as_json:
        print_json(done)
    else:
        print(_said(done))


def _said(done: dict[str, Any]) -> str:
    if done["dropped"]:
        return f"{done['image']}: not wanted by hand any more"
    first = "first of all" if done["urgent"] else "in its turn"
    repeated = f"; {done['objects']} objects that carry it go once more" if done["objects"] else ""
    return f"{done['image']}: will be sent {first}{repeated}"


@app.command(
    short_help="Print the JSON Schema of images.yaml, for editors.",
    epilog=examples("checkvalve-sender schema > images.schema.json"),
)
def schema() -> None:
    """Print the JSON Schema (2020-12) of images.yaml: completion and checks in editors that know it."""
    from sender.intent_model import json_schema

    print_json(json_schema())


def _print_changes(found: list[dict[str, Any]]) -> None:
    from sender.changes import shown_digests

    if found:
        rows = [(change["change"], change["image"], shown_digests(change)) for change in found]
        table(("change", "image", "digest"), rows)
