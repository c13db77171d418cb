"""Transmit, fetch and publish as services: settings that change while they run, stopping, what status shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from oci.layout import Layout
from runtime.keys import create_hpke_key, create_signing_key
from tests.oci_layout.images import single_image
from tests.receiver.site import Site, release_image
from tests.sender.conftest import Site as SendingSite
from tests.services.supervisor import Service
from tests.support.content import some_bytes
from tests.support.waits import wait_for
from tests.transmit.rig import Ear, Side

NGINX = "docker.io/library/nginx"


@pytest.fixture
def made(tmp_path: Path) -> Iterator[list[Service]]:
    services: list[Service] = []
    yield services
    for each in services:
        each.close()


def test_transmit_takes_a_new_rate_a_key_from_its_credentials_and_ends_soon(
    tmp_path: Path, made: list[Service]
) -> None:
    side = Side(tmp_path, rate="20Mbit")
    service = Service(tmp_path, ["sender", "transmit", "--config", str(side.config)], credentials=True)
    made.append(service)
    service.credential("signing_key", (tmp_path / "s.pem").read_bytes())
    with Ear(side) as ear:
        (tmp_path / "s.pem").rename(tmp_path / "elsewhere.pem")
        digest = side.queue(some_bytes(40_000_000))  # 16 s at the first rate
        service.start()
        wait_for(lambda: "session 1, object" in service.status or "session 1, blob" in service.status)
        text = side.config.read_text()
        side.config.write_text(text.replace("20Mbit", "fast"))
        service.reload()
        assert "link.rate: 'fast' is not a rate" in service.status
        side.config.write_text(text.replace("20Mbit", "800Mbit"))
        service.reload()
        assert '"reloaded"' in service.log
        wait_for(lambda: digest in ear.objects, 12)
        assert ear.content(digest) == some_bytes(40_000_000)
        side.queue(some_bytes(200_000_000, 2))
        wait_for(lambda: "session 2, " in service.status and "Mbit/s" in service.status)
        assert service.stop() == 0
    assert "STOPPING=1" in service.hear()


async def test_publish_goes_to_another_target(tmp_path: Path, made: list[Service]) -> None:
    site = Site(tmp_path / "site")
    site.configure("{layout: one}")
    image = single_image("one")
    site.fill(image)
    site.release(release_image(NGINX, ["1"], image))
    service = Service(tmp_path, ["receiver", "publish", "--config", str(site.config)])
    made.append(service)
    service.start()
    wait_for(lambda: "idle: 1 of 1 images in " in service.status)
    site.config.write_text(site.config.read_text().replace("{layout: one}", "{layout: one, registry: both}"))
    service.reload()
    assert "reload failed" in service.status
    site.config.write_text(site.config.read_text().replace("{layout: one, registry: both}", "{layout: two}"))
    service.reload()
    wait_for(lambda: service.status.endswith("two") and "1 of 1 images" in service.status)
    found = await Layout.open(site.folder / "two").repository(f"internal/{NGINX}").resolve("1")
    assert found.digest == image.root.descriptor.digest
    assert service.stop() == 0
    assert "STOPPING=1" in service.hear()


def test_fetch_reads_another_list(tmp_path: Path, made: list[Service]) -> None:
    create_signing_key(tmp_path / "keys/sender.pem")
    create_hpke_key(tmp_path / "keys/receiver.pem")
    site = SendingSite(tmp_path)
    site.write()
    service = Service(tmp_path, ["sender", "fetch", "--config", str(site.config)])
    made.append(service)
    service.start()
    wait_for(lambda: "0 images ready" in service.status)
    (tmp_path / "others.yaml").write_text("images: 7\n")
    site.write(images="others.yaml", webhook="nothing")
    service.reload()
    assert "reload failed, the former settings stay in force: " in service.status
    assert "webhook" in service.status
    site.write(images="others.yaml")
    service.reload()
    wait_for(lambda: "others.yaml" in service.log)  # what is wrong in it
    assert service.stop() == 0
    assert "STOPPING=1" in service.hear()
