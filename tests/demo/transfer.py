"""One transfer: receiver, lossy link and sender as processes, until the receiver has published everything.

A pass that loses more than the repair symbols can mend is followed by another, as the carousel of a sender that
keeps running would do by itself.
"""

from __future__ import annotations

import json
import signal
import time
from dataclasses import dataclass
from typing import Any, Final

from runtime.settings import load_settings
from sender.config import SenderSettings
from sender.journal import SenderJournal
from sender.releases import desired_contents
from tests.demo.site import Site, set_link
from tests.demo.watch import Display, Stage, Watch
from tests.support.processes import Process, Processes, ProcessFailed, command, module

PASSES_MAX: Final = 4
STILL_S: Final = 5.0  # nothing moves for so long after the sender ended: something is missing
TIMEOUT_S: Final = 300.0
_POLL_S: Final = 0.1


@dataclass(slots=True)
class Transfer:
    """What a transfer came to."""

    seconds: float  # from the sender's start
    until: str  # what they end with
    passes: int
    release: int
    coded_bytes: int
    sent: dict[str, int]  # sums of transmit's figures over all passes
    received: dict[str, Any]  # capture's figures
    link: dict[str, Any]  # the lossy link's counters
    stages: dict[str, Stage]


def repeat_everything(site: Site) -> None:
    """Queue one more pass of all that the newest release needs; what the receiver has already it lets pass."""
    settings = load_settings(site.sender_settings, SenderSettings)
    if not settings.journal.exists():
        return
    journal = SenderJournal(settings.journal)
    try:
        journal.repeat_objects(journal.carriers(desired_contents(journal.newest_releases())))
    finally:
        journal.close()


def start_link(site: Site, processes: Processes, *, offload: bool, seed: int) -> tuple[Process, Process]:
    """Start the receiver and, in front of it, the link that loses datagrams; return both."""
    config = ["--config", str(site.receiver_settings)]
    receiver = processes.start("receiver", [*command("checkvalve-receiver"), "run", "--once", *config])
    listening = receiver.wait_line(lambda line: _event(line).get("event") == "listening")
    options = ["--to", str(_event(listening)["on"]), "--seed", str(seed), *([] if offload else ["--offload", "off"])]
    link = processes.start("link", [*module("tests.support.lossylink"), *options])
    set_link(site, f"127.0.0.1:{json.loads(link.wait_line('port'))['port']}")
    return receiver, link


def carry_across(site: Site, processes: Processes, receiver: Process, link: Process, *, expected: bool) -> Transfer:
    """Run the sender until the receiver has everything; *expected* is whether anything is to come.

    Raises ProcessFailed for a side that fails.
    """
    started = time.time()
    watch = Watch(site, started)
    sent: dict[str, int] = {}
    passes = 0
    try:
        with Display(watch, expected=expected) as display:
            while receiver.code is None:
                if passes == PASSES_MAX:
                    raise ProcessFailed(receiver.describe(f"is not complete after {passes} passes"))
                if passes:
                    print(f"   pass {passes} lost more than could be repaired: sending once more,", flush=True)
                    print("   as a sender that keeps running does by itself (repeats.carousel)", flush=True)
                    repeat_everything(site)
                passes += 1
                _one_pass(site, processes, receiver, watch, display, started)
                for name in ("datagrams", "content_datagrams", "wire_bytes"):
                    sent[name] = sent.get(name, 0) + int(watch.transmit().get(name, 0))
            seconds = time.time() - started
            if receiver.code != 0:
                raise ProcessFailed(receiver.describe(f"ended with exit code {receiver.code}"))
            watch.look()
        link.signal(signal.SIGTERM)
        link.wait(10.0)
        counters = json.loads(link.out.read_text().splitlines()[-1])
        published = watch.stages["publish"].finished_s
        return Transfer(
            seconds=published or seconds,
            until="the tag" if published else "the end",
            passes=passes,
            release=watch.release(),
            coded_bytes=watch.coded_bytes(),
            sent=sent,
            received=watch.capture(),
            link=counters,
            stages=watch.stages,
        )
    finally:
        watch.close()


def _one_pass(
    site: Site, processes: Processes, receiver: Process, watch: Watch, display: Display, started: float
) -> None:
    """Run the sender to its end; return once the receiver has ended too, or waits for what does not come."""
    config = ["--config", str(site.sender_settings)]
    sender = processes.start("sender", [*command("checkvalve-sender"), "run", "--once", *config])
    mark, moved = watch.look(), time.monotonic()
    while sender.code is None or receiver.code is None:
        if sender.code:
            raise ProcessFailed(sender.describe(f"ended with exit code {sender.code}"))
        if receiver.code:
            raise ProcessFailed(receiver.describe(f"ended with exit code {receiver.code}"))
        if time.time() - started > TIMEOUT_S:
            raise ProcessFailed(receiver.describe(f"is not complete after {TIMEOUT_S:g} s"))
        now = watch.look()
        if now != mark or sender.code is None:
            mark, moved = now, time.monotonic()
        elif time.monotonic() - moved > STILL_S:
            return
        display.refresh()
        time.sleep(_POLL_S)
    watch.look()


def _event(line: str) -> dict[str, Any]:
    """A line of a log in JSON; empty if it is none."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
