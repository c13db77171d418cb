"""A vector: text header, blank line, payload in hex lines; several parts are divided by lines of one hyphen.

A line such as ``00*448`` stands for that many equal bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

DIRECTORY = Path(__file__).parent / "files"
WIRE_FORMAT = Path(__file__).parents[2] / "protocol" / "WIRE_FORMAT.md"
LINE_BYTES = 56
RUN = re.compile(rb"(.)\1{23,}", re.DOTALL)


@dataclass(frozen=True)
class Vector:
    """*expect* is "ok" or the value of the Drop that the parts must lead to."""

    name: str
    rule: str
    kind: str  # which parser reads it: a key of checks.CHECKS
    expect: str
    parts: tuple[bytes, ...]
    inputs: dict[str, str] = field(default_factory=dict)

    def render(self) -> str:
        lines = [f"name: {self.name}", f"rule: {self.rule}", f"kind: {self.kind}", f"expect: {self.expect}"]
        lines += [f"{key}: {value}" for key, value in self.inputs.items()]
        for number, part in enumerate(self.parts):
            lines.append("-" if number else "")
            lines += hex_lines(part)
        return "\n".join(lines) + "\n"

    @property
    def path(self) -> Path:
        return DIRECTORY / f"{self.name}.txt"


def hex_lines(data: bytes) -> list[str]:
    lines, at = [], 0
    for run in [*RUN.finditer(data), None]:
        start, end = run.span() if run else (len(data), len(data))
        lines += [data[i : min(i + LINE_BYTES, start)].hex() for i in range(at, start, LINE_BYTES)]
        if run:
            lines.append(f"{data[start]:02x}*{end - start}")
        at = end
    return lines


def from_lines(text: str) -> bytes:
    parts = (line.partition("*") for line in text.split())
    return b"".join(bytes.fromhex(digits) * int(count or 1) for digits, _, count in parts)


def parse(text: str) -> Vector:
    header, _, payload = text.partition("\n\n")
    fields = dict(line.split(": ", 1) for line in header.splitlines())
    parts = tuple(from_lines(part) for part in ("\n" + payload).split("\n-\n"))
    return Vector(*(fields.pop(key) for key in ("name", "rule", "kind", "expect")), parts, fields)
