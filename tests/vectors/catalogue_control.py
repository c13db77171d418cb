"""Vectors of WIRE_FORMAT.md §6 (beacons) and §7 (releases)."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

from tests.vectors import session as s
from tests.vectors.model import Vector

BIG = (1 << 62) + 1
ROOT = "sha256:" + sha256(b"root").hexdigest()
LAYER = "sha256:" + sha256(b"layer").hexdigest()
REFERRER = "sha256:" + sha256(b"referrer").hexdigest()


def beacons() -> Iterator[Vector]:
    def beacon(name: str, rule: str, expect: str, payload: bytes, meaning: str = "") -> Vector:
        parts = (payload.ljust(512, b"\0"),)
        return Vector(name, rule, "beacon", expect, parts, {"beacon": meaning} if meaning else {})

    first, second = sha256(b"first").digest(), sha256(b"second").digest()
    entries = (s.newest(b"default", 3, first, 9), s.newest(b"edge.site-2", 1, second, 0))
    full = s.beacon(5, 1_700_000_000_123, 9, 2, 4_096, 1, collections=7, newest=entries)
    meaning = f"default 3 sha256:{first.hex()} 9, edge.site-2 1 sha256:{second.hex()} 0"
    yield beacon("beacon", "6-1", "ok", full, f"5 1700000000123 9 2 4096 closing 7: {meaning}")
    yield beacon("beacon-idle", "6-1", "ok", s.beacon(), "1 1700000000000 0 0 0 open 0: ")
    bad = "bad_beacon"
    for name, payload in (
        ("sequence-zero", s.beacon(0)),
        ("sequence-too-big", s.beacon(BIG)),
        ("clock-after-9999", s.beacon(clock_ms=253_402_300_800_000)),
        ("queued-too-big", s.beacon(queued=BIG)),
        ("unknown-flag", s.beacon(flags=2)),
        ("too-many-collections", s.beacon(collections=1_025)),
        ("more-entries-than-collections", s.beacon(collections=0, newest=entries)),
    ):
        yield beacon(f"beacon-{name}", "6-2", bad, payload)
    yield beacon("beacon-entry-missing", "6-3", bad, s.beacon(count=1, collections=1))
    for name, entry in (
        ("name-empty", s.newest(b"", 1, first, 0)),
        ("name-with-slash", s.newest(b"a/b", 1, first, 0)),
        ("name-dots", s.newest(b"..", 1, first, 0)),
        ("name-too-long", s.newest(b"a" * 65, 1, first, 0)),
        ("release-zero", s.newest(b"default", 0, first, 0)),
        ("release-too-big", s.newest(b"default", BIG, first, 0)),
    ):
        yield beacon(f"beacon-{name}", "6-3", bad, s.beacon(newest=(entry,)))
    yield beacon("beacon-padding-not-zero", "6-1", bad, s.beacon().ljust(511, b"\0") + b"\1")
    session = s.Session()
    parts = [*session.fragments()]
    parts += [session.control(s.BEACON, number, s.beacon(sequence)) for number, sequence in enumerate((1, 3, 2))]
    inputs = {"events": "SessionOpened BeaconReceived BeaconReceived"}
    yield Vector("beacon-overtaken", "6-4", "datagrams", "ok", tuple(parts), inputs)


def content(digest: str, size: int, media_type: str = "application/octet-stream") -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": size}


def image(**changes: Any) -> dict[str, Any]:
    base = {
        "name": "docker.io/library/nginx",
        "tags": ["1.27", "stable"],
        "root": content(ROOT, 610, "application/vnd.oci.image.index.v1+json"),
        "closure": [content(LAYER, 29_000_000, "application/vnd.oci.image.layer.v1.tar+gzip")],
        "referrers": [content(REFERRER, 700, "application/vnd.oci.image.manifest.v1+json")],
        "extraTags": [["sha256-" + ROOT[7:] + ".sig", REFERRER]],
    }
    return base | changes


def small_image(**changes: Any) -> dict[str, Any]:
    base = {"name": "quay.io/a/b", "tags": ["1"], "root": content(ROOT, 610, "a/b")}
    return base | {"closure": [], "referrers": [], "extraTags": []} | changes


def document(**changes: Any) -> dict[str, Any]:
    base = {
        "type": "checkvalve-release",
        "version": 1,
        "collection": "default",
        "sequence": 1,
        "previous": None,
        "created": "2026-01-02T03:04:05Z",
        "images": [image()],
    }
    return base | changes


def encode(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def envelope(payload: bytes, *signers: str, count: int | None = None, suite: bytes = b"\1\0") -> bytes:
    parts = [b"CVR1", struct.pack("<I", len(payload)), payload]
    parts.append(struct.pack("<H", len(signers) if count is None else count))
    for signer in signers:
        key = s.signing_key(signer)
        parts += [suite, s.key_id(key), key.sign(b"checkvalve release v1\0" + payload)]
    return b"".join(parts)


def release(name: str, rule: str, expect: str, data: bytes, meaning: str = "") -> Vector:
    return Vector(name, rule, "release", expect, (data,), {"release": meaning} if meaning else {})


def envelopes() -> Iterator[Vector]:
    payload = encode(document())
    good = envelope(payload, "sender")
    meaning = f"default 1 sha256:{sha256(payload).hexdigest()} docker.io/library/nginx:1.27|stable"
    yield release("release", "7-1", "ok", good, meaning)
    yield release("release-second-signer-unknown", "7-2", "ok", envelope(payload, "sender", "stranger"), meaning)
    yield from approvals(payload, meaning)
    bad, untrusted = "bad_release", "release_untrusted"
    yield release("release-wrong-magic", "7-1", bad, b"X" + good[1:])
    yield release("release-truncated", "7-1", bad, good[:-1])
    yield release("release-trailing-byte", "7-1", bad, good + b"\0")
    yield release("release-length-beyond-end", "7-1", bad, good[:4] + b"\xff\xff\xff\x7f" + good[8:])
    yield release("release-no-signature", "7-1", bad, envelope(payload))
    many = envelope(payload, *["sender"] * 17)
    yield release("release-too-many-signatures", "7-1", bad, many)
    yield release("release-unknown-suite", "7-1", bad, envelope(payload, "sender", suite=b"\2\0"))
    yield release("release-signed-twice-by-one", "7-2", bad, envelope(payload, "sender", "sender"))
    yield release("release-untrusted-signer", "7-2", untrusted, envelope(payload, "stranger"))
    changed = good.replace(b'"1.27"', b'"1.26"')
    yield release("release-changed-after-signing", "7-2", untrusted, changed)
    key = s.signing_key("another")
    wrong = good[:-98] + b"\1\0" + s.key_id(key) + good[-64:]
    two = good[:-100] + struct.pack("<H", 2) + good[-98:] + wrong[-98:]
    yield Vector("release-one-signature-wrong", "7-2", "release", untrusted, (two,), {"trusted": "sender another"})


def approvals(payload: bytes, meaning: str) -> Iterator[Vector]:
    unapproved = "release_unapproved"
    wanted = {"approvers": "2 alice bob carol"}
    signed = envelope(payload, "sender", "alice", "carol")
    yield Vector("release-approved", "7-7", "release", "ok", (signed,), wanted | {"release": meaning})
    few = envelope(payload, "sender", "alice", "stranger")
    yield Vector("release-approved-by-too-few", "7-7", "release", unapproved, (few,), wanted)
    alone = {"approvers": "1 alice"}
    yield Vector(
        "release-approved-by-sender-only", "7-7", "release", unapproved, (envelope(payload, "sender"),), alone
    )
    wrong = signed[:-64] + signed[-162:-98]  # alice's signature under carol's name
    yield Vector("release-approval-wrong", "7-7", "release", unapproved, (wrong,), {"approvers": "1 alice carol"})


def payloads() -> Iterator[Vector]:
    for name, value in (
        ("type", document(images=[], type="release")),
        ("version", document(images=[], version=2)),
        ("collection-traversal", document(images=[], collection="../etc")),
        ("collection-upper-case", document(images=[], collection="Default")),
        ("sequence-zero", document(images=[], sequence=0)),
        ("sequence-text", document(images=[], sequence="1")),
        ("sequence-true", document(images=[], sequence=True)),
        ("sequence-fraction", document(images=[], sequence=1.0)),
        ("sequence-too-big", document(images=[], sequence=BIG, previous=ROOT)),
        ("previous-on-first", document(images=[], previous=ROOT)),
        ("previous-missing-on-second", document(images=[], sequence=2)),
        ("previous-sha512", document(images=[], sequence=2, previous="sha512:" + "0" * 128)),
        ("created-with-escape", document(images=[], created="2026-01-02T03:04:05Z\x1b[2J")),
        ("images-not-a-list", document(images={})),
        ("name-traversal", document(images=[small_image(name="docker.io/../../etc/passwd")])),
        ("name-absolute", document(images=[small_image(name="/etc/passwd")])),
        ("name-empty-component", document(images=[small_image(name="docker.io//nginx")])),
        ("name-without-registry", document(images=[small_image(name="nginx")])),
        ("name-backslash", document(images=[small_image(name="docker.io/a\\b")])),
        ("name-line-feed", document(images=[small_image(name="docker.io/a\n")])),
        ("tags-text", document(images=[small_image(tags="latest")])),
        ("tag-with-slash", document(images=[small_image(tags=["a/b"])])),
        ("tag-dots", document(images=[small_image(tags=[".."])])),
        ("tag-twice", document(images=[small_image(tags=["1", "1"])])),
        ("tag-of-two-images", document(images=[small_image(), small_image(root=content(LAYER, 29))])),
        ("extra-tag-outside", document(images=[small_image(extraTags=[["x", "sha256:" + "0" * 64]])])),
        ("absent-listed", document(images=[image(absent=[LAYER])])),
        ("absent-not-a-digest", document(images=[small_image(absent=["linux/arm64"])])),
        ("extra-tag-over-tag", document(images=[image(extraTags=[["stable", LAYER]])])),
        ("digest-short", document(images=[small_image(root=content("sha256:00", 1))])),
        ("digest-upper-case", document(images=[small_image(root=content(ROOT.upper(), 1))])),
        ("size-negative", document(images=[small_image(root=content(ROOT, -1))])),
        ("size-too-big", document(images=[small_image(root=content(ROOT, (1 << 40) + 1))])),
        ("one-digest-two-sizes", document(images=[small_image(closure=[content(ROOT, 611)])])),
        ("media-type-escape", document(images=[small_image(root=content(ROOT, 610, "text/plain;\x1b"))])),
    ):
        yield release(f"release-{name}", "7-3", "bad_release", envelope(encode(value), "sender"))
    missing = document(images=[])
    del missing["created"]
    yield release("release-key-missing", "7-3", "bad_release", envelope(encode(missing), "sender"))
    good = encode(document(images=[]))
    for name, payload in (
        ("not-json", b"release"),
        ("utf-16", good.decode().encode("utf-16")),
        ("byte-order-mark", b"\xef\xbb\xbf" + good),
        ("key-twice", good[:-1] + b',"version":1}'),
        ("nan", good.replace(b'"sequence":1', b'"sequence":NaN')),
        ("nested-too-deep", b"[" * 2_000),
        ("number-too-long", good.replace(b'"sequence":1', b'"sequence":' + b"9" * 4_400)),
    ):
        yield release(f"release-{name}", "7-4", "bad_release", envelope(payload, "sender"))
    sparse = encode(document(images=[small_image(absent=["sha256:" + "5" * 64])]))
    meaning = f"default 1 sha256:{sha256(sparse).hexdigest()} quay.io/a/b:1"
    yield release("release-sparse", "7-3", "ok", envelope(sparse, "sender"), meaning)
    extended = encode(document(images=[], comment="ignored"))
    meaning = f"default 1 sha256:{sha256(extended).hexdigest()} "
    yield release("release-unknown-key", "7-4", "ok", envelope(extended, "sender"), meaning)


def orders() -> Iterator[Vector]:
    first = encode(document(images=[small_image()]))
    digest = "sha256:" + sha256(first).hexdigest()
    second = encode(document(sequence=2, previous=digest, images=[]))
    other_first = encode(document(images=[]))
    fourth = encode(document(sequence=4, previous="sha256:" + "1" * 64, images=[]))
    stray_second = encode(document(sequence=2, previous="sha256:" + "1" * 64, images=[]))
    for name, rule, expect, payloads in (
        ("in-order", "7-5", "ok", (first, second, second)),
        ("gap", "7-5", "ok", (first, fourth)),
        ("rolled-back", "7-5", "release_rolled_back", (first, second, first)),
        ("same-sequence-other-content", "7-5", "release_conflict", (first, other_first)),
        ("chain-broken", "7-5", "release_conflict", (first, stray_second)),
    ):
        parts = tuple(envelope(payload, "sender") for payload in payloads)
        yield Vector(f"releases-{name}", rule, "release-order", expect, parts)


def vectors() -> Iterator[Vector]:
    yield from beacons()
    yield from envelopes()
    yield from payloads()
    yield from orders()
