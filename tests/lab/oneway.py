"""A one-way link between two hosts on one machine: network namespaces low ─▶ diode ─▶ high.

The diode routes only from low to high and drops single datagrams at random; high has no route, no neighbour and no
ARP, what it tries to send is dropped and counted, and its interface statistics must say that 0 packets left. Knows
nothing of what runs on either side. Needs root, iproute2, nftables and ethtool, on Linux.

Namespaces carry the pid of the process that made them, so that runs side by side do not meet, and what a killed run
left behind is swept away by the next one. ``python -m tests.lab.oneway up`` builds one to try things in by hand.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

LOW: Final = "192.0.2.1"  # RFC 5737: addresses of documentation, which nothing else here can have
LOW_GATEWAY: Final = "192.0.2.254"
HIGH: Final = "198.51.100.1"
HIGH_GATEWAY: Final = "198.51.100.254"
HIGH_NET: Final = "198.51.100.0/24"
LOSS_UNIT: Final = 10_000  # a loss is given in basis points
PREFIX: Final = "oneway"
KEPT: Final = "kept"  # in the place of the pid, for a lab that outlives the command which built it
_NAMESPACES: Final = Path("/run/netns")
_PROGRAMS: Final = {"ip": "iproute2", "nft": "nftables", "ethtool": "ethtool"}

_DIODE_RULES: Final = """\
table inet oneway
delete table inet oneway
table inet oneway {{
    chain forward {{
        type filter hook forward priority 0; policy drop;
        iifname "fromlow" oifname "tohigh" {which} counter drop
        iifname "fromlow" oifname "tohigh" counter accept
    }}
}}
"""
_HIGH_RULES: Final = """\
table inet silent {
    chain output {
        type filter hook output priority 0; policy accept;
        oifname "highrx" counter drop
    }
}
"""


@dataclass(frozen=True, slots=True)
class Counts:
    """Datagrams since the loss was last set: through the diode, dropped by it; packets of high since it exists."""

    passed: int
    dropped: int
    high_sent: int  # by the statistics of its interface; must be 0
    high_tried: int  # dropped by its own firewall before they reached the interface


class LabError(RuntimeError):
    """A command that builds or reads the lab failed; the text has the command and what it said."""


class OneWay:
    """A lab while its ``with`` block lasts."""

    def __init__(self, *, loss: int = 0, mtu: int = 1500, name: str | None = None) -> None:
        self.name = name or f"{PREFIX}-{os.getpid()}-{secrets.token_hex(3)}"
        self.low, self.diode, self.high = (f"{self.name}-{side}" for side in ("low", "diode", "high"))
        self._loss = loss
        self._mtu = mtu

    def __enter__(self) -> Self:
        sweep()
        try:
            self.up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def in_low(self, *argv: str | Path) -> list[str]:
        """Return the command line that runs *argv* on the low side; the process becomes *argv*, pid included."""
        return ["ip", "netns", "exec", self.low, *map(str, argv)]

    def in_high(self, *argv: str | Path) -> list[str]:
        """Return the command line that runs *argv* on the high side."""
        return ["ip", "netns", "exec", self.high, *map(str, argv)]

    def up(self) -> None:
        """Build the namespaces, the two cables and the rules. LabError if a command fails."""
        for space in (self.low, self.diode, self.high):
            _run("ip", "netns", "add", space)
            _run("ip", "netns", "exec", space, "sysctl", "-qw", *_off(["all", "default"], "disable_ipv6"))
            _run("ip", "-n", space, "link", "set", "dev", "lo", "up")
        self._cable(self.low, "lowtx", self.diode, "fromlow")
        self._cable(self.diode, "tohigh", self.high, "highrx")
        for space, device, address in (
            (self.low, "lowtx", LOW),
            (self.diode, "fromlow", LOW_GATEWAY),
            (self.diode, "tohigh", HIGH_GATEWAY),
            (self.high, "highrx", HIGH),
        ):
            _run("ip", "-n", space, "address", "add", f"{address}/24", "dev", device)
            # nothing is resolved on a diode: no ARP anywhere, every neighbour is written down below
            _run("ip", "-n", space, "link", "set", "dev", device, "arp", "off", "mtu", str(self._mtu), "up")
        self._neighbour(self.low, "lowtx", LOW_GATEWAY, self.diode, "fromlow")
        self._neighbour(self.diode, "tohigh", HIGH, self.high, "highrx")
        _run("ip", "-n", self.low, "route", "add", HIGH_NET, "via", LOW_GATEWAY)
        _run("ip", "netns", "exec", self.diode, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        self._offloads()
        self.set_loss(self._loss)
        _run("ip", "netns", "exec", self.high, "nft", "-f", "-", stdin=_HIGH_RULES)

    def set_loss(self, loss: int) -> None:
        """Drop *loss* of 10,000 datagrams from now on, each decided by itself; the diode's counts start again."""
        if not 0 <= loss <= LOSS_UNIT:
            raise ValueError(f"loss {loss}: give basis points, 0 to {LOSS_UNIT}")
        self._loss = loss
        which = f"numgen random mod {LOSS_UNIT} < {loss}" if loss < LOSS_UNIT else ""
        rules = _DIODE_RULES.format(which=which)
        _run("ip", "netns", "exec", self.diode, "nft", "-f", "-", stdin=rules)

    def counts(self) -> Counts:
        """Read the counters."""
        dropped, passed = _counters(self.diode, "oneway", "forward")
        (tried,) = _counters(self.high, "silent", "output")
        link = json.loads(_run("ip", "-n", self.high, "-json", "-statistics", "link", "show", "dev", "highrx"))[0]
        return Counts(passed, dropped, int(link["stats64"]["tx"]["packets"]), tried)

    def down(self) -> None:
        """Remove what there is of the lab; cables go with their namespaces."""
        for space in (self.low, self.diode, self.high):
            if (_NAMESPACES / space).exists():
                subprocess.run(["ip", "netns", "delete", space], check=False, capture_output=True)

    def _cable(self, space: str, device: str, peer_space: str, peer: str) -> None:
        near = ["link", "add", "dev", device, "netns", space, "type", "veth"]
        _run("ip", *near, "peer", "name", peer, "netns", peer_space)

    def _neighbour(self, space: str, device: str, address: str, peer_space: str, peer: str) -> None:
        link = json.loads(_run("ip", "-n", peer_space, "-json", "link", "show", "dev", peer))[0]
        _run("ip", "-n", space, "neighbour", "replace", address, "lladdr", link["address"], "dev", device)

    def _offloads(self) -> None:
        """Bursts are cut into datagrams where low sends them, and joined again only where high receives them."""
        for space, device, feature, state in (
            (self.low, "lowtx", "tx-udp-segmentation", "off"),
            (self.diode, "fromlow", "gro", "off"),
            (self.diode, "tohigh", "tso", "off"),  # veth joins on reception only what a peer without TSO sent
            (self.high, "highrx", "gro", "on"),
        ):
            _run("ip", "netns", "exec", space, "ethtool", "-K", device, feature, state)


def missing() -> str | None:
    """Return why no lab can be built here, or None."""
    if not sys.platform.startswith("linux"):
        return "the one-way lab needs Linux"
    for program, package in _PROGRAMS.items():
        if shutil.which(program) is None:
            return f"the one-way lab needs {program} (sudo apt-get install {package})"
    if os.geteuid() != 0:
        return "the one-way lab needs root"
    probe = f"{PREFIX}-{os.getpid()}-probe"
    try:
        _run("ip", "netns", "add", probe)
        _run("ip", "netns", "exec", probe, "nft", "-f", "-", stdin=_HIGH_RULES)
        _run("ip", "-n", probe, "link", "add", "dev", "one", "type", "veth", "peer", "name", "two")
    except LabError as error:
        return f"the one-way lab cannot be built here: {error}"
    finally:
        subprocess.run(["ip", "netns", "delete", probe], check=False, capture_output=True)
    return None


def sweep() -> None:
    """Remove the labs of processes that exist no more."""
    for path in _NAMESPACES.glob(f"{PREFIX}-*-*") if _NAMESPACES.is_dir() else ():
        owner = path.name.split("-")[1]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            subprocess.run(["ip", "netns", "delete", path.name], check=False, capture_output=True)


def _off(scopes: Sequence[str], key: str) -> list[str]:
    return [f"net.ipv6.conf.{scope}.{key}=1" for scope in scopes]


def _run(*argv: str, stdin: str | None = None) -> str:
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"{' '.join(argv)}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout


def _counters(space: str, table: str, chain: str) -> list[int]:
    """Return the packets of each counter in a chain, in the order of its rules."""
    listed = _run("ip", "netns", "exec", space, "nft", "-j", "list", "chain", "inet", table, chain)
    entries: list[dict[str, Any]] = json.loads(listed)["nftables"]
    expressions = [each for entry in entries if "rule" in entry for each in entry["rule"]["expr"]]
    return [int(each["counter"]["packets"]) for each in expressions if "counter" in each]


def _main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.lab.oneway", description="A one-way link to try things in."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    built = commands.add_parser("up", help="build a lab; prints the namespaces of its two sides")
    changed = commands.add_parser("loss", help="drop LOSS of 10,000 datagrams from now on")
    counted = commands.add_parser("counts", help="datagrams passed and dropped, packets that high sent (must be 0)")
    removed = commands.add_parser("down", help="remove a lab")
    for command in (built, changed, counted, removed):
        command.add_argument("--name", default=f"{PREFIX}-{KEPT}-1", help="default: %(default)s")
    built.add_argument("--loss", type=int, default=0, help="basis points, default 0")
    built.add_argument("--mtu", type=int, default=1500, help="default 1500")
    changed.add_argument("loss", type=int)
    given = parser.parse_args()
    if reason := missing():
        print(f"error: {reason}", file=sys.stderr)
        return 1
    lab = OneWay(name=given.name, loss=getattr(given, "loss", 0), mtu=getattr(given, "mtu", 1500))
    try:
        match given.command:
            case "up":
                lab.up()
                print(f"ip netns exec {lab.low} COMMAND    # {LOW}, sends")
                print(f"ip netns exec {lab.high} COMMAND   # {HIGH}, receives")
            case "loss":
                lab.set_loss(given.loss)
            case "counts":
                for name, count in asdict(lab.counts()).items():
                    print(f"{name:<10} {count}")
            case _:
                lab.down()
    except (LabError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main())
