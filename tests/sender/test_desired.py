"""The proposal: grouped, canonical, and never with a contradiction that a receiver would refuse."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from oci.closure import Closure
from oci.descriptor import OCI_MANIFEST, Descriptor, Manifest
from protocol.release import Content, Release, ReleaseImage, parse_images, payload_of
from sender.desired import desired_state, read_image, release_image, write_image

A, B, C = ("sha256:" + letter * 64 for letter in "abc")


def image(name: str, root: str, **more: object) -> ReleaseImage:
    plain = ReleaseImage(name, (), Content(OCI_MANIFEST, root, 7), (Content("text/plain", C, 1),))
    return replace(plain, **more)  # type: ignore[arg-type]


def shown(state: str) -> list[tuple[str, tuple[str, ...], str]]:
    images = parse_images(json.loads(state))
    payload_of(Release("default", 1, None, "2026-01-01T00:00:00+00:00", images))
    return [(one.name, one.tags, one.root.digest) for one in images]


def test_tags_of_one_root_share_an_image_and_order_does_not_matter() -> None:
    ready = [
        (("default", "example.org/b", "2"), image("example.org/b", A)),
        (("default", "example.org/b", "1"), image("example.org/b", A)),
        (("default", "example.org/b", f"@{B}"), image("example.org/b", B)),
        (("default", "example.org/a", "1"), image("example.org/a", A)),
    ]
    state = desired_state(ready, None)
    assert shown(state) == [("example.org/a", ("1",), A), ("example.org/b", (), B), ("example.org/b", ("1", "2"), A)]
    assert desired_state(ready[::-1], state) == state


def test_what_is_not_fetched_yet_stays_where_it_was() -> None:
    slots = [
        ("default", "example.org/a", "1"),
        ("default", "example.org/a", "2"),
        ("default", "example.org/d", f"@{A}"),
    ]
    before = desired_state([(slot, image(slot[1], A)) for slot in slots], None)
    waiting = {slots[0], slots[2], ("default", "example.org/d", f"@{B}"), ("default", "example.org/new", "1")}
    assert shown(desired_state([], before, waiting.__contains__)) == [
        ("example.org/a", ("1",), A),
        ("example.org/d", (), A),
    ]
    moved = (slots[1], image("example.org/a", B))
    assert shown(desired_state([moved], before, lambda slot: True)) == [
        ("example.org/a", ("1",), A),
        ("example.org/a", ("2",), B),
        ("example.org/d", (), A),
    ]
    assert shown(desired_state([moved], before)) == [("example.org/a", ("2",), B)]


def test_a_signature_tag_seen_twice_names_one_digest() -> None:
    one = image("example.org/a", A, extra_tags=(("sha256-x.sig", C),))
    two = image("example.org/a", B, extra_tags=(("sha256-x.sig", B), ("2", C)))
    ready = [(("default", "example.org/a", "1"), one), (("default", "example.org/a", "2"), two)]
    first, second = parse_images(json.loads(desired_state(ready, None)))
    assert (first.extra_tags, second.extra_tags) == ((("sha256-x.sig", C),), ())


def manifest(digest: str) -> Manifest:
    return Manifest(Descriptor(OCI_MANIFEST, digest, 2), b"{}")


def test_a_closure_becomes_contents_in_push_order() -> None:
    layer, foreign = Descriptor("a/layer", C, 5), Descriptor("a/foreign", "sha256:" + "d" * 64, 6)
    closure = Closure(
        manifest(A).descriptor, [manifest(A), manifest(B)], [layer], [manifest(B)], [foreign], {"x.sig": layer}
    )
    without = release_image("example.org/a", closure, foreign=False)
    assert [content.digest for content in without.contents()] == [C, B, A]
    assert without.extra_tags == (("x.sig", C),)
    taken = release_image("example.org/a", closure, foreign=True)
    assert foreign.digest in {content.digest for content in taken.closure}
    assert read_image(write_image(taken)) == taken


def test_what_no_receiver_would_take_is_refused_here() -> None:
    closure = Closure(manifest(A).descriptor, [manifest(A)], [Descriptor("no media type", C, 5)])
    with pytest.raises(ValueError, match="no media type"):
        release_image("example.org/a", closure, foreign=False)
    with pytest.raises(ValueError, match="KeyError"):
        read_image({})
