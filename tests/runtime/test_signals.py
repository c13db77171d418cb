"""The stop flag of thread loops."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from runtime.signals import StopFlag
from tests.support.processes import ROOT


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sets_the_flag_and_handlers_come_back(signum: signal.Signals) -> None:
    former = signal.getsignal(signum)
    with StopFlag() as stop:
        assert not stop.is_set()
        assert not stop.wait(0.01)
        os.kill(os.getpid(), signum)
        assert stop.wait(5)
        assert stop.signum == signum
    assert signal.getsignal(signum) is former


def test_it_wakes_a_thread() -> None:
    stop = StopFlag()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    stop.set()
    thread.join(5)
    assert not thread.is_alive()
    assert stop.signum is None


def test_a_second_signal_ends_a_loop_that_does_not_look() -> None:
    program = (
        "import time; from runtime.signals import StopFlag\n"
        "with StopFlag() as stop:\n"
        "    print('up', flush=True)\n"
        "    stop.wait(); print('flag', flush=True)\n"
        "    while True: time.sleep(1)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "flag\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == -signal.SIGTERM
    process.stdout.close()


def test_a_signal_in_the_midst_of_waiting_never_hangs() -> None:
    """An Event's lock would be held by the very thread whose handler wants it: about one stop in some hundreds."""
    program = (
        "import signal\n"
        "from runtime.signals import StopFlag\n"
        "for _ in range(2000):\n"
        "    with StopFlag() as stop:\n"
        "        signal.signal(signal.SIGALRM, stop._on_signal)\n"
        "        signal.setitimer(signal.ITIMER_REAL, 0.0002)\n"
        "        while not stop.wait(0.0):\n"
        "            pass\n"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
