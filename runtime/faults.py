"""Words for validation faults: one line each, naming place, value and what would be right.

Knows pydantic's error types and nothing else; which file and which model are arguments.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from runtime.document import Document, Location
from runtime.logs import looks_secret

_VALUE_CHARS_MAX = 80

# pydantic's error type → what the value is not, and what would be right
_KINDS: Mapping[str, str] = {
    "string_type": "is not text; put it in quotes",
    "int_type": "is not a whole number",
    "int_parsing": "is not a whole number",
    "int_from_float": "is not a whole number",
    "float_type": "is not a number",
    "float_parsing": "is not a number",
    "bool_type": "is neither true nor false",
    "bool_parsing": "is neither true nor false",
    "list_type": "is not a list; start each item with '- '",
    "tuple_type": "is not a list; start each item with '- '",
    "set_type": "is not a list; start each item with '- '",
    "dict_type": "is not a mapping; give 'key: value' lines below it",
    "model_type": "is not a mapping; give 'key: value' lines below it",
    "model_attributes_type": "is not a mapping; give 'key: value' lines below it",
    "path_type": "is not a path",
}

_BOUNDS: Mapping[str, Callable[[dict[str, Any]], str]] = {
    "greater_than": lambda ctx: f"is too small; give more than {ctx['gt']}",
    "greater_than_equal": lambda ctx: f"is too small; give at least {ctx['ge']}",
    "less_than": lambda ctx: f"is too large; give less than {ctx['lt']}",
    "less_than_equal": lambda ctx: f"is too large; give at most {ctx['le']}",
    "literal_error": lambda ctx: f"is not allowed; give {ctx['expected']}",
    "enum": lambda ctx: f"is not allowed; give {ctx['expected']}",
    "string_pattern_mismatch": lambda ctx: f"does not match {ctx['pattern']}",
    "string_too_short": lambda ctx: f"is too short; give at least {ctx['min_length']} characters",
    "string_too_long": lambda ctx: f"is too long; give at most {ctx['max_length']} characters",
    "too_short": lambda ctx: f"has too few items; give at least {ctx['min_length']}",
    "too_long": lambda ctx: f"has too many items; give at most {ctx['max_length']}",
}


def describe_fault(
    document: Document,
    model: type[BaseModel],
    fault: ErrorDetails,
    variables: Mapping[tuple[str, ...], str],
) -> str:
    """The line for one pydantic error; ``variables`` maps locations to environment variables that set them."""
    location, kind = fault["loc"], fault["type"]
    if kind == "missing":
        stated = _stated(document, location[:-1])
        return document.fault((*stated, *location[-1:]), "is missing; add this key")
    if kind == "extra_forbidden":
        text = unknown_key(str(location[-1]), _model_at(model, location[:-1]))
    elif kind == "value_error":
        text = str(fault.get("ctx", {}).get("error", fault["msg"]))
    else:
        text = f"{_value(location, fault['input'])} {_complaint(fault)}"
    text = " ".join(text.split())
    variable = variables.get(tuple(str(part).lower() for part in location))
    if variable is not None:
        return f"environment variable {variable}: {text}"
    shown = _stated(document, location) or tuple(location)
    return document.fault(shown, text)


def unknown_key(key: str, model: type[BaseModel] | None) -> str:
    """``unknown key; did you mean rate?``, or the keys that ``model`` knows."""
    known = [field.alias or name for name, field in model.model_fields.items()] if model else []
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if nearest:
        return f"unknown key; did you mean {nearest[0]}?"
    return f"unknown key; known here: {', '.join(known)}" if known else "unknown key; remove it"


def _complaint(fault: ErrorDetails) -> str:
    kind, ctx = fault["type"], fault.get("ctx", {})
    if kind in _KINDS:
        return _KINDS[kind]
    if kind in _BOUNDS:
        return _BOUNDS[kind](ctx)
    return f"is not right: {fault['msg'][:1].lower()}{fault['msg'][1:]}"


def _value(location: Location, value: object) -> str:
    if any(looks_secret(part) for part in location if isinstance(part, str)):
        return "the value (not shown)"
    if value is None:
        return "nothing"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= _VALUE_CHARS_MAX else text[: _VALUE_CHARS_MAX - 1] + "…"


def _stated(document: Document, location: Location) -> tuple[str | int, ...]:
    """The parts of ``location`` that the file states; drops the tags pydantic adds for unions."""
    stated: tuple[str | int, ...] = ()
    for part in location:
        if document.has((*stated, part)):
            stated = (*stated, part)
    return stated


def _model_at(model: type[BaseModel], location: Location) -> type[BaseModel] | None:
    """The model that a location leads to, through lists, mappings, optionals and unions."""
    candidates: list[type[BaseModel]] = [model]
    for part in location:
        if isinstance(part, int):
            continue
        tagged = [candidate for candidate in candidates if candidate.__name__ == part]
        fields = [
            inner
            for candidate in candidates
            for name, field in candidate.model_fields.items()
            if part in (name, field.alias)
            for inner in _models_in(field.annotation)
        ]
        candidates = tagged or fields or candidates
    return candidates[0] if candidates else None


def _models_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [found for inner in typing.get_args(annotation) for found in _models_in(inner)]
