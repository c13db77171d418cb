"""The folder that is shipped: wheels, units, documents and installer, with checksums over all of it and a signature."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from distribution.download import wheels_for
from distribution.lock import Locked, normalised, read_lock
from distribution.project import DOCUMENTS, SIDES, BuildError, Project
from distribution.sbom import sbom
from distribution.split import third_parties
from distribution.wheel import build_wheel

INSTALLER: Final = Path(__file__).parent / "installer" / "install.sh"
_ROLES: Final = {"sender": ("fetch", "transmit", "sender"), "receiver": ("capture", "publish", "receiver")}


@dataclass(frozen=True, slots=True)
class Bundle:
    """The finished folder, named checkvalve-VERSION-ARCH, and whether it is signed."""

    folder: Path
    project: Project
    arch: str
    signed: bool


def build(project: Project, arch: str, into: Path, cache: Path, signer: Ed25519PrivateKey | None) -> Bundle:
    """Make the folder in *into*, anew. *cache* keeps downloaded wheels. BuildError says what to mend."""
    folder = into / f"checkvalve-{project.version}-{arch}"
    shutil.rmtree(folder, ignore_errors=True)
    wheels = folder / "wheels"
    wheels.mkdir(parents=True)
    locked = read_lock(project.root / "requirements" / "runtime.txt")
    for path in wheels_for(locked, arch, cache):
        shutil.copyfile(path, wheels / path.name)
    for side in SIDES:
        own = build_wheel(project, side, locked, wheels)
        (folder / f"requirements-{side}.txt").write_text(_requirements(project, side, own, locked))
    _pip(project, arch, folder / "pip", cache)
    _host_files(project, folder / "systemd")
    (folder / "doc").mkdir()
    for name in DOCUMENTS:
        shutil.copyfile(project.root / name, folder / "doc" / Path(name).name)
    shutil.copyfile(INSTALLER, folder / "install.sh")
    (folder / "VERSION").write_text(f"{project.version}\n")
    (folder / "sbom.cdx.json").write_bytes(sbom(project, [*wheels.iterdir(), *(folder / "pip").iterdir()], arch))
    _sums(folder, signer)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() or path.name == "install.sh" else 0o644)
    return Bundle(folder, project, arch, signer is not None)


def host_files(root: Path, side: str) -> list[str]:
    """Return what of systemd/ belongs on *side*'s host, relative to it: its own files, and those of no side."""
    (other,) = set(SIDES) - {side}
    found = []
    for path in sorted((root / "systemd").rglob("*")):
        name = path.relative_to(root / "systemd").as_posix()
        if path.is_dir() or path.suffix == ".md":
            continue
        if not any(word in path.name for word in _ROLES[other]):
            found.append(name)
    return found


def _host_files(project: Project, folder: Path) -> None:
    for side in SIDES:
        names = host_files(project.root, side)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(project.root / "systemd" / name, folder / name)
        (folder / f"{side}.files").write_text("".join(f"{name}\n" for name in names))


def _requirements(project: Project, side: str, own: Path, locked: tuple[Locked, ...]) -> str:
    strangers = third_parties(project.root, side)
    if not strangers:
        raise BuildError(f"{side}: imports nothing; is this the project's tree?")
    digest = hashlib.sha256(own.read_bytes()).hexdigest()
    lines = [f"checkvalve-{side}=={project.version} --hash=sha256:{digest}", *(each.requirement() for each in locked)]
    return "\n".join(lines) + "\n"


def _pip(project: Project, arch: str, folder: Path, cache: Path) -> None:
    """pip itself, as Debian's python3 comes without."""
    folder.mkdir()
    locked = tuple(each for each in read_lock(project.root / "requirements" / "dist.txt") if each.name == "pip")
    if not locked:
        raise BuildError("requirements/dist.txt: pins no pip")
    for path in wheels_for(locked, arch, cache):
        if normalised(path.name.partition("-")[0]) == "pip":
            shutil.copyfile(path, folder / path.name)


def _sums(folder: Path, signer: Ed25519PrivateKey | None) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n" for path in files]
    sums = "".join(lines).encode()
    (folder / "SHA256SUMS").write_bytes(sums)
    if signer is not None:
        (folder / "SHA256SUMS.sig").write_bytes(signer.sign(sums))
