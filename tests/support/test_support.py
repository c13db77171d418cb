"""What the demo and the system tests stand on: the lossy link loses what it says, images are what they claim."""

from __future__ import annotations

import hashlib
import json
import signal
import socket
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from oci.closure import walk
from oci.layout import Layout
from tests.support.images import machine_image, random_image
from tests.support.losses import LossPattern
from tests.support.processes import Process, Processes, ProcessFailed, module

DATAGRAM_BYTES = 1472
PER_SEND = 40


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    with Processes(tmp_path / "logs") as running:
        yield running


def drops(pattern: LossPattern, bursts: list[int]) -> list[int]:
    lost, at = [], 0
    for count in bursts:
        kept = {i for start, end in pattern.kept(count) for i in range(start, end)}
        lost += [at + i for i in range(count) if i not in kept]
        at += count
    return lost


def test_a_seed_gives_the_same_losses_however_the_traffic_is_cut() -> None:
    whole = drops(LossPattern(0.01, 0.01, seed=5), [50_000])
    assert drops(LossPattern(0.01, 0.01, seed=5), [1, 44, 5] * 1000) == whole
    assert drops(LossPattern(0.01, 0.01, seed=6), [50_000]) != whole


@pytest.mark.parametrize(("single", "burst"), [(0.01, 0.01), (0.05, 0.0), (0.0, 0.03), (0.0, 0.0)])
def test_losses_have_the_shares_asked_for(single: float, burst: float) -> None:
    pattern = LossPattern(single, burst, seed=3)
    count = 400_000
    lost = drops(pattern, [PER_SEND] * (count // PER_SEND))
    assert len(lost) == pattern.lost
    assert pattern.lost_single / count == pytest.approx(single, rel=0.1)
    assert pattern.lost_burst / count == pytest.approx(burst, rel=0.2)
    if pattern.bursts > 1:
        assert 5 <= pattern.lost_burst / pattern.bursts <= 100


def start_link(processes: Processes, to: int, *options: str) -> tuple[Process, int]:
    link = processes.start("link", [*module("tests.support.lossylink"), "--to", f"127.0.0.1:{to}", *options])
    return link, int(json.loads(link.wait_line("port"))["port"])


@pytest.mark.parametrize("offload", ["auto", "off"])
def test_the_link_carries_what_it_does_not_lose(processes: Processes, offload: str) -> None:
    rounds = 500
    with socket.socket(type=socket.SOCK_DGRAM) as sink, socket.socket(type=socket.SOCK_DGRAM) as source:
        sink.bind(("127.0.0.1", 0))
        sink.settimeout(5)
        link, port = start_link(processes, sink.getsockname()[1], "--offload", offload, "--seed", "9")
        source.connect(("127.0.0.1", port))
        expected = LossPattern(0.01, 0.01, seed=9)
        for number in range(rounds):
            numbers = range(number * PER_SEND, (number + 1) * PER_SEND)
            data = b"".join(n.to_bytes(4, "big") * (DATAGRAM_BYTES // 4) for n in numbers)
            kept = [numbers[i] for start, end in expected.kept(PER_SEND) for i in range(start, end)]
            for at in range(0, len(data), DATAGRAM_BYTES):
                source.send(data[at : at + DATAGRAM_BYTES])
            # In step with the link, so that no buffer of a small machine overflows: what is lost is lost by design.
            received = [sink.recv(65_536) for _ in kept]
            assert [len(datagram) for datagram in received] == [DATAGRAM_BYTES] * len(kept)
            assert [int.from_bytes(datagram[-4:], "big") for datagram in received] == kept
        link.signal(signal.SIGTERM)
        assert link.wait(5) == 0
    counters = json.loads(link.out.read_text().splitlines()[-1])
    assert counters["received"] == rounds * PER_SEND
    assert counters["received"] == counters["forwarded"] + counters["lost"]
    assert (counters["lost_single"], counters["lost_burst"]) == (expected.lost_single, expected.lost_burst)
    assert counters["kernel_drops"] == counters["undeliverable"] == 0
    assert counters["offload"] in ((False,) if offload == "off" else (True, False))


def test_the_link_goes_on_when_nobody_receives_and_reports_on_request(processes: Processes) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as source:
        with socket.socket(type=socket.SOCK_DGRAM) as closed:
            closed.bind(("127.0.0.1", 0))
            nobody = closed.getsockname()[1]
        link, port = start_link(processes, nobody, "--single", "0", "--burst", "0")
        source.connect(("127.0.0.1", port))
        for _ in range(20):
            source.send(b"x" * 100)
        link.signal(signal.SIGUSR1)
        counters = json.loads(link.wait_line(lambda line: '"received": 20' in line, 5))
        assert counters["forwarded"] + counters["undeliverable"] == 20
        assert link.code is None


def test_processes_are_named_with_their_last_words_and_all_ended(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        failing = processes.start("bad", [sys.executable, "-c", "import sys; sys.exit('no such thing')"])
        with pytest.raises(ProcessFailed, match=r"bad ended with exit code 1.*\n.*no such thing"):
            failing.wait_line("ready", 5)
        lasting = processes.start("good", [sys.executable, "-c", "import time; print('up'); time.sleep(60)"])
        assert lasting.wait_line("up", 5) == "up"
    assert lasting.code is not None


async def test_the_machine_image_has_every_kind_of_part(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    made = await machine_image(layout, "demo/python", "1.0", "small")
    repository = layout.repository("demo/python")
    closure = await walk(repository, await repository.resolve("1.0"))
    kinds = {layer.media_type.rpartition(".")[2] for layer in made.layers}
    assert kinds == {"tar", "tar+gzip", "tar+zstd"}
    assert [manifest.descriptor.digest for manifest in closure.referrers] == [made.referrers[0].digest]
    assert sum(m.descriptor.media_type.endswith("index.v1+json") for m in closure.manifests) == 2
    parts = [*closure.blobs, *(manifest.descriptor for manifest in closure.manifests)]
    assert made.content_bytes == sum(part.size for part in parts) > 3_000_000
    base = made.layers[0].digest.encode()
    assert sum(base in manifest.raw for manifest in closure.manifests) == 3


async def test_random_layers_have_the_size_asked_for_and_are_tars(tmp_path: Path) -> None:
    sizes = [2048, 5_000_001]
    made = await random_image(Layout(tmp_path / "a"), "bench/random", "1", sizes, seed=4)
    again = await random_image(Layout(tmp_path / "b"), "bench/random", "1", sizes, seed=4)
    other = await random_image(Layout(tmp_path / "b"), "bench/random", "2", sizes, seed=5)
    assert made == again
    assert other.root != made.root
    assert [layer.size for layer in made.layers] == sizes
    path = Layout(tmp_path / "a").blobs.path(made.layers[1].digest)
    assert f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}" == made.layers[1].digest
    with tarfile.open(path, "r:") as tar:
        assert tar.getnames() == ["random.bin"]
