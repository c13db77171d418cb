"""The journal: migrations, durability settings, concurrent openers, and files that are no journal."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.database import open_journal, transaction
from runtime.errors import UserError

FIRST = "CREATE TABLE blob (digest TEXT PRIMARY KEY); -- a; b\nINSERT INTO blob VALUES ('sha256;00');"
SECOND = "ALTER TABLE blob ADD COLUMN size INTEGER NOT NULL DEFAULT 0"


def version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def test_settings_of_the_connection(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = open_journal(path, [FIRST])
    pragma = {
        name: journal.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
    }
    assert pragma == {"journal_mode": "wal", "synchronous": 1, "foreign_keys": 1, "busy_timeout": 10_000}
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert stat.S_IMODE(path.with_name("journal.db-wal").stat().st_mode) == 0o640
    journal.close()
    journal = open_journal(path, [FIRST], synchronous="FULL")
    assert journal.execute("PRAGMA synchronous").fetchone()[0] == 2
    journal.close()


def test_migrations_run_once_and_forward(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = open_journal(path, [FIRST])
    assert version(journal) == 1
    journal.close()
    journal = open_journal(path, [FIRST, SECOND])
    assert version(journal) == 2
    assert journal.execute("SELECT digest, size FROM blob").fetchall() == [("sha256;00", 0)]
    journal.close()


def test_a_failing_migration_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    open_journal(path, [FIRST]).close()
    with pytest.raises(UserError, match=r"journal\.db"):
        open_journal(path, [FIRST, "CREATE TABLE half (x); INSERT INTO nowhere VALUES (1);"])
    journal = open_journal(path, [FIRST])
    assert version(journal) == 1
    assert journal.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'half'").fetchone() == (0,)
    journal.close()


def test_a_newer_journal_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    open_journal(path, [FIRST, SECOND]).close()
    with pytest.raises(UserError, match=r"journal\.db: journal version 2 is newer than .*\(1\)"):
        open_journal(path, [FIRST])
    open_journal(path, [FIRST, SECOND]).close()


@pytest.mark.parametrize("content", [b"not a database at all" * 300, b"SQLite format 3\0" + b"\xff" * 5000])
def test_no_database(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"journal\.db: is damaged or no journal .*; restore the backup"):
        open_journal(path, [FIRST], remedy="restore the backup")
    assert path.read_bytes() == content


def test_damage_inside_is_found(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = open_journal(path, [FIRST])
    journal.executemany("INSERT INTO blob VALUES (?)", [(f"sha256:{n:064}",) for n in range(2000)])
    journal.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    journal.close()
    with path.open("r+b") as file:
        file.seek(4096 * 5)
        file.write(b"\xa5" * 4096 * 3)
    with pytest.raises(UserError, match="is damaged"):
        open_journal(path, [FIRST])


def test_places_where_no_journal_can_be(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be"):
        open_journal(tmp_path / "missing" / "journal.db", [FIRST])
    with pytest.raises(UserError, match="cannot be"):
        open_journal(tmp_path, [FIRST])


def test_read_only_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with pytest.raises(UserError, match="start the service once"):
        open_journal(path, [FIRST], read_only=True)
    assert not path.exists()
    writer = open_journal(path, [FIRST])
    reader = open_journal(path, [FIRST], read_only=True)
    with transaction(writer):
        writer.execute("INSERT INTO blob VALUES ('new')")
    assert reader.execute("SELECT count(*) FROM blob").fetchone() == (2,)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("DELETE FROM blob")
    with pytest.raises(UserError, match="version 1 is older than 2"):
        open_journal(path, [FIRST, SECOND], read_only=True)
    reader.close()
    writer.close()


def test_transaction_commits_whole_or_not_at_all(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "journal.db", [FIRST])
    with transaction(journal):
        journal.execute("INSERT INTO blob VALUES ('a')")

    def interrupted() -> None:
        with transaction(journal):
            journal.execute("INSERT INTO blob VALUES ('b')")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not journal.in_transaction
    assert journal.execute("SELECT digest FROM blob ORDER BY 1").fetchall() == [("a",), ("sha256;00",)]
    journal.close()


def test_transaction_takes_the_write_lock_at_once(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    one = open_journal(path, [FIRST])
    two = open_journal(path, [FIRST], busy_timeout_s=0.05)
    with transaction(one):
        with pytest.raises(sqlite3.OperationalError, match="locked"), transaction(two):
            pass
    one.close()
    two.close()


def test_several_processes_may_open_a_new_journal_at_once(tmp_path: Path) -> None:
    program = (
        "import sys; from runtime.database import open_journal\n"
        f"sys.stdin.readline(); open_journal(sys.argv[1], [{FIRST!r}, {SECOND!r}]).close()"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "journal.db")]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(5)
    ]
    results = [process.communicate("\n", timeout=30)[1] for process in processes]
    assert results == [""] * 5
    assert [process.returncode for process in processes] == [0] * 5
    journal = open_journal(tmp_path / "journal.db", [FIRST, SECOND])
    assert journal.execute("SELECT count(*) FROM blob").fetchone() == (1,)
    journal.close()


def test_the_journal_of_the_other_side_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    open_journal(path, [FIRST], owner="sender").close()
    open_journal(path, [FIRST, SECOND], owner="sender").close()
    for read_only in (False, True):
        with pytest.raises(UserError, match="is the journal of the other side; give each side a state folder"):
            open_journal(path, [FIRST, SECOND], owner="receiver", read_only=read_only)
