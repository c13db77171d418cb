"""The release: the signed desired state of one collection (WIRE_FORMAT.md §7). It says what, never how.

The payload is JSON, so that it can be read and archived for years; its exact bytes are what is signed and hashed,
and it is never re-serialised. The envelope around it:

    offset size field
    0      4    magic "CVR1"
    4      4    payload length P
    8      P    payload, UTF-8 JSON
    ..     2    number of signatures, 1..16
    then each: signature suite (1; 1 = Ed25519), reserved (1), key id (32), signature (64)
    over "checkvalve release v1" 00 and the payload.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from protocol.beacon import COLLECTION_NAME
from protocol.drops import Drop
from protocol.errors import ProtocolMisuse, WireError
from protocol.limits import (
    CONTROL_OBJECT_BYTES_MAX,
    NAME_BYTES_MAX,
    NUMBER_MAX,
    OBJECT_BYTES_MAX,
    RELEASE_DESCRIPTORS_MAX,
    RELEASE_IMAGES_MAX,
    RELEASE_SIGNATURES_MAX,
)
from protocol.reader import Reader
from protocol.trust import ReleaseMark, RequiredApprovals, TrustedSenders, key_id

MAGIC: Final = b"CVR1"
PAYLOAD_TYPE: Final = "checkvalve-release"
PAYLOAD_VERSION: Final = 1
ANY_COLLECTION: Final = "*"
_CONTEXT: Final = b"checkvalve release v1\0"
_PREVIOUS: Final = re.compile(r"sha256:[0-9a-f]{64}\Z")
_CREATED: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:Z|[+-][0-9]{2}:[0-9]{2})\Z"
)
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}\Z|sha512:[0-9a-f]{128}\Z")
# distribution reference grammar, without a tag: host[:port]/path, no "..", no empty component
_NAME: Final = re.compile(
    r"(?:[A-Za-z0-9]+(?:(?:\.|-+)[A-Za-z0-9]+)*|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?"
    r"(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)+\Z"
)
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z")
_MEDIA_TYPE: Final = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,127}/[A-Za-z0-9!#$&^_.+-]{1,127}(?:;[ -~]{0,127})?\Z")


@dataclass(frozen=True, slots=True)
class Content:
    """One descriptor of a closure: media type, digest and size (bytes)."""

    media_type: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class ReleaseImage:
    """One image: its full name, its tags, its root, and everything to have before a tag may appear."""

    name: str  # "docker.io/library/nginx"
    tags: tuple[str, ...]
    root: Content
    closure: tuple[Content, ...]  # manifests and blobs beneath the root; the root itself is not repeated
    referrers: tuple[Content, ...] = ()  # roots of referrers; what is beneath them is in the closure
    extra_tags: tuple[tuple[str, str], ...] = ()  # (tag, digest in closure or referrers), cosign's sha256-<hex>.sig
    absent: tuple[str, ...] = ()  # digests that its indexes name and that do not travel: other platforms

    def contents(self) -> list[Content]:
        """Everything the image needs, its root last."""
        return [*self.closure, *self.referrers, self.root]


@dataclass(frozen=True, slots=True)
class Release:
    """The desired state of one collection."""

    collection: str
    sequence: int  # from 1
    previous: str | None  # digest of the payload before, None for the first
    created: str  # RFC 3339, informational
    images: tuple[ReleaseImage, ...]

    def contents(self) -> dict[str, Content]:
        """Everything the release needs, each digest once."""
        found: dict[str, Content] = {}
        for image in self.images:
            for content in (image.root, *image.closure, *image.referrers):
                found.setdefault(content.digest, content)
        return found

    def names(self) -> list[tuple[str | None, Content]]:
        """What leads to the release, sorted: (name:tag, root), without a tag name@digest; None for a referrer."""
        found: dict[tuple[str | None, str], Content] = {}
        for image in self.images:
            known = {content.digest: content for content in (image.root, *image.closure, *image.referrers)}
            for tag in image.tags:
                found[f"{image.name}:{tag}", image.root.digest] = image.root
            if not image.tags:
                found[f"{image.name}@{image.root.digest}", image.root.digest] = image.root
            for tag, digest in image.extra_tags:
                found[f"{image.name}:{tag}", digest] = known[digest]
            for referrer in image.referrers:
                found[None, referrer.digest] = referrer
        return [(name, found[name, digest]) for name, digest in sorted(found, key=lambda key: (key[0] or "", key[1]))]


def payload_of(release: Release) -> bytes:
    """Return the payload bytes of *release*, deterministic."""
    document = {
        "type": PAYLOAD_TYPE,
        "version": PAYLOAD_VERSION,
        "collection": release.collection,
        "sequence": release.sequence,
        "previous": release.previous,
        "created": release.created,
        "images": images_document(release.images),
    }
    return json.dumps(document, ensure_ascii=True, separators=(",", ":"), sort_keys=True).encode()


def images_document(images: Iterable[ReleaseImage]) -> list[dict[str, Any]]:
    """Return the ``images`` array of a payload, ready for JSON; ``absent`` only where something is."""
    return [
        {
            "name": image.name,
            "tags": list(image.tags),
            "root": _content_document(image.root),
            "closure": [_content_document(content) for content in image.closure],
            "referrers": [_content_document(content) for content in image.referrers],
            "extraTags": [list(pair) for pair in image.extra_tags],
            **({"absent": list(image.absent)} if image.absent else {}),
        }
        for image in images
    ]


def parse_images(document: list[dict[str, Any]]) -> tuple[ReleaseImage, ...]:
    """Return the images of an ``images`` array; ValueError, KeyError or TypeError where it breaks a rule.

    These are all rules about images, so that what a sender parsed by this is not refused by a receiver.
    """
    if len(_list(document)) > RELEASE_IMAGES_MAX:
        raise ValueError(f"{len(document)} images")
    images = tuple(_image(image) for image in document)
    named = sum(len(image.closure) + len(image.referrers) + len(image.absent) for image in images)
    if named > RELEASE_DESCRIPTORS_MAX:
        raise ValueError("too many descriptors")
    _check_tags(images)
    _check_sizes(images)
    return images


def payload_digest(payload: bytes) -> str:
    """Return the digest by which beacons and successors name a release."""
    return "sha256:" + hashlib.sha256(payload).hexdigest()


@dataclass(frozen=True, slots=True)
class Signature:
    """One Ed25519 signature of a payload: the id of the key, and 64 bytes."""

    key: bytes
    value: bytes


def sign_payload(payload: bytes, signer: Ed25519PrivateKey) -> Signature:
    """Return *signer*'s signature of *payload*, as an envelope carries it."""
    return Signature(key_id(signer.public_key()), signer.sign(_CONTEXT + payload))


def has_signed(public: Ed25519PublicKey, payload: bytes, signature: bytes) -> bool:
    """Whether *signature* is that of *public* for *payload*."""
    try:
        public.verify(signature, _CONTEXT + payload)
    except InvalidSignature:
        return False
    return True


def seal_release(payload: bytes, *signers: Ed25519PrivateKey, approvals: Iterable[Signature] = ()) -> bytes:
    """Return the envelope with one Ed25519 signature by each signer, and those that approvers made elsewhere."""
    signatures = [*(sign_payload(payload, signer) for signer in signers), *approvals]
    if not 1 <= len(signatures) <= RELEASE_SIGNATURES_MAX:
        raise ProtocolMisuse(f"{len(signatures)} signatures")
    if len(payload) + 10 + len(signatures) * 98 > CONTROL_OBJECT_BYTES_MAX:
        raise ProtocolMisuse(f"release of {len(payload)} bytes")
    parts = [MAGIC, len(payload).to_bytes(4, "little"), payload, len(signatures).to_bytes(2, "little")]
    for signature in signatures:
        parts += [b"\x01\x00", signature.key, signature.value]
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class SignedRelease:
    """A release whose signature by at least one trusted key was verified."""

    release: Release
    digest: str
    signers: tuple[bytes, ...]  # key ids of the trusted keys that signed
    approvers: tuple[bytes, ...] = ()  # likewise of approvers


def open_release(
    envelope: bytes, trusted: TrustedSenders, approvals: Mapping[str, RequiredApprovals] | None = None
) -> SignedRelease:
    """Verify, then parse; WireError RELEASE_UNTRUSTED, BAD_RELEASE or RELEASE_UNAPPROVED otherwise.

    *approvals*: what a release of a collection, by its name or ``*``, needs besides a sender's signature.
    """
    if len(envelope) > CONTROL_OBJECT_BYTES_MAX:
        raise WireError(Drop.BAD_RELEASE, f"{len(envelope)} bytes")
    reader = Reader(envelope, Drop.BAD_RELEASE)
    reader.expect(MAGIC)
    payload = reader.take(reader.uint(4))
    count = reader.uint(2)
    if not 1 <= count <= RELEASE_SIGNATURES_MAX:
        raise WireError(Drop.BAD_RELEASE, f"{count} signatures")
    signatures: dict[bytes, bytes] = {}
    for _ in range(count):
        reader.expect(b"\x01\x00")
        signer, signature = reader.take(32), reader.take(64)
        if signer in signatures:
            raise WireError(Drop.BAD_RELEASE, f"{signer.hex()} signed twice")
        signatures[signer] = signature
    reader.end()
    signers = _verified(payload, signatures, trusted.keys, Drop.RELEASE_UNTRUSTED)
    if not signers:
        raise WireError(Drop.RELEASE_UNTRUSTED, "signed by no trusted key")
    release = parse_payload(payload)
    approvals = approvals or {}
    required = approvals.get(release.collection, approvals.get(ANY_COLLECTION))
    approvers: tuple[bytes, ...] = ()
    if required is not None:
        approvers = _verified(payload, signatures, required.keys, Drop.RELEASE_UNAPPROVED)
        if len(approvers) < required.threshold:
            raise WireError(
                Drop.RELEASE_UNAPPROVED,
                f"{release.collection} {release.sequence}: approved by {len(approvers)} of {required.threshold}",
            )
    return SignedRelease(release, payload_digest(payload), signers, approvers)


def _verified(
    payload: bytes, signatures: Mapping[bytes, bytes], keys: Mapping[bytes, Ed25519PublicKey], drop: Drop
) -> tuple[bytes, ...]:
    """Return the ids of those *keys* that signed; WireError *drop* for a wrong signature under the id of one."""
    found = []
    for signer, signature in signatures.items():
        public = keys.get(signer)
        if public is None:
            continue
        if not has_signed(public, payload, signature):
            raise WireError(drop, f"wrong signature of {signer.hex()}")
        found.append(signer)
    return tuple(found)


def check_order(new: SignedRelease, mark: ReleaseMark | None) -> bool:
    """Return True if *new* advances its collection, False if it is the one already known; WireError otherwise.

    A gap in sequence is allowed (releases may be missed); a lower sequence or a broken chain never.
    """
    if mark is None:
        return True
    release = new.release
    if release.sequence < mark.sequence:
        raise WireError(Drop.RELEASE_ROLLED_BACK, f"{release.collection} {release.sequence} after {mark.sequence}")
    if release.sequence == mark.sequence:
        if new.digest != mark.digest:
            raise WireError(Drop.RELEASE_CONFLICT, f"{release.collection} {release.sequence} in two versions")
        return False
    if release.sequence == mark.sequence + 1 and release.previous != mark.digest:
        raise WireError(Drop.RELEASE_CONFLICT, f"{release.collection} {release.sequence} follows another release")
    return True


def parse_envelope(envelope: bytes) -> Release:
    """Return the release in an envelope that was verified before; WireError BAD_RELEASE if it holds none."""
    return parse_payload(envelope[8 : 8 + int.from_bytes(envelope[4:8], "little")])


def _content_document(content: Content) -> dict[str, Any]:
    return {"mediaType": content.media_type, "digest": content.digest, "size": content.size}


def parse_payload(payload: bytes) -> Release:
    """Return the release that *payload* is, whoever signed it; WireError BAD_RELEASE if it is none."""
    try:
        document = json.loads(payload.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant)
        return _release(document)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WireError(Drop.BAD_RELEASE, f"payload: {type(error).__name__}: {error}") from None


def _release(document: dict[str, Any]) -> Release:
    if document["type"] != PAYLOAD_TYPE or document["version"] != PAYLOAD_VERSION:
        raise ValueError(f"type {document['type']!r} version {document['version']!r}")
    previous = document["previous"]
    release = Release(
        collection=_match(COLLECTION_NAME, document["collection"]),
        sequence=_number(document["sequence"], NUMBER_MAX),
        previous=None if previous is None else _match(_PREVIOUS, previous),
        created=_match(_CREATED, document["created"]),
        images=parse_images(document["images"]),
    )
    if release.sequence < 1 or (release.sequence == 1) != (previous is None):
        raise ValueError("the first release, and only it, has no previous one")
    return release


def _check_tags(images: tuple[ReleaseImage, ...]) -> None:
    claimed = {(image.name, tag): image.root.digest for image in images for tag in image.tags}
    if len(claimed) != sum(len(image.tags) for image in images):
        raise ValueError("one tag is claimed twice")
    for image in images:
        for tag, digest in image.extra_tags:
            if claimed.setdefault((image.name, tag), digest) != digest:
                raise ValueError(f"{image.name}:{tag} names two digests")


def _check_sizes(images: tuple[ReleaseImage, ...]) -> None:
    known: dict[str, int] = {}
    for image in images:
        for content in (image.root, *image.closure, *image.referrers):
            if known.setdefault(content.digest, content.size) != content.size:
                raise ValueError(f"{content.digest} has two sizes")


def _image(document: dict[str, Any]) -> ReleaseImage:
    image = ReleaseImage(
        name=_match(_NAME, document["name"]),
        tags=tuple(_match(_TAG, tag) for tag in _list(document["tags"])),
        root=_content(document["root"]),
        closure=tuple(_content(content) for content in _list(document["closure"])),
        referrers=tuple(_content(content) for content in _list(document["referrers"])),
        extra_tags=tuple(
            (_match(_TAG, tag), _match(_DIGEST, digest)) for tag, digest in map(_list, _list(document["extraTags"]))
        ),
        absent=tuple(_match(_DIGEST, digest) for digest in _list(document.get("absent", []))),
    )
    known = {content.digest for content in (image.root, *image.closure, *image.referrers)}
    if not all(digest in known for _, digest in image.extra_tags):
        raise ValueError(f"{image.name}: an extra tag names content outside the image")
    if not known.isdisjoint(image.absent):
        raise ValueError(f"{image.name}: content is listed and absent")
    return image


def _content(document: dict[str, Any]) -> Content:
    return Content(
        media_type=_match(_MEDIA_TYPE, document["mediaType"]),
        digest=_match(_DIGEST, document["digest"]),
        size=_number(document["size"], OBJECT_BYTES_MAX),
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object names one key twice")
    return found


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{str(value)[:80]!r} is not a list")
    return value


def _match(pattern: re.Pattern[str], value: Any) -> str:
    if not isinstance(value, str) or len(value) > NAME_BYTES_MAX or not pattern.match(value):
        raise ValueError(f"{str(value)[:80]!r} does not follow the grammar")
    return value


def _number(value: Any, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ValueError(f"{str(value)[:80]!r} is not a number within bounds")
    return value
