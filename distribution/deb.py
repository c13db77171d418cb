"""Debian packages, one for each side, with its code only: the same folder, put in place by the same installer."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from distribution.project import ARCHITECTURES, SIDES, BuildError, Project

_CONTROL: Final = """\
Package: checkvalve-{side}
Version: {version}
Architecture: {arch}
Maintainer: checkvalve
Depends: python3 (>= 3.11), python3 (<< 3.14~)
Section: net
Priority: optional
Description: {description}: the {side}
 Installs an environment of its own below /opt/checkvalve, from the wheels that
 the package carries. Needs no network.
"""
_POSTINST: Final = """\
#!/bin/sh
set -e
if [ "$1" = configure ]; then
    sh /usr/share/checkvalve/{side}/install.sh install --side {side}
fi
"""
_PRERM: Final = """\
#!/bin/sh
set -e
if [ "$1" = remove ]; then
    sh /usr/share/checkvalve/{side}/install.sh uninstall --side {side}
fi
"""
_POSTRM: Final = """\
#!/bin/sh
set -e
if [ "$1" = purge ]; then
    rm -rf /var/lib/checkvalve-{side} /etc/checkvalve/{side}.yaml \\
        /etc/checkvalve/keys/{side}.pem /etc/checkvalve/keys/{side}.pub
fi
"""


def write_debs(project: Project, folder: Path, arch: str, goal: Path) -> list[Path]:
    """Write ``checkvalve-SIDE_VERSION_ARCH.deb`` of both sides into *goal*, each from *folder*'s folder of its name.

    BuildError if dpkg-deb is not here.
    """
    if shutil.which("dpkg-deb") is None:
        raise BuildError("dpkg-deb is not here; on Debian it is in the package dpkg")
    goal.mkdir(parents=True, exist_ok=True)
    return [_package(project, folder, arch, side, goal) for side in SIDES]


def _package(project: Project, folder: Path, arch: str, side: str, goal: Path) -> Path:
    values = {
        "side": side,
        "version": project.version,
        "arch": ARCHITECTURES[arch],
        "description": project.table["description"],
    }
    path = goal / f"checkvalve-{side}_{values['version']}_{values['arch']}.deb"
    with tempfile.TemporaryDirectory() as place:
        tree = Path(place) / "tree"
        shutil.copytree(folder / side, tree / "usr/share/checkvalve" / side)
        (tree / "DEBIAN").mkdir()
        (tree / "DEBIAN/control").write_text(_CONTROL.format(**values))
        for name, text in (("postinst", _POSTINST), ("prerm", _PRERM), ("postrm", _POSTRM)):
            (tree / "DEBIAN" / name).write_text(text.format(**values))
        for each in [tree, *tree.rglob("*")]:
            each.chmod(0o755 if each.is_dir() or (each.parent.name == "DEBIAN" and each.name != "control") else 0o644)
            os.utime(each, (project.epoch, project.epoch))
        done = subprocess.run(
            ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(path)],
            env={**os.environ, "SOURCE_DATE_EPOCH": str(project.epoch)},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise BuildError(f"dpkg-deb: {done.stderr.strip()}")
    return path
