"""Checks a YAML document against a pydantic model; every fault becomes one line that a person can act on.

Refuses to know any key: the models belong to the sides. Environment variables override the file, as in
``CHECKVALVE_SENDER__LINK__RATE=500Mbit``; a fault in one names the variable instead of a line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, ClassVar, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from runtime.document import Document, load_yaml
from runtime.errors import EXIT_USAGE, UserError
from runtime.faults import describe_fault, unknown_key
from runtime.units import Duration, Frequency, HostPort, Rate, Ratio, Size

__all__ = [
    "ConfigPath",
    "Document",
    "Duration",
    "Frequency",
    "HostPort",
    "Rate",
    "Ratio",
    "Section",
    "Settings",
    "Size",
    "load_settings",
    "load_yaml",
    "paths_from",
    "spelt",
    "validate",
]

_NESTING = "__"
_folder: ContextVar[Path | None] = ContextVar("folder", default=None)


class Section(BaseModel):
    """A mapping inside a settings file, or an entry of images.yaml: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Settings(BaseSettings):
    """The top level of a settings file. Subclasses set ``env_prefix`` (ending in ``__``) and ``created_by``.

    The environment wins over the file. Neither .env files nor secret folders are read.
    """

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, validate_default=True, env_nested_delimiter=_NESTING
    )
    created_by: ClassVar[str] = ""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment first, then the file, nothing else."""
        return env_settings, init_settings


M = TypeVar("M", bound=BaseModel)


def load_settings(path: str | os.PathLike[str], model: type[M]) -> M:
    """Read and check a settings file. Raises ``UserError`` (exit code 2), one line for each fault found."""
    return validate(load_yaml(path, created_by=getattr(model, "created_by", "")), model)


def validate(document: Document, model: type[M]) -> M:
    """The document as a ``model``; relative ``ConfigPath`` fields start from the document's folder.

    Raises ``UserError`` (exit code 2) with one line for each fault found.
    """
    faults = _unknown_variables(model)
    is_settings = issubclass(model, BaseSettings)
    data = dict(document.data)
    if is_settings:  # names like _env_file would steer BaseSettings itself
        for key in [key for key in data if key.startswith("_")]:
            faults.append(document.fault((key,), unknown_key(key, model)))
            del data[key]
    try:
        with paths_from(document.folder):
            checked = model(**data) if is_settings else model.model_validate(data)
    except ValidationError as error:
        variables = _variables(model)
        for fault in error.errors(include_url=False):
            line = describe_fault(document, model, fault, variables)
            if line not in faults:
                faults.append(line)
    except SettingsError as error:
        faults.append(f"environment: {error}; lists and mappings are written as JSON")
    if faults:
        raise UserError("\n".join(faults), exit_code=EXIT_USAGE)
    return checked


@contextmanager
def paths_from(folder: Path) -> Iterator[None]:
    """Let relative ``ConfigPath`` fields of what is validated meanwhile start from *folder*."""
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


def spelt(pattern: str, hint: str) -> AfterValidator:
    """Refuse text that *pattern* does not match whole, in words: ``'Bad' is <hint>``."""
    compiled = re.compile(pattern)

    def check(text: str) -> str:
        if compiled.fullmatch(text) is None:
            raise ValueError(f"{text!r} is {hint}")
        return text

    return AfterValidator(check)


def _resolve(value: object) -> object:
    if not isinstance(value, str | Path):
        return value
    if not str(value) or "\0" in str(value):
        raise ValueError(f"{str(value)!r} is not a path; give e.g. state/ or /var/lib/checkvalve")
    path = Path(value).expanduser()
    return (_folder.get() or Path.cwd()) / path


ConfigPath = Annotated[Path, BeforeValidator(_resolve)]
"""An absolute path; a relative one starts from the folder of the settings file, ``~`` is the home folder."""


def _variables(model: type[BaseModel]) -> dict[tuple[str, ...], str]:
    """The environment variables that set ``model``: location in lower case → name of the variable."""
    prefix = str(model.model_config.get("env_prefix", "")) if issubclass(model, BaseSettings) else ""
    if not prefix:
        return {}
    found = {}
    for name in os.environ:
        if name.lower().startswith(prefix.lower()):
            found[tuple(name[len(prefix) :].lower().split(_NESTING))] = name
    return found


def _unknown_variables(model: type[BaseModel]) -> list[str]:
    """Variables whose first part is no field: pydantic-settings would pass over them in silence."""
    return [
        f"environment variable {name}: {unknown_key(location[0], model)}"
        for location, name in _variables(model).items()
        if location[0] not in model.model_fields
    ]
