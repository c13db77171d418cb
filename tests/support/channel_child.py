"""The other end of a channel, for tests: ``python -m tests.support.channel_child DESCRIPTOR``; does as it is told."""

from __future__ import annotations

import os
import sys
import time
from typing import Annotated, Literal, NoReturn

from pydantic import Field, TypeAdapter

from runtime.channel import Channel, Message, child_main
from runtime.errors import UserError


class Echo(Message):
    kind: Literal["echo"] = "echo"
    data: bytes


class Do(Message):
    kind: Literal["do"] = "do"
    what: Literal["fail", "crash", "babble", "sleep"]


Said = Echo | Do
SAID: TypeAdapter[Said] = TypeAdapter(Annotated[Said, Field(discriminator="kind")])


def drive(channel: Channel[Said], first: Said, descriptors: list[int]) -> NoReturn:
    waiting = [first]
    while True:
        for message in waiting:
            match message:
                case Echo():
                    channel.send(message)
                case Do(what="fail"):
                    raise UserError("link.mtu: too large for this one", exit_code=2)
                case Do(what="crash"):
                    os.abort()
                case Do(what="babble"):
                    os.write(channel.fileno(), b'{"kind": "order", "data": 7}')
                case Do(what="sleep"):
                    time.sleep(60)
        waiting = channel.receive()
        time.sleep(0.001)


if __name__ == "__main__":
    sys.exit(child_main(SAID, drive))
