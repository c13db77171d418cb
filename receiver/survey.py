"""What is here and what is not, of the newest releases: counted from release, spool and journal, changing nothing.

The one place where ``status``, ``missing`` and the progress bars of ``run`` take their figures from. Needs no role
to be running.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from oci.blobs import BlobStore
from protocol.errors import WireError
from protocol.objects import Kind
from protocol.ranges import RangeSet
from protocol.release import Content, Release
from receiver.closure import listed
from receiver.desired import desired_marks
from receiver.journal import ReceiverJournal, ReleaseRow
from receiver.senders import Trust
from receiver.target_views import ImageKey, TargetState, combined, states_by_image


@dataclass(frozen=True, slots=True)
class PartialObject:
    """An object of which some bytes are here. Ranges are of its coded bytes, sizes bytes."""

    digest: str  # of the content, a batch or a release
    kind: str  # blob, batch or release
    coded_digest: str
    content_size: int
    coded_size: int
    done: int  # coded bytes here
    missing: tuple[tuple[int, int], ...]  # half-open ranges of coded bytes not here
    updated: float  # Unix s

    @property
    def percent(self) -> float:
        """How much is here."""
        return 100.0 * self.done / self.coded_size if self.coded_size else 100.0


@dataclass(slots=True)
class ImageView:
    """One image of a release."""

    name: str
    tags: tuple[str, ...]
    digest: str
    state: (
        str  # receiving, publishing, published, failed or held, as publish last noted it; received if it did not yet
    )
    error: str | None
    total_bytes: int
    missing_bytes: int
    missing: list[Content] = field(default_factory=list)
    targets: list[TargetState] = field(default_factory=list)  # what *state* and *error* come from

    @property
    def title(self) -> str:
        """``docker.io/library/nginx:1.27``; the digest where there is no tag."""
        return f"{self.name}:{self.tags[0]}" if self.tags else f"{self.name}@{self.digest[:19]}…"

    @property
    def percent(self) -> float:
        """How much is here."""
        return 100.0 * (self.total_bytes - self.missing_bytes) / self.total_bytes if self.total_bytes else 100.0


@dataclass(slots=True)
class CollectionView:
    """The desired release of a collection, and what beacons say of it. Times are Unix s, None for never."""

    collection: str
    sequence: int | None = None  # None: none has been received
    newest: int | None = None  # of those received; another than *sequence* where a person has activated one
    digest: str | None = None
    received: float | None = None
    published: float | None = None
    heard_sequence: int | None = None
    heard_digest: str | None = None
    heard: float | None = None
    error: str | None = None  # why the release is not used
    total_bytes: int = 0
    images: list[ImageView] = field(default_factory=list)

    @property
    def gap(self) -> int:
        """How many releases beacons are ahead of what is here."""
        return max(0, (self.heard_sequence or 0) - (self.newest or 0))

    @property
    def complete(self) -> bool:
        """Whether the newest release is here and published."""
        return (
            self.sequence is not None
            and not self.gap
            and self.error is None
            and self.published is not None
            and all(image.state == "published" for image in self.images)
        )


class Survey:
    """Looks at one receiver's state; releases once opened are remembered."""

    def __init__(self, journal: ReceiverJournal, spool: Path, trust: Trust) -> None:
        self._journal = journal
        self._spool = BlobStore(spool)
        self._trust = trust
        self._opened: dict[str, tuple[str, Release | None, str | None]] = {}

    def partials(self) -> list[PartialObject]:
        """Return the objects of which some bytes are here, the one touched last first."""
        found = []
        for partial, done, updated in reversed(self._journal.partials()):
            ranges = RangeSet(self._journal.ranges(partial.coded_digest))
            found.append(
                PartialObject(
                    digest=partial.digest,
                    kind=_kind(partial.kind),
                    coded_digest=partial.coded_digest,
                    content_size=partial.content_size,
                    coded_size=partial.coded_size,
                    done=done,
                    missing=tuple(ranges.missing(partial.coded_size)),
                    updated=updated,
                )
            )
        return found

    def collections(self) -> list[CollectionView]:
        """Return every collection that was received or heard of, by name."""
        heard, marks, newest = self._journal.heard(), desired_marks(self._journal), self._journal.newest_marks()
        partly = {item.digest: item for item in self.partials()}
        states, targets = states_by_image(self._journal)
        views = []
        for collection in sorted({*heard, *marks}):
            view = CollectionView(collection)
            if collection in heard:
                view.heard_sequence, view.heard_digest, view.heard = heard[collection]
            if collection in marks:
                view.newest = newest[collection][0]
                self._fill(view, marks[collection], partly, states, targets)
            views.append(view)
        return views

    def _fill(
        self,
        view: CollectionView,
        mark: tuple[int, str],
        partly: dict[str, PartialObject],
        states: dict[ImageKey, list[TargetState]],
        targets: list[str],
    ) -> None:
        row = self._journal.release(view.collection, mark[0])
        if row is None:
            return
        view.sequence, view.digest, view.received, view.published = (
            row.sequence,
            row.digest,
            row.received,
            row.published,
        )
        release, view.error = self._open(row)
        if release is None:
            return
        contents = release.contents()
        view.total_bytes = sum(content.size for content in contents.values())
        absent = {digest for digest, content in contents.items() if self._spool.size(digest) != content.size}
        for image in release.images:
            noted = states.get((row.collection, row.sequence, image.name, image.root.digest))
            noted = noted or [TargetState(name, "", None) for name in targets]
            state, error = combined(noted)
            needed = listed(image)
            # What is published needs nothing of the spool any more.
            missing = [c for c in needed.values() if c.digest in absent] if state != "published" else []
            here = sum(_here(partly[c.digest], c) for c in missing if c.digest in partly)
            view.images.append(
                ImageView(
                    name=image.name,
                    tags=image.tags,
                    digest=image.root.digest,
                    state=state or ("receiving" if missing else "received"),
                    error=error,
                    total_bytes=sum(content.size for content in needed.values()),
                    missing_bytes=sum(content.size for content in missing) - here,
                    missing=missing,
                    targets=noted,
                )
            )

    def _open(self, row: ReleaseRow) -> tuple[Release | None, str | None]:
        known = self._opened.get(row.collection)
        if known is None or known[0] != row.digest:
            try:
                known = (row.digest, self._trust.open(row.envelope).release, None)
            except WireError as error:
                known = (row.digest, None, str(error))
            self._opened[row.collection] = known
        return known[1], known[2]


def _here(partial: PartialObject, content: Content) -> int:
    """Estimate in content bytes: what counts on the wire is coded bytes."""
    return min(content.size, int(content.size * partial.percent / 100.0))


def _kind(number: int) -> str:
    try:
        return Kind(number).name.lower()
    except ValueError:
        return str(number)
