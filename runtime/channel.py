"""Messages between a role and the processes that drive its further lanes: validated JSON over a socket pair.

The child is told nothing in argv but its descriptors; keys go over the pair. It ends when its end of the pair says
that the parent has: no process stays behind, however the parent died. The parent never waits for a child.
"""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Generic, NoReturn, TypeVar

import structlog
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from runtime.errors import EXIT_FAILURE, EXIT_USAGE, UserError, print_error

MESSAGE_BYTES_MAX: Final = 128 * 1024
_BUFFER_BYTES: Final = 1024 * 1024
END_S: Final = 5.0  # for a child to end once its channel is closed
_PARENTS_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)  # systemd and terminals send them to every process

T = TypeVar("T")

log = structlog.get_logger()


class Message(BaseModel):
    """Base of all messages; a subclass has a ``kind: Literal[...]`` that tells it from the others of its union."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")


class ChannelEnded(Exception):
    """The other end is gone."""


class Channel(Generic[T]):
    """One end of a pair; *receives* is the adapter of the union of what the other end says. For one thread."""

    def __init__(self, end: socket.socket, receives: TypeAdapter[T]) -> None:
        self._socket = end
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        self._receives = receives
        self._waiting: deque[bytes] = deque()

    def fileno(self) -> int:
        """Return the descriptor, to poll for something to receive."""
        return self._socket.fileno()

    @property
    def clogged(self) -> bool:
        """Whether the other end has not taken all that was said."""
        return bool(self._waiting)

    def send(self, message: Message) -> None:
        """Say *message*, after what was said before; never waits, ChannelEnded if nobody is there."""
        raw = message.model_dump_json().encode()
        if len(raw) > MESSAGE_BYTES_MAX:
            raise ValueError(f"a message of {len(raw)} bytes")
        self._waiting.append(raw)
        self.flush()

    def flush(self) -> None:
        """Hand over what waits, as far as there is room."""
        try:
            while self._waiting:
                self._socket.send(self._waiting[0])
                self._waiting.popleft()
        except BlockingIOError:
            return
        except OSError as error:
            raise ChannelEnded(str(error)) from None

    def receive(self, most: int = 64) -> list[T]:
        """Return what has come, at most *most* messages; ChannelEnded when nothing more ever will.

        pydantic's ValidationError for what is no message of the union.
        """
        found: list[T] = []
        self.flush()
        while len(found) < most:
            try:
                raw = self._socket.recv(MESSAGE_BYTES_MAX + 1)
            except BlockingIOError:
                break
            except OSError:
                raw = b""
            if not raw:
                if found:
                    break  # the end is told next time
                raise ChannelEnded("closed")
            found.append(self._receives.validate_json(raw))
        return found

    def close(self) -> None:
        """Close this end."""
        self._socket.close()


class Child(Generic[T]):
    """A process of ours at the other end of a channel: ``python -m module DESCRIPTOR...``; stderr is shared.

    *name* is what people call it. Once it has ended, or said what it cannot mean, that is raised as one UserError;
    it is then gone: nothing more is said to it or heard of it. For one thread.
    """

    def __init__(self, name: str, module: str, receives: TypeAdapter[T], descriptors: Sequence[int] = ()) -> None:
        self._name = name
        self.gone = False  # said and heard is nothing more
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        passed = [theirs.fileno(), *descriptors]
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _PARENTS_SIGNALS)  # the child inherits it, and keeps it
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *map(str, passed)], stdin=subprocess.DEVNULL, pass_fds=passed
            )
        except BaseException:
            ours.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            theirs.close()
        self._channel: Channel[T] = Channel(ours, receives)

    @property
    def pid(self) -> int:
        """Its process number."""
        return self._process.pid

    def fileno(self) -> int:
        """Return a descriptor that is readable when there is something to hear."""
        return self._channel.fileno()

    def say(self, message: Message) -> None:
        """Tell it; never waits. That it has ended shows when it is heard."""
        if not self.gone:
            with contextlib.suppress(ChannelEnded):
                self._channel.send(message)

    def hear(self) -> list[T]:
        """Return what it has said since."""
        if self.gone:
            return []
        try:
            return self._channel.receive()
        except ChannelEnded:
            self._ended()
        except ValidationError as error:
            self.distrust(f"{error.error_count()} faults in a message of type {error.title}")

    def distrust(self, reason: str) -> NoReturn:
        """Kill it: it has said what no process of ours says."""
        self._process.kill()
        self._end()
        raise UserError(f"{self._name}: its process is not to be trusted and was killed: {reason}")

    def close(self) -> None:
        """Let it end, if it has not yet; kill it after END_S seconds. How it ended is logged unless it was well."""
        if not self.gone:
            how = self._end()
            if how != "exit code 0":
                log.warning("process_ended", process=self._name, how=how)

    def _ended(self) -> NoReturn:
        how = self._end()
        code = EXIT_USAGE if how == f"exit code {EXIT_USAGE}" else EXIT_FAILURE
        raise UserError(f"{self._name}: its process has ended ({how}), see the line before", exit_code=code)

    def _end(self) -> str:
        """Close the channel and wait for the process; return how it ended, for people."""
        self.gone = True
        self._channel.close()
        try:
            code = self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"killed by {signal.Signals(-code).name}"
        return f"exit code {code}"


def child_main(receives: TypeAdapter[T], drive: Callable[[Channel[T], T, list[int]], NoReturn]) -> int:
    """Run the module's process: *drive* gets the channel, the first message and the other descriptors.

    Returns the exit code: 0 once the parent has gone (ChannelEnded), a UserError's after a line about it.
    """
    first, *others = (int(argument) for argument in sys.argv[1:])
    channel = Channel(socket.socket(fileno=first), receives)
    try:
        select.select([channel], [], [])
        drive(channel, channel.receive(1)[0], others)
    except ChannelEnded:
        return 0
    except UserError as error:
        print_error(error)
        return error.exit_code
