"""``import``: takes images from an archive or a layout, so that they stay when its medium is taken away.

They go into an image layout of the state folder, ``imports``, which images.yaml then names as any other source. What
is imported is verified by digest; whether it is to cross is decided by the pins that a person puts into images.yaml.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from oci.archive import open_archive
from oci.bundle import BundleReader, index_entries
from oci.closure import walk
from oci.descriptor import Descriptor
from oci.errors import ContentMismatch, NotFound, OciError
from oci.indexed import IndexedSource
from oci.layout import Layout
from oci.layout_index import Entry, entry_descriptor, entry_names, make_entry
from oci.volumes import Ask, VolumeSet, VolumeStream
from protocol.archive import DOCUMENTS, ENVELOPE
from protocol.errors import WireError
from protocol.release import Release, open_release, parse_envelope
from protocol.trust import TrustedSenders
from runtime import keys
from runtime.errors import UserError
from runtime.terminal import Progress
from sender.config import SenderSettings
from sender.inspect import entry_lines

FOLDER = "imports"


@dataclass(slots=True)
class Imported:
    """What came of it; *lines* are for images.yaml."""

    source: str
    release: str | None = None  # "default 7", of an archive that a release was written to
    ours: bool = False  # that release was signed with this sender's key
    images: int = 0
    new: int = 0
    new_bytes: int = 0
    lines: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def take(settings: SenderSettings, paths: Sequence[Path], *, verify_only: bool, ask: Ask | None) -> Imported:
    """Import what *paths* mean, or with *verify_only* read all of it and write nothing. UserError, OciError.

    Damage in an archive of a release is in the result, by volume and blob; then nothing is listed in the layout.
    """
    layout = Layout(settings.state / FOLDER)
    if len(paths) == 1 and (paths[0] / "index.json").is_file():
        return asyncio.run(_from_source(Layout.open(paths[0]), layout, verify_only=verify_only))
    volumes = VolumeSet.find(paths)
    if ask is not None:
        volumes.ask_for_list(ask)
    stream = VolumeStream(volumes, ask)
    whole = volumes.path(volumes.name)
    with ExitStack() as stack:
        stack.callback(stream.close)
        reader = BundleReader(stream)
        try:
            reader.open(DOCUMENTS)
            if ENVELOPE not in reader.documents:
                raise ContentMismatch(f"{stream.where}: no {ENVELOPE} in it")
        except NotFound:
            raise
        except OciError as error:
            if volumes.listed is None and whole is not None:  # an archive of other tools
                opened = stack.enter_context(open_archive(whole, scratch=_scratch(settings)))
                return asyncio.run(_from_source(opened, layout, verify_only=verify_only))
            return Imported(volumes.name, faults=[*stream.faults, str(error)])
        return _from_release(settings, layout, reader, stream, verify_only=verify_only)


def _from_release(
    settings: SenderSettings, layout: Layout, reader: BundleReader, stream: VolumeStream, *, verify_only: bool
) -> Imported:
    envelope = reader.documents[ENVELOPE]
    try:
        release = parse_envelope(envelope)
    except WireError as error:
        return Imported(stream.where, faults=[*stream.faults, f"{ENVELOPE}: {error}"])
    result = Imported(stream.where, f"{release.collection} {release.sequence}", _is_ours(settings, envelope))
    wanted = {content.digest: content.size for content in release.contents().values()}
    with Progress() as progress:
        count = progress.counter(f"{'verify' if verify_only else 'import'} {result.release}", sum(wanted.values()))
        taken = reader.take(wanted, None if verify_only else layout.blobs, count)
    with suppress(NotFound):
        stream.rest()
    result.new, result.new_bytes, result.images = taken.new, taken.new_bytes, len(release.images)
    absent = [f"{stream.where}: blob {digest} is not in it" for digest in sorted(wanted.keys() - taken.seen)]
    broken = [taken.broken] if taken.broken else []
    result.faults = [*stream.faults, *taken.damaged, *broken, *absent]
    if not result.faults and not verify_only:
        entries = index_entries(_named(release), layout.blobs)
        _list(layout, [*entries, *_cosign_entries(release)])
        images = {f"{one.name}:{tag}" for one in release.images for tag in one.tags}
        images |= {f"{one.name}@{one.root.digest}" for one in release.images}
        shown = [entry for entry in entries if entry_names(entry)[0] in images]
        result.lines = entry_lines(shown, "oci", layout.root)
    return result


async def _from_source(source: IndexedSource, layout: Layout, *, verify_only: bool) -> Imported:
    """Copy every image of a layout or tarball of other tools, each closure whole."""
    result = Imported(source.name)
    entries = [entry for entry in source.entries() if entry_descriptor(entry).is_manifest]
    if not entries:
        raise UserError(f"{source.name}: holds no image")
    with Progress() as progress:
        bar = progress.add(f"import {source.name}")
        for entry in entries:
            closure = await walk(source, entry_descriptor(entry))
            blobs = [*closure.blobs, *[layer for layer in closure.foreign if await source.exists(layer)]]
            for blob in blobs:
                await _copy(source, blob, None if verify_only else layout, result)
            for manifest in closure.manifests:
                if not verify_only and layout.blobs.size(manifest.descriptor.digest) is None:
                    await asyncio.to_thread(layout.blobs.write, manifest.descriptor.digest, manifest.raw)
                    result.new, result.new_bytes = result.new + 1, result.new_bytes + len(manifest.raw)
            result.images += "artifactType" not in entry
            progress.update(bar, name=f"import {source.name}: {result.images} images")
    if not verify_only:
        _list(layout, entries)
        path = source.blobs.root if isinstance(source, Layout) else Path(source.name.partition(":")[2])
        result.lines = entry_lines(entries, "oci", layout.root, named_after=path)
    return result


async def _copy(source: IndexedSource, blob: Descriptor, layout: Layout | None, result: Imported) -> None:
    if layout is None:
        async for _ in source.blob(blob):
            pass
    elif layout.blobs.size(blob.digest) != blob.size:
        chunks = source.blob(blob, verify=False)
        await layout.blobs.write_stream(blob.digest, blob.size, chunks, source=source.name)
        result.new, result.new_bytes = result.new + 1, result.new_bytes + blob.size


def _list(layout: Layout, entries: list[Entry]) -> None:
    """Enter *entries* into the layout; a name that it has already moves."""
    names = {entry_names(entry)[0] for entry in entries} - {None}
    digests = {entry["digest"] for entry in entries}

    def merged(former: list[Entry]) -> list[Entry]:
        def replaced(entry: Entry) -> bool:
            name = entry_names(entry)[0]
            return name in names if name is not None else entry["digest"] in digests

        kept = [entry for entry in former if not replaced(entry)]
        return [*kept, *entries]

    layout.update_index(merged)


def _named(release: Release) -> list[tuple[str | None, Descriptor]]:
    return [(name, Descriptor(one.media_type, one.digest, one.size)) for name, one in release.names()]


def _cosign_entries(release: Release) -> list[Entry]:
    """Return cosign's tags without the repository: so they are asked for in a layout that is one source."""
    contents = release.contents()
    found = {pair for image in release.images for pair in image.extra_tags}
    return [
        make_entry(Descriptor(contents[digest].media_type, digest, contents[digest].size), tag)
        for tag, digest in sorted(found)
    ]


def _is_ours(settings: SenderSettings, envelope: bytes) -> bool:
    try:
        public = keys.load_signing_public(keys.public_path(settings.signing_key))
        open_release(envelope, TrustedSenders.of(public))
    except (UserError, WireError):
        return False
    return True


def _scratch(settings: SenderSettings) -> Path:
    scratch = settings.state / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    return scratch
