"""What differs between two desired states of a collection, tag by tag. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from oci.descriptor import short_digest
from protocol.release import Content, ReleaseImage

Kind = Literal["new", "moved", "dropped", "changed"]


@dataclass(frozen=True, slots=True)
class Change:
    """One name that leads to something else than before; *changed*: the same root, with other referrers or parts."""

    kind: Kind
    name: str  # with its tag, or with its digest where it has none
    before: ReleaseImage | None
    after: ReleaseImage | None

    def document(self) -> dict[str, Any]:
        """Return the change ready for JSON."""
        return {
            "change": self.kind,
            "image": self.name,
            "before": self.before.root.digest if self.before else None,
            "after": self.after.root.digest if self.after else None,
        }

    @property
    def digests(self) -> str:
        """``old → new``, cut for people."""
        return shown_digests(self.document())


def shown_digests(document: dict[str, Any]) -> str:
    """Return ``old → new``, or the only one there is, of a change as ``Change.document`` gives it."""
    before, after = (short_digest(document[side] or "") for side in ("before", "after"))
    return f"{before} → {after}" if document["change"] == "moved" else after or before


def changes(before: Iterable[ReleaseImage], after: Iterable[ReleaseImage]) -> list[Change]:
    """Return what differs, by name."""
    old, new = _by_name(before), _by_name(after)
    found = []
    for name in sorted(old.keys() | new.keys()):
        one, other = old.get(name), new.get(name)
        if one is None:
            found.append(Change("new", name, None, other))
        elif other is None:
            found.append(Change("dropped", name, one, None))
        elif one.root.digest != other.root.digest:
            found.append(Change("moved", name, one, other))
        elif _parts(one) != _parts(other):
            found.append(Change("changed", name, one, other))
    return found


def contents(images: Iterable[ReleaseImage]) -> dict[str, Content]:
    """Return all that *images* need, each digest once."""
    found: dict[str, Content] = {}
    for image in images:
        for content in (image.root, *image.closure, *image.referrers):
            found.setdefault(content.digest, content)
    return found


def _by_name(images: Iterable[ReleaseImage]) -> Mapping[str, ReleaseImage]:
    found = {}
    for image in images:
        for tag in image.tags:
            found[f"{image.name}:{tag}"] = image
        if not image.tags:
            found[f"{image.name}@{image.root.digest}"] = image
    return found


def _parts(image: ReleaseImage) -> tuple[frozenset[str], tuple[tuple[str, str], ...]]:
    return frozenset(contents([image])), image.extra_tags
