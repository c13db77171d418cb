"""The desired state that fetch proposes: from closures to the images of a release, in one canonical order.

Pure functions over what was fetched and what was proposed before. A tag that is wanted but not fetched yet stays
where it was, so that a failing upstream never takes an image away from the other side.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from oci.closure import Closure
from oci.descriptor import Descriptor
from protocol.release import Content, Release, ReleaseImage, images_document, parse_images, parse_payload
from sender.images import Slot


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
        absent=tuple(closure.absent),
    )
    return read_image(write_image(image))


def write_image(image: ReleaseImage) -> dict[str, object]:
    """Return *image* as the journal keeps it."""
    return images_document([image])[0]


def read_image(document: dict[str, object]) -> ReleaseImage:
    """Return what ``write_image`` wrote; ValueError where it breaks a rule of releases."""
    try:
        return parse_images([document])[0]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def slots_of(image: ReleaseImage, collection: str) -> list[Slot]:
    """Return what *image* decides in *collection*."""
    tags = image.tags or (f"@{image.root.digest}",)
    return [(collection, image.name, tag) for tag in tags]


def desired_state(
    ready: Iterable[tuple[Slot, ReleaseImage]],
    before: str | None,
    keeps: Callable[[Slot], bool] = lambda slot: False,
    collection: str = "default",
) -> str:
    """Return the proposal: *ready*, and for the slots that *keeps* names what *before*, the last one, has there.

    The images of *ready* have no tags yet. The text is canonical: equal states give equal texts.
    """
    tags: dict[ReleaseImage, set[str]] = {}
    claimed = set()
    for slot, image in ready:
        claimed.add(slot)
        tags.setdefault(image, set()).update(_tags_in([slot]))
    for old in read_state(before):
        kept = [slot for slot in slots_of(old, collection) if slot not in claimed and keeps(slot)]
        if kept:
            tags.setdefault(replace(old, tags=()), set()).update(_tags_in(kept))
    images = [replace(image, tags=tuple(sorted(names))) for image, names in tags.items()]
    images.sort(key=lambda image: (image.name, image.tags, image.root.digest))
    return _canonical(_without_contradictions(images))


def read_state(document: str | None) -> tuple[ReleaseImage, ...]:
    """Return the images of a proposal; none of none."""
    return parse_images(json.loads(document)) if document is not None else ()


def state_of(envelope: bytes) -> str:
    """Return the proposal that a release in an envelope of our own journal was made from."""
    return _canonical(parse_envelope(envelope).images)


def parse_envelope(envelope: bytes) -> Release:
    """Return the release in an envelope of our own journal."""
    size = int.from_bytes(envelope[4:8], "little")
    return parse_payload(envelope[8 : 8 + size])


def _canonical(images: Iterable[ReleaseImage]) -> str:
    return json.dumps(images_document(images), ensure_ascii=True, separators=(",", ":"), sort_keys=True)


def _tags_in(slots: Iterable[Slot]) -> Iterator[str]:
    return (tag for _, _, tag in slots if not tag.startswith("@"))


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


def _content(descriptor: Descriptor) -> Content:
    return Content(descriptor.media_type, descriptor.digest, descriptor.size)
