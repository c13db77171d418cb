"""``nodes-config``: the files of receiver/nodes.py for the registries that releases come from, printed or written.

A file that somebody else wrote is never replaced without being told to.
"""

from __future__ import annotations

import sys
from pathlib import Path

from oci.errors import OciError
from oci.reference import check_registry
from protocol.errors import WireError
from receiver.config import ReceiverSettings
from receiver.journal import ReceiverJournal
from receiver.mapping import Mapping
from receiver.nodes import MARK, Mirror, NodeFiles, Runtime, node_files
from receiver.publish_config import TargetSection
from receiver.senders import trust
from runtime.durable import write_durably
from runtime.errors import EXIT_USAGE, UserError
from runtime.terminal import print_json

_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - compared with, never bound


def nodes_config(
    settings: ReceiverSettings,
    runtime: Runtime,
    *,
    registries: list[str],
    target: str | None,
    mirror: str | None,
    ca: str | None,
    out: Path | None,
    force: bool,
    as_json: bool,
) -> int:
    """Print the files, or write them below *out*; return 0. UserError for what cannot work."""
    name, section = _target(settings, target)
    place = Mirror(_mirror_url(name, section, mirror), ca)
    names = _names(settings, needed=not registries)
    wanted = [_registry(text) for text in registries] or sorted({each.partition("/")[0] for each in names})
    made = node_files(runtime, name, place, Mapping.of(section), list(dict.fromkeys(wanted)), names)
    notes = [*made.notes, *_ca_note(section, place)]
    written = [] if out is None else _write(made, out, force=force)
    if as_json:
        print_json({
            "for": runtime, "target": name, "mirror": place.url, "registries": wanted, "folder": made.folder,
            "files": made.files, "written": written, "notes": notes,
        })  # fmt: skip
        return 0
    for path, text in made.files.items():
        print(f"wrote {out / path}" if out is not None else f"# ---- {made.folder}/{path}\n{text}")
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    return 0


def _target(settings: ReceiverSettings, wanted: str | None) -> tuple[str, TargetSection]:
    targets = settings.publish.each()
    if wanted is not None and wanted not in targets:
        raise UserError(f"--target {wanted}: no such target; there is {', '.join(targets)}", exit_code=EXIT_USAGE)
    pullable = {name: each for name, each in targets.items() if each.images is None and wanted in (None, name)}
    if not pullable:
        raise UserError(
            f"--target {wanted or next(iter(targets))}: is a folder of archives, which nodes import by themselves; "
            "name a registry or a layout"
        )
    if len(pullable) > 1:
        raise UserError(f"--target: there are several; give one of {', '.join(pullable)}", exit_code=EXIT_USAGE)
    return next(iter(pullable.items()))


def _mirror_url(name: str, target: TargetSection, given: str | None) -> str:
    """Return the URL as nodes reach the target: as given, else as the settings have it."""
    if given is not None:
        scheme, separator, host = given.rstrip("/").partition("://")
        try:
            if scheme not in ("http", "https") or not separator:
                raise UserError(f"--mirror {given}: give e.g. https://registry.internal:5000", exit_code=EXIT_USAGE)
            return f"{scheme}://{check_registry(host)}"
        except OciError as error:
            raise UserError(f"--mirror {given}: {error}", exit_code=EXIT_USAGE) from None
    if target.registry is not None:
        return target.registry.url.rstrip("/")
    if target.serve is None:
        raise UserError(f"--mirror: nothing serves the layout of target {name}; say where nodes find it")
    if target.serve.on.host in _EVERYWHERE:
        raise UserError(
            f"--mirror: serve.on is {target.serve.on}; say how nodes reach it, e.g. --mirror http://10.0.0.2:"
            f"{target.serve.on.port}"
        )
    return f"http://{target.serve.on}"


def _ca_note(target: TargetSection, mirror: Mirror) -> list[str]:
    if mirror.ca is None and not mirror.plain_http and target.registry is not None and target.registry.ca is not None:
        return [f"the registry's CA is {target.registry.ca} here; give --ca PATH, where it is on the nodes"]
    return []


def _registry(text: str) -> str:
    try:
        return check_registry(text)
    except OciError as error:
        raise UserError(f"{text}: {error}", exit_code=EXIT_USAGE) from None


def _names(settings: ReceiverSettings, *, needed: bool) -> list[str]:
    """Return the names of all images in the newest releases; UserError if they are *needed* and there are none."""
    found: set[str] = set()
    if needed or settings.journal.exists():
        journal, trusted = ReceiverJournal(settings.journal, read_only=True), trust(settings)
        try:
            for row in journal.newest_releases():
                try:
                    found |= {image.name for image in trusted.open(row.envelope).release.images}
                except WireError:
                    continue  # `status` says what is wrong with it
        finally:
            journal.close()
    if needed and not found:
        raise UserError("no release is here to take registries from; name them, e.g. docker.io quay.io")
    return sorted(found)


def _write(made: NodeFiles, out: Path, *, force: bool) -> list[str]:
    """Write all files or, if one of them is not ours to replace, none; return their paths."""
    for path in made.files:
        file = out / path
        try:
            ours = not file.exists() or MARK in file.read_text(errors="replace").partition("\n")[0]
        except OSError as error:
            raise UserError(f"{file}: cannot be read: {error.strerror}") from None
        if not ours and not force:
            raise UserError(f"{file}: was not written by nodes-config; move it away, or give --force to replace it")
    for path, text in made.files.items():
        try:
            write_durably(out / path, text.encode(), mode=0o644)
        except OSError as error:
            raise UserError(f"{out / path}: cannot be written: {error.strerror}") from None
    return [str(out / path) for path in made.files]
