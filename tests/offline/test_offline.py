"""What the offline file does on a host: installs, refuses, upgrades, goes back, and removes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tests.offline.conftest import build, key_pair, run


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
    # the one key that the installation makes is of this side and of this host
    assert [p.name for p in bare.rglob("*.pem") if p.name != "cacert.pem"] == [f"{side}.pem"]
    assert (bare / f"etc/checkvalve/keys/{side}.pem").stat().st_mode & 0o777 == 0o600
    assert f"state: /var/lib/checkvalve-{side}" in (bare / f"etc/checkvalve/{side}.yaml").read_text()
    assert (bare / f"opt/checkvalve/bin/checkvalve-{side}").stat().st_mode & 0o777 == 0o755
    assert (bare / f"etc/systemd/system/checkvalve-{side}.target").exists()
    assert (bare / "etc/checkvalve/keys").stat().st_mode & 0o777 == 0o755
    before = tree(bare)
    again = run(old_and_new[1], *arguments)
    assert again.returncode == 0, again.stderr
    assert "nothing changed" in again.stdout
    assert tree(bare) == before
    status = run(old_and_new[1], "status", "--side", side, "--root", bare)
    assert status.returncode == 0, status.stderr


def test_the_receiver_lacks_modules_that_only_the_sender_needs(bare: Path, old_and_new: tuple[Path, Path]) -> None:
    assert run(old_and_new[1], "install", "--side", "receiver", "--root", bare).returncode == 0
    (packages,) = (bare / "opt/checkvalve/receiver/current/lib").glob("python3.*/site-packages")
    assert (packages / "oci/layout.py").exists()
    assert not (packages / "oci/mirrors.py").exists()


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
    assert run(new, "upgrade", *where).returncode == 0
    assert current.readlink().name == "0.1.0"
    refused = run(old, "install", *where)
    assert refused.returncode == 1
    assert "0.1.0 is in use and is newer than 0.0.9" in refused.stderr
    assert run(new, "rollback", *where).returncode == 0
    assert current.readlink().name == "0.0.9"
    assert run(new, "uninstall", *where).returncode == 0
    assert not (bare / "opt/checkvalve").exists()
    assert not list((bare / "etc/systemd/system").iterdir())
    assert (state.read_text(), settings.read_text()) == ("state", "settings")
    assert run(new, "uninstall", "--purge", *where).returncode == 0
    assert not state.exists()
    assert not settings.exists()


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
