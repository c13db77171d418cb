"""WIRE_FORMAT.md §7: the envelope, the payload and the order of releases (the single rules are in the vectors)."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.drops import Drop
from protocol.errors import ProtocolMisuse
from protocol.release import (
    Content,
    Release,
    ReleaseImage,
    SignedRelease,
    check_order,
    open_release,
    payload_digest,
    payload_of,
    seal_release,
)
from protocol.trust import ReleaseMark
from tests.protocol.harness import outcome, trusted
from tests.support.content import digest_of
from tests.vectors import catalogue_control as cc
from tests.vectors import session as s

SENDER = s.signing_key("sender")
REFUSED = {Drop.BAD_RELEASE, Drop.RELEASE_UNTRUSTED}
DIGESTS = st.binary(min_size=32, max_size=32).map(lambda raw: "sha256:" + raw.hex())
CONTENTS = DIGESTS.map(lambda digest: Content("application/x", digest, int(digest[7:12], 16)))
IMAGES = st.builds(
    lambda number, root, closure: ReleaseImage(f"quay.io/a/b{number}", ("latest", "1"), root, tuple(closure)),
    st.integers(0, 1 << 32),
    CONTENTS,
    st.lists(CONTENTS, max_size=4),
)


@given(st.lists(IMAGES, max_size=4, unique_by=lambda image: image.name), st.integers(2, 1 << 62), DIGESTS)
def test_release_round_trip(images: list[ReleaseImage], sequence: int, previous: str) -> None:
    release = Release("edge", sequence, previous, "2026-01-01T00:00:00+00:00", tuple(images))
    payload = payload_of(release)
    opened = open_release(seal_release(payload, SENDER), trusted())
    assert opened == SignedRelease(release, payload_digest(payload), (s.key_id(SENDER),))
    assert payload_of(opened.release) == payload
    wanted = {c.digest for image in images for c in (image.root, *image.closure, *image.referrers)}
    assert set(release.contents()) == wanted


def test_any_changed_bit_and_any_missing_byte_is_refused() -> None:
    envelope = seal_release(cc.encode(cc.document(images=[])), SENDER)
    for at in range(len(envelope)):
        assert outcome(lambda: open_release(envelope[:at], trusted()))[1] in REFUSED  # noqa: B023
        for bit in range(8):
            changed = envelope[:at] + bytes((envelope[at] ^ 1 << bit,)) + envelope[at + 1 :]
            assert outcome(lambda: open_release(changed, trusted()))[1] in REFUSED, (at, bit)  # noqa: B023


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x), max_leaves=8))
def test_any_json_in_any_place_is_refused_or_read(value: object) -> None:
    """Each member of a valid document, and of its image and content, is replaced by an arbitrary value."""
    for key in cc.document():
        check_document(cc.document() | {key: value})
    for key in cc.image():
        check_document(cc.document(images=[cc.image() | {key: value}]))
    for key in ("mediaType", "digest", "size"):
        check_document(cc.document(images=[cc.image(root=cc.content(cc.ROOT, 610, "a/b") | {key: value})]))


def check_document(document: dict[str, object]) -> None:
    envelope = seal_release(json.dumps(document).encode(), SENDER)
    opened, drop = outcome(lambda: open_release(envelope, trusted()))
    assert (opened is None) == (drop is Drop.BAD_RELEASE)


@given(st.binary(max_size=200))
def test_random_envelopes_and_payloads_are_refused(data: bytes) -> None:
    assert outcome(lambda: open_release(data, trusted()))[1] is Drop.BAD_RELEASE
    assert outcome(lambda: open_release(b"CVR1" + data, trusted()))[1] in REFUSED
    assert outcome(lambda: open_release(seal_release(data, SENDER), trusted()))[1] is Drop.BAD_RELEASE


PATHS = (
    "docker.io/..",
    "docker.io/../x",
    "docker.io/x/..",
    "docker.io/x/.",
    "../docker.io/x",
    "./x/y",
    "docker.io/.x",
    "docker.io/x/",
    "docker.io//x",
    "/docker.io/x",
    "docker.io\\x/y",
    "docker.io/x\0",
    "docker.io/x%2e%2e",
    "docker.io/x:tag",
    "docker.io/x@sha256:00",
    "docker.io/X",
    "docker..io/x",
    "-docker.io/x",
    "docker.io:port/x",
    "docker.io:123456/x",
    "https://docker.io/x",
    "docker.io/é",
    "x" * 600,
)


@pytest.mark.parametrize("name", PATHS)
def test_tricks_in_names_are_refused(name: str) -> None:
    check = cc.encode(cc.document(images=[cc.small_image(name=name)]))
    assert outcome(lambda: open_release(seal_release(check, SENDER), trusted()))[1] is Drop.BAD_RELEASE


@pytest.mark.parametrize(
    "name",
    ["docker.io/library/nginx", "localhost:5000/a", "[::1]:5000/a", "10.0.0.1/a__b/c-d/e.f", "a-b.c/d---e"],
)
def test_ordinary_names_are_taken(name: str) -> None:
    payload = cc.encode(cc.document(images=[cc.small_image(name=name)]))
    assert open_release(seal_release(payload, SENDER), trusted()).release.images[0].name == name


@pytest.mark.parametrize("tag", ["", ".", "..", "-a", "a/b", "a:b", "a\n", "a" * 129, "é"])
def test_tricks_in_tags_are_refused(tag: str) -> None:
    for change in ({"tags": [tag]}, {"extraTags": [[tag, cc.ROOT]]}):
        payload = cc.encode(cc.document(images=[cc.small_image(**change)]))
        assert outcome(lambda: open_release(seal_release(payload, SENDER), trusted()))[1] is Drop.BAD_RELEASE  # noqa: B023


def test_the_same_extra_tag_on_two_images_of_a_repository_may_name_one_digest() -> None:
    extra = [["sha256-x.sig", cc.ROOT]]
    images = [cc.small_image(extraTags=extra), cc.small_image(tags=["2"], extraTags=extra)]
    opened = open_release(seal_release(cc.encode(cc.document(images=images)), SENDER), trusted())
    assert len(opened.release.images) == 2


def signed(sequence: int, previous: str | None, digest: str = "sha256:" + "a" * 64) -> SignedRelease:
    return SignedRelease(Release("default", sequence, previous, "", ()), digest, ())


@pytest.mark.parametrize(
    ("sequence", "previous", "digest", "expected"),
    [
        (4, "x", "new", Drop.RELEASE_ROLLED_BACK),
        (5, "x", "mark", False),
        (5, "x", "new", Drop.RELEASE_CONFLICT),
        (6, "mark", "new", True),
        (6, "x", "new", Drop.RELEASE_CONFLICT),
        (7, "x", "new", True),
    ],
)
def test_order_of_releases(sequence: int, previous: str, digest: str, expected: bool | Drop) -> None:
    result, drop = outcome(lambda: check_order(signed(sequence, previous, digest), ReleaseMark(5, "mark")))
    assert (result if drop is None else drop) == expected


def test_the_first_release_seen_may_have_any_number() -> None:
    assert check_order(signed(9, "x"), None) is True


def test_signers_are_bounded_when_sealing() -> None:
    for count in (0, 17):
        with pytest.raises(ProtocolMisuse):
            seal_release(b"{}", *[SENDER] * count)
    assert payload_digest(b"{}") == digest_of(b"{}")
