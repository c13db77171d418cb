"""checkvalve on both systems, as an operator brings it there: the offline file, settings, keys, units.

Everything is done in the booted systems with the installed commands; only files are carried between them by hand.
"""

from __future__ import annotations

import contextlib
import json
import platform
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from oci.layout import Layout
from receiver.journal import ReceiverJournal
from runtime.errors import UserError
from tests.lab.oneway import HIGH, OneWay
from tests.lab.world import PORT, UPSTREAM, Registries, until
from tests.support.images import random_image
from tests.support.processes import ProcessFailed, run
from tests.systemd.machine import Machine
from tests.systemd.tree import cache

RATE: Final = "200Mbit"
SENDER: Final = ("checkvalve-fetch", "checkvalve-transmit")
RECEIVER: Final = ("checkvalve-capture", "checkvalve-publish")
_REGISTRY: Final = """\
version: 0.1
log: {level: error}
storage:
  filesystem: {rootdirectory: /var/lib/docker-registry}
http: {addr: "127.0.0.1:5000"}
"""
_INTENT: Final = """\
defaults: {interval: 1s}
images:
  - {image: docker.io/library/mirrored, tags: {regex: ".*"}}
"""
_SENDER: Final = {
    "repeats": {"release_every": "1s", "carousel": "5s"},
    "fetch": {"interval": "1s", "registries": {"docker.io": {"location": UPSTREAM, "plain_http": True}}},
}


def offline_file(into: Path) -> Path:
    """Build what ``make dist`` makes, from this tree; wheels that an earlier run downloaded are used again."""
    wheels = cache() / "wheels"
    argv = ["-m", "distribution", "--arch", platform.machine(), "--output", str(into), "--cache", str(wheels)]
    try:
        run([sys.executable, *argv], timeout_s=900)
    except ProcessFailed as error:
        if "wheels for Python" in str(error):
            pytest.skip(f"the wheels cannot be had: {error}")
        raise
    (made,) = into.glob("*.run")
    return made


@dataclass
class Site:
    """Both systems with their services enabled."""

    lab: OneWay
    low: Machine
    high: Machine
    registries: Registries
    folder: Path
    file: Path

    def machine(self, unit: str) -> Machine:
        """Return the system that a unit belongs to."""
        return self.low if unit.startswith(SENDER) else self.high

    def install_again(self, side: str) -> str:
        """Install what is installed already; see ``install``."""
        return install(self.low if side == "sender" else self.high, side, self.file)

    async def push(self, tag: str, size: int, seed: int) -> str:
        """Let an image appear in the low side's registry; return its digest."""
        layout = Layout(self.folder / "layout")
        await random_image(layout, "library/mirrored", tag, [size], seed=seed)
        return self.registries.upload(layout.root, "library/mirrored", tag)

    def arrived(self, tag: str, digest: str) -> bool:
        """Whether a tag is in the high side's registry."""
        return self.registries.tagged("internal/docker.io/library/mirrored", tag) == digest

    def wait(self, tag: str, digest: str, seconds: float = 45) -> None:
        """Wait until a tag is in the high side's registry."""
        until(lambda: self.arrived(tag, digest), seconds, f"mirrored:{tag} is in the high side's registry")

    def under_way(self) -> int:
        """Return how many bytes of unfinished objects the receiver has on disk."""
        try:
            journal = ReceiverJournal(self.high.root / "var/lib/checkvalve-receiver/journal.sqlite", read_only=True)
        except UserError:  # it is being made
            return 0
        with contextlib.closing(journal):
            return sum(done for _, done, _ in journal.partials())

    def counters(self) -> dict[str, int]:
        """Return the receiver's counters since ever, with what the kernel dropped at the diode's sockets."""
        journal = ReceiverJournal(self.high.root / "var/lib/checkvalve-receiver/journal.sqlite", read_only=True)
        with contextlib.closing(journal):
            return journal.counters()

    def kernel_drops(self) -> int:
        """Return how many datagrams found no room in the buffer of the diode's socket (proc(5): the last field)."""
        port = f":{PORT:04X}"
        rows = [line.split() for line in self.high.run("cat", "/proc/net/udp").splitlines()[1:]]
        return sum(int(row[-1]) for row in rows if row[1].endswith(port))

    def status(self, side: str) -> dict[str, Any]:
        """Return what ``status --json`` says."""
        machine = self.low if side == "sender" else self.high
        return dict(
            json.loads(machine.run(f"/opt/checkvalve/bin/checkvalve-{side}", "status", "--json", check=False))
        )

    def until_active(self, unit: str, seconds: float = 30) -> None:
        """Wait until a service is ready."""
        machine = self.machine(unit)
        until(lambda: machine.show(unit)["ActiveState"] == "active", seconds, f"{unit} is active", every=0.2)


def edit(machine: Machine, path: str, changes: Mapping[str, str]) -> None:
    """Change a file of a system, each text to another one that must be there, as a person does."""
    text = machine.read(path)
    for old, new in changes.items():
        assert text.count(old) == 1, f"{path} has {old!r} {text.count(old)} times"
        text = text.replace(old, new)
    machine.write(path, text)


def set_up(lab: OneWay, low: Machine, high: Machine, folder: Path, say: Callable[[str], None]) -> Site:
    """From two bare systems to services that are enabled and run."""
    file = offline_file(folder)
    for machine, side in ((low, "sender"), (high, "receiver")):
        prepare_registry(machine)
        install(machine, side, file)
        say(f"{side} is installed from {file.name} ({file.stat().st_size >> 20} MiB)")
    for source, target, name in ((high, low, "receiver"), (low, high, "sender")):
        key = f"/etc/checkvalve/keys/{name}.pub"
        target.write(key, source.read(key))
    edit(low, "/etc/checkvalve/sender.yaml", {"192.0.2.10:4433": f"{HIGH}:{PORT}", "rate: 1Gbit ": f"rate: {RATE} "})
    low.write("/etc/checkvalve/sender.yaml", low.read("/etc/checkvalve/sender.yaml") + as_yaml(_SENDER))
    edit(
        high,
        "/etc/checkvalve/receiver.yaml",
        {
            "  layout: /var/lib/checkvalve-receiver/published ": "  registry: {url: 'http://127.0.0.1:5000'} ",
            "  serve:\n": "",
            '    on: "127.0.0.1:5000" ': "  # ",
        },
    )
    for machine, side in ((low, "sender"), (high, "receiver")):
        machine.run(f"/opt/checkvalve/bin/checkvalve-{side}", "check")
        machine.run(f"/opt/checkvalve/bin/checkvalve-{side}", "units", "--write")
        machine.systemctl("daemon-reload")
    low.write("/etc/checkvalve/images.yaml", _INTENT)  # `check` would miss the images that are to appear
    high.systemctl("enable", "--now", "checkvalve-receiver.target")
    low.systemctl("enable", "--now", "checkvalve-sender.target")
    registries = Registries(lab, folder, high.root / "var/lib/docker-registry")
    site = Site(lab, low, high, registries, folder, file)
    for unit in (*RECEIVER, *SENDER):
        site.until_active(unit)
    say("all four services are active")
    return site


def as_yaml(sections: Mapping[str, object]) -> str:
    """Return top-level sections in YAML's flow style."""
    return "".join(f"\n{name}: {json.dumps(value)}" for name, value in sections.items()) + "\n"


def install(machine: Machine, side: str, file: Path) -> str:
    """Install one side from the offline file; return what the installer said."""
    place = machine.root / "var/tmp" / file.name
    shutil.copyfile(file, place)
    said = machine.run("sh", f"/var/tmp/{file.name}", "install", "--side", side, timeout_s=180)
    place.unlink()
    return said


def prepare_registry(machine: Machine) -> None:
    """Let Debian's docker-registry listen for this host alone, without the logins that it asks for by default."""
    machine.write("/etc/docker/registry/config.yml", _REGISTRY)
    machine.systemctl("restart", "docker-registry")
