"""The repair code: laws of its text and of what it says."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

import pytest
import reedsolo
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.fec import field
from protocol.geometry import checked
from protocol.repair_code import (
    CODED_BITS,
    RELEASE_BITS,
    Cut,
    Pieces,
    Ranges,
    Section,
    decode,
    encode,
    first_bits,
    refers_to,
)
from protocol.repair_text import ALPHABET, CHECKSUM, PARITY, BadRepairCode, grouped, read_text, write_text

DIGEST = "sha256:" + "9f86d081884c7d65" * 4


def ranges(most: int) -> st.SearchStrategy[Ranges]:
    """Ranges below *most*, apart from each other."""

    def built(edges: list[int]) -> Ranges:
        edges = sorted(edges)[: len(edges) // 2 * 2]
        return tuple(zip(edges[::2], edges[1::2], strict=True))

    return st.lists(st.integers(0, most), min_size=2, max_size=40, unique=True).map(built)


@st.composite
def pieces(draw: Any, content: int) -> Pieces:
    blocks = draw(st.integers(1, 2_000))
    return Pieces(content, draw(st.integers(0, 2**CODED_BITS - 1)), blocks, draw(ranges(blocks)))


@st.composite
def sections(draw: Any) -> Section:
    some = draw(st.lists(st.integers(0, 5_000), max_size=4, unique=True).map(sorted))
    return Section(
        sequence=draw(st.integers(0, 2**62)),
        digest=draw(st.integers(0, 2**RELEASE_BITS - 1)),
        release=draw(st.booleans()),
        whole=draw(st.one_of(st.just(()), ranges(2_000_000))),
        symbol_bytes=draw(st.sampled_from([1, 512, 1_424, 8_960])) if some else 1,
        pieces=tuple(draw(pieces(content)) for content in some),
    )


def blocks_of_a_layer(blocks: int, missing: list[int], *, content: int = 40, sequence: int = 120) -> Section:
    piece = Pieces(content, first_bits(DIGEST, CODED_BITS), blocks, tuple((at, at + 1) for at in missing))
    return Section(sequence, first_bits(DIGEST, RELEASE_BITS), symbol_bytes=1_424, pieces=(piece,))


def mistyped(text: str, places: list[int], rng: random.Random) -> str:
    letters = list(text)
    for at in places:
        letters[at] = rng.choice([letter for letter in ALPHABET if letter != letters[at]])
    return "".join(letters)


@given(st.lists(sections(), min_size=1, max_size=3))
def test_what_is_written_is_read(given: list[Section]) -> None:
    assert decode(encode(given)) == (tuple(given), 0)


@given(st.lists(st.integers(0, 1), min_size=1, max_size=2_000))
def test_bits_come_back_with_zeros_to_the_end_of_the_last_group(bits: list[int]) -> None:
    text = write_text(bits)
    found, mended = read_text(text)
    assert len(text) % 5 == 0
    assert mended == 0
    assert found[: len(bits)] == bits
    assert not any(found[len(bits) :])


@given(sections(), st.integers(0, 3), st.integers(0, 2**32))
def test_three_wrong_characters_are_mended_wherever_they_are(section: Section, wrong: int, seed: int) -> None:
    rng, text = random.Random(seed), encode([section])
    places = rng.sample(range(len(text)), wrong)
    assert decode(mistyped(text, places, rng)) == ((section,), wrong)


@given(sections(), st.integers(0, 6), st.integers(0, 2**32))
def test_six_unreadable_characters_are_mended(section: Section, lost: int, seed: int) -> None:
    rng, text = random.Random(seed), encode([section])
    letters = list(text)
    for at in rng.sample(range(len(text)), lost):
        letters[at] = rng.choice("?*é")
    found, mended = decode("".join(letters))
    assert (found, mended) == ((section,), lost)


@given(sections(), st.integers(4, 30), st.integers(0, 2**32))
@settings(max_examples=400)
def test_more_are_mended_right_or_refused_but_never_taken_for_something_else(
    section: Section, wrong: int, seed: int
) -> None:
    rng, text = random.Random(seed), encode([section])
    with suppress(BadRepairCode):
        found, mended = decode(mistyped(text, rng.sample(range(len(text)), min(wrong, len(text))), rng))
        assert (found, mended) == ((section,), min(wrong, len(text)))


def test_four_in_one_codeword_are_always_refused() -> None:
    text = encode([blocks_of_a_layer(80, [3])])
    count = -(-len(text) // 31)
    for seed in range(200):
        rng = random.Random(seed)
        places = rng.sample(range(seed % count, len(text), count), 4)
        with pytest.raises(BadRepairCode):
            decode(mistyped(text, places, rng))


@given(sections().filter(lambda section: len(encode([section])) <= 120), st.integers(0, 2**32), st.booleans())
@settings(max_examples=40)
def test_one_character_left_out_or_typed_twice_is_found_beside_another_wrong_one(
    section: Section, seed: int, doubled: bool
) -> None:
    rng, text = random.Random(seed), encode([section])
    at = rng.randrange(len(text))
    slipped = text[:at] + (text[at] * 2 if doubled else "") + text[at + 1 :]
    slipped = mistyped(slipped, [rng.choice([place for place in range(len(slipped)) if abs(place - at) > 3])], rng)
    found, mended = decode(slipped)
    assert (found, mended) == ((section,), 2)


@given(sections(), st.integers(0, 2**32))
def test_case_grouping_and_look_alikes_do_not_matter(section: Section, seed: int) -> None:
    rng, text = random.Random(seed), encode([section])
    alike = {"0": "0oO", "1": "1iIlL", "V": "VvuU"}
    letters = [rng.choice(alike.get(letter, letter + letter.lower())) for letter in text]
    for at in sorted(rng.sample(range(len(letters)), 5), reverse=True):
        letters.insert(at, rng.choice([" ", "-", "\n", "\t", "–", "_", "\u200b"]))
    assert decode("".join(letters)) == ((section,), 0)


@given(st.text(max_size=120))
@settings(max_examples=300)
def test_any_text_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(BadRepairCode) as caught:
        decode(text)
    assert str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.lists(st.integers(0, 1), min_size=1, max_size=300))
@settings(max_examples=300)
def test_any_bits_under_a_right_checksum_are_read_within_bounds_or_refused(bits: list[int]) -> None:
    try:
        found, _ = decode(write_text([0, 0, 1, *bits]))
    except BadRepairCode:
        return
    for section in found:
        assert len(section.pieces) <= len(bits)
        for piece in section.pieces:
            assert 0 <= piece.missing[0][0] < piece.missing[-1][1] <= piece.blocks


@pytest.mark.parametrize(
    ("section", "most"),
    [
        (blocks_of_a_layer(80, [3, 41, 77]), 60),  # 1 GB at 1 Gbit/s
        (blocks_of_a_layer(800, [3, 411, 777], content=500, sequence=4_000), 60),  # 10 GB, a large release, years
        (blocks_of_a_layer(80, [7]), 60),
        (Section(120, first_bits(DIGEST, RELEASE_BITS), whole=((12, 30),)), 60),  # all of an image
        (Section(120, first_bits(DIGEST, RELEASE_BITS), release=True), 60),
        (blocks_of_a_layer(80, list(range(0, 80, 2))), 72),  # half of 1 GB, scattered
    ],
)
def test_typical_codes_are_short(section: Section, most: int) -> None:
    lines = grouped(encode([section]))
    assert len("\n".join(lines)) <= most
    assert most > 60 or len(lines) == 1


def test_hard_cases_stay_bounded_by_a_bit_a_block() -> None:
    rng = random.Random(1)
    blocks = sorted(rng.sample(range(800), 400))
    section = blocks_of_a_layer(800, blocks)
    assert len(encode([section])) < (800 + 200) / 5 * 31 / 25 + 2 * (CHECKSUM + PARITY)


@given(
    size=st.integers(1, 50_000_000),
    symbol=st.sampled_from([512, 1_424, 8_960]),
    k=st.integers(1, 200),
    depth=st.integers(1, 44),
    seed=st.integers(0, 2**32),
)
def test_a_cut_is_the_geometrys(size: int, symbol: int, k: int, depth: int, seed: int) -> None:
    rng = random.Random(seed)
    if (k + 20) * depth * symbol > 16 << 20:
        depth = 1
    geometry = checked(size, symbol, k, 20, depth)
    cut = Cut(size, symbol, geometry.blocks)
    assert cut.sound
    for sbn in {0, geometry.blocks - 1, *(rng.randrange(geometry.blocks) for _ in range(5))}:
        shape = geometry.block(sbn)
        assert cut.start(sbn) == shape.offset
        assert cut.start(sbn + 1) == shape.offset + shape.size
        assert cut.block_at(shape.offset) == cut.block_at(shape.offset + shape.size - 1) == sbn
        assert cut.blocks_of([(shape.offset, shape.offset + shape.size)]) == ((sbn, sbn + 1),)
        assert cut.bytes_of(((sbn, sbn + 1),)) == ((shape.offset, shape.offset + shape.size),)


@given(st.integers(1, 10_000_000), st.data())
def test_bytes_survive_another_geometry(size: int, data: st.DataObject) -> None:
    """What the receiver lacks by its cut is within what the sender sends by its own."""
    cuts = [
        cut
        for cut in (Cut(size, symbol, blocks) for symbol in (1, 512, 1_424) for blocks in (1, 2, 7, 80))
        if cut.sound
    ]
    theirs, ours = data.draw(st.sampled_from(cuts)), data.draw(st.sampled_from(cuts))
    lacking = data.draw(ranges(size))
    sent = ours.bytes_of(ours.blocks_of(theirs.bytes_of(theirs.blocks_of(lacking))))
    assert all(any(start <= first and last <= end for start, end in sent) for first, last in lacking)


def test_a_reference_is_the_releases_sequence_and_digest() -> None:
    section = Section(7, first_bits(DIGEST, RELEASE_BITS))
    assert refers_to(section, 7, DIGEST)
    assert not refers_to(section, 8, DIGEST)
    assert not refers_to(section, 7, DIGEST.replace("9f86d08", "9f86d09"))


def test_the_erasure_code_keeps_its_field_beside_the_text_codes() -> None:
    """reedsolo computes in the field that was asked for last, in all of the process."""
    encode([blocks_of_a_layer(80, [3])])
    assert reedsolo.field_charac == 31
    assert field.multiply(2, 128) == 0x1D
    assert all(field.multiply(value, field.inverse(value)) == 1 for value in range(1, 256))
