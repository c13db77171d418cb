"""The offline file built once for all tests here, signed, and the means to install it where there is no network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]


def key_pair(folder: Path, name: str) -> tuple[Path, Path]:
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    return private, public


def build(output: Path, version: str, key: Path | None, *options: str) -> Path:
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000", "RELEASE_KEY": str(key) if key else ""}
    command = [sys.executable, "-m", "distribution", "--output", str(output), "--version", version, *options]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode and "wheels for Python" in done.stderr:
        pytest.skip(f"the wheels cannot be had: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert ("NOT SIGNED" in done.stderr) == (key is None)
    return output / f"checkvalve-{version}-x86_64.run"


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    return key_pair(tmp_path_factory.mktemp("keys"), "release")


@pytest.fixture(scope="session")
def old_and_new(tmp_path_factory: pytest.TempPathFactory, keys: tuple[Path, Path]) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("dist")
    return build(folder, "0.0.9", keys[0]), build(folder, "0.1.0", keys[0])


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A root that has nothing but the files that name root."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare")
    folder = tmp_path / "root"
    (folder / "etc").mkdir(parents=True)
    (folder / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (folder / "etc/group").write_text("root:x:0:\n")
    return folder


def run(file: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run *file* where there is no network."""
    command = ["unshare", "-n", "sh", str(file), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)
