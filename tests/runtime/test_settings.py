"""Settings files: every mistake becomes one line with file, line, key, value and what would be right."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from runtime.document import FILE_BYTES_MAX
from runtime.errors import UserError
from runtime.settings import (
    ConfigPath,
    Duration,
    HostPort,
    Rate,
    Ratio,
    Section,
    Settings,
    Size,
    load_settings,
    load_yaml,
    validate,
)


class Link(Section):
    rate: Rate
    target: HostPort = HostPort("127.0.0.1", 4000)
    mtu: int = Field(1500, ge=576, le=9216)
    repair: Ratio = 0.1
    mode: Literal["plain", "gso"] = "plain"
    token: SecretStr | None = None


class Image(Section):
    name: str
    tag: str
    platforms: tuple[str, ...] = ()


class Example(Settings):
    model_config = SettingsConfigDict(env_prefix="EXAMPLE__")
    created_by = "example init"
    link: Link
    state: ConfigPath = Path("state")
    quota: Size = 0
    every: Duration = 60.0
    once: bool = False
    images: tuple[Image, ...] = ()


GOOD = "link:\n  rate: 1Gbit\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "example.yaml"
    path.write_text(text)
    return path


def faults(folder: Path, text: str) -> list[str]:
    """The lines about ``text``, without the folder."""
    with pytest.raises(UserError) as caught:
        load_settings(written(folder, text), Example)
    assert caught.value.exit_code == 2
    return str(caught.value).replace(f"{folder}/", "").splitlines()


def test_a_good_file(tmp_path: Path) -> None:
    text = """
link: {rate: 800Mbit, target: "[::1]:9", mtu: 9000, repair: 10%, mode: gso}
state: data/spool
quota: 10GiB
every: 5s
images:
  - {name: nginx, tag: "1.27"}
"""
    settings = load_settings(written(tmp_path, text), Example)
    assert settings.link.rate == 800_000_000
    assert settings.link.target == HostPort("::1", 9)
    assert settings.state == tmp_path / "data/spool"
    assert (settings.quota, settings.every, settings.link.repair) == (10 * 2**30, 5.0, 0.1)
    assert settings.images[0].tag == "1.27"
    with pytest.raises(ValueError, match="frozen"):
        settings.once = True  # type: ignore[misc]


def test_paths_start_from_the_file_also_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, GOOD)
    monkeypatch.chdir(tmp_path.parent)
    relative = Path(tmp_path.name) / "example.yaml"
    assert load_settings(relative, Example).state == tmp_path / "state"
    monkeypatch.setenv("HOME", "/home/someone")
    assert load_settings(written(tmp_path, GOOD + "state: ~/x\n"), Example).state == Path("/home/someone/x")
    assert load_settings(written(tmp_path, GOOD + "state: /var/x\n"), Example).state == Path("/var/x")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("link:\n  rate: fast\n", "example.yaml:2: link.rate: 'fast' is not a rate; give e.g. 1Gbit or 800Mbit"),
        (GOOD + "  raet: 1\n", "example.yaml:3: link.raet: unknown key; did you mean rate?"),
        (
            GOOD + "zebra: 1\n",
            "example.yaml:3: zebra: unknown key; known here: link, state, quota, every, once, images",
        ),
        (
            GOOD + "_env_file: /x\n",
            "example.yaml:3: _env_file: unknown key; known here: link, state, quota, every, once, images",
        ),
        ("every: 1s\nlink:\n  mtu: 1500\n", "example.yaml:2: link.rate: is missing; add this key"),
        ("", "example.yaml:1: link: is missing; add this key"),
        ("link:\n", "example.yaml:1: link: nothing is not a mapping; give 'key: value' lines below it"),
        (GOOD + "  mtu: big\n", "example.yaml:3: link.mtu: 'big' is not a whole number"),
        (GOOD + "  mtu: 100\n", "example.yaml:3: link.mtu: 100 is too small; give at least 576"),
        (GOOD + "  mode: turbo\n", "example.yaml:3: link.mode: 'turbo' is not allowed; give 'plain' or 'gso'"),
        (GOOD + "  token: [5]\n", "example.yaml:3: link.token: the value (not shown) is not text; put it in quotes"),
        (GOOD + "once: maybe\n", "example.yaml:3: once: 'maybe' is neither true nor false"),
        (GOOD + "images: nginx\n", "example.yaml:3: images: 'nginx' is not a list; start each item with '- '"),
        (
            GOOD + "images:\n  - name: a\n    tag: 1.27\n",
            "example.yaml:5: images[0].tag: 1.27 is not text; put it in quotes",
        ),
        (
            GOOD + "images:\n  - {name: a, tag: b}\n  - name: c\n    tga: d\n    tag: e",
            "example.yaml:6: images[1].tga: unknown key; did you mean tag?",
        ),
        (
            GOOD + "images:\n  - name: a\n    tag: b\n    platforms: [linux/amd64, 5]\n",
            "example.yaml:6: images[0].platforms[1]: 5 is not text; put it in quotes",
        ),
        (GOOD + "state: ''\n", "example.yaml:3: state: '' is not a path; give e.g. state/ or /var/lib/checkvalve"),
        (GOOD + "link:\n  rate: 2Gbit\n", "example.yaml:3: link: this key is here twice; keep one"),
        (GOOD + "1.5: x\n", "example.yaml:3: key 1.5 is not text; put it in quotes"),
        (GOOD + "state: !!python/object:os.system x\n", "tag"),
        ("- a\n- b\n", "example.yaml:1: the file must be 'key: value' lines"),
        ("link: [1, 2\nx: y\n", "example.yaml:2:2: not YAML: while parsing a flow sequence"),
        ("link:\n\trate: 1\n", "example.yaml:2:1: not YAML: "),
        ("a: *nowhere\n", "example.yaml:1:4: not YAML: "),
    ],
)
def test_one_mistake_one_line(tmp_path: Path, text: str, line: str) -> None:
    shown = faults(tmp_path, text)
    assert len(shown) == 1
    assert line in shown[0]


def test_all_mistakes_are_reported(tmp_path: Path) -> None:
    shown = faults(tmp_path, "link:\n  rate: fast\n  mtu: 1\nevery: soon\nextra: 1\n")
    assert sorted(int(line.split(":")[1]) for line in shown) == [2, 3, 4, 5]


def test_the_environment_wins_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, GOOD)
    monkeypatch.setenv("EXAMPLE__LINK__RATE", "500Mbit")
    monkeypatch.setenv("EXAMPLE__ONCE", "true")
    settings = load_settings(path, Example)
    assert (settings.link.rate, settings.once) == (500_000_000, True)
    monkeypatch.setenv("EXAMPLE__LINK__RATE", "slow")
    monkeypatch.setenv("EXAMPLE__LINK__MUT", "5")
    monkeypatch.setenv("EXAMPLE__STAET", "x")
    assert sorted(faults(tmp_path, GOOD)) == [
        "environment variable EXAMPLE__LINK__MUT: unknown key; did you mean mtu?",
        "environment variable EXAMPLE__LINK__RATE: 'slow' is not a rate; give e.g. 1Gbit or 800Mbit",
        "environment variable EXAMPLE__STAET: unknown key; did you mean state?",
    ]


def test_environment_list_must_be_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXAMPLE__IMAGES", "nginx")
    (line,) = faults(tmp_path, GOOD)
    assert "images" in line
    assert "JSON" in line


def test_missing_file_names_the_command_that_creates_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file; `example init` creates it") as caught:
        load_settings(tmp_path / "example.yaml", Example)
    assert caught.value.exit_code == 2


def test_files_that_are_no_settings(tmp_path: Path) -> None:
    big, latin, folder = tmp_path / "big.yaml", tmp_path / "latin.yaml", tmp_path / "folder.yaml"
    big.write_bytes(b"#" * (FILE_BYTES_MAX + 1))
    latin.write_bytes(b"a: 1\nb: caf\xe9\n")
    folder.mkdir()
    for path, text in (
        (big, "larger than"),
        (latin, "latin.yaml:2: byte 0xe9 is not UTF-8"),
        (folder, "is a folder"),
    ):
        with pytest.raises(UserError, match=text):
            load_yaml(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="dropping privileges needs root")
def test_unreadable_file(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    path.chmod(0)
    os.seteuid(65534)
    try:
        with pytest.raises(UserError, match=r"example\.yaml: not readable|Permission") as caught:
            load_yaml(path)
    finally:
        os.seteuid(0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
            f"{chr(98 + i)}: &{chr(98 + i)} [{','.join('*' + chr(97 + i) for _ in range(10))}]\n" for i in range(8)
        ), "aliases"),
        ("a: " + "[" * 500 + "]" * 500, "nested too deeply"),
    ],
    ids=["laughs", "deep"],
)  # fmt: skip
def test_hostile_yaml_is_bounded(tmp_path: Path, text: str, hint: str) -> None:
    with pytest.raises(UserError, match=hint):
        load_yaml(written(tmp_path, text))


def test_validate_serves_other_documents(tmp_path: Path) -> None:
    class Images(Section):
        images: list[Image]

    path = tmp_path / "images.yaml"
    path.write_text("images:\n  - name: a\n    tag: b\n")
    document = load_yaml(path)
    assert validate(document, Images).images[0].name == "a"
    assert document.fault(("images", 0, "tag"), "no digest") == f"{path}:3: images[0].tag: no digest"
    path.write_text("images:\n  - name: a\n")
    with pytest.raises(UserError, match=r"images\.yaml:2: images\[0\]\.tag: is missing"):
        validate(load_yaml(path), Images)


def test_faults_inside_a_union_name_the_key_as_written(tmp_path: Path) -> None:
    class Registry(Section):
        url: str

    class Layout(Section):
        folder: str

    class Target(Section):
        target: Registry | Layout

    path = tmp_path / "t.yaml"
    path.write_text("target:\n  uri: x\n")
    with pytest.raises(UserError) as caught:
        validate(load_yaml(path), Target)
    assert f"{path}:2: target.uri: unknown key; did you mean url?" in str(caught.value).splitlines()
    assert "Registry" not in str(caught.value)
