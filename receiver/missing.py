"""``missing``: what the newest releases need and is not here, as a table, as JSON, or as a repair code.

A person carries the code to the sender, which sends just that (repair_code.py in protocol/). Reads the journal and
the spool; needs no role to be running, and changes nothing.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from protocol.errors import WireError
from protocol.release import Release, parse_payload
from protocol.repair_code import (
    CODED_BITS,
    RELEASE_BITS,
    Pieces,
    Ranges,
    Section,
    encode,
    first_bits,
    joined,
)
from protocol.repair_text import VALUES_MAX, BadRepairCode, grouped
from receiver.config import ReceiverSettings
from receiver.cuts import cut_of
from receiver.journal import ReceiverJournal
from receiver.senders import trust
from receiver.survey import CollectionView, PartialObject, Survey
from runtime.errors import EXIT_USAGE, UserError
from runtime.terminal import human_bytes, is_tty, print_json, table

CHARACTERS: Final = 300  # of a code, unless asked otherwise: six lines, and a QR code that fits a terminal
CHARACTERS_MIN: Final = 60
CODES_MAX: Final = 1_000
_NOTHING_HEARD: Final = "no release received or heard of yet, so what is missing is not known"


def missing(settings: ReceiverSettings, *, as_json: bool) -> int:
    """Print every content of the newest releases that is not here; return 1 if there is any or no release, else 0."""
    with closing(ReceiverJournal(settings.journal, read_only=True)) as journal:
        survey = Survey(journal, settings.spool, trust(settings))
        collections = survey.collections()
        found = _missing(collections, {item.digest: item for item in survey.partials()})
    if as_json:
        print_json({"missing": found})
    elif not collections:
        print(_NOTHING_HEARD)
    elif not found:
        print("nothing is missing")
    else:
        table(
            ("digest", "size", "byte ranges not here", "needed by"),
            [
                (
                    item["digest"],
                    "" if item["size"] is None else human_bytes(item["size"]),
                    _ranges_text(item),
                    ", ".join(item["needed_by"]),
                )
                for item in found
            ],
            right=("size",),
        )
    return 1 if found or not collections else 0


def _missing(collections: list[CollectionView], partly: dict[str, PartialObject]) -> list[dict[str, Any]]:
    """Return one entry per digest; a release that only beacons know is an entry as well, of unknown size."""
    found: dict[str, dict[str, Any]] = {}

    def need(digest: str, size: int | None, by: str) -> None:
        entry = found.get(digest)
        if entry is None:
            partial = partly.get(digest)
            entry = found[digest] = {"digest": digest, "size": size, "needed_by": [], "coded": None}
            if partial is not None:
                entry["coded"] = {
                    "digest": partial.coded_digest,
                    "size": partial.coded_size,
                    "missing": [list(pair) for pair in partial.missing],
                }
        entry["needed_by"].append(by)

    for view in collections:
        if view.gap and view.heard_digest is not None:
            need(view.heard_digest, None, f"release {view.collection} {view.heard_sequence}")
        for image in view.images:
            for content in image.missing:
                need(content.digest, content.size, image.title)
    return list(found.values())


def _ranges_text(item: dict[str, Any]) -> str:
    if item["coded"] is None:
        return "all"
    ranges = [f"{start}-{end - 1}" for start, end in item["coded"]["missing"]]
    shown = ", ".join(ranges[:4]) + (f" and {len(ranges) - 4} more" if len(ranges) > 4 else "")
    return f"{shown} of {item['coded']['size']}"


# --- the repair code -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that is lacking: a release, a content, or blocks of one."""

    sequence: int
    digest: int  # as Section has it
    content: int | None = None  # its place in the release; None: the release itself
    symbol_bytes: int = 1
    pieces: Pieces | None = None  # None: all of it


@dataclass(frozen=True, slots=True)
class Code:
    """A code and how many parts it names."""

    text: str
    parts: int


def lacking(
    journal: ReceiverJournal, collections: Iterable[CollectionView], partials: Iterable[PartialObject]
) -> list[Part]:
    """Return what is lacking, the most useful first: releases, then the images of which least is lacking."""
    partly = {item.digest: item for item in partials}
    releases: list[Part] = []
    contents: list[tuple[int, list[Part]]] = []
    for view in collections:
        if view.gap and view.heard_digest is not None and view.heard_sequence is not None:
            releases.append(Part(view.heard_sequence, first_bits(view.heard_digest, RELEASE_BITS)))
        if view.sequence is None or view.digest is None or not view.images:
            continue
        place = {digest: at for at, digest in enumerate(_release(journal, view).contents())}
        known = view.sequence, first_bits(view.digest, RELEASE_BITS)
        for image in view.images:
            parts = [
                _part(journal, known, place[content.digest], partly.get(content.digest)) for content in image.missing
            ]
            contents.append((image.missing_bytes, parts))
    contents.sort(key=lambda pair: pair[0])
    return list(dict.fromkeys([*releases, *(part for _, parts in contents for part in parts)]))


def codes(parts: Sequence[Part], characters: int, most: int = CODES_MAX) -> list[Code]:
    """Return codes of at most *characters* each that name all of *parts* in their order, *most* of them at most.

    Each code stands by itself. A content of which so many blocks are lacking that they do not fit is divided.
    """
    found: list[Code] = []
    todo = list(parts)
    while todo and len(found) < most:
        fits = len(todo)
        if not _fits(todo, characters):
            fits = bisect_left(range(1, fits + 1), True, key=lambda count: not _fits(todo[:count], characters))
        if fits == 0:
            head, rest = _divided(todo[0], characters)
            todo[:1] = [head, rest]
            fits = 1
        found.append(Code(encode(_sections(todo[:fits])), fits))
        del todo[:fits]
    return found


def _release(journal: ReceiverJournal, view: CollectionView) -> Release:
    """Return the release of a view: its envelope was verified before it came into the journal."""
    assert view.sequence is not None
    row = journal.release(view.collection, view.sequence)
    assert row is not None
    size = int.from_bytes(row.envelope[4:8], "little")
    try:
        return parse_payload(row.envelope[8 : 8 + size])
    except WireError as error:
        raise UserError(f"release {view.collection} {view.sequence} in the journal: {error}") from None


def _part(journal: ReceiverJournal, known: tuple[int, int], place: int, partial: PartialObject | None) -> Part:
    if partial is None or not partial.done or not partial.missing:
        return Part(*known, place)
    cut = cut_of(journal, partial.coded_digest, partial.coded_size)
    blocks = cut.blocks_of(partial.missing)
    pieces = Pieces(place, first_bits(partial.coded_digest, CODED_BITS), cut.blocks, blocks)
    return Part(*known, place, cut.symbol_bytes, pieces)


def _sections(parts: Sequence[Part]) -> list[Section]:
    """Put parts together: one section for each release and symbol size."""
    pieces: dict[tuple[int, int, int], list[Pieces]] = {}
    whole: dict[tuple[int, int], list[int]] = {}
    itself: set[tuple[int, int]] = set()
    for part in parts:
        known = part.sequence, part.digest
        whole.setdefault(known, [])
        if part.pieces is not None:
            pieces.setdefault((*known, part.symbol_bytes), []).append(part.pieces)
        elif part.content is not None:
            whole[known].append(part.content)
        else:
            itself.add(known)
    sections = []
    for known, contents in whole.items():
        sizes = [size for sequence, digest, size in pieces if (sequence, digest) == known] or [1]
        first = True
        for size in sizes:
            section = Section(
                *known,
                release=first and known in itself,
                whole=joined((at, at + 1) for at in sorted(contents)) if first else (),
                symbol_bytes=size,
                pieces=tuple(sorted(pieces.get((*known, size), []), key=lambda piece: piece.content)),
            )
            sections.append(section)
            first = False
    return sections


def _fits(parts: Sequence[Part], characters: int) -> bool:
    try:
        return len(encode(_sections(parts))) <= characters
    except BadRepairCode:  # longer than any code
        return False


def _divided(part: Part, characters: int) -> tuple[Part, Part]:
    """Return the part with as many of its blocks as fit, and the part with the others."""
    assert part.pieces is not None
    ranges = part.pieces.missing
    fits = bisect_left(
        range(1, len(ranges) + 1), True, key=lambda count: not _fits([_with(part, ranges[:count])], characters)
    )
    return _with(part, ranges[: max(1, fits)]), _with(part, ranges[max(1, fits) :])


def _with(part: Part, missing: Ranges) -> Part:
    assert part.pieces is not None
    pieces = Pieces(part.pieces.content, part.pieces.coded, part.pieces.blocks, missing)
    return Part(part.sequence, part.digest, part.content, part.symbol_bytes, pieces)


# --- the command ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Output:
    """How ``missing --code`` gives its codes."""

    characters: int = CHARACTERS
    every: bool = False  # all codes, not only the first
    png: Path | None = None
    svg: Path | None = None


def print_code(settings: ReceiverSettings, output: Output, *, as_json: bool) -> int:
    """Print the repair code for what is missing; return 1 if anything is or no release is known, else 0."""
    if not CHARACTERS_MIN <= output.characters <= VALUES_MAX:
        raise UserError(
            f"--characters: {output.characters}; give {CHARACTERS_MIN} to {VALUES_MAX}", exit_code=EXIT_USAGE
        )
    with closing(ReceiverJournal(settings.journal, read_only=True)) as journal:
        survey = Survey(journal, settings.spool, trust(settings))
        collections = survey.collections()
        parts = lacking(journal, collections, survey.partials())
    made = codes(parts, output.characters, CODES_MAX if output.every else 1)
    written = list(_pictures(made, output))
    if as_json:
        print_json(
            {
                "codes": [{"code": code.text, "lines": grouped(code.text), "parts": code.parts} for code in made],
                "parts": len(parts),
                "files": written,
            }
        )
    elif not collections:
        print(_NOTHING_HEARD)
    elif not parts:
        print("nothing is missing")
    else:
        _print_codes(made, len(parts), written, drawn=not written)
    return 1 if parts or not collections else 0


def _print_codes(made: list[Code], parts: int, written: list[Path], *, drawn: bool) -> None:
    for number, code in enumerate(made, 1):
        if len(made) > 1:
            print(f"code {number} of {len(made)}")
        print("\n".join(grouped(code.text)))
        if drawn and is_tty(sys.stdout):
            print()
            _qr(code.text).terminal(compact=True, border=2)
        print()
    named = sum(code.parts for code in made)
    print(f"{named} of {parts} missing parts; on the other side: checkvalve-sender repair CODE")
    if named < parts:
        print("one code does not hold more: this is what helps most; ask again afterwards, or give --all")
    for path in written:
        print(f"wrote {path}")


def _pictures(made: list[Code], output: Output) -> Iterator[Path]:
    """Write the QR codes; the second and later ones are numbered. Yields the files."""
    for number, code in enumerate(made, 1):
        for path, scale in ((output.png, 6), (output.svg, 4)):
            if path is None:
                continue
            named = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
            try:
                _qr(code.text).save(str(named), kind="png" if path is output.png else "svg", scale=scale)
            except OSError as error:
                raise UserError(f"{named}: cannot be written: {error.strerror}") from None
            yield named


def _qr(text: str) -> Any:
    """The QR code of a code's characters, all of which its alphanumeric mode has."""
    import segno

    try:
        return segno.make_qr(text, error="m", boost_error=True)
    except segno.DataOverflowError:
        raise UserError(
            f"--characters: a QR code does not hold {len(text)} characters; give 3000 or less", exit_code=EXIT_USAGE
        ) from None
