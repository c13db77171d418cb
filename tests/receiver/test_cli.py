"""The command line as a person meets it: exact lines, exit codes."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from oci.layout import Layout
from receiver.config import ReceiverSettings
from receiver.journal import ReceiverJournal
from runtime.settings import load_settings
from tests.oci_layout.images import single_image
from tests.receiver.site import Cli, Site, hear, release_image

ROOT = Path(__file__).parents[2]
COMMANDS = ["init", "check", "run", "capture", "publish", "status", "missing"]
COMMANDS += ["gc", "confirm", "activate", "archive", "import"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(cli: Cli, command: str) -> None:
    code, out, _ = cli(command, "--help")
    assert code == 0
    assert re.search(rf"Examples:\s+checkvalve-receiver {command}", out)
    assert f"  {command} " in cli("--help")[1]


def test_init_makes_what_check_accepts_and_overwrites_nothing(made: Path, cli: Cli) -> None:
    assert (made / "keys/receiver.pem").stat().st_mode & 0o777 == 0o600
    code, out, err = cli("check", "--config", made / "receiver.yaml")
    assert (code, err) == (0, "")
    assert len(re.findall("^ok: ", out, re.MULTILINE)) == 7
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    code, out, _ = cli("init", made, "--registry", "https://other.example")
    assert code == 0
    assert f"kept    {made / 'receiver.yaml'} (exists already)" in out
    assert {path: path.read_bytes() for path in made.rglob("*") if path.is_file()} == before


def test_init_says_what_is_next(tmp_path: Path, cli: Cli) -> None:
    code, out, _ = cli("init", tmp_path)
    assert code == 0
    assert re.search(r"receiver key SHA256:[A-Za-z0-9+/]{43}\n", out)
    assert f"1. copy the sender's public key to {tmp_path}/keys/sender.pub" in out
    assert f"2. give {tmp_path}/keys/receiver.pub to the sender" in out


@pytest.mark.parametrize(
    ("options", "publish"),
    [
        ([], {"layout": "published", "serve": "127.0.0.1:5000"}),
        (["--layout", "/srv/a b's"], {"layout": "/srv/a b's", "serve": None}),
        (["--serve", "[::1]:80"], {"layout": "published", "serve": "[::1]:80"}),
        (["--registry", "http://[::1]:5000"], {"registry": "http://[::1]:5000"}),
    ],
)
def test_what_init_writes_is_what_was_asked_for(
    tmp_path: Path, cli: Cli, options: list[str], publish: dict[str, str | None]
) -> None:
    assert cli("init", tmp_path, "--listen", "10.0.0.2:4000", *options)[0] == 0
    settings = load_settings(tmp_path / "receiver.yaml", ReceiverSettings)
    assert str(settings.listen.on) == "10.0.0.2:4000"
    if "registry" in publish:
        assert settings.publish.registry is not None
        assert settings.publish.registry.url == publish["registry"]
        return
    assert settings.publish.layout == tmp_path / str(publish["layout"])
    assert (None if settings.publish.serve is None else str(settings.publish.serve.on)) == publish["serve"]


def test_the_defaults_that_init_shows_are_the_defaults(made: Path) -> None:
    path = made / "receiver.yaml"
    plain = load_settings(path, ReceiverSettings)
    text = path.read_text()
    shown = re.sub(r"^  # registry:.*\n(  #   .*\n)+", "", text, flags=re.MULTILINE)  # another target
    shown = re.sub(r"^(\s*)# ((?:  )?[a-z_]+:)", r"\1\2", shown, flags=re.MULTILINE)
    assert shown.count("#") < text.count("#") - 6
    path.write_text(shown)
    assert load_settings(path, ReceiverSettings) == plain
    named = set(re.findall(r"([a-z_]+):", text))
    sections = [
        ReceiverSettings,
        *(type(getattr(plain, name)) for name in ("listen", "border", "limits", "logs", "publish")),
    ]
    assert {field for section in sections for field in section.model_fields} <= named


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--listen", "4000"], "--listen: '4000' is not host:port; give e.g. 10.0.0.1:4000 or [::1]:4000"),
        (
            ["--registry", "registry:5000"],
            "--registry: 'registry:5000' is not the address of a registry; give e.g. https://registry.internal:5000",
        ),
        (
            ["--registry", "http://a", "--layout", "b"],
            "--layout b: does not go with --registry http://a; give a registry or a layout",
        ),
        (["--sender", "none.pub"], "none.pub: no such key file; `checkvalve-sender init` creates it"),
    ],
)
def test_init_refuses_in_one_line_and_writes_nothing(tmp_path: Path, cli: Cli, options: list[str], line: str) -> None:
    code, out, err = cli("init", tmp_path / "new", *options)
    assert (code != 0, out, err) == (True, "", f"error: {line}\n")
    assert not (tmp_path / "new").exists()


def edited(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("listen:\n", "listen:\n  onn: x\n", "{file}:10: listen.onn: unknown key; did you mean on?"),
        (
            'on: "0.0.0.0:4433"',
            "on: 4433",
            "{file}:10: listen.on: 4433 is not host:port; give e.g. 10.0.0.1:4000 or [::1]:4000",
        ),
        (
            'on: "0.0.0.0:4433"',
            'on: "0.0.0.0:65535"\n  lanes: 2',
            "{file}:9: listen: on: 0.0.0.0:65535 leaves no ports for 2 lanes, one each; give port 1 to 65534",
        ),
        (
            "  layout: published",
            "  registry: {url: 'http://a'}\n  layout: published",
            "{file}:16: publish: give one of registry, layout, images and targets",
        ),
        ("  layout: published", "  registry: {url: 'http://a'}", "{file}:16: publish: serve needs layout"),
        (
            "  # prefix: internal",
            "  prefix: In/",
            "{file}:24: publish.prefix: 'In/' is not the beginning of a repository name; give lower-case letters and "
            "digits, joined by single . _ - or /",
        ),
        (
            "  layout: published",
            "  registry: {url: 'registry:5000'}\n  # published",
            "{file}:17: publish.registry.url: 'registry:5000' is not the address of a registry; give e.g. "
            "https://registry.internal:5000",
        ),
        ("state: state", "# state", "{file}:1: state: is missing; add this key"),
        ("  # parallel: 4", "  parallel: 0", "{file}:25: publish.parallel: 0 is too small; give at least 1"),
        ("  - keys/sender.pub", "  []", "{file}:6: senders: [] has too few items; give at least 1"),
    ],
)
def test_a_wrong_setting_is_one_line_with_file_key_and_value(
    made: Path, cli: Cli, old: str, new: str, line: str
) -> None:
    file = made / "receiver.yaml"
    edited(file, old, new)
    for command in ("check", "status", "publish", "run"):
        code, out, err = cli(command, "--config", file)
        assert (code, out, err) == (2, "", f"error: {line.format(file=file)}\n")


def test_a_key_that_others_can_read(made: Path, cli: Cli) -> None:
    key = made / "keys/receiver.pem"
    key.chmod(0o644)
    line = f"error: {key}: mode is 0644, others could read this private key; run chmod 600 {key}\n"
    code, out, err = cli("check", "--config", made / "receiver.yaml")
    assert (code, err) == (1, line)
    assert "ok: trusted senders" in out  # the other trials go on
    code, out, err = cli("run", "--once", "--config", made / "receiver.yaml")
    assert (code, out, err) == (1, "", line)


def test_a_sender_key_that_is_missing_or_private(made: Path, cli: Cli, tmp_path: Path) -> None:
    (made / "keys/sender.pub").unlink()
    code, _, err = cli("publish", "--once", "--config", made / "receiver.yaml")
    assert (code, err) == (
        1,
        f"error: {made}/keys/sender.pub: no such key file; `checkvalve-sender init` creates it\n",
    )
    (made / "keys/sender.pub").write_bytes((tmp_path / "sender.pem").read_bytes())
    code, _, err = cli("publish", "--once", "--config", made / "receiver.yaml")
    assert (code, err) == (
        1,
        f"error: {made}/keys/sender.pub: is a private key; give the public half, sender.pub\n",
    )


def test_check_names_what_does_not_answer(made: Path, cli: Cli) -> None:
    edited(made / "receiver.yaml", "layout: published", "registry: {url: 'http://127.0.0.1:1'}")
    edited(made / "receiver.yaml", '  serve:\n    on: "127.0.0.1:5000"', "  # none")
    edited(made / "receiver.yaml", "0.0.0.0:4433", "192.0.2.1:4433")
    code, _, err = cli("check", "--config", made / "receiver.yaml")
    assert code == 1
    assert err.splitlines() == [
        "error: listen.on: 192.0.2.1:4433: cannot listen there (Cannot assign requested address); "
        "give an address of this machine",
        "error: publish.registry.url: 127.0.0.1:1: cannot connect to 127.0.0.1:1 "
        "(Connect call failed ('127.0.0.1', 1)); check host, port and firewall",
    ]


def test_where_the_settings_are_looked_for(
    made: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CHECKVALVE_RECEIVER_CONFIG", raising=False)
    code, _, err = cli("check")
    assert code == 2
    assert err.startswith("error: no settings file: neither --config nor $CHECKVALVE_RECEIVER_CONFIG is given")
    monkeypatch.setenv("CHECKVALVE_RECEIVER_CONFIG", str(made / "receiver.yaml"))
    assert cli("check")[0] == 0
    monkeypatch.delenv("CHECKVALVE_RECEIVER_CONFIG")
    monkeypatch.chdir(made)
    assert cli("check")[0] == 0
    assert cli("check", "--config", "none.yaml")[2] == (
        "error: none.yaml: no such file; `checkvalve-receiver init` creates it\n"
    )


def test_run_once_starts_both_roles_and_ends_with_one_line(site: Site) -> None:
    image = single_image()
    site.fill(image)
    site.configure("{layout: published}")
    argv = [sys.executable, "-m", "receiver", "run", "--once", "--config", str(site.config)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for expected in ("complete: 1 image, ", "was complete before; nothing to do"):
        process = subprocess.Popen(
            argv, cwd=site.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 2
        while process.poll() is None and time.monotonic() < deadline:
            site.release(release_image("docker.io/library/nginx", ["1.27"], image))  # and a beacon, as if heard
            time.sleep(0.1)
        out, err = process.communicate(timeout=20)
        assert process.returncode == 0, err
        assert out.startswith("release default 1 ")
        assert expected in out
        assert out.count("\n") == 1
    assert site.journal.live()["capture"][0]["state"] == "stopped"
    assert len(Layout.open(site.folder / "published")._index.entries()) == 1


def test_run_once_that_fails_names_the_image(site: Site) -> None:
    good, bad = single_image("good"), single_image("bad")
    layer = next(iter(bad.blobs))
    entry = release_image("quay.io/bad", ["1"], bad)
    short = replace(entry, closure=tuple(item for item in entry.closure if item.digest != layer))
    site.fill(good, bad, without=[layer])
    site.configure("{layout: published}")
    site.release(short, release_image("quay.io/good", ["1"], good))
    hear(site.journal, "default", 1, site.journal.newest_marks()["default"][1], 4e9)
    argv = [sys.executable, "-m", "receiver", "run", "--once", "--config", str(site.config)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.run(argv, cwd=site.folder, env=environment, capture_output=True, text=True, timeout=30)
    assert process.returncode == 1
    assert process.stdout == "release default 1 not complete: 1 of 2 images published\n"
    errors = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith(f"error: quay.io/bad:1: the release does not list {layer[:19]}… (")
    assert "Traceback" not in process.stderr


def test_run_once_says_what_it_waits_for_when_the_sender_has_closed(site: Site) -> None:
    image = single_image()
    layer = next(iter(image.blobs))
    site.fill(image, without=[layer])
    site.configure("{layout: published}")
    site.release(release_image("docker.io/library/nginx", ["1.27"], image), heard=False)
    argv = [sys.executable, "-m", "receiver", "run", "--once", "--config", str(site.config)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(argv, cwd=site.folder, env=environment, stderr=subprocess.PIPE, text=True)
    told, stop = threading.Event(), threading.Event()

    def say() -> None:  # what capture notes of a sender whose last beacons say that all was sent
        journal, closed = ReceiverJournal(site.folder / "state/journal.sqlite"), 0.0
        while not stop.wait(0.02):
            now = time.time()
            closed = closed or (now if journal.live() else 0.0)
            if closed and not told.is_set():
                hear(journal, "default", 1, journal.newest_marks()["default"][1], now)
                journal.set_live("capture", {"state": "receiving", "last_datagram": now, "closed": closed}, now)
        journal.close()

    threads = [threading.Thread(target=say), threading.Timer(30, process.kill)]
    try:
        for thread in threads:
            thread.start()
        assert process.stderr is not None
        lines = (json.loads(line) for line in process.stderr)
        found = next(line for line in lines if line["event"] == "waiting_for_another_pass")
        told.set()
        assert found["release"] == "default 1"
        assert found["missing"].startswith("1 content, ")
        assert found["see"] == "checkvalve-receiver missing"
        assert process.poll() is None
        site.fill(image)
        assert process.wait(20) == 0
    finally:
        stop.set()
        threads[1].cancel()  # type: ignore[attr-defined]
        process.kill()
        process.communicate()
        threads[0].join()


@pytest.mark.parametrize("once", [["--once"], []])
def test_run_on_a_port_that_is_taken_ends_with_one_line(site: Site, cli: Cli, once: list[str]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        site.configure("{layout: published}", listen=f"127.0.0.1:{port}")
        code, out, err = cli("run", *once, "--config", site.config)
    assert (code, out) == (1, "")
    assert err == (
        f"error: listen.on: cannot bind 127.0.0.1:{port}: Address already in use; "
        "another receiver, or not our address?\n"
    )
