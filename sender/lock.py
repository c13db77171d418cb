"""images.lock: what images.yaml came to, one root a line, sorted; from it alone a release comes out the same again.

JSON Lines: a header, then an object for each image. Fetch writes it when the desired state has changed, people read
its differences, and edit it to pin by hand. A line that cannot be right is named and holds its image where it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from pydantic import Field, StrictBool, StrictInt, StrictStr, ValidationError

from oci.closure import Recorded
from oci.descriptor import check_digest
from oci.errors import ReferenceError_
from oci.reference import is_tag, parse_reference
from protocol.release import ReleaseImage, images_document
from runtime.durable import write_durably
from runtime.errors import EXIT_USAGE, UserError
from runtime.faults import unknown_key
from runtime.settings import Section
from sender.images import PinnedImage, Slot

FORMAT: Final = 1
FILE_BYTES_MAX: Final = 256 * 2**20
_HEADER: Final = "checkvalve-lock"
_MEND: Final = "mend the line, or delete it to have it resolved again"


class LockEntry(Section):
    """One line: an image at one digest, and what its closure was."""

    image: StrictStr  # where it is read: name and tag
    digest: StrictStr
    size: StrictInt = Field(ge=0)
    media_type: StrictStr = Field(alias="mediaType")
    platforms: tuple[StrictStr, ...] = ()  # that it has, for people
    rule: StrictStr
    resolved: datetime
    collection: StrictStr
    target: StrictStr | None = Field(default=None, alias="as")  # its name in the release, if another
    origin: StrictStr | None = Field(default=None, alias="from")
    only: tuple[StrictStr, ...] = ()  # the platforms asked for; none: all
    sparse: StrictBool = False  # whether its index names images that do not travel
    types: tuple[StrictStr, ...] | None = None  # of referrers asked for; None: all
    foreign: StrictBool = False  # whether foreign layers travel
    referrers: tuple[StrictStr, ...] = ()
    tagged: dict[str, StrictStr] = Field(default_factory=dict)
    signers: tuple[StrictStr, ...] = ()  # verified where the policy asks for it, else as signatures claim
    closure: StrictStr

    @property
    def slot(self) -> Slot:
        """What the line decides."""
        reference = parse_reference(self.image)
        tag = reference.tag if reference.tag is not None else f"@{self.digest}"
        return (self.collection, self.target or reference.name, tag)

    @property
    def recorded(self) -> Recorded:
        """What referred to the image when it was resolved."""
        return Recorded(self.referrers, tuple(self.tagged.items()))

    def line(self) -> str:
        """Return the line, without its end; equal entries have equal lines."""
        document = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        return json.dumps(document, ensure_ascii=True, separators=(", ", ": "))


@dataclass(frozen=True, slots=True)
class Lock:
    """The good lines, what is wrong with the others, and which slots those decide."""

    entries: Mapping[Slot, LockEntry] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    held: Mapping[Slot, str] = field(default_factory=dict)  # slot -> its fault
    numbers: Mapping[Slot, int] = field(default_factory=dict)  # of the lines in their file


@dataclass(frozen=True, slots=True)
class Archived:
    """The header of an archived lock: what else is in the payload of the release that it made."""

    collection: str
    sequence: int
    previous: str | None
    created: str
    release: str  # digest of the payload


def lock_text(entries: Iterable[LockEntry], archived: Archived | None = None) -> str:
    """Return the file's text; of equal entries always the same."""
    header: dict[str, object] = {_HEADER: FORMAT}
    if archived is not None:
        header |= {
            "collection": archived.collection,
            "sequence": archived.sequence,
            "previous": archived.previous,
            "created": archived.created,
            "release": archived.release,
        }
    lines = [json.dumps(header, separators=(", ", ": "))]
    lines += [entry.line() for entry in sorted(entries, key=lambda entry: (entry.slot, entry.digest))]
    return "\n".join(lines) + "\n"


def lock_lines(entries: Iterable[LockEntry]) -> str:
    """Return the lines of *entries* without a header, as the journal keeps them; read_lines reads them."""
    return lock_text(entries).partition("\n")[2]


def read_lines(text: str) -> dict[Slot, LockEntry]:
    """Return the entries that the journal keeps as *text*."""
    return dict(read_lock((lock_text([]) + text).encode(), "journal")[0].entries)


def write_lock(path: Path, text: str) -> None:
    """Put *text* at *path*, durably; OSError."""
    write_durably(path, text.encode())


def load_lock(path: Path) -> Lock:
    """Read images.lock; no file is an empty lock. UserError for a file that is no lock at all."""
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return Lock()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}", exit_code=EXIT_USAGE) from None
    if len(raw) > FILE_BYTES_MAX:
        raise UserError(f"{path}: larger than {FILE_BYTES_MAX} bytes; this is no lock", exit_code=EXIT_USAGE)
    return read_lock(raw, str(path))[0]


def read_lock(raw: bytes, name: str) -> tuple[Lock, Archived | None]:
    """Return what the bytes of a lock say, with the header of an archived one; UserError if they are no lock."""
    try:
        lines = raw.decode("utf-8").splitlines()
        header = json.loads(lines[0]) if lines else {}
        version = header.get(_HEADER)
    except (ValueError, AttributeError, RecursionError):
        version = None
    if version != FORMAT:
        raise UserError(
            f"{name}:1: is not '{{\"{_HEADER}\": {FORMAT}}}'; delete the file to have everything resolved again",
            exit_code=EXIT_USAGE,
        )
    faults: list[str] = []
    held: dict[Slot, str] = {}
    found: dict[Slot, tuple[int, LockEntry]] = {}
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        try:
            entry = _entry(line)
        except _BadLine as bad:
            fault = f"{name}:{number}: {bad}; {_MEND}"
            faults.append(fault)
            if bad.slot is not None:
                held[bad.slot] = fault
            continue
        before = found.setdefault(entry.slot, (number, entry))
        if before[0] != number:
            fault = f"{name}:{number}: {entry.image} is in line {before[0]} already; keep one"
            faults.append(fault)
            held[entry.slot] = fault
    good = {slot: entry for slot, (_, entry) in found.items() if slot not in held}
    numbers = {slot: number for slot, (number, _) in found.items()}
    return Lock(good, tuple(faults), held, numbers), _archived(header)


def closure_digest(image: ReleaseImage) -> str:
    """Return the digest by which a lock knows the closure of *image*: all but its name and tags."""
    return "sha256:" + hashlib.sha256(_canonical(replace(image, name="x/x", tags=()))).hexdigest()


def _canonical(image: ReleaseImage) -> bytes:
    return json.dumps(images_document([image])[0], ensure_ascii=True, separators=(",", ":"), sort_keys=True).encode()


class _BadLine(ValueError):
    def __init__(self, text: str, slot: Slot | None = None) -> None:
        super().__init__(text)
        self.slot = slot


def _entry(line: str) -> LockEntry:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _BadLine(f"not JSON: {error}") from None
    if not isinstance(document, dict):
        raise _BadLine("is not an object")
    slot = _slot_of(document)
    try:
        entry = LockEntry.model_validate_json(line)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        key = ".".join(map(str, fault["loc"]))
        said = unknown_key(key, LockEntry) if fault["type"] == "extra_forbidden" else fault["msg"]
        raise _BadLine(f"{key}: {said[:1].lower()}{said[1:]}", slot) from None
    try:
        reference = parse_reference(entry.image)
        for digest in (entry.digest, entry.closure, *entry.referrers, *entry.tagged.values()):
            check_digest(digest)
        if entry.target is not None and parse_reference(entry.target).name != entry.target:
            raise ReferenceError_(f"as: {entry.target!r} is not a whole name")
    except ReferenceError_ as error:
        raise _BadLine(str(error), slot) from None
    if reference.digest is not None or str(reference) != entry.image:
        raise _BadLine(f"image: {entry.image!r} is not name and tag, as {reference.name}:1.27 is", slot)
    bad = next((tag for tag in entry.tagged if not is_tag(tag)), None)
    if bad is not None:
        raise _BadLine(f"tagged: {bad!r} is not a tag", slot)
    return entry


def _slot_of(document: dict[str, Any]) -> Slot | None:
    """Return what a bad line would have decided, as far as it lets one know."""
    try:
        reference = parse_reference(document["image"])
        tag = reference.tag if reference.tag is not None else f"@{document['digest']}"
        return (str(document["collection"]), str(document.get("as") or reference.name), tag)
    except (KeyError, TypeError, AttributeError, ReferenceError_):
        return None


def _archived(header: dict[str, Any]) -> Archived | None:
    try:
        return Archived(
            str(header["collection"]),
            int(header["sequence"]),
            header["previous"],
            str(header["created"]),
            str(header["release"]),
        )
    except (KeyError, TypeError, ValueError):
        return None


def mismatch(entry: LockEntry, image: ReleaseImage) -> str | None:
    """Return what *entry* says of its image that is not so; None if all is."""
    said = {"size": entry.size, "mediaType": entry.media_type, "closure": entry.closure}
    found = {"size": image.root.size, "mediaType": image.root.media_type, "closure": closure_digest(image)}
    name = next((name for name in said if said[name] != found[name]), None)
    return None if name is None else f"{name} is {said[name]}; the image has {found[name]}"


def lock_entry(
    pin: PinnedImage,
    image: ReleaseImage,
    platforms: Sequence[str],
    *,
    types: tuple[str, ...] | None,
    foreign: bool,
    resolved: datetime,
    signers: tuple[str, ...] = (),
) -> LockEntry:
    """Return the line for *pin*, whose closure is *image*."""
    origin = None if pin.origin.kind == "registry" else str(pin.origin)
    return LockEntry(
        image=pin.label,
        digest=pin.digest,
        size=image.root.size,
        mediaType=image.root.media_type,
        platforms=tuple(platforms),
        rule=pin.rule,
        resolved=resolved,
        collection=pin.options.collection,
        **{"as": pin.options.target or None, "from": origin},
        only=pin.options.platforms,
        sparse=bool(image.absent),
        types=types,
        foreign=foreign,
        referrers=tuple(content.digest for content in image.referrers),
        tagged=dict(image.extra_tags),
        signers=signers,
        closure=closure_digest(image),
    )
