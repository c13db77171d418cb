"""FLUTE (RFC 6726) by flute-alc, one process a side: ``flute_sides.py send|receive ...`` run by .venv-bench.

The package makes and takes ALC packets and has no sockets, so these are the plainest UDP loops around it, with the
same receive buffer as ours. Imports nothing of this project: it runs in the peers' environment.
"""

from __future__ import annotations

import argparse
import os
import socket
import time
from pathlib import Path

TSI = 1
RECEIVE_BUFFER = 32 * 2**20
LOOK_EVERY = 256  # packets between looks at the clock, and whether the file is whole
K, M = 200, 20  # source and repair symbols of a block, as ours
SO_RCVBUFFORCE = 33  # asm-generic/socket.h


def send(to: tuple[str, int], path: Path, symbol_bytes: int, rate_mbit: int) -> None:
    """Send a file at *rate_mbit* (Mbit/s of IP packets), once."""
    from flute import sender

    oti = sender.Oti.new_reed_solomon_rs28(symbol_bytes, K, M)
    session = sender.Sender(TSI, oti, sender.Config())
    session.add_object_from_buffer(path.read_bytes(), "application/octet-stream", "file:///content", None)
    session.publish()
    link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    start, sent, packets = time.monotonic(), 0, 0
    while (packet := session.read()) is not None:
        link.sendto(packet, to)
        sent += len(packet) + 28
        packets += 1
        if packets % 32 == 0:
            ahead = start + sent * 8 / (rate_mbit * 1e6) - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)


def receive(on: tuple[str, int], folder: Path, size: int) -> None:
    """Receive into *folder* until a file of *size* bytes is there."""
    from flute import receiver

    writer = receiver.ObjectWriterBuilder(str(folder))
    session = receiver.Receiver(receiver.UDPEndpoint(on[0], on[1]), TSI, writer, receiver.Config())
    link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        link.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
    except OSError:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    link.bind(on)
    link.settimeout(0.05)
    buffer, packets = bytearray(65536), 0
    view = memoryview(buffer)
    while True:
        try:
            length = link.recv_into(buffer)
        except TimeoutError:
            packets = -1
        else:
            session.push(bytes(view[:length]))
        packets += 1
        if packets % LOOK_EVERY == 0 and _size(folder / "content") == size:
            return


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return -1


def main() -> None:
    """One of the two processes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("side", choices=("send", "receive"))
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("path", type=Path, help="send: the file; receive: the folder")
    parser.add_argument("--size", type=int, default=0)
    parser.add_argument("--symbol-bytes", type=int, default=1424)
    parser.add_argument("--rate-mbit", type=int, default=1000)
    given = parser.parse_args()
    if given.side == "send":
        send((given.host, given.port), given.path, given.symbol_bytes, given.rate_mbit)
    else:
        receive((given.host, given.port), given.path, given.size)


if __name__ == "__main__":
    main()
