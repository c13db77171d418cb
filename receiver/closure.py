"""What of an image is in the spool, and whether that is all of it: judged by the manifests' own bytes.

A release lists the closure of each image. That list says when to look; what is needed say the manifests beneath the
signed root. So a list that is too short can delay an image, or fail it with a reason, but never publish half of one.
What a signed release declares absent (other platforms) is the one exception: the index then travels sparse.
Reads the spool only; knows no journal and no target.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from oci import limits
from oci.blobs import BlobStore
from oci.descriptor import Descriptor, Manifest, short_digest
from oci.documents import children, is_foreign
from oci.errors import ContentMismatch, TooLarge, Unsupported
from protocol.release import Content, ReleaseImage


class IncompleteImage(Exception):
    """The release does not list content that the image needs and that is not here. ``str()`` is a line for people."""

    def __init__(self, message: str, missing: tuple[Descriptor, ...]) -> None:
        super().__init__(message)
        self.missing = missing


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole image in the order in which a target takes it."""

    blobs: tuple[Descriptor, ...]
    manifests: tuple[Descriptor, ...]  # children before parents; the root's tree before its referrers
    tags: tuple[tuple[str, Descriptor], ...]  # what hangs on the image first, its own tags last

    @property
    def size_bytes(self) -> int:
        """Bytes of all content, each digest once."""
        return sum(item.size for item in (*self.blobs, *self.manifests))


def listed(image: ReleaseImage) -> dict[str, Content]:
    """Return all that the release lists for *image*, by digest."""
    found: dict[str, Content] = {}
    for content in (image.root, *image.closure, *image.referrers):
        found.setdefault(content.digest, content)
    return found


def references(image: ReleaseImage) -> dict[str, str]:
    """Return all that leads to the image in a target, tags and digests, each with the digest it leads to."""
    found = {image.root.digest: image.root.digest}
    found |= {referrer.digest: referrer.digest for referrer in image.referrers}
    return found | tags(image)


def tags(image: ReleaseImage) -> dict[str, str]:
    """Return every tag of the image, those of what hangs on it too, with the digest it leads to."""
    return dict(image.extra_tags) | dict.fromkeys(image.tags, image.root.digest)


def absent(blobs: BlobStore, contents: Iterable[Content]) -> list[Content]:
    """Return those of *contents* that the spool does not hold; ContentMismatch if one is there in another size."""
    found = []
    for content in contents:
        size = blobs.size(content.digest)
        if size is None:
            found.append(content)
        elif size != content.size:
            raise ContentMismatch(
                f"the release lists {short_digest(content.digest)} with {content.size:,} bytes; it has {size:,}"
            )
    return found


def plan(blobs: BlobStore, image: ReleaseImage) -> Plan:
    """Return what to push for *image*, once all that the release lists is here.

    IncompleteImage if the manifests need more than is here; ContentMismatch, TooLarge or Unsupported if a document
    deserves it. Foreign layers may be absent: registries need not hold them (image-spec: non-distributable layers).
    """
    walk = _Walk(blobs, frozenset(image.absent))
    contents = listed(image)
    walk.visit(_descriptor(image.root), None, 0)
    extra = [(tag, _descriptor(contents[digest])) for tag, digest in image.extra_tags]
    for _, descriptor in extra:
        walk.visit(descriptor, None, 0)
    for referrer in image.referrers:
        walk.visit(_descriptor(referrer), None, 0)
    walk.raise_if_incomplete()
    for referrer in image.referrers:
        subject = walk.subjects.get(referrer.digest)
        if subject not in walk.manifests:
            raise ContentMismatch(
                f"referrer {short_digest(referrer.digest)} refers to "
                f"{'nothing' if subject is None else short_digest(subject)}; expected a manifest of this image"
            )
    root = walk.manifests[image.root.digest]
    return Plan(
        blobs=tuple(walk.blobs.values()),
        manifests=tuple(walk.manifests.values()),
        tags=(*extra, *((tag, root) for tag in image.tags)),
    )


@dataclass
class _Walk:
    spool: BlobStore
    absent: frozenset[str] = frozenset()  # entries of indexes that the sender left out, and says so
    manifests: dict[str, Descriptor] = field(default_factory=dict)  # insertion order is push order
    blobs: dict[str, Descriptor] = field(default_factory=dict)
    subjects: dict[str, str] = field(default_factory=dict)  # manifest -> what it refers to
    missing: dict[str, tuple[Descriptor, str | None]] = field(default_factory=dict)  # with the manifest that needs it
    _count: int = 0

    def visit(self, descriptor: Descriptor, parent: str | None, depth: int) -> None:
        """Add a manifest after everything beneath it."""
        where = f"manifest {short_digest(descriptor.digest)}"
        if not descriptor.is_manifest:
            raise Unsupported(f"{where}: the release lists it as {descriptor.media_type!r}; expected a manifest")
        self._bound(where)
        if depth > limits.INDEX_DEPTH_MAX:
            raise TooLarge(f"{where}: indexes nested more than {limits.INDEX_DEPTH_MAX} deep")
        if descriptor.digest in self.manifests or not self._here(descriptor, parent):
            return
        raw = self.spool.read(descriptor.digest, limits.MANIFEST_BYTES_MAX)
        parts = children(Manifest(descriptor, raw))
        for child in parts.manifests:
            if child.digest in self.absent:
                continue
            self.visit(child, descriptor.digest, depth + 1)
        for blob in [*([parts.config] if parts.config is not None else []), *parts.layers]:
            self._bound(where)
            if self._here(blob, descriptor.digest):
                self.blobs.setdefault(blob.digest, blob)
        if parts.subject is not None:
            self.subjects[descriptor.digest] = parts.subject.digest
        self.manifests[descriptor.digest] = descriptor

    def raise_if_incomplete(self) -> None:
        """IncompleteImage that names the first content missing, and who needs it."""
        if not self.missing:
            return
        first, parent = next(iter(self.missing.values()))
        others = f", and {len(self.missing) - 1:,} more" if len(self.missing) > 1 else ""
        needs = f"manifest {short_digest(parent)} needs it" if parent is not None else "it is a root"
        raise IncompleteImage(
            f"the release does not list {short_digest(first.digest)} ({first.size:,} bytes; {needs}){others}, "
            "so it cannot arrive; the sender has to make a new release",
            tuple(descriptor for descriptor, _ in self.missing.values()),
        )

    def _here(self, descriptor: Descriptor, parent: str | None) -> bool:
        size = self.spool.size(descriptor.digest)
        if size == descriptor.size:
            return True
        if size is not None:
            raise ContentMismatch(
                f"manifest {short_digest(parent or '')}: names {short_digest(descriptor.digest)} with "
                f"{descriptor.size:,} bytes; it has {size:,}"
            )
        if not is_foreign(descriptor):
            self.missing.setdefault(descriptor.digest, (descriptor, parent))
        return False

    def _bound(self, where: str) -> None:
        self._count += 1
        if self._count > limits.CLOSURE_DESCRIPTORS_MAX:
            raise TooLarge(f"{where}: names more than {limits.CLOSURE_DESCRIPTORS_MAX:,} descriptors")


def _descriptor(content: Content) -> Descriptor:
    return Descriptor(content.media_type, content.digest, content.size)
