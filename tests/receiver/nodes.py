"""A node's side in tests: Debian's containerd as a daemon of its own, with its client ctr."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
import zstandard

CONFIG = """\
version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
  address = "{folder}/containerd.sock"
"""


class Containerd:
    """One containerd with an empty store."""

    def __init__(self, folder: Path) -> None:
        for program in ("containerd", "ctr"):
            if shutil.which(program) is None:
                pytest.skip(f"{program} is not installed: sudo apt-get install containerd")
        if os.geteuid() != 0:
            pytest.skip("containerd needs root")
        self._folder = folder
        config = folder / "config.toml"
        config.write_text(CONFIG.format(folder=folder))
        with (folder / "log").open("ab") as log:
            self._process = subprocess.Popen(["containerd", "-c", str(config)], stdout=log, stderr=log)
        deadline = time.monotonic() + 15
        while self.ctr("version", check=False).returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"containerd does not start: {(folder / 'log').read_text()[-500:]}")
            time.sleep(0.05)

    def ctr(self, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run ctr; fails the test for an exit code that is not 0, unless not to *check*."""
        argv = ["ctr", "--address", f"{self._folder}/containerd.sock", *map(str, arguments)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
        if check and done.returncode:
            pytest.fail(f"{' '.join(argv)}: {done.stderr}")
        return done

    def import_archive(self, path: Path, *options: str) -> None:
        """Import as K3s does: decompressed by extension, nothing unpacked."""
        with path.open("rb") as file, tempfile.NamedTemporaryFile(suffix=".tar", dir=self._folder) as plain:
            if path.suffix == ".zst":
                zstandard.ZstdDecompressor(max_window_size=32 << 20).copy_stream(file, plain)
            else:
                shutil.copyfileobj(file, plain)
            plain.flush()
            self.ctr("images", "import", "--no-unpack", *options, plain.name)

    def images(self) -> dict[str, str]:
        """Name -> digest of every image that the node has."""
        rows = [line.split() for line in self.ctr("images", "list").stdout.splitlines()[1:]]
        return {row[0]: row[2] for row in rows}

    def content(self) -> set[str]:
        """The digest of every blob that the node has."""
        return set(self.ctr("content", "list", "-q").stdout.split())

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
