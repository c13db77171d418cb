"""One file cut into volumes: ``NAME.001``, ``NAME.002``…, with a list of their sizes and SHA-256 in ``NAME.json``.

The volumes are plain slices, so ``cat NAME.0*`` is the file. They come to their names when all of them are whole.
Reading needs each of them once, in order, wherever it lies: other folders, or one medium after the other. The list
names a volume that is damaged, exchanged, cut off or missing; what is in it is vouched for by whoever reads the file.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from oci.blobs import fsync_folder, storage_errors
from oci.errors import ContentMismatch, Misconfigured, NotFound, Unsupported

VOLUME_BYTES_MIN: Final = 64 * 1024
VOLUMES_MAX: Final = 999
LIST_BYTES_MAX: Final = 1024 * 1024
LIST_TYPE: Final = "checkvalve-volumes"
LIST_SUFFIX: Final = ".json"
_TEMP: Final = ".part"
_NUMBERED: Final = re.compile(r"(?P<name>.+)\.(?P<number>[0-9]{3})\Z")
_HEX: Final = re.compile(r"[0-9a-f]{64}\Z")

Ask = Callable[[str], Path | None]
"""Told the name of a volume that is not there; returns where to look next, None to give up."""


@dataclass(frozen=True, slots=True)
class Volume:
    """What the list says of one volume; *size* in bytes."""

    name: str
    size: int
    sha256: str


class VolumeWriter:
    """Writes *path*, or volumes of at most *volume_bytes*; a context manager that leaves nothing behind on failure.

    Misconfigured if any of it exists already, StorageFull when the disk has no room.
    """

    def __init__(self, path: Path, volume_bytes: int | None) -> None:
        if volume_bytes is not None and volume_bytes < VOLUME_BYTES_MIN:
            raise Misconfigured(f"volumes of {volume_bytes:,} bytes: expected at least {VOLUME_BYTES_MIN:,}")
        self._path = path
        self._volume_bytes = volume_bytes
        self._file: BinaryIO | None = None
        self._hash = hashlib.sha256()
        self._size = 0
        self._finals: list[Path] = []
        self.volumes: list[Volume] = []
        if not path.parent.is_dir():
            raise Misconfigured(f"{path.parent}: no such folder; make it, or mount what should be there")
        for taken in (path, _list_path(path), _numbered(path, 1)):
            if taken.exists():
                raise Misconfigured(f"{taken}: exists already; remove it, or give another name")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        for final in self._finals:
            _temp(final).unlink(missing_ok=True)

    def write(self, data: bytes) -> None:
        """Append *data*."""
        view = memoryview(data)
        while len(view):
            room = len(view) if self._volume_bytes is None else self._volume_bytes - self._size
            if self._file is None or not room:
                self._next()
                continue
            part = view[:room]
            with _writable(self._finals[-1]):
                self._file.write(part)
            self._hash.update(part)
            self._size += len(part)
            view = view[len(part) :]

    def commit(self) -> list[Volume]:
        """Make everything durable, give it its names, the list last; return the volumes."""
        self._finish()
        with _writable(self._path):
            for final in self._finals:
                _temp(final).replace(final)
            if self._volume_bytes is not None:
                document = {
                    "type": LIST_TYPE,
                    "version": 1,
                    "name": self._path.name,
                    "volumes": [{"name": one.name, "size": one.size, "sha256": one.sha256} for one in self.volumes],
                }
                listed = _list_path(self._path)
                self._finals.append(listed)
                with _temp(listed).open("xb") as file:
                    file.write(json.dumps(document, indent=2).encode() + b"\n")
                    file.flush()
                    os.fsync(file.fileno())
                _temp(listed).replace(listed)
            fsync_folder(self._path.parent)
        self._finals.clear()
        return self.volumes

    def _next(self) -> None:
        self._finish()
        final = self._path if self._volume_bytes is None else _numbered(self._path, len(self.volumes) + 1)
        with _writable(final):
            _temp(final).unlink(missing_ok=True)  # of a run that was killed
            self._file = _temp(final).open("xb")
        self._finals.append(final)
        self._hash, self._size = hashlib.sha256(), 0

    def _finish(self) -> None:
        if self._file is None:
            return
        with _writable(self._finals[-1]):
            self._file.flush()
            os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        self.volumes.append(Volume(self._finals[-1].name, self._size, self._hash.hexdigest()))


@dataclass
class VolumeSet:
    """The volumes of one file, as far as they are found. Without a list (None) their names give the order."""

    name: str
    listed: list[Volume] | None
    folders: list[Path] = field(default_factory=list)  # where to look
    files: dict[str, Path] = field(default_factory=dict)  # name of a volume -> where it lies

    @classmethod
    def find(cls, paths: Iterable[Path]) -> VolumeSet:
        """Return the file that *paths* mean: volumes, a list, the file itself, or folders that hold one of these.

        NotFound, Unsupported if that is not exactly one.
        """
        paths = list(paths)
        folders, files = [], []
        for path in paths:
            if path.is_dir():
                folders.append(path)
                with _readable(str(path)):
                    files += sorted(one for one in path.iterdir() if _names_of(one) is not None)
            elif path.is_file():
                files.append(path)
                folders.append(path.parent)
            else:
                raise NotFound(f"{path}: no such file")
        found = {str(_names_of(one) or one.name) for one in files}
        if len(found) != 1:
            several = f"holds {', '.join(sorted(found))}; name one of them" if found else "holds no archive"
            raise NotFound(f"{paths[0] if paths else '.'}: {several}")
        name = found.pop()
        folders = list(dict.fromkeys(folders))
        lists = [one / f"{name}{LIST_SUFFIX}" for one in folders if (one / f"{name}{LIST_SUFFIX}").is_file()]
        made = cls(name, _read_list(lists[0], name) if lists else None, folders)
        made.files = {one.name: one for one in files if one.suffix != LIST_SUFFIX}
        return made

    @property
    def order(self) -> list[str]:
        """The names of the volumes in their order, as far as they are known."""
        if self.listed is not None:
            return [one.name for one in self.listed]
        numbers = [int(match["number"]) for match in map(_NUMBERED.match, self.files) if match]
        return [f"{self.name}.{number:03}" for number in range(1, max(numbers) + 1)] if numbers else [self.name]

    def missing(self) -> list[str]:
        """Return the names of volumes that are in none of the folders now."""
        return [name for name in self.order if self.path(name) is None]

    def path(self, name: str) -> Path | None:
        """Return where a volume lies now, None if nowhere."""
        known = self.files.get(name)
        if known is not None and known.is_file():
            return known
        return next((folder / name for folder in self.folders if (folder / name).is_file()), None)

    def ask_for_list(self, ask: Ask) -> None:
        """Ask once for the list of volumes that came without one; without it their names have to do."""
        if self.listed is None and self.order != [self.name]:
            name = f"{self.name}{LIST_SUFFIX}"
            place = ask(name)
            if place is not None:
                self.look_in(place)
            path = self.path(name)
            self.listed = None if path is None else _read_list(path, self.name)

    def look_in(self, place: Path) -> None:
        """Look for volumes in the folder *place*, or take the file."""
        if place.is_dir():
            self.folders.insert(0, place)
        else:
            self.files[place.name] = place


class VolumeStream:
    """The whole file, volume after volume; damage is noted in ``faults`` as it is met, one line each.

    A volume that is cut off is read on as zeros, so that what follows it still is where it should be.
    """

    def __init__(self, volumes: VolumeSet, ask: Ask | None = None) -> None:
        self._set = volumes
        self._ask = ask
        self._order = volumes.order
        self._number = -1
        self._file: BinaryIO | None = None
        self._hash = hashlib.sha256()
        self._left: int | None = None  # bytes of this volume still to come; None: until it ends
        self._gave_up = False  # a volume is nowhere
        self.faults: list[str] = []

    @property
    def where(self) -> str:
        """The volume that is read now."""
        return self._order[max(0, min(self._number, len(self._order) - 1))]

    def read(self, count: int) -> bytes:
        """Return *count* bytes, fewer only at the end of the last volume."""
        found: list[bytes] = []
        while count:
            if self._file is None and not self._next():
                break
            assert self._file is not None
            asked = count if self._left is None else min(count, self._left)
            with _readable(self.where):
                data = self._file.read(asked)
            self._hash.update(data)
            if self._left is not None and len(data) < asked:
                data += bytes(asked - len(data))  # a fault that _finish has noted by its size
            if self._left is not None:
                self._left -= len(data)
            if not data or self._left == 0:
                self._finish()
            found.append(data)
            count -= len(data)
        return b"".join(found)

    def rest(self) -> None:
        """Read to the end, so that every volume that is there has been compared with the list."""
        while not self._gave_up and self.read(1 << 20):
            pass

    def close(self) -> None:
        """Close the volume that is open."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _next(self) -> bool:
        if self._number + 1 >= len(self._order):
            return False
        self._number += 1
        path = self._place(self.where)
        with _readable(str(path)):
            self._file = path.open("rb")
            size = os.fstat(self._file.fileno()).st_size
        self._hash = hashlib.sha256()
        self._left = None
        if self._set.listed is not None:
            wanted = self._set.listed[self._number].size
            self._left = wanted
            if size != wanted:
                kind = "cut off" if size < wanted else "too long"
                self.faults.append(f"{self.where}: {kind}: {size:,} bytes, its list says {wanted:,}")
            if not wanted:
                self._finish()
        return True

    def _place(self, name: str) -> Path:
        while (path := self._set.path(name)) is None:
            place = self._ask(name) if self._ask is not None else None
            if place is None:
                self._gave_up = True
                raise NotFound(f"{name}: volume is missing; name the folder that it lies in as well")
            self._set.look_in(place)
        return path

    def _finish(self) -> None:
        """Compare the volume that has just been read."""
        self.close()
        listed = self._set.listed
        if listed is None:
            return
        got = self._hash.hexdigest()
        if got == listed[self._number].sha256 or any(line.startswith(f"{self.where}: ") for line in self.faults):
            return
        other = next((one.name for one in listed if one.sha256 == got), None)
        is_other = f"it holds what {other} should" if other else "its bytes are not those that were written"
        self.faults.append(f"{self.where}: damaged: {is_other}; copy it again")


@contextlib.contextmanager
def _writable(path: Path) -> Iterator[None]:
    """Turn a medium that is full, write-protected, or takes no such large file, into a line for people."""
    try:
        with storage_errors(path):
            yield
    except OSError as error:
        too_large = "; its file system takes no larger file: write volumes" if error.errno == errno.EFBIG else ""
        raise Misconfigured(f"{path}: cannot be written ({error.strerror or error}){too_large}") from None


@contextlib.contextmanager
def _readable(where: str) -> Iterator[None]:
    """Turn a medium that fails into a line for people."""
    try:
        yield
    except OSError as error:
        raise Misconfigured(f"{where}: cannot be read ({error.strerror or error})") from None


def _numbered(path: Path, number: int) -> Path:
    if number > VOLUMES_MAX:
        raise Misconfigured(f"{path}: more than {VOLUMES_MAX} volumes; choose larger ones")
    return path.with_name(f"{path.name}.{number:03}")


def _list_path(path: Path) -> Path:
    return path.with_name(path.name + LIST_SUFFIX)


def _temp(path: Path) -> Path:
    return path.with_name(f".{path.name}{_TEMP}")


def _names_of(path: Path) -> str | None:
    """Return the name of the whole file that *path* is, or is a part of; None if it is neither."""
    name = path.name
    if name.startswith("."):
        return None
    if (match := _NUMBERED.match(name)) and match["name"].endswith(".tar"):
        return match["name"]
    if name.endswith(".tar" + LIST_SUFFIX):
        return name.removesuffix(LIST_SUFFIX)
    return name if name.endswith(".tar") else None


def _read_list(path: Path, name: str) -> list[Volume]:
    with _readable(str(path)), path.open("rb") as file:
        raw = file.read(LIST_BYTES_MAX + 1)
    try:
        if len(raw) > LIST_BYTES_MAX:
            raise ValueError("too long")
        document = json.loads(raw)
        if document["type"] != LIST_TYPE or document["version"] != 1:
            raise Unsupported(f"{path}: not a list of volumes that this program understands")
        volumes = [Volume(str(one["name"]), int(one["size"]), str(one["sha256"])) for one in document["volumes"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ContentMismatch(f"{path}: damaged: not a list of volumes; copy it again, or leave it away") from None
    wanted = [f"{name}.{number:03}" for number in range(1, len(volumes) + 1)]
    good = all(one.size >= 0 and _HEX.match(one.sha256) for one in volumes)
    if not volumes or [one.name for one in volumes] != wanted or not good:
        raise ContentMismatch(f"{path}: damaged: it does not list {name}.001 and so on; copy it again")
    return volumes
