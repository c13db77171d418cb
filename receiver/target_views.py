"""How an image or a whole release stands in each target, and what that comes to: the weakest target counts.

Reads what publish noted; changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from receiver.journal import ReceiverJournal
from receiver.target_journal import TargetJournal
from runtime.terminal import table

if TYPE_CHECKING:
    from receiver.survey import CollectionView

# The one furthest to the left that any target is in is that of the image; '' is what publish has not looked at yet.
_ON_THE_WAY: Final = ("", "receiving", "publishing", "published")


@dataclass(frozen=True, slots=True)
class TargetState:
    """One image in one target; *error* is the line that says what would mend it."""

    target: str
    state: str  # receiving, publishing, published or failed, as publish last noted it; '' if it did not yet
    error: str | None


ImageKey = tuple[str, int, str, str]
"""Collection, sequence, name and digest of an image of a release."""


def states_by_image(journal: ReceiverJournal) -> tuple[dict[ImageKey, list[TargetState]], list[str]]:
    """Return how each image stands in each target, and the names of the targets."""
    targets = list(TargetJournal(journal).targets())
    noted: dict[ImageKey, dict[str, TargetState]] = {}
    for row in journal.images():
        key = (row["collection"], row["sequence"], row["name"], row["digest"])
        noted.setdefault(key, {})[row["target"]] = TargetState(row["target"], row["state"], row["error"])
    found = {
        key: [states.get(name) or TargetState(name, "", None) for name in targets or sorted(states)]
        for key, states in noted.items()
    }
    return found, targets


def combined(states: Sequence[TargetState]) -> tuple[str, str | None]:
    """Return the state of an image over all its targets, and the errors; '' if no target has one."""
    state = min((each.state for each in states), key=_progress, default="")
    several = len(states) > 1
    errors = [f"{each.target}: {each.error}" if several else each.error for each in states if each.error]
    return state, "; ".join(errors) or None


def _progress(state: str) -> int:
    """Return how far a state is; one that is not on the way, such as failed, counts before all others."""
    return _ON_THE_WAY.index(state) if state in _ON_THE_WAY else -1


def target_documents(views: Iterable[CollectionView], places: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return a document for each target, for ``status --json``: its place, images published and not, and why not."""
    images = [image for view in views for image in view.images]
    found = []
    for name, place in places.items():
        states = [(image, state) for image in images for state in image.targets if state.target == name]
        done = sum(state.state == "published" for _, state in states)
        why = [f"{image.title}: {state.error}" for image, state in states if state.error]
        found.append({"target": name, "place": place, "images": len(images), "published": done, "errors": why})
    return found


def print_targets(documents: Sequence[Mapping[str, Any]]) -> None:
    """Print how far each of several targets is; with a single one the other tables say it all."""
    if len(documents) > 1:
        rows = [
            (each["target"], each["place"], f"{each['published']} of {each['images']}", (each["errors"] or [""])[0])
            for each in documents
        ]
        table(("target", "place", "published", "why not all"), rows, title="Targets", right=("published",))
