"""The rules of the architecture that can be read off the source: who imports whom, purity, and sizes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAY_IMPORT = {
    "protocol": set(),
    "oci": set(),
    "runtime": set(),
    "distribution": set(),
    "judging": {"protocol", "oci", "runtime"},
    "sender": {"protocol", "oci", "runtime", "judging"},
    "receiver": {"protocol", "oci", "runtime", "judging"},
}
OURS = set(MAY_IMPORT) | {"tests", "benchmarks"}
IMPURE = {
    "socket",
    "os",
    "pathlib",
    "time",
    "random",
    "secrets",
    "logging",
    "structlog",
    "asyncio",
    "threading",
    "sqlite3",
    "subprocess",
}
LINES_PER_FILE_MAX = 450
LINES_PER_FUNCTION_MAX = 90

FILES = sorted(path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py"))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and first part of each absolute import, function-level ones and ``if TYPE_CHECKING`` included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, str(node.module).split(".")[0]


def called_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.lineno, node.func.id


def test_there_is_something_to_check() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in FILES} >= {"protocol", "oci", "runtime"}


@pytest.mark.parametrize("path", FILES, ids=name)
def test_packages_import_only_what_they_may(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    forbidden = OURS - MAY_IMPORT[package] - {package}
    found = [f"{name(path)}:{line}: {top}" for line, top in imported(ast.parse(path.read_text())) if top in forbidden]
    assert not found


@pytest.mark.parametrize("path", [p for p in FILES if p.is_relative_to(ROOT / "protocol")], ids=name)
def test_protocol_reaches_no_socket_file_clock_or_randomness(path: Path) -> None:
    tree = ast.parse(path.read_text())
    found = [f"{name(path)}:{line}: {top}" for line, top in imported(tree) if top in IMPURE]
    found += [
        f"{name(path)}:{line}: {called}()"
        for line, called in called_names(tree)
        if called in {"open", "print", "__import__", "input"}
    ]
    assert not found


@pytest.mark.parametrize("path", FILES, ids=name)
def test_files_and_functions_stay_readable(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LINES_PER_FILE_MAX
    long = [
        f"{name(path)}:{node.lineno}: {node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= LINES_PER_FUNCTION_MAX
    ]
    assert not long


@pytest.mark.parametrize(
    ("source", "tops"),
    [
        ("import os.path", ["os"]),
        ("from sender.cli import main", ["sender"]),
        ("def f():\n    import time", ["time"]),
        ("from .limits import X", []),
    ],
)
def test_the_import_reader_itself(source: str, tops: list[str]) -> None:
    assert [top for _, top in imported(ast.parse(source))] == tops
