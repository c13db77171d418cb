"""Judges fetched images by the policy of their entry, each once; what fails is held, and looked at again.

What was found good is remembered by all that it was judged by: policy, keys, content and name.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path

from judging.hook import remove_stale
from judging.policy import Subject, Trust, admissible, admissible_source, judge, load_keys, signers_of
from judging.policy_model import Verify
from oci.blobs import BlobStore
from protocol.release import ReleaseImage
from sender.decisions import Decisions
from sender.images import PinnedImage
from sender.lock import closure_digest


class Held(ValueError):
    """An image that its policy does not let pass; ``str()`` says all that speaks against it."""


class Verification:
    """Uses the spool's *blobs*; hooks get layouts in *scratch*, on the same file system."""

    def __init__(self, decisions: Decisions, blobs: BlobStore, scratch: Path) -> None:
        self._decisions = decisions
        self._blobs = blobs
        self._scratch = scratch
        remove_stale(scratch)

    def check_source(self, pin: PinnedImage) -> None:
        """Raise Held if *pin* may not even be asked for."""
        if pin.options.verify is not None:
            _raise(admissible_source(pin.options.verify, pin.reference))

    def check_descriptors(self, pin: PinnedImage, image: ReleaseImage) -> None:
        """Raise Held for what descriptors show, before a blob is fetched."""
        if pin.options.verify is not None:
            _raise(admissible(pin.options.verify, Subject(pin.reference, image, {})))

    async def signers(self, pin: PinnedImage, image: ReleaseImage, entry: Mapping[str, object]) -> tuple[str, ...]:
        """Return who signed *image*, all of which is here; Held if it must not pass, UserError for bad keys."""
        policy = pin.options.verify
        if policy is None:
            return await asyncio.to_thread(signers_of, image, self._blobs)
        trust = await asyncio.to_thread(load_keys, policy)
        judged = _judged_by(policy, trust, pin, image)
        known = self._decisions.verdict(judged)
        if known is not None:
            return known
        self._scratch.mkdir(parents=True, exist_ok=True)
        subject = Subject(pin.reference, image, entry)
        verdict = await judge(policy, trust, subject, self._blobs, self._scratch)
        _raise(verdict.held)
        self._decisions.save_verdict(judged, verdict.signers, time.time())
        return verdict.signers


def _raise(reasons: tuple[str, ...]) -> None:
    if reasons:
        raise Held("; ".join(reasons))


def _judged_by(policy: Verify, trust: Trust, pin: PinnedImage, image: ReleaseImage) -> str:
    """Return what changes when the verdict may."""
    files = [policy.hook.run[0]] if policy.hook is not None else []
    if policy.cosign is not None and policy.cosign.keyless is not None and policy.cosign.keyless.trusted_root:
        files.append(str(policy.cosign.keyless.trusted_root))
    parts = [
        policy.model_dump_json(),
        sorted(key.digest for key in trust.keys),
        [_stamp(Path(name)) for name in files],
        str(pin.reference),
        closure_digest(image),
    ]
    return "sha256:" + hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
