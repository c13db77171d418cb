"""Rules in images.yaml: defaults, renames, includes, and what each mistake looks like."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sender.images import ImageList
from sender.intent import load_images
from sender.intent_model import json_schema

A = "sha256:" + "a" * 64


def load(folder: Path, text: str) -> ImageList:
    path = folder / "images.yaml"
    path.write_text(text)
    return load_images(path)


def faults(folder: Path, text: str) -> list[str]:
    return [fault.replace(f"{folder}/", "") for fault in load(folder, text).faults]


def test_what_a_rule_says_and_what_the_defaults_say(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        f"""
defaults: {{follow: digest, platforms: [linux/amd64], interval: 15m, collection: edge, referrers: false}}
images:
  - image: nginx
    tags: ["1.27", latest, "1.27"]
  - image: redis
    tags: {{semver: ^7, suffix: -alpine, exclude: .*rc.*, keep: newest 3}}
    follow: false
    platforms: all
    interval: 1h
    urgent: true
    collection: core
    referrers: [application/spdx+json]
  - redis:6@{A}
""",
    )
    assert found.faults == ()
    one, two = found.rules
    assert (one.reference.name, one.tags.exact, one.follow, one.line) == (
        "docker.io/library/nginx",
        ("1.27", "latest"),
        True,
        4,
    )
    assert one.key == "docker.io/library/nginx tag, follow digest 1.27,latest"
    assert (one.options.platforms, one.options.interval, one.options.collection) == (("linux/amd64",), 900.0, "edge")
    assert (one.options.referrers, one.options.urgent) == ((), False)
    assert two.text == "semver ^7, suffix -alpine, exclude .*rc.*, keep newest 3"
    assert (two.options.platforms, two.options.interval, two.options.urgent) == ((), 3600.0, True)
    assert (two.options.collection, two.options.referrers) == ("core", ("application/spdx+json",))
    assert found.images[0].options.collection == "edge"
    assert found.images[0].slot == ("edge", "docker.io/library/redis", "6")


def test_the_longest_prefix_renames_and_an_entry_goes_before(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        f"""
rename:
  - {{from: docker.io/, to: hub.internal/all/}}
  - {{from: docker.io/library/, to: hub.internal/}}
images:
  - nginx@{A}
  - bitnami/redis@{A}
  - image: quay.io/a/b@{A}
  - {{image: "alpine@{A}", as: hub.internal/base}}
""",
    )
    names = ["hub.internal/nginx", "hub.internal/all/bitnami/redis", "quay.io/a/b", "hub.internal/base"]
    assert (found.faults, [image.target for image in found.images]) == ((), names)


def test_includes_take_the_defaults_and_may_have_their_own(tmp_path: Path) -> None:
    (tmp_path / "teams").mkdir()
    (tmp_path / "teams" / "a.yaml").write_text(f"images: [a@{A}]\n")
    (tmp_path / "teams" / "b.yaml").write_text(
        f"defaults: {{urgent: true}}\nimages:\n  - b@{A}\n  - {{image: c, tags: [x y]}}\n"
    )
    found = load(tmp_path, f"include: teams/*.yaml\ndefaults: {{collection: core}}\nimages: [z@{A}]\n")
    options = {image.reference.repository: image.options for image in found.images}
    assert {name: (one.collection, one.urgent) for name, one in options.items()} == {
        "library/a": ("core", False),
        "library/b": ("core", True),
        "library/z": ("core", False),
    }
    bad = f"{tmp_path}/teams/b.yaml:4: images[1].tags[0]: 'x y' is not a tag; give e.g. 1.27 or latest"
    assert found.faults == (bad,)
    assert found.files == tuple(
        tmp_path / name for name in ("images.yaml", "teams/*.yaml", "teams/a.yaml", "teams/b.yaml")
    )


@pytest.mark.parametrize(
    ("include", "expected"),
    [
        ("gone.yaml", "images.yaml:1: include: no such file: {folder}/gone.yaml"),
        ("images.yaml", "images.yaml:1: include: {folder}/images.yaml is included twice, or includes itself"),
        ("7", "images.yaml:1: include: 7 is not a path or a list of paths"),
        ("bad.yaml", "bad.yaml:2:1: not YAML: "),
        ("[good.yaml, good.yaml]", "images.yaml:1: include[1]: {folder}/good.yaml is included twice"),
    ],
)
def test_bad_includes(tmp_path: Path, include: str, expected: str) -> None:
    (tmp_path / "bad.yaml").write_text("images: [\n")
    (tmp_path / "good.yaml").write_text("images: []\n")
    (found,) = load(tmp_path, f"include: {include}\nimages:\n").faults
    assert found.startswith(f"{tmp_path}/{expected.format(folder=tmp_path)}")


ENTRY = {
    "tags: {semver: ^1, regex: a}": "tags: semver and regex given; give one of exact, semver and regex",
    "tags: {keep: newest 3}": "tags: nothing given; give one of exact, semver and regex",
    "tags: {exact: [a], keep: 3}": "tags: keep needs semver or regex; an exact list says already which tags",
    "tags: {regex: a, suffix: -b}": "tags: suffix needs semver",
    "tags: {semver: ^1, keep: newest 0}": "tags.keep: 'newest 0' is not a number of tags; give e.g. newest 3",
    "tags: {semver: ^1, keep: oldest 3}": "tags.keep: 'oldest 3' is not a number of tags; give e.g. newest 3",
    "tags: {semver: ^^1}": "tags.semver: '^^1' is not a semver range; give e.g. ^1.27, ~1.2, 1.x, '>=1.2 <2'",
    "tags: {semver: 1.5}": "tags.semver: 1.5 is not text; put it in quotes",
    "tags: {regex: '('}": "tags.regex: '(' is not a regular expression: missing )",
    "tags: {regex: a, exclude: '('}": "tags.exclude: '(' is not a regular expression: missing ) at position 1",
    "tags: {regexp: a}": "tags.regexp: unknown key; did you mean regex?",
    "tags: []": "tags: [] has too few items; give at least 1",
    "tags: x": "tags: 'x' is not a mapping; give 'key: value' lines below it",
    "tags: [a b]": "tags[0]: 'a b' is not a tag; give e.g. 1.27 or latest",
    "{tags: [a], follow: always}": "follow: 'always' is not allowed; give digest or false",
    "{tags: [a], platforms: [amd64]}": "platforms[0]: 'amd64' is not a platform; give e.g. linux/amd64",
    "{tags: [a], interval: soon}": "interval: 'soon' is not a duration; give e.g. 10ms, 5s or 1h",
    "{tags: [a], interval: 0}": "interval: 0 s is no interval to ask registries at; give 1s to 366d",
    "{tags: [a], urgent: very}": "urgent: 'very' is neither true nor false",
    "{tags: [a], collection: A B}": "collection: 'A B' is not a name; give 1 to 64 of a-z 0-9 . _ -",
    "{tags: [a], as: hub}": "as: 'hub' is not a whole name; give registry and repository, e.g. registry.example/",
    "{tags: [a], as: reg.example/A}": "as: reference 'reg.example/A': repository component 'A': expected",
    "{tags: [a], referrers: [7]}": "referrers: [7] is neither true, false nor a list of artifact types such as",
    "{tags: [a], verify: {max_blob: big}}": "verify.max_blob: 'big' is not a size; give e.g. 10GiB or 500MB",
    "{tags: [a], referrers: false, verify: {cosign: {keys: [k]}}}": "referrers: referrers: false leaves no signature",
    "{tags: [a], from: 'oci:gone'}": "from: 'oci:gone': no such folder",
}


@pytest.mark.parametrize("entry", ENTRY)
def test_a_bad_rule_is_named_with_its_line_and_spoils_no_other(tmp_path: Path, entry: str) -> None:
    inner = entry[1:-1] if entry.startswith("{") else entry
    found = load(tmp_path, f"images:\n  - ok@{A}\n  - {{image: nginx, {inner}}}\n")
    (fault,) = found.faults
    assert fault.startswith(f"{tmp_path}/images.yaml:3: images[1].{ENTRY[entry]}")
    assert (len(found.images), found.rules) == (1, ())


def test_a_pinned_entry_has_no_tags_to_follow(tmp_path: Path) -> None:
    said = faults(
        tmp_path, f"images:\n  - {{image: 'nginx:1@{A}', follow: digest}}\n  - {{image: 'nginx:1', tags: [a]}}\n"
    )
    assert said == [
        "images.yaml:2: images[0].follow: follow is for entries with tags:; this one has a digest",
        "images.yaml:3: images[1].image: 'nginx:1' has a tag or digest; with tags: give docker.io/library/nginx "
        "alone",
    ]


def test_a_rule_given_twice_is_named(tmp_path: Path) -> None:
    rule = "{image: nginx, tags: {semver: ^1}}"
    found = load(tmp_path, f"images:\n  - {rule}\n  - {rule}\n")
    assert len(found.rules) == 1
    assert found.faults == (
        f"{tmp_path}/images.yaml:3: the rule 'docker.io/library/nginx semver ^1' is here twice, first in "
        f"{tmp_path}/images.yaml:2; keep one",
    )


def test_the_schema_for_editors_knows_every_key() -> None:
    schema = json_schema()
    text = json.dumps(schema)
    assert schema["$schema"].endswith("2020-12/schema")
    entry = schema["$defs"]["Entry"]
    keys = "image from tags as follow platforms referrers interval urgent collection verify"
    assert set(entry["properties"]) == set(keys.split())
    assert entry["additionalProperties"] is False
    assert all(word in text for word in ("semver", "regex", "exclude", "keep", "suffix", "cosign", "hook", "rename"))
