"""The code and the seal by themselves, on one core: Reed-Solomon encoding and recovery, AES-GCM per datagram.

Recovery at a loss rate: every symbol of many codewords is lost or not by a seeded coin; timed is what the receiver
does for each codeword (find the lost ones, restore them), counted are all source bytes, those without loss too.
"""

from __future__ import annotations

import os
import random
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.measure import MEGA, Spread, one_core, timed
from protocol import aead
from protocol.buffers import BlockBuffer
from protocol.fec import BACKENDS, ErasureCode, erasure_code
from protocol.order import WireOrder
from protocol.wire import BurstView, symbol_bytes

K: Final = 200
M: Final = 20
DATAGRAM_BYTES: Final = 1_472  # at MTU 1500: symbols of 1,424 bytes
DEPTH: Final = 42
_KEY: Final = bytes(range(32))
LOSSES: Final = (0.0, 0.005, 0.01, 0.02, 0.05)


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is done for each figure."""

    runs: int = 9
    codewords: int = 44  # 12.5 MB of source data
    blocks: int = 2  # sealed and opened


FULL: Final = Effort()
QUICK: Final = Effort(runs=5, codewords=22)
TINY: Final = Effort(runs=2, codewords=1, blocks=1)


def measure(effort: Effort) -> dict[str, Any]:
    """Return the figures of every implementation, throughput in MB/s of source data."""
    with one_core():
        return {
            "k": K,
            "m": M,
            "symbol_bytes": symbol_bytes(DATAGRAM_BYTES),
            "codewords_per_run": effort.codewords,
            "implementations": {name: _implementation(name, effort) for name in sorted(BACKENDS)},
            "aead": _aead(effort),
        }


def _implementation(name: str, effort: Effort) -> dict[str, Any]:
    code = erasure_code(K, M, name)
    size = symbol_bytes(DATAGRAM_BYTES)
    source = [os.urandom(K * size) for _ in range(effort.codewords)]
    blocks = [memoryview(bytearray(codeword)) for codeword in source]
    rooms = [memoryview(bytearray(M * size)) for _ in source]

    def encode_all() -> None:
        for block, room in zip(blocks, rooms, strict=True):
            code.encode_into(block, room)

    bytes_per_run = effort.codewords * K * size
    encode = [timed(encode_all) for _ in range(effort.runs)]
    repair = [[room[at : at + size] for at in range(0, len(room), size)] for room in rooms]
    return {
        "encode_mb_s": Spread.of([bytes_per_run / seconds / MEGA for seconds in encode]).as_json(),
        "recover": [_recover(code, source, repair, loss, effort.runs) for loss in LOSSES],
    }


def _recover(
    code: ErasureCode, source: list[bytes], repair: list[list[memoryview]], loss: float, runs: int
) -> dict[str, Any]:
    """Time recovery at *loss*; every run loses other symbols, so that no run profits from the one before."""
    size = symbol_bytes(DATAGRAM_BYTES)
    throughputs: list[float] = []
    beyond = restored = 0
    for run in range(runs):
        coin = random.Random(f"{loss} {run}")
        work = []
        for codeword, symbols in zip(source, repair, strict=True):
            received = bytes(coin.random() >= loss for _ in range(K + M))
            kept = {i: symbols[i] for i in range(M) if received[K + i]}
            damaged = bytearray(codeword)
            for row in _lost(received):
                damaged[row * size : (row + 1) * size] = b"\xff" * size
            work.append((memoryview(damaged), received, kept))
        seconds = 0.0
        for damaged_codeword, received, kept in work:
            start = time.perf_counter()
            lost = list(_lost(received))
            if len(lost) <= len(kept):
                code.recover(damaged_codeword, size, lost, kept)
                restored += len(lost)
            else:
                beyond += 1
            seconds += time.perf_counter() - start
        for codeword, (damaged_codeword, received, kept) in zip(source, work, strict=True):
            if len(list(_lost(received))) <= len(kept) and damaged_codeword != codeword:
                raise RuntimeError(f"{type(code).__name__} did not restore what was lost")
        throughputs.append(len(source) * K * size / seconds / MEGA)
    return {
        "loss": loss,
        "mb_s": Spread.of(throughputs).as_json(),
        "symbols_restored": restored,
        "codewords_beyond_repair": beyond,
        "codewords": runs * len(source),
    }


def _lost(received: bytes) -> Iterator[int]:
    """Yield the lost source rows; a codeword without loss is found out by one search."""
    if 0 in received[:K]:
        yield from (row for row in range(K) if not received[row])


def _aead(effort: Effort) -> dict[str, Any]:
    """Time sealing and opening the rows of a block, as both ends do, in microseconds per datagram."""
    size = symbol_bytes(DATAGRAM_BYTES)
    view = BurstView(memoryview(bytearray(DEPTH * DATAGRAM_BYTES)), DATAGRAM_BYTES, DEPTH)
    view.write_headers(1, 0, 1, 0, array("I", range(DEPTH)))
    symbols = BlockBuffer(DEPTH * (K + M), size).in_order(WireOrder(DEPTH * K, DEPTH, K, M))  # 13 MB: in no cache
    rows = range(0, DEPTH * (K + M), DEPTH)
    figures: dict[str, Any] = {"payload_bytes": size, "backends": {}}
    for backend in aead.BACKENDS:
        sealing, opening = aead.sealer(_KEY, backend), aead.opener(_KEY, backend)

        def seal(sealing: aead.Sealer = sealing) -> None:
            for at in rows:
                sealing.seal(view, DEPTH, symbols, at)

        def unseal(opening: aead.Opener = opening) -> None:
            for at in rows:
                if not opening.open(view, 0, DEPTH, symbols, at):
                    raise RuntimeError("what was sealed does not open")

        found = figures["backends"][backend] = {}
        for name, work in (("seal_us", seal), ("open_us", unseal)):
            times = [timed(lambda work=work: [work() for _ in range(effort.blocks)]) for _ in range(effort.runs)]  # type: ignore[misc]
            datagrams = effort.blocks * DEPTH * (K + M)
            found[name] = Spread.of([seconds / datagrams * 1e6 for seconds in times]).as_json()
    return figures
