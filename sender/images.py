"""images.yaml: which images are to cross, each pinned by digest, and where its bytes come from.

Reports every fault with file, line, value and what would be right; entries without fault stay usable. It never
asks a registry, nor looks into a layout or archive.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, StrictStr, ValidationError

from oci.descriptor import short_digest
from oci.errors import ReferenceError_
from oci.reference import Reference, parse_reference
from runtime.document import Document, load_yaml
from runtime.errors import EXIT_USAGE, UserError
from runtime.faults import describe_fault, unknown_key
from runtime.settings import Section

Kind = Literal["registry", "oci", "archive"]
_ORIGINS: Final = "give oci:FOLDER (an OCI image layout) or archive:FILE (docker save, ctr images export)"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an image is read: its own registry, an image layout or a tarball (then with a path)."""

    kind: Kind
    path: Path | None = None

    def __str__(self) -> str:
        return self.kind if self.path is None else f"{self.kind}:{self.path}"


@dataclass(frozen=True, slots=True)
class PinnedImage:
    """One good entry of images.yaml; *reference* always has a digest."""

    reference: Reference
    origin: Origin
    referrers: bool | None = None  # None: as fetch.referrers says
    line: int = 0

    @property
    def digest(self) -> str:
        """The pin."""
        assert self.reference.digest is not None
        return self.reference.digest

    @property
    def short(self) -> str:
        """The reference with the digest cut, for messages."""
        tag = f":{self.reference.tag}" if self.reference.tag is not None else ""
        return f"{self.reference.name}{tag}@{short_digest(self.digest)}"


@dataclass(frozen=True, slots=True)
class ImageList:
    """What images.yaml says: the good entries, and one line for each fault in the others."""

    images: tuple[PinnedImage, ...]
    faults: tuple[str, ...] = ()


class _Entry(Section):
    image: StrictStr
    source: StrictStr | None = Field(default=None, alias="from")
    referrers: bool | None = None


class _File(Section):
    images: list[Any]


def load_images(path: Path) -> ImageList:
    """Read images.yaml. Raises UserError (exit code 2) only for a file that cannot be understood as a whole."""
    document = load_yaml(path, created_by="checkvalve-sender init")
    faults = [document.fault((key,), unknown_key(key, _File)) for key in document.data if key != "images"]
    if "images" not in document.data:
        raise UserError("\n".join([*faults, document.fault((), "images: is missing; add this key")]), exit_code=2)
    entries = document.data["images"] or []
    if not isinstance(entries, list):
        text = f"{str(entries)[:80]!r} is not a list; start each item with '- '"
        raise UserError("\n".join([*faults, document.fault(("images",), text)]), exit_code=EXIT_USAGE)
    found: list[PinnedImage] = []
    for number, entry in enumerate(entries):
        image = _read_entry(document, number, entry, faults)
        if image is not None:
            found.append(image)
    good = tuple(_without_conflicts(document, found, faults))
    return ImageList(good, tuple(faults))


def parse_origin(text: str, folder: Path) -> Origin:
    """Return what ``from`` names, relative to *folder*; ValueError says what would be right."""
    kind, colon, rest = text.partition(":")
    if not colon or kind not in ("oci", "archive") or not rest or "\0" in rest:
        raise ValueError(f"{text!r} is not a source; {_ORIGINS}")
    path = folder / Path(rest).expanduser()
    if not path.exists():
        raise ValueError(f"{text!r}: no such {'folder' if kind == 'oci' else 'file'}: {path}; {_ORIGINS}")
    if kind == "oci":
        if not (path / "index.json").is_file():
            raise ValueError(f"{text!r}: no index.json in {path}, so it is no OCI image layout; {_ORIGINS}")
        return Origin("oci", path)
    if not path.is_file():
        raise ValueError(f"{text!r}: {path} is a folder; {_ORIGINS}")
    return Origin("archive", path)


def _read_entry(document: Document, number: int, entry: object, faults: list[str]) -> PinnedImage | None:
    """Return the entry, or None after adding its faults."""
    here: tuple[str | int, ...] = ("images", number)
    where = here
    if isinstance(entry, dict):
        try:
            checked = _Entry.model_validate(entry)
        except ValidationError as error:
            for fault in error.errors(include_url=False):
                fault["loc"] = (*here, *fault["loc"])
                faults.append(describe_fault(document, _Entry, fault, {}))
            return None
        where = (*here, "image")
    elif isinstance(entry, str):
        checked = _Entry.model_validate({"image": entry})
    else:
        shown = "nothing" if entry is None else repr(entry)[:80]
        faults.append(document.fault(here, f"{shown} is no image; give e.g. docker.io/library/nginx:1.27@sha256:…"))
        return None
    before = len(faults)
    reference = _reference(document, where, checked.image, faults)
    origin = Origin("registry")
    if checked.source is not None:
        try:
            origin = parse_origin(checked.source, document.folder)
        except ValueError as error:
            faults.append(document.fault((*here, "from"), str(error)))
    if reference is None or len(faults) > before:
        return None
    return PinnedImage(reference, origin, checked.referrers, document.line(here))


def _reference(document: Document, where: tuple[str | int, ...], text: str, faults: list[str]) -> Reference | None:
    try:
        reference = parse_reference(text)
    except ReferenceError_ as error:
        faults.append(document.fault(where, str(error)))
        return None
    if reference.digest is None:
        asked = text if reference.tag is not None else f"{text}:TAG"
        faults.append(
            document.fault(
                where, f"{text!r} has no digest; `checkvalve-sender pin {asked}` prints the line with its digest"
            )
        )
        return None
    return reference


def _without_conflicts(document: Document, images: list[PinnedImage], faults: list[str]) -> Iterator[PinnedImage]:
    """Yield what is neither a repetition nor a tag with two digests; which of those is meant nobody can tell."""
    holders: dict[tuple[str, str], list[PinnedImage]] = {}
    seen: dict[Reference, int] = {}
    kept: list[PinnedImage] = []
    for image in images:
        reference = image.reference
        if reference in seen:
            faults.append(
                f"{document.path}:{image.line}: '{image.short}' is here twice, first in line {seen[reference]}; "
                "keep one"
            )
            continue
        seen[reference] = image.line
        kept.append(image)
        if reference.tag is not None:
            holders.setdefault((reference.name, reference.tag), []).append(image)
    for image in kept:
        same = holders.get((image.reference.name, image.reference.tag or ""), [])
        if len(same) <= 1:
            yield image
        elif image is same[0]:
            pins = ", ".join(f"{short_digest(one.digest)} in line {one.line}" for one in same)
            faults.append(
                f"{document.path}:{image.line}: tag '{image.reference.name}:{image.reference.tag}' is pinned to "
                f"{len(same)} digests ({pins}); keep one"
            )
