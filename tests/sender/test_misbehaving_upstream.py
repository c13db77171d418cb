"""An upstream that misbehaves in every way we know: named, its image stays as it was, and no other waits for it."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from aiohttp import web

from oci import limits
from oci.descriptor import Manifest
from tests.oci.misbehaving import Fault, ScriptedRegistry, cut, instead, redirect, slow, status
from tests.oci.peers import Serve
from tests.oci_layout.images import single_image
from tests.sender.conftest import Site, Upstream
from tests.sender.watched import live, proposed, push, role_here, until


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BACKOFF_SECONDS_BASE", 0.001)
    monkeypatch.setattr(limits, "BREAKER_SECONDS_BASE", 0.2)
    monkeypatch.setattr(limits, "TAG_PAGES_MAX", 20)


def endless() -> Fault:
    pages = itertools.count()

    async def fault(request: web.Request, _: bytes) -> web.StreamResponse:
        link = f'<{request.path}?last={next(pages)}>; rel="next"'
        return web.Response(body=b'{"name":"a/b","tags":["1.0.0"]}', headers={"Link": link})

    return fault


def scripted(text: str) -> tuple[ScriptedRegistry, Manifest]:
    image = single_image(text)
    data = tuple(raw for _, raw in image.blobs.values())
    return ScriptedRegistry(image.root, blobs=data, tags={"1.0.0": image.root.descriptor.digest}), image.root


def reasons(site: Site) -> str:
    journal = site.journal()
    rows = [str(row["error"]) for row in journal.images() if row["error"]]
    journal.close()
    told = live(site)
    return "\n".join([*rows, *told.get("held", []), *told.get("warnings", [])])


FAULTS = {
    "429": ("manifests", status(429, Retry_After="300"), "it asks not to be asked until"),
    "503": ("manifests", status(503), "is not able to answer (503)"),
    "refused": ("manifests", status(401), "credentials are missing or wrong (401)"),
    "lost": ("manifests", status(404), "not found (404)"),
    "loop": ("tags", redirect("/v2/a/b/tags/list"), "more than 5 redirects"),
    "endless": ("tags", endless(), "more than 20 pages"),
    "nonsense": ("tags", instead(b"<html>"), "expected JSON with a list of tags"),
    "no tags": ("tags", instead(b'{"name":"a/b","tags":[]}'), "matches nothing of 0 tags"),
    "cut": ("tags", cut(5), "broke"),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_what_goes_wrong_with_a_question_is_named_and_holds_up_nobody(
    site: Site, upstream: Upstream, serve: Serve, name: str
) -> None:
    kind, fault, words = FAULTS[name]
    registry, root = scripted("one")
    bad, (_, good) = await serve(registry), await upstream()
    site.registries |= {host: {"plain_http": True} for host in (bad, good)}
    first = await push(good, "fine", "1", "first")
    rules = (
        {"image": f"{bad}/a/b", "tags": {"semver": "^1", "keep": 1}, "follow": "digest", "interval": "1s"},
        {"image": f"{good}/fine", "tags": ["1"], "follow": "digest", "interval": "1s"},
    )
    site.write(*({**rule, "referrers": False} for rule in rules))
    before = {f"{bad}/a/b:1.0.0": root.descriptor.digest}
    async with role_here(site):
        await until(lambda: proposed(site) == before | {f"{good}/fine:1": first})
        registry.always[kind] = fault
        await until(lambda: words in reasons(site))
        second = await push(good, "fine", "1", "second")
        await until(lambda: proposed(site) == before | {f"{good}/fine:1": second}, 8)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (instead(b"other bytes"), "expected"),
        (cut(100), "broke"),
        (slow(0.05), None),  # it goes on for longer than anybody waits
        (status(500), "the registry failed (500"),
    ],
)
async def test_a_new_digest_whose_content_does_not_come_leaves_the_old_one(
    site: Site, upstream: Upstream, serve: Serve, fault: Fault, words: str | None
) -> None:
    registry, root = scripted("one")
    bad, (_, good) = await serve(registry), await upstream()
    site.registries |= {host: {"plain_http": True} for host in (bad, good)}
    site.fetch["settle"] = "1s"
    rule = {"image": f"{bad}/a/b", "tags": ["1.0.0"], "follow": "digest", "interval": "1s", "referrers": False}
    site.write(rule)
    async with role_here(site):
        await until(lambda: proposed(site) == {f"{bad}/a/b:1.0.0": root.descriptor.digest})
        moved, new = scripted("two")
        registry.always["blobs"] = fault
        registry.manifests |= moved.manifests
        registry.blobs |= moved.blobs
        registry.tags |= moved.tags
        await until(lambda: words is None or words in reasons(site))
        digest = await push(good, "fine", "1", "here")
        site.list(rule, f"{good}/fine:1@{digest}")
        both = {f"{bad}/a/b:1.0.0": root.descriptor.digest, f"{good}/fine:1": digest}
        await until(lambda: proposed(site) == both, 8)
        if words is not None:
            del registry.always["blobs"]
            again = {"image": f"{good}/fine", "tags": ["1"], "as": "fine.example/too"}
            await asyncio.sleep(0.5)  # for a registry that is left alone
            site.list(rule, f"{good}/fine:1@{digest}", again)  # an edit has what failed tried again
            await until(lambda: proposed(site).get(f"{bad}/a/b:1.0.0") == new.descriptor.digest)
