"""Asks registries about the rules of images.yaml, again and again, each rule by a task of its own.

A rule that gets no answer keeps the answer before and is asked about again, later and later; no other rule waits for
it. Answers and when to ask next are in the journal, so a restart asks about nothing earlier than was due.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import Callable, Iterable, Set
from contextlib import suppress
from dataclasses import replace
from typing import Final

import structlog

from oci.errors import OciError
from runtime.errors import UserError
from sender.ask import ask
from sender.config import SenderSettings
from sender.decisions import Asked, Decisions
from sender.images import Rule, Slot
from sender.lock import Lock, LockEntry
from sender.resolve import Answer
from sender.sources import Sources, advice

JITTER: Final = 0.1  # share of an interval
RETRY_S: Final = 60.0  # after a failure, doubled for each further one, up to the rule's interval
FLUSH_S: Final = 0.5
HINT_S: Final = 0.1  # docker-registry tells of a push a moment before the tag has moved
HINT_AGAIN_S: Final = 1.0  # for one that takes longer
_NEVER: Final = 10 * 366 * 86_400.0
_UNLOCKED: Final = "its line in the lock is gone, so it is asked about again"

log = structlog.get_logger()


class Watch:
    """Use as an async context manager. *wake* is called when an answer is not the one before."""

    def __init__(
        self,
        settings: SenderSettings,
        decisions: Decisions,
        sources: Sources,
        wake: Callable[[], None],
        *,
        rng: random.Random | None = None,
    ) -> None:
        self._settings = settings
        self._decisions = decisions
        self._sources = sources
        self._wake = wake
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret
        self.version = 0  # another one whenever an answer is not the one before
        self._asked = decisions.answers()
        self._failures: dict[str, int] = {}
        self._rules: dict[str, Rule] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._pokes: dict[str, asyncio.Event] = {}
        self.lock = Lock()  # as it was read or written last
        self._broken: BaseException | None = None
        self._unsaved: dict[str, Asked] = {}
        self._flushing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Watch:
        self._flushing = asyncio.ensure_future(self._keep_flushing())
        return self

    async def __aexit__(self, *exc: object) -> None:
        tasks = [*self._tasks.values(), *([self._flushing] if self._flushing else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.save()

    @property
    def answers(self) -> dict[str, Answer]:
        """What is known of each rule, by its key."""
        return {key: asked.answer for key, asked in self._asked.items()}

    def check(self) -> None:
        """Raise what no question should have raised."""
        if self._broken is not None:
            raise self._broken

    def know(self, rules: Iterable[Rule], lock: Lock, unlocked: Set[Slot] = frozenset()) -> None:
        """Take the rules of images.yaml; answers about others are forgotten. Rules with one key ask once.

        *unlocked* is what is proposed and has no line in the lock any more: it is asked about again, at once.
        """
        self.lock = lock
        known: dict[str, Rule] = {}
        for rule in rules:
            same = known.get(rule.key)
            if same is None or self._interval(rule) < self._interval(same):
                known[rule.key] = rule
        gone = self._asked.keys() - known.keys()
        for key in gone:
            del self._asked[key]
            self._unsaved.pop(key, None)
        if gone:
            self._decisions.keep_answers(known)
        for key in self._tasks.keys() & known.keys():
            if self._interval(known[key]) != self._interval(self._rules[key]):
                self._tasks.pop(key).cancel()  # to be told when to ask next anew
        self._rules = known
        if unlocked:
            for key, rule in known.items():
                self._unlock(key, rule, unlocked)

    def _unlock(self, key: str, rule: Rule, slots: Set[Slot]) -> None:
        """Forget where tags lead whose line was deleted; they stay where they are until the registry has answered."""
        asked = self._asked.get(key)
        if rule.follow or asked is None:
            return
        gone = {tag for tag in asked.answer.tags if rule.pinned(tag, "").slot in slots}
        if gone:
            tags = {tag: found for tag, found in asked.answer.tags.items() if tag not in gone}
            failures = {**asked.answer.failures, **{tag: f"tag {tag}: {_UNLOCKED}" for tag in gone}}
            self._asked[key] = replace(asked, answer=replace(asked.answer, tags=tags, failures=failures), due=0.0)
            self.version += 1
            if key in self._pokes:
                self._pokes[key].set()

    def follow(self) -> None:
        """Ask about every known rule from now on, when it is due."""
        for key in self._tasks.keys() - self._rules.keys():
            self._tasks.pop(key).cancel()
            self._pokes.pop(key, None)
        for key in self._rules.keys() - self._tasks.keys():
            self._pokes.setdefault(key, asyncio.Event())
            self._tasks[key] = asyncio.ensure_future(self._keep_asking(key))
            self._tasks[key].add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self._broken = self._broken or task.exception()
            self._wake()

    async def ask_all(self) -> None:
        """Ask about every known rule once, now."""
        await asyncio.gather(*map(self._ask, list(self._rules)))

    def poke(self, name: str) -> int:
        """Ask at once about the rules whose repository is *name*, with or without its registry; return how many."""
        found = [key for key, rule in self._rules.items() if name in self._names(rule) and key in self._pokes]
        for key in found:
            self._pokes[key].set()
        return len(found)

    def _names(self, rule: Rule) -> tuple[str, ...]:
        """What a registry may call the repository of *rule*: its own name, or where it is asked, host or no host."""
        host, path = rule.reference.registry, rule.reference.repository
        place, before = self._settings.fetch.access(host).place(host)
        return (rule.reference.name, path, f"{place}/{before}{path}", before + path)

    async def _keep_asking(self, key: str) -> None:
        while True:
            delay, poke = self._wait_s(key), self._pokes[key]
            if delay > 0:
                with suppress(TimeoutError):
                    await asyncio.wait_for(poke.wait(), delay)
            if poke.is_set():
                await self._follow_hint(key, poke)
            else:
                await self._ask(key)

    async def _follow_hint(self, key: str, poke: asyncio.Event) -> None:
        """Ask a moment later, which takes several hints for one; once more if all seems as it was."""
        before = self._asked.get(key)
        await asyncio.sleep(HINT_S)
        poke.clear()
        await self._ask(key)
        if before is not None and self._asked[key].answer == before.answer and not poke.is_set():
            await asyncio.sleep(HINT_AGAIN_S)
            poke.clear()
            await self._ask(key)

    def _wait_s(self, key: str) -> float:
        """Seconds until a rule is due, at most its interval from now: that, or the clock, may have changed."""
        asked = self._asked.get(key)
        if asked is None:
            return 0.0
        now, interval_max = time.time(), self._interval(self._rules[key]) * (1 + JITTER)
        return min(asked.due - now, asked.asked + interval_max - now, interval_max)

    async def _ask(self, key: str) -> None:
        rule = self._rules[key]
        before = self._asked.get(key)
        answer = await self._answer(rule, before.answer if before else None)
        if key not in self._rules:
            return
        failed = answer.error is not None or bool(answer.failures)
        self._failures[key] = self._failures.get(key, 0) + 1 if failed else 0
        now = time.time()
        self._asked[key] = self._unsaved[key] = Asked(answer, now, now + self._delay(rule))
        if before is None or before.answer != answer:
            log.debug("answered", rule=key, tags=len(answer.tags), error=answer.error)
            self.version += 1
            self._wake()

    async def _answer(self, rule: Rule, before: Answer | None) -> Answer:
        def mend(error: Exception) -> str:
            return advice(error, rule.reference.registry)

        try:
            source = await self._sources.place(rule.reference, rule.origin)
            return await ask(rule, source, before, self._locked(rule), now=time.time, advice=mend)
        except (OciError, UserError, ValueError) as error:
            reason = mend(error)
        except OSError as error:
            reason = f"{error.filename or rule.origin}: {error.strerror or error}"
        before = before or Answer()
        return Answer(before.tags, before.failures, f"{rule.key}: {reason}")

    def _locked(self, rule: Rule) -> dict[str, LockEntry]:
        name = (rule.options.collection, rule.options.target or rule.reference.name)
        entries = self.lock.entries
        if rule.tags.exact:
            found = {tag: entries.get((*name, tag)) for tag in rule.tags.exact}
        else:
            found = {slot[2]: entry for slot, entry in entries.items() if slot[:2] == name}
        return {
            tag: entry
            for tag, entry in found.items()
            if entry is not None and entry.image == f"{rule.reference.name}:{tag}"
        }

    def _interval(self, rule: Rule) -> float:
        """Seconds between two questions; without end if the settings say never."""
        own = rule.options.interval
        return own if own is not None else self._settings.fetch.interval or _NEVER

    def _delay(self, rule: Rule) -> float:
        interval = self._interval(rule)
        failures = self._failures.get(rule.key, 0)
        if failures:
            interval = min(interval, RETRY_S * 2 ** min(failures - 1, 20))
        return interval * self._rng.uniform(1 - JITTER, 1 + JITTER)

    async def _keep_flushing(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            with suppress(sqlite3.Error):  # told where it stops the role; these are tried again
                self.save()

    def save(self) -> None:
        """Have the journal know all answers."""
        if self._unsaved:
            self._decisions.save_answers(self._unsaved)
            self._unsaved = {}
