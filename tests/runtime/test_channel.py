"""Messages to a process of ours and back, and what is said when it ends, lies or does not listen."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import channel
from runtime.channel import MESSAGE_BYTES_MAX, Channel, ChannelEnded, Child
from runtime.errors import UserError
from tests.support.channel_child import SAID, Do, Echo, Said
from tests.support.processes import ROOT
from tests.support.waits import process_gone, wait_for


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Iterator[Child[Said]]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    made = Child("lane 1", "tests.support.channel_child", SAID)
    yield made
    made.close()


def heard(child: Child[Said], count: int) -> list[Said]:
    found: list[Said] = []
    wait_for(lambda: found.extend(child.hear()) or len(found) >= count)
    return found


def told(child: Child[Said]) -> str:
    """What hearing of the child raises."""
    with pytest.raises(UserError) as caught:
        wait_for(lambda: child.hear() and False)
    return str(caught.value)


def test_messages_come_as_they_were_said_and_in_order(child: Child[Said]) -> None:
    said: list[Said] = [Echo(data=bytes([number]) * 1_000) for number in range(200)]
    for message in said:
        child.say(message)
    assert heard(child, 200) == said


def test_who_does_not_listen_is_not_waited_for_and_hears_all_later() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    one, other = Channel(ours, SAID), Channel(theirs, SAID)
    said: list[Said] = [Echo(data=bytes([number]) * 60_000) for number in range(60)]
    for message in said:
        one.send(message)
    assert one.clogged
    found: list[Said] = []
    while len(found) < 60:
        found += other.receive()
        one.flush()
    assert found == said
    assert not one.clogged
    one.close()
    with pytest.raises(ChannelEnded):
        other.receive()
    with pytest.raises(ChannelEnded):
        other.send(said[0])
    other.close()


def test_a_message_that_is_too_large_is_a_fault_of_ours(child: Child[Said]) -> None:
    with pytest.raises(ValueError, match="a message of"):
        child.say(Echo(data=bytes(MESSAGE_BYTES_MAX)))


def test_its_error_is_a_line_and_its_exit_code_is_ours(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    child = Child("lane 1", "tests.support.channel_child", SAID)  # here, as it has the standard error of this moment
    child.say(Do(what="fail"))
    with pytest.raises(UserError, match=r"lane 1: its process has ended \(exit code 2\), see the line") as caught:
        wait_for(lambda: child.hear() and False)
    assert caught.value.exit_code == 2
    assert capfd.readouterr().err == "error: link.mtu: too large for this one\n"
    child.say(Echo(data=b"x"))  # told once, it is left alone
    assert child.hear() == []


def test_a_crash_is_told_by_its_signal(child: Child[Said]) -> None:
    child.say(Do(what="crash"))
    assert "ended (killed by SIGABRT)" in told(child)


def test_what_is_no_message_ends_the_process(child: Child[Said]) -> None:
    child.say(Do(what="babble"))
    assert told(child).startswith("lane 1: its process is not to be trusted and was killed: 1 faults in a message")
    assert child.gone
    assert process_gone(child.pid)


def test_one_that_does_not_end_is_killed(child: Child[Said], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "END_S", 0.2)
    child.say(Echo(data=b"up"))
    heard(child, 1)
    child.say(Do(what="sleep"))
    begun = time.monotonic()
    child.close()
    assert time.monotonic() - begun < 5
    assert process_gone(child.pid)


def test_it_begins_with_the_parents_signals_blocked(child: Child[Said]) -> None:
    """systemd tells every process of a unit at once; which end first would be chance."""
    child.say(Echo(data=b"up"))
    heard(child, 1)
    lines = Path(f"/proc/{child.pid}/status").read_text().splitlines()
    blocked = int(next(line.split()[1] for line in lines if line.startswith("SigBlk")), 16)
    for signum in (signal.SIGTERM, signal.SIGINT):
        assert blocked >> (signum - 1) & 1
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGTERM, signal.SIGINT}, "ours are as before"
