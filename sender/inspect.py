"""``pin`` and ``check``: look at images where they are, without fetching more than their manifests.

Writes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from oci.blobs import BlobStore
from oci.errors import OciError
from oci.indexed import is_digest
from oci.layout_index import Entry, entry_names
from oci.reference import Reference, is_tag, parse_reference
from runtime import keys
from runtime.errors import UserError, print_error
from runtime.terminal import human_bytes, print_json, table
from sender.closures import line_of, walk_pin
from sender.config import Fetch, SenderSettings
from sender.images import PinnedImage, parse_origin
from sender.intent import load_images
from sender.lock import load_lock
from sender.lookup import look_up
from sender.sources import Sources, advice


async def pin_lines(references: Sequence[str], settings: SenderSettings | None) -> tuple[list[str], list[str]]:
    """Return the lines of images.yaml for what the command line names, and one line for each failure."""
    lines: list[str] = []
    errors: list[str] = []
    async with Sources(settings.fetch if settings else Fetch()) as sources:
        for text in references:
            try:
                if text.startswith(("oci:", "archive:")):
                    lines += await _lines_of_folder(text, sources)
                else:
                    lines.append(await _line_of_registry(text, sources))
            except OciError as error:
                errors.append(f"{text}: {advice(error, _registry_of(text))}")
            except UserError as error:
                errors.append(str(error))
            except ValueError as error:
                errors.append(str(error))
    return lines, errors


def _registry_of(text: str) -> str:
    try:
        return parse_reference(text).registry
    except OciError:  # the error tells
        return ""


async def _line_of_registry(text: str, sources: Sources) -> str:
    reference = parse_reference(text)
    wanted = reference.digest or reference.tag
    if wanted is None:
        raise UserError(f"{text}: neither tag nor digest; give e.g. {text}:1.27")
    descriptor = await (await sources.repository(reference)).resolve(wanted)
    return f"  - {Reference(reference.registry, reference.repository, reference.tag, descriptor.digest)}"


async def _lines_of_folder(text: str, sources: Sources) -> list[str]:
    """Return an entry for every image in a layout or tarball."""
    origin = parse_origin(text, Path())
    assert origin.path is not None
    source = await sources.folder(origin)
    found = entry_lines(await asyncio.to_thread(source.entries), origin.kind, origin.path)
    if not found:
        raise UserError(f"{text}: holds no image; give a layout or archive with at least one")
    return found


def entry_lines(entries: Sequence[Entry], kind: str, path: Path, *, named_after: Path | None = None) -> list[str]:
    """Return the lines of images.yaml for *entries* of an index.json at *path*; nameless ones after a file."""
    found: dict[str, None] = {}
    for entry in entries:
        if "artifactType" in entry:
            continue  # a referrer: it travels with its subject
        reference = _reference_of(entry_names(entry), named_after or path, entry["digest"])
        found[f"  - image: {reference}\n    from: {kind}:{path.absolute()}"] = None
    return list(found)


def _reference_of(names: tuple[str | None, str | None], path: Path, digest: str) -> Reference:
    """Name an image by its full name if it has one, else by the file it lies in, as podman does: localhost/…"""
    short, full = names
    for name in (full, short):
        if name and ("/" in name or ":" in name):
            try:
                named = parse_reference(name.partition("@")[0])
            except OciError:
                continue
            return Reference(named.registry, named.repository, named.tag, digest)
    stem = "".join(char if char.isascii() and char.isalnum() else "-" for char in path.name.partition(".")[0].lower())
    tag = short if short and is_tag(short) and not is_digest(short) else None
    return Reference("localhost", "-".join(filter(None, stem.split("-"))) or "image", tag, digest)


def key_faults(settings: SenderSettings) -> list[str]:
    """Return one line for each key file that cannot be used."""
    faults: list[str] = []
    try:
        keys.load_signing_key(settings.signing_key, created_by=SenderSettings.created_by)
    except UserError as error:
        faults.append(str(error))
    for path in settings.receivers:
        try:
            keys.load_hpke_public(path, created_by="checkvalve-receiver init")
        except UserError as error:
            faults.append(str(error))
    return faults


def check_all(settings: SenderSettings, *, offline: bool, as_json: bool) -> int:
    """Check keys and images.yaml, then each image where it is; print a table. Returns 1 if anything is wrong."""
    faults = key_faults(settings)
    images = load_images(settings.images, settings.collection)
    faults += [*images.faults, *load_lock(settings.lock_file).faults]
    rows, reasons, warnings = ([], [], ()) if offline else asyncio.run(_dry_run(settings))
    faults += reasons + [f"{row['image']}: {row['error']}" for row in rows if row["error"]]
    if as_json:
        listed = rows or [{"image": str(pin.reference)} for pin in images.images]
        rules = [{"rule": rule.key, "line": rule.where} for rule in images.rules]
        print_json({"images": listed, "rules": rules, "faults": faults, "warnings": list(warnings)})
    else:
        _print(rows, len(images.images), len(images.rules))
        for warning in warnings:
            print(f"warning: {warning}")
        if faults:
            print_error(UserError("\n".join(faults)))
    return 1 if faults else 0


async def _dry_run(settings: SenderSettings) -> tuple[list[dict[str, Any]], list[str], tuple[str, ...]]:
    """Return a row for each image that is wanted, what is held, and warnings."""
    spool = BlobStore(settings.spool)
    async with Sources(settings.fetch) as sources:
        looked = await look_up(settings, None, sources)
        wanted = looked.wanted
        slots = asyncio.Semaphore(settings.fetch.parallel_total)

        async def look(pin: PinnedImage) -> dict[str, Any]:
            row: dict[str, Any] = {"image": pin.short, "from": str(pin.origin), "error": None}
            try:
                async with slots:
                    source = await sources.of(pin)
                    closure = await walk_pin(source, settings.fetch, pin, line_of(looked.lock, settings.fetch, pin))
            except OciError as error:
                return {**row, "error": advice(error, pin.reference.registry)}
            parts = [*closure.blobs, *(manifest.descriptor for manifest in closure.manifests)]
            missing = [part for part in parts if spool.size(part.digest) != part.size]
            return {
                **row,
                "parts": len(parts),
                "bytes": sum(part.size for part in parts),
                "bytes_to_fetch": sum(part.size for part in missing),
            }

        return list(await asyncio.gather(*map(look, wanted.pins))), wanted.reasons, wanted.warnings


def _print(rows: Sequence[dict[str, Any]], count: int, rules: int) -> None:
    if not rows:
        and_rules = f", {rules} rule{'' if rules == 1 else 's'}" if rules else ""
        print(f"{count} image{'' if count == 1 else 's'} listed{and_rules}")
        return
    table(
        ("image", "from", "parts", "bytes", "to fetch"),
        [
            (row["image"], row["from"], "failed", "", "")
            if row["error"]
            else (
                row["image"],
                row["from"],
                row["parts"],
                human_bytes(row["bytes"]),
                human_bytes(row["bytes_to_fetch"]) if row["bytes_to_fetch"] else "nothing",
            )
            for row in rows
        ],
        right=("parts", "bytes", "to fetch"),
    )
