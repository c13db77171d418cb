"""Drop-ins of systemd units: what of a unit depends on the site's settings, as files that a command prints or writes.

One file for each unit, ``<unit>.d/50-checkvalve.conf``; other files of that folder are the operator's. Equal settings
give equal bytes, so writing twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from runtime.durable import sync_folder, write_durably
from runtime.errors import EXIT_USAGE, UserError
from runtime.terminal import print_json

FOLDER: Final = Path("/etc/systemd/system")
NAME: Final = "50-checkvalve.conf"
LANES_FREE: Final = 4  # so many fit into the limits that the units ship with
LANE_BYTES: Final = 128 << 20  # of a further lane: its blocks, its process
LANE_TASKS: Final = 8
MEMORY_BYTES: Final = 1 << 30  # MemoryMax= and TasksMax= of the shipped link units
TASKS: Final = 64

State = Literal["current", "missing", "differs", "stale"]
Write = Literal["print", "write", "check"]


@dataclass(frozen=True)
class DropIn:
    """What is added to *unit*: (section, lines) in order; comments are lines that begin with ``#``."""

    unit: str
    sections: Sequence[tuple[str, Sequence[str]]]

    def text(self, command: str) -> str:
        """The file's text, "" if nothing is to be added."""
        merged: dict[str, list[str]] = {}
        for name, lines in self.sections:
            merged.setdefault(name, []).extend(lines)
        parts = [f"[{name}]\n" + "".join(f"{line}\n" for line in lines) for name, lines in merged.items() if lines]
        return "\n".join([_header(command), *parts]) if parts else ""


def word(value: object) -> str:
    """*value* as one word of a unit file: specifiers, quotes and spaces mean themselves."""
    text = str(value).replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"' if any(mark in text for mark in " \t'\"\\") else text


def writable(paths: Sequence[Path], state: Path, shipped_state: str) -> list[tuple[str, list[str]]]:
    """Let a unit write to *state* and *paths* where ``StateDirectory=`` does not, and wait for their disks."""
    home = Path(shipped_state)
    outside = sorted({path for path in (state, *paths) if not path.is_relative_to(home)})
    return [
        ("Unit", [f"RequiresMountsFor={word(path)}" for path in outside]),
        ("Service", [f"ReadWritePaths={word(path)}" for path in outside]),
    ]


def more_lanes(lanes: int) -> list[str]:
    """Raise a link unit's limits for the lanes beyond those that they are made for."""
    further = lanes - LANES_FREE
    if further <= 0:
        return []
    return [
        f"# {lanes} lanes, each a process with blocks of its own",
        f"MemoryMax={MEMORY_BYTES + further * LANE_BYTES}",
        f"TasksMax={TASKS + further * LANE_TASKS}",
    ]


def how(*, write: bool, check: bool) -> Write:
    """What the options ask for; UserError if they ask for both."""
    if write and check:
        raise UserError("--write and --check: one of them; --check writes nothing", exit_code=EXIT_USAGE)
    return "write" if write else "check" if check else "print"


def deliver(drop_ins: Sequence[DropIn], command: str, mode: Write, folder: Path, *, as_json: bool) -> int:
    """Print, write or check *drop_ins* below *folder*; return 1 if a check finds something to write.

    A drop-in without lines has no file: one that an earlier call wrote is removed by ``write``.
    """
    found = [(drop_in, folder / f"{drop_in.unit}.d" / NAME, drop_in.text(command)) for drop_in in drop_ins]
    states = [_state(path, text, command) for _, path, text in found]
    if mode == "write":
        for (_, path, text), state in zip(found, states, strict=True):
            _write(path, text, state)
    if as_json:
        rows = [
            {"unit": drop_in.unit, "path": str(path), "text": text, "state": state}
            for (drop_in, path, text), state in zip(found, states, strict=True)
        ]
        print_json({"drop_ins": rows, "written": mode == "write"})
    else:
        _show(found, states, mode)
    return int(mode == "check" and any(state != "current" for state in states))


def _header(command: str) -> str:
    return (
        f"# Written by `{command}` from the settings; another file of this folder is the place for changes by hand.\n"
    )


def _state(path: Path, text: str, command: str) -> State:
    try:
        there = path.read_text("utf-8", errors="replace")
    except FileNotFoundError:
        return "missing" if text else "current"
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; look as root") from None
    if not text:
        return "stale" if there.startswith(_header(command)) else "current"
    return "current" if there == text else "differs"


def _write(path: Path, text: str, state: State) -> None:
    try:
        if state == "stale":
            path.unlink()
            sync_folder(path.parent)
        elif state != "current":
            write_durably(path, text.encode(), mode=0o644)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written: {error.strerror}; run it as root, or name another folder"
        ) from None


def _show(found: Sequence[tuple[DropIn, Path, str]], states: Sequence[State], mode: Write) -> None:
    if mode == "print":
        print("\n".join(f"# {path}\n{text}" for _, path, text in found if text), end="")
        return
    done = {"missing": "created ", "differs": "replaced", "stale": "removed ", "current": "kept    "}
    for (_, path, text), state in zip(found, states, strict=True):
        if text or state == "stale":
            print(f"{done[state] if mode == 'write' else state.ljust(8)} {path}")
    changed = [drop_in.unit for (drop_in, _, _), state in zip(found, states, strict=True) if state != "current"]
    if changed and mode == "write":
        print(f"\nnext: systemctl daemon-reload && systemctl try-restart {' '.join(changed)}")
    elif changed:
        print("\nnext: the same command with --write in place of --check")
