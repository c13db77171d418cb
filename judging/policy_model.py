"""The keys of ``verify:`` as pydantic models; what they ask of an image is policy.py's to find out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

from pydantic import BeforeValidator, Field, StrictStr, TypeAdapter, field_validator, model_validator

from runtime.settings import ConfigPath, Duration, Section, Size

HOOK_S: Final = 600.0

_PATH: Final = TypeAdapter[Path](ConfigPath)
Globs = Annotated[tuple[StrictStr, ...], Field(min_length=1)]


class KeylessSigner(Section):
    """Whom to trust by certificate: *identity* (mail address or URI) as *issuer* (URL of an OIDC provider) saw it."""

    identity: Annotated[StrictStr, Field(min_length=1)]
    issuer: Annotated[StrictStr, Field(min_length=1)]
    trusted_root: ConfigPath | None = None  # None: the public instance's, as the sigstore package carries it


class Cosign(Section):
    """Whose signatures an image needs: *at_least* so many different ones of *keys* and *keyless*."""

    keys: tuple[ConfigPath, ...] = ()
    keyless: KeylessSigner | None = None
    at_least: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _enough(self) -> Cosign:
        signers = len(self.keys) + (self.keyless is not None)
        if not signers:
            raise ValueError("trusts nobody; give keys (PEM files of public keys) or keyless (identity and issuer)")
        if self.at_least > signers:
            raise ValueError(f"at_least {self.at_least} of {signers} can never be; give at most {signers}")
        return self


class Hook(Section):
    """An executable that looks at the image: *run* is it, or it and its arguments; *timeout* in seconds.

    A path with a ``/`` starts from the folder of the file it is in; a bare name is looked for in ``PATH``.
    """

    run: tuple[StrictStr, ...]
    timeout: Duration = HOOK_S

    @field_validator("run", mode="before")
    @classmethod
    def _argv(cls, value: object) -> object:
        argv = [value] if isinstance(value, str) else value
        if not isinstance(argv, list | tuple) or not argv or not all(isinstance(part, str) for part in argv):
            raise ValueError(f"{str(value)[:80]!r} is no command; give a path, or a list of it and its arguments")
        if not argv[0] or any("\0" in part for part in argv):
            raise ValueError(f"{argv[0][:80]!r} is no executable; give its path, e.g. hooks/scan.sh")
        return (str(_PATH.validate_python(argv[0])) if "/" in argv[0] else argv[0], *argv[1:])

    @field_validator("timeout")
    @classmethod
    def _some_time(cls, seconds: float) -> float:
        if seconds <= 0:
            raise ValueError(f"{seconds:g} s leaves no time; give e.g. 10m")
        return seconds


def _globs(value: object) -> object:
    return [value] if isinstance(value, str) else value


class Verify(Section):
    """``verify:``; what is not given is not asked. Sizes in bytes."""

    cosign: Cosign | None = None
    registries: Annotated[Globs, BeforeValidator(_globs)] | None = None  # host[:port]
    repositories: Annotated[Globs, BeforeValidator(_globs)] | None = None  # host[:port]/path
    media_types: Annotated[Globs, BeforeValidator(_globs)] | None = None  # of all parts, signatures' included
    max_image: Size | None = None  # all parts together, each once
    max_blob: Size | None = None  # any one part
    hook: Hook | None = None
