"""A client of the embedded registry that sees answers as they are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import aiohttp

from oci.layout import Layout
from oci.server import RunningServer
from tests.oci_layout.images import Image

NAME = "internal/docker.io/library/nginx"


@dataclass
class Answer:
    status: int
    headers: Any
    body: bytes

    @property
    def code(self) -> str:
        """The error code, after checking that the form is the spec's."""
        assert self.headers["Content-Type"].startswith("application/json")
        (error,) = json.loads(self.body)["errors"]
        assert error["message"]
        code: str = error["code"]
        return code


class Client:
    def __init__(self, running: RunningServer, layout: Layout, session: aiohttp.ClientSession) -> None:
        self.running = running
        self.layout = layout
        self._session = session

    async def __call__(self, method: str, path: str, **more: Any) -> Answer:
        url = path if path.startswith("http") else self.running.url + path
        async with self._session.request(method, url, **more) as response:
            return Answer(response.status, response.headers, await response.read())

    async def push(self, image: Image, tag: str, name: str = NAME) -> None:
        await image.push(self.layout.repository(name), tag)

    async def start(self, name: str = NAME) -> str:
        answer = await self("POST", f"/v2/{name}/blobs/uploads/")
        assert answer.status == 202
        assert answer.headers["Range"] == "0-0"
        location: str = answer.headers["Location"]
        return location
