"""The keys of ``border:`` in receiver.yaml; what they ask of an image is border.py's to find out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StrictStr, TypeAdapter

from judging.policy_model import Globs, Verify
from protocol.beacon import COLLECTION_NAME
from protocol.release import ANY_COLLECTION
from runtime.settings import ConfigPath, Duration, Section

AGAIN_S: Final = 86_400.0
FINGERPRINT: Final = re.compile(r"SHA256:[A-Za-z0-9+/]{43}\Z")
_PATH: Final = TypeAdapter[Path](ConfigPath)


def _collection(name: str) -> str:
    if name != ANY_COLLECTION and not COLLECTION_NAME.match(name):
        raise ValueError(
            f"{name!r} is not a name; give 1 to 64 of a-z 0-9 . _ - that begin and end with a letter or digit, "
            "or '*' for all others"
        )
    return name


def _key(value: object) -> object:
    if isinstance(value, str) and FINGERPRINT.match(value):
        return value
    return _PATH.validate_python(value)


def _globs(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _word_or_globs(*words: str) -> BeforeValidator:
    """One of *words*, or globs; a single glob may stand alone."""
    return BeforeValidator(lambda value: value if value in words else _globs(value))


class Rule(Section):
    """What images whose names match one of *match* are asked besides; of several rules the first that matches."""

    match: Annotated[Globs, BeforeValidator(_globs)]  # host[:port]/path, as the release names it
    verify: Verify


class BorderSettings(Section):
    """``border:``; what is not given is not asked. The image spec is kept to in any case."""

    collections: Annotated[Globs, BeforeValidator(_globs)] = ("*",)
    # by collection, "*": all others; key files or fingerprints, which have to be among `senders`
    senders: dict[
        Annotated[str, AfterValidator(_collection)],
        Annotated[tuple[Annotated[str | Path, BeforeValidator(_key)], ...], Field(min_length=1)],
    ] = Field(default_factory=dict)
    verify: Verify = Verify()
    rules: tuple[Rule, ...] = ()
    artifacts: Annotated[
        Literal["any", "known"] | Annotated[tuple[StrictStr, ...], Field(min_length=1)],
        _word_or_globs("any", "known"),
    ] = "any"
    hold: Annotated[
        Literal["none", "all"] | Annotated[tuple[StrictStr, ...], Field(min_length=1)], _word_or_globs("none", "all")
    ] = "none"
    again: Annotated[Duration, Field(gt=0)] = AGAIN_S  # how long a verdict that holds an image counts
