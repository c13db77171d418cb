"""What ``doctor`` found: a table for people, JSON for programs, and the exit code.

The JSON is {side, ok, rate_bits, rate_from, findings: [{check, found, needed, verdict, mend, value, unit}]}; keys
are never taken away, and *check* names stay the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from runtime.errors import UserError
from runtime.terminal import human_rate, print_json, table

Verdict = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One row. *mend* is the exact line that mends it; *value* is the figure behind *found*, in *unit*."""

    check: str
    found: str
    needed: str = ""
    verdict: Verdict = "ok"
    mend: str = ""
    value: float | None = None
    unit: str = ""


def unreadable(check: str, error: Exception) -> Finding:
    """The row for what could not be read; that is a warning, never a failure."""
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    path = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
    return Finding(check, f"not readable: {path}{reason}", verdict="warn")


@dataclass
class Report:
    """All findings of one side. *rate* is the link's, in bits per second; *rate_from* says who named it."""

    side: Literal["sender", "receiver"]
    rate: float
    rate_from: str
    findings: list[Finding] = field(default_factory=list)

    def add(self, check: str, look: Callable[[], Finding | list[Finding]]) -> None:
        """Add what *look* finds, or that it could not be read."""
        try:
            found = look()
        except (OSError, ValueError, UserError) as error:
            found = unreadable(check, error)
        self.findings += found if isinstance(found, list) else [found]

    @property
    def ok(self) -> bool:
        """Whether nothing stands against the rate."""
        return all(finding.verdict != "fail" for finding in self.findings)

    def document(self) -> dict[str, Any]:
        """Return the JSON document."""
        return {
            "side": self.side,
            "ok": self.ok,
            "rate_bits": round(self.rate),
            "rate_from": self.rate_from,
            "findings": [asdict(finding) for finding in self.findings],
        }

    def show(self, *, as_json: bool) -> int:
        """Print the report; return the exit code: 1 if the rate cannot be met, else 0."""
        if as_json:
            print_json(self.document())
            return 0 if self.ok else 1
        table(
            ("check", "found", "needed", "verdict", "mend"),
            [(row.check, row.found, row.needed, row.verdict, row.mend) for row in self.findings],
        )
        failed = [row.check for row in self.findings if row.verdict == "fail"]
        warned = sum(row.verdict == "warn" for row in self.findings)
        rate = f"{human_rate(self.rate)} ({self.rate_from})"
        if failed:
            print(f"{rate} cannot be met: {', '.join(failed)}")
        else:
            print(f"{rate} can be met" + (f"; {warned} warning{'s' * (warned > 1)}" if warned else ""))
        return 0 if self.ok else 1
