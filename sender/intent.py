"""Reads images.yaml: pinned images, rules about tags, defaults, renames and includes.

Reports every fault with file, line, value and what would be right; entries without fault stay usable. It never
asks a registry, nor looks into a layout or archive.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, TypeVar

from pydantic import ValidationError

from oci.descriptor import short_digest
from runtime.document import Document, Location, load_yaml
from runtime.errors import EXIT_USAGE, UserError
from runtime.faults import describe_fault, unknown_key
from runtime.settings import Section, paths_from
from sender.images import ImageList, PinnedImage, Rule, Slot
from sender.intent_entry import EntryReader
from sender.intent_model import Defaults, Entry, File, Rename

INCLUDE_DEPTH_MAX: Final = 8
FILES_MAX: Final = 1_000
FILE_BYTES_MAX: Final = 16 << 20  # some hundred thousand images
NODES_MAX: Final = 1_000_000
_KEYS: Final = frozenset(File.model_fields)
_EXAMPLE: Final = "give e.g. docker.io/library/nginx:1.27@sha256:…"

S = TypeVar("S", bound=Section)


def load_images(path: Path, collection: str = "default") -> ImageList:
    """Read images.yaml and what it includes; *collection* takes entries that name none.

    Raises UserError (exit code 2) only for a file that cannot be understood as a whole.
    """
    reader = _Reader()
    document = load_yaml(path, created_by="checkvalve-sender init", bytes_max=FILE_BYTES_MAX, nodes_max=NODES_MAX)
    if "images" not in document.data and "include" not in document.data:
        faults = [document.fault((key,), unknown_key(key, File)) for key in document.data if key not in _KEYS]
        raise UserError("\n".join([*faults, document.fault((), "images: is missing; add this key")]), exit_code=2)
    entries = document.data.get("images") or []
    if not isinstance(entries, list):
        text = f"{str(entries)[:80]!r} is not a list; start each item with '- '"
        raise UserError(document.fault(("images",), text), exit_code=EXIT_USAGE)
    reader.read(document, Defaults(collection=collection), (), 0)
    images = tuple(_without_conflicts(reader.images, reader.faults))
    rules = tuple(reader.rules_once())
    return ImageList(images, tuple(reader.faults), rules, tuple(reader.files))


class _Reader:
    """Collects entries and faults over all files."""

    def __init__(self) -> None:
        self.images: list[PinnedImage] = []
        self.rules: list[Rule] = []
        self.faults: list[str] = []
        self.files: list[Path] = []

    def read(self, document: Document, defaults: Defaults, renames: tuple[Rename, ...], depth: int) -> None:
        """Read one file; *defaults* and *renames* are those of the file that includes it."""
        self.files.append(document.path.absolute())
        for key in document.data:
            if key not in _KEYS:
                self.faults.append(document.fault((key,), unknown_key(key, File)))
        own = self._section(document, ("defaults",), Defaults, document.data.get("defaults") or {})
        if own is not None:
            defaults = defaults.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})
        renames = (*self._renames(document), *renames)
        self._include(document, defaults, renames, depth)
        entries = document.data.get("images") or []
        if not isinstance(entries, list):
            text = f"{str(entries)[:80]!r} is not a list; start each item with '- '"
            self.faults.append(document.fault(("images",), text))
            return
        for number, entry in enumerate(entries):
            self._entry(document, ("images", number), entry, defaults, renames)

    def rules_once(self) -> Iterator[Rule]:
        """Yield what is no repetition."""
        seen: dict[tuple[object, ...], Rule] = {}
        for rule in self.rules:
            same = (rule.key, rule.options.collection, rule.options.target)
            if same in seen:
                self.faults.append(
                    f"{rule.where}: the rule '{rule.key}' is here twice, first in {seen[same].where}; keep one"
                )
            else:
                seen[same] = rule
                yield rule

    def _renames(self, document: Document) -> Iterator[Rename]:
        given = document.data.get("rename") or []
        if not isinstance(given, list):
            text = f"{str(given)[:80]!r} is not a list; start each item with '- '"
            self.faults.append(document.fault(("rename",), text))
            return
        for number, item in enumerate(given):
            rename = self._section(document, ("rename", number), Rename, item)
            if rename is not None:
                yield rename

    def _include(self, document: Document, defaults: Defaults, renames: tuple[Rename, ...], depth: int) -> None:
        given = document.data.get("include") or []
        patterns = [given] if isinstance(given, str) else given
        if not isinstance(patterns, list):
            self.faults.append(document.fault(("include",), f"{given!r} is not a path or a list of paths"))
            return
        for number, pattern in enumerate(patterns):
            place = ("include",) if isinstance(given, str) else ("include", number)
            for path in self._files_of(document, place, pattern):
                if path in self.files:
                    self.faults.append(document.fault(place, f"{path} is included twice, or includes itself"))
                elif depth == INCLUDE_DEPTH_MAX or len(self.files) == FILES_MAX:
                    text = f"more than {INCLUDE_DEPTH_MAX} levels or {FILES_MAX:,} files of includes"
                    self.faults.append(document.fault(place, text))
                    return
                else:
                    self._include_one(path, defaults, renames, depth)

    def _include_one(self, path: Path, defaults: Defaults, renames: tuple[Rename, ...], depth: int) -> None:
        try:
            included = load_yaml(path, bytes_max=FILE_BYTES_MAX, nodes_max=NODES_MAX)
        except UserError as error:
            self.files.append(path)  # to be read again when it was mended
            self.faults.extend(str(error).splitlines())
        else:
            self.read(included, defaults, renames, depth + 1)

    def _files_of(self, document: Document, place: Location, pattern: object) -> list[Path]:
        if not isinstance(pattern, str) or not pattern or "\0" in pattern:
            self.faults.append(document.fault(place, f"{pattern!r} is not a path; give e.g. teams/*.yaml"))
            return []
        path = (document.folder / Path(pattern).expanduser()).absolute()
        if glob.has_magic(str(path)):
            self.files.append(path)  # files that come to fit it are to be seen
            return [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
        if not path.exists():
            self.files.append(path)
            self.faults.append(document.fault(place, f"no such file: {path}"))
            return []
        return [path]

    def _entry(
        self,
        document: Document,
        here: tuple[str | int, ...],
        data: object,
        defaults: Defaults,
        renames: tuple[Rename, ...],
    ) -> None:
        where: Location = here
        if isinstance(data, dict):
            entry, where = self._section(document, here, Entry, data), (*here, "image")
        elif isinstance(data, str):
            entry = Entry(image=data)
        else:
            shown = "nothing" if data is None else repr(data)[:80]
            self.faults.append(document.fault(here, f"{shown} is no image; {_EXAMPLE}"))
            return
        if entry is None:
            return
        found = EntryReader(document, here, defaults, renames, self.faults).read(entry, where)
        if isinstance(found, PinnedImage):
            self.images.append(found)
        elif found is not None:
            self.rules.append(found)

    def _section(self, document: Document, where: Location, model: type[S], data: object) -> S | None:
        """Return *data*, which stands at *where*, as a *model*; None after adding its faults."""
        try:
            with paths_from(document.folder):
                return model.model_validate(data)
        except ValidationError as error:
            for fault in error.errors(include_url=False):
                fault["loc"] = (*where, *fault["loc"])
                line = describe_fault(document, model, fault, {})
                if line not in self.faults:
                    self.faults.append(line)
            return None


def _without_conflicts(images: Iterable[PinnedImage], faults: list[str]) -> Iterator[PinnedImage]:
    """Yield what is neither a repetition nor a tag with two digests; which of those is meant nobody can tell."""
    holders: dict[Slot, list[PinnedImage]] = {}
    seen: dict[tuple[str, Slot], PinnedImage] = {}
    kept: list[PinnedImage] = []
    for image in images:
        same = seen.setdefault((str(image.reference), image.slot), image)
        if same is not image:
            first = f"line {same.line}" if same.file == image.file else same.where
            faults.append(f"{image.where}: '{image.short}' is here twice, first in {first}; keep one")
            continue
        kept.append(image)
        if image.reference.tag is not None:
            holders.setdefault(image.slot, []).append(image)
    for image in kept:
        rivals = holders.get(image.slot, [])
        if len(rivals) <= 1:
            yield image
        elif image is rivals[0]:
            faults.append(f"{image.where}: {contradiction(rivals)}; keep one")


def contradiction(rivals: list[PinnedImage]) -> str:
    """Return the words for images that claim one tag with different digests."""
    first = rivals[0]
    pins = ", ".join(
        f"{short_digest(one.digest)} in {f'line {one.line}' if one.file == first.file else one.where}"
        for one in rivals
    )
    return f"tag '{first.target}:{first.reference.tag}' is pinned to {len(rivals)} digests ({pins})"
