"""Images that a person has asked for with ``checkvalve-sender send``, besides those of images.yaml."""

from __future__ import annotations

import time
from typing import Any, Final

from oci.errors import ReferenceError_
from oci.reference import parse_reference
from runtime.errors import EXIT_USAGE, UserError
from sender.changes import contents
from sender.config import SenderSettings
from sender.decisions import ByHand, Decisions
from sender.desired import read_state
from sender.images import Options, Origin, PinnedImage
from sender.journal import SenderJournal

RULE: Final = "by hand"


def pin_by_hand(one: ByHand) -> PinnedImage:
    """Return the image that was asked for."""
    options = Options(collection=one.collection, urgent=one.urgent)
    return PinnedImage(parse_reference(one.reference), Origin(), options, rule=RULE, file="checkvalve-sender send")


def send(settings: SenderSettings, text: str, collection: str, *, urgent: bool, drop: bool) -> dict[str, Any]:
    """Want an image, or with *drop* want it no longer; what of it was sent already goes once more. UserError."""
    try:
        reference = parse_reference(text)
    except ReferenceError_ as error:
        raise UserError(str(error), exit_code=EXIT_USAGE) from None
    if reference.digest is None:
        raise UserError(
            f"{text!r} has no digest; `checkvalve-sender pin {text}` prints it with its digest", exit_code=EXIT_USAGE
        )
    journal = SenderJournal(settings.journal)
    try:
        decisions = Decisions(journal)
        name = str(reference)
        objects = 0
        if drop:
            if not decisions.forget_by_hand(collection, name):
                raise UserError(f"{name}: is not wanted by hand in collection {collection}")
        else:
            decisions.send_by_hand(ByHand(collection, name, urgent), time.time())
            objects = _again(journal, reference.digest, urgent=urgent)
        return {"image": name, "collection": collection, "urgent": urgent, "dropped": drop, "objects": objects}
    finally:
        journal.close()


def _again(journal: SenderJournal, digest: str, *, urgent: bool) -> int:
    """Queue once more what carries an image of the newest releases; return how many objects that is."""
    images = [
        image for row in journal.newest_releases() for image in read_state(row.images) if image.root.digest == digest
    ]
    needed = contents(images)
    if urgent:
        return journal.make_urgent(needed, repeat=True)
    carriers = journal.carriers(needed)
    journal.repeat_objects(carriers)
    return len(carriers)
