"""zstandard on objects where a probe shows that it pays; bounded when it comes back (WIRE_FORMAT.md §4.2).

Works on streams of chunks so that no object is ever whole in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import IO, Final, cast

import zstandard

from protocol.drops import Drop
from protocol.errors import WireError
from protocol.limits import ZSTD_WINDOW_BYTES_MAX

LEVEL: Final = 3
PAYS_BELOW: Final = 0.95  # coded size over content size
_STEP_BYTES: Final = 64 * 1024  # input fed at once; the output of one step is bounded by the overrun check
_OUTPUT_BYTES: Final = 1024 * 1024


def pays(samples: Iterable[bytes]) -> bool:
    """Whether compressing is worth it, judged by samples from across the content."""
    before = after = 0
    compressor = zstandard.ZstdCompressor(level=1)
    for sample in samples:
        before += len(sample)
        after += len(compressor.compress(sample))
    return before > 0 and after < before * PAYS_BELOW


def compress(chunks: Iterable[bytes], content_size: int) -> Iterator[bytes]:
    """Yield the zstd frame (window at most 8 MiB, checksum, content size stated) of *chunks*."""
    parameters = zstandard.ZstdCompressionParameters.from_level(
        LEVEL, window_log=ZSTD_WINDOW_BYTES_MAX.bit_length() - 1, write_checksum=1
    )
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj(size=content_size)
    for chunk in chunks:
        coded = compressor.compress(chunk)
        if coded:
            yield coded
    yield compressor.flush()


def decompress(chunks: Iterable[bytes], content_size: int) -> Iterator[bytes]:
    """Yield the content of one zstd frame; WireError if it is damaged or longer or shorter than *content_size*.

    Memory: the frame's window (8 MiB at most) and about 1 MiB, whatever the frame claims.
    """
    decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES_MAX)
    produced = 0
    reader = decompressor.stream_reader(
        cast(IO[bytes], _Chunks(chunks)), read_size=_STEP_BYTES, read_across_frames=True
    )
    try:
        while piece := reader.read(_OUTPUT_BYTES):
            produced += len(piece)
            if produced > content_size:
                raise WireError(Drop.DECOMPRESSION_OVERRUN, f"more than the declared {content_size} bytes")
            yield piece
    except zstandard.ZstdError as error:
        raise WireError(Drop.DECOMPRESSION_FAILED, str(error)) from None
    if produced != content_size:
        raise WireError(Drop.DECOMPRESSION_FAILED, f"{produced} bytes of the declared {content_size}")


class _Chunks:
    """The ``read`` that stream_reader wants, over an iterable of chunks."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        while not self._rest:
            following = next(self._chunks, None)
            if following is None:
                return b""
            self._rest = following
        if size < 0:
            size = len(self._rest)
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece
