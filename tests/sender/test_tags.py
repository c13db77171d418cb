"""Which tags a rule means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sender import tags as tags_module
from sender.tags import Pattern, Range, SlowPattern, TagRule, version_of

TAGS = [
    "1", "1.27", "1.27.0", "v1.27.3", "1.28.1-alpine", "1.28.1", "1.29.0-rc.1", "2.0.0", "latest", "1.27.3-alpine",
    "20240105", "sha256-abc.sig",
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("^1.27", ["1.27", "1.27.0", "1.28.1", "v1.27.3"]),
        ("~1.27.1", ["v1.27.3"]),
        ("1.27.x", ["1.27", "1.27.0", "v1.27.3"]),
        (">=1.28 <2", ["1.28.1"]),
        (">=1.28, <2", ["1.28.1"]),
        ("1.28.1 || 2.0.0", ["1.28.1", "2.0.0"]),
        ("1.27.1 - 1.28", ["1.28.1", "v1.27.3"]),
        (">=1.29.0-rc.0 <1.30.0", ["1.29.0-rc.1"]),
        ("^9", []),
    ],
)
def test_semver_ranges(text: str, meant: list[str]) -> None:
    assert sorted(TagRule(semver=Range(text)).candidates(TAGS)) == meant


def test_a_suffix_is_taken_off_before_and_demanded() -> None:
    rule = TagRule(semver=Range("^1.27"), suffix="-alpine", keep=1)
    found = rule.candidates(TAGS)
    assert sorted(found) == ["1.27.3-alpine", "1.28.1-alpine"]
    assert rule.newest(found) == ["1.28.1-alpine"]


def test_a_regular_expression_must_match_the_whole_tag_and_exclusions_too() -> None:
    rule = TagRule(pattern=Pattern(r"1\.2\d.*"), exclude=(Pattern(r".*-alpine"), Pattern(r".*rc.*")))
    assert rule.candidates(TAGS) == ["1.27", "1.27.0", "1.28.1"]


def test_tags_that_hang_on_an_image_are_no_images() -> None:
    hangers = [f"sha256-{'a' * 64}", f"sha256-{'a' * 64}.sig", f"sha512-{'b' * 128}.att"]
    assert TagRule(pattern=Pattern(".*")).candidates([*hangers, "sha256-x", "1"]) == ["sha256-x", "1"]


@pytest.mark.parametrize("text", ["", "latest", "^^1", ">=", "1.2.3.4", "^1 &&"])
def test_what_is_no_range(text: str) -> None:
    with pytest.raises(ValueError, match="is not a semver range; give e"):
        Range(text)


def test_what_is_no_regular_expression() -> None:
    with pytest.raises(ValueError, match=r"'a\(' is not a regular expression: missing \) at position 2"):
        Pattern("a(")


def test_a_regular_expression_that_never_ends_is_given_up_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tags_module, "MATCH_S_MAX", 0.05)
    with pytest.raises(SlowPattern) as caught:
        Pattern("(a|aa)+b").matching(["b", "a" * 100])
    assert str(caught.value).startswith(
        "regular expression '(a|aa)+b' is too slow: more than 0.05 s for the tag 'aaa"
    )


def test_the_newest_by_version_where_all_are_versions_else_by_date() -> None:
    rule = TagRule(pattern=Pattern(".*"), keep=2)
    versions = ["1.9.0", "v1.10.0", "1.2.0"]
    assert not rule.needs_dates(versions)
    assert rule.newest(versions) == ["v1.10.0", "1.9.0"]
    assert rule.needs_dates([*versions, "edge"])
    assert rule.newest(["a", "b", "c", "d"], {"a": 1.0, "b": 3.0, "c": 2.0}) == ["b", "c"], "undated ones are oldest"
    assert not rule.needs_dates(["edge", "latest"]), "nothing has to be dropped"


@pytest.mark.parametrize(
    ("text", "nearest"), [("^9", "2.0.0"), ("~1.28.4", "1.28.1"), ("0.1", "1"), ("=1.29.1", "1.29.0-rc.1")]
)
def test_a_range_without_a_match_names_the_nearest(text: str, nearest: str) -> None:
    tags = [tag for tag in TAGS if tag != "20240105"]
    assert TagRule(semver=Range(text)).nearest(tags) == nearest
    assert TagRule(semver=Range(text)).nearest(["latest"]) is None


@given(
    st.lists(st.from_regex(r"v?\d{1,3}(\.\d{1,3}){0,2}(-[a-z0-9]{1,5})?", fullmatch=True), unique=True),
    st.integers(1, 9),
)
def test_keep_leaves_the_highest_versions_whatever_the_order(tags: list[str], keep: int) -> None:
    rule = TagRule(semver=Range("*"), keep=keep)
    found = rule.candidates(tags)
    kept = rule.newest(found)
    assert len(kept) == min(keep, len(found))
    lowest = min((version_of(tag) for tag in kept), default=None)
    assert all(version_of(tag) <= lowest for tag in found if tag not in kept)
    assert rule.newest(found[::-1]) == kept


def test_equal_rules_have_equal_texts() -> None:
    rule = TagRule(semver=Range("^1"), suffix="-alpine", exclude=(Pattern("a"),), keep=3)
    assert rule.text == "semver ^1, suffix -alpine, exclude a, keep newest 3"
    assert TagRule(exact=("1",)).text == "tag"
