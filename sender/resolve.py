"""From intent, what registries last said, and the lock: which image is wanted at which digest. Pure.

A tag that was locked stays at its digest unless the rule follows it. What is unclear (a registry that did not answer,
a rule that matches nothing, two rules for one tag, a bad line of the lock) is held: it stays where it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from oci.descriptor import short_digest
from sender.images import ImageList, PinnedImage, Rule, Slot
from sender.lock import Lock, LockEntry


@dataclass(frozen=True, slots=True)
class Tagged:
    """What a tag was when a registry was asked: digest, media type, size (bytes); *seen* in Unix seconds."""

    digest: str
    media_type: str
    size: int
    seen: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of asking about a rule.

    With an *error* (no usable answer) or a *warning* (the rule means no tag) the tags are those of the answer before.
    """

    tags: Mapping[str, Tagged] = field(default_factory=dict)  # the tags that the rule means
    failures: Mapping[str, str] = field(default_factory=dict)  # tags that could not be asked about, and why
    error: str | None = None
    warning: str | None = None
    etag: str | None = None  # of the list of tags
    dates: Mapping[str, float | None] = field(default_factory=dict)  # by digest, where `keep` went by them


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be fetched, and what stays as it was: by slot with the reason, or whole names."""

    pins: tuple[PinnedImage, ...] = ()
    held: Mapping[Slot, str] = field(default_factory=dict)
    held_names: frozenset[tuple[str, str]] = frozenset()  # (collection, target)
    failures: tuple[str, ...] = ()  # one line for each rule without an answer
    warnings: tuple[str, ...] = ()
    waiting: tuple[Rule, ...] = ()  # rules about which nothing is known yet

    @property
    def reasons(self) -> list[str]:
        """One line for each thing that is held."""
        return list(dict.fromkeys([*self.held.values(), *self.failures]))

    def keeps(self, slot: Slot) -> bool:
        """Whether *slot* stays as it was before."""
        return slot in self.held or slot[:2] in self.held_names


def resolve(
    images: ImageList, answers: Mapping[str, Answer], lock: Lock, by_hand: Iterable[PinnedImage] = ()
) -> Wanted:
    """Return what is wanted; *answers* by ``Rule.key``. What is wanted *by_hand* goes before all else."""
    resolver = _Resolver(lock, by_hand)
    for pin in images.images:
        resolver.want(pin)
    for rule in images.rules:
        resolver.rule(rule, answers.get(rule.key))
    return resolver.result()


class _Resolver:
    def __init__(self, lock: Lock, by_hand: Iterable[PinnedImage]) -> None:
        self._lock = lock
        self._by_hand = {pin.slot: pin for pin in by_hand}
        self._claims: dict[Slot, list[PinnedImage]] = {}
        self._held: dict[Slot, str] = {}
        self._held_names: set[tuple[str, str]] = set()
        self._failures: list[str] = []
        self._warnings: list[str] = []
        self._waiting: list[Rule] = []

    def want(self, pin: PinnedImage) -> None:
        self._claims.setdefault(pin.slot, []).append(pin)

    def rule(self, rule: Rule, answer: Answer | None) -> None:
        """Want the tags that *rule* means, each at the digest that it is to have."""
        if answer is None or answer.error is not None or answer.warning is not None:
            self._unanswered(rule, answer)
        if answer is None:
            return
        for tag, reason in answer.failures.items():
            self._hold_tag(rule, tag, f"{rule.where}: {reason}", known=tag in answer.tags)
        for tag, found in answer.tags.items():
            pin = rule.pinned(tag, found.digest)
            locked = self._locked(pin)
            if locked is not None and not rule.follow:
                pin = rule.pinned(tag, locked.digest)
            self.want(pin)

    def _unanswered(self, rule: Rule, answer: Answer | None) -> None:
        """Hold what there is of a rule; pin what the lock has of it, if nothing else is known."""
        name = (rule.options.collection, rule.options.target or rule.reference.name)
        if answer is None:
            self._waiting.append(rule)
        elif answer.error is not None:
            self._failures.append(f"{rule.where}: {answer.error}")
        else:
            self._warnings.append(f"{rule.where}: {answer.warning}")
        self._held_names.add(name)
        if answer is not None and answer.tags:
            return
        for entry in self._lock.entries.values():
            if entry.rule == rule.text and entry.slot[:2] == name and (entry.target or "") == rule.options.target:
                self.want(rule.pinned(entry.slot[2], entry.digest))

    def _hold_tag(self, rule: Rule, tag: str, reason: str, *, known: bool) -> None:
        pin = rule.pinned(tag, "")
        locked = self._locked(pin)
        if locked is not None and not known:  # its bytes may well be here: only the question failed
            self.want(rule.pinned(tag, locked.digest))
        self._held[pin.slot] = reason

    def _locked(self, pin: PinnedImage) -> LockEntry | None:
        entry = self._lock.entries.get(pin.slot)
        return entry if entry is not None and entry.image == pin.label else None

    def result(self) -> Wanted:
        """Sort out contradictions."""
        self._claims |= {slot: [pin] for slot, pin in self._by_hand.items()}
        held = {**self._held, **self._lock.held}
        pins = list(self._without_rivals(held))
        return Wanted(
            tuple(pins),
            held,
            frozenset(self._held_names),
            tuple(self._failures),
            tuple(self._warnings),
            tuple(self._waiting),
        )

    def _without_rivals(self, held: dict[Slot, str]) -> Iterator[PinnedImage]:
        """Two entries may mean one tag on the other side, in whatever collections; if they differ, none is right."""
        digests: dict[tuple[str, str], dict[str, PinnedImage]] = {}
        for (_, name, tag), claims in self._claims.items():
            if not tag.startswith("@"):
                digests.setdefault((name, tag), {}).update({pin.digest: pin for pin in reversed(claims)})
        for slot, claims in self._claims.items():
            rivals = list(digests.get(slot[1:], {}).values())
            if slot in self._by_hand:
                held.pop(slot, None)
                yield claims[0]
            elif len(rivals) > 1:
                said = ", ".join(f"{short_digest(one.digest)} by {one.where} ({one.rule})" for one in rivals)
                held[slot] = f"'{slot[1]}:{slot[2]}' is claimed with {len(rivals)} digests: {said}; keep one"
            elif slot not in self._lock.held:
                yield claims[0]
