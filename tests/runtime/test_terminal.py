"""Numbers, tables and progress for people."""

from __future__ import annotations

import io
import json
import os
import pty
import sys
import threading
from pathlib import Path

import pytest

from runtime import terminal


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1_234_567_890, "1.2 GB"),
        (9_994_000, "10 MB"),
        (9_940_000, "9.9 MB"),
        (999_600, "1.0 MB"),
        (123_456_789, "123 MB"),
        (-1500, "-1.5 kB"),
        (5e18, "5000 PB"),
    ],
)
def test_bytes(count: float, text: str) -> None:
    assert terminal.human_bytes(count) == text


def test_rate() -> None:
    assert terminal.human_rate(940_000_000) == "940 Mbit/s"
    assert terminal.human_rate(2.5e9) == "2.5 Gbit/s"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.0123, "12 ms"),
        (0.9996, "1.0 s"),
        (3.44, "3.4 s"),
        (9.97, "10 s"),
        (59.6, "1 min"),
        (125, "2 min 5 s"),
        (4320, "1 h 12 min"),
        (273_600, "3 d 4 h"),
        (-5, "-5.0 s"),
        (float("inf"), "–"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert terminal.human_duration(seconds) == text


def test_a_piped_table_is_whole_and_plain(capsys: pytest.CaptureFixture[str]) -> None:
    long = "docker.io/library/" + "x" * 300
    terminal.table(["image", "bytes"], [[long, 5], ["[red]a[/red]\x1b[2J", None]], title="Sent", right=["bytes"])
    shown = capsys.readouterr().out
    assert long in shown
    assert "[red]a[/red]" in shown
    assert "\x1b" not in shown
    assert shown.splitlines()[0].strip() == "Sent"


def test_numbers_stand_to_the_right() -> None:
    out = io.StringIO()
    terminal.table(["n"], [[1], [1000]], right=["n"], file=out)
    assert "   1\n" in out.getvalue().replace(" \n", "\n")


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_json({"path": Path("/x"), "name": "größe"})
    shown = capsys.readouterr().out
    assert json.loads(shown) == {"path": "/x", "name": "größe"}
    assert "größe" in shown


def test_progress_is_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.Progress() as progress:
        bar = progress.add("fetch", total=10)
        progress.update(bar, completed=5, name="fetching")
        progress.remove(bar)
    assert not progress.shown
    assert capsys.readouterr() == ("", "")


def on_terminal(monkeypatch: pytest.MonkeyPatch, supervised: bool) -> str:
    """What a terminal shows of a progress bar and a line written meanwhile."""
    master, slave = pty.openpty()
    chunks: list[bytes] = []

    def drain() -> None:
        try:
            while chunk := os.read(master, 4096):
                chunks.append(chunk)
        except OSError:  # EIO: the other end is closed
            pass

    reader = threading.Thread(target=drain)
    reader.start()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    if supervised:
        monkeypatch.setenv(terminal.SUPERVISED, "1")
    with open(slave, "w") as screen:
        monkeypatch.setattr(sys, "stderr", screen)
        with terminal.Progress() as progress:
            bar = progress.add("fetch [b]nginx", total=2_000_000)
            progress.update(bar, completed=1_000_000)
            print("a log line", file=sys.stderr)
        monkeypatch.undo()
    reader.join(5)
    os.close(master)
    return b"".join(chunks).decode()


def test_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = on_terminal(monkeypatch, supervised=False)
    assert "fetch [b]nginx" in shown
    assert "1.0 MB of 2.0 MB" in shown
    assert "a log line" in shown


def test_progress_in_a_supervised_role_leaves_the_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert on_terminal(monkeypatch, supervised=True).strip() == "a log line"


def test_printable() -> None:
    assert terminal.printable("a\x1b[0m\n") == "a\\x1b[0m\\n"
    assert terminal.printable("größe") == "größe"
