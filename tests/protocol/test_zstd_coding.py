"""WIRE_FORMAT.md §4.2: what is compressed comes back, what is damaged or too big does not."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from random import Random

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from protocol.coding import compress, decompress, pays
from protocol.drops import Drop
from protocol.errors import WireError
from protocol.limits import ZSTD_WINDOW_BYTES_MAX
from tests.protocol.harness import outcome


def cut(data: bytes, step: int) -> Iterator[bytes]:
    return (data[at : at + step] for at in range(0, len(data), step))


@given(st.binary(max_size=5_000), st.integers(1, 3_000), st.integers(1, 3_000))
def test_round_trip_however_it_is_cut(content: bytes, step: int, other: int) -> None:
    coded = b"".join(compress(cut(content, step), len(content)))
    assert b"".join(decompress(cut(coded, other), len(content))) == content


def test_empty_chunks_do_not_end_the_content() -> None:
    coded = b"".join(compress([b"", b"content" * 99, b""], 693))
    assert b"".join(decompress([b"", coded[:9], b"", coded[9:], b""], 693)) == b"content" * 99


def test_frames_name_their_size_and_keep_within_the_window() -> None:
    content = Random(1).randbytes(1 << 20) * 12
    coded = b"".join(compress(cut(content, 1 << 16), len(content)))
    parameters = zstandard.get_frame_parameters(coded)
    assert parameters.window_size <= ZSTD_WINDOW_BYTES_MAX
    assert parameters.content_size == len(content)
    assert parameters.has_checksum
    assert sum(len(piece) for piece in decompress(cut(coded, 1 << 16), len(content))) == len(content)


@pytest.mark.parametrize("declared", [0, 1 << 20])
def test_a_bomb_is_refused_in_bounded_memory(declared: int) -> None:
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(1 << 28))
    assert len(bomb) < 20_000

    def explode() -> int:
        return sum(len(piece) for piece in decompress([bomb], declared))

    tracemalloc.start()
    assert outcome(explode)[1] is Drop.DECOMPRESSION_OVERRUN
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 << 20


def test_nothing_past_the_declared_size_is_yielded() -> None:
    coded = zstandard.ZstdCompressor().compress(b"x" * 100)
    pieces: list[bytes] = []
    with pytest.raises(WireError, match="more than the declared"):
        pieces.extend(decompress([coded], 99))
    assert sum(map(len, pieces)) <= 99


@given(st.integers(0, 999))
def test_a_truncated_frame_is_refused(at: int) -> None:
    content = Random(2).randbytes(2_000)
    coded = zstandard.ZstdCompressor().compress(content)
    cut_off = coded[: len(coded) * at // 1_000]
    assert outcome(lambda: b"".join(decompress([cut_off], 2_000)))[1] is Drop.DECOMPRESSION_FAILED


@given(st.binary(min_size=1, max_size=300))
def test_garbage_is_refused(garbage: bytes) -> None:
    expected = (Drop.DECOMPRESSION_FAILED, Drop.DECOMPRESSION_OVERRUN)
    assert outcome(lambda: b"".join(decompress([garbage], 1_000)))[1] in expected
    frame = zstandard.ZstdCompressor().compress(b"x" * 1_000)
    flipped = bytearray(frame)
    flipped[garbage[0] % len(frame)] ^= 1 << garbage[-1] % 8
    result, drop = outcome(lambda: b"".join(decompress([bytes(flipped)], 1_000)))
    assert drop in expected or (result is not None and len(result) == 1_000)


def test_bytes_after_the_frame_are_refused() -> None:
    frame = zstandard.ZstdCompressor().compress(b"x" * 100)
    assert outcome(lambda: b"".join(decompress([frame, b"more"], 100)))[1] is Drop.DECOMPRESSION_FAILED
    assert outcome(lambda: b"".join(decompress([frame + frame], 100)))[1] is Drop.DECOMPRESSION_OVERRUN


def test_a_larger_window_than_allowed_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=24, compression_level=3)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    content = Random(3).randbytes(1 << 20) * 20
    coded = compressor.compress(content) + compressor.flush()
    assert outcome(lambda: sum(map(len, decompress([coded], len(content)))))[1] is Drop.DECOMPRESSION_FAILED


def test_the_probe_tells_text_from_noise() -> None:
    assert pays([b"the same words again " * 500])
    assert not pays([Random(4).randbytes(10_000)])
    assert not pays([])
