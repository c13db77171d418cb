"""Which tags of a repository a rule means: an exact list, a semver range or a regular expression, minus exclusions.

Pure: lists of tags in, tags out; nobody is asked. Ranges are npm's (``^1.27``, ``~1.2``, ``1.x``, ``>=1 <3``), and a
tag counts as a version also with a leading ``v`` or fewer than three numbers: ``v1.27`` is 1.27.0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import regex
from semantic_version import NpmSpec, Version

MATCH_S_MAX: Final = 1.0  # for one tag of at most 128 characters; what takes longer never ends
_VERSION: Final = re.compile(
    r"v?(\d{1,18})(?:\.(\d{1,18}))?(?:\.(\d{1,18}))?(?:-([0-9A-Za-z]+(?:[.-][0-9A-Za-z]+)*))?", re.ASCII
)
_HANGER: Final = re.compile(
    r"sha(256|512)-[0-9a-f]{64,128}(\.[a-z]+)?", re.ASCII
)  # signatures and the like: no image
_ANCHOR: Final = re.compile(r"\d+(?:\.\d+)*")


class SlowPattern(ValueError):
    """A regular expression that does not come to an end in time; ``str()`` says which and what would be right."""


@dataclass(frozen=True, slots=True)
class Range:
    """A semver range as written; compare and hash by its text."""

    text: str

    def __post_init__(self) -> None:
        """ValueError, saying what would be right, for what is no range."""
        try:
            if not self._npm:
                raise ValueError
            NpmSpec(self._npm)
        except ValueError:
            raise ValueError(
                f"{self.text!r} is not a semver range; give e.g. ^1.27, ~1.2, 1.x, '>=1.2 <2' or '1.2 || 1.4'"
            ) from None

    @property
    def _npm(self) -> str:
        return " ".join(self.text.replace(",", " ").split())

    def matching(self, versions: Mapping[str, Version]) -> list[str]:
        """Return the tags whose version is in the range; pre-releases only if the range names one of theirs."""
        spec = NpmSpec(self._npm)
        return [tag for tag, version in versions.items() if version in spec]

    def nearest(self, versions: Mapping[str, Version]) -> str | None:
        """Return the tag whose version is closest to the first one that the range names."""
        anchor = _ANCHOR.search(self.text)
        wanted = [int(part[:18]) for part in anchor[0].split(".")] if anchor else []
        wanted = [*wanted, 0, 0, 0][:3]

        def distance(tag: str) -> tuple[object, ...]:
            version = versions[tag]
            parts = (version.major, version.minor, version.patch)
            return (*(abs(one - other) for one, other in zip(parts, wanted, strict=True)), bool(version.prerelease))

        return min(versions, key=distance, default=None)


@dataclass(frozen=True, slots=True)
class Pattern:
    """A regular expression that a whole tag must match."""

    text: str

    def __post_init__(self) -> None:
        """ValueError, saying where, for what is no regular expression."""
        try:
            regex.compile(self.text)
        except regex.error as error:
            raise ValueError(f"{self.text!r} is not a regular expression: {error}") from None

    def matching(self, tags: Iterable[str]) -> list[str]:
        """Return the tags that match; SlowPattern if one takes too long."""
        match = regex.compile(self.text).fullmatch
        found = []
        for tag in tags:
            try:
                if match(tag, timeout=MATCH_S_MAX, concurrent=True):
                    found.append(tag)
            except TimeoutError:
                raise SlowPattern(
                    f"regular expression {self.text!r} is too slow: more than {MATCH_S_MAX:g} s for the tag "
                    f"{tag[:40]!r}{'…' if len(tag) > 40 else ''}; "
                    "give one without repetitions inside repetitions"
                ) from None
        return found


@dataclass(frozen=True, slots=True)
class TagRule:
    """Exactly one of *exact*, *semver* and *pattern* is given. *keep*: how many of the newest, None for all."""

    exact: tuple[str, ...] = ()
    semver: Range | None = None
    pattern: Pattern | None = None
    suffix: str = ""  # of tags under a semver range: 1.27.3-alpine is the version 1.27.3
    exclude: tuple[Pattern, ...] = ()
    keep: int | None = None

    @property
    def listed(self) -> bool:
        """Whether the registry's list of tags has to be asked for."""
        return not self.exact

    @property
    def text(self) -> str:
        """One line for people and for images.lock; equal rules have equal texts."""
        if self.exact:
            return "tag"
        parts = [f"semver {self.semver.text}"] if self.semver is not None else []
        parts += [f"regex {self.pattern.text}"] if self.pattern is not None else []
        if self.suffix:
            parts.append(f"suffix {self.suffix}")
        parts += [f"exclude {pattern.text}" for pattern in self.exclude]
        if self.keep is not None:
            parts.append(f"keep newest {self.keep}")
        return ", ".join(parts)

    def candidates(self, tags: Sequence[str]) -> list[str]:
        """Return the tags that the rule matches, *keep* aside; SlowPattern."""
        if self.exact:
            return list(self.exact)
        if self.semver is not None:
            found = self.semver.matching(self._versions(tags))
        else:
            assert self.pattern is not None
            found = self.pattern.matching(tag for tag in tags if not _HANGER.fullmatch(tag))
        for pattern in self.exclude:
            excluded = set(pattern.matching(found))
            found = [tag for tag in found if tag not in excluded]
        return found

    def needs_dates(self, candidates: Sequence[str]) -> bool:
        """Whether *keep* has to go by creation date: it drops something, and not all candidates are versions."""
        if self.keep is None or len(candidates) <= self.keep:
            return False
        return len(self._versions(candidates)) < len(candidates)

    def newest(self, candidates: Sequence[str], created: Mapping[str, float] | None = None) -> list[str]:
        """Return what *keep* leaves, newest first: by version, or by *created* (Unix seconds) where that is given."""
        if self.keep is None:
            return list(candidates)
        if created is not None:
            order = sorted(candidates, key=lambda tag: (created.get(tag, -math.inf), tag), reverse=True)
        else:
            versions = self._versions(candidates)
            order = sorted(versions, key=lambda tag: (versions[tag], tag), reverse=True)
        return order[: self.keep]

    def nearest(self, tags: Sequence[str]) -> str | None:
        """Return the tag that comes closest to a semver range, None without a range or a version."""
        return self.semver.nearest(self._versions(tags)) if self.semver is not None else None

    def _versions(self, tags: Iterable[str]) -> dict[str, Version]:
        found = {}
        for tag in tags:
            version = version_of(tag, self.suffix)
            if version is not None:
                found[tag] = version
        return found


def version_of(tag: str, suffix: str = "") -> Version | None:
    """Return the version that *tag* is, once *suffix* is taken off; None if it has none or is no version."""
    if not tag.endswith(suffix):
        return None
    match = _VERSION.fullmatch(tag[: len(tag) - len(suffix)])
    if match is None:
        return None
    numbers = [int(part or 0) for part in match.groups()[:3]]
    prerelease = tuple(part.lstrip("0") or "0" if part.isdigit() else part for part in (match[4] or "").split("."))
    return Version(
        major=numbers[0],
        minor=numbers[1],
        patch=numbers[2],
        prerelease=prerelease if match[4] else (),
        build=(),
    )
