"""What manifests in a store lead to, and taking out of an image layout what nothing leads to any more.

Read from the manifests' own bytes. When one that is to stay cannot be read, that is an error and nothing is removed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from oci.blobs import BlobStore
from oci.descriptor import Descriptor, Manifest
from oci.documents import children, detect_media_type
from oci.errors import NotFound, OciError
from oci.layout import Layout
from oci.layout_index import Entry, entry_descriptor, entry_names
from oci.limits import MANIFEST_BYTES_MAX


def reach(blobs: BlobStore, roots: Iterable[Descriptor]) -> dict[str, Descriptor]:
    """Return all that *roots* lead to, themselves too, by digest, parents before children.

    A manifest that is not in the store leads no further: indexes may be sparse. ContentMismatch if one is damaged.
    """
    found: dict[str, Descriptor] = {}
    level = list(roots)
    while level:
        below: list[Descriptor] = []
        for descriptor in level:
            if descriptor.digest in found:
                continue
            found[descriptor.digest] = descriptor
            if descriptor.is_manifest:
                try:
                    raw = blobs.read(descriptor.digest, MANIFEST_BYTES_MAX)
                except NotFound:
                    continue
                parts = children(Manifest(descriptor, raw))
                below += [*parts.manifests, *([parts.config] if parts.config else []), *parts.layers]
        level = below
    return found


def prune_layout(
    layout: Layout, names: Collection[str], digests: Iterable[str], keep: Collection[str]
) -> list[tuple[str, int]]:
    """Take *names* out of index.json, then remove what *digests* lead to; return (digest, bytes) of what is gone.

    What any other entry leads to stays, and so does *keep*. Roots go last, so that a run which was broken off can be
    made again. Nobody may write into the layout meanwhile.
    """
    doomed = _doomed(layout.blobs, digests)

    def without(entries: list[Entry]) -> list[Entry] | None:
        left = [
            entry
            for entry in entries
            if entry_names(entry)[0] not in names
            and not (entry_names(entry) == (None, None) and entry["digest"] in doomed and entry["digest"] not in keep)
        ]
        return left if len(left) < len(entries) else None

    layout.update_index(without)
    reached = reach(layout.blobs, map(entry_descriptor, layout.entries()))
    removed = []
    for digest in reversed(doomed):
        size = layout.blobs.size(digest)
        if size is not None and digest not in reached and digest not in keep:
            layout.blobs.remove(digest)
            removed.append((digest, size))
    return removed


def _doomed(blobs: BlobStore, digests: Iterable[str]) -> dict[str, Descriptor]:
    """Return what *digests* lead to; of one that cannot be read any more only itself."""
    roots = []
    found: dict[str, Descriptor] = {}
    for digest in digests:
        try:
            raw = blobs.read(digest, MANIFEST_BYTES_MAX)
            roots.append(Descriptor(detect_media_type(raw), digest, len(raw)))
        except OciError:
            found[digest] = Descriptor("", digest, 0)
    try:
        return found | reach(blobs, roots)
    except OciError:  # something beneath is damaged: its own root will do, what is beneath stays
        return found | {root.digest: root for root in roots}
