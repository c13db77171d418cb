"""What people see of the border and decide there: ``held``, ``release``, ``reject``; and its alarms.

A decision is in the journal and in the audit log, or in neither. Publish finds it by itself, if it runs.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from oci.descriptor import check_digest
from oci.errors import ReferenceError_
from oci.reference import parse_reference
from receiver.alarms import Alarm
from receiver.audit import Audit, Broken, person
from receiver.border_journal import BorderJournal, Choice, Decision
from receiver.config import ReceiverSettings
from receiver.journal import ReceiverJournal
from receiver.senders import trust
from receiver.survey import CollectionView, ImageView, Survey
from runtime.errors import EXIT_USAGE, UserError

_HELD_SHOWN: Final = 5
_SHORT_DIGEST: Final = re.compile(r"(?:sha256|sha512):[0-9a-f]{12,}\Z")


@dataclass(frozen=True, slots=True)
class Known:
    """An image of a newest release."""

    name: str
    tags: tuple[str, ...]
    digest: str
    state: str

    def is_called(self, name: str) -> bool:
        """Whether *name* (``name`` or ``name:tag``) means it."""
        return name == self.name or any(name == f"{self.name}:{tag}" for tag in self.tags)


def held(settings: ReceiverSettings) -> list[dict[str, Any]]:
    """Return the images of the newest releases that are held, with all that is known for a decision."""
    journal = ReceiverJournal(settings.journal, read_only=True)
    try:
        rows = BorderJournal(journal)
        noted = {(row["collection"], row["name"], row["digest"]): row["updated"] for row in journal.images()}
        found = []
        for view in _views(settings, journal):
            for image in view.images:
                if image.state != "held":
                    continue
                verdict = rows.verdict(view.collection, image.name, image.digest)
                decision = rows.decision(image.name, image.digest)
                found.append(
                    {
                        "image": image.name,
                        "tags": list(image.tags),
                        "digest": image.digest,
                        "collection": view.collection,
                        "release": view.sequence,
                        "since": noted.get((view.collection, image.name, image.digest)),
                        "reason": image.error,
                        "decision": decision.choice if decision is not None else None,
                        "may_be_released": not (verdict is not None and verdict.faults),
                        "signers": list(verdict.signers) if verdict is not None else [],
                    }
                )
        return found
    finally:
        journal.close()


def decide(settings: ReceiverSettings, image: str, choice: Choice, reason: str, by: str | None) -> str:
    """Record that *image* (``name[:tag][@digest]``) is released or rejected; return a line that says what follows.

    UserError if there is no such image or several, if it cannot be released, and if the disk fails.
    """
    reason = " ".join(reason.split())
    if not reason:
        raise UserError("--reason: is empty; say in a few words why", exit_code=EXIT_USAGE)
    actor, account = (by or "").strip(), person()
    if by is not None and not actor:
        raise UserError("--by: is empty; give the name of who decides, or leave it out", exit_code=EXIT_USAGE)
    journal = ReceiverJournal(settings.journal)
    try:
        views = _views(settings, journal)
        known = [Known(one.name, one.tags, one.digest, one.state) for view in views for one in view.images]
        name, digest = _meant(image, known)
        states = {one.state for one in known if (one.name, one.digest) == (name, digest)}
        rows, audit = BorderJournal(journal), Audit(settings.audit)
        if choice == "released":
            faults = [
                fault
                for view in views
                if (verdict := rows.verdict(view.collection, name, digest)) is not None
                for fault in verdict.faults
            ]
            if faults:
                raise UserError(f"{name}@{digest}: cannot be released by anybody: {faults[0]}")
        made = Decision(name, digest, choice, reason, actor or account, time.time())
        rows.decide(
            made,
            lambda: audit.append(choice, object=f"{name}@{digest}", reason=reason, actor=made.actor, account=account),
        )
    except Broken as error:
        raise UserError(f"{settings.audit}: {error}; nothing was decided, as it could not be recorded") from None
    except (OSError, sqlite3.OperationalError) as error:
        raise UserError(f"{settings.state}: {error}; nothing was decided") from None
    finally:
        journal.close()
    return f"{choice}: {name}@{digest}; {_what_follows(choice, states)}"


def border_alarms(settings: ReceiverSettings, images: Iterable[ImageView]) -> list[Alarm]:
    """Return what of border and audit log a person has to know.

    Each image that is held, or how many where that would hide all else.
    """
    listed = list(images)
    waiting = [image for image in listed if image.state == "held"]
    found = [
        Alarm("image_held", f"{image.title}: held: {image.error}", f"{image.name}@{image.digest}")
        for image in waiting[:_HELD_SHOWN]
    ]
    if len(waiting) > _HELD_SHOWN:
        found = [Alarm("image_held", f"{len(waiting)} images are held at the border")]
    rejected = _rejected(settings)
    found += [
        Alarm(
            "rejected_is_out",
            f"{image.title}: rejected by {one.actor} ({one.reason})",
            f"{image.name}@{image.digest}",
        )
        for image in listed
        if image.state == "published" and (one := rejected.get(image.digest)) is not None
    ]
    try:
        Audit(settings.audit).head()
    except (Broken, UserError) as error:
        found.append(Alarm("audit_broken", f"audit log {settings.audit}: {error}"))
    return found


def _rejected(settings: ReceiverSettings) -> dict[str, Decision]:
    journal = ReceiverJournal(settings.journal, read_only=True)
    try:
        return BorderJournal(journal).rejected()
    finally:
        journal.close()


def _views(settings: ReceiverSettings, journal: ReceiverJournal) -> list[CollectionView]:
    return Survey(journal, settings.spool, trust(settings)).collections()


def _meant(text: str, known: Iterable[Known]) -> tuple[str, str]:
    """Return name and digest of the image that *text* means; UserError if it is none, or not only one."""
    name, at, digest = text.partition("@")
    names = {name}
    try:
        names.add(str(parse_reference(name)))  # nginx is docker.io/library/nginx
    except ReferenceError_ as error:
        if not any(one.name == name for one in known):
            raise UserError(str(error), exit_code=EXIT_USAGE) from None
    if at and _SHORT_DIGEST.match(digest) is None:
        raise UserError(
            f"{text}: {digest!r} is no digest; give sha256:<64 hex digits>, or the first 12 of them",
            exit_code=EXIT_USAGE,
        )
    found = sorted(
        {
            (one.name, one.digest)
            for one in known
            if any(one.is_called(each) for each in names) and (not at or one.digest.startswith(digest))
        }
    )
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(
            f"{text}: means {len(found)} images; give one with its digest: "
            + ", ".join(f"{each}@{digest}" for each, digest in found[:4])
        )
    try:
        reference = parse_reference(f"{name}@{check_digest(digest)}")
    except ReferenceError_:
        raise UserError(
            f"{text}: no newest release has such an image; `held` lists those that are held. "
            "To decide about one that has not come yet, give its whole digest"
        ) from None
    return reference.name, check_digest(digest)  # before it comes


def _what_follows(choice: Choice, states: set[str]) -> str:
    if choice == "released":
        if not states:
            return "no newest release has it; it will pass when it comes"
        return "it is published already" if states == {"published"} else "publish goes on with it"
    if "published" in states:
        return "it is in the target already: take it out there; it will not be published again"
    return "it will not be published, until it is released"
