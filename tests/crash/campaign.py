"""A campaign: the four roles as processes in the one-way lab, killed at random moments until each has had its share.

Images keep arriving meanwhile. Then nobody is killed any more, and without anybody's help everything must be in the
internal registry, byte for byte; both journals sound; nothing left over; and not a packet out of the high side.
"""

from __future__ import annotations

import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from tests.crash.cargo import Cargo
from tests.crash.roles import ROLES, Chaos, Moment, Role
from tests.lab.oneway import OneWay
from tests.lab.world import INTERNAL, UPSTREAM, Registries, Sides, until

LOSS: Final = 200  # basis points
TICK_S: Final = 0.02
AMBUSH_S: Final = 60.0
PATIENCE_S: Final = 900.0  # after the last kill, for everything to be across
SETTINGS: Final = {
    "rate": "150Mbit",
    "repeats": {"carousel": "2s", "passes": 1},
    "fetch": {"interval": "2s", "settle": "500ms"},
}


@dataclass(frozen=True)
class Scale:
    """How large a campaign is."""

    kills: int  # of each role
    arrivals: int  # images that come, or tags that move, meanwhile
    bulk_bytes: int  # of the layer that comes in the middle
    late_bytes: int  # of the largest layer of those that come


@dataclass
class Outcome:
    """What a campaign came to."""

    kills: dict[str, int]
    deeds: Counter[str]
    in_the_middle: int  # kills of capture while there was part of an object on its disk
    images: int
    chaos_s: float
    calm_s: float  # from the last kill to the last tag
    passed: int
    dropped: int

    def line(self) -> str:
        """The summary for people."""
        kills = ", ".join(f"{name} {count}" for name, count in self.kills.items())
        return (
            f"killed: {kills}; {self.in_the_middle} times with part of an object on the receiver's disk; reboots "
            f"of a side: {self.deeds['reboot']}, stopped for a while: {self.deeds['stop']}; {self.chaos_s:.0f} s; "
            f"{self.images} images identical {self.calm_s:.0f} s after the last; diode: {self.passed} passed, "
            f"{self.dropped} dropped"
        )


class Campaign:
    """*folder* keeps the state of both sides and the logs that tell of faults."""

    def __init__(
        self, lab: OneWay, registries: Registries, sides: Sides, folder: Path, seed: int, scale: Scale
    ) -> None:
        self._lab, self._registries, self._sides = lab, registries, sides
        self._seed, self._scale, self._folder = seed, scale, folder
        self._cargo = Cargo(
            registries, folder / "layouts", Random(f"{seed}/cargo"), scale.bulk_bytes, scale.late_bytes
        )
        self._chaos = {name: Chaos(seed, name) for name in ROLES}
        configs = {"sender": (sides.low, lab.in_low()), "receiver": (sides.high, lab.in_high())}
        self.roles = {}
        for name, side in ROLES.items():
            home, prefix = configs[side]
            self.roles[name] = Role(name, home / f"{side}.yaml", prefix, folder / "roles")
        self._deeds: Counter[str] = Counter()
        self._in_the_middle = 0
        self._uploading = ThreadPoolExecutor(1, "upload")
        self._arrival: Future[None] | None = None

    def run(self, say: Callable[[str], None] = lambda line: None) -> Outcome:
        """Run it; AssertionError when something is lost, wrong or left over, or a role complained."""
        self._lab.set_loss(LOSS)
        self._cargo.first()
        self._sides.list_images(*self._cargo.lines())
        begun = time.monotonic()
        try:
            self._kill_and_kill(say)
            last = time.monotonic()
            say("no more kills; waiting for everything to be across")
            self._everything_arrives()
            arrived = time.monotonic()
            self._nothing_is_partial()
        finally:
            for role in self.roles.values():
                role.pause(signal.SIGCONT)
                role.end()
        faults = [fault for role in self.roles.values() for fault in role.faults]
        assert not faults, f"seed {self._seed}:\n" + "\n".join(faults)
        self._same_bytes()
        self._sound()
        counts = self._lab.counts()
        assert counts.high_sent == 0
        assert counts.dropped > 0
        return Outcome(
            {name: role.kills for name, role in self.roles.items()},
            self._deeds,
            self._in_the_middle,
            len(self._cargo.wanted),
            last - begun,
            arrived - last,
            counts.passed,
            counts.dropped,
        )

    # --- while it goes on ------------------------------------------------------------------------------------------

    def _kill_and_kill(self, say: Callable[[str], None]) -> None:
        lives: dict[str, Iterator[None]] = {name: self._life(name) for name in self.roles}
        said = time.monotonic()
        total, arrivals = self._scale.kills * len(self.roles), 0
        while lives:
            for name in list(lives):
                if next(lives[name], StopIteration) is StopIteration:
                    del lives[name]
            done = sum(role.kills for role in self.roles.values())
            if (
                arrivals < self._scale.arrivals
                and self._arrived()
                and done >= total * (arrivals + 1) / (self._scale.arrivals + 1)
            ):
                arrivals += 1
                self._arrival = self._uploading.submit(self._arrive, arrivals)
            if time.monotonic() - said > 15:
                said = time.monotonic()
                kills = ", ".join(f"{name} {role.kills}" for name, role in self.roles.items())
                say(f"killed: {kills}; {self._published()} of {len(self._cargo.wanted)} images across")
            time.sleep(TICK_S)

        until(self._arrived, 300, "the last image is in the upstream registry")

    def _arrive(self, number: int) -> None:
        if number == (self._scale.arrivals + 1) // 2:
            self._cargo.heavy()
        elif number % 3 == 0:
            self._cargo.move()
        else:
            self._cargo.arrive()
        self._sides.list_images(*self._cargo.lines())

    def _arrived(self) -> bool:
        """Whether no image is being uploaded; raises what went wrong there."""
        if self._arrival is not None and self._arrival.done():
            self._arrival.result()
            self._arrival = None
        return self._arrival is None

    def _life(self, name: str) -> Iterator[None]:
        """The lives of one role; each ``next`` takes no time and does what is due."""
        role = self.roles[name]
        role.start()
        if name == "capture":  # once for certain, however fast the machine is
            yield from self._ambush(role)
        while role.kills < self._scale.kills:
            moment = self._chaos[name].next()
            yield from _pass(moment.life, role)
            yield from self._do(role, moment)
        while True:  # its share is had; the other role of its side may still take it along
            if not role.running:
                role.start()
            role.look()
            if all(other.kills >= self._scale.kills for other in self.roles.values()):
                return
            yield

    def _ambush(self, role: Role) -> Iterator[None]:
        """Kill it as soon as part of an object is on its disk."""
        deadline = time.monotonic() + AMBUSH_S
        while not self._partial_files() and time.monotonic() < deadline:
            yield
        yield from self._do(role, Moment("kill", 0.0, 0.0))

    def _do(self, role: Role, moment: Moment) -> Iterator[None]:
        self._deeds[moment.what] += 1
        if moment.what == "stop":
            role.pause(signal.SIGSTOP)
            yield from _pass(moment.pause)
            role.pause(signal.SIGCONT)
            return
        struck = [role]
        if moment.what == "reboot":
            struck = [other for other in self.roles.values() if other.side == role.side]
        if any(each.name == "capture" for each in struck) and self._partial_files():
            self._in_the_middle += 1
        for each in struck:
            each.kill()
        yield from _pass(moment.pause)
        if not role.running:
            role.start()

    def _partial_files(self) -> bool:
        folder = self._sides.high / "state/partial"
        return folder.is_dir() and any(folder.iterdir())

    # --- and after -------------------------------------------------------------------------------------------------

    def _published(self) -> int:
        return sum(
            self._registries.tagged(self._target(name), tag) == digest
            for (name, tag), digest in self._cargo.wanted.items()
        )

    def _everything_arrives(self) -> None:
        def done() -> bool:
            for role in self.roles.values():
                if not role.look():
                    role.start()
            return self._published() == len(self._cargo.wanted)

        until(done, PATIENCE_S, f"all images are in the internal registry (seed {self._seed})", every=0.2)

    def _nothing_is_partial(self) -> None:
        until(lambda: self._sides.partial_bytes() == 0, PATIENCE_S, "no object is half received", every=0.2)
        until(lambda: not self._partial_files(), 60, "no file of a partial object is left")
        until(lambda: self._sides.status("receiver")["ok"], 60, "the receiver says that all is well", every=0.5)

    def _same_bytes(self) -> None:
        for number, ((name, tag), digest) in enumerate(self._cargo.wanted.items()):
            there, here = self._folder / f"low-{number}", self._folder / f"high-{number}"
            target = f"{INTERNAL}/{self._target(name)}:{tag}"
            low, high = self._lab.in_low, self._lab.in_high
            sent = self._registries.download(low, f"{UPSTREAM}/library/{name}@{digest}", there)
            assert sent == self._registries.download(high, target, here), f"{target} differs (seed {self._seed})"
            assert self._registries.raw(low, f"{UPSTREAM}/library/{name}@{digest}") == self._registries.raw(
                high, target
            )

    def _sound(self) -> None:
        """Both journals are sound, and of interrupted work nothing is left."""
        for home in (self._sides.low, self._sides.high):
            with closing(sqlite3.connect(home / "state/journal.sqlite")) as journal:
                assert journal.execute("PRAGMA integrity_check").fetchone() == ("ok",), f"seed {self._seed}"
            left = [str(path) for path in (home / "state").rglob("*") if path.is_file() and _is_temporary(path)]
            assert not left, f"left over (seed {self._seed}): {left}"

    def _target(self, name: str) -> str:
        return f"{self._sides.prefix}/docker.io/library/{name}"


def _pass(seconds: float, role: Role | None = None) -> Iterator[None]:
    """Yield until so many seconds have passed; a role that ends by itself meanwhile is started again."""
    until_then = time.monotonic() + seconds
    while time.monotonic() < until_then:
        if role is not None and not role.look():
            role.start()
        yield


def _is_temporary(path: Path) -> bool:
    return path.parent.name in (".ingest", "partial") or path.name.startswith(".") or path.suffix == ".tmp"
