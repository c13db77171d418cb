"""One file that unpacks itself: a shell script, and behind it a tar with nothing in it that time or place decides."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Final

from distribution.bundle import Bundle

_HEADER: Final = """\
#!/bin/sh
# checkvalve {version} for {arch}: `sh {name} --help`. A tar begins at line {line}.
set -eu
self=$0
case ${{1:-}} in
--extract)
    [ -n "${{2:-}}" ] || {{ echo "error: --extract needs a folder" >&2; exit 2; }}
    mkdir -p -- "$2"
    tail -n +{line} -- "$self" | tar -x -C "$2" --no-same-owner
    echo "$2/{folder}"
    exit 0
    ;;
esac
place=$(mktemp -d "${{TMPDIR:-/var/tmp}}/checkvalve.XXXXXX")
trap 'rm -rf -- "$place"' EXIT
trap 'exit 130' INT TERM
tail -n +{line} -- "$self" | tar -x -C "$place" --no-same-owner ||
    {{ echo "error: $self: cut off or damaged, or no room in $place; copy the file again" >&2; exit 1; }}
sh "$place/{folder}/install.sh" "$@"
exit
"""


def write(bundle: Bundle, into: Path) -> Path:
    """Write ``checkvalve-VERSION-ARCH.run`` into *into*; return it."""
    path = into / f"{bundle.folder.name}.run"
    values = {"version": bundle.project.version, "arch": bundle.arch, "name": path.name, "folder": bundle.folder.name}
    line = _HEADER.count("\n") + 1
    header = _HEADER.format(**values, line=line)
    with path.open("wb") as file:
        file.write(header.encode())
        file.write(_tar(bundle))
    path.chmod(0o755)
    return path


def _tar(bundle: Bundle) -> bytes:
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted([bundle.folder, *bundle.folder.rglob("*")]):
            entry = archive.gettarinfo(path, arcname=str(path.relative_to(bundle.folder.parent)))
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = "root"
            entry.mtime = bundle.project.epoch
            if path.is_file():
                with path.open("rb") as content:
                    archive.addfile(entry, content)
            else:
                archive.addfile(entry)
    return memory.getvalue()
