"""The ceiling: bursts of equal datagrams through the lab with nothing done to them, by the two sides' own sockets.

``python -m benchmarks.raw receive|send`` are the two processes; ``measure`` runs them between two sides.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, Final

from benchmarks.measure import MEGA, Spread
from benchmarks.places import Sides
from protocol.decoder import ReceiveBuffer
from protocol.wire import datagrams_per_burst
from receiver.link import Link as ReceiverLink
from runtime.units import HostPort
from sender.link import Link as SenderLink
from tests.lab.oneway import HIGH
from tests.support.processes import Processes, module

PORT: Final = 4_500
SILENCE_S: Final = 0.5
RECEIVE_BUFFER: Final = 32 * 2**20


def measure(sides: Sides, mtu: int, size: int, runs: int, folder: Path) -> dict[str, Any]:
    """Send about *size* bytes as fast as the sender can, *runs* times; return what came per second of receiving."""
    rates, shares = [], []
    for _ in range(runs):
        with Processes(folder) as processes:
            receiver = processes.start(
                "raw receive", [*module("benchmarks.raw"), "receive", "--mtu", str(mtu)], prefix=sides.in_high()
            )
            receiver.wait_line("bound")
            sender = processes.start(
                "raw send", [*module("benchmarks.raw"), "send", "--mtu", str(mtu), "--bytes", str(size)],
                prefix=sides.in_low(),
            )  # fmt: skip
            sender.wait(120)
            sent = int(json.loads(sender.wait_line("sent"))["sent"])
            got = json.loads(receiver.wait_line("received"))
        rates.append(got["received"] / got["seconds"] / MEGA)
        shares.append(100 * (1 - got["received"] / sent))
    return {"mtu": mtu, "mb_s": Spread.of(rates).as_json(), "lost_percent": Spread.of(shares).as_json()}


def _send(to: HostPort, mtu: int, size: int) -> None:
    link = SenderLink(to, mtu)
    burst = memoryview(bytes(link.datagram_bytes * datagrams_per_burst(link.datagram_bytes)))
    sent = 0
    while sent < size:
        link.send(burst)
        sent += len(burst)
    print(json.dumps({"sent": sent, "gso": link.gso}))
    link.close()


def _receive(on: HostPort) -> None:
    link = ReceiverLink(on, RECEIVE_BUFFER)
    buffer = ReceiveBuffer()
    print("bound", flush=True)
    received, start, last = 0, 0.0, 0.0
    while link.wait(SILENCE_S if received else 30.0):
        start = start or time.perf_counter()
        while (size := link.receive(buffer)[0]) > 0:
            received += size
        last = time.perf_counter()
    print(json.dumps({"received": received, "seconds": last - start, "gro": link.gro}), flush=True)
    link.close()


def main() -> int:
    """One of the two processes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.raw")
    parser.add_argument("side", choices=("send", "receive"))
    parser.add_argument("--mtu", type=int, default=1500)
    parser.add_argument("--bytes", type=int, default=500 * MEGA)
    given = parser.parse_args()
    if given.side == "send":
        _send(HostPort(HIGH, PORT), given.mtu, given.bytes)
    else:
        _receive(HostPort(HIGH, PORT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
