"""Turns one entry of images.yaml into a pinned image or a rule, or into faults that say what would be right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from oci.errors import ReferenceError_
from oci.reference import Reference, is_tag, parse_reference
from runtime.document import Document, Location
from sender.images import Options, Origin, PinnedImage, Rule, parse_origin
from sender.intent_model import Common, Defaults, Entry, Rename, Tags
from sender.tags import TagRule

_PIN: Final = "`checkvalve-sender pin"


class EntryReader:
    """Reads the entry that stands at *here* in *document*; faults go to *faults*."""

    def __init__(
        self,
        document: Document,
        here: tuple[str | int, ...],
        defaults: Defaults,
        renames: Sequence[Rename],
        faults: list[str],
    ) -> None:
        self._document = document
        self._here = here
        self._defaults = defaults
        self._renames = renames
        self._faults = faults

    def read(self, entry: Entry, where: Location) -> PinnedImage | Rule | None:
        """Return what *entry* asks for; its reference stands at *where*."""
        before = len(self._faults)
        reference = self._reference(where, entry)
        origin = self._origin(entry)
        target = self._target(entry, reference)
        if reference is None or len(self._faults) > before:
            return None
        options = Options(
            collection=str(self._said(entry, "collection")),
            target=target if target != reference.name else "",
            platforms=self._said(entry, "platforms") or (),
            referrers=self._said(entry, "referrers"),
            interval=self._said(entry, "interval"),
            urgent=bool(self._said(entry, "urgent")),
            verify=self._said(entry, "verify"),
        )
        if options.referrers == () and options.verify is not None and options.verify.cosign is not None:
            key = "referrers" if entry.referrers is not None else "verify"
            self._fault((*self._here, key), "referrers: false leaves no signature that verify.cosign could look at")
            return None
        line, file = self._document.line(self._here), str(self._document.path)
        if entry.tags is None:
            return PinnedImage(reference, origin, options, line, file=file)
        follow = self._said(entry, "follow") == "digest"
        return Rule(reference, tag_rule(entry.tags), follow, origin, options, line, file)

    def _said(self, entry: Common, name: str) -> Any:
        said = getattr(entry, name)
        return getattr(self._defaults, name) if said is None else said

    def _reference(self, where: Location, entry: Entry) -> Reference | None:
        text = entry.image
        try:
            reference = parse_reference(text)
        except ReferenceError_ as error:
            self._fault(where, str(error))
            return None
        if entry.tags is not None:
            if reference.tag is not None or reference.digest is not None:
                self._fault(where, f"{text!r} has a tag or digest; with tags: give {reference.name} alone")
                return None
            for number, tag in enumerate(entry.tags.exact or ()):
                if not is_tag(tag):
                    self._fault((*self._here, "tags", number), f"{tag!r} is not a tag; give e.g. 1.27 or latest")
        elif reference.digest is None:
            asked = text if reference.tag is not None else f"{text}:TAG"
            self._fault(
                where,
                f"{text!r} has no digest; {_PIN} {asked}` prints the line with its digest; tags: lets "
                "images.lock hold it",
            )
            return None
        else:
            for key in ("follow", "interval"):
                if getattr(entry, key):
                    self._fault((*self._here, key), f"{key} is for entries with tags:; this one has a digest")
        return reference

    def _origin(self, entry: Entry) -> Origin:
        if entry.source is None:
            return Origin()
        try:
            return parse_origin(entry.source, self._document.folder)
        except ValueError as error:
            self._fault((*self._here, "from"), str(error))
            return Origin()

    def _target(self, entry: Entry, reference: Reference | None) -> str:
        """Return the name on the other side: as the entry says, else by the longest prefix that is renamed."""
        if entry.target is not None:
            self._check_name((*self._here, "as"), entry.target)
            return entry.target
        name = reference.name if reference is not None else ""
        fitting = [rename for rename in self._renames if name.startswith(rename.source)]
        if not fitting:
            return name
        rename = max(fitting, key=lambda one: len(one.source))
        target = rename.target + name[len(rename.source) :]
        self._check_name(self._here, target, f" (renamed: {rename.source} to {rename.target})")
        return target

    def _check_name(self, where: Location, name: str, why: str = "") -> None:
        try:
            parsed = parse_reference(name)
            good = str(parsed) == name
        except ReferenceError_ as error:
            self._fault(where, f"{error}{why}")
            return
        if not good:
            text = f"{name!r} is not a whole name{why}; give registry and repository, e.g. registry.example/hub/nginx"
            self._fault(where, text)

    def _fault(self, where: Location, text: str) -> None:
        self._faults.append(self._document.fault(where, text))


def tag_rule(tags: Tags) -> TagRule:
    """Return the rule that ``tags:`` states."""
    return TagRule(
        exact=tuple(dict.fromkeys(tags.exact or ())),
        semver=tags.semver,
        pattern=tags.regex,
        suffix=tags.suffix,
        exclude=tags.exclude,
        keep=tags.keep,
    )
