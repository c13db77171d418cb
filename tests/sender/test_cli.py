"""The command line as a person meets it: help, init, pin, check, status, and mistakes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import stat
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from oci.archive import open_archive
from oci.layout import Layout
from protocol.objects import Kind
from runtime import keys
from runtime.terminal import human_bytes
from sender import cli
from sender.intent import load_images
from sender.journal import ReleaseRow
from sender.releases import Signer
from sender.supervise import summary
from tests.oci_layout.images import (
    as_json,
    layout_files,
    legacy_files,
    multi_image,
    single_image,
    tar_of,
    write_files,
)
from tests.sender.conftest import Site, Upstream

COMMANDS = ("init", "pin", "check", "run", "fetch", "transmit", "resend", "repair", "status", "archive", "import")


def call(*arguments: object) -> tuple[int, str, str]:
    """Run the entry point in this process; exit code, stdout, stderr."""
    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["checkvalve-sender", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code: Any = cli.main()
            except SystemExit as end:
                code = end.code
    finally:
        sys.argv = before
    return int(code or 0), out.getvalue(), err.getvalue()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str) -> None:
    code, out, err = call(command, "--help")
    assert (code, err) == (0, "")
    assert f"checkvalve-sender {command}" in out.partition("Example")[2]


def test_help_lists_every_command() -> None:
    code, out, _ = call("--help")
    assert code == 0
    assert all(f"  {command} " in out for command in COMMANDS)


def test_unknown_options_are_one_usage_error() -> None:
    code, _, err = call("status", "--jsn")
    assert code == 2
    assert "No such option: --jsn" in err
    assert "Traceback" not in err


def test_init_twice_overwrites_nothing(tmp_path: Path) -> None:
    receiver = tmp_path / "receiver.pem"
    keys.create_hpke_key(receiver)
    folder = tmp_path / "etc"
    code, out, err = call(
        "init", folder, "--to", "10.0.0.1:4000", "--rate", "800Mbit", "-r", keys.public_path(receiver)
    )
    assert (code, err) == (0, "")
    made = ["keys/receiver.pub", "keys/sender.pem", "keys/sender.pub", "sender.yaml", "images.yaml"]
    assert [line for line in out.splitlines() if line.startswith("created")] == [
        f"created {folder}/{p}" for p in made
    ]
    assert stat.S_IMODE((folder / "keys" / "sender.pem").stat().st_mode) == 0o600
    fingerprint = keys.fingerprint(keys.load_signing_public(folder / "keys" / "sender.pub"))
    assert f"signing key {fingerprint}" in out
    assert "copy the receiver's public key" not in out
    before = {path: (folder / path).read_bytes() for path in made}

    code, out, err = call("init", folder, "--to", "10.9.9.9:1", "--rate", "1Mbit")
    assert (code, err) == (0, "")
    assert {path: (folder / path).read_bytes() for path in made} == before
    assert [line for line in out.splitlines() if line.startswith("kept")] == [
        f"kept    {folder}/{path} (exists already)" for path in ("keys/sender.pem", "sender.yaml", "images.yaml")
    ]
    assert f"signing key {fingerprint}" in out
    assert call("check", "--config", folder / "sender.yaml")[0] == 0


def test_init_says_what_is_missing_and_refuses_bad_options(tmp_path: Path) -> None:
    code, out, _ = call("init", tmp_path / "a")
    assert code == 0
    assert f"1. copy the receiver's public key to {tmp_path}/a/keys/receiver.pub" in out
    assert f"2. set link.to and link.rate in {tmp_path}/a/sender.yaml" in out
    signing = tmp_path / "a" / "keys" / "sender.pub"
    for arguments, line, code in (
        (("--to", "nowhere"), "--to: 'nowhere' is not host:port; give e.g. 10.0.0.1:4000 or [::1]:4000", 2),
        (("--rate", "10G"), "--rate: '10G' is not a rate; give e.g. 1Gbit or 800Mbit", 2),
        (("-r", "gone.pub"), "gone.pub: no such key file; `checkvalve-receiver init` creates it", 1),
        (
            ("-r", signing),
            f"{signing}: holds a key of another kind (Ed25519PublicKey); an X25519 public key is needed here",
            1,
        ),
    ):
        assert call("init", tmp_path / "b", *arguments) == (code, "", f"error: {line}\n")
    assert not (tmp_path / "b").exists()


def test_two_receivers_with_one_file_name(tmp_path: Path) -> None:
    for name in ("x", "y"):
        keys.create_hpke_key(tmp_path / name / "receiver.pem")
    publics = [tmp_path / name / "receiver.pub" for name in ("x", "y")]
    assert call("init", tmp_path / "s", "-r", publics[0], "-r", publics[1])[0] == 0
    text = (tmp_path / "s" / "sender.yaml").read_text()
    assert "  - keys/receiver.pub\n  - keys/receiver-2.pub\n" in text


def test_without_settings_it_says_where_they_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(cli.PROGRAM.variable, raising=False)
    if Path("/etc/checkvalve/sender.yaml").exists():
        pytest.skip("this machine has a sender of its own")
    assert call("status") == (
        2,
        "",
        "error: no settings file: neither --config nor $CHECKVALVE_SENDER_CONFIG is given, and there is no "
        "sender.yaml or /etc/checkvalve/sender.yaml; `checkvalve-sender init` creates one\n",
    )
    monkeypatch.setenv(cli.PROGRAM.variable, "gone.yaml")
    assert call("status") == (2, "", "error: gone.yaml: no such file; `checkvalve-sender init` creates it\n")


def test_status_before_and_after(site: Site) -> None:
    site.write()
    code, out, _ = call("status", "--config", site.config)
    assert code == 0
    assert out == f"never run yet: no journal at {site.folder}/state/journal.sqlite; start `checkvalve-sender run`\n"
    assert json.loads(call("status", "--config", site.config, "--json")[1])["state"] == "never run"
    assert not (site.folder / "state").exists()

    image = multi_image()
    write_files(site.folder / "lay", layout_files(image))
    good = f"example.org/app:1@{image.root.descriptor.digest}"
    bad = f"example.org/gone:1@sha256:{'0' * 64}"
    site.list({"image": good, "from": "oci:lay"}, {"image": bad, "from": "oci:lay"})
    code, out, err = call("fetch", "--once", "--config", site.config)
    assert (code, out) == (1, "1 ready, 1 failed; queued 1 object\n")
    reason = f"oci:{site.folder}/lay: no manifest sha256:{'0' * 64}"
    assert err == f"error: example.org/gone:1@sha256:000000000000…: {reason}\n"

    code, out, _ = call("status", "--config", site.config)
    assert code == 1
    assert f"failed: example.org/gone:1: {reason}\n" in out
    assert "queued      1 object, " in out
    assert "on the wire nothing; transmit has not run yet\n" in out
    assert "no release yet\n" in out
    assert "epoch       none yet\n" in out
    journal = site.journal()
    (entry,) = journal.queue()
    journal.next_epoch()
    journal.note_pass(entry.id, 1.0)
    journal.note_pass(entry.id, 2.0)
    journal.save_release(ReleaseRow("default", 1, "sha256:" + "a" * 64, "[]", b"", 1.0))
    live = {"object": {"label": "app", "bytes": 5_000_000}, "pass": 2, "rate_bits": 9e8, "datagrams": 77}
    journal.set_live("transmit", {"state": "sending", **live}, 4e9)
    journal.close()
    site.list({"image": good, "from": "oci:lay"})
    assert call("fetch", "--once", "--config", site.config)[0] == 0

    code, out, _ = call("status", "--config", site.config)
    assert code == 0
    assert "default          1   sha256:aaaaaaaaaaaa…   1970-01-01T00:00:01+00:00" in out
    assert "on the wire app (5.0 MB, pass 2), 900 Mbit/s, 77 datagrams this session\n" in out
    assert "queued      0 objects, 0 B\nsent        1 object, " in out.replace(
        "on the wire app (5.0 MB, pass 2), 900 Mbit/s, 77 datagrams this session\n", ""
    )
    found = json.loads(call("status", "--config", site.config, "--json")[1])
    assert [(row["reference"], row["state"]) for row in found["images"]] == [(good, "ready")]
    assert (found["epoch"], found["releases"][0]["sequence"], found["sent_objects"]) == (1, 1, 1)


async def test_pin_a_registry_image(site: Site, upstream: Upstream) -> None:
    layout, host = await upstream()
    image = single_image()
    await image.push(layout.repository("app"), "1")
    site.registries[host] = {"plain_http": True}
    site.write()
    digest = image.root.descriptor.digest
    assert await site.run("pin", f"{host}/app:1") == (0, f"  - {host}/app:1@{digest}\n", "")
    code, out, err = await site.run("pin", f"{host}/app:2", f"{host}/app", "Bad:1", f"{host}/app@{digest}")
    assert (code, out) == (1, f"  - {host}/app@{digest}\n")
    assert err.splitlines() == [
        f"error: {host}/app:2: {host}/app: manifest 2: not found (404); check repository, tag and digest",
        f"error: {host}/app: neither tag nor digest; give e.g. {host}/app:1.27",
        "error: Bad:1: reference 'Bad:1': repository component 'Bad': expected lower-case letters and digits, "
        "joined by single '.', '_', '__' or '-'",
    ]


async def test_pin_says_which_setting_lets_it_ask_over_plain_http(site: Site, upstream: Upstream) -> None:
    _, host = await upstream()
    site.write()
    code, out, err = await site.run("pin", f"{host}/app:1")
    assert (code, out) == (1, "")
    assert err.endswith(f'; sender.yaml: fetch.registries: {{"{host}": {{plain_http: true}}}}\n')


async def test_pin_every_image_of_a_layout_or_tarball(site: Site, tmp_path: Path) -> None:
    one, two = single_image("one"), single_image("two")
    layout = Layout(tmp_path / "Re dis")
    await one.push(layout, "latest")
    await two.push(layout.repository("docker.io/library/redis"), "7")
    exported = as_json(one.root.descriptor, annotations={"io.containerd.image.name": "ghcr.io/x/y:3"})
    (tmp_path / "app.tar").write_bytes(tar_of(layout_files(one, exported, as_json(two.root.descriptor))))
    (tmp_path / "old.tar").write_bytes(tar_of(*legacy_files()[:2]))
    with open_archive(tmp_path / "old.tar") as source:
        legacy = (await source.resolve("example.org/app:1.0")).digest
    site.write()
    sources = [f"oci:{tmp_path}/Re dis", f"archive:{tmp_path}/app.tar", f"archive:{tmp_path}/old.tar"]
    code, out, err = await site.run("pin", *sources)
    assert (code, err) == (0, "")
    a, b = one.root.descriptor.digest, two.root.descriptor.digest
    expected = [
        (f"localhost/re-dis:latest@{a}", sources[0]),
        (f"docker.io/library/redis:7@{b}", sources[0]),
        (f"ghcr.io/x/y:3@{a}", sources[1]),
        (f"localhost/app@{b}", sources[1]),
        (f"example.org/app:1.0@{legacy}", sources[2]),
    ]
    assert out == "".join(f"  - image: {reference}\n    from: {source}\n" for reference, source in expected)
    # what is printed can be pasted as it is
    path = tmp_path / "images.yaml"
    path.write_text(f"images:\n{out}")
    found = load_images(path)
    assert [(str(image.reference), str(image.origin)) for image in found.images] == expected
    code, _, err = await site.run("pin", "oci:gone")
    assert code == 1
    assert err.startswith("error: 'oci:gone': no such folder: ")


def test_check_names_every_fault_and_writes_nothing(site: Site) -> None:
    image = multi_image()
    write_files(site.folder / "lay", layout_files(image))
    good = {"image": f"example.org/app:1@{image.root.descriptor.digest}", "from": "oci:lay"}
    site.write(good, "nginx:1")
    (site.folder / "keys" / "sender.pem").chmod(0o644)
    (site.folder / "keys" / "receiver.pub").unlink()
    code, out, err = call("check", "--config", site.config)
    assert code == 1
    assert f"example.org/app:1@{image.root.descriptor.digest[:19]}…" in out
    private = site.folder / "keys" / "sender.pem"
    assert err.splitlines() == [
        f"error: {private}: mode is 0644, others could read this private key; run chmod 600 {private}",
        f"error: {site.folder}/keys/receiver.pub: no such key file; `checkvalve-receiver init` creates it",
        f"error: {site.images}:3: images[1]: 'nginx:1' has no digest; `checkvalve-sender pin nginx:1` prints the "
        "line with its digest; tags: lets images.lock hold it",
    ]
    assert sorted(os.listdir(site.folder)) == ["images.yaml", "keys", "lay", "sender.yaml"]


def test_check_says_what_would_be_fetched(site: Site) -> None:
    image = single_image()
    write_files(site.folder / "lay", layout_files(image))
    site.write({"image": f"example.org/app:1@{image.root.descriptor.digest}", "from": "oci:lay"})
    size = sum(map(len, image.all_files().values()))
    for fetched in (False, True):
        code, out, err = call("check", "--json", "--config", site.config)
        assert (code, err) == (0, "")
        (row,) = json.loads(out)["images"]
        assert (row["parts"], row["bytes"], row["bytes_to_fetch"]) == (4, size, 0 if fetched else size)
        assert call("fetch", "--once", "--config", site.config)[0] == 0
    assert "nothing" in call("check", "--config", site.config)[1]
    code, out, _ = call("check", "--offline", "--config", site.config)
    assert (code, out) == (0, "1 image listed\n")


def test_the_last_line_of_run_once(site: Site) -> None:
    site.write()
    journal = site.journal()
    assert summary(journal, 10.0, 12.0) == "nothing sent: there is no release yet"
    digest = "sha256:" + "a" * 64
    journal.save_release(ReleaseRow("default", 1, digest, "[]", b"", 9.0))
    named = "release default 1 (sha256:aaaaaaaaaaaa…)"
    assert summary(journal, 10.0, 12.0, before={digest}) == f"nothing new: {named} was sent before"
    assert summary(journal, 10.0, 12.0) == f"sent {named}; all its content was sent before"
    again = summary(journal, 10.0, 12.0, before={digest}, asked=17_000_000)
    assert again == f"sent 17 MB again, as repair codes asked; {named}"
    for kind, size in ((Kind.BLOB, 41_200_000), (Kind.RELEASE, 900)):
        number = journal.queue_object(
            kind=int(kind),
            coding=0,
            digest=f"sha256:{size:064}",
            content_size=size,
            coded_digest=f"sha256:{size:064}",
            coded_size=size,
            path=site.folder,
            label="x",
            passes=2,
            contents=[],
            now=8.5,
        )
        journal.note_pass(number, 11.0)
    assert journal.bytes_to_send() == 41_200_000
    assert (journal.totals()["sent_objects"], journal.totals()["sent_bytes"]) == (1, 41_200_000)
    assert summary(journal, 10.0, 11.9) == f"sent 1 object, 41 MB in 1.9 s; {named}"
    journal.close()


def test_status_raises_the_alarm_when_nobody_sends(site: Site) -> None:
    site.write()
    image = multi_image()
    write_files(site.folder / "lay", layout_files(image))
    site.list({"image": f"example.org/app:1@{image.root.descriptor.digest}", "from": "oci:lay"})
    assert call("fetch", "--once", "--config", site.config)[0] == 0
    code, out, _ = call("status", "--config", site.config)
    assert code == 1
    assert out.startswith("ALARM: 1 object queued and nobody sends; start `checkvalve-sender run`\n")
    journal = site.journal()
    journal.set_live("transmit", {"state": "sending"}, time.time() - 60)
    code, out, _ = call("status", "--config", site.config)
    assert (code, out.splitlines()[0]) == (1, "ALARM: transmit stopped answering 1 min ago; its log says why")
    journal.set_live("transmit", {"state": "link down"}, time.time())
    assert call("status", "--config", site.config)[1].startswith("ALARM: the link is down; what is queued waits\n")
    journal.set_live("transmit", {"state": "sending"}, time.time())
    journal.close()
    assert call("status", "--config", site.config)[0] == 0


def test_resend_queues_what_the_newest_release_needs(site: Site) -> None:
    site.write()
    code, out, err = call("resend", "--config", site.config)
    assert (code, out) == (1, "")
    assert err == f"error: {site.folder}/state/journal.sqlite: no journal here yet; start the service once\n"
    wanted = multi_image()
    write_files(site.folder / "lay", layout_files(wanted))
    site.list({"image": f"example.org/app:1@{wanted.root.descriptor.digest}", "from": "oci:lay"})
    assert call("fetch", "--once", "--config", site.config)[0] == 0
    journal = site.journal()
    Signer(journal, Ed25519PrivateKey.generate()).sign_approved()
    sent = journal.queue()
    for entry in sent:
        for _ in range(entry.passes_left):
            journal.note_pass(entry.id, 1.0)
    assert journal.queue() == []
    code, out, _ = call("resend", "--config", site.config)
    size = sum(entry.coded_size for entry in sent)
    assert (code, out) == (0, f"queued: {len(sent)} objects, {human_bytes(size)}, of 1 releases\n")
    assert [(entry.id, entry.passes_left) for entry in journal.queue()] == [(entry.id, 1) for entry in sent]
    assert json.loads(call("resend", "--json", "--config", site.config)[1])["objects"] == len(sent)
    journal.close()
