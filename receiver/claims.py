"""Two images that come to one tag of one repository: which of them has it."""

from __future__ import annotations

from collections.abc import Iterable

from oci.errors import OciError
from protocol.release import ReleaseImage
from receiver.closure import tags
from receiver.image_job import ImageJob
from receiver.journal import ReceiverJournal


def rival(job: ImageJob, path: str, others: Iterable[ImageJob], journal: ReceiverJournal) -> str | None:
    """Say which of *others* goes before *job* at one of its tags beneath *path*: who published it, else by name."""
    ours = (job.row.collection, job.image.name)
    for other in others:
        theirs = (other.row.collection, other.image.name)
        if other.shop is not job.shop or theirs == ours or _path_of(other) != path:
            continue
        tag = _contested(job.image, other.image)
        if tag is None:
            continue
        owner = journal.publisher(path, tag, job.shop.target)
        first = min(ours, theirs)
        if ours[0] != theirs[0] and owner in (ours[0], theirs[0]):
            first = ours if owner == ours[0] else theirs
        if first == ours:
            continue
        if ours[0] != theirs[0]:
            return (
                f"{path}:{tag}: collection {theirs[0]!r} publishes another image under this tag; "
                "give one of them another tag"
            )
        return f"{path}:{tag}: {theirs[1]} has this name as well; give one of them another name in `map`"
    return None


def _path_of(job: ImageJob) -> str | None:
    try:
        return job.path or job.name_in_target()
    except OciError:
        return None


def _contested(one: ReleaseImage, other: ReleaseImage) -> str | None:
    """Return a tag that both images carry and that would lead elsewhere for each."""
    theirs = tags(other)
    return next((tag for tag, digest in tags(one).items() if theirs.get(tag, digest) != digest), None)
