"""``audit verify``, ``show`` and ``head``, as an auditor uses them: a note on paper, and what it proves later."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from receiver.audit import Audit
from tests.receiver.site import Cli, Site


@pytest.fixture
def log(site: Site) -> Audit:
    site.configure("{layout: published}")
    made = Audit(site.folder / "state/audit.jsonl", "publish")
    for number in range(4):
        made.append("held", object=f"quay.io/app@sha256:{number}", reason="un\x1b[31msigned")
    return made


def test_a_note_on_paper_proves_all_before_it(site: Site, cli: Cli, log: Audit) -> None:
    config = ("--config", site.config)
    code, out, _ = cli("audit", "head", *config)
    number, note = out.splitlines()
    assert (code, number) == (0, "record 4")
    assert note.replace(" ", "") == log.head().hash
    log.append("released", object="quay.io/app@sha256:0", actor="alice", reason="looked at")
    assert cli("audit", "verify", "--head", note, *config)[:2] == (
        0,
        f"{log.path}: the chain of 5 records is whole; record 4 is the one that was noted\n",
    )
    whole = log.path.read_bytes()
    log.path.write_bytes(b"".join(whole.splitlines(keepends=True)[:3]))  # the end is cut off
    assert cli("audit", "verify", *config)[0] == 0  # which nobody can tell without the note
    code, _, err = cli("audit", "verify", "--head", note, *config)
    assert code == 1
    assert "lines that were there when it was noted are gone, or were changed" in err
    log.path.write_bytes(whole.replace(b"sha256:1", b"sha256:9"))
    code, out, _ = cli("audit", "verify", "--json", *config)
    document = json.loads(out)
    assert (code, document["ok"], document["line"]) == (1, False, 2)
    assert document["error"].startswith("line 2: was changed: line 3 carries the hash")


def test_show_is_a_table_without_control_characters_or_json(site: Site, cli: Cli, log: Audit) -> None:
    config = ("--config", site.config)
    code, out, _ = cli("audit", "show", "--last", "2", *config)
    assert code == 0
    assert "\x1b" not in out
    assert [line.split()[0] for line in out.splitlines() if "quay.io" in line] == ["3", "4"]
    code, out, _ = cli("audit", "show", "--json", *config)
    records = json.loads(out)["records"]
    assert [one["seq"] for one in records] == [1, 2, 3, 4]
    assert records[-1]["hash"] == log.head().hash
    with log.path.open("ab") as file:
        file.write(b"{}\n")
    code, out, err = cli("audit", "show", *config)
    assert code == 1
    assert out.count("quay.io") == 4  # what is whole is shown
    assert "line 5: is no record" in err
    assert cli("audit", "head", *config)[0] == 1


def test_before_anything_was_decided(site: Site, cli: Cli) -> None:
    site.configure("{layout: published}")
    config = ("--config", site.config)
    code, _, err = cli("audit", "verify", *config)
    assert code == 1
    assert "no audit log here yet" in err
    assert cli("audit", "head", "--json", *config)[:2] == (0, '{\n  "record": 0,\n  "hash": "' + "0" * 64 + '"\n}\n')


def test_every_command_has_help_with_an_example(cli: Cli) -> None:
    for command in (["held"], ["release"], ["reject"], ["audit", "verify"], ["audit", "show"], ["audit", "head"]):
        code, out, _ = cli(*command, "--help")
        assert code == 0
        assert f"checkvalve-receiver {' '.join(command)}" in out


def test_check_looks_at_the_border_too(site: Site, cli: Cli) -> None:
    path: Path = site.config
    site.configure("{layout: published}", more="border: {verify: {hook: {run: ./scan.sh}}, hold: all}\n")
    code, _, err = cli("check", "--config", path)
    assert code == 1
    assert "verify.hook.run" in err
    (site.folder / "scan.sh").write_text("#!/bin/sh\n")
    (site.folder / "scan.sh").chmod(0o755)
    code, out, _ = cli("check", "--config", path)
    assert code == 0
    assert "ok: border: 0 rules, 0 cosign keys, hold: all" in out
