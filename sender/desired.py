"""The desired state that fetch proposes: from closures to the images of a release, in one canonical order.

Pure functions over what was fetched and what was proposed before. A tag that is pinned but not fetched yet stays
where it was, so that a failing upstream never takes an image away from the other side.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace

from oci.closure import Closure
from oci.descriptor import Descriptor
from protocol.release import Content, ReleaseImage, images_document, parse_images
from sender.images import PinnedImage

Slot = tuple[str, str]
"""What a pin decides: (name, tag), or (name, "@digest") for one without a tag."""


def slot_of(image: PinnedImage) -> Slot:
    """Return what *image* decides."""
    reference = image.reference
    return (reference.name, reference.tag if reference.tag is not None else f"@{reference.digest}")


def release_image(name: str, closure: Closure, *, foreign: bool) -> ReleaseImage:
    """Return the image, without tags, whose contents come in push order; *foreign* layers only if they are wanted.

    Raises ValueError, saying which rule, for what no receiver would take.
    """
    referrers = {manifest.descriptor.digest for manifest in closure.referrers}
    beneath: dict[str, Content] = {}
    for blob in [*closure.blobs, *(closure.foreign if foreign else [])]:
        beneath.setdefault(blob.digest, _content(blob))
    for manifest in closure.manifests:
        if manifest.descriptor.digest != closure.root.digest and manifest.descriptor.digest not in referrers:
            beneath.setdefault(manifest.descriptor.digest, _content(manifest.descriptor))
    image = ReleaseImage(
        name=name,
        tags=(),
        root=_content(closure.root),
        closure=tuple(beneath.values()),
        referrers=tuple(_content(manifest.descriptor) for manifest in closure.referrers),
        extra_tags=tuple(sorted((tag, root.digest) for tag, root in closure.tagged.items())),
    )
    return read_image(write_image(image))


def contents_of(image: ReleaseImage) -> list[Content]:
    """Return everything the image needs, its root last."""
    return [*image.closure, *image.referrers, image.root]


def write_image(image: ReleaseImage) -> dict[str, object]:
    """Return *image* as the journal keeps it."""
    return images_document([image])[0]


def read_image(document: dict[str, object]) -> ReleaseImage:
    """Return what ``write_image`` wrote; ValueError where it breaks a rule of releases."""
    try:
        return parse_images([document])[0]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def desired_state(
    ready: Sequence[tuple[PinnedImage, ReleaseImage]],
    unsettled: Iterable[PinnedImage],
    before: str | None,
    *,
    keep_unnamed: bool = False,
) -> str:
    """Return the proposal: *ready*, and for *unsettled* pins what *before*, the last proposal, has in their place.

    With *keep_unnamed* (images.yaml has faults, so it may lack an entry by mistake) all of *before* stays that no
    ready pin replaces. The text is canonical: equal states give equal texts.
    """
    tags: dict[ReleaseImage, set[str]] = {}
    for pin, image in ready:
        tags.setdefault(image, set()).update({pin.reference.tag} if pin.reference.tag is not None else set())
    claimed = {slot_of(pin) for pin, _ in ready}
    wanted = {slot_of(pin) for pin in unsettled}
    for old in _read(before):
        kept = [
            slot
            for slot in ([(old.name, tag) for tag in old.tags] or [(old.name, f"@{old.root.digest}")])
            if slot not in claimed and (keep_unnamed or slot in wanted)
        ]
        if kept:
            names = {tag for _, tag in kept if not tag.startswith("@")}
            tags.setdefault(replace(old, tags=()), set()).update(names)
    images = [replace(image, tags=tuple(sorted(names))) for image, names in tags.items()]
    images.sort(key=lambda image: (image.name, image.tags, image.root.digest))
    document = images_document(_without_contradictions(images))
    return json.dumps(document, ensure_ascii=True, separators=(",", ":"), sort_keys=True)


def _without_contradictions(images: list[ReleaseImage]) -> list[ReleaseImage]:
    """A moving signature tag may have been seen twice, with two digests: a release may name one only."""
    claimed = {(image.name, tag): image.root.digest for image in images for tag in image.tags}
    kept = []
    for image in images:
        extra = tuple(
            (tag, digest)
            for tag, digest in image.extra_tags
            if claimed.setdefault((image.name, tag), digest) == digest
        )
        kept.append(replace(image, extra_tags=extra))
    return kept


def _read(document: str | None) -> tuple[ReleaseImage, ...]:
    return parse_images(json.loads(document)) if document is not None else ()


def _content(descriptor: Descriptor) -> Content:
    return Content(descriptor.media_type, descriptor.digest, descriptor.size)
