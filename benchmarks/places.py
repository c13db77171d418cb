"""Where measurements run: the one-way lab, and a loopback of its own with the MTU asked for.

Both have a low side that sends and a high side that listens at the same addresses, so that whatever runs in one runs
in the other. On loopback both sides are one namespace, nothing is lost and a burst stays whole: there is no link.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from tests.lab.oneway import HIGH, LOSS_UNIT, LOW, PREFIX, OneWay, sweep

SCRATCH: Final = Path("/dev/shm")  # payloads go from memory to memory where the system has such a folder


class Sides(Protocol):
    """Where to run what."""

    def in_low(self, *argv: str | Path) -> list[str]:
        """Return the command line that runs *argv* on the sending side."""

    def in_high(self, *argv: str | Path) -> list[str]:
        """Return the command line that runs *argv* on the receiving side."""


class Place(Sides, Protocol):
    """A link to measure on."""

    name: str
    mtu: int
    low_device: str
    high_device: str
    unicast: str  # the address of the receiving side's device, for programs that bind to a device

    def set_loss(self, share: float) -> None:
        """Lose *share* of all datagrams from now on; counting begins again."""

    def wire_bytes(self) -> int | None:
        """Return the bytes of all IP packets that entered the link since then; None where nothing counts them."""


class Lab:
    """The one-way lab."""

    name: Final = "lab"
    low_device: Final = "lowtx"
    high_device: Final = "highrx"
    unicast: Final = HIGH

    def __init__(self, lab: OneWay, mtu: int) -> None:
        self._lab = lab
        self.mtu = mtu
        self.in_low, self.in_high = lab.in_low, lab.in_high
        for side in (lab.in_low, lab.in_high):  # UDPcast speaks multicast when it begins and ends
            device = self.low_device if side == lab.in_low else self.high_device
            subprocess.run(side("ip", "route", "replace", "224.0.0.0/4", "dev", device), check=True)

    def set_loss(self, share: float) -> None:
        """See Place; each datagram is decided by itself."""
        self._lab.set_loss(round(share * LOSS_UNIT))

    def wire_bytes(self) -> int | None:
        """See Place; the diode's own counters, of what it passed and what it dropped."""
        argv = ["ip", "netns", "exec", self._lab.diode, "nft", "-j", "list", "chain", "inet", "oneway", "forward"]
        listed: dict[str, Any] = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)
        rules = [entry["rule"]["expr"] for entry in listed["nftables"] if "rule" in entry]
        return sum(int(each["counter"]["bytes"]) for rule in rules for each in rule if "counter" in each)


class Loopback:
    """The loopback device of a namespace, with both sides' addresses and an MTU."""

    name: Final = "loopback"
    low_device: Final = "lo"
    high_device: Final = "lo"
    unicast: Final = "127.0.0.1"

    def __init__(self, mtu: int) -> None:
        self.mtu = mtu
        self._space = f"{PREFIX}-{os.getpid()}-{secrets.token_hex(3)}-loop"

    def up(self) -> None:
        """Build it; CalledProcessError if a command fails."""
        self._run("ip", "netns", "add", self._space)
        for address in (LOW, HIGH):
            self._run("ip", "-n", self._space, "address", "add", f"{address}/32", "dev", "lo")
        self._run("ip", "-n", self._space, "link", "set", "dev", "lo", "multicast", "on", "mtu", str(self.mtu), "up")
        self._run("ip", "-n", self._space, "route", "add", "224.0.0.0/4", "dev", "lo")

    def down(self) -> None:
        """Remove it."""
        subprocess.run(["ip", "netns", "delete", self._space], check=False, capture_output=True)

    def in_low(self, *argv: str | Path) -> list[str]:
        """See Sides."""
        return ["ip", "netns", "exec", self._space, *map(str, argv)]

    in_high = in_low

    def set_loss(self, share: float) -> None:
        """Only 0 can be had."""
        if share:
            raise ValueError("nothing is lost on loopback")

    def wire_bytes(self) -> int | None:
        """Nothing counts them."""
        return None

    @staticmethod
    def _run(*argv: str) -> None:
        subprocess.run(argv, check=True, capture_output=True)


@contextmanager
def lab(mtu: int) -> Iterator[Lab]:
    """A one-way lab while the block lasts."""
    with OneWay(mtu=mtu) as built:
        yield Lab(built, mtu)


@contextmanager
def loopback(mtu: int) -> Iterator[Loopback]:
    """A loopback while the block lasts."""
    sweep()
    built = Loopback(mtu)
    try:
        built.up()
        yield built
    finally:
        built.down()


PLACES: Final[dict[str, Callable[[int], AbstractContextManager[Place]]]] = {"lab": lab, "loopback": loopback}


def scratch_folder() -> str | None:
    """Return a folder in memory, or None for the system's own choice."""
    return str(SCRATCH) if SCRATCH.is_dir() and os.access(SCRATCH, os.W_OK) else None
