"""Several targets at once: settings, names, one that is down, what status says, and journals of before."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import ssl
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from oci.client import Registry
from oci.errors import ReferenceError_
from oci.layout import Layout
from oci.server import serve
from receiver.config import ReceiverSettings
from receiver.journal import ReceiverJournal
from receiver.journal_schema import MIGRATIONS
from receiver.mapping import Mapping, Rule
from receiver.target_journal import TargetJournal
from receiver.target_views import TargetState, combined
from runtime.database import open_journal
from runtime.errors import UserError
from runtime.settings import load_settings
from tests.oci_layout.images import multi_image, referrer_to, single_image
from tests.receiver.peers import DockerRegistry, free_port
from tests.receiver.site import Cli, Site, release_image
from tests.receiver.test_publish import NGINX, SIGNATURE, same_in
from tests.receiver.test_refusals import Faulty
from tests.support.certificates import self_signed


async def test_all_kinds_at_once(site: Site, registry: DockerRegistry) -> None:
    image = multi_image()
    signature = referrer_to(image.root.descriptor, SIGNATURE)
    site.fill(image, signature)
    site.release(release_image(NGINX, ["1.27"], image, signature))
    settings = site.configure(
        f"{{targets: {{central: {{registry: {{url: '{registry.url}'}}, prefix: ''}}, "
        "shelf: {layout: published, map: [{from: docker.io/, to: hub/}]}, k3s: {images: {path: images}}}}"
    )
    assert await site.once(settings) == 0
    async with Registry(registry.host, plain_http=True) as client:
        await same_in(client.repository(NGINX), "1.27", image, signature)
    await same_in(Layout.open(site.folder / "published").repository("hub/library/nginx"), "1.27", image, signature)
    assert len(list((site.folder / "images").glob("*.tar.zst"))) == 1
    assert {row["target"]: row["state"] for row in site.journal.images()} == dict.fromkeys(
        ("central", "k3s", "shelf"), "published"
    )
    marks = TargetJournal(site.journal)
    assert {target for target, _ in marks.complete()} == {"central", "k3s", "shelf"}
    before = len(registry.requests)
    assert await site.once(settings) == 0  # a second run only looks
    assert {request.split()[0] for request in registry.requests[before:]} == {"HEAD"}


async def test_a_target_that_is_down_holds_up_no_other(site: Site, registry: DockerRegistry, cli: Cli) -> None:
    images = [single_image(str(number)) for number in range(6)]
    site.fill(*images)
    site.release(*(release_image(f"quay.io/app{n}", ["1"], image) for n, image in enumerate(images)))
    registry.stop()
    settings = site.configure(
        f"{{targets: {{away: {{registry: {{url: '{registry.url}'}}, parallel: 1}}, here: {{layout: published}}}}}}"
    )
    async with site.publishing(settings):
        async with asyncio.timeout(10):
            while ("here", "default") not in TargetJournal(site.journal).complete():
                await asyncio.sleep(0.01)
            while not any(row["target"] == "away" and row["error"] for row in site.journal.images()):
                await asyncio.sleep(0.01)
        assert len(await Layout.open(site.folder / "published").repositories()) == 6
        assert site.journal.newest_releases()[0].published is None  # not all targets have it
        code, out, _ = await asyncio.to_thread(cli, "status", "--config", site.config)
        assert code == 1
        assert "6 of 6" in out
        assert "0 of 6" in out
        assert "check host, port and firewall" in out
        code, out, _ = await asyncio.to_thread(cli, "status", "--json", "--config", site.config)
        away, here = json.loads(out)["publish"]["targets"]
        assert (away["target"], away["published"], here["published"]) == ("away", 0, 6)
        assert "cannot connect" in away["errors"][0]
        registry.start()
        async with asyncio.timeout(20):
            while site.journal.newest_releases()[0].published is None:
                await asyncio.sleep(0.02)
    assert cli("status", "--config", site.config)[0] == 0
    async with Registry(registry.host, plain_http=True) as client:
        for number, image in enumerate(images):
            await same_in(client.repository(f"internal/quay.io/app{number}"), "1", image)


async def test_a_target_that_hangs_holds_up_no_other(site: Site, faulty: Faulty) -> None:
    image = single_image()
    site.fill(image)
    site.release(release_image(NGINX, ["1"], image))

    async def hang(_request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(60)
        return web.Response()

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", hang)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    good = await faulty(lambda request: None)
    settings = site.configure(
        f"{{targets: {{hung: {{registry: {{url: 'http://127.0.0.1:{port}'}}}}, "
        f"good: {{registry: {{url: '{good.url}'}}}}}}}}"
    )
    try:
        async with site.publishing(settings), asyncio.timeout(10):
            while ("good", "default") not in TargetJournal(site.journal).complete():
                await asyncio.sleep(0.01)
        await same_in(good.layout.repository(f"internal/{NGINX}"), "1", image)
    finally:
        await runner.cleanup()


async def test_a_registry_that_wants_a_client_certificate(site: Site) -> None:
    public, key = self_signed(site.folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, key)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(public)
    image = single_image()
    site.fill(image)
    site.release(release_image(NGINX, ["1"], image))
    server = await serve(Layout(site.folder / "inside"), tls=context)
    url = server.url.replace("http://", "https://")
    try:
        settings = site.configure(f"{{registry: {{url: '{url}', ca: ca.pem, cert: ca.pem, key: key.pem}}}}")
        assert await site.once(settings) == 0
        await same_in(Layout.open(site.folder / "inside").repository(f"internal/{NGINX}"), "1", image)
        with pytest.raises(UserError, match=r"publish\.registry: .*ca\.pem: .*PEM certificate and its key"):
            await site.once(site.configure(f"{{registry: {{url: '{url}', ca: ca.pem, cert: ca.pem}}}}"))
    finally:
        await server.close()


async def test_a_target_that_is_added_gets_what_is_published_elsewhere(site: Site, cli: Cli) -> None:
    image = single_image()
    site.fill(image)
    site.release(release_image(NGINX, ["1"], image))
    assert await site.once(site.configure("{targets: {a: {layout: a}}}")) == 0
    more = site.configure(
        f"{{targets: {{a: {{layout: a}}, b: {{registry: {{url: 'http://127.0.0.1:{free_port()}'}}}}}}}}"
    )
    async with site.publishing(more):
        async with asyncio.timeout(10):
            while not any(row["target"] == "b" for row in site.journal.images()):
                await asyncio.sleep(0.01)
        assert (await asyncio.to_thread(cli, "status", "--config", site.config))[0] == 1
    assert await site.once(site.configure("{targets: {a: {layout: a}, b: {layout: b}}}")) == 0
    await same_in(Layout.open(site.folder / "b").repository(f"internal/{NGINX}"), "1", image)
    assert await site.once(site.configure("{targets: {b: {layout: b}}}")) == 0
    assert {row["target"] for row in site.journal.images()} == {"b"}
    assert cli("status", "--config", site.config)[0] == 0


async def test_two_sources_with_one_name_are_named(site: Site, cli: Cli) -> None:
    one, two = single_image("one"), single_image("two")
    site.fill(one, two)
    site.release(release_image("docker.io/team/app", ["1"], one), release_image("quay.io/team/app", ["1", "2"], two))
    rules = "map: [{from: docker.io/, to: m/}, {from: quay.io/, to: m/}]"
    settings = site.configure(f"{{targets: {{both: {{layout: both, {rules}}}, apart: {{layout: apart}}}}}}")
    assert await site.once(settings) == 1
    rows = {(row["target"], row["name"]): row for row in site.journal.images()}
    assert {key: row["state"] for key, row in rows.items()} == {
        ("both", "docker.io/team/app"): "published",
        ("both", "quay.io/team/app"): "failed",
        ("apart", "docker.io/team/app"): "published",
        ("apart", "quay.io/team/app"): "published",
    }
    assert rows["both", "quay.io/team/app"]["error"] == (
        "m/team/app:1: docker.io/team/app has this name as well; give one of them another name in `map`"
    )
    code, out, _ = cli("status", "--config", site.config)
    assert code == 1
    assert "ALARM: quay.io/team/app:1: both: m/team/app:1: docker.io/team/app has this name as well" in out
    await same_in(Layout.open(site.folder / "both").repository("m/team/app"), "1", one)


async def test_the_same_image_from_two_sources_may_have_one_name(site: Site) -> None:
    image = single_image()
    site.fill(image)
    site.release(release_image("docker.io/team/app", ["1"], image), release_image("quay.io/team/app", ["1"], image))
    rules = "map: [{from: docker.io/, to: m/}, {from: quay.io/, to: m/}]"
    assert await site.once(site.configure(f"{{layout: both, {rules}}}")) == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("docker.io/library/nginx", "hub/nginx"),
        ("docker.io/library/redis", "cache/redis"),
        ("docker.io/library/redis-more", "hub/redis-more"),
        ("docker.io/library/redis/more", "cache/redis/more"),
        ("docker.io/bitnami/redis", "internal/docker.io/bitnami/redis"),
        ("docker.io/libraryx/redis", "internal/docker.io/libraryx/redis"),
        ("quay.io/a/b", "a/b"),
        ("localhost:5000/x", "local/x"),
    ],
)
def test_the_first_rule_that_fits_gives_the_name(name: str, expected: str) -> None:
    rules = (
        Rule("docker.io/library/redis", "cache/redis"),
        Rule("docker.io/library/", "hub/"),
        Rule("docker.io/library/nginx", "never"),
        Rule("quay.io/", ""),
        Rule("localhost:5000/", "local/"),
    )
    assert Mapping("internal", rules).name(name) == expected


def test_a_name_that_becomes_none_is_refused_in_one_line() -> None:
    with pytest.raises(ReferenceError_, match="at most 255"):
        Mapping("", (Rule("quay.io/", "m" * 200 + "/"),)).name("quay.io/" + "a" * 100)


@given(st.lists(st.sampled_from(["docker.io/", "docker.io/library/", "quay.io/a", "quay.io/"]), unique=True))
def test_a_name_that_no_rule_fits_is_as_without_rules(sources: list[str]) -> None:
    rules = tuple(Rule(source, "m/" if source.endswith("/") else "m") for source in sources)
    assert Mapping("p", rules).name("ghcr.io/a/b") == Mapping("p").name("ghcr.io/a/b")
    assert Mapping("", rules, archives=True).name("ghcr.io/a/b") == "ghcr.io/a/b"


@pytest.mark.parametrize(
    ("publish", "line"),
    [
        ("{targets: {}}", "publish: give one of registry, layout, images and targets"),
        ("{targets: {a: {}}}", "publish.targets.a: give one of registry, layout and images"),
        (
            "{targets: {a: {layout: a}}, prefix: x}",
            "publish: prefix does not go with targets; give it below the target that it is for",
        ),
        ("{targets: {A: {layout: a}}}", "'A' is not a target's name; give 1 to 32 of a-z 0-9 . _ -"),
        ("{targets: {a: {layout: a, serve: {on: x}}}}", "publish.targets.a.serve.on: 'x' is not host:port"),
        ("{images: {path: a}, prefix: x}", "publish: prefix does not go with images"),
        (
            "{images: {path: a, compress: gzip}}",
            "publish.images.compress: 'gzip' is not allowed; give 'zstd' or 'none'",
        ),
        (
            "{layout: a, map: [{from: docker.io, to: x}]}",
            "publish.map[0]: from: 'docker.io' has no '/'; give e.g. docker.io/ or docker.io/library/nginx",
        ),
        (
            "{layout: a, map: [{from: docker.io/library/, to: x}]}",
            "publish.map[0]: to: 'x' does not go with from: 'docker.io/library/'; both end with '/'",
        ),
        ("{layout: a, map: [{from: a.b/b/, to: X/}]}", "publish.map[0].to: 'X/' is not the beginning of a name"),
        (
            "{layout: a, map: [{from: library/, to: x/}]}",
            "publish.map[0]: from: 'library' is no registry; give whole",
        ),
        ("{layout: a, map: [{from: Docker.io/, to: x/}]}", "publish.map[0]: from: 'Docker.io' is not how images are"),
        ("{layout: a, map: [{from: quay.io/, to: 'r:1/x/'}]}", "publish: map[0].to: 'r:1/x/' names a registry"),
        ("{registry: {url: 'https://a', key: k.pem}}", "publish.registry: key: needs its certificate"),
        (
            "{registry: {url: 'http://a', ca: k.pem}}",
            "publish.registry: url: plain HTTP leaves ca and cert without use",
        ),
    ],
)
def test_a_wrong_target_is_one_line(site: Site, publish: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        site.configure(publish)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{site.config}:5: publish")
    assert line in str(caught.value)


async def test_check_tries_each_target(site: Site, cli: Cli) -> None:
    port = free_port()
    site.configure(
        f"{{targets: {{a: {{layout: a}}, b: {{registry: {{url: 'http://127.0.0.1:{port}'}}}}, "
        "c: {images: {path: c}}}}"
    )
    code, out, err = await asyncio.to_thread(cli, "check", "--config", site.config)
    assert code == 1
    assert f"ok: layout {site.folder}/a can be written" in out
    assert f"ok: image archives can be written to {site.folder}/c; K3s imports all of them at each start" in out
    assert err.startswith(f"error: publish.targets.b.registry.url: 127.0.0.1:{port}: cannot connect")


async def test_a_port_that_is_taken_names_the_target(site: Site, registry: DockerRegistry) -> None:
    settings = site.configure(f"{{targets: {{a: {{layout: a, serve: {{on: '{registry.host}'}}}}}}}}")
    with pytest.raises(UserError, match=r"publish\.targets\.a\.serve\.on: .* cannot listen there"):
        await site.once(settings)


def test_what_was_noted_before_belongs_to_the_only_target(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    before = next(number for number, script in enumerate(MIGRATIONS) if "CREATE TABLE targets" in script)
    old = open_journal(path, MIGRATIONS[:before], owner="receiver")
    old.execute("INSERT INTO releases VALUES ('default', 3, 'sha256:r', x'00', 1.0, 2.0)")
    old.execute("INSERT INTO releases VALUES ('edge', 1, 'sha256:e', x'00', 1.0, NULL)")
    old.execute("INSERT INTO published VALUES ('internal/a', '1', 'sha256:a', 'default', 3, 2.0)")
    old.execute("INSERT INTO locations VALUES ('sha256:b', 'internal/a')")
    old.execute("INSERT INTO image_states VALUES ('default', 3, 'a', 'sha256:a', 'published', NULL, 0, 0, 9, 2.0)")
    old.close()
    journal = ReceiverJournal(path)
    assert journal.published() == journal.published("default") == {("internal/a", "1"): "sha256:a"}
    assert journal.published("other") == {}
    assert journal.publisher("internal/a", "1") == "default"
    assert journal.locations() == {"sha256:b": "internal/a"}
    (row,) = journal.images()
    assert (row["target"], row["state"], row["total_bytes"]) == ("default", "published", 9)
    assert TargetJournal(journal).complete() == {("default", "default"): (3, 2.0)}
    assert journal.connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    tables = {name for (name,) in journal.connection.execute("SELECT name FROM sqlite_master")}
    assert not [name for name in tables if name.endswith("_before")]
    with pytest.raises(sqlite3.IntegrityError):  # the key tells targets apart, and nothing twice
        journal.connection.execute("INSERT INTO locations VALUES ('default', 'sha256:b', 'x')")
    journal.close()


def test_the_single_form_stays_valid(site: Site) -> None:
    settings = site.configure("{layout: published, serve: {on: '127.0.0.1:0'}, prefix: x, parallel: 2}")
    assert list(settings.publish.each()) == ["default"]
    assert load_settings(site.config, ReceiverSettings) == settings


states = st.sampled_from(["failed", "", "receiving", "publishing", "published", "held"])


@given(st.lists(states, min_size=1, max_size=4))
def test_the_weakest_target_says_how_an_image_is(given_states: list[str]) -> None:
    each = [TargetState(f"t{number}", state, state and f"why {state}") for number, state in enumerate(given_states)]
    state, error = combined(each)
    assert state in given_states
    assert (state == "published") == (set(given_states) == {"published"})
    stuck = {"failed", "held"} & set(given_states)
    assert not stuck or state in stuck
    assert all(f"why {one}" in str(error) for one in given_states if one)
    assert all(f"t{number}: " in str(error) for number, one in enumerate(given_states) if one and len(each) > 1)
