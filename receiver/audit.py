"""The audit log: who decided what about releases and images, as a chain of lines that cannot be changed unseen.

JSON Lines. Each line has the SHA-256 of the line before it, so whoever knows the hash of the newest line (``audit
head``, noted on paper) can tell whether anything up to it was changed, taken out or put in. Without such a note the
end can be cut off, and the whole log written anew: the chain has no secret. One line is one write to a file opened
for appending, under an exclusive lock, synced before ``append`` returns. Knows nothing of what the actions mean.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import pwd
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

from runtime.durable import sync_folder, write_durably
from runtime.errors import UserError

AUDIT_NAME: Final = "audit.jsonl"  # in the state folder
FILE_MODE: Final = 0o640
LINE_BYTES_MAX: Final = 64 * 1024  # longer texts are cut, so that a line is one write and one read
TEXT_CHARS_MAX: Final = 4096
NO_LINE: Final = "0" * 64  # what the first line has in the place of a hash
TORN: Final = "torn_line"
_KEYS: Final = ("seq", "time", "actor", "action", "object", "reason", "facts", "previous")
_HASH_CHARS_MIN: Final = 12  # of a hash noted on paper


class Broken(Exception):
    """The log is not as it was written; ``str()`` is a line for people, *line* (from 1) is the first bad one."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True, slots=True)
class Record:
    """One line. *object* is what it is about; *facts* are JSON; *hash* is the SHA-256 (hex) of the line's bytes."""

    seq: int  # from 1
    time: str  # RFC 3339, UTC, by this host's clock: for people
    actor: str
    action: str
    object: str
    reason: str
    facts: dict[str, Any]
    previous: str
    hash: str

    def document(self) -> dict[str, Any]:
        """Return the record ready for JSON, its hash included."""
        return {key: getattr(self, key) for key in (*_KEYS, "hash")}


@dataclass(frozen=True, slots=True)
class Head:
    """The newest line: its number (0: there is none), its hash, and the bytes after it that are no whole line."""

    seq: int = 0
    hash: str = NO_LINE
    torn: int = 0


def person() -> str:
    """Return who runs this command, as the system knows: ``alice``, or ``alice as root`` where sudo says so."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = f"uid {os.getuid()}"
    by = os.environ.get("SUDO_USER", "")
    return f"{by} as {name}" if by and by != name else name


class Audit:
    """Appends to and reads the log at *path*; *actor* is who acts where ``append`` is told of nobody else.

    Any number of processes and threads may append at once, each with an ``Audit`` of its own or with one.
    """

    def __init__(self, path: Path, actor: str = "") -> None:
        self.path = path
        self._actor = actor

    def append(
        self, action: str, *, object: str = "", reason: str = "", actor: str | None = None, **facts: Any
    ) -> Record:
        """Write one record and return it; it is on disk then. *facts* are values for JSON.

        OSError if the disk fails: then nothing was written, and the call may be repeated. A last line that a crash
        left unfinished is moved to a file beside the log first, and a record says so. Broken if the last whole line
        is none of ours.
        """
        handle = self._locked()
        try:
            head = self._keep_torn_aside(handle, _head(handle))
            aside = self._aside(head.seq + 1)
            if aside.exists():
                kept = aside.read_bytes()
                torn = {"kept": aside.name, "bytes": len(kept), "sha256": hashlib.sha256(kept).hexdigest()}
                why = "a crash left the last line unfinished"
                record = _write(handle, _line(head, self._actor, TORN, "", why, torn))
                head = Head(record.seq, record.hash)
            who = self._actor if actor is None else actor
            return _write(handle, _line(head, who, action, object, reason, facts))
        finally:
            os.close(handle)  # which frees the lock

    def records(self) -> Iterator[Record]:
        """Yield every record, checked, oldest first; Broken at the first line that is wrong, UserError if no file.

        An unfinished last line is passed over: a crash leaves one, and the next record will say so.
        """
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            raise UserError(f"{self.path}: no audit log here yet; the first decision starts it") from None
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read: {error.strerror}") from None
        with file:
            yield from _checked(file)

    def verify(self, head: str | None = None) -> tuple[int, Record | None]:
        """Recompute the chain; return how many records there are, and the one whose hash begins with *head*.

        Broken at the first bad line, or if no line has the hash *head* (hex, at least 12 characters): then what was
        noted is gone. UserError if *head* is no hash.
        """
        wanted = None if head is None else "".join(head.split()).lower()
        if wanted is not None and not (
            _HASH_CHARS_MIN <= len(wanted) <= len(NO_LINE) and set(wanted) <= set("0123456789abcdef")
        ):
            raise UserError(f"--head {head}: is no hash of a line; give what `audit head` printed, 64 hex digits")
        count, found = 0, None
        for record in self.records():
            count = record.seq
            if wanted is not None and record.hash.startswith(wanted):
                found = record
        if wanted is not None and found is None:
            raise Broken(
                count + 1,
                f"no line has the hash {wanted}: lines that were there when it was noted are gone, or were changed",
            )
        return count, found

    def head(self) -> Head:
        """Return the newest line, without checking the others; of an empty or absent log, none. Broken, UserError."""
        try:
            handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return Head()
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read: {error.strerror}") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_SH)  # no writer is in the middle of a line
            return _head(handle)
        finally:
            os.close(handle)

    def _locked(self) -> int:
        """Return the open log, locked; not one that was moved away while we waited for the lock."""
        while True:
            handle = self._open()
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                if self._is_at_path(handle):
                    return handle
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)

    def _is_at_path(self, handle: int) -> bool:
        try:
            return os.path.samestat(os.fstat(handle), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
        with contextlib.suppress(FileNotFoundError):
            return os.open(self.path, flags)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, flags | os.O_CREAT, FILE_MODE)
        try:
            if os.geteuid() == 0:  # a person as root was first: the roles have to be able to append too
                owner = os.stat(self.path.parent)
                os.fchown(handle, owner.st_uid, owner.st_gid)
            sync_folder(self.path.parent)
        except BaseException:
            os.close(handle)
            raise
        return handle

    def _aside(self, seq: int) -> Path:
        """Where what was found in the place of line *seq* is kept."""
        return self.path.with_name(f"{self.path.stem}-torn-{seq}")

    def _keep_torn_aside(self, handle: int, head: Head) -> Head:
        """Move an unfinished last line to a file; killed in between, the next call does it again or goes on."""
        if head.torn:
            size, aside = os.fstat(handle).st_size, self._aside(head.seq + 1)
            torn = os.pread(handle, head.torn, size - head.torn)
            earlier = aside.read_bytes() if aside.exists() else b""
            if not earlier.endswith(torn):  # else it is this one, moved before we were killed
                write_durably(aside, earlier + torn, mode=FILE_MODE)
            os.ftruncate(handle, size - head.torn)
            os.fsync(handle)
        return Head(head.seq, head.hash)


def _line(head: Head, actor: str, action: str, object: str, reason: str, facts: dict[str, Any]) -> bytes:
    """Return the line that follows *head*, without its end."""
    values = {
        "seq": head.seq + 1,
        "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "actor": actor[:TEXT_CHARS_MAX],
        "action": action,
        "object": object[:TEXT_CHARS_MAX],
        "reason": reason[:TEXT_CHARS_MAX],
        "facts": facts,
        "previous": head.hash,
    }
    line = _encode(values)
    if len(line) > LINE_BYTES_MAX:
        line = _encode(values | {"facts": {"left_out": f"{len(line):,} bytes"}})
    return line


def _encode(values: dict[str, Any]) -> bytes:
    return json.dumps(values, ensure_ascii=True, separators=(",", ":"), default=str).encode()


def _write(handle: int, line: bytes) -> Record:
    """Append the line and sync it; what a failure leaves of it is taken back."""
    before, data = os.fstat(handle).st_size, line + b"\n"
    try:
        while data:
            data = data[os.write(handle, data) :]  # a short write's successor says by its error why
        os.fsync(handle)
    except OSError:
        with contextlib.suppress(OSError):  # if this fails too, the next append finds a torn line
            os.ftruncate(handle, before)
        raise
    return _parse(line)


def _head(handle: int) -> Head:
    """Return the newest whole line and how many bytes follow it; the file is locked."""
    size = os.fstat(handle).st_size
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        raise UserError("the audit log is no regular file; move it away")
    start = max(0, size - 2 * LINE_BYTES_MAX - 2)
    tail = os.pread(handle, size - start, start)
    end = tail.rfind(b"\n")
    torn = len(tail) - end - 1
    if end < 0:
        if start or torn > LINE_BYTES_MAX:
            raise Broken(0, f"the last line has more than {LINE_BYTES_MAX:,} bytes; none of ours has")
        return Head(torn=torn)
    line = tail[tail.rfind(b"\n", 0, end) + 1 : end]
    try:
        record = _parse(line)
    except ValueError as error:
        raise Broken(
            0, f"the last line is none of ours ({error}); `audit verify` names the first such line"
        ) from None
    return Head(record.seq, record.hash, torn)


def _checked(file: BinaryIO) -> Iterator[Record]:
    before, number = Head(), 0
    while line := file.readline(LINE_BYTES_MAX + 2):
        if not line.endswith(b"\n"):
            if len(line) <= LINE_BYTES_MAX:
                return
            raise Broken(number + 1, f"line {number + 1}: longer than {LINE_BYTES_MAX:,} bytes")
        number += 1
        try:
            record = _parse(line[:-1])
        except ValueError as error:
            raise Broken(number, f"line {number}: is no record ({error})") from None
        if record.seq != number:
            raise Broken(number, f"line {number}: has the number {record.seq}; lines are missing, or were put in")
        if record.previous != before.hash:
            if number == 1:
                raise Broken(1, "line 1: follows another line; lines before it are missing")
            raise Broken(
                number - 1,
                f"line {number - 1}: was changed: line {number} carries the hash {record.previous[:12]}… of it, "
                f"and it has {before.hash[:12]}…",
            )
        before = Head(record.seq, record.hash)
        yield record


def _parse(line: bytes) -> Record:
    """Return the record of a line without its end; ValueError says what is wrong."""
    try:
        values = json.loads(line.decode())
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise ValueError("not JSON") from None
    if not isinstance(values, dict) or tuple(values) != _KEYS:
        raise ValueError(f"expected the keys {', '.join(_KEYS)}")
    kinds = dict.fromkeys(_KEYS, str) | {"seq": int, "facts": dict}
    for key, kind in kinds.items():
        if type(values[key]) is not kind:
            raise ValueError(f"{key} is of another kind")
    return Record(**values, hash=hashlib.sha256(line).hexdigest())
