"""What stands on the two sides of the lab: docker-registry, skopeo, and our daemons as they are run for real.

Every program runs in the namespace of its side. A ``Sides`` is one sender and one receiver with folders of their
own; several can use the same lab and registries, one after the other, under different prefixes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from oci.descriptor import sha256_digest
from receiver.journal import ReceiverJournal
from runtime.errors import UserError
from sender.journal import SenderJournal
from tests.lab.oneway import HIGH, OneWay
from tests.support.processes import ROOT, Process, command

UPSTREAM: Final = "127.0.0.1:5000"  # each namespace has ports of its own
INTERNAL: Final = "127.0.0.1:5000"
PORT: Final = 4433
_REGISTRY_CONFIG: Final = """\
version: 0.1
log: {{level: error}}
storage:
  filesystem: {{rootdirectory: {root}}}
http: {{addr: "{address}"}}
"""

Side = Callable[..., list[str]]
"""``lab.in_low`` or ``lab.in_high``."""


def until(condition: Callable[[], object], seconds: float, what: str, every: float = 0.05) -> None:
    """Wait for *condition*; AssertionError naming *what* after *seconds*."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds} s still not: {what}"
        time.sleep(every)


def kill(process: Process) -> None:
    """SIGKILL to a command and the roles that it runs, as a power cut would end them."""
    for pid in [*children(process.pid), process.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait(10)


def children(pid: int) -> list[int]:
    """Return the pids of a process's children (proc(5): the fourth field of stat)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


@contextlib.contextmanager
def docker_registry(side: Side, folder: Path, address: str) -> Iterator[Path]:
    """Run an empty docker-registry at *address* of a side while the block lasts; yields where its files are."""
    server = start_registry(side, folder, address)
    try:
        yield folder / "data"
    finally:
        server.stop()


def start_registry(side: Side, folder: Path, address: str) -> Process:
    """Start docker-registry at *address* of a side, with the files that are in *folder* already; it answers then."""
    folder.mkdir(exist_ok=True)
    config = folder / "config.yml"
    config.write_text(_REGISTRY_CONFIG.format(root=folder / "data", address=address))
    server = Process("docker-registry", ["docker-registry", "serve", str(config)], folder / "log", prefix=side())
    probe = (
        "import urllib.request as u, sys\n"
        f"try: u.urlopen('http://{address}/v2/', timeout=1)\n"
        "except OSError: sys.exit(1)"
    )

    def answers() -> bool:
        assert server.code is None, server.describe("ended")
        return subprocess.run(side(sys.executable, "-c", probe), check=False).returncode == 0

    try:
        until(answers, 20, f"docker-registry answers at {address}")
    except BaseException:
        server.stop()
        raise
    return server


@dataclass
class Registries:
    """Both registries and skopeo on each side."""

    lab: OneWay
    folder: Path
    internal_data: Path

    def skopeo(self, side: Side, *arguments: str) -> bytes:
        """Run skopeo on a side; return what it prints."""
        policy = self.folder / "policy.json"
        policy.write_text('{"default":[{"type":"insecureAcceptAnything"}]}')  # the machine's may be missing
        done = subprocess.run(
            side("skopeo", "--policy", policy, "--tmpdir", self.folder, *arguments),
            capture_output=True,
            timeout=300,  # hundreds of megabytes, beside other work
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def upload(self, layout: Path, name: str, tag: str) -> str:
        """Push an image of a layout to upstream with skopeo; return the digest that it has there."""
        self._copy(self.lab.in_low, f"oci:{layout}:{name}:{tag}", f"docker://{UPSTREAM}/{name}:{tag}")
        return sha256_digest(self.raw(self.lab.in_low, f"{UPSTREAM}/{name}:{tag}"))

    def raw(self, side: Side, image: str) -> bytes:
        """Return the manifest's bytes by ``skopeo inspect --raw``."""
        return self.skopeo(side, "inspect", "--tls-verify=false", "--raw", f"docker://{image}")

    def download(self, side: Side, image: str, folder: Path) -> dict[str, bytes]:
        """Copy all of an image into a folder by ``skopeo copy --all``; return its files."""
        self._copy(side, f"docker://{image}", f"dir:{folder}")
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    def tagged(self, repository: str, tag: str) -> str | None:
        """Return the digest that a tag of the internal registry has, by its files; None before it has any."""
        tags = self.internal_data / "docker/registry/v2/repositories" / repository / "_manifests/tags"
        try:
            return (tags / tag / "current/link").read_text()
        except OSError:
            return None

    def _copy(self, side: Side, source: str, target: str) -> None:
        options = ["--all", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false"]
        self.skopeo(side, "copy", *options, source, target)


def _uncomment(path: Path, default: str, line: str) -> None:
    """Set a key that ``init`` has written as a comment with its default."""
    text = path.read_text()
    assert f"  # {default} " in text
    path.write_text(text.replace(f"  # {default} ", f"  {line} "))


@dataclass
class Sides:
    """A sender on the low side and a receiver on the high side, made by ``init`` and run by ``run``."""

    lab: OneWay
    folder: Path
    prefix: str
    rate: str = "400Mbit"
    repeats: dict[str, Any] = field(default_factory=dict)
    fetch: dict[str, Any] = field(default_factory=dict)
    lanes: int = 1
    receiver_pub: Path | None = None
    internal: str = INTERNAL
    processes: list[Process] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.low, self.high = self.folder / "low", self.folder / "high"
        if self.receiver_pub is None:
            self._command(
                "receiver", "init", self.high, "--listen", f"{HIGH}:{PORT}", "--registry", f"http://{self.internal}"
            )
        public = self.receiver_pub or self.high / "keys/receiver.pub"
        self._command("sender", "init", self.low, "--to", f"{HIGH}:{PORT}", "--rate", self.rate, "-r", public)
        _uncomment(self.low / "sender.yaml", "lanes: 1", f"lanes: {self.lanes}")
        with (self.low / "sender.yaml").open("a") as settings:
            settings.write(f"\nrepeats: {json.dumps({'release_every': '1s', **self.repeats})}\n")
            access = {"docker.io": {"location": UPSTREAM, "plain_http": True}}
            settings.write(f"fetch: {json.dumps({'registries': access, **self.fetch})}\n")
        if self.receiver_pub is None:
            self._command("receiver", "init", self.high, "--sender", self.low / "keys/sender.pub")
            _uncomment(self.high / "receiver.yaml", "prefix: internal", f"prefix: {self.prefix}")
            _uncomment(self.high / "receiver.yaml", "lanes: 1", f"lanes: {self.lanes}")

    def list_images(self, *pins: str) -> None:
        """Write images.yaml as an editor does."""
        new = self.low / "images.yaml.new"
        new.write_text("images:\n" + "".join(f"  - {pin}\n" for pin in pins))
        new.replace(self.low / "images.yaml")

    def start_sender(self) -> Process:
        """Run the sender's daemon."""
        return self._start("sender", self.low, self.lab.in_low())

    def start_receiver(self) -> Process:
        """Run the receiver's daemon; it is listening when this returns."""
        process = self._start("receiver", self.high, self.lab.in_high())
        process.wait_line("listening")
        return process

    def status(self, side: str) -> dict[str, Any]:
        """Return what ``status --json`` says; *side* is sender or receiver."""
        config = (self.low if side == "sender" else self.high) / f"{side}.yaml"
        done = subprocess.run(
            [sys.executable, "-m", side, "status", "--json", "--config", str(config)],
            cwd=ROOT,
            capture_output=True,
            check=False,
        )
        return dict(json.loads(done.stdout))

    def partial_bytes(self) -> int:
        """Return how many bytes of the largest unfinished object the receiver has on disk, by its journal."""
        with self._receiver_journal() as journal:
            return max((done for _, done, _ in journal.partials()), default=0) if journal else 0

    def sent_bytes(self) -> int:
        """Return the content bytes of this session that left, by the sender's journal."""
        journal = SenderJournal(self.low / "state/journal.sqlite")
        try:
            return int(journal.live().get("transmit", ({}, 0.0))[0].get("content_bytes", 0))
        finally:
            journal.close()

    def counters(self) -> dict[str, int]:
        """Return the receiver's counters since ever."""
        with self._receiver_journal() as journal:
            return journal.counters() if journal else {}

    @contextlib.contextmanager
    def _receiver_journal(self) -> Iterator[ReceiverJournal | None]:
        """None before the receiver has created it."""
        try:
            journal = ReceiverJournal(self.high / "state/journal.sqlite", read_only=True)
        except UserError:
            yield None
            return
        with contextlib.closing(journal):
            yield journal

    def stop(self) -> str:
        """End what still runs; return the end of all logs."""
        for process in self.processes:
            process.stop()
        return "\n\n".join(f"{each.name}\n" + "\n".join(each.lines()[-20:]) for each in self.processes)

    def _start(self, side: str, folder: Path, prefix: list[str]) -> Process:
        name = f"{side}-{len(self.processes)}"
        argv = [*command(f"checkvalve-{side}"), "run", "--config", str(folder / f"{side}.yaml")]
        self.processes.append(Process(name, argv, self.folder / name, prefix=prefix))
        return self.processes[-1]

    def _command(self, side: str, *arguments: str | Path) -> None:
        argv = [sys.executable, "-m", side, *map(str, arguments)]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def missing_programs() -> str | None:
    """Return which program the tests with real registries lack, or None."""
    for program in ("docker-registry", "skopeo"):
        if shutil.which(program) is None:
            return f"{program} is not installed: sudo apt-get install {program}"
    return None
