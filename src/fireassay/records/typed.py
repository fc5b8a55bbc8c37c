"""Results as dataclasses that own their names, units and shapes; to JSON with arrays beside it, and back.

    @record
    class Drift:
        rate: Annotated[float, Unit("meV/atom/ps")]
        energy: Annotated[Floats, Unit("eV"), Shape("T", "R")]

A field's unit is that of its own annotation, else, if it is a real number, of the field that holds its record:
`forces: Annotated[Errors, Unit("eV/Å")]` makes eV/Å of every such number in `Errors` without a unit of its own. A
letter in a shape stands for one number throughout a record. In JSON a number with a unit is {"value": ..., "unit": ...}
and an array {"array": its name in the npz, "shape": ..., "unit": ...}, so that people and programs can read a file
without knowing its type.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import field, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, TypeVar, dataclass_transform, get_args, get_origin, get_type_hints

import numpy as np
import pydantic
from numpy.typing import NDArray
from pydantic import ConfigDict, GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, core_schema

from fireassay.errors import InputError

T = TypeVar("T")
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]
Arrays = dict[str, NDArray[Any]]

_CONFIG = ConfigDict(extra="forbid", validate_default=True, ser_json_inf_nan="strings")


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
def record(cls: type[T]) -> type[T]:
    """A frozen dataclass with named fields only, whose types, dimensions and names are checked when it is made.

    Raises pydantic's ValidationError, a ValueError, when a value does not fit.
    """
    made: Any = pydantic.dataclasses.dataclass(cls, frozen=True, kw_only=True, eq=False, config=_CONFIG)
    return made


class Unit(str):
    """The unit of a field, such as Unit("eV/Å")."""


class Shape(tuple[str | int, ...]):
    """The shape of an array field, such as Shape("N", 3); the annotated type says of what."""

    def __new__(cls, *dimensions: str | int) -> Shape:
        return super().__new__(cls, dimensions)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        kinds = _kinds(source)

        def check(value: Any) -> NDArray[Any]:
            array = np.asarray(value)
            if array.dtype.kind not in kinds:
                raise ValueError(f"an array of {array.dtype} where {_described(kinds)} are needed")
            fixed = zip(self, array.shape, strict=False)
            if array.ndim != len(self) or any(isinstance(d, int) and d != n for d, n in fixed):
                raise ValueError(f"an array of shape {array.shape} where {self} is needed")
            return array

        schema = core_schema.no_info_plain_validator_function(check)
        return core_schema.nullable_schema(schema) if type(None) in get_args(source) else schema

    def __str__(self) -> str:
        return f"({', '.join(map(str, self))}{',' if len(self) == 1 else ''})"


def _kinds(source: Any) -> str:
    """The numpy kinds that fit NDArray[...]: numbers may be stored more narrowly than declared."""
    declared = str(source)
    return "b" if "bool" in declared else "iu" if "int" in declared else "fiu"


def _described(kinds: str) -> str:
    return {"b": "booleans", "iu": "whole numbers", "fiu": "numbers"}[kinds]


@cache
def field_types(cls: type) -> dict[str, Any]:
    """The fields' types of a record, with `Unit` and `Shape`."""
    hints = get_type_hints(cls, include_extras=True)
    return {entry.name: hints[entry.name] for entry in fields(cls)}


def metadata(annotation: Any, kind: type[T]) -> T | None:
    """The `Unit` or the `Shape` of an annotation, None when it has none."""
    extras = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    return next((extra for extra in extras if isinstance(extra, kind)), None)


def unit_of(cls: type, path: str) -> str:
    """The unit of a field by its dotted path; a key of a mapping is any word: unit_of(R, "splits.300K.forces.mae").

    Raises KeyError when there is no such field.
    """
    annotation: Any = cls
    unit = ""
    for part in path.split("."):
        inner = _without_none(annotation)
        annotation = get_args(inner)[1] if get_origin(inner) is dict else field_types(inner)[part]
        unit = metadata(annotation, Unit) or unit
    return unit


def _without_none(annotation: Any) -> Any:
    """The type within Annotated and optional unions."""
    if get_origin(annotation) is Annotated:
        return _without_none(get_args(annotation)[0])
    options = [option for option in get_args(annotation) if option is not type(None)]
    if type(None) in get_args(annotation) and len(options) == 1:
        return _without_none(options[0])
    return annotation


def encode(value: Any) -> tuple[Any, Arrays]:
    """A record as JSON values, and its arrays by name. Raises InputError when letters of shapes disagree."""
    arrays: Arrays = {}
    return _encoded(value, type(value), "", "", {}, arrays), arrays


def _encoded(value: Any, annotation: Any, unit: str, path: str, letters: dict[str, int], arrays: Arrays) -> Any:
    own_unit = metadata(annotation, Unit)
    unit = own_unit or unit
    inner = _without_none(annotation)

    def below(item: Any, kind: Any, key: str, within: dict[str, int]) -> Any:
        return _encoded(item, kind, unit, f"{path}/{key}" if path else key, within, arrays)

    if value is None:
        return None
    if is_dataclass(value):
        own: dict[str, int] = {}  # letters of shapes
        return {name: below(getattr(value, name), kind, name, own) for name, kind in field_types(type(value)).items()}
    if isinstance(value, Mapping):
        kind = (get_args(inner) or (Any, Any))[1]
        return {str(key): below(item, kind, str(key), letters) for key, item in value.items()}
    if isinstance(value, list | tuple):
        kind = (get_args(inner) or (Any,))[0]
        return [below(item, kind, str(number), letters) for number, item in enumerate(value)]
    if isinstance(value, np.ndarray):
        _agree(value, metadata(annotation, Shape), letters, path)
        arrays[path] = value
        return {"array": path, "shape": list(value.shape), "unit": unit}
    number = value.item() if isinstance(value, np.generic) else value
    known = unit if isinstance(number, float) else own_unit or ""
    if isinstance(number, float) and not math.isfinite(number):
        number = str(number)
    return {"value": number, "unit": known} if known and not isinstance(value, str | bool) else number


def _agree(array: NDArray[Any], shape: Shape | None, letters: dict[str, int], path: str) -> None:
    for letter, length in zip(shape or (), array.shape, strict=False):
        if isinstance(letter, str) and letters.setdefault(letter, length) != length:
            raise InputError(
                f"{path} has shape {array.shape}, needs {shape} with {letter} = {letters[letter]}, as another array has"
            )


def decode(cls: type[T], content: Any, arrays: Mapping[str, NDArray[Any]], where: str) -> T:
    """The record of what `encode` gave. Raises InputError, starting with `where`, when it does not fit the type."""
    try:
        _check_units(content, cls, "", "")
        return TypeAdapter(cls).validate_python(plain(content, arrays))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{where}: {place}: {first['msg'].removeprefix('Value error, ')}") from error
    except (KeyError, TypeError) as error:
        raise InputError(f"{where}: {type(error).__name__} {error}") from error


def plain(content: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    """JSON values of `encode` without their units, arrays in their places. Raises KeyError for a missing array."""
    if isinstance(content, Mapping):
        if set(content) == {"value", "unit"}:
            return content["value"]
        if set(content) == {"array", "shape", "unit"}:
            return arrays[content["array"]]
        return {key: plain(item, arrays) for key, item in content.items()}
    if isinstance(content, list):
        return [plain(item, arrays) for item in content]
    return content


def _check_units(content: Any, annotation: Any, unit: str, path: str) -> None:
    """Raises TypeError when a unit in a file is not the declared one."""
    unit = metadata(annotation, Unit) or unit
    inner = _without_none(annotation)
    if not isinstance(content, Mapping):
        return
    if "unit" in content and set(content) in ({"value", "unit"}, {"array", "shape", "unit"}):
        if content["unit"] != unit:
            raise TypeError(f"{path} is in {content['unit'] or 'no unit'}, needs {unit or 'none'}")
    elif is_dataclass(inner):
        for name, kind in field_types(inner).items():  # type: ignore[arg-type]
            _check_units(content.get(name), kind, unit, f"{path}.{name}" if path else name)
    elif get_origin(inner) is dict:
        for key, item in content.items():
            _check_units(item, get_args(inner)[1], unit, f"{path}.{key}" if path else key)
