"""images.yaml: what each mistake looks like to the person who made it, and what stays usable."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.errors import UserError
from sender.images import ImageList, Origin
from sender.intent import load_images

A = "sha256:" + "a" * 64
B = "sha256:" + "b" * 64
GOOD = f"docker.io/library/redis:7@{A}"
PIN, PRINTS = "`checkvalve-sender pin", "prints the line with its digest; tags: lets images.lock hold it"
FROM = "give oci:FOLDER (an OCI image layout) or archive:FILE (docker save, ctr images export)"


def load(tmp_path: Path, text: str) -> ImageList:
    path = tmp_path / "images.yaml"
    path.write_text(text)
    return load_images(path)


def test_good_entries_of_all_kinds(tmp_path: Path) -> None:
    (tmp_path / "lay").mkdir()
    (tmp_path / "lay" / "index.json").write_text("{}")
    (tmp_path / "app.tar").write_bytes(b"")
    found = load(
        tmp_path,
        f"""# comment
images:
  - nginx:1.27@{A}
  - image: docker.io/library/redis:7@{B}
    from: oci:lay
  - image: Example.org:5000/app@{A}
    from: archive:{tmp_path}/app.tar
    referrers: false
""",
    )
    assert found.faults == ()
    one, two, three = found.images
    assert (str(one.reference), one.origin, one.line) == (f"docker.io/library/nginx:1.27@{A}", Origin("registry"), 3)
    assert (two.origin, two.options.referrers, two.line) == (Origin("oci", tmp_path / "lay"), None, 4)
    assert (str(three.reference), three.options.referrers) == (f"example.org:5000/app@{A}", ())
    assert str(three.origin) == f"archive:{tmp_path}/app.tar"
    assert one.short == "docker.io/library/nginx:1.27@sha256:aaaaaaaaaaaa…"


@pytest.mark.parametrize("text", ["images: []\n", "images:\n", "images:\n#  - nginx\n"])
def test_no_images_is_no_fault(tmp_path: Path, text: str) -> None:
    assert load(tmp_path, text) == ImageList((), files=(tmp_path / "images.yaml",))


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        (
            "nginx:1.27",
            "'nginx:1.27' has no digest; `checkvalve-sender pin nginx:1.27` prints the line with its "
            "digest; tags: lets images.lock hold it",
        ),
        (
            "nginx",
            "'nginx' has no digest; `checkvalve-sender pin nginx:TAG` prints the line with its digest; "
            "tags: lets images.lock hold it",
        ),
        (
            "nginx:1@sha256:abc",
            "reference 'nginx:1@sha256:abc': digest 'sha256:abc': expected sha256:<64 hex digits> or "
            "sha512:<128 hex digits>",
        ),
        (
            f"Nginx:1@{A}",
            f"reference 'Nginx:1@{A}': repository component 'Nginx': expected lower-case letters and digits, joined "
            "by single '.', '_', '__' or '-'",
        ),
        ("7", "7 is no image; give e.g. docker.io/library/nginx:1.27@sha256:…"),
        ("", "nothing is no image; give e.g. docker.io/library/nginx:1.27@sha256:…"),
        ("[a]", "['a'] is no image; give e.g. docker.io/library/nginx:1.27@sha256:…"),
    ],
)
def test_a_bad_entry_is_one_line_and_spoils_no_other(tmp_path: Path, entry: str, fault: str) -> None:
    found = load(tmp_path, f"images:\n  - {GOOD}\n  - {entry}\n")
    assert found.faults == (f"{tmp_path}/images.yaml:3: images[1]: {fault}",)
    assert [str(image.reference) for image in found.images] == [GOOD]


@pytest.mark.parametrize(
    ("lines", "faults"),
    [
        (
            ["imgae: x"],
            ["3: images[1].imgae: unknown key; did you mean image?", "3: images[1].image: is missing; add this key"],
        ),
        (
            [f"image: nginx@{A}", "tag: 1"],
            ["4: images[1].tag: unknown key; did you mean tags?"],
        ),
        (["image: 7"], ["3: images[1].image: 7 is not text; put it in quotes"]),
        (
            [f"image: nginx@{A}", "referrers: often"],
            [
                "4: images[1].referrers: 'often' is neither true, false nor a list of artifact types such as "
                "application/spdx+json"
            ],
        ),
        (["image: nginx:1"], [f"3: images[1].image: 'nginx:1' has no digest; {PIN} nginx:1` {PRINTS}"]),
        ([f"image: nginx@{A}", "from: docker:x"], [f"4: images[1].from: 'docker:x' is not a source; {FROM}"]),
        ([f"image: nginx@{A}", "from: 'oci:'"], [f"4: images[1].from: 'oci:' is not a source; {FROM}"]),
        (
            [f"image: nginx@{A}", "from: oci:gone"],
            [f"4: images[1].from: 'oci:gone': no such folder: TMP/gone; {FROM}"],
        ),
        (
            [f"image: nginx@{A}", "from: archive:gone.tar"],
            [f"4: images[1].from: 'archive:gone.tar': no such file: TMP/gone.tar; {FROM}"],
        ),
        (
            [f"image: nginx@{A}", "from: oci:empty"],
            [f"4: images[1].from: 'oci:empty': no index.json in TMP/empty, so it is no OCI image layout; {FROM}"],
        ),
        (
            [f"image: nginx@{A}", "from: archive:empty"],
            [f"4: images[1].from: 'archive:empty': TMP/empty is a folder; {FROM}"],
        ),
        (
            ["image: nginx", "from: 'oci:'"],
            [
                f"3: images[1].image: 'nginx' has no digest; {PIN} nginx:TAG` {PRINTS}",
                f"4: images[1].from: 'oci:' is not a source; {FROM}",
            ],
        ),
    ],
)
def test_bad_mappings(tmp_path: Path, lines: list[str], faults: list[str]) -> None:
    (tmp_path / "empty").mkdir()
    found = load(tmp_path, f"images:\n  - {GOOD}\n  - " + "\n    ".join(lines) + "\n")
    assert sorted(found.faults) == sorted(
        f"{tmp_path}/images.yaml:{fault.replace('TMP', str(tmp_path))}" for fault in faults
    )
    assert [str(image.reference) for image in found.images] == [GOOD]


def test_a_duplicate_is_named_and_counts_once(tmp_path: Path) -> None:
    found = load(tmp_path, f"images:\n  - nginx:1@{A}\n  - docker.io/library/nginx:1@{A}\n  - {GOOD}\n")
    assert found.faults == (
        f"{tmp_path}/images.yaml:3: 'docker.io/library/nginx:1@sha256:aaaaaaaaaaaa…' is here twice, first in line 2; "
        "keep one",
    )
    assert [image.line for image in found.images] == [2, 4]


def test_a_tag_with_two_digests_moves_to_neither(tmp_path: Path) -> None:
    found = load(tmp_path, f"images:\n  - nginx:1@{A}\n  - {GOOD}\n  - nginx:1@{B}\n  - nginx@{B}\n")
    assert found.faults == (
        f"{tmp_path}/images.yaml:2: tag 'docker.io/library/nginx:1' is pinned to 2 digests "
        "(sha256:aaaaaaaaaaaa… in line 2, sha256:bbbbbbbbbbbb… in line 4); keep one",
    )
    assert [image.line for image in found.images] == [3, 5]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("images: nginx\n", ":1: images: 'nginx' is not a list; start each item with '- '"),
        ("image: []\n", ":1: image: unknown key; did you mean images?\nPATH: images: is missing; add this key"),
        ("", ": images: is missing; add this key"),
        ("- nginx\n", ":1: the file must be 'key: value' lines"),
        (
            "images: [\n",
            ":2:1: not YAML: while parsing a flow node, expected the node content, but found '<stream end>'",
        ),
        ("images: []\nimages: []\n", ":2: images: this key is here twice; keep one"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_as_a_whole(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, text)
    path = f"{tmp_path}/images.yaml"
    assert str(caught.value) == path + fault.replace("PATH", path)
    assert caught.value.exit_code == 2


def test_a_missing_file_says_who_writes_it(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_images(tmp_path / "images.yaml")
    assert str(caught.value) == f"{tmp_path}/images.yaml: no such file; `checkvalve-sender init` creates it"
