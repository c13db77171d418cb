"""Going back to an earlier release, and that publishing and deleting keep out of each other's way."""

from __future__ import annotations

import asyncio

from oci.layout import Layout
from receiver.audit import Audit
from receiver.desired import desired_marks
from receiver.gates import Gates
from receiver.journal import ReceiverJournal
from tests.oci_layout.images import Image, single_image
from tests.receiver.site import Cli, Site, release_image
from tests.receiver.test_retention import NGINX, said


async def test_an_earlier_release_is_shown_until_that_is_ended(
    site: Site, two: tuple[Image, Image], cli: Cli
) -> None:
    one, other = two
    settings = site.configure("{layout: published}")
    repository = Layout(site.folder / "published").repository(f"internal/{NGINX}")

    async def shows(image: Image) -> None:
        async with asyncio.timeout(10):
            while (await repository.resolve("1")).digest != image.root.descriptor.digest:
                await asyncio.sleep(0.02)

    async with site.publishing(settings):
        await site.until(NGINX, "published")
        site.release(release_image(NGINX, ["1"], other), sequence=2)
        await shows(other)
        assert (await asyncio.to_thread(cli, "activate", 1, "--config", site.config))[0] == 0
        await shows(one)
        third = single_image("third")
        site.fill(third)
        site.release(release_image(NGINX, ["1"], third), sequence=3)
        await asyncio.sleep(0.3)
        await shows(one)  # what came meanwhile waits, and is said to
        out = said((await asyncio.to_thread(cli, "status", "--json", "--config", site.config))[1])
        assert any(
            each["text"].startswith("release default 3 waits: release 1 is activated") for each in out["alarms"]
        )
        assert out["releases"][0]["gap"] == 0
        assert desired_marks(site.journal)["default"][0] == 1
        code, out, _ = await asyncio.to_thread(cli, "activate", "--latest", "--config", site.config)
        assert (code, out) == (0, "collection default follows its newest release again, 3\n")
        await shows(third)
    assert await site.once(settings) == 0
    out = said(cli("status", "--json", "--config", site.config)[1])
    assert not [each for each in out["alarms"] if "waits" in each["text"]]
    records = list(Audit(settings.audit).records())
    decided = [(each.action, each.object) for each in records if each.action.startswith(("release_a", "activation"))]
    assert decided == [("release_activated", "default 1"), ("activation_ended", "default 3")]


async def test_what_is_shown_already_stays_complete(site: Site, two: tuple[Image, Image], cli: Cli) -> None:
    settings = site.configure("{layout: published}")
    async with site.publishing(settings):
        await site.until(NGINX, "published")
        for arguments in (("activate", 1), ("activate", "--latest")):
            assert (await asyncio.to_thread(cli, *arguments, "--config", site.config))[0] == 0
            await asyncio.sleep(0.1)
            assert site.journal.newest_releases()[0].published is not None
            assert site.images()[NGINX]["state"] == "published"


async def test_an_image_on_its_way_is_not_deleted_around(site: Site) -> None:
    gates = Gates()
    async with gates.using("internal/a"):
        with gates.closed("internal/a") as alone, gates.closed(None) as all_alone:
            assert not alone
            assert not all_alone
        with gates.closed("internal/b") as alone:
            assert alone
            waiting = asyncio.create_task(gates.using("internal/b").__aenter__())
            await asyncio.sleep(0.01)
            assert not waiting.done()
            with gates.closed("internal/c"):
                pass
            await asyncio.sleep(0.01)
            assert not waiting.done()  # another gate has opened
        await waiting


async def test_once_ends_while_an_earlier_release_is_activated(
    site: Site, two: tuple[Image, Image], cli: Cli
) -> None:
    one, other = two
    settings = site.configure("{layout: published}")
    site.release(release_image(NGINX, ["1"], other), sequence=2)
    assert cli("activate", 1, "--config", site.config)[0] == 0
    assert await site.once(settings) == 0
    assert site.journal.published()[f"internal/{NGINX}", "1"] == one.root.descriptor.digest


def test_what_is_not_here_cannot_be_activated(site: Site, two: tuple[Image, Image], cli: Cli) -> None:
    one, _ = two
    site.configure("{layout: published}")
    digest = one.root.descriptor.digest
    site.spool.remove(digest)
    code, _, err = cli("activate", 1, "--config", site.config)
    assert code == 1
    assert "release default 1: 1 of its contents" in err
    assert f"missing: {digest}" in err
    assert f"of {NGINX}:1" in err
    assert desired_marks(site.journal) == site.journal.newest_marks()
    code, _, err = cli("activate", 9, "--config", site.config)
    assert (code, err) == (1, "error: collection default has no release 9; there are 1\n")
    code, _, err = cli("activate", "--latest", "--config", site.config)
    assert (code, "follows the newest already" in err) == (1, True)
    assert cli("activate", "--config", site.config)[0] == 2


def test_an_archive_or_import_at_work_keeps_retention_waiting(site: Site, two: tuple[Image, Image], cli: Cli) -> None:
    from runtime.lockfile import locked

    settings = site.configure("{layout: published}")
    with locked(settings.retention_lock, shared=True):
        code, _, err = cli("gc", "--config", site.config)
    assert (code, "an import or archive is at work here" in err) == (1, True)
    reader = ReceiverJournal(settings.journal, read_only=True)
    reader.close()
