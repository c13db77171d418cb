"""The embedded registry in a process of its own: ``python -m tests.support.registry --layout FOLDER``.

Prints its address as a line of JSON, ``{"url": "http://127.0.0.1:40123"}``, and serves until SIGTERM or SIGINT.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
from pathlib import Path

from oci.layout import Layout
from oci.server import serve


async def _serve(folder: Path, port: int, read_only: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    server = await serve(Layout(folder), port=port, read_only=read_only)
    print(json.dumps({"url": server.url}), flush=True)
    await stop.wait()
    await server.close()


def main() -> None:
    """Parse the options and serve."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.registry", description="Serve an OCI layout.")
    parser.add_argument("--layout", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument("--read-only", action="store_true")
    given = parser.parse_args()
    asyncio.run(_serve(given.layout, given.port, given.read_only))


if __name__ == "__main__":
    main()
