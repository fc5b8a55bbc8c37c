"""The base of every recipe and of every assay's settings; and in one line what is wrong with values for them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from fireassay.errors import InputError, nearest

Model = TypeVar("Model", bound=BaseModel)

_NEEDED: Final = {
    "greater_than": "{number} above {gt:g}",
    "greater_than_equal": "{number} of at least {ge:g}",
    "less_than": "{number} below {lt:g}",
    "less_than_equal": "{number} of at most {le:g}",
    "finite_number": "a finite number",
    "literal_error": "{expected}",
    "too_long": "at most {max_length} values",
    "too_short": "at least {min_length} values",
}
_NEEDED_BY_KIND: Final = {  # the first word of an error's type
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "a text",
    "list": "a list",
    "tuple": "a list",
    "dict": "keys with values",
    "model": "keys with values",
    "mapping": "keys with values",
}


class Settings(BaseModel):
    """Immutable settings with validation; an unknown key is an error. Field descriptions become the JSON schema."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @classmethod
    def defined_by(cls, protocol: str) -> frozenset[str]:
        """The settings that a named protocol decides; none where there are no protocols."""
        del protocol
        return frozenset()

    @model_validator(mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, content: Any) -> Any:
        for name, value in content.items() if isinstance(content, Mapping) else ():
            field = cls.model_fields.get(name)
            if isinstance(value, bool) and field is not None and not {bool, Any} & _kinds(field.annotation):
                raise ValueError(
                    f"{name} cannot be {str(value).lower()}; it is: {field.description or field.annotation}"
                )
        return content


def validated(schema: type[Model], content: Any, where: str) -> Model:
    """`content` as an object of `schema`. Raises InputError with one line that names every wrong key."""
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{where}: {'; '.join(_messages(error, schema, content))}") from error


def _messages(error: ValidationError, schema: type[BaseModel], content: Any) -> list[str]:
    """One message for each place; where several types were tried, what each of those needs that came farthest."""
    entries: dict[tuple[Any, ...], list[Any]] = {}
    for entry in error.errors():
        entries.setdefault(_place(entry, content), []).append(entry)
    above = {place[:length] for place in entries for length in range(len(place))}
    return [_message(place, found, schema) for place, found in entries.items() if place not in above]


def _place(entry: Any, content: Any) -> tuple[Any, ...]:
    """The keys and indices of an error's location, without the names of the types that were tried on the way."""
    *above, last = entry["loc"] or (None,)
    place: list[Any] = []
    for part in above:
        if _leads(content, part):
            place.append(part)
            content = content[part]
    return (*place, last) if entry["type"] == "missing" or _leads(content, last) else tuple(place)


def _leads(content: Any, part: Any) -> bool:
    """Whether a part of a location is a key or an index of what was given, and not the name of a type."""
    if isinstance(content, Mapping):
        return part in content
    return isinstance(content, Sequence) and not isinstance(content, str) and isinstance(part, int)


def _message(place: tuple[Any, ...], entries: list[Any], schema: type[BaseModel]) -> str:
    name, first = ".".join(map(str, place)), entries[0]
    kind, context = first["type"], first.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown key {name}{nearest(str(place[-1]), _known_keys(schema, first['loc'][:-1]))}"
    if kind == "missing":
        return f"{name} is missing"
    if kind.startswith("union_tag"):
        key = context["discriminator"].strip("'")
        if kind == "union_tag_not_found":
            return f"{name}.{key} is missing"
        known = [text.strip("'") for text in context["expected_tags"].split(", ")]
        return f"{name}.{key} is {context['tag']!r}{nearest(context['tag'], known)}; known are {', '.join(known)}"
    said = [entry["msg"].removeprefix("Value error, ") for entry in entries if entry["type"] == "value_error"]
    if said:
        return " or ".join(
            dict.fromkeys(text if not name or text.startswith(name) else f"{name}: {text}" for text in said)
        )
    needs = " or ".join(dict.fromkeys(map(_needed, entries)))
    given = first["input"]
    return f"{name} needs {needs}, got {'keys with values' if isinstance(given, Mapping) else repr(given)}"


def _needed(entry: Any) -> str:
    kind = entry["type"]
    if kind in _NEEDED:
        number = "a whole number" if "int" in str(entry["loc"][-1]) else "a number"
        return _NEEDED[kind].format(number=number, **entry.get("ctx", {}))
    return str(_NEEDED_BY_KIND.get(kind.partition("_")[0], entry["msg"]))


def _known_keys(schema: Any, location: Sequence[Any]) -> list[str]:
    """The keys of the settings at a location, in which the tag of a union picks one of its settings."""
    options: list[Any] = [schema]
    for part in location:
        found = [option for option in options if part in option.model_fields]
        if found:
            options = list(_settings_in(found[0].model_fields[part].annotation))
        else:
            options = [option for option in options if part in _tags(option)] or options
    return list(dict.fromkeys(key for option in options for key in option.model_fields))


def _settings_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _settings_in(part)


def _tags(settings: type[BaseModel]) -> set[Any]:
    """The values of its fields that can have one value only, such as its `type`."""
    return {value for field in settings.model_fields.values() for value in get_args(field.annotation)}


def _kinds(annotation: Any) -> set[Any]:
    """A type and all types in it."""
    return {annotation}.union(*(_kinds(part) for part in get_args(annotation)))
