"""``python -m distribution run|deb``: make what users install. ``make dist`` and ``make deb`` call it."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from distribution import deb, runfile
from distribution.bundle import build
from distribution.project import ARCHITECTURES, ROOT, BuildError, Project
from runtime.errors import UserError
from runtime.keys import load_signing_key


def main() -> int:
    """Build; 0, or 1 after a line that says what to mend."""
    parser = argparse.ArgumentParser(prog="python -m distribution", description=__doc__)
    parser.add_argument("kind", choices=("run", "deb"))
    parser.add_argument("--arch", choices=sorted(ARCHITECTURES), default="x86_64")
    parser.add_argument("--into", type=Path, default=ROOT / "dist")
    parser.add_argument("--version", help="another version than pyproject.toml's")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="where downloaded wheels are kept")
    given = parser.parse_args()
    try:
        signer = _release_key()
        given.into.mkdir(parents=True, exist_ok=True)
        bundle = build(Project.read(version=given.version), given.arch, given.into, given.cache, signer)
        made = [runfile.write(bundle, given.into)] if given.kind == "run" else deb.write(bundle, given.into)
    except (BuildError, UserError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for path in made:
        print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
    if signer is None:
        print("WARNING: not signed: RELEASE_KEY=FILE names the release's private key", file=sys.stderr)
    return 0


def default_cache() -> Path:
    """Where downloaded wheels are kept between builds."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "checkvalve" / "wheels"


def _release_key() -> Ed25519PrivateKey | None:
    path = os.environ.get("RELEASE_KEY", "")
    return load_signing_key(Path(path), created_by="checkvalve-sender approver-key") if path else None


if __name__ == "__main__":
    sys.exit(main())
