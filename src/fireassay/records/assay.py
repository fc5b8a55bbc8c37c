"""One assay's record: its result, and what it was made from, so that nothing is taken for another potential's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from numpy.typing import NDArray

from fireassay.errors import InputError
from fireassay.records.files import read_arrays, read_json, write_arrays, write_json
from fireassay.records.provenance import Provenance, renewal
from fireassay.records.typed import decode, encode, plain

VERSION = 2
R = TypeVar("R")


@dataclass(frozen=True)
class AssayRecord(Generic[R]):
    """An assay's answer. `weights` is the fingerprint of the potential, `frames` those of the frames that were used,
    by split (`train`, `validation`, `start` and the test splits' names)."""

    assay: str
    potential: str
    weights: str
    frames: Mapping[str, str]
    settings: Mapping[str, Any]
    provenance: Provenance
    result: R

    def save(self, folder: Path) -> Path:
        """Writes `folder/ASSAY.npz`, then `folder/ASSAY.json`; returns the JSON's path."""
        path = folder / f"{self.assay}.json"
        result, arrays = encode(self.result)
        write_arrays(path.with_suffix(".npz"), arrays)
        content = {
            "version": VERSION,
            "assay": self.assay,
            "potential": self.potential,
            "weights": self.weights,
            "frames": dict(self.frames),
            "settings": dict(self.settings),
            "provenance": encode(self.provenance)[0],
            "result": result,
        }
        write_json(path, content)
        return path


def load_assay(path: Path, kind: type[R] | None = None) -> AssayRecord[Any]:
    """Reads `ASSAY.json` and the npz beside it; `kind` is the type of its result, None for `Untyped`.

    Raises InputError when a file is damaged, of
    another version (the line then holds the command that renews it), or does not hold such a result.
    """
    content = read_json(path)
    version = content.get("version") if isinstance(content, dict) else None
    again = f"renew it with: {renewal(path.parent.parent, path.stem)}"
    if version != VERSION:
        raise InputError(f"{path} is a record of version {version}, this fireassay reads version {VERSION}; {again}")
    arrays = read_arrays(path.with_suffix(".npz"))
    try:
        result = content["result"]
        if content["assay"] != path.stem:
            raise InputError(f"{path} is the record of the {content['assay']} assay; {again}")
        provenance = decode(Provenance, content["provenance"], {}, str(path))
        head = {name: content[name] for name in ("assay", "potential", "weights", "frames", "settings")}
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}: {error}); {again}") from error
    try:
        found = decode(kind, result, arrays, str(path)) if kind is not None else _untyped(result, arrays)
    except InputError as error:
        raise InputError(f"{error}; {again}") from error
    return AssayRecord(**head, provenance=provenance, result=found)


@dataclass(frozen=True)
class Untyped:
    """A result whose type is not known here: JSON values with units, and the arrays that they name."""

    values: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]


def _untyped(result: Any, arrays: Mapping[str, NDArray[Any]]) -> Untyped:
    if not isinstance(result, Mapping):
        raise InputError(f"the result is a {type(result).__name__}, an object is needed")
    try:
        plain(result, arrays)  # every array is there
    except KeyError as error:
        raise InputError(f"the array {error} is missing") from error
    return Untyped(result, arrays)
