"""images.lock: one text for equal entries, and a name for everything that cannot be right in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import UserError
from sender.lock import Archived, LockEntry, load_lock, lock_text, read_lock
from sender.propose import LockFile

A, B, C = ("sha256:" + letter * 64 for letter in "abc")


def entry(**changes: Any) -> LockEntry:
    document = {
        "image": "docker.io/library/nginx:1.27",
        "digest": A,
        "size": 10229,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "platforms": ["linux/amd64"],
        "rule": "semver ^1",
        "resolved": "2026-11-25T16:00:00Z",
        "collection": "default",
        "closure": B,
    }
    return LockEntry.model_validate_json(json.dumps(document | changes))


def test_a_lock_is_sorted_and_its_lines_come_back_the_same() -> None:
    entries = [
        entry(image="quay.io/b:2"),
        entry(image="quay.io/b:1", referrers=[C, A], tagged={"sha256-x.sig": B}, only=["linux/amd64"], sparse=True),
        entry(collection="core", **{"as": "hub.internal/nginx", "from": "oci:lay"}),
        entry(image="quay.io/a", types=[], foreign=True, signers=["key sha256:1"]),
    ]
    text = lock_text(entries)
    assert text == lock_text(entries[::-1])
    lock, archived = read_lock(text.encode(), "images.lock")
    assert (lock.faults, archived) == ((), None)
    assert sorted(one.line() for one in lock.entries.values()) == sorted(one.line() for one in entries)
    assert [slot[:2] for slot in lock.entries] == [
        ("core", "hub.internal/nginx"),
        ("default", "quay.io/a"),
        ("default", "quay.io/b"),
        ("default", "quay.io/b"),
    ]
    assert list(lock.entries)[1][2] == f"@{A}"
    assert lock.entries["default", "quay.io/b", "1"].recorded.referrers == (C, A)


def test_the_header_of_an_archived_lock_makes_it_whole() -> None:
    archived = Archived("default", 7, A, "2026-11-25T16:00:00+00:00", B)
    assert read_lock(lock_text([entry()], archived).encode(), "x")[1] == archived


GOOD = entry().line()
BAD = {
    "{": "not JSON: ",
    "[]": "is not an object",
    GOOD.replace(A, A[:-1]): f"digest '{A[:-1]}': expected sha256:<64 hex digits>",
    GOOD.replace(B, "sha256:x"): "digest 'sha256:x': expected sha256:<64 hex digits>",
    GOOD.replace('"size": 10229', '"size": -1'): "size: input should be greater than or equal to 0",
    GOOD.replace('"size"', '"sise"'): "size: field required",
    GOOD.replace('"closure"', '"extra": 1, "closure"'): "extra: unknown key",
    GOOD.replace("nginx:1.27", "nginx:1.27@" + A): "image: 'docker.io/library/nginx:1.27@sha256:aaaa",
    GOOD.replace("docker.io/library/nginx", "nginx"): "image: 'nginx:1.27' is not name and tag",
    GOOD.replace('"closure"', '"as": "hub", "closure"'): "as: 'hub' is not a whole name",
    GOOD.replace('"closure"', '"tagged": {"a b": "' + A + '"}, "closure"'): "tagged: 'a b' is not a tag",
    GOOD.replace("2026-11-25T16:00:00Z", "yesterday"): "resolved: input should be a valid datetime",
}


@pytest.mark.parametrize("line", BAD)
def test_a_line_that_cannot_be_right_is_named_and_holds_its_image(line: str) -> None:
    other = entry(image="quay.io/a:1")
    lock, _ = read_lock("\n".join(['{"checkvalve-lock": 1}', line, other.line(), ""]).encode(), "images.lock")
    (fault,) = lock.faults
    assert fault.startswith(f"images.lock:2: {BAD[line]}")
    assert fault.endswith("; mend the line, or delete it to have it resolved again")
    assert list(lock.entries) == [("default", "quay.io/a", "1")]
    assert list(lock.held.values()) == ([] if line in ("{", "[]") else [fault])


def test_two_lines_for_one_image_hold_it() -> None:
    text = "\n".join(['{"checkvalve-lock": 1}', GOOD, GOOD.replace(A, C), ""])
    lock, _ = read_lock(text.encode(), "images.lock")
    assert lock.faults == ("images.lock:3: docker.io/library/nginx:1.27 is in line 2 already; keep one",)
    assert (lock.entries, list(lock.held)) == ({}, [("default", "docker.io/library/nginx", "1.27")])


@pytest.mark.parametrize("raw", [b"\xff", b"{}\n", b"images:\n", b'{"checkvalve-lock": 2}\n', b"[1]\n"])
def test_what_is_no_lock_at_all(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "images.lock"
    path.write_bytes(raw)
    with pytest.raises(UserError, match=r"images.lock:1: is not '.*'; delete the file to have everything"):
        load_lock(path)


def test_no_lock_is_an_empty_one(tmp_path: Path) -> None:
    assert load_lock(tmp_path / "images.lock").entries == {}


@given(st.binary(max_size=400))
def test_no_bytes_raise_anything_else(raw: bytes) -> None:
    try:
        read_lock(b'{"checkvalve-lock": 1}\n' + raw, "x")
    except UserError:
        pass


def test_the_lock_is_never_written_over_an_edit_or_a_fault(tmp_path: Path) -> None:
    path, said = tmp_path / "images.lock", []
    file = LockFile(path, said.append)
    file.read(())
    assert file.write([entry()])
    mine = path.read_text()
    path.write_text(mine + "\n")
    assert file.edited
    assert not file.write([entry(size=1)]), "somebody has edited it"
    assert path.read_text() == mine + "\n"
    file.read(())
    assert file.write([entry(size=1)])
    path.write_text(mine.replace(A, "sha256:1"))
    file.read(())
    assert not file.write([entry()])
    assert said == list(file.lock.faults) != []
    path.write_text(mine)
    file.read(())
    assert file.write([entry(size=2)])
    assert not file.edited
