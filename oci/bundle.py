"""An OCI image layout in one tar stream, with documents beside it: written the same every time, read in one pass.

Order: ``oci-layout``, the documents, ``index.json``, then ``blobs/``, by digest. The documents come first, so that
who reads them knows which blobs, of which size, may follow; no other is taken. Knows nothing of what documents say.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from oci.blobs import BlobStore
from oci.descriptor import OCI_INDEX, Descriptor, Manifest, hasher, short_digest
from oci.errors import ContentMismatch, NotFound, OciError, TooLarge
from oci.layout_index import (
    CONTAINERD_NAME,
    LAYOUT_VERSION,
    Entry,
    check_entries,
    entry_names,
    make_entry,
    parse_json,
)
from oci.limits import LAYOUT_INDEX_BYTES_MAX, MANIFEST_BYTES_MAX
from oci.referrers import as_referrer
from oci.store import Progress
from oci.tar_stream import END, Stream, TarReader, member_bytes, member_header, padding

_CHUNK: Final = 1 << 20
_MARKER: Final = json.dumps({"imageLayoutVersion": LAYOUT_VERSION}).encode()

Named = tuple[str | None, Descriptor]
"""What index.json is to lead to: a full name and tag, or None for a referrer, which needs none."""


def index_entries(named: Iterable[Named], store: BlobStore) -> list[Entry]:
    """Return the entries of index.json; a referrer's artifact type is read from its manifest in *store*."""
    entries = []
    for name, descriptor in named:
        if name is None:
            raw = store.read(descriptor.digest, MANIFEST_BYTES_MAX)
            entries.append(make_entry(as_referrer(Manifest(descriptor, raw)), None))
            continue
        entry = make_entry(descriptor, name)
        entry["annotations"][CONTAINERD_NAME] = name
        entries.append(entry)
    return entries


def same_entries(found: Iterable[Entry], named: Iterable[Named]) -> bool:
    """Whether an index.json leads to exactly *named*, whatever else it says."""
    theirs = [(entry_names(entry)[0], entry["digest"], entry["size"]) for entry in found]
    ours = [(name, descriptor.digest, descriptor.size) for name, descriptor in named]
    return sorted(theirs, key=repr) == sorted(ours, key=repr)


def _blob_name(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


@dataclass(frozen=True)
class Bundle:
    """What goes into the stream; *blobs* is digest -> bytes."""

    documents: Mapping[str, bytes]
    entries: list[Entry]
    blobs: Mapping[str, int]

    @property
    def size(self) -> int:
        """The bytes of the whole stream."""
        sizes = {"oci-layout": len(_MARKER), "index.json": len(self._index())}
        sizes |= {name: len(data) for name, data in self.documents.items()}
        sizes |= {_blob_name(digest): size for digest, size in self.blobs.items()}
        return sum(member_bytes(name, size) for name, size in sizes.items()) + len(END)

    def write(self, write: Callable[[bytes], None], store: BlobStore, progress: Progress | None = None) -> None:
        """Write the stream, every blob verified on its way: NotFound, ContentMismatch."""

        def put(data: bytes) -> None:
            write(data)
            if progress is not None:
                progress(len(data))

        files = [("oci-layout", _MARKER), *sorted(self.documents.items()), ("index.json", self._index())]
        for name, data in files:
            put(member_header(name, len(data)) + data + padding(len(data)))
        for digest, size in sorted(self.blobs.items()):
            put(member_header(_blob_name(digest), size))
            self._copy(put, store, digest, size)
            put(padding(size))
        put(END)

    def _copy(self, put: Callable[[bytes], None], store: BlobStore, digest: str, size: int) -> None:
        state, left = hasher(digest), size
        with store.open(digest) as file:
            while data := file.read(min(_CHUNK, left)):
                state.update(data)
                put(data)
                left -= len(data)
            if left or file.read(1) or state.hexdigest() != digest.partition(":")[2]:
                raise ContentMismatch(f"{store.path(digest)}: has other bytes than its name says")

    def _index(self) -> bytes:
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": self.entries}
        return json.dumps(document, indent=1, sort_keys=True).encode()


@dataclass
class Taken:
    """How the blobs of a stream fared."""

    new: int = 0  # blobs that the store did not have
    new_bytes: int = 0
    damaged: list[str] = field(default_factory=list)  # one line each
    seen: set[str] = field(default_factory=set)
    broken: str | None = None  # why it could not be read to its end


class BundleReader:
    """Reads a stream once, front to back: ``open``, then ``take``."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._tar = TarReader(stream)
        self.documents: dict[str, bytes] = {}
        self.entries: list[Entry] = []

    def open(self, allowed: Mapping[str, int]) -> None:
        """Read all that stands before the blobs; *allowed* is the name of a document -> its bytes at most.

        ContentMismatch, TooLarge, OciError, one line each.
        """
        if self._small("oci-layout", 64) != _MARKER:
            raise ContentMismatch(f"{self._stream.where}: oci-layout: not the one that was written")
        while True:
            member = self._tar.next()
            if member is None:
                raise ContentMismatch(f"{self._stream.where}: ends before index.json; this is no such archive")
            if member.name == "index.json":
                break
            if member.name not in allowed:
                raise OciError(f"{self._stream.where}: {member.name[:200]!r} does not belong there; refused")
            self.documents[member.name] = self._whole(member.name, member.size, allowed[member.name])
        raw = self._whole(member.name, member.size, LAYOUT_INDEX_BYTES_MAX)
        where = f"{self._stream.where}: index.json"
        self.entries = check_entries(parse_json(raw, where), where)

    def take(self, wanted: Mapping[str, int], store: BlobStore | None, progress: Progress | None = None) -> Taken:
        """Read the blobs, of which *wanted* says digest -> size, into *store*, or nowhere: every one is hashed.

        A damaged blob is noted and the next one read. StorageFull, Misconfigured as BlobStore raises them.
        """
        taken = Taken()
        by_name = {_blob_name(digest): digest for digest in wanted}
        try:
            while (member := self._tar.next()) is not None:
                digest = by_name.get(member.name)
                if digest is None:
                    raise OciError(f"{self._stream.where}: {member.name[:200]!r} is no content of it; refused")
                if member.size != wanted[digest]:
                    raise ContentMismatch(
                        f"{self._stream.where}: {short_digest(digest)} has {member.size:,} bytes; "
                        f"expected {wanted[digest]:,}"
                    )
                taken.seen.add(digest)
                self._blob(digest, member.size, store, taken, progress)
        except (ContentMismatch, TooLarge, NotFound) as error:
            taken.broken = str(error)
        except OciError as error:
            if type(error) is not OciError:  # of the store, not of the archive
                raise
            taken.broken = str(error)
        return taken

    def _blob(self, digest: str, size: int, store: BlobStore | None, taken: Taken, progress: Progress | None) -> None:
        state, left = hasher(digest), size
        began = self._stream.where
        writer = store.writer(digest, size) if store is not None and store.size(digest) != size else None
        try:
            while left:
                data = self._tar.read(min(_CHUNK, left))
                left -= len(data)
                state.update(data)
                if writer is not None:
                    writer.write(data)
                if progress is not None:
                    progress(len(data))
            if state.hexdigest() != digest.partition(":")[2]:
                ended = self._stream.where
                place = began if began == ended else f"{began} to {ended}"
                taken.damaged.append(f"{place}: blob {digest} is damaged: it has other bytes than its name says")
            elif writer is not None:
                writer.commit()
                taken.new += 1
                taken.new_bytes += size
        finally:
            if writer is not None:
                writer.abort()

    def _small(self, name: str, size_max: int) -> bytes:
        member = self._tar.next()
        if member is None or member.name != name:
            raise ContentMismatch(f"{self._stream.where}: does not begin with {name}; this is no such archive")
        return self._whole(name, member.size, size_max)

    def _whole(self, name: str, size: int, size_max: int) -> bytes:
        if size > size_max:
            raise TooLarge(f"{self._stream.where}: {name} of {size:,} bytes; expected at most {size_max:,}")
        parts = []
        while size:
            parts.append(self._tar.read(min(_CHUNK, size)))
            size -= len(parts[-1])
        return b"".join(parts)
