"""Asks an executable, such as a scanner, whether an image may cross: exit code 0 says yes, all else holds it.

It gets the path of an image layout as its last argument and the image's entry as JSON on standard input. Whatever it
does (fails, hangs, floods its output, dies) is a reason, never an exception. Refuses to know what it looks for.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import tempfile
from asyncio.subprocess import Process
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import IO, Final

from judging.cosign import one_line
from oci.blobs import BlobStore
from oci.errors import NotFound
from protocol.release import ReleaseImage

OUTPUT_BYTES_MAX: Final = 4096  # the end of each stream; the rest is read and dropped
REASON_CHARS_MAX: Final = 300
_LINES: Final = 3  # of output, in a reason
_GRACE_S: Final = 1.0  # for output to end once the process has
_PREFIX: Final = "hook-"
_ENVIRONMENT: Final = ("PATH", "HOME", "LANG", "TMPDIR", "TZ")  # no setting or credential of ours goes along
_REF_NAME: Final = "org.opencontainers.image.ref.name"


class Unanswered(str):
    """A reason that is not the hook's own: it did not run, or not to its end. Asked again, it may say otherwise."""


async def run_hook(
    run: Sequence[str],
    timeout: float,  # seconds
    image: ReleaseImage,
    tag: str | None,
    entry: Mapping[str, object],
    blobs: BlobStore,
    scratch: Path,
) -> str | None:
    """Return None if the hook lets *image* pass, otherwise the reason, one line; Unanswered if it gave none.

    *scratch* is a folder of ours, on the file system of *blobs* if links are to be hard ones. The hook runs in a
    session of its own, without a shell, and its process group is killed when it is over, late or cancelled.
    """
    name = f"hook {Path(run[0]).name}"
    try:
        folder = await asyncio.to_thread(make_layout, image, tag, blobs, scratch)
    except (OSError, NotFound) as error:
        return Unanswered(f"{name}: no layout to look at: {one_line(str(error), REASON_CHARS_MAX)}")
    try:
        outcome = await _run([*run, str(folder)], timeout, json.dumps(dict(entry)).encode() + b"\n", folder)
    finally:
        await asyncio.shield(asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True))
    if outcome is None:
        return None
    reason = f"{name}: {outcome}"
    return Unanswered(reason) if isinstance(outcome, Unanswered) else reason


def make_layout(image: ReleaseImage, tag: str | None, blobs: BlobStore, scratch: Path) -> Path:
    """Return a new folder in *scratch*: an image layout (image-layout.md) with *image* and nothing else.

    Blobs are hard links into the spool, symbolic ones where the file system refuses. NotFound, OSError.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=scratch)).absolute()
    try:
        for part in image.contents():
            source = blobs.path(part.digest).absolute()
            if blobs.size(part.digest) != part.size:
                raise NotFound(f"{blobs.root}: no blob {part.digest} of {part.size:,} bytes")
            algorithm, _, text = part.digest.partition(":")
            link = folder / "blobs" / algorithm / text
            link.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                _link(source, link)
        root = {"mediaType": image.root.media_type, "digest": image.root.digest, "size": image.root.size}
        named = root if tag is None else {**root, "annotations": {_REF_NAME: tag}}
        (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
        (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def remove_stale(scratch: Path) -> None:
    """Remove the layouts that a role left which died; call it before the first hook of a process runs."""
    for folder in scratch.glob(f"{_PREFIX}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _link(source: Path, link: Path) -> None:
    try:
        link.hardlink_to(source)
    except FileExistsError:
        raise
    except OSError:  # another file system, too many links, or none allowed
        link.symlink_to(source)


async def _run(argv: Sequence[str], timeout: float, entry: bytes, folder: Path) -> str | None:
    with tempfile.TemporaryFile() as given:
        given.write(entry)
        given.seek(0)
        return await _watch(argv, timeout, given, folder)


async def _watch(argv: Sequence[str], timeout: float, given: IO[bytes], folder: Path) -> str | None:
    environment = {key: os.environ[key] for key in _ENVIRONMENT if key in os.environ}
    # not asyncio's pipes: with those, the process is over only when the last daemon it left has closed them
    async with AsyncExitStack() as stack:
        outputs = [await _output(stack), await _output(stack)]
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=given,
                stdout=outputs[1][0],
                stderr=outputs[0][0],
                env=environment,
                cwd=folder,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            return Unanswered(f"{argv[0]}: {_spawn_reason(error)}; verify.hook.run is an executable file")
        finally:
            for writing, _ in outputs:
                os.close(writing)
        ends = [asyncio.ensure_future(_end_of(reader)) for _, reader in outputs]
        try:
            async with asyncio.timeout(timeout):
                code = await process.wait()
        except TimeoutError:
            return Unanswered(f"not done after {timeout:g} s (verify.hook.timeout), so it was ended")
        finally:
            _kill_group(process)
            await process.wait()
            await asyncio.wait(ends, timeout=_GRACE_S)
            for task in ends:
                task.cancel()
    if code == 0:
        return None
    ended = f"ended by {_signal_name(-code)}" if code < 0 else f"exit code {code}"
    said = next((text for text in (_last_lines(task) for task in ends) if text), "")
    reason = f"{ended}: {said}" if said else ended
    return Unanswered(reason) if code < 0 else reason


async def _output(stack: AsyncExitStack) -> tuple[int, asyncio.StreamReader]:
    """Return the writing end of a pipe, the caller's to close, and a reader that closes with *stack*."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reading, "rb", 0)
    )
    stack.callback(transport.close)
    return writing, reader


async def _end_of(reader: asyncio.StreamReader) -> bytes:
    end = b""
    while chunk := await reader.read(65536):
        end = (end + chunk)[-OUTPUT_BYTES_MAX:]
    return end


def _last_lines(task: asyncio.Future[bytes]) -> str:
    if task.cancelled() or not task.done() or task.exception() is not None:
        return ""
    lines = [line for line in map(one_line, task.result().decode("utf-8", "replace").splitlines()) if line]
    return one_line("; ".join(lines[-_LINES:]), REASON_CHARS_MAX)


def _kill_group(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _signal_name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def _spawn_reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
