"""What must hold of an image before it is sent: ``verify:`` of an entry of images.yaml or of its defaults.

Names every reason that speaks against an image, each one line, and decides about nothing else than this image. What
needs no blob is asked first (``admissible_source``, ``admissible``), what needs them when they are in the spool
(``judge``). Globs are those of fnmatch, case matters, and ``*`` takes ``/`` too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from judging.cosign import Found, Key, Signature, Signer, Unverified, found_signatures, named_signers, signature_tag
from judging.cosign import verify as verify_signature
from judging.hook import run_hook
from judging.keyless import Keyless
from judging.policy_model import Cosign, Verify
from oci.blobs import BlobStore
from oci.descriptor import Descriptor, Manifest, short_digest
from oci.errors import OciError
from oci.limits import MANIFEST_BYTES_MAX
from oci.reference import Reference
from protocol.release import Content, ReleaseImage
from runtime.errors import UserError
from runtime.keys import load_verification_key

SHOWN_MAX: Final = 3  # offenders that one reason names


@dataclass(frozen=True, slots=True)
class Subject:
    """An image as it is judged: where it is read, what belongs to it, and its entry, ready for JSON."""

    reference: Reference
    image: ReleaseImage
    entry: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came out: the reasons to hold the image (none: it may cross), and who signed it, for people.

    With a cosign policy *signers* are verified; without one they are what signatures claim, or ``unsigned``.
    """

    held: tuple[str, ...] = ()
    signers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Trust:
    """The keys and certificates' identity of a policy, loaded."""

    keys: tuple[Key, ...] = ()
    keyless: Keyless | None = None


def load_keys(policy: Verify) -> Trust:
    """Read the files that *policy* names. Raises UserError, one line for each file that is missing or wrong."""
    if policy.cosign is None:
        return Trust()
    faults: list[str] = []
    keys: dict[str, Key] = {}
    for path in policy.cosign.keys:
        try:
            key = Key(load_verification_key(path))
        except UserError as error:
            faults.append(str(error))
            continue
        if key.digest in keys:
            faults.append(f"{path}: holds a key that verify.cosign.keys names already; keep one")
        keys[key.digest] = key
    keyless = None
    if policy.cosign.keyless is not None:
        asked = policy.cosign.keyless
        try:
            keyless = Keyless(asked.identity, asked.issuer, asked.trusted_root)
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError("\n".join(faults))
    return Trust(tuple(keys.values()), keyless)


def admissible_source(policy: Verify, reference: Reference) -> tuple[str, ...]:
    """Return what speaks against reading from *reference* at all; nothing need be asked of its registry."""
    checks = (
        ("registry", reference.registry, "registries", policy.registries),
        ("repository", reference.name, "repositories", policy.repositories),
    )
    return tuple(
        f"{kind} {value} is not allowed; verify.{key} allows {', '.join(globs)}"
        for kind, value, key, globs in checks
        if globs is not None and not _matches(value, globs)
    )


def admissible(policy: Verify, subject: Subject) -> tuple[str, ...]:
    """Return what speaks against *subject* as far as descriptors show it; no blob is needed."""
    reasons = list(admissible_source(policy, subject.reference))
    parts = {part.digest: part for part in subject.image.contents()}.values()
    if policy.media_types is not None:
        globs = policy.media_types
        kinds = sorted({part.media_type for part in parts if not _matches(part.media_type, globs)})
        if kinds:
            reasons.append(f"media type {_some(kinds)} is not allowed; verify.media_types allows {', '.join(globs)}")
    if policy.max_blob is not None:
        most = policy.max_blob
        large = [f"{short_digest(part.digest)} ({part.size:,} bytes)" for part in parts if part.size > most]
        if large:
            reasons.append(f"blob {_some(large)} is larger than verify.max_blob, {most:,} bytes")
    total = sum(part.size for part in parts)
    if policy.max_image is not None and total > policy.max_image:
        reasons.append(f"{total:,} bytes in all are more than verify.max_image, {policy.max_image:,} bytes")
    return tuple(reasons)


async def judge(policy: Verify, trust: Trust, subject: Subject, blobs: BlobStore, scratch: Path) -> Verdict:
    """Return the verdict about *subject*, whose parts are all in *blobs*; every check runs, whatever the others say.

    *scratch* is where the hook's layout is made. The hook alone waits until nothing else speaks against the image.
    """
    reasons = list(admissible(policy, subject))
    try:
        found = await asyncio.to_thread(_signatures_of, subject.image, blobs)
    except OciError as error:
        return Verdict((*reasons, str(error)))
    if policy.cosign is None:
        signers = named_signers(found)
    else:
        verified, faults = await asyncio.to_thread(_verified, trust, found)
        signers = tuple(sorted(one.identity for one in verified))
        if len(verified) < policy.cosign.at_least:
            reasons += _too_few(policy.cosign, len(verified), found, faults, subject.image.root.digest)
    if policy.hook is not None and not reasons:
        hook = policy.hook
        tag, entry = subject.reference.tag, subject.entry
        reason = await run_hook(hook.run, hook.timeout, subject.image, tag, entry, blobs, scratch)
        reasons += [reason] if reason is not None else []
    return Verdict(tuple(reasons), signers)


def signers_of(image: ReleaseImage, blobs: BlobStore) -> tuple[str, ...]:
    """Return whom the signatures of *image* name, unverified, for display; OciError if its root is not in *blobs*."""
    return named_signers(_signatures_of(image, blobs))


def _signatures_of(image: ReleaseImage, blobs: BlobStore) -> Found:
    """Read the manifests that may hold signatures; one that cannot be read is a fault, the root raises OciError."""
    root = _manifest(image.root, blobs)
    tags = dict(image.extra_tags)
    contents = {part.digest: part for part in image.contents()}
    faults: list[str] = []

    def manifest(digest: str) -> Manifest | None:
        try:
            return _manifest(contents[digest], blobs)
        except OciError as error:
            faults.append(str(error))
            return None

    tag = tags.get(signature_tag(image.root.digest))
    tagged = manifest(tag) if tag is not None else None
    referrers = (manifest(part.digest) for part in image.referrers)
    found = found_signatures(root, tagged, (one for one in referrers if one is not None), blobs.read)
    return Found(found.signatures, (*found.faults, *faults))


def _manifest(part: Content, blobs: BlobStore) -> Manifest:
    return Manifest(Descriptor(part.media_type, part.digest, part.size), blobs.read(part.digest, MANIFEST_BYTES_MAX))


def _verified(trust: Trust, found: Found) -> tuple[set[Signer], list[str]]:
    """Return who signed, and why the other signatures do not count."""
    signers: set[Signer] = set()
    faults = list(found.faults)
    checks: list[Callable[[Signature], Signer]] = []
    if trust.keys:
        checks.append(lambda signature: verify_signature(signature, trust.keys))
    if trust.keyless is not None:
        checks.append(trust.keyless.verify)
    for signature in found.signatures:
        against: list[str] = []
        for check in checks:
            try:
                signers.add(check(signature))
                break
            except Unverified as error:
                against.append(str(error))
        else:
            faults += against
    return signers, faults


def _too_few(asked: Cosign, verified: int, found: Found, faults: Sequence[str], digest: str) -> list[str]:
    if not found.signatures and not faults:
        return [f"unsigned: no cosign signature of {short_digest(digest)} came with it (tag or referrer)"]
    if verified or asked.at_least > 1:
        first = f"signed by {verified} of those trusted; verify.cosign.at_least is {asked.at_least}"
    else:
        first = "signed by nobody trusted"
    more = len(faults) - SHOWN_MAX
    return [first, *faults[:SHOWN_MAX], *([f"and {more} more that do not count"] if more > 0 else [])]


def _matches(value: str, globs: Iterable[str]) -> bool:
    return any(fnmatchcase(value, glob) for glob in globs)


def _some(values: Sequence[str]) -> str:
    """The first few of *values*, and how many more."""
    more = len(values) - SHOWN_MAX
    return ", ".join(values[:SHOWN_MAX]) + (f" and {more} more" if more > 0 else "")
