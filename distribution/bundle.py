"""The folder that is installed from: wheels, requirements, units, documents, SBOM, checksums, and their signature."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from distribution.download import wheels_for
from distribution.lock import read_lock
from distribution.project import DOCUMENTS, SIDES, BuildError, Project
from distribution.sbom import bill
from distribution.wheel import build_wheel

_HERE = Path(__file__).parent


def make_bundle(
    project: Project, arch: str, cache: Path, key: Path | None, folder: Path, sides: tuple[str, ...] = SIDES
) -> None:
    """Fill *folder*, making it, with our code of *sides* only. Without *key* there is no SHA256SUMS.sig."""
    runtime = read_lock(project.root / "requirements/runtime.txt")
    tools = read_lock(project.root / "requirements/dist.txt")
    wheels = folder / "wheels"
    wheels.mkdir(parents=True)
    for wheel in wheels_for((*runtime, *tools), arch, cache):
        shutil.copyfile(wheel, wheels / wheel.name)
    (folder / "requirements").mkdir()
    for side in sides:
        own = build_wheel(project, side, runtime, wheels)
        pinned = f"checkvalve-{side}=={project.version} --hash=sha256:{_sha256(own)}"
        lines = [*(one.requirement() for one in runtime), pinned]
        (folder / f"requirements/{side}.txt").write_text("\n".join(lines) + "\n")
    shutil.copytree(project.root / "systemd", folder / "systemd", ignore=shutil.ignore_patterns("*.md"))
    (folder / "doc").mkdir()
    for name in DOCUMENTS:
        shutil.copyfile(project.root / name, folder / "doc" / Path(name).name)
    (folder / "sbom.cdx.json").write_text(bill(project, tuple(sorted(wheels.glob("*.whl")))))
    (folder / "VERSION").write_text(f"{project.version}\n")
    (folder / "ARCH").write_text(f"{arch}\n")
    shutil.copyfile(_HERE / "install.sh", folder / "install.sh")
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    sums = "".join(f"{_sha256(folder / name)}  {name}\n" for name in files).encode()
    (folder / "SHA256SUMS").write_bytes(sums)
    if key is not None:
        (folder / "SHA256SUMS.sig").write_bytes(release_key(key).sign(sums))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def release_key(path: Path) -> Ed25519PrivateKey:
    """Return the key at *path*; BuildError if that is no unencrypted Ed25519 key."""
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise BuildError(f"RELEASE_KEY {path}: {error}; expected an unencrypted Ed25519 key in PEM") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise BuildError(f"RELEASE_KEY {path}: is no Ed25519 key")
    return key
