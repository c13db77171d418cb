"""What the tests of the border share: settings, signed images, scanners, and an image that is held."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from oci.layout import Layout
from protocol.release import ReleaseImage
from receiver.audit import Audit
from receiver.config import ReceiverSettings
from tests.oci_layout.images import Image, single_image
from tests.receiver.site import Site, content, release_image
from tests.support.signed import new_key, tag_form

APP, OTHER = "quay.io/team/app", "quay.io/other/tool"
KEY = new_key()


def border(site: Site, publish: str = "{layout: published}", **settings: Any) -> ReceiverSettings:
    return site.configure(publish, more=f"border: {json.dumps(settings)}\n")


def signed(name: str, image: Image, key: Any = KEY) -> tuple[ReleaseImage, Image]:
    """The entry for an image with cosign's tag form beside it, and what that is."""
    signature = tag_form(image.root, key)
    entry = release_image(name, ["1"], image)
    parts = tuple(content(item) for item in (*(d for d, _ in signature.blobs.values()), signature.root.descriptor))
    tag = image.root.descriptor.digest.replace(":", "-") + ".sig"
    return (
        replace(entry, closure=entry.closure + parts, extra_tags=((tag, signature.root.descriptor.digest),)),
        signature,
    )


def actions(site: Site) -> list[tuple[str, str]]:
    path = site.folder / "state/audit.jsonl"
    return [(one.action, one.object) for one in Audit(path).records()] if path.exists() else []


def script(site: Site, text: str) -> str:
    path = site.folder / "scan.sh"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return "./scan.sh"


async def held(site: Site, image: Image, entry: ReleaseImage, *more: Image, **settings: Any) -> str:
    """Publish *entry* beside an image that nothing speaks against; return why the first is held."""
    fine = single_image("fine")
    site.fill(image, fine, *more)
    site.release(entry, release_image(OTHER, ["1"], fine))
    assert await site.once(border(site, **settings)) == 1
    rows = site.images()
    assert (rows[entry.name]["state"], rows[OTHER]["state"]) == ("held", "published")
    assert await Layout.open(site.folder / "published").repositories() == [f"internal/{OTHER}"]
    for digest in image.all_files():
        assert site.spool.size(digest) is not None  # quarantined, not thrown away
    assert actions(site)[0][0] in ("held", "published")
    assert ("held", f"{entry.name}@{entry.root.digest}") in actions(site)
    return str(rows[entry.name]["error"])


async def held_by(site: Site, image: Image, settings: dict[str, Any]) -> str:
    site.fill(image)
    site.release(release_image(APP, ["1"], image))
    assert await site.once(border(site, **settings)) == 1
    return str(site.images()[APP]["error"])
