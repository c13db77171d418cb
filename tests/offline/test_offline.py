"""What the offline file does on a host: installs, refuses, upgrades, goes back, and removes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.offline.conftest import build, key_pair, run
from tests.support.waits import wait_for


def tree(root: Path) -> dict[str, tuple[int, int]]:
    return {str(p.relative_to(root)): (p.lstat().st_mode, p.lstat().st_mtime_ns) for p in root.rglob("*")}


def test_same_tree_gives_same_bytes(tmp_path: Path, keys: tuple[Path, Path], old_and_new: tuple[Path, Path]) -> None:
    again = build(tmp_path, "0.1.0", keys[0])
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(old_and_new[1].read_bytes()).digest()


@pytest.mark.parametrize(("side", "other"), [("sender", "receiver"), ("receiver", "sender")])
def test_a_side_has_only_its_own_code_and_a_second_run_changes_nothing(
    side: str, other: str, bare: Path, keys: tuple[Path, Path], old_and_new: tuple[Path, Path]
) -> None:
    arguments = ("install", "--side", side, "--root", bare, "--verify-key", keys[1])
    done = run(old_and_new[1], *arguments)
    assert done.returncode == 0, done.stderr
    assert "signature: good" in done.stdout
    (packages,) = (bare / f"opt/checkvalve/{side}/current/lib").glob("python3.*/site-packages")
    assert (packages / side).is_dir()
    assert not (packages / other).exists()
    assert (packages / "oci/layout.py").exists()
    assert (packages / "oci/logins.py").exists() == (side == "sender")
    # the one key that the installation makes is of this side and of this host
    assert [p.name for p in bare.rglob("*.pem") if p.name != "cacert.pem"] == [f"{side}.pem"]
    assert (bare / f"etc/checkvalve/keys/{side}.pem").stat().st_mode & 0o777 == 0o600
    assert f"state: /var/lib/checkvalve-{side}" in (bare / f"etc/checkvalve/{side}.yaml").read_text()
    assert (bare / f"opt/checkvalve/bin/checkvalve-{side}").stat().st_mode & 0o777 == 0o755
    assert (bare / f"etc/systemd/system/checkvalve-{side}.target").exists()
    assert (bare / "etc/checkvalve/keys").stat().st_mode & 0o777 == 0o755
    helped = subprocess.run(
        [bare / f"opt/checkvalve/{side}/current/bin/python", "-I", "-m", side, "--help"],
        capture_output=True,
        text=True,
    )
    assert f"Usage: checkvalve-{side} " in helped.stdout
    before = tree(bare)
    again = run(old_and_new[1], *arguments)
    assert again.returncode == 0, again.stderr
    assert "nothing changed" in again.stdout
    assert tree(bare) == before
    status = run(old_and_new[1], "status", "--side", side, "--root", bare)
    assert status.returncode == 0, status.stderr


def test_upgrade_keeps_state_rollback_returns_and_downgrade_is_refused(
    bare: Path, old_and_new: tuple[Path, Path]
) -> None:
    old, new = old_and_new
    where = ("--side", "receiver", "--root", bare)
    assert run(old, "install", *where).returncode == 0
    state, settings = bare / "var/lib/checkvalve-receiver/journal", bare / "etc/checkvalve/receiver.yaml"
    state.write_text("state")
    settings.write_text("settings")
    current = bare / "opt/checkvalve/receiver/current"
    former_unit = bare / "etc/systemd/system/checkvalve-publish.timer"
    former_unit.write_text("of a former version")
    unit = bare / "etc/systemd/system/checkvalve-publish.service"
    unit_before = unit.read_text()
    assert run(new, "upgrade", *where).returncode == 0
    assert current.readlink().name == "0.1.0"
    assert not former_unit.exists()
    unit.write_text("as the new version has it")
    refused = run(old, "install", *where)
    assert refused.returncode == 1
    assert "0.1.0 is in use and is newer than 0.0.9" in refused.stderr
    assert run(new, "rollback", *where).returncode == 0
    assert current.readlink().name == "0.0.9"
    assert unit.read_text() == unit_before
    assert run(new, "uninstall", *where).returncode == 0
    assert not (bare / "opt/checkvalve").exists()
    assert not list((bare / "etc/systemd/system").iterdir())
    assert (state.read_text(), settings.read_text()) == ("state", "settings")
    assert run(new, "uninstall", "--purge", *where).returncode == 0
    assert not state.exists()
    assert not settings.exists()


def signed_by(key: Path, file: Path) -> bool:
    """As OPERATIONS.md says it, before anything of the file runs."""
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", key, "-rawin", "-in", file, "-sigfile"]
    return subprocess.run([*command, f"{file}.sig"], capture_output=True).returncode == 0


def extract(file: Path, folder: Path) -> Path:
    assert run(file, "--extract", folder).returncode == 0
    return folder / "install.sh"


def test_a_tampered_wheel_is_refused_by_name(bare: Path, tmp_path: Path, old_and_new: tuple[Path, Path]) -> None:
    installer = extract(old_and_new[1], tmp_path / "x")
    (wheel,) = (tmp_path / "x/wheels").glob("aiosignal-*.whl")
    wheel.write_bytes(wheel.read_bytes() + b"!")
    done = run(installer, "install", "--side", "receiver", "--root", bare)
    assert done.returncode == 1
    assert wheel.name in done.stderr
    assert not (bare / "opt").exists()


def test_a_wheel_that_no_checksum_covers_is_refused(
    bare: Path, tmp_path: Path, old_and_new: tuple[Path, Path]
) -> None:
    installer = extract(old_and_new[1], tmp_path / "x")
    (tmp_path / "x/wheels/pip-99-py3-none-any.whl").write_bytes(b"")
    done = run(installer, "install", "--side", "receiver", "--root", bare)
    assert done.returncode == 1
    assert "does not list just the files" in done.stderr
    assert not (bare / "opt").exists()


def test_signatures_of_another_key_and_missing_ones_are_refused(
    bare: Path, tmp_path: Path, keys: tuple[Path, Path], old_and_new: tuple[Path, Path]
) -> None:
    _, stranger = key_pair(tmp_path, "stranger")
    assert signed_by(keys[1], old_and_new[1])
    assert not signed_by(stranger, old_and_new[1])
    done = run(old_and_new[1], "install", "--side", "sender", "--root", bare, "--verify-key", stranger)
    assert (done.returncode, "do not install" in done.stderr) == (1, True)
    unsigned = build(tmp_path, "0.1.0", None)
    done = run(unsigned, "install", "--side", "sender", "--root", bare, "--verify-key", keys[1])
    assert (done.returncode, "not signed" in done.stderr) == (1, True)
    assert not (bare / "opt").exists()


def test_the_sbom_names_every_wheel_with_its_digest(tmp_path: Path, old_and_new: tuple[Path, Path]) -> None:
    extract(old_and_new[1], tmp_path / "x")
    document = json.loads((tmp_path / "x/sbom.cdx.json").read_text())
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    said = {
        part["name"]: part["hashes"][0]["content"] for one in document["components"] for part in one["components"]
    }
    wheels = (tmp_path / "x/wheels").glob("*.whl")
    assert said == {wheel.name: hashlib.sha256(wheel.read_bytes()).hexdigest() for wheel in wheels}


def test_an_installation_that_is_killed_midway_leaves_nothing_that_runs_and_the_next_one_ends_it(
    bare: Path, old_and_new: tuple[Path, Path]
) -> None:
    where = ["install", "--side", "sender", "--root", str(bare)]
    versions = bare / "opt/checkvalve/sender/versions"
    killed = subprocess.Popen(["sh", str(old_and_new[1]), *where], start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: (versions / "0.1.0/bin/python").exists())
    finally:
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
    assert not (versions / "0.1.0/.complete").exists()
    assert not (bare / "opt/checkvalve/sender/current").is_symlink()
    assert run(old_and_new[1], *where).returncode == 0
    assert (bare / "opt/checkvalve/sender/current/.complete").exists()


def test_a_python_that_will_not_do_is_named(bare: Path, tmp_path: Path, old_and_new: tuple[Path, Path]) -> None:
    old_python = tmp_path / "python3.9"
    old_python.write_text("#!/bin/sh\necho 3.9\n")
    old_python.chmod(0o755)
    done = run(old_and_new[1], "install", "--side", "sender", "--root", bare, "--python", old_python)
    assert done.returncode == 1
    assert f"need 3.11, 3.12 or 3.13 with venv; found: {old_python} is 3.9" in done.stderr
    assert not (bare / "opt").exists()


def test_debian_packages_hold_their_sides_code_only_and_the_same_installer(
    tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb is not installed")
    build(tmp_path, "0.1.0", keys[0], "--deb")
    for side, other in (("sender", "receiver"), ("receiver", "sender")):
        package = tmp_path / f"checkvalve-{side}_0.1.0_amd64.deb"
        unpacked = tmp_path / side
        assert signed_by(keys[1], package)
        subprocess.run(["dpkg-deb", "--raw-extract", package, unpacked], check=True)
        assert "Depends: python3 (>= 3.11), python3 (<< 3.14~)" in (unpacked / "DEBIAN/control").read_text()
        assert not list(unpacked.rglob(f"checkvalve_{other}-*"))
        (installer,) = unpacked.rglob("install.sh")
        for script in ("postinst", "prerm"):
            assert f"/{installer.relative_to(unpacked)} " in (unpacked / "DEBIAN" / script).read_text()
        verified = run(installer, "verify", "--verify-key", keys[1])
        assert verified.returncode == 0, verified.stderr
