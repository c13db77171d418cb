from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oci.errors import ReferenceError_
from oci.reference import check_repository
from receiver.mapping import target_repository


@pytest.mark.parametrize(
    ("name", "prefix", "repository"),
    [
        ("docker.io/library/nginx", "internal", "internal/docker.io/library/nginx"),
        ("docker.io/library/nginx", "", "docker.io/library/nginx"),
        ("quay.io/a/b/c", "mirror/high", "mirror/high/quay.io/a/b/c"),
        ("localhost:5000/app", "internal", "internal/localhost_5000/app"),
        ("localhost/app", "internal", "internal/localhost/app"),
        ("10.0.0.1:443/a__b/c-d", "internal", "internal/10.0.0.1_443/a__b/c-d"),
        ("[fd00::1]/app", "internal", "internal/fd00_0_0_0_0_0_0_1/app"),
        ("[fd00::1]:5000/app", "internal", "internal/fd00_0_0_0_0_0_0_1_5000/app"),
        ("[FD00:0:0::1]:5000/app", "internal", "internal/fd00_0_0_0_0_0_0_1_5000/app"),
        ("Registry.Example:5000/app", "internal", "internal/registry.example_5000/app"),
    ],
)
def test_the_source_stays_in_the_path(name: str, prefix: str, repository: str) -> None:
    assert target_repository(name, prefix) == repository


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nginx", "expected host[:port]/path"),
        ("a..b/app", "a..b"),
        ("[::zz]/app", "expected host[:port]/path"),
        ("[1:2]/app", "[1:2] is no IPv6 address"),
        ("docker.io/" + "a" * 250, "expected at most 255"),
        ("docker.io/App", "App"),
        ("docker.io/../app", ".."),
    ],
)
def test_what_has_no_repository_is_refused_in_one_line(name: str, words: str) -> None:
    with pytest.raises(ReferenceError_) as caught:
        target_repository(name, "internal")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


label = st.from_regex(r"[a-z0-9](?:[a-z0-9-]{0,6}[a-z0-9])?", fullmatch=True)
host = st.one_of(
    st.lists(label, min_size=1, max_size=8).map(".".join),
    st.ip_addresses(v=6).map(lambda address: f"[{address.exploded}]"),
)
registry = st.tuples(host, st.none() | st.integers(1, 65535)).map(
    lambda parts: parts[0] if parts[1] is None else f"{parts[0]}:{parts[1]}"
)


@given(registry, registry)
def test_no_two_registries_become_one(one: str, other: str) -> None:
    mapped = [target_repository(f"{name}/app", "internal") for name in (one, other)]
    assert (mapped[0] == mapped[1]) == (one == other)
    assert all(check_repository(name) == name for name in mapped)
