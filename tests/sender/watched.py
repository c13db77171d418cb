"""What tests of the watch look at: the lock, the proposal, and a fetch role in this process or beside it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from oci.client import Registry
from oci.credentials import Credential, FixedCredential
from protocol.release import parse_images
from runtime.reload import Reload
from sender.decisions import Decisions
from sender.fetch import _Role
from sender.lock import load_lock
from tests.oci_layout.images import Image, single_image
from tests.sender.conftest import Site
from tests.sender.test_fetch_role import started, until

__all__ = ["live", "locked", "proposed", "push", "role_here", "started", "stays", "until"]


def locked(site: Site, collection: str = "default") -> dict[str, str]:
    """Digests of the lock by name and tag on the other side."""
    entries = load_lock(site.settings().lock_file).entries
    return {f"{slot[1]}:{slot[2]}": entry.digest for slot, entry in entries.items() if slot[0] == collection}


def proposed(site: Site, collection: str = "default") -> dict[str, str]:
    """Digests of the proposal by name and tag."""
    journal = site.journal()
    found = Decisions(journal).proposal(collection)
    journal.close()
    images = parse_images(json.loads(found.images)) if found is not None else ()
    return {f"{image.name}:{tag}": image.root.digest for image in images for tag in image.tags or ("",)}


def live(site: Site) -> dict[str, Any]:
    """What the role shows to ``status``."""
    journal = site.journal()
    try:
        return dict(journal.live().get("fetch", ({}, 0.0))[0])
    finally:
        journal.close()


async def push(host: str, name: str, tag: str, image: Image | str, user: Credential | None = None) -> str:
    """Push an image, or one made of a text; return its digest."""
    image = single_image(image) if isinstance(image, str) else image
    login = FixedCredential(host, user) if user is not None else None
    async with Registry(host, plain_http=True, credentials=login) as registry:
        await image.push(registry.repository(name), tag)
    return image.root.descriptor.digest


@asynccontextmanager
async def role_here(site: Site) -> AsyncIterator[_Role]:
    """The role in this process, so that a test can count and wait."""
    journal = site.journal()
    settings = site.settings()
    role = _Role(settings, journal, Reload(settings, None, ()), once=False, token=None)
    task = asyncio.ensure_future(role.run())
    try:
        yield role
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        journal.close()


async def stays(condition: Callable[[], bool], seconds: float) -> None:
    """Assert that *condition* holds all the time."""
    for _ in range(int(seconds / 0.05)):
        assert condition()
        await asyncio.sleep(0.05)
