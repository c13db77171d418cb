"""Key files: Ed25519 signing keys and X25519 HPKE keys as PEM (PKCS8 private, SubjectPublicKeyInfo public).

Refuses to know what is signed or wrapped. Private key material appears in no message, log line or ``repr``.
"""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from runtime.durable import sync_folder
from runtime.errors import UserError

KEY_FILE_BYTES_MAX = 16 * 1024
RSA_BITS_MIN = 2048  # NIST SP 800-131A: less is not to be trusted any more

PublicKey = Ed25519PublicKey | X25519PublicKey
VerificationKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | Ed25519PublicKey
_PrivateKey = Ed25519PrivateKey | X25519PrivateKey


def create_signing_key(path: Path) -> Ed25519PublicKey:
    """Write a new Ed25519 key to ``path`` (0600) and its public half to ``public_path(path)`` (0644).

    Raises ``UserError`` if either file exists; nothing is ever overwritten.
    """
    private = Ed25519PrivateKey.generate()
    _write_pair(path, private)
    return private.public_key()


def create_hpke_key(path: Path) -> X25519PublicKey:
    """Write a new X25519 key for HPKE (RFC 9180, DHKEM(X25519)), as ``create_signing_key`` does."""
    private = X25519PrivateKey.generate()
    _write_pair(path, private)
    return private.public_key()


def public_path(path: Path) -> Path:
    """Where the public half of a private key file lies: ``signing.pem`` → ``signing.pub``."""
    return path.with_suffix(".pub")


def load_signing_key(path: Path, *, created_by: str = "") -> Ed25519PrivateKey:
    """The Ed25519 private key in a PEM file that only its owner can read. Raises ``UserError``."""
    key = _load_private(path, "Ed25519 private key", created_by)
    if not isinstance(key, Ed25519PrivateKey):
        raise _wrong_kind(path, key, "Ed25519 private key")
    return key


def load_hpke_key(path: Path, *, created_by: str = "") -> X25519PrivateKey:
    """The X25519 private key in a PEM file that only its owner can read. Raises ``UserError``."""
    key = _load_private(path, "X25519 private key", created_by)
    if not isinstance(key, X25519PrivateKey):
        raise _wrong_kind(path, key, "X25519 private key")
    return key


def load_signing_public(path: Path, *, created_by: str = "") -> Ed25519PublicKey:
    """The Ed25519 public key in a PEM file. Raises ``UserError``."""
    key = _load_public(path, "Ed25519 public key", created_by)
    if not isinstance(key, Ed25519PublicKey):
        raise _wrong_kind(path, key, "Ed25519 public key")
    return key


def load_hpke_public(path: Path, *, created_by: str = "") -> X25519PublicKey:
    """The X25519 public key in a PEM file. Raises ``UserError``."""
    key = _load_public(path, "X25519 public key", created_by)
    if not isinstance(key, X25519PublicKey):
        raise _wrong_kind(path, key, "X25519 public key")
    return key


def load_verification_key(path: Path) -> VerificationKey:
    """The public key in a PEM file with which others sign: ECDSA, RSA or Ed25519. Raises ``UserError``.

    Curves are P-256, P-384 and P-521 (FIPS 186-5), RSA has at least ``RSA_BITS_MIN`` bits.
    """
    needed = "ECDSA, RSA or Ed25519 public key"
    key = _load_public(path, needed, "")
    if isinstance(key, ec.EllipticCurvePublicKey):
        if not isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1 | ec.SECP521R1):
            raise UserError(f"{path}: is a key on curve {key.curve.name}; one on P-256, P-384 or P-521 is needed")
        return key
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < RSA_BITS_MIN:
            raise UserError(f"{path}: is an RSA key of {key.key_size} bits; one of at least {RSA_BITS_MIN} is needed")
        return key
    if not isinstance(key, Ed25519PublicKey):
        raise _wrong_kind(path, key, needed)
    return key


def key_id(public: PublicKey) -> bytes:
    """SHA-256 (32 bytes) of the 32 raw bytes of a public key (RFC 8032 section 5.1.5, RFC 7748 section 5)."""
    return hashlib.sha256(public.public_bytes_raw()).digest()


def fingerprint(public: PublicKey) -> str:
    """``key_id`` for people to compare: ``SHA256:`` and base64 without padding."""
    return "SHA256:" + base64.b64encode(key_id(public)).decode().rstrip("=")


def _write_pair(path: Path, private: _PrivateKey) -> None:
    public = public_path(path)
    if public == path:
        raise UserError(f"{path}: .pub is the name of the public half; name the private key e.g. {path.stem}.pem")
    for existing in (path, public):
        if os.path.lexists(existing):
            raise UserError(f"{existing}: exists already and is kept; move it away to make a new key")
    secret = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    open_part = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_new(path, secret, 0o600)
        _write_new(public, open_part, 0o644)
        sync_folder(path.parent)
    except FileExistsError as error:
        raise UserError(f"{error.filename}: exists already and is kept; move it away to make a new key") from None
    except OSError as error:
        raise UserError(f"{error.filename or path}: cannot be written: {error.strerror}") from None


def _write_new(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)  # whatever the umask says
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def _load_private(path: Path, needed: str, created_by: str) -> object:
    content, mode = _read(path, created_by)
    if b"PUBLIC KEY" in content:
        raise UserError(f"{path}: is a public key; an {needed} is needed here")
    if mode & _forbidden_bits(path):
        raise UserError(f"{path}: mode is {mode:04o}, others could read this private key; run chmod 600 {path}")
    try:
        return serialization.load_pem_private_key(content, password=None)
    except TypeError:
        raise UserError(f"{path}: is protected by a passphrase; an {needed} without one is needed") from None
    except (ValueError, UnsupportedAlgorithm):
        raise UserError(f"{path}: is not a PEM private key; an {needed} (PKCS8) is needed") from None


def _load_public(path: Path, needed: str, created_by: str) -> object:
    content, _ = _read(path, created_by)
    if b"PRIVATE KEY" in content:
        raise UserError(f"{path}: is a private key; give the public half, {public_path(path).name}")
    try:
        return serialization.load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm):
        raise UserError(f"{path}: is not a PEM public key; an {needed} is needed") from None


def _wrong_kind(path: Path, key: object, needed: str) -> UserError:
    return UserError(f"{path}: holds a key of another kind ({type(key).__name__}); an {needed} is needed here")


def _forbidden_bits(path: Path) -> int:
    """Group and world; systemd's credential folder shows an ACL's mask as a group bit (systemd.exec(5))."""
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    if credentials and path.absolute().parent == Path(credentials):
        return 0o037
    return 0o077


def _read(path: Path, created_by: str) -> tuple[bytes, int]:
    """Content and permission bits, taken from the same open file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UserError(f"{path}: is not a regular file; give the PEM file itself")
            content = file.read(KEY_FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        remedy = f"`{created_by}` creates it" if created_by else "check the path"
        raise UserError(f"{path}: no such key file; {remedy}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if len(content) > KEY_FILE_BYTES_MAX:
        raise UserError(f"{path}: larger than {KEY_FILE_BYTES_MAX} bytes; this is no PEM key")
    return content, stat.S_IMODE(status.st_mode)
