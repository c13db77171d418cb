"""The pure encoder and decoder, on one core and without a socket: content bytes in, bursts, content bytes out.

Each part is timed by itself: the encoder filling bursts, the decoder opening them, and the restoring of lost symbols
that the receiver's threads do beside it. Datagrams are lost one by one, by a seeded coin; what remains of a burst
reaches the decoder joined, as the kernel's GRO joins it. The content is compared at the end.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from benchmarks.measure import MEGA, Spread, one_core
from protocol.announcement import SessionParameters, build, wrap_session_key
from protocol.buffers import BlockBuffer, block_symbols
from protocol.decoder import Decoder, ReceiveBuffer
from protocol.encoder import Encoder
from protocol.events import BlockAbandoned, BlockComplete, Event, ObjectAnnounced
from protocol.geometry import profile_for_link
from protocol.objects import Coding, Kind, ObjectEntry
from protocol.outgoing import OutgoingBlock
from protocol.ranges import RangeSet
from protocol.trust import Remembered, TrustedSenders, key_id
from protocol.wire import BurstView, datagram_bytes_for_mtu, datagrams_per_burst, symbol_bytes

LOSSES: Final = (0.0, 0.01, 0.03, 0.05)
IP_UDP_BYTES: Final = 28
_LINK_BITS_PER_S: Final = 1e9  # of the virtual clock: control datagrams come by time
_REPAIR: Final = 0.10  # as the settings have them by default
_OUTAGE_S: Final = 0.010


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is done for each figure."""

    runs: int = 3
    size: int = 200 * MEGA
    mtus: tuple[int, ...] = (1500, 9000)


FULL: Final = Effort()
QUICK: Final = Effort(runs=3, size=50 * MEGA)
TINY: Final = Effort(runs=1, size=MEGA, mtus=(1500,))


def measure(effort: Effort) -> dict[str, Any]:
    """Return content throughputs in MB/s by MTU and loss."""
    content = os.urandom(effort.size)
    with one_core():
        rows = [
            _row(mtu, loss, [_Crossing(content, mtu, loss, run).carry() for run in range(effort.runs)])
            for mtu in effort.mtus
            for loss in LOSSES
        ]
    return {"content_bytes": effort.size, "rows": rows}


@dataclass(frozen=True, slots=True)
class _Times:
    encode: float
    decode: float
    restore: float
    wire_bytes: int
    whole: bool
    size: int


def _row(mtu: int, loss: float, runs: list[_Times]) -> dict[str, Any]:
    def throughput(seconds: list[float]) -> dict[str, float]:
        return Spread.of([runs[0].size / each / MEGA for each in seconds]).as_json()

    return {
        "mtu": mtu,
        "loss": loss,
        "encode_mb_s": throughput([run.encode for run in runs]),
        "decode_mb_s": throughput([run.decode for run in runs]),
        "restore_mb_s": throughput([run.restore for run in runs]),
        "wire_overhead": round(runs[0].wire_bytes / runs[0].size - 1, 4),
        "whole": sum(run.whole for run in runs),
        "runs": len(runs),
    }


class _Crossing:
    """One object through a fresh session."""

    def __init__(self, content: bytes, mtu: int, loss: float, seed: int) -> None:
        self._content = memoryview(content)
        self._mtu = mtu
        self._loss = loss
        self._coin = random.Random(seed)
        size = datagram_bytes_for_mtu(mtu)
        count = datagrams_per_burst(size)
        self._view = BurstView(memoryview(bytearray(count * size)), size, count)
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        profile = profile_for_link(symbol_bytes(size), _LINK_BITS_PER_S / 8 / mtu, _REPAIR, _OUTAGE_S)
        self._entry = ObjectEntry(
            1, Kind.BLOB, Coding.IDENTITY, digest, len(content), digest, profile.geometry(len(content))
        )
        self._encoder, make_decoder = session(size)
        self._decoder = make_decoder()
        self._received = ReceiveBuffer()
        self._out = bytearray(len(content))
        self._encode = self._decode = self._restore = 0.0

    def carry(self) -> _Times:
        geometry = self._entry.geometry
        buffer = BlockBuffer(block_symbols(geometry.block(0)), geometry.symbol_bytes)
        self._encoder.set_upcoming([self._entry])
        now, sbn, datagrams = 0.0, 0, 0
        while sbn < geometry.blocks or not self._encoder.wants_block:
            if self._encoder.wants_block and self._encoder.may_start(self._entry.toi):
                shape = geometry.block(sbn)
                buffer.memory[: shape.size] = self._content[shape.offset : shape.offset + shape.size]
                start = time.perf_counter()
                self._encoder.load(OutgoingBlock(self._entry, shape, buffer))
                self._encode += time.perf_counter() - start
                sbn += 1
            start = time.perf_counter()
            count = self._encoder.next_burst(self._view, now)
            self._encode += time.perf_counter() - start
            datagrams += count
            now += count * self._mtu * 8 / _LINK_BITS_PER_S if count else 0.001
            if kept := self._lose(count):
                self._hand_over(kept)
        return _Times(
            self._encode,
            self._decode,
            self._restore,
            datagrams * (self._view.datagram_bytes + IP_UDP_BYTES),
            bytes(self._out) == self._content,
            len(self._content),
        )

    def _lose(self, count: int) -> int:
        """Copy what is not lost of the burst to the receiver's buffer; return how many datagrams that is."""
        size = self._view.datagram_bytes
        if self._loss == 0:
            self._received.memory[: count * size] = self._view.buffer[: count * size]
            return count
        kept = 0
        for datagram in self._view.datagrams[:count]:
            if self._coin.random() >= self._loss:
                self._received.memory[kept * size : (kept + 1) * size] = datagram
                kept += 1
        return kept

    def _hand_over(self, count: int) -> None:
        size = self._view.datagram_bytes
        start = time.perf_counter()
        events = self._decoder.receive_burst(self._received, count * size, size)
        self._decode += time.perf_counter() - start
        for event in events:
            self._take(event)

    def _take(self, event: Event) -> None:
        match event:
            case ObjectAnnounced(announced):
                self._decoder.want(announced, RangeSet())
            case BlockComplete(block):
                start = time.perf_counter()
                block.restore()
                self._restore += time.perf_counter() - start
                for offset, piece in block.finished():
                    self._out[offset : offset + len(piece)] = piece
                self._decoder.give_back(block)
            case BlockAbandoned(block):
                self._decoder.give_back(block)


def session(datagram_bytes: int) -> tuple[Encoder, Callable[[], Decoder]]:
    """Return the sending end of a fresh session, and what makes receiving ends that can open it."""
    signer, private = Ed25519PrivateKey.generate(), X25519PrivateKey.generate()
    parameters = SessionParameters(1, os.urandom(16), datagram_bytes, 0)
    key = os.urandom(32)
    sender = key_id(signer.public_key())
    wrapped = {key_id(private.public_key()): wrap_session_key(key, private.public_key(), sender, parameters)}
    announcement = build(parameters, wrapped, signer)
    trusted = TrustedSenders.of(signer.public_key())
    return Encoder(parameters, key, announcement), lambda: Decoder(trusted, private, Remembered())
