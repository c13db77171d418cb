"""The repair code as the receiver makes it: what it names, in which order, and how it is cut to length."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from protocol.geometry import Geometry
from protocol.objects import Coding, Kind, ObjectEntry
from protocol.repair_code import CODED_BITS, RELEASE_BITS, Pieces, Ranges, decode, first_bits
from receiver.cuts import cut_of, note_cut
from receiver.missing import Part, codes
from receiver.partials import partial_of
from tests.oci_layout.images import Image, single_image
from tests.receiver.site import Cli, Site, hear, release_image

NAME = "docker.io/library/nginx"
CODED = "sha256:" + "c0de" * 16
SIZE = 40_000_000
SYMBOL = 1_424


def lay(site: Site, digest: str, missing: list[int], geometry: Geometry) -> None:
    """Have all blocks of an object but the missing ones on disk."""
    entry = ObjectEntry(1, Kind.BLOB, Coding.ZSTD, digest, SIZE, CODED, geometry)
    site.journal.open_partial(partial_of(entry), time.time())
    note_cut(site.journal, entry)
    here = [geometry.block(sbn) for sbn in range(geometry.blocks) if sbn not in missing]
    site.journal.save_ranges([(CODED, [(shape.offset, shape.offset + shape.size) for shape in here])], time.time())


@pytest.fixture
def image(site: Site) -> Image:
    site.configure("{layout: published}")
    return single_image()


def place_of(site: Site, image: Image, digest: str) -> int:
    released = release_image(NAME, ["1.27"], image)
    return [each.digest for each in (released.root, *released.closure, *released.referrers)].index(digest)


def test_the_code_names_whole_contents_and_blocks_by_the_release(site: Site, cli: Cli, image: Image) -> None:
    absent, partly = (descriptor.digest for descriptor, _ in list(image.blobs.values())[:2])
    site.fill(image, without=[absent, partly])
    released = site.release(release_image(NAME, ["1.27"], image))
    geometry = Geometry(SIZE, SYMBOL, 200, 20, 16)
    lay(site, partly, [1, 4, 5], geometry)
    code, out, err = cli("missing", "--code", "--json", "--config", site.config)
    assert (code, err) == (1, "")
    document = json.loads(out)
    assert (document["parts"], document["codes"][0]["parts"]) == (2, 2)
    (section,), _ = decode("\n".join(document["codes"][0]["lines"]))
    first = place_of(site, image, absent)
    assert (section.sequence, section.digest) == (1, first_bits(released, RELEASE_BITS))
    assert (section.release, section.whole, section.symbol_bytes) == (False, ((first, first + 1),), SYMBOL)
    assert section.pieces == (
        Pieces(place_of(site, image, partly), first_bits(CODED, CODED_BITS), geometry.blocks, ((1, 2), (4, 6))),
    )
    code, out, _ = cli("missing", "--code", "--config", site.config)
    assert code == 1
    assert out.splitlines()[0] == document["codes"][0]["lines"][0]
    assert "2 of 2 missing parts; on the other side: checkvalve-sender repair CODE" in out


def test_a_release_that_was_only_heard_of_goes_first(site: Site, cli: Cli, image: Image) -> None:
    site.fill(image, without=[image.root.descriptor.digest])
    site.release(release_image(NAME, ["1.27"], image))
    heard = "sha256:" + "3" * 64
    hear(site.journal, "default", 3, heard, time.time())
    hear(site.journal, "other", 9, heard, time.time())
    _, out, _ = cli("missing", "--code", "--json", "--config", site.config)
    sections, _ = decode(json.loads(out)["codes"][0]["code"])
    assert [(section.sequence, section.release) for section in sections] == [(3, True), (9, True), (1, False)]
    assert {section.digest for section in sections[:2]} == {first_bits(heard, RELEASE_BITS)}


def test_blocks_of_an_older_version_are_cut_by_our_own_measure(site: Site) -> None:
    cut = cut_of(site.journal, CODED, SIZE)
    assert (cut.size, cut.symbol_bytes) == (SIZE, 1)
    assert cut.sound
    assert cut_of(site.journal, CODED, 1).sound


def test_the_cut_goes_with_the_object_and_the_newest_counts(site: Site) -> None:
    lay(site, "sha256:" + "1" * 64, [0], Geometry(SIZE, SYMBOL, 200, 20, 16))
    lay(site, "sha256:" + "1" * 64, [0], Geometry(SIZE, 8_960, 200, 20, 4))
    assert cut_of(site.journal, CODED, SIZE).symbol_bytes == 8_960
    site.journal.close_partial(CODED)
    assert cut_of(site.journal, CODED, SIZE).symbol_bytes == 1


def scattered(blocks: int) -> Ranges:
    return tuple((at, at + 1) for at in range(0, blocks, 2))


def piece(content: int, missing: Ranges, blocks: int = 10_000) -> Part:
    return Part(5, 77, content, SYMBOL, Pieces(content, content, blocks, missing))


def test_codes_keep_the_order_and_leave_nothing_out() -> None:
    parts = [
        Part(6, 99),
        piece(700, ((3, 4),)),
        *(Part(5, 77, content) for content in range(0, 600, 3)),
        piece(800, scattered(3_000)),
        piece(900, ((3, 4),), 5_000),
    ]
    made = codes(parts, 120)
    assert len(made) > 3
    named: list[tuple[int, int]] = []  # (content, block or -1)
    for code in made:
        assert len(code.text) <= 120
        for section in decode(code.text)[0]:
            named += [(-1, -1)] if section.release else []
            named += [(content, -1) for start, end in section.whole for content in range(start, end)]
            for each in section.pieces:
                named += [(each.content, block) for start, end in each.missing for block in range(start, end)]
    wanted = [(-1, -1), (700, 3), (900, 3)]
    wanted += [(content, -1) for content in range(0, 600, 3)]
    wanted += [(800, block) for start, _ in scattered(3_000) for block in [start]]
    assert sorted(named) == sorted(wanted), "each once"
    first = decode(made[0].text)[0]
    assert any(section.release for section in first), "the most useful first"
    assert (700, 3) in [(each.content, each.missing[0][0]) for section in first for each in section.pieces]


def test_all_of_a_large_release_is_one_short_code() -> None:
    (code,) = codes([Part(5, 77, content) for content in range(100_000)], 60)
    assert code.parts == 100_000
    assert len(code.text) <= 50


def test_what_one_code_does_not_hold_is_said(site: Site, cli: Cli, image: Image) -> None:
    digests = [descriptor.digest for descriptor, _ in image.blobs.values()]
    site.fill(image, without=digests)
    site.release(release_image(NAME, ["1.27"], image))
    geometry = Geometry(SIZE, SYMBOL, 4, 1, 4)  # 1,756 blocks
    lay(site, digests[0], list(range(0, geometry.blocks, 2)), geometry)
    _, out, _ = cli("missing", "--code", "--characters", "100", "--config", site.config)
    assert "one code does not hold more: this is what helps most; ask again afterwards, or give --all" in out
    assert "code 1 of" not in out
    _, out, _ = cli("missing", "--code", "--all", "--characters", "100", "--json", "--config", site.config)
    made = json.loads(out)["codes"]
    assert len(made) > 2
    lacking = set()
    for code in made:
        for each in decode(code["code"])[0][0].pieces:
            lacking |= {block for start, end in each.missing for block in range(start, end)}
    assert lacking == set(range(0, geometry.blocks, 2))


def test_the_pictures_hold_the_code(site: Site, cli: Cli, image: Image, tmp_path: Path) -> None:
    site.fill(image, without=[next(iter(image.blobs.values()))[0].digest])
    site.release(release_image(NAME, ["1.27"], image))
    png, svg = tmp_path / "code.png", tmp_path / "code.svg"
    code, out, err = cli("missing", "--code", "--png", png, "--svg", svg, "--config", site.config)
    assert (code, err) == (1, "")
    assert f"wrote {png}\nwrote {svg}\n" in out
    assert png.read_bytes().startswith(b"\x89PNG\r\n")
    assert b"<svg" in svg.read_bytes()
    code, _, err = cli("missing", "--code", "--png", tmp_path / "none" / "code.png", "--config", site.config)
    assert (code, err) == (1, f"error: {tmp_path}/none/code.png: cannot be written: No such file or directory\n")


def test_mistakes_of_the_command_line(site: Site, cli: Cli) -> None:
    site.configure("{layout: published}")
    code, _, err = cli("missing", "--png", "x.png", "--config", site.config)
    assert (code, err) == (2, "error: --all, --png and --svg are about the repair code: give --code as well\n")
    code, _, err = cli("missing", "--code", "--characters", "5", "--config", site.config)
    assert (code, err) == (2, "error: --characters: 5; give 60 to 8000\n")
    code, out, _ = cli("missing", "--code", "--config", site.config)
    assert (code, out) == (1, "no release received or heard of yet, so what is missing is not known\n")
