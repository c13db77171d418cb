"""Who refers to whom among manifests on disk (distribution-spec, "Listing Referrers").

Works for a layout and for a tarball alike: all it gets is the entries of an index and a function that reads a
manifest by digest. It knows nothing of tags, of files, nor of the referrers API's HTTP side.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from oci.descriptor import Descriptor, Manifest
from oci.documents import children, parse_document
from oci.errors import OciError
from oci.limits import CLOSURE_DESCRIPTORS_MAX, INDEX_DEPTH_MAX


@dataclass(frozen=True, slots=True)
class _Link:
    """What one manifest contributes: its subject, its children, and how the API describes it."""

    subject: str | None
    referrer: Descriptor
    manifests: tuple[Descriptor, ...]


def as_referrer(manifest: Manifest) -> Descriptor:
    """Return the descriptor of *manifest* as the referrers API lists it: with artifact type and annotations."""
    annotations = parse_document(manifest.raw, manifest.descriptor.digest).get("annotations")
    texts = annotations if isinstance(annotations, dict) else {}
    return Descriptor(
        media_type=manifest.descriptor.media_type,
        digest=manifest.descriptor.digest,
        size=manifest.descriptor.size,
        artifact_type=children(manifest).artifact_type,
        annotations={key: text for key, text in texts.items() if isinstance(text, str)},
    )


class ReferrerIndex:
    """Who refers to a digest, among all manifests that an index reaches. Thread-safe.

    Links are remembered by digest (content never changes under one), answers by the *version* of the index.
    """

    def __init__(self, read: Callable[[str], bytes]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._links: dict[str, _Link] = {}
        self._answers: tuple[object, dict[str, list[Descriptor]]] | None = None

    def find(self, entries: Iterable[Descriptor], version: object, subject: str) -> list[Descriptor]:
        """Return the descriptors of the manifests whose subject is *subject*."""
        with self._lock:
            if self._answers is None or self._answers[0] != version:
                self._answers = (version, self._walk(entries))
            return self._answers[1].get(subject, [])

    def _walk(self, entries: Iterable[Descriptor]) -> dict[str, list[Descriptor]]:
        answers: dict[str, list[Descriptor]] = {}
        seen: set[str] = set()
        level = list(entries)
        for _ in range(INDEX_DEPTH_MAX + 1):
            below: list[Descriptor] = []
            for entry in level:
                if entry.digest in seen or not entry.is_manifest or len(seen) >= CLOSURE_DESCRIPTORS_MAX:
                    continue
                seen.add(entry.digest)
                link = self._link(entry)
                if link is None:
                    continue
                below.extend(link.manifests)
                if link.subject is not None:
                    answers.setdefault(link.subject, []).append(link.referrer)
            level = below
        return answers

    def _link(self, entry: Descriptor) -> _Link | None:
        known = self._links.get(entry.digest)
        if known is None:
            try:
                raw = self._read(entry.digest)
                manifest = Manifest(replace(entry, size=len(raw)), raw)
                found = children(manifest)
                subject = found.subject.digest if found.subject else None
                known = _Link(subject, as_referrer(manifest), tuple(found.manifests))
            except OciError:
                # Sparse indexes miss children, and another's broken manifest must not hide the good ones.
                return None
            if len(self._links) < CLOSURE_DESCRIPTORS_MAX:
                self._links[entry.digest] = known
        return known


def merge_referrers(found: Iterable[Descriptor], artifact_type: str | None) -> list[Descriptor]:
    """Return *found* without repetitions, sorted by digest, only of *artifact_type* if that is given."""
    unique = {item.digest: item for item in found if artifact_type in (None, item.artifact_type)}
    return [unique[digest] for digest in sorted(unique)]
