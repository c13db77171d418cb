"""Puts each image as one OCI archive into a folder from which nodes import it by themselves, such as K3s's.

What K3s does there decides how it is done (its agent/containerd/watcher.go, containerd.go). It imports by extension,
whenever a name appears, and all of them again when it starts; with a ``.cache.json`` in the folder only those whose
size or time has changed, and of two that have one size some versions miss the second. So an archive is named by its
content, is never written again, and appears by rename from a name without extension. ``.cache.json`` is K3s's own.
When two archives carry one tag, the last by name would have it after a restart: what a newer one replaces is removed.

Knows no release and no journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog

from oci.archive_writer import read_entries, write_archive
from oci.blobs import BlobStore, fsync_folder, make_folder, storage_errors
from oci.descriptor import Descriptor
from oci.errors import OciError
from protocol.release import ReleaseImage
from receiver.closure import Plan, plan
from receiver.publish_config import ImageFolder
from receiver.push import Moved

_OURS: Final = re.compile(r"checkvalve-[a-z0-9._-]{0,120}-[0-9a-f]{16}\.tar(?:\.zst)?")
_TEMP: Final = re.compile(r"\.checkvalve-[0-9a-f]{16}\.part")
_FORM: Final = 1  # of the archives: another number gives all of them other names
_REF_NAME: Final = "org.opencontainers.image.ref.name"  # image-spec annotations.md
_IMAGE_NAME: Final = "io.containerd.image.name"  # what containerd calls the image, whole
T = TypeVar("T")
log = structlog.get_logger()


class ImageDirectory:
    """One folder of archives: a ``Sink``. All that touches its disk is done in threads of its own."""

    def __init__(self, settings: ImageFolder, spool: BlobStore, parallel: int) -> None:
        self._folder = settings.path
        self._compress = settings.compress == "zstd"
        self._remove_withdrawn = settings.withdrawn == "remove"
        self._spool = spool
        # A folder that hangs, on a dead network file system, shall hold up nobody else.
        self._threads = ThreadPoolExecutor(parallel + 1, thread_name_prefix="images")
        self._names: dict[str, frozenset[str]] = {}  # file name -> images in it; a file never changes
        self._fresh = True
        self._first_step, self._last_step = threading.Lock(), threading.Lock()

    def close(self) -> None:
        """Let go of the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def holds(self, image: ReleaseImage, path: str) -> bool:
        """Whether the archive of *image*, called *path*, is there."""
        return await self._in_thread(lambda: self._holds(image, path))

    async def push(self, image: ReleaseImage, whole: Plan, path: str, moved: Moved) -> None:
        """Write the archive unless it is there, then remove those that it replaces. OciError leaves no new one."""
        stop = threading.Event()

        def progress(count: int) -> None:
            if stop.is_set():
                raise InterruptedError("no longer wanted")
            moved.bytes += count

        try:
            await self._in_thread(lambda: self._push(image, path, progress))
        finally:
            stop.set()
        moved.blobs += len(whole.blobs)

    async def settle(self, wanted: Iterable[tuple[ReleaseImage, str]]) -> None:
        """All of *wanted* is here, and nothing else is wanted: remove the rest if the settings say so."""
        if self._remove_withdrawn:
            keep = {self._file_name(image, path) for image, path in wanted}
            await self._in_thread(lambda: self._withdraw(keep))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _holds(self, image: ReleaseImage, path: str) -> bool:
        with self._first_step:
            if self._fresh:
                self._remove_leftovers()
                self._fresh = False
        try:
            return (self._folder / self._file_name(image, path)).stat().st_size > 0
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _push(self, image: ReleaseImage, path: str, progress: Callable[[int], None]) -> None:
        final = self._folder / self._file_name(image, path)
        with storage_errors(self._folder):
            make_folder(self._folder)
            with self._written(image, path, progress) as temp, self._last_step:
                # Of two writers the one that is no longer wanted must not be the last to put its archive there.
                progress(0)
                if temp is not None:
                    temp.replace(final)
                    fsync_folder(self._folder)
                self._replace(final.name, _image_names(image, path))

    @contextlib.contextmanager
    def _written(self, image: ReleaseImage, path: str, progress: Callable[[int], None]) -> Iterator[Path | None]:
        """Yield the archive under a name that nobody imports, to be renamed; None if it is there already."""
        if self._holds(image, path):
            yield None
            return
        temp = self._folder / f".checkvalve-{secrets.token_hex(8)}.part"
        try:
            with temp.open("xb") as file:
                contents = _beneath_root(image, self._spool)
                entries = _entries(image, path)
                write_archive(file, entries, contents, self._spool, compress=self._compress, progress=progress)
                file.flush()
                os.fsync(file.fileno())
            temp.chmod(0o644)  # whoever imports it may be another user
            yield temp
        finally:
            with contextlib.suppress(OSError):
                temp.unlink(missing_ok=True)

    def _replace(self, new: str, names: frozenset[str]) -> None:
        """Remove other archives of ours in which an image is called as one of *names*."""
        for old in self._ours():
            if old != new and names & self._names_in(old):
                self._remove(old, "archive_replaced", by=new)

    def _withdraw(self, keep: set[str]) -> None:
        with storage_errors(self._folder), self._last_step:
            for old in self._ours():
                if old not in keep:
                    self._remove(old, "archive_withdrawn")

    def _remove(self, name: str, event: str, **more: str) -> None:
        (self._folder / name).unlink(missing_ok=True)
        log.info(event, archive=str(self._folder / name), **more)

    def _ours(self) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self._folder) if _OURS.fullmatch(name))
        except FileNotFoundError:
            return []

    def _remove_leftovers(self) -> None:
        """Remove what killed writers left: nobody else writes here, and we have not begun."""
        with contextlib.suppress(OSError):  # no such folder yet; or writing will tell
            for name in os.listdir(self._folder):
                if _TEMP.fullmatch(name):
                    (self._folder / name).unlink(missing_ok=True)

    def _names_in(self, name: str) -> frozenset[str]:
        found = self._names.get(name)
        if found is None:
            try:
                entries = read_entries(self._folder / name)
            except OciError as error:
                log.warning("archive_unreadable", error=str(error))
                return frozenset()
            found = frozenset(str((entry.get("annotations") or {}).get(_IMAGE_NAME)) for entry in entries)
            self._names[name] = found
        return found

    def _file_name(self, image: ReleaseImage, path: str) -> str:
        entries = _entries(image, path)
        # The root's digest is that of all beneath it, save what stays on the other side.
        stamp = hashlib.sha256(json.dumps([_FORM, entries, sorted(image.absent)]).encode()).hexdigest()[:16]
        label = "_".join(path.split("/")[-2:]) + (f"-{min(image.tags)}" if image.tags else "")
        label = re.sub(r"[^a-z0-9._-]", "_", label.lower())[:120]
        return f"checkvalve-{label}-{stamp}.tar{'.zst' if self._compress else ''}"


def _image_names(image: ReleaseImage, path: str) -> frozenset[str]:
    return frozenset(entry["annotations"][_IMAGE_NAME] for entry in _entries(image, path))


def _entries(image: ReleaseImage, path: str) -> list[dict[str, Any]]:
    """Return what index.json says: an entry for each name, as containerd and skopeo read them."""
    root = {"mediaType": image.root.media_type, "digest": image.root.digest, "size": image.root.size}
    if not image.tags:  # it can be asked for by digest only
        return [root | {"annotations": {_IMAGE_NAME: f"{path}@{image.root.digest}"}}]
    return [root | {"annotations": {_IMAGE_NAME: f"{path}:{tag}", _REF_NAME: tag}} for tag in sorted(set(image.tags))]


def _beneath_root(image: ReleaseImage, spool: BlobStore) -> list[Descriptor]:
    """Return what a node needs. Signatures and SBOMs are not for importing."""
    whole = plan(spool, replace(image, referrers=(), extra_tags=()))
    return [*whole.manifests, *whole.blobs]
