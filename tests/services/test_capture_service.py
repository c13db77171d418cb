"""Capture as a service: its socket outlives it, its key is a credential, its settings change while it receives."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.capture.rig import Cargo, Mouth, Side, Wire
from tests.capture.test_capture import here
from tests.services.supervisor import Service, udp_socket
from tests.support.content import some_bytes
from tests.support.waits import wait_for

BUFFER = 64 * 2**20


@pytest.fixture
def side(tmp_path: Path) -> Side:
    return Side(tmp_path)


@pytest.fixture
def mouth(side: Side) -> Iterator[Mouth]:
    made = Mouth(side)
    yield made
    made.close()


@pytest.fixture
def service(side: Side) -> Iterator[Service]:
    made = Service(
        side.folder,
        ["receiver", "capture", "--config", str(side.config)],
        sockets=[udp_socket(side.port, BUFFER)],
        credentials=True,
    )
    made.credential("hpke_key", (side.folder / "r.pem").read_bytes())
    (side.folder / "r.pem").rename(side.folder / "elsewhere.pem")
    yield made
    made.close()


def drops(side: Side) -> dict[str, int]:
    return {name: count for name, count in side.journal().counters().items() if name.startswith("drop.") and count}


def holds_enough() -> bool:
    with udp_socket(0, BUFFER) as probe:
        return probe.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2 >= BUFFER


@pytest.mark.skipif(not holds_enough(), reason="needs root, or net.core.rmem_max of 64 MiB")
def test_a_restart_in_the_midst_of_a_transfer_loses_nothing_that_the_kernel_can_hold(
    side: Side, mouth: Mouth, service: Service
) -> None:
    data = some_bytes(20_000_000)
    sent = Wire(side).send([Cargo(data)])
    before, held = len(sent) * 4 // 10, len(sent) * 6 // 10
    service.start()
    mouth.say(sent[:before])
    assert service.stop() == 0
    assert "STOPPING=1" in service.hear()
    mouth.say(sent[before:held])  # nobody listens
    service.start()
    mouth.say(sent[held:])
    wait_for(lambda: here(side, data))  # in one pass
    assert service.stop() == 0
    counters = side.journal().counters()
    assert drops(side) == {}
    assert (counters.get("lost", 0), counters.get("kernel_drops", 0)) == (0, 0)
    assert counters["datagrams"] == len(sent)
    assert '"taken_over"' in service.log


def test_settings_change_in_the_midst_of_a_transfer_and_nothing_is_lost(
    side: Side, mouth: Mouth, service: Service
) -> None:
    data = some_bytes(9_000_000)
    sent = Wire(side).send([Cargo(data)])
    service.start()
    text = side.config.read_text()
    talking = threading.Thread(target=mouth.say, args=(sent,))
    talking.start()
    for silence in ("45s", "46s", "47s"):
        side.config.write_text(f"{text}alarms: {{silence: {silence}}}\n")
        service.reload()
    talking.join()
    wait_for(lambda: here(side, data))
    assert service.log.count('"reloaded"') == 3
    said = service.hear()
    assert said.count("RELOADING=1") == 3
    assert sum(line.startswith("MONOTONIC_USEC=") for line in said) == 3
    assert said[-1] != "STOPPING=1"
    assert service.stop() == 0
    assert drops(side) == {}
    assert side.journal().counters().get("lost", 0) == 0


def test_wrong_settings_leave_the_former_ones_and_are_told_until_they_are_mended(
    side: Side, mouth: Mouth, service: Service
) -> None:
    service.start()
    text = side.config.read_text()
    for wrong, words in (
        ("alarms: {silence: soon}\n", "alarms.silence: 'soon' is not a duration"),
        ("senders: nobody\n", "senders: this key is here twice"),
    ):
        side.config.write_text(text + wrong)
        service.reload()
        assert "reload failed, the former settings stay in force: " in service.status
        assert words in service.status
    side.config.write_text(text.replace(str(side.port), str(side.port + 1)))
    service.reload()
    assert "changed setting listen.on: systemctl restart is needed" in service.status
    shutil.move(side.folder / "s.pub", side.folder / "gone.pub")
    side.config.write_text(text)
    service.reload()
    assert "s.pub: no such key file" in service.status
    data = some_bytes(300_000)
    shutil.move(side.folder / "gone.pub", side.folder / "s.pub")
    mouth.say(Wire(side).send([Cargo(data)]))
    wait_for(lambda: here(side, data))  # as before
    service.reload()
    wait_for(lambda: service.status.startswith("receiving"))


def test_a_socket_of_another_port_is_named(side: Side, tmp_path: Path) -> None:
    made = Service(tmp_path, ["receiver", "capture", "--config", str(side.config)], sockets=[udp_socket(0, BUFFER)])
    try:
        assert made.launch().wait(20) == 2
        assert f"listen.on: 127.0.0.1:{side.port} is not among the sockets of the socket unit (port " in made.log
        assert "checkvalve-receiver units --write" in made.log
        assert made.hear() == []
    finally:
        made.close()


def test_a_stream_socket_is_refused(side: Side, tmp_path: Path) -> None:
    stream = socket.socket()
    stream.bind(("127.0.0.1", 0))
    made = Service(tmp_path, ["receiver", "capture", "--config", str(side.config)], sockets=[stream])
    try:
        assert made.launch().wait(20) == 2
        assert "passes a socket of type AF_INET SOCK_STREAM; ListenDatagram=" in made.log
    finally:
        made.close()


def test_several_lanes_take_their_sockets(tmp_path: Path) -> None:
    side = Side(tmp_path)
    side.config.write_text(side.config.read_text().replace(f":{side.port}'}}", f":{side.port}', lanes: 2}}"))
    sockets = [udp_socket(side.port + lane, BUFFER) for lane in (1, 0)]  # in any order
    made = Service(tmp_path, ["receiver", "capture", "--config", str(side.config)], sockets=sockets)
    try:
        made.start()
        data = some_bytes(2_000_000)
        mouth = Mouth(side)  # all that lane 0 sends
        mouth.say(Wire(side, lanes=2).send([Cargo(data)]))
        mouth.close()
        wait_for(lambda: here(side, data))
        assert made.stop() == 0
    finally:
        made.close()


def test_a_buffer_that_is_smaller_than_asked_for_is_told(side: Side) -> None:
    made = Service(
        side.folder, ["receiver", "capture", "--config", str(side.config)], sockets=[udp_socket(side.port, 100_000)]
    )
    try:
        made.start()
        assert '"receive_buffer_small"' in made.log
        assert "ReceiveBuffer= in checkvalve-capture.socket" in made.log
    finally:
        made.close()
