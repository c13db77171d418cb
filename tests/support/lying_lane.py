"""A lane's process as it would be in a stranger's hands: says what LIE names, then waits."""

from __future__ import annotations

import os
import sys
import time
from typing import NoReturn

from receiver.messages import FOR_LANE, BlockReady, ForLane, SessionFound
from runtime.channel import Channel, child_main
from tests.capture.rig import Cargo

SIZE = 50 * 20 * 1424


def drive(channel: Channel[ForLane], begin: ForLane, descriptors: list[int]) -> NoReturn:
    entry = Cargo(bytes(SIZE)).entry()
    written = entry.encode(), entry.geometry.symbol_bytes
    block = entry.geometry.block(1)
    honest = {
        "session": bytes(16),
        "entry": written,
        "sbn": 1,
        "complete": True,
        "slot": 0,
        "pieces": [(block.offset, 0, block.size)],
    }
    lies = {
        "none": {},
        "slot": {"slot": 32},
        "negative slot": {"slot": -1},
        "beyond the slot": {"pieces": [(block.offset, 16 << 20, 1)]},
        "before the slot": {"pieces": [(block.offset, -1, 1)]},
        "beyond the block": {"pieces": [(block.offset + 1, 0, block.size)]},
        "before the block": {"pieces": [(block.offset - 1, 0, 10)]},
        "negative size": {"pieces": [(block.offset, 10, -5)]},
        "no such block": {"sbn": entry.geometry.blocks},
        "negative block": {"sbn": -1},
        "entry": {"entry": (b"\xff" * 128, 1424)},
        "twice": {},
    }
    lie = os.environ["LIE"]
    if lie == "no message":
        os.write(channel.fileno(), b"{}")
    elif lie == "another's message":
        channel.send(begin)
    else:
        channel.send(BlockReady.model_validate(honest | lies[lie]))
    if lie == "twice":
        channel.send(BlockReady.model_validate(honest))
    channel.send(
        SessionFound(sender=bytes(32), epoch=1, session=bytes(16), datagram_bytes=1472, created_ms=0, lanes=2)
    )
    while True:
        channel.receive()
        time.sleep(0.001)


if __name__ == "__main__":
    sys.exit(child_main(FOR_LANE, drive))
