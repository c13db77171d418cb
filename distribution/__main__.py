"""``make dist``: python -m distribution [--arch ARCH] [--version VERSION] [--output DIR]; RELEASE_KEY signs."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from distribution.bundle import make_bundle
from distribution.project import ARCHITECTURES, ROOT, BuildError, Project
from distribution.runfile import write_runfile


def main() -> int:
    """Make the file and print its path."""
    parser = argparse.ArgumentParser(prog="python -m distribution", description="Makes the offline file")
    parser.add_argument("--arch", default="x86_64", choices=sorted(ARCHITECTURES))
    parser.add_argument("--version", help="instead of pyproject.toml's, for tests of upgrades")
    parser.add_argument("--output", type=Path, default=ROOT / "dist")
    parser.add_argument("--cache", type=Path, default=ROOT / "build/wheels", help="where wheels of others are kept")
    given = parser.parse_args()
    key = os.environ.get("RELEASE_KEY")
    try:
        project = Project.read(version=given.version)
        goal = given.output / f"checkvalve-{project.version}-{given.arch}.run"
        with tempfile.TemporaryDirectory() as folder:
            make_bundle(project, given.arch, given.cache, Path(key) if key else None, Path(folder))
            write_runfile(project, Path(folder), goal)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(goal)
    if not key:
        print("WARNING: NOT SIGNED: hosts with a release key refuse it; give RELEASE_KEY=path", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
