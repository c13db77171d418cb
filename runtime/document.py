"""Reads a bounded YAML file into plain data and remembers the line of every key and item.

Refuses to know what the keys mean; ``settings.validate`` checks the data against a model and asks here where
a fault is. YAML 1.2 by ruamel.yaml's round-trip loader, which constructs no objects from tags.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq, TaggedScalar
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from runtime.errors import EXIT_USAGE, UserError

FILE_BYTES_MAX = 1 << 20
NODES_MAX = 100_000  # counted with aliases expanded, so that nested aliases cannot blow up

Location = Sequence[str | int]


@dataclass(frozen=True)
class Document:
    """One YAML file: ``data`` is plain dicts, lists and scalars; ``path`` is as the person gave it."""

    path: Path
    data: dict[str, Any]
    _root: Any = field(repr=False, compare=False)

    @property
    def folder(self) -> Path:
        """The folder that relative paths in this file start from."""
        return self.path.absolute().parent

    def line(self, location: Location) -> int:
        """The 1-based line of the deepest part of ``location`` that the file has."""
        node, line = self._root, 1
        for part in location:
            if not _has(node, part):
                continue  # union tags of the validator, and keys that are missing
            position = node.lc.key(part) if isinstance(node, CommentedMap) else node.lc.item(part)
            line, node = position[0] + 1, node[part]
        return line

    def has(self, location: Location) -> bool:
        """Whether the file states every part of ``location``."""
        node = self._root
        for part in location:
            if not _has(node, part):
                return False
            node = node[part]
        return True

    def fault(self, location: Location, text: str) -> str:
        """One line for people: ``sender.yaml:12: link.rate: text``."""
        name = location_name(location)
        return f"{self.path}:{self.line(location)}: {name}: {text}" if name else f"{self.path}: {text}"


def location_name(location: Location) -> str:
    """``("images", 2, "tag")`` as ``images[2].tag``; items count from 0."""
    name = ""
    for part in location:
        if isinstance(part, int):
            name += f"[{part}]"
        else:
            name += f".{part}" if name else str(part)
    return name


def load_yaml(
    path: str | os.PathLike[str],
    *,
    created_by: str = "",
    bytes_max: int = FILE_BYTES_MAX,
    nodes_max: int = NODES_MAX,
) -> Document:
    """Read a YAML file whose top level is a mapping (an empty file is an empty mapping).

    ``created_by`` is the command that writes the file, named when it is missing. Raises ``UserError`` (exit
    code 2) for a file that is missing, unreadable, over *bytes_max*, not UTF-8, not YAML, or has a key twice.
    """
    path = Path(path)
    text = _read(path, created_by, bytes_max)
    yaml = YAML(typ="rt", pure=True)
    yaml.allow_duplicate_keys = False
    try:
        root = yaml.load(text)
        if root is None:
            root = CommentedMap()
        if not isinstance(root, CommentedMap):
            raise _refusal(f"{path}:1: the file must be 'key: value' lines")
        plain = _Plain(path, nodes_max)
        data = plain.convert(root, ())
    except DuplicateKeyError as error:
        raise _refusal(_duplicate(path, error)) from None
    except MarkedYAMLError as error:
        raise _refusal(_syntax(path, error)) from None
    except YAMLError as error:
        raise _refusal(f"{path}: not YAML: {_first_line(str(error))}") from None
    except RecursionError:
        raise _refusal(f"{path}: nested too deeply; a settings file needs a few levels only") from None
    except ValueError as error:  # ruamel lets int() and date() speak for themselves
        raise _refusal(f"{path}: not YAML: {_first_line(str(error))}") from None
    if plain.faults:
        raise _refusal("\n".join(plain.faults))
    return Document(path, data, root)


def _read(path: Path, created_by: str, bytes_max: int) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(bytes_max + 1)
    except FileNotFoundError:
        remedy = f"`{created_by}` creates it" if created_by else "check the path"
        raise _refusal(f"{path}: no such file; {remedy}") from None
    except PermissionError:
        raise _refusal(f"{path}: not readable for user id {os.geteuid()}; check owner and mode") from None
    except IsADirectoryError:
        raise _refusal(f"{path}: is a folder; give the YAML file itself") from None
    except OSError as error:
        raise _refusal(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > bytes_max:
        raise _refusal(f"{path}: larger than {bytes_max} bytes; this is no settings file")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _refusal(f"{path}:{line}: byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8") from None


class _Plain:
    """Turns ruamel's commented containers into plain ones, noting keys that are not text."""

    def __init__(self, path: Path, nodes_max: int) -> None:
        self.path = path
        self.nodes_max = nodes_max
        self.nodes = 0
        self.faults: list[str] = []

    def convert(self, node: Any, location: tuple[str | int, ...]) -> Any:
        self.nodes += 1
        if self.nodes > self.nodes_max:
            raise _refusal(f"{self.path}: more than {self.nodes_max} values with aliases expanded; use fewer aliases")
        if isinstance(node, CommentedMap):
            return {str(key): self._value(node, key, location) for key in node}
        if isinstance(node, CommentedSeq):
            return [self.convert(item, (*location, index)) for index, item in enumerate(node)]
        if isinstance(node, TaggedScalar):
            self.faults.append(
                f"{self.path}: {location_name(location)}: tag {node.tag.value} is not understood; remove it"
            )
            return None
        return _plain_scalar(node)

    def _value(self, node: CommentedMap, key: Any, location: tuple[str | int, ...]) -> Any:
        if not isinstance(key, str):
            line = node.lc.key(key)[0] + 1
            self.faults.append(f"{self.path}:{line}: key {_plain_scalar(key)!r} is not text; put it in quotes")
        return self.convert(node[key], (*location, str(key)))


def _plain_scalar(node: Any) -> Any:
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            # ruamel's ScalarBoolean is an int, everything else subclasses what it stands for
            return bool(node) if type(node).__name__ == "ScalarBoolean" else kind(node)
    return node


def _has(node: Any, part: str | int) -> bool:
    if isinstance(node, CommentedMap):
        return part in node
    return isinstance(node, CommentedSeq) and isinstance(part, int) and 0 <= part < len(node)


def _duplicate(path: Path, error: DuplicateKeyError) -> str:
    mark = error.problem_mark
    key = str(error.problem or "").split('"')
    name = f"{key[1]}: this key" if len(key) > 1 else "a key"
    return f"{path}:{mark.line + 1 if mark else 1}: {name} is here twice; keep one"


def _syntax(path: Path, error: MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else f"{path}"
    text = ", ".join(_first_line(str(part)) for part in (error.context, error.problem) if part)
    return f"{where}: not YAML: {text or 'cannot be understood'}"


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0][:200] if text.strip() else "cannot be understood"


def _refusal(text: str) -> UserError:
    return UserError(text, exit_code=EXIT_USAGE)
