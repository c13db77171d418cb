"""Everything that can carry a file one way, each started as its own manual says, and measured from outside.

For a peer the clock runs from the first data that the high side's interface has counted to the last byte in its
output file; comparing the bytes comes after, and costs it nothing. Each is given what helps it: large receive buffers
where it has an option for them, files in memory, no pause at the start.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from benchmarks.arrivals import Packets
from benchmarks.crossing import Content, Crossing
from benchmarks.measure import MEGA
from benchmarks.places import Place
from benchmarks.search import Run
from tests.lab.oneway import HIGH, LOW
from tests.support.processes import ROOT, Process, Processes

VENV: Final = ROOT / ".venv-bench/bin"
POLL_S: Final = 0.002
SILENCE_S: Final = 1.0  # after the sender's end without a packet more: it will not become whole
STUCK_S: Final = 90.0
_UDPCAST_PORT: Final = 9_000
_PYDIODE_PORT: Final = 4_600
_FLUTE_PORT: Final = 4_700
_FLUTE_BYTES_MAX: Final = 60 * MEGA
_PYDIODE_TWICE_BYTES_MAX: Final = 100 * MEGA
_UDPCAST_BYTES_MAX: Final = 100 * MEGA  # a second and more at its fastest


class Contender(Protocol):
    """One way to carry a file."""

    name: str
    rates: tuple[int, ...]  # Mbit/s, ascending
    size_max: int | None  # the largest payload that makes sense, None for any

    def missing(self) -> str | None:
        """Return why it cannot be run here, or None."""

    def refuses(self, place: Place, loss: float) -> str | None:
        """Return why it is not run at *place* with *loss*, or None."""

    def hopeless(self, loss: float) -> bool:
        """Whether no rate will do, so that one is enough to show it."""

    def carry(self, place: Place, rate: int, content: Content, folder: Path) -> Run:
        """Carry *content* at *rate* Mbit/s; *folder* is emptied first."""


@dataclass(frozen=True)
class Checkvalve:
    """This project, by its two roles."""

    name: str
    rates: tuple[int, ...]
    repair: float
    losses: tuple[float, ...] | None = None  # those that this repair ratio is made for; None for all
    size_max: int | None = None

    def missing(self) -> None:
        """It is here."""

    def refuses(self, place: Place, loss: float) -> str | None:
        """See Contender."""
        if self.losses is not None and loss not in self.losses:
            return "a higher repair ratio than this loss asks for"
        return None

    def hopeless(self, loss: float) -> bool:
        """Whether loss takes so much of the repair symbols on average that, of thousands of codewords, some fail."""
        return loss > self.repair / 2.5

    def carry(self, place: Place, rate: int, content: Content, folder: Path) -> Run:
        """See Contender; the wire's bytes by the sender's own counter."""
        crossing = Crossing(place, folder, rate_mbit=rate, repair=self.repair)
        crossing.queue(content)
        return crossing.carry([(content.digest, content.size)])


@dataclass(frozen=True)
class Pydiode:
    """pydiode: 65 kB datagrams that IP cuts into fragments, each sent *redundancy* times."""

    redundancy: int
    rates: tuple[int, ...]
    lossless_only: bool = False
    size_max: int | None = None
    name: str = field(default="")

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", f"pydiode, redundancy {self.redundancy}")
        if self.redundancy > 1:  # half as fast, and where something is lost it waits for long
            object.__setattr__(self, "size_max", _PYDIODE_TWICE_BYTES_MAX)

    def missing(self) -> str | None:
        """See Contender."""
        return None if (VENV / "pydiode").exists() else "pydiode is not installed (run: benchmarks/make-venv)"

    def refuses(self, place: Place, loss: float) -> str | None:
        """See Contender."""
        if self.redundancy > 1 and place.name == "loopback":
            return "nothing is lost there"
        return "redundancy 1 repairs nothing" if loss and self.lossless_only else None

    def hopeless(self, loss: float) -> bool:
        """Only trying tells."""
        return False

    def carry(self, place: Place, rate: int, content: Content, folder: Path) -> Run:
        """See Contender."""
        port = ["--port", str(_PYDIODE_PORT)]
        send = [str(VENV / "pydiode"), "send", *port, "--redundancy", str(self.redundancy), "--max-bitrate"]
        return _watched(
            place,
            folder,
            content,
            _PYDIODE_PORT,
            [str(VENV / "pydiode"), "receive", *port, HIGH],
            ["sh", "-c", 'exec "$@" <"$0"', str(content.path), *send, str(rate * MEGA), HIGH, LOW],
            lambda receiver: receiver.out,
        )


@dataclass(frozen=True)
class Udpcast:
    """UDPcast without a return path: Reed-Solomon over groups of blocks."""

    rates: tuple[int, ...]
    fec: str = "8x8/128"
    size_max: int | None = _UDPCAST_BYTES_MAX
    name: str = field(default="")

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", f"UDPcast --async --fec {self.fec}")

    def missing(self) -> str | None:
        """See Contender."""
        return None if shutil.which("udp-sender") else "udpcast is not installed (sudo apt-get install udpcast)"

    def refuses(self, place: Place, loss: float) -> str | None:
        """See Contender."""
        return None

    def hopeless(self, loss: float) -> bool:
        """Only trying tells."""
        return False

    def carry(self, place: Place, rate: int, content: Content, folder: Path) -> Run:
        """See Contender."""
        out = folder / "received"
        common = ["--nokbd", "--portbase", str(_UDPCAST_PORT), "--ttl", "4", "--mcast-rdv-address", place.unicast]
        sender = [
            "udp-sender", "--interface", place.low_device, "--file", str(content.path), *common,
            "--min-wait", "0", "--autostart", "1", "--async", "--fec", self.fec, "--max-bitrate", f"{rate}m",
            "--blocksize", str(min(place.mtu - 44, 8_956)), "--pointopoint", "--mcast-data-address", place.unicast,
        ]  # fmt: skip
        receiver = [
            "udp-receiver", "--interface", place.high_device, "--file", str(out), *common,
            "--rcvbuf", str(256 * 2**20),
        ]  # fmt: skip
        return _watched(place, folder, content, _UDPCAST_PORT, receiver, sender, lambda _: out)


@dataclass(frozen=True)
class Flute:
    """FLUTE by flute-alc: Reed-Solomon of the same k and m as ours, in loops of Python around it."""

    rates: tuple[int, ...]
    size_max: int | None = _FLUTE_BYTES_MAX  # its Reed-Solomon has 255 source blocks at most
    name: str = "flute-alc, RS 200+20"

    def missing(self) -> str | None:
        """See Contender."""
        found = (VENV / "python").exists() and subprocess.run(
            [VENV / "python", "-c", "import flute"], check=False, capture_output=True
        ).returncode == 0
        return None if found else "flute-alc is not installed (run: benchmarks/make-venv)"

    def refuses(self, place: Place, loss: float) -> str | None:
        """See Contender."""
        return None

    def hopeless(self, loss: float) -> bool:
        """Only trying tells."""
        return False

    def carry(self, place: Place, rate: int, content: Content, folder: Path) -> Run:
        """See Contender."""
        program, port = str(ROOT / "benchmarks/flute_sides.py"), str(_FLUTE_PORT)
        receiver = [str(VENV / "python"), program, "receive", HIGH, port, str(folder), "--size", str(content.size)]
        sender = [
            str(VENV / "python"), program, "send", HIGH, port, str(content.path),
            "--rate-mbit", str(rate), "--symbol-bytes", str(place.mtu - 28 - 48),
        ]  # fmt: skip
        return _watched(place, folder, content, _FLUTE_PORT, receiver, sender, lambda _: folder / "content")


def _watched(
    place: Place,
    folder: Path,
    content: Content,
    port: int,
    receiver_argv: list[str],
    sender_argv: list[str],
    output: Callable[[Process], Path],
) -> Run:
    """Start a receiver, then a sender; time from the first data to the last byte; compare by SHA-256."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    before = place.wire_bytes()
    with Processes(folder / "logs") as processes:
        receiver = processes.start("receiver", receiver_argv, prefix=place.in_high())
        _await_bound(receiver, port)
        packets = Packets(receiver, place.high_device)
        sender = processes.start("sender", sender_argv, prefix=place.in_low())
        out = output(receiver)
        seconds = _arrival(packets, sender, out, content.size)
        if seconds is not None:
            for process in (sender, receiver):  # so that the last bytes are flushed and all packets counted
                _await_end(process)
    after = place.wire_bytes()
    wire = after - before if after is not None and before is not None else None
    if seconds is None:
        return Run(None, wire, f"{_size(out) / MEGA:.0f} of {content.size / MEGA:.0f} MB arrived")
    with out.open("rb") as file:
        same = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" == content.digest
    return Run(seconds if same else None, wire, "" if same else "damaged")


def _arrival(packets: Packets, sender: Process, out: Path, size: int) -> float | None:
    begun: float | None = None
    seen, moved, limit = packets.first, time.monotonic(), time.monotonic() + STUCK_S
    while _size(out) < size:
        now, count = time.monotonic(), packets.now()
        if count > seen:
            seen, moved = count, now
            if count > packets.greeting:
                begun = begun or now
        if now > limit or (sender.code is not None and now > moved + SILENCE_S):
            return None
        time.sleep(POLL_S)
    return time.monotonic() - begun if begun else None


def _await_bound(process: Process, port: int) -> None:
    """Wait until a UDP socket of the process's namespace has *port* (proc(5): net/udp)."""
    wanted, deadline = f":{port:04X} ", time.monotonic() + 10
    while time.monotonic() < deadline and process.code is None:
        if wanted in Path(f"/proc/{process.pid}/net/udp").read_text():
            return
        time.sleep(POLL_S)
    raise RuntimeError(process.describe("does not listen"))


def _await_end(process: Process) -> None:
    deadline = time.monotonic() + 3
    while process.code is None and time.monotonic() < deadline:
        time.sleep(POLL_S)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
