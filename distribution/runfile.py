"""One self-extracting file out of a bundle's folder: a header for sh, then a tar."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from distribution.project import Project

_HERE = Path(__file__).parent


def write_runfile(project: Project, folder: Path, goal: Path) -> None:
    """Write *goal* whole or not at all; owners, times and order are the same wherever it is made."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted(folder.rglob("*")):
            entry = tarfile.TarInfo(str(path.relative_to(folder)))
            entry.mtime = project.epoch
            entry.mode = 0o755 if path.is_dir() else 0o644
            if path.is_dir():
                entry.type = tarfile.DIRTYPE
                archive.addfile(entry)
            else:
                content = path.read_bytes()
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    goal.parent.mkdir(parents=True, exist_ok=True)
    fresh = goal.with_suffix(".new")
    fresh.write_bytes((_HERE / "header.sh").read_bytes() + packed.getvalue())
    fresh.chmod(0o755)
    fresh.replace(goal)
