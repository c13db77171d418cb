"""Which of our modules a side needs: its own room, and what that imports, however deep.

So no module of the other side, and of the rooms that both share only what this side uses, gets onto its host.
Imports inside functions count; a module that is only named in a string (``python -m``) is found as it is in the
side's own room.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from distribution.project import SIDES, BuildError

ROOMS: Final = ("protocol", "oci", "runtime", "judging", *SIDES)


def modules_of(root: Path, side: str) -> tuple[Path, ...]:
    """Return the files that *side* needs, relative to *root*, sorted. BuildError if it needs the other side."""
    waiting = sorted((root / side).rglob("*.py"))
    seen: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        package = path.parent / "__init__.py"
        if package.exists():
            waiting.append(package)
        waiting.extend(_imported(root, path))
    (other,) = set(SIDES) - {side}
    found = tuple(sorted(path.relative_to(root) for path in seen))
    if strangers := [str(path) for path in found if path.parts[0] == other]:
        raise BuildError(f"{strangers[0]}: is of the {other}, and the {side} imports it")
    return found


def third_parties(root: Path, side: str) -> frozenset[str]:
    """Return the first parts of all imports, in *side*'s modules, of what is not ours."""
    found: set[str] = set()
    for path in modules_of(root, side):
        found |= {name.partition(".")[0] for name in _names(ast.parse((root / path).read_text()))}
    return frozenset(found - set(ROOMS))


def _imported(root: Path, path: Path) -> Iterator[Path]:
    for name in _names(ast.parse(path.read_text())):
        if name.partition(".")[0] in ROOMS:
            base = root.joinpath(*name.split("."))
            for candidate in (base.with_suffix(".py"), base / "__init__.py"):
                if candidate.exists():
                    yield candidate


def _names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
