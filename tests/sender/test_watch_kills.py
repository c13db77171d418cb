"""The fetch role is killed at random moments while tags move: in the end lock, proposal and registry say the same."""

from __future__ import annotations

import asyncio
import os
import random
import signal

from tests.sender.conftest import Site, Upstream
from tests.sender.watched import locked, proposed, push, started, until

KILLS = int(os.environ.get("CHECKVALVE_TEST_KILLS", "25"))
SEED = int(os.environ.get("CHECKVALVE_TEST_SEED", "4"))


async def test_killed_at_any_moment_it_comes_to_what_the_registry_has(site: Site, upstream: Upstream) -> None:
    rng = random.Random(SEED)
    _, host = await upstream()
    site.registries[host] = {"plain_http": True, "requests": "1000/s"}
    site.fetch |= {"interval": "100ms", "settle": "100ms"}
    tags = ("a", "b", "c")
    known = {tag: {await push(host, "app", tag, f"{tag} first")} for tag in tags}
    site.write({"image": f"{host}/app", "tags": list(tags), "follow": "digest"})
    site.journal().close()
    wanted: dict[str, str] = {}
    for number in range(KILLS):
        async with started(site, "fetch") as process:
            await asyncio.sleep(rng.uniform(0.2, 1.0))
            for tag in rng.sample(tags, 2):
                wanted[f"{host}/app:{tag}"] = await push(host, "app", tag, f"{tag} {number}")
                known[tag].add(wanted[f"{host}/app:{tag}"])
            await asyncio.sleep(rng.uniform(0, 0.4))
            process.send_signal(signal.SIGKILL)
            await process.wait()
        for found in (locked(site), proposed(site)):  # no half state: each names what the registry once had
            assert all(digest in known[name.rpartition(":")[2]] for name, digest in found.items()), f"seed {SEED}"
    async with started(site, "fetch"):
        await until(lambda: len(wanted) == len(tags) and locked(site) == proposed(site) == wanted)
