"""The files ``oci-layout`` and ``index.json`` of an image layout (OCI image-layout.md), version 1.0.0.

``index.json`` changes by temp file, fsync and rename, under an flock that all processes respect, so a reader
sees the state before or after, never between. Entries written by others keep every field we do not know.
It knows nothing of blobs; what a name means is decided in layout.py.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from oci.blobs import fsync_folder, make_folder, storage_errors
from oci.descriptor import OCI_INDEX, Descriptor, check_digest
from oci.errors import Misconfigured, NotFound, OciError, ReferenceError_, TooLarge, Unsupported
from oci.limits import LAYOUT_INDEX_BYTES_MAX

LAYOUT_VERSION: Final = "1.0.0"
REF_NAME: Final = "org.opencontainers.image.ref.name"
CONTAINERD_NAME: Final = "io.containerd.image.name"  # the full name, written by containerd and docker

Entry = dict[str, Any]
_NONE: Final[list[Entry]] = []


def entry_names(entry: Entry) -> tuple[str | None, str | None]:
    """Return (ref.name, full name as containerd writes it) of an entry of index.json."""
    annotations = entry.get("annotations")
    if not isinstance(annotations, dict):
        return None, None
    short, full = annotations.get(REF_NAME), annotations.get(CONTAINERD_NAME)
    return (short if isinstance(short, str) else None), (full if isinstance(full, str) else None)


def entry_descriptor(entry: Entry) -> Descriptor:
    """Return the descriptor an entry of index.json (checked by ``check_entries``) states, without its names."""
    annotations = entry.get("annotations") or {}
    return Descriptor(
        media_type=entry["mediaType"],
        digest=entry["digest"],
        size=entry["size"],
        annotations={
            key: text
            for key, text in annotations.items()
            if isinstance(text, str) and key not in (REF_NAME, CONTAINERD_NAME)
        },
    )


def make_entry(descriptor: Descriptor, name: str | None) -> Entry:
    """Return the entry of index.json for *descriptor* under *name* (None: reachable, but not named)."""
    entry: Entry = {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size}
    if descriptor.artifact_type:
        entry["artifactType"] = descriptor.artifact_type
    if name is not None:
        entry["annotations"] = {REF_NAME: name}
    return entry


def check_entries(document: object, where: str) -> list[Entry]:
    """Return the entries of a parsed index.json; OciError naming *where* if it is not one."""
    if not isinstance(document, dict) or not isinstance(document.get("manifests") or [], list):
        raise OciError(f"{where}: not an OCI image index (a JSON object with a list 'manifests')")
    entries = document.get("manifests") or []
    for number, entry in enumerate(entries):
        if (
            not isinstance(entry, dict)
            or not isinstance(entry.get("mediaType"), str)
            or not isinstance(entry.get("digest"), str)
            or type(entry.get("size")) is not int
            or entry["size"] < 0
            or not isinstance(entry.get("annotations") or {}, dict)
        ):
            raise OciError(f"{where}: manifests[{number}] is no descriptor (mediaType, digest and size are needed)")
        try:
            check_digest(entry["digest"])
        except ReferenceError_ as error:
            raise OciError(f"{where}: manifests[{number}]: {error}") from None
    return entries


def parse_json(data: bytes, where: str) -> object:
    """Parse *data*; OciError naming *where* if it is no JSON."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise OciError(f"{where}: not valid JSON: {str(error)[:120]}") from None


class Lookup:
    """The entries of one index.json, checked, by what they are asked for. They are shared: do not change them."""

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = entries
        self.by_name: dict[str, list[Entry]] = {}  # ref.name
        self.by_full_name: dict[str, list[Entry]] = {}  # as containerd writes it
        self.by_digest: dict[str, list[Entry]] = {}
        for entry in entries:
            self.by_digest.setdefault(entry["digest"], []).append(entry)
            for name, found in zip(entry_names(entry), (self.by_name, self.by_full_name), strict=True):
                if name is not None:
                    found.setdefault(name, []).append(entry)


class IndexFile:
    """``index.json`` and ``oci-layout`` below one root. Synchronous and thread-safe."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.path = root / "index.json"
        self._seen: tuple[tuple[int, int, int], dict[str, Any]] | None = None
        self._lookup = Lookup([])
        self._check_version()

    @property
    def present(self) -> bool:
        """Whether there is a layout here already."""
        return (self._root / "oci-layout").is_file() and self.path.is_file()

    def _check_version(self) -> None:
        marker = self._root / "oci-layout"
        try:
            data = _read_bounded(marker, 64 * 1024)
        except NotFound:
            return
        document = parse_json(data, str(marker))
        version = document.get("imageLayoutVersion") if isinstance(document, dict) else None
        if version != LAYOUT_VERSION:
            raise Unsupported(f"{marker}: imageLayoutVersion {version!r}, only {LAYOUT_VERSION!r} is understood")

    def entries(self) -> list[Entry]:
        """Return the entries; an absent index.json has none. They are shared: do not change them."""
        document = self._load()
        return document.get("manifests") or _NONE

    def lookup(self) -> Lookup:
        """Return the entries by what they are asked for, made anew when index.json has changed."""
        entries, lookup = self.entries(), self._lookup
        if lookup.entries is not entries:
            lookup = self._lookup = Lookup(entries)
        return lookup

    def version(self) -> object:
        """Return a token that changes whenever index.json does."""
        self._load()
        return self._seen[0] if self._seen else None

    def update(self, change: Callable[[list[Entry]], list[Entry] | None]) -> None:
        """Replace the entries by what *change* returns for them; None leaves the file alone.

        *change* runs under the lock that excludes all other writers. StorageFull leaves the old state.
        """
        with storage_errors(self.path):
            make_folder(self._root)
            with self._locked():
                self._write_marker()
                self._seen = None  # what a lock protects is read under it
                document = dict(self._load())
                entries = change(list(document.get("manifests") or []))
                if entries is None and self.path.is_file():
                    return
                document.setdefault("schemaVersion", 2)
                document.setdefault("mediaType", OCI_INDEX)
                document["manifests"] = entries or []
                data = json.dumps(document, indent=2, ensure_ascii=False).encode()
                if len(data) > LAYOUT_INDEX_BYTES_MAX:
                    raise TooLarge(f"{self.path}: would exceed {LAYOUT_INDEX_BYTES_MAX} bytes")
                _write_durably(self.path, data)

    def _load(self) -> dict[str, Any]:
        try:
            found = self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return {}
        # Every change is a rename, so a changed file is another inode or has another time.
        token = (found.st_ino, found.st_mtime_ns, found.st_size)
        seen = self._seen
        if seen is not None and seen[0] == token:
            return seen[1]
        document = parse_json(_read_bounded(self.path, LAYOUT_INDEX_BYTES_MAX), str(self.path))
        check_entries(document, str(self.path))
        assert isinstance(document, dict)
        self._seen = (token, document)
        return document

    def _write_marker(self) -> None:
        marker = self._root / "oci-layout"
        if not marker.is_file():
            _write_durably(marker, json.dumps({"imageLayoutVersion": LAYOUT_VERSION}).encode())

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        # A file of its own: index.json itself is replaced by each writer. It is never removed.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        handle = os.open(self._root / ".index.lock", flags, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _read_bounded(path: Path, size_max: int) -> bytes:
    try:
        with path.open("rb") as handle:
            if not stat.S_ISREG(os.fstat(handle.fileno()).st_mode):
                raise OciError(f"{path}: not a regular file")
            data = handle.read(size_max + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"{path}: no such file") from None
    except OSError as error:
        raise Misconfigured(f"{path}: {error.strerror}; expected a file that we may read") from None
    if len(data) > size_max:
        raise TooLarge(f"{path}: larger than {size_max} bytes")
    return data


def _write_durably(path: Path, data: bytes) -> None:
    """Replace *path* atomically. Callers hold the lock, so other temp files are of dead writers."""
    for stale in path.parent.glob(f".{path.name}.*.tmp"):
        stale.unlink(missing_ok=True)
    temp = path.parent / f".{path.name}.{secrets.token_hex(8)}.tmp"
    try:
        with temp.open("xb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temp, path)
    finally:
        temp.unlink(missing_ok=True)
    fsync_folder(path.parent)
