"""Key files: written once, readable by their owner only, and refused with a remedy."""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from runtime import keys
from runtime.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    keys.create_signing_key(tmp_path / "signing.pem")
    keys.create_hpke_key(tmp_path / "hpke.pem")
    return tmp_path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_modes_do_not_depend_on_the_umask(tmp_path: Path, umask: int) -> None:
    former = os.umask(umask)
    try:
        keys.create_signing_key(tmp_path / "sub" / "signing.pem")
    finally:
        os.umask(former)
    assert mode(tmp_path / "sub" / "signing.pem") == 0o600
    assert mode(tmp_path / "sub" / "signing.pub") == 0o644


def test_signing_pair_belongs_together(folder: Path) -> None:
    private = keys.load_signing_key(folder / "signing.pem")
    public = keys.load_signing_public(folder / "signing.pub")
    public.verify(private.sign(b"release"), b"release")
    assert (folder / "signing.pem").read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    assert (folder / "signing.pub").read_bytes().startswith(b"-----BEGIN PUBLIC KEY-----")


def test_hpke_pair_belongs_together(folder: Path) -> None:
    private = keys.load_hpke_key(folder / "hpke.pem")
    public = keys.load_hpke_public(folder / "hpke.pub")
    assert private.public_key().public_bytes_raw() == public.public_bytes_raw()


def test_fingerprint_is_the_hash_of_the_raw_key() -> None:
    # public key of RFC 8032 section 7.1, test 1
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    raw = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key()
    assert public.public_bytes_raw() == raw
    assert keys.key_id(public) == hashlib.sha256(raw).digest()
    assert keys.fingerprint(public) == "SHA256:" + base64.b64encode(hashlib.sha256(raw).digest()).decode().rstrip("=")
    assert len(keys.fingerprint(public)) == 7 + 43


@pytest.mark.parametrize("existing", ["signing.pem", "signing.pub"])
def test_nothing_is_overwritten(tmp_path: Path, existing: str) -> None:
    (tmp_path / existing).write_text("precious")
    with pytest.raises(UserError, match=f"{existing}: exists already"):
        keys.create_signing_key(tmp_path / "signing.pem")
    assert [path.name for path in tmp_path.iterdir()] == [existing]
    assert (tmp_path / existing).read_text() == "precious"


def test_a_private_key_is_not_named_like_a_public_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"signing\.pem"):
        keys.create_signing_key(tmp_path / "signing.pub")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bits", [0o644, 0o640, 0o604, 0o660])
def test_readable_by_others_is_refused_with_the_command(folder: Path, bits: int) -> None:
    path = folder / "signing.pem"
    path.chmod(bits)
    with pytest.raises(UserError) as caught:
        keys.load_signing_key(path)
    assert str(caught.value).endswith(f"run chmod 600 {path}")
    assert f"{path}: mode is {bits:04o}" in str(caught.value)
    path.chmod(0o400)
    keys.load_signing_key(path)


def test_systemd_credentials_may_show_a_group_bit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "signing.pem"
    path.chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    keys.load_signing_key(path)
    path.chmod(0o444)
    with pytest.raises(UserError, match="chmod 600"):
        keys.load_signing_key(path)


def test_missing_names_the_command_that_creates_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"signing\.pem: no such key file; `checkvalve-sender init` creates it"):
        keys.load_signing_key(tmp_path / "signing.pem", created_by="checkvalve-sender init")


def other_curve(folder: Path) -> Path:
    path = folder / "p256.pem"
    secret = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(secret)
    path.chmod(0o600)
    return path


def with_passphrase(folder: Path) -> Path:
    path = folder / "locked.pem"
    secret = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    )
    path.write_bytes(secret)
    path.chmod(0o600)
    return path


def torn(folder: Path) -> Path:
    path = folder / "torn.pem"
    path.write_bytes((folder / "signing.pem").read_bytes()[:60])
    path.chmod(0o600)
    return path


def huge(folder: Path) -> Path:
    path = folder / "huge.pem"
    path.write_bytes(b"x" * 100_000)
    path.chmod(0o600)
    return path


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.pem", 0o600)
    return folder / "pipe.pem"


@pytest.mark.parametrize(
    ("load", "make", "hint"),
    [
        (keys.load_signing_key, lambda f: f / "hpke.pem", "X25519PrivateKey.*Ed25519 private key is needed"),
        (keys.load_hpke_key, lambda f: f / "signing.pem", "Ed25519PrivateKey.*X25519 private key is needed"),
        (keys.load_signing_key, lambda f: f / "signing.pub", "is a public key"),
        (
            keys.load_signing_public,
            lambda f: f / "signing.pem",
            r"is a private key; give the public half, signing\.pub",
        ),
        (keys.load_signing_public, lambda f: f / "hpke.pub", "Ed25519 public key is needed"),
        (keys.load_hpke_public, lambda f: f / "signing.pub", "X25519 public key is needed"),
        (keys.load_signing_key, other_curve, "Ed25519 private key is needed"),
        (keys.load_signing_key, with_passphrase, "passphrase"),
        (keys.load_signing_key, torn, "not a PEM private key"),
        (keys.load_signing_key, huge, "larger than"),
        (keys.load_signing_key, pipe, "not a regular file"),
        (keys.load_signing_key, lambda f: f, "signing|regular|cannot"),
    ],
)
def test_wrong_files(folder: Path, load: Callable[[Path], object], make: Callable[[Path], Path], hint: str) -> None:
    path = make(folder)
    with pytest.raises(UserError, match=hint) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_private_bytes_in_messages_or_repr(folder: Path) -> None:
    path = folder / "signing.pem"
    body = path.read_text().splitlines()[1]
    private = keys.load_signing_key(path)
    with pytest.raises(UserError) as caught:
        keys.load_signing_public(path)
    assert private.private_bytes_raw().hex() not in repr(private)
    assert body not in str(caught.value)
    assert caught.value.__cause__ is None
