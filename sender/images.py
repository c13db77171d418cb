"""What is to cross, as the rest of the sender sees it: images pinned by digest, and rules about tags.

``intent.py`` reads them from images.yaml, ``resolve.py`` turns rules into pins, ``images.lock`` remembers which.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from judging.policy_model import Verify
from oci.descriptor import short_digest
from oci.reference import Reference
from sender.tags import TagRule

Kind = Literal["registry", "oci", "archive"]
Slot = tuple[str, str, str]
"""What an image decides on the other side: (collection, name, tag), or "@digest" in place of the tag without one."""
ANY: Final = ("*",)
ORIGINS: Final = "give oci:FOLDER (an OCI image layout) or archive:FILE (docker save, ctr images export)"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an image is read: its own registry, an image layout or a tarball (then with a path)."""

    kind: Kind = "registry"
    path: Path | None = None

    def __str__(self) -> str:
        return self.kind if self.path is None else f"{self.kind}:{self.path}"


@dataclass(frozen=True, slots=True)
class Options:
    """How an image is treated, whichever way it was named."""

    collection: str = "default"
    target: str = ""  # its name in the release where that is another than its own
    platforms: tuple[str, ...] = ()  # none: all that the index has
    referrers: tuple[str, ...] | None = None  # artifact types, as patterns; () none; None: as fetch.referrers says
    interval: float | None = None  # seconds; None: as fetch.interval says
    urgent: bool = False
    verify: Verify | None = None  # what must hold of it before it is sent


@dataclass(frozen=True, slots=True)
class PinnedImage:
    """One image to cross; *reference* always has a digest. *rule* says why this digest, in the words of the lock."""

    reference: Reference
    origin: Origin = Origin()
    options: Options = Options()
    line: int = field(default=0, compare=False)  # a line more above it makes no other image
    rule: str = "pin"
    file: str = field(default="", compare=False)

    @property
    def digest(self) -> str:
        """The pin."""
        assert self.reference.digest is not None
        return self.reference.digest

    @property
    def target(self) -> str:
        """Its name in the release, without a tag."""
        return self.options.target or self.reference.name

    @property
    def slot(self) -> Slot:
        """What it decides."""
        tag = self.reference.tag
        return (self.options.collection, self.target, tag if tag is not None else f"@{self.digest}")

    @property
    def short(self) -> str:
        """The reference with the digest cut, for messages."""
        return f"{self.label}@{short_digest(self.digest)}"

    @property
    def label(self) -> str:
        """The reference without the digest, for messages."""
        return self.reference.name + (f":{self.reference.tag}" if self.reference.tag is not None else "")

    @property
    def where(self) -> str:
        """The place in images.yaml that asks for it."""
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of images.yaml that names tags; *reference* has neither tag nor digest."""

    reference: Reference
    tags: TagRule
    follow: bool = False  # pin a tag again when it moves
    origin: Origin = Origin()
    options: Options = Options()
    line: int = field(default=0, compare=False)
    file: str = field(default="", compare=False)

    @property
    def text(self) -> str:
        """The rule in the words of the lock."""
        return self.tags.text + (", follow digest" if self.follow else "")

    @property
    def key(self) -> str:
        """What the rule is known by, in the journal: two rules with one key ask the same questions."""
        exact = f" {','.join(self.tags.exact)}" if self.tags.exact else ""
        origin = "" if self.origin.kind == "registry" else f" from {self.origin}"
        return f"{self.reference.name} {self.text}{exact}{origin}"

    @property
    def where(self) -> str:
        """The place in images.yaml."""
        return f"{self.file}:{self.line}"

    def pinned(self, tag: str, digest: str) -> PinnedImage:
        """Return the image that *tag* is, at *digest*."""
        reference = Reference(self.reference.registry, self.reference.repository, tag, digest)
        return PinnedImage(reference, self.origin, self.options, self.line, self.text, self.file)


@dataclass(frozen=True, slots=True)
class ImageList:
    """What images.yaml says: the good entries, and one line for each fault in the others."""

    images: tuple[PinnedImage, ...]
    faults: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    files: tuple[Path, ...] = ()  # that were read, to be watched


def wanted_type(artifact_type: str | None, patterns: tuple[str, ...]) -> bool:
    """Whether a referrer of *artifact_type* is among *patterns* (``*`` and ``?`` as in file names)."""
    return any(fnmatch.fnmatchcase(artifact_type or "", pattern) for pattern in patterns)


def parse_origin(text: str, folder: Path) -> Origin:
    """Return what ``from`` names, relative to *folder*; ValueError says what would be right."""
    kind, colon, rest = text.partition(":")
    if not colon or kind not in ("oci", "archive") or not rest or "\0" in rest:
        raise ValueError(f"{text!r} is not a source; {ORIGINS}")
    path = folder / Path(rest).expanduser()
    if not path.exists():
        raise ValueError(f"{text!r}: no such {'folder' if kind == 'oci' else 'file'}: {path}; {ORIGINS}")
    if kind == "oci":
        if not (path / "index.json").is_file():
            raise ValueError(f"{text!r}: no index.json in {path}, so it is no OCI image layout; {ORIGINS}")
        return Origin("oci", path)
    if not path.is_file():
        raise ValueError(f"{text!r}: {path} is a folder; {ORIGINS}")
    return Origin("archive", path)
