"""The publish role: makes each target show the newest verified release of every collection.

Watches the journal and the spool, both written by capture, and keeps one job per image and target (image_job.py).
Targets share nothing but the spool, so none waits for another. What it has done is in the journal and in the targets,
so it may be killed and started at any time. It never looks at the diode.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

import structlog

from oci.blobs import BlobStore
from oci.descriptor import DIGEST_HEX_LENGTH
from oci.errors import OciError
from protocol.errors import WireError
from protocol.release import Release
from receiver.border import Border
from receiver.claims import rival
from receiver.config import ReceiverSettings
from receiver.desired import desired_marks
from receiver.image_job import Arrivals, ImageJob, Pace, Workshop
from receiver.journal import ReceiverJournal, ReleaseRow
from receiver.keeper import Keeper
from receiver.oversight import Oversight
from receiver.senders import Trust, trust
from receiver.target import PublishTarget, open_targets
from receiver.target_journal import TargetJournal
from runtime import logs, notify
from runtime.errors import UserError
from runtime.lockfile import Busy, locked
from runtime.reload import AGAIN, Reload

ROLE = "publish"
_LIVE_S = 2.0  # how often status hears from us at least
_YOUNG_NS = 2_000_000_000
log = structlog.get_logger()


@dataclass(slots=True)
class _Desired:
    """The newest release of one collection, and the jobs that make it true."""

    row: ReleaseRow
    release: Release
    jobs: list[ImageJob]
    tasks: dict[int, asyncio.Task[None]] = field(default_factory=dict)  # id(job) -> task
    complete: set[str] = field(default_factory=set)  # targets that have all of it, as the journal was told
    finished: bool = False

    def start(self) -> None:
        """Start the jobs that do not run yet."""
        for job in self.jobs:
            if id(job) not in self.tasks:
                self.tasks[id(job)] = asyncio.create_task(job.run(), name=str(job))

    @property
    def published(self) -> bool:
        return all(job.state == "published" for job in self.jobs)

    def published_in(self, target: str) -> bool:
        """Whether *target* has every image."""
        return all(job.state == "published" for job in self.jobs if job.shop.target == target)

    @property
    def settled(self) -> bool:
        """Whether nothing can change any more without a person; what is just being tried again can."""
        return all(job.state == "published" or (job.failed and job.state != "publishing") for job in self.jobs)


class Publisher:
    """Keeps the targets in step with the journal. Not thread-safe; one event loop."""

    def __init__(
        self,
        settings: ReceiverSettings,
        trust: Trust,
        journal: ReceiverJournal,
        targets: list[PublishTarget],
        spool: BlobStore,
        pace: Pace,
    ) -> None:
        self._trust = trust
        self._journal = journal
        self._spool = spool
        self._border = Border(settings, journal, spool)
        self._pace = pace
        self._arrivals = Arrivals()
        self._place = ", ".join(target.place for target in targets)
        self._marks = TargetJournal(journal)
        self._marks.set_targets({target.name: target.place for target in targets})
        self._shops = [self._workshop(target) for target in targets]
        self._desired: dict[str, _Desired] = {}
        self._rejected: dict[str, tuple[int, str]] = {}
        self._tidying: set[asyncio.Task[None]] = set()
        self._seen: tuple[int, object] = (-1, None)
        self._live: tuple[float, object] = (0.0, None)
        self._first_heard = 0.0
        self._oversight = Oversight(settings, trust, pace.look)
        self._keeper = Keeper(settings, journal, list(zip(targets, self._shops, strict=True)), self._idle, pace.keep)

    def _workshop(self, target: PublishTarget) -> Workshop:
        return Workshop(
            spool=self._spool,
            journal=self._journal,
            target=target.name,
            place=target.place,
            sink=target.sink,
            border=self._border,
            mapping=target.mapping,
            parallel=target.parallel,
            published=self._journal.published(target.name),
            rival=self._rival,
            pace=self._pace,
            rng=random.Random(),  # noqa: S311 - jitter, not a secret
            arrivals=self._arrivals,
        )

    async def run(self, stop: asyncio.Event, *, once: bool, since: float, again: Callable[[], bool] = bool) -> int:
        """Work until *stop*; with *once* until what was heard of after *since* (Unix s) is published or failed.

        Return 0, or 1 if an image of such a release could not be published; AGAIN as soon as *again* says so.
        """
        aside = [] if once else [asyncio.create_task(each.run()) for each in (self._keeper, self._oversight)]
        try:
            while not stop.is_set():
                await self._poll()
                for task in aside:
                    if task.done():
                        task.result()  # a bug of ours ends the role, and it is started again
                result = self._result(since) if once and not self._tidying else None
                if result is not None:
                    return result
                notify.watchdog()
                if again():
                    return AGAIN
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), self._pace.poll)
            return 0
        finally:
            tasks = [task for desired in self._desired.values() for task in desired.tasks.values()]
            await self._cancel([*tasks, *self._tidying, *aside])
            self._tell("stopped")

    async def _poll(self) -> None:
        if self._journal.replaced:
            raise UserError("the journal was set aside or is gone: publish starts again with the new one")
        changes, spool = self._journal.changes(), _folder_times(self._spool)
        if changes != self._seen[0]:
            self._border.look()
            for collection, mark in desired_marks(self._journal).items():
                current = self._desired.get(collection)
                if (current is None or (current.row.sequence, current.row.digest) != mark) and (
                    self._rejected.get(collection) != mark
                ):
                    await self._load(collection, mark)
            # Only when all are known can it be told which of two claims to one tag goes first.
            for desired in self._desired.values():
                desired.start()
        # Two renames within one tick of the kernel's clock leave the same time: look again while it is young.
        if spool != self._seen[1] or max(spool) > time.time_ns() - _YOUNG_NS:
            self._arrivals.announce()
        self._seen = (changes, spool)
        for desired in self._desired.values():
            for task in desired.tasks.values():
                if task.done() and not task.cancelled():
                    task.result()  # a bug of ours ends the role, and it is started again
            self._note_targets(desired)
            if desired.published and not desired.finished:
                self._finish(desired)
        self._tell("publishing" if any(not d.settled for d in self._desired.values()) else "idle")

    async def _load(self, collection: str, mark: tuple[int, str]) -> None:
        """Make a release the desired one, if it holds what the journal says of it."""
        row = self._journal.release(collection, mark[0])
        if row is None:
            return
        try:
            signed = await asyncio.to_thread(self._trust.open, row.envelope)
        except WireError as error:
            log.error("release_not_published", collection=collection, sequence=row.sequence, error=str(error))
            self._rejected[collection] = mark
            return
        release, row = signed.release, replace(row, envelope=b"")  # which may be large
        if (release.collection, release.sequence, signed.digest) != (collection, row.sequence, row.digest):
            log.error(
                "release_not_published",
                collection=collection,
                sequence=row.sequence,
                error="the journal names another release",
            )
            self._rejected[collection] = mark
            return
        log.info("release_to_publish", collection=collection, sequence=row.sequence, images=len(release.images))
        self._rejected.pop(collection, None)
        former = self._desired.pop(collection, None)
        kept = {(job.shop.target, job.image): job for job in former.jobs} if former else {}
        jobs = [
            kept.pop((shop.target, image)) if (shop.target, image) in kept else ImageJob(row, image, shop)
            for shop in self._shops
            for image in release.images
        ]
        tasks = dict(former.tasks) if former else {}
        # An older tag must not be put after a newer one: what is not wanted any more ends before anything begins.
        await self._cancel([tasks.pop(id(job)) for job in kept.values()])
        self._desired[collection] = _Desired(row, release, jobs, tasks)
        for job in jobs:
            if id(job) in tasks:
                job.rebind(row)

    def _note_targets(self, desired: _Desired) -> None:
        """Note which targets have all of a release by now, and let them tidy up when that is all there is."""
        for shop in self._shops:
            if shop.target in desired.complete or not desired.published_in(shop.target):
                continue
            desired.complete.add(shop.target)
            row = desired.row
            self._marks.note_complete(shop.target, row, time.time())
            if len(self._shops) > 1:
                log.info("release_in_target", target=shop.target, collection=row.collection, sequence=row.sequence)
            if not self._rejected and all(shop.target in other.complete for other in self._desired.values()):
                task = asyncio.create_task(self._tidy(shop), name=f"tidy {shop.target}")
                self._tidying.add(task)
                task.add_done_callback(self._tidying.discard)

    async def _tidy(self, shop: Workshop) -> None:
        jobs = [job for desired in self._desired.values() for job in desired.jobs if job.shop is shop]
        try:
            await shop.sink.settle([(job.image, job.name_in_target()) for job in jobs])
        except (OciError, OSError) as error:
            log.warning("target_not_tidied", target=shop.target, error=str(error))

    def _finish(self, desired: _Desired) -> None:
        desired.finished = True
        row = desired.row
        if row.published is not None and not any(job.changed for job in desired.jobs):
            log.debug("release_was_complete", collection=row.collection, sequence=row.sequence)
            return
        self._journal.finish_release(row, time.time())
        log.info(
            "release_complete",
            collection=row.collection,
            sequence=row.sequence,
            images=len(desired.release.images),
            bytes=sum(content.size for content in desired.release.contents().values()),
            target=self._place,
        )

    def _result(self, since: float) -> int | None:
        """Return how --once ends, None while it cannot end yet."""
        heard = {name: entry for name, entry in self._journal.heard().items() if entry[2] >= since}
        if not heard:
            return None
        now = time.time()
        self._first_heard = self._first_heard or now
        failed, new = False, False
        newest, shown = self._journal.newest_marks(), desired_marks(self._journal)
        for collection, (sequence, digest, _) in heard.items():
            mark = (sequence, digest)
            if newest.get(collection) == mark:  # it is here; a person may have activated another
                mark = shown[collection]
            desired = self._desired.get(collection)
            if self._rejected.get(collection) == mark:
                failed = True
            elif desired is None or desired.row.sequence < mark[0]:
                return None
            elif desired.row.sequence == mark[0] and desired.row.digest != mark[1]:
                failed = True  # two releases under one number: only a newer one can mend that
            elif not desired.finished:
                if not desired.settled:
                    return None
                failed = True
            new = new or failed or (desired is not None and (desired.row.published or now) >= since)
        pace, last = self._pace, max(when for _, _, when in heard.values())
        if not new and now - last < pace.silence and now - self._first_heard < pace.settle:
            return None
        return 1 if failed else 0

    def _rival(self, job: ImageJob, path: str) -> str | None:
        """Say whose claim to a tag of the job's image goes first."""
        return rival(
            job, path, [other for desired in self._desired.values() for other in desired.jobs], self._journal
        )

    def _idle(self) -> bool:
        return all(desired.settled for desired in self._desired.values())

    def _tell(self, state: str) -> None:
        """Let status know what we do: at every change, and often enough to be seen alive."""
        document = {
            "state": state,
            "target": self._place,
            "images": [
                {
                    "target": job.shop.target,
                    "name": job.image.name,
                    "tags": list(job.image.tags),
                    "moved_bytes": job.moved.bytes,
                    "total_bytes": job.total_bytes,
                }
                for desired in self._desired.values()
                for job in desired.jobs
                if job.state == "publishing"
            ],
        }
        now = time.time()
        if document != self._live[1] or now - self._live[0] >= _LIVE_S:
            self._journal.set_live(ROLE, document, now)
            self._live = (now, document)
            notify.status(self._line(state))

    def _line(self, state: str) -> str:
        """What ``systemctl status`` shows."""
        jobs = [job for desired in self._desired.values() for job in desired.jobs]
        count = {name: sum(job.state == name for job in jobs) for name in ("published", "held")}
        failed = sum(job.failed and job.state != "held" for job in jobs)
        line = f"{state}: {count['published']} of {len(jobs)} images in {self._place}"
        return line + "".join(
            f", {number} {what}" for what, number in (("held", count["held"]), ("failed", failed)) if number
        )

    async def _cancel(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _folder_times(spool: BlobStore) -> tuple[int, ...]:
    """Return when names in the spool changed last (Unix ns, by algorithm): each rename of a blob does that."""
    times = []
    for algorithm in DIGEST_HEX_LENGTH:
        try:
            times.append(os.stat(spool.root / "blobs" / algorithm).st_mtime_ns)
        except OSError:
            times.append(0)
    return tuple(times)


async def publish(
    settings: ReceiverSettings,
    *,
    once: bool = False,
    since: float | None = None,
    pace: Pace | None = None,
    reload: Reload[ReceiverSettings] | None = None,
) -> int:
    """Run the role until SIGTERM or SIGINT, or as ``Publisher.run`` ends *once*; return its exit code.

    UserError for settings that cannot work; *since* (Unix s) is when the run began, now if not given. AGAIN when
    *reload* has newer settings.
    """
    started = time.time() if since is None else since
    trusted = trust(settings)
    stop, caught = asyncio.Event(), []
    loop = asyncio.get_running_loop()

    def on_signal(signum: int) -> None:
        caught.append(signum)
        stop.set()

    journal = ReceiverJournal(settings.journal)
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, on_signal, signum)
    # Work of a target that hangs, such as a layout on a dead network file system, shall leave threads to the others.
    threads = 8 + sum(2 * target.parallel for target in settings.publish.each().values())
    loop.set_default_executor(ThreadPoolExecutor(threads, thread_name_prefix="publish"))
    try:
        spool = BlobStore(settings.spool)
        async with AsyncExitStack() as stack:
            stack.enter_context(_beside_others(settings))
            targets = await stack.enter_async_context(open_targets(settings.publish, spool, journal.locations))
            publisher = Publisher(settings, trusted, journal, targets, spool, pace or Pace())
            if reload is None:
                notify.ready()
            else:
                reload.started()
            code = await publisher.run(stop, once=once, since=started, again=reload.wanted if reload else bool)
            if code != AGAIN:
                notify.stopping()
    except sqlite3.Error as error:
        raise UserError(
            f"{settings.journal}: cannot be used ({error}); is the disk full, or the file locked?"
        ) from None
    finally:
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(signum)
        journal.close()
    return 128 + caught[0] if once and caught else code


@contextlib.contextmanager
def _beside_others(settings: ReceiverSettings) -> Iterator[None]:
    """Keep `gc` away, which would delete without knowing what we are about to publish."""
    try:
        with locked(settings.publish_lock, shared=True):
            yield
    except Busy:
        raise UserError(f"{settings.state}: `checkvalve-receiver gc` is at work here; start again after it") from None


def main(
    settings: ReceiverSettings,
    *,
    once: bool = False,
    since: float | None = None,
    read: Callable[[], ReceiverSettings] | None = None,
) -> int:
    """Run the role in an event loop of its own, see ``publish``; *read* gives newer settings when SIGHUP asks."""
    logs.configure(settings.logs.format, settings.logs.level)

    def read_checked() -> ReceiverSettings:
        assert read is not None
        found = read()
        trust(found)
        return found

    with Reload(settings, read_checked if read is not None and not once else None, ("state",)) as reload:
        return reload.serve(lambda current: asyncio.run(publish(current, once=once, since=since, reload=reload)))
