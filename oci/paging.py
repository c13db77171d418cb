"""Following ``Link: <…>; rel="next"`` (RFC 8288, distribution-spec: listing tags) within one registry, in bounds."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Final

from yarl import URL

from oci import limits
from oci.auth import Scopes
from oci.connection import Connection
from oci.errors import TooLarge, Unreachable
from oci.http import Reply, join, same_origin

_LINK: Final = re.compile(r'\s*<([^<>]*)>((?:\s*;\s*[A-Za-z*]+\s*(?:=\s*(?:"[^"]*"|[^",;\s]*))?)*)\s*(?:,|\Z)')
_NEXT: Final = re.compile(r';\s*rel\s*=\s*(?:next\b|"(?:[^"]*\s)?next(?:\s[^"]*)?")', re.IGNORECASE)


def next_link(values: Collection[str]) -> str | None:
    """Return the target of the first ``rel="next"`` of the Link header *values*, None if there is none."""
    for value in values:
        position = 0
        while (match := _LINK.match(value, position)) is not None and match.end() > position:
            if _NEXT.search(match[2]):
                return match[1]
            position = match.end()
    return None


async def pages(
    connection: Connection,
    url: URL,
    where: str,
    scopes: Scopes,
    *,
    headers: Mapping[str, str],
    ok: Collection[int],
    pages_max: int,
    page_bytes_max: int,
) -> AsyncIterator[Reply]:
    """Yield the pages from *url* on; only status 200 is followed further.

    Unreachable if a link leaves the registry or comes back to a page already seen, or if all of it takes more than
    limits.PAGES_SECONDS_MAX; TooLarge beyond *pages_max*. *headers* that are conditions go with the first page only.
    """
    seen = {url}
    deadline = asyncio.get_running_loop().time() + limits.PAGES_SECONDS_MAX
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                reply = await connection.fetch(
                    "GET", url, where, scopes, headers=headers, ok=ok, body_bytes_max=page_bytes_max
                )
        except TimeoutError:
            raise Unreachable(
                f"{where}: the list did not end within {limits.PAGES_SECONDS_MAX:.0f} s, at page {len(seen):,}"
            ) from None
        headers = {name: value for name, value in headers.items() if name != "If-None-Match"}
        yield reply
        target = next_link(reply.headers.getall("Link", [])) if reply.status == 200 else None
        if target is None:
            return
        url = join(url, target, where)
        if not same_origin(url, connection.base):
            raise Unreachable(f"{where}: the next page is on {url.host!r}; expected the same registry")
        if url in seen:
            raise Unreachable(f"{where}: the list of pages runs in a circle; expected it to end")
        if len(seen) >= pages_max:
            raise TooLarge(f"{where}: more than {pages_max:,} pages")
        seen.add(url)
