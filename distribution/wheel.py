"""Our own code as a wheel (PEP 427), one for each side, written byte by byte the same from the same tree."""

from __future__ import annotations

import base64
import hashlib
import time
import zipfile
from pathlib import Path
from typing import Final

from distribution.lock import Locked
from distribution.project import Project
from distribution.split import modules_of

_MODE: Final = 0o100644 << 16


def build_wheel(project: Project, side: str, requires: tuple[Locked, ...], folder: Path) -> Path:
    """Write ``checkvalve_SIDE-VERSION-py3-none-any.whl`` into *folder*; it requires just what *requires* pins."""
    stem = f"checkvalve_{side}-{project.version}"
    info = f"{stem}.dist-info"
    contents = {str(path): (project.root / path).read_bytes() for path in modules_of(project.root, side)}
    contents |= {
        f"{info}/METADATA": _metadata(project, side, requires).encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: checkvalve\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\ncheckvalve-{side} = {side}.cli:main\n".encode(),
        f"{info}/licenses/LICENSE": (project.root / "LICENSE").read_bytes(),
    }
    contents[f"{info}/RECORD"] = _record(contents, f"{info}/RECORD")
    path = folder / f"{stem}-py3-none-any.whl"
    when = time.gmtime(project.epoch)[:6]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in contents.items():
            entry = zipfile.ZipInfo(name, when)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3  # Unix, on whatever it is built
            entry.external_attr = _MODE
            archive.writestr(entry, content)
    return path


def _metadata(project: Project, side: str, requires: tuple[Locked, ...]) -> str:
    lines = [
        "Metadata-Version: 2.4",
        f"Name: checkvalve-{side}",
        f"Version: {project.version}",
        f"Summary: {project.table['description']}: the {side}",
        f"License-Expression: {project.table['license']}",
        "License-File: LICENSE",
        f"Requires-Python: {project.table['requires-python']}",
        *(f"Requires-Dist: {locked.name}=={locked.version}" for locked in requires),
    ]
    return "\n".join(lines) + "\n"


def _record(contents: dict[str, bytes], own: str) -> bytes:
    lines = []
    for name, content in contents.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(content)}\n")
    return "".join([*lines, f"{own},,\n"]).encode()
