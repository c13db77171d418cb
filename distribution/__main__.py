"""``make dist``, ``make deb``: python -m distribution [--deb] [--arch ARCH] [--output DIR]; RELEASE_KEY signs."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from functools import partial
from pathlib import Path

from distribution.bundle import make_bundle, release_key
from distribution.deb import write_debs
from distribution.project import ARCHITECTURES, ROOT, SIDES, BuildError, Project
from distribution.runfile import write_runfile


def main() -> int:
    """Make the file or the packages, and print where they are."""
    parser = argparse.ArgumentParser(prog="python -m distribution", description="Makes the offline file")
    parser.add_argument("--arch", default="x86_64", choices=sorted(ARCHITECTURES))
    parser.add_argument("--version", help="instead of pyproject.toml's, for tests of upgrades")
    parser.add_argument("--output", type=Path, default=ROOT / "dist")
    parser.add_argument("--cache", type=Path, default=ROOT / "build/wheels", help="where wheels of others are kept")
    parser.add_argument("--deb", action="store_true", help="Debian packages of both sides in the place of the file")
    given = parser.parse_args()
    key = os.environ.get("RELEASE_KEY")
    try:
        project = Project.read(version=given.version)
        goal = given.output / f"checkvalve-{project.version}-{given.arch}.run"
        with tempfile.TemporaryDirectory() as folder:
            fill = partial(make_bundle, project, given.arch, given.cache, Path(key) if key else None)
            if given.deb:
                for side in SIDES:
                    fill(Path(folder) / side, (side,))
                made = write_debs(project, Path(folder), given.arch, given.output)
            else:
                fill(Path(folder) / "both")
                write_runfile(project, Path(folder) / "both", goal)
                made = [goal]
            for path in made:  # over the whole file: it is checked before anything of it runs
                signature = path.with_name(f"{path.name}.sig")
                signature.unlink(missing_ok=True)
                if key:
                    signature.write_bytes(release_key(Path(key)).sign(path.read_bytes()))
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(map(str, made)))
    if not key:
        print("WARNING: NOT SIGNED: hosts with a release key refuse it; give RELEASE_KEY=path", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
