"""Log lines: their shape for people, programs and journald, and what never appears in them."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from runtime import logs


@pytest.fixture(autouse=True)
def restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def test_json_is_one_object_a_line() -> None:
    out = io.StringIO()
    logs.configure("json", stream=out)
    structlog.get_logger().info("blob fetched", digest="sha256:00", size=5, path=Path("/x"))
    event = json.loads(out.getvalue())
    assert event.pop("timestamp").endswith("Z")
    assert event == {"event": "blob fetched", "level": "info", "digest": "sha256:00", "size": 5, "path": "/x"}


def test_auto_is_json_where_nobody_watches() -> None:
    out = io.StringIO()
    logs.configure(stream=out)
    structlog.get_logger().warning("x")
    assert json.loads(out.getvalue())["level"] == "warning"


def test_auto_is_console_on_a_terminal() -> None:
    master, slave = os.openpty()
    with open(slave, "w") as terminal:
        logs.configure(stream=terminal)
        structlog.get_logger().info("blob fetched", digest="sha256:00")
        shown = os.read(master, 4096).decode()
    os.close(master)
    assert "blob fetched" in shown
    assert "sha256:00" in shown
    assert "{" not in shown


def test_level() -> None:
    out = io.StringIO()
    logs.configure("json", "warning", stream=out)
    structlog.get_logger().info("quiet")
    structlog.get_logger().error("loud")
    assert [json.loads(line)["event"] for line in out.getvalue().splitlines()] == ["loud"]


def test_journald_gets_priorities_and_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "journal").open("w+") as out:
        status = os.fstat(out.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        logs.configure("json", stream=out)
        structlog.get_logger().info("a")
        structlog.get_logger().error("b")
        logs.configure(stream=out)
        try:
            raise ValueError("boom")
        except ValueError:
            structlog.get_logger().exception("c")
        out.seek(0)
        lines = out.read().splitlines()
    assert lines[0].startswith("<6>{")
    assert lines[1].startswith("<3>{")
    assert "timestamp" not in lines[0]
    assert len(lines) > 3
    assert "] c" in lines[2]  # for people to read
    assert all(line.startswith("<3>") for line in lines[1:])
    assert "ValueError: boom" in lines[-1]


def test_journal_stream_of_somebody_else_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    with (tmp_path / "file").open("w") as out:
        assert not logs.to_journal(out)


@pytest.mark.parametrize("format", ["json", "console"])
def test_secrets_are_dropped(format: logs.Format) -> None:
    out = io.StringIO()
    logs.configure(format, stream=out)
    structlog.get_logger().info(
        "login",
        password="hunter2",
        session_key="hunter2",
        headers={"Authorization": "hunter2", "Accept": "x", "inner": [{"apiToken": "hunter2"}]},
        key_id="shown",
        public_key="shown2",
    )
    assert "hunter2" not in out.getvalue()
    assert "shown" in out.getvalue()
    assert "shown2" in out.getvalue()
    assert "Accept" in out.getvalue()


@pytest.mark.parametrize(
    "name", ["key", "Token", "private_key", "X-Auth-Token", "client_secret", "proxyAuthorization"]
)
def test_names_of_secrets(name: str) -> None:
    assert logs.looks_secret(name)


@pytest.mark.parametrize("name", ["key_id", "monkey", "tokens_left", "public_key", "secretary", "fingerprint"])
def test_harmless_names(name: str) -> None:
    assert not logs.looks_secret(name)


@pytest.mark.parametrize("format", ["json", "console"])
def test_tracebacks_show_no_local_variables(format: logs.Format) -> None:
    out = io.StringIO()
    logs.configure(format, stream=out)
    try:
        secret_local = "hunter" + str(2)
        raise ValueError("boom")
    except ValueError:
        structlog.get_logger().exception("failed")
    assert "boom" in out.getvalue()
    assert secret_local not in out.getvalue()


def test_control_characters_do_not_reach_the_terminal() -> None:
    out = io.StringIO()
    logs.configure("console", stream=out)
    structlog.get_logger().info("image seen", name="nginx\x1b[2J\nfake line")
    assert "\x1b" not in out.getvalue()
    assert len(out.getvalue().splitlines()) == 1


def test_warnings_of_libraries_take_the_same_shape() -> None:
    out = io.StringIO()
    logs.configure("json", stream=out)
    logging.getLogger("aiohttp.client").warning("unclosed %s", "session")
    logging.getLogger("aiohttp.client").info("chatter")
    (line,) = out.getvalue().splitlines()
    assert json.loads(line)["event"] == "unclosed session"
    assert json.loads(line)["source"] == "aiohttp.client"


def test_stderr_is_looked_up_at_each_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logs.configure("json")
    replaced = io.StringIO()
    monkeypatch.setattr("sys.stderr", replaced)
    structlog.get_logger().info("above the bars")
    assert "above the bars" in replaced.getvalue()
    assert capsys.readouterr().out == ""
