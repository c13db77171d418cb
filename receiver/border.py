"""The receiver's border: judges every image of a release before it is published, whatever the sender made of it.

Between "all of it is here" and "push": closure and image spec from the manifests' own bytes, then the policy of
receiver.yaml, signatures and hook, then whether a person has to release it. What fails is *held*: it stays in the
spool, goes nowhere, and stops nothing else. Verdicts are in the journal, so that a restart scans nothing again; a
changed policy, key, hook or closure judges again. What a person decided counts from the next look, with no restart.
Knows no target. ``admit`` is the one way for an image to become a Plan that may be pushed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
import weakref
from collections.abc import Iterable
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import structlog

from judging.hook import Unanswered, remove_stale, run_hook
from judging.policy import SHOWN_MAX, Subject, Trust, judge, load_keys
from judging.policy_model import Verify
from oci import limits
from oci.blobs import BlobStore
from oci.conformance import faults_of, kind_of
from oci.descriptor import Descriptor, Manifest, short_digest
from oci.documents import children
from oci.errors import ContentMismatch, NotFound, TooLarge, Unsupported
from oci.reference import Reference
from protocol.release import Content, ReleaseImage
from receiver.audit import Audit, Broken
from receiver.border_journal import BorderJournal, Verdict
from receiver.border_model import BorderSettings
from receiver.closure import Plan, listed, plan
from receiver.config import ReceiverSettings
from receiver.journal import ReceiverJournal, ReleaseRow
from runtime.errors import UserError

HOOKS_AT_ONCE: Final = 4
UNANSWERED_S: Final = 900.0  # until a hook that gave no answer is asked again
CHECKS_VERSION: Final = 1  # raised when what we check by ourselves changes, so that all is judged again
# What comes with images rather than instead of them: signatures, attestations, SBOMs
KNOWN_ARTIFACTS: Final = (
    "application/vnd.dev.cosign.*",
    "application/vnd.dev.sigstore.bundle*",
    "application/vnd.in-toto*",
    "application/vnd.docker.attestation.*",
    "application/vnd.cncf.notary.*",
    "application/spdx*",
    "text/spdx*",
    "application/vnd.syft+json",
    "application/vnd.cyclonedx*",
    "application/vnd.dsse.*",
    "application/sarif+json",
)
_SPEC: Final = "not by the image spec: "

log = structlog.get_logger()


class HeldAtBorder(Exception):
    """An image that must not be published now; ``str()`` is one line for people."""

    def __init__(self, reasons: Iterable[str], decided: asyncio.Event, after_s: float | None) -> None:
        super().__init__("; ".join(reasons))
        self._decided = decided
        self._after_s = after_s

    async def wait(self) -> None:
        """Return when a person has decided about the image, or when its verdict has become old."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._after_s):
                await self._decided.wait()


class Border:
    """One for a publish role; not thread-safe, one event loop. UserError for keys that cannot be used."""

    def __init__(self, settings: ReceiverSettings, journal: ReceiverJournal, spool: BlobStore) -> None:
        self._asked: BorderSettings = settings.border
        self._rows = BorderJournal(journal)
        self._spool = spool
        self._audit = Audit(settings.audit, "publish")
        self._scratch = settings.state / "judging"
        self._common = (settings.border.verify, load_keys(settings.border.verify))
        self._rules = [(rule.match, rule.verify, load_keys(rule.verify)) for rule in settings.border.rules]
        self._turns = asyncio.Semaphore(HOOKS_AT_ONCE)
        # digest -> set by the next decision about it; there as long as somebody waits for it
        self._events: weakref.WeakValueDictionary[str, asyncio.Event] = weakref.WeakValueDictionary()
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._unanswered: dict[str, tuple[Verdict, float]] = {}  # judged by -> what came out, when (monotonic s)
        self._newest = self._rows.newest()
        self._audit_fault = ""
        remove_stale(self._scratch)

    def look(self) -> None:
        """Wake the images that people have decided about since; cheap, for whenever the journal has changed."""
        newest = self._rows.newest()
        if newest != self._newest:
            for digest in self._rows.decided_since(self._newest):
                event = self._events.pop(digest, None)
                if event is not None:
                    event.set()
            self._newest = newest

    def refuse_rejected(self, image: ReleaseImage) -> None:
        """Raise HeldAtBorder if a person has rejected the image's content; needs nothing of it to be here."""
        event = self._event(image.root.digest)
        decision = self._rows.decision(image.name, image.root.digest)
        if decision is not None and decision.choice == "rejected":
            raise HeldAtBorder([f"rejected by {decision.actor}: {decision.reason}"], event, None)

    async def admit(self, row: ReleaseRow, image: ReleaseImage) -> Plan:
        """Return what may be pushed for *image*, all of whose list is here; raise HeldAtBorder if it may not.

        IncompleteImage if its manifests need more than is here; ContentMismatch if bytes have changed on disk.
        Asked for several targets at once, it judges once.
        """
        async with self._alone(image):
            return await self._admit(row, image)

    async def _admit(self, row: ReleaseRow, image: ReleaseImage) -> Plan:
        event = self._event(image.root.digest)
        self.refuse_rejected(image)
        try:
            whole = await asyncio.to_thread(plan, self._spool, image)
        except (ContentMismatch, TooLarge, Unsupported) as error:
            if await asyncio.to_thread(_damaged, self._spool, image, limits.BLOB_SIZE_MAX):
                raise  # not the image's fault
            malformed = Verdict("", faults=(_SPEC + str(error),), updated=time.time())
            await self._tell(row, image, malformed, ())
            raise HeldAtBorder(malformed.faults, event, None) from None
        verdict, again_s = await self._verdict(row, _pushed(image, whole), whole)
        decision = self._rows.decision(image.name, image.root.digest)  # it may have come while we judged
        released = decision is not None and decision.choice == "released"
        if decision is not None and not released:
            raise HeldAtBorder([f"rejected by {decision.actor}: {decision.reason}"], event, None)
        waits = self._waits(image.name)
        reasons = (*verdict.faults, *(() if released else (*verdict.held, *waits)))
        if reasons:
            await self._tell(row, image, verdict, waits)
            raise HeldAtBorder(reasons, event, again_s if verdict.held and not verdict.faults else None)
        return whole

    async def published(self, row: ReleaseRow, image: ReleaseImage, place: str) -> None:
        """Put it into the audit log that *image* is in the target, at *place*, for the first time."""
        async with self._alone(image):
            await self._published(row, image, place)

    async def _published(self, row: ReleaseRow, image: ReleaseImage, place: str) -> None:
        name, digest = image.name, image.root.digest
        if self._rows.was_published(name, digest):
            return
        verdict = self._rows.verdict(row.collection, name, digest)
        await self._record(
            "published",
            f"{name}@{digest}",
            place=place,
            tags=list(image.tags),
            release=_release(row),
            signers=list(verdict.signers) if verdict else [],
        )
        self._rows.note_published(name, digest)

    def _alone(self, image: ReleaseImage) -> asyncio.Lock:
        return self._locks.setdefault(image.root.digest, asyncio.Lock())

    def _event(self, digest: str) -> asyncio.Event:
        return self._events.setdefault(digest, asyncio.Event())

    def _waits(self, name: str) -> tuple[str, ...]:
        hold = self._asked.hold
        if hold == "none" or (hold != "all" and not any(fnmatchcase(name, glob) for glob in hold)):
            return ()
        return ("waits for a person: border.hold",)

    def _policies(self, name: str) -> list[tuple[Verify, Trust]]:
        """What is asked of every image, and what the first rule for *name* asks besides."""
        for globs, verify, trust in self._rules:
            if any(fnmatchcase(name, glob) for glob in globs):
                return [self._common, (verify, trust)]
        return [self._common]

    def _judged_by(self, pushed: ReleaseImage) -> str:
        """Return what changes when the verdict may."""
        parts: list[Any] = [CHECKS_VERSION, self._asked.artifacts, pushed.name, pushed.extra_tags]
        for policy, trust in self._policies(pushed.name):
            parts += [policy.model_dump_json(), sorted(key.digest for key in trust.keys)]
            if policy.hook is not None:
                parts.append(_stamp(Path(policy.hook.run[0])))
            if policy.cosign is not None and policy.cosign.keyless is not None:
                parts.append(_stamp(policy.cosign.keyless.trusted_root))
        parts += sorted((part.digest, part.media_type) for part in pushed.contents())
        return "sha256:" + hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    async def _verdict(self, row: ReleaseRow, pushed: ReleaseImage, whole: Plan) -> tuple[Verdict, float]:
        """Return the verdict that counts, and how long (s); what has to be judged for it is."""
        judged = self._judged_by(pushed)
        known = self._rows.verdict(row.collection, pushed.name, pushed.root.digest)
        if known is not None and known.judged == judged:
            # A clock that jumped must not make a verdict last for ever.
            left_s = self._asked.again - abs(time.time() - known.updated)
            if not known.held or left_s > 0:
                return known, left_s
        retry_s = min(self._asked.again, UNANSWERED_S)
        verdict, when = self._unanswered.get(judged, (None, 0.0))
        if verdict is not None and (left_s := when + retry_s - time.monotonic()) > 0:
            return verdict, left_s
        fresh = await self._judge(row, pushed, whole)
        if fresh.held != () and await asyncio.to_thread(_damaged, self._spool, pushed, limits.MANIFEST_BYTES_MAX):
            raise ContentMismatch(f"{self._spool.root}: content of {pushed.name} has changed on disk")
        unanswered = any(isinstance(reason, Unanswered) for reason in fresh.held)
        told = known.told if known is not None and (fresh.faults or fresh.held) else ()
        # What a hook did not say is no verdict: a restart asks at once.
        verdict = replace(fresh, judged="" if unanswered else judged, told=told)
        self._rows.save_verdict(row.collection, pushed.name, pushed.root.digest, verdict)
        self._unanswered.pop(judged, None)
        if unanswered:
            self._unanswered[judged] = (verdict, time.monotonic())
        return verdict, retry_s if unanswered else self._asked.again

    async def _judge(self, row: ReleaseRow, pushed: ReleaseImage, whole: Plan) -> Verdict:
        faults, held = await asyncio.to_thread(self._documents, whole)
        if faults:
            return Verdict("", faults=tuple(faults), updated=time.time())
        registry, _, repository = pushed.name.partition("/")
        tag = pushed.tags[0] if pushed.tags else None
        entry: dict[str, object] = {
            "image": f"{pushed.name}@{pushed.root.digest}",
            "tags": list(pushed.tags),
            "collection": row.collection,
            "release": row.sequence,
        }
        subject = Subject(Reference(registry, repository, tag, pushed.root.digest), pushed, entry)
        verified: set[str] = set()
        named: tuple[str, ...] = ()
        policies = self._policies(pushed.name)
        for policy, trust in policies:
            quick = policy.model_copy(update={"hook": None})
            verdict = await judge(quick, trust, subject, self._spool, self._scratch)
            held += verdict.held
            if policy.cosign is not None:
                verified.update(verdict.signers)
            else:
                named = verdict.signers
        signers = tuple(sorted(verified)) or named
        for hook in (policy.hook for policy, _ in policies):
            if hook is not None and not held:  # minutes of scanning what is held anyway
                asked = {**entry, "signers": list(signers)}
                async with self._turns:
                    reason = await run_hook(hook.run, hook.timeout, pushed, tag, asked, self._spool, self._scratch)
                held += [reason] if reason is not None else []
        return Verdict("", held=tuple(held), signers=signers, updated=time.time())

    def _documents(self, whole: Plan) -> tuple[list[str], list[str]]:
        """Return what breaks the image spec, and what the policy has against kinds of artifacts."""
        faults: list[str] = []
        unknown: list[str] = []
        allowed = self._asked.artifacts
        globs = None if allowed == "any" else KNOWN_ARTIFACTS + (() if allowed == "known" else tuple(allowed))
        for descriptor in whole.manifests:
            manifest = Manifest(descriptor, self._spool.read(descriptor.digest, limits.MANIFEST_BYTES_MAX))
            faults += (_SPEC + fault for fault in faults_of(manifest, self._spool.read))
            if globs is None or len(faults) > SHOWN_MAX:
                continue
            kind = kind_of(manifest, children(manifest))
            if kind is not None and not any(fnmatchcase(kind, glob) for glob in globs):
                unknown.append(f"artifact {short_digest(descriptor.digest)} of type {kind}: border.artifacts")
        return _first(faults), _first(unknown)

    async def _tell(self, row: ReleaseRow, image: ReleaseImage, verdict: Verdict, waits: tuple[str, ...]) -> None:
        """Put it into the audit log that the image is held and why, once for each set of reasons."""
        reasons = (*verdict.faults, *verdict.held, *waits)
        stored = self._rows.verdict(row.collection, image.name, image.root.digest)
        if stored is None or stored.told != reasons:
            await self._record("held", f"{image.name}@{image.root.digest}", "; ".join(reasons), release=_release(row))
            told = replace(verdict, told=reasons, updated=verdict.updated or time.time())
            self._rows.save_verdict(row.collection, image.name, image.root.digest, told)

    async def _record(self, action: str, object: str, reason: str = "", **facts: Any) -> None:
        """Append to the audit log; if that is damaged, say so and go on: status raises the alarm. OSError waits."""
        try:
            await asyncio.to_thread(lambda: self._audit.append(action, object=object, reason=reason, **facts))
        except (Broken, UserError) as error:
            if str(error) != self._audit_fault:
                log.error("audit_log_damaged", error=str(error), file=str(self._audit.path))
            self._audit_fault = str(error)


def _release(row: ReleaseRow) -> dict[str, Any]:
    return {"collection": row.collection, "sequence": row.sequence, "digest": row.digest}


def _pushed(image: ReleaseImage, whole: Plan) -> ReleaseImage:
    """Return *image* with what its manifests name instead of what the release lists: that is what will be pushed."""
    refer = {content.digest for content in image.referrers}
    others = (item for item in (*whole.blobs, *whole.manifests) if item.digest not in refer | {image.root.digest})
    return replace(image, closure=tuple(_content(item) for item in others))


def _content(item: Descriptor) -> Content:
    return Content(item.media_type, item.digest, item.size)


def _damaged(spool: BlobStore, image: ReleaseImage, most: int) -> bool:
    """Whether something of at most *most* bytes in the spool is not what it was, or is gone."""
    for content in listed(image).values():
        try:
            if content.size <= most:
                spool.verify(content.digest)
        except (ContentMismatch, NotFound):
            return True
    return False


def _first(lines: list[str]) -> list[str]:
    more = len(lines) - SHOWN_MAX
    return lines[:SHOWN_MAX] + ([f"and {more} more"] if more > 0 else [])


def _stamp(path: Path | None) -> tuple[int, int, int] | None:
    """What tells one state of a file from another; of a file in PATH, nothing."""
    try:
        found = path.stat() if path is not None else None
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_mode) if found is not None else None
