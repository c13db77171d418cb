"""The keys of images.yaml as pydantic models; what they mean together is for intent_entry.py to say."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StrictStr, WithJsonSchema, model_validator

from judging.policy_model import Verify
from runtime.settings import Duration, Section, spelt
from sender.config import COLLECTION
from sender.images import ANY
from sender.tags import Pattern, Range

Collection = Annotated[str, COLLECTION]
_PLATFORM: Final = spelt(
    r"[a-z0-9]+/[a-z0-9_]+(?:/[a-z0-9.]+)?", "not a platform; give e.g. linux/amd64 or linux/arm/v7"
)


def _tags(value: object) -> object:
    """A list is short for ``exact:``."""
    return {"exact": value} if isinstance(value, list) else value


def _referrers(value: object) -> object:
    if value is True:
        return ANY
    if value is False:
        return ()
    if isinstance(value, list) and value and all(isinstance(one, str) and one for one in value):
        return tuple(value)
    shown = "nothing" if value is None else repr(value)
    raise ValueError(f"{shown} is neither true, false nor a list of artifact types such as application/spdx+json")


def _follow(value: object) -> object:
    if value is not False and value != "digest":
        raise ValueError(f"{value!r} is not allowed; give digest or false")
    return value


def _platforms(value: object) -> object:
    return [] if value == "all" else value


def _keep(value: object) -> int:
    text = value.removeprefix("newest").strip() if isinstance(value, str) else value
    if isinstance(text, str) and text.isascii() and text.isdigit():
        text = int(text[:9])
    if isinstance(text, bool) or not isinstance(text, int) or text < 1:
        raise ValueError(f"{value!r} is not a number of tags; give e.g. newest 3")
    return text


def _patterns(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _interval(seconds: float) -> float:
    if not 1 <= seconds <= 366 * 86_400:
        raise ValueError(f"{seconds:g} s is no interval to ask registries at; give 1s to 366d")
    return seconds


def _range(text: object) -> Range:
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is not text; put it in quotes")
    return Range(text)


def _pattern(text: object) -> Pattern:
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is not text; put it in quotes")
    return Pattern(text)


_TEXT: Final = WithJsonSchema({"type": "string"})
SemverRange = Annotated[Range, BeforeValidator(_range), _TEXT]
TagPattern = Annotated[Pattern, BeforeValidator(_pattern), _TEXT]
Referrers = Annotated[
    tuple[str, ...],
    BeforeValidator(_referrers),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
]
Platforms = Annotated[
    tuple[Annotated[str, _PLATFORM], ...],
    BeforeValidator(_platforms),
    WithJsonSchema({"anyOf": [{"const": "all"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
]


class Tags(Section):
    """``tags:`` of an entry: one of exact, semver and regex, and what narrows the latter two."""

    exact: tuple[StrictStr, ...] | None = Field(default=None, min_length=1, description="these tags, and no others")
    semver: SemverRange | None = Field(default=None, description="npm's ranges: ^1.27, ~1.2, 1.x, '>=1.2 <2'")
    regex: TagPattern | None = Field(default=None, description="must match the whole tag")
    suffix: StrictStr = Field(
        default="", max_length=128, description="of tags under semver: -alpine takes 1.27.3-alpine as 1.27.3"
    )
    exclude: Annotated[
        tuple[TagPattern, ...],
        BeforeValidator(_patterns),
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
    ] = Field(default=(), description="regular expressions; what matches one as a whole is left out")
    keep: Annotated[int, BeforeValidator(_keep), WithJsonSchema({"type": ["integer", "string"]})] | None = Field(
        default=None, description="newest N: by version where all are versions, else by creation date"
    )

    @model_validator(mode="after")
    def _one_way(self) -> Tags:
        given = [name for name in ("exact", "semver", "regex") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"{' and '.join(given) or 'nothing'} given; give one of exact, semver and regex")
        for name in ("exclude", "keep"):
            if self.exact is not None and name in self.model_fields_set:
                raise ValueError(f"{name} needs semver or regex; an exact list says already which tags")
        if self.suffix and self.semver is None:
            raise ValueError("suffix needs semver")
        return self


class Common(Section):
    """What an entry may say and ``defaults:`` may say for all entries."""

    follow: Annotated[Literal["digest", False], BeforeValidator(_follow)] | None = Field(
        default=None, description="digest: pin a tag again when it moves"
    )
    platforms: Platforms | None = Field(default=None, description="all, or a list; the index keeps its bytes")
    referrers: Referrers | None = Field(default=None, description="signatures, SBOMs…: true, false or artifact types")
    interval: Annotated[Duration, AfterValidator(_interval)] | None = Field(
        default=None, description="how often the registry is asked"
    )
    urgent: bool | None = Field(default=None, description="overtakes everything that is not urgent")
    collection: Collection | None = None
    verify: Verify | None = Field(default=None, description="what must hold of an image before it is sent")


class Defaults(Common):
    """``defaults:``"""


class Entry(Common):
    """An item of ``images:``."""

    image: StrictStr
    source: StrictStr | None = Field(default=None, alias="from", description="oci:FOLDER or archive:FILE")
    tags: Annotated[Tags, BeforeValidator(_tags)] | None = Field(default=None, description="which tags to lock")
    target: StrictStr | None = Field(default=None, alias="as", description="its name on the other side")


class Rename(Section):
    """An item of ``rename:``: names that begin with *source* begin with *target* on the other side."""

    source: StrictStr = Field(alias="from", min_length=1)
    target: StrictStr = Field(alias="to", min_length=1)


class File(Section):
    """images.yaml, and every file that it includes."""

    include: str | list[str] | None = Field(default=None, description="further files, relative to this one; globs")
    defaults: Defaults | None = None
    rename: list[Rename] | None = None
    images: list[str | Entry] | None = None


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of images.yaml, for editors."""
    document = File.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **document, "title": "images.yaml"}
