"""``make vectors``: write every vector file anew and say what changed."""

from __future__ import annotations

from tests.vectors.catalogue import catalogue
from tests.vectors.model import DIRECTORY


def main() -> None:
    DIRECTORY.mkdir(exist_ok=True)
    vectors = catalogue()
    changed = 0
    for vector in vectors:
        text = vector.render()
        if not vector.path.exists() or vector.path.read_text() != text:
            vector.path.write_text(text)
            changed += 1
    stale = set(DIRECTORY.glob("*.txt")) - {vector.path for vector in vectors}
    for path in stale:
        path.unlink()
    print(f"{len(vectors)} vectors, {changed} written, {len(stale)} removed")


if __name__ == "__main__":
    main()
