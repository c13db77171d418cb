"""A registry that is reached under another address than the images' names have: mirrors and pull-through caches."""

from __future__ import annotations

import pytest

from oci.client import Registry
from runtime.errors import UserError
from sender.config import RegistryAccess
from tests.oci_layout.images import multi_image
from tests.sender.conftest import Site, Upstream


@pytest.mark.parametrize(("path", "where"), [("", ""), ("/cache/hub", "cache/hub/")])
async def test_the_name_stays_and_the_location_is_asked(
    site: Site, upstream: Upstream, path: str, where: str
) -> None:
    _, host = await upstream()
    image = multi_image()
    async with Registry(host, plain_http=True) as registry:
        await image.push(registry.repository(f"{where}library/nginx"), "1.27")
    site.registries["docker.io"] = {"location": f"{host}{path}", "plain_http": True}
    site.write(f"nginx:1.27@{image.root.descriptor.digest}")

    outcome = await site.round()

    assert (outcome.ready, site.said) == (1, [])
    (proposed,) = site.proposal()
    assert (proposed.name, proposed.tags) == ("docker.io/library/nginx", ("1.27",))


@pytest.mark.parametrize("location", ["", "http://mirror.example", "mirror.example/", "mirror.example/Upper", "a b"])
def test_a_location_that_is_none_is_named(site: Site, location: str) -> None:
    site.registries["docker.io"] = {"location": location}
    site.write()
    with pytest.raises(UserError) as caught:
        site.settings()
    assert "fetch.registries" in str(caught.value)
    assert "location" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_without_a_location_the_registry_is_where_its_name_says() -> None:
    assert RegistryAccess().place("quay.io") == ("quay.io", "")
    assert RegistryAccess(location="Mirror.example:5000/hub").place("docker.io") == ("mirror.example:5000", "hub/")
