"""ASE databases (sqlite), read as tables: read-only, no lock file, nothing constructed but arrays.

The columns are those of ASE's schema, versions 5 to 9 (ase/db/sqlite.py): arrays as little-endian blobs, pbc as bits,
key-value pairs as JSON, data as JSON or, from version 9, as JSON that points into a blob.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fireassay.data.frame import Frame
from fireassay.errors import InputError

_ARRAYS = ("initial_charges", "initial_magmoms", "charges", "magmoms")
_COLUMNS = (
    "id",
    "numbers",
    "positions",
    "cell",
    "pbc",
    "energy",
    "free_energy",
    "forces",
    "stress",
    "dipole",
    "magmom",
    *_ARRAYS,
)
_MORE = ("key_value_pairs", "data")
_TYPES = frozenset({"int8", "int16", "int32", "int64", "uint8", "float32", "float64", "bool"})


def read_asedb(path: Path) -> list[Frame]:
    """All rows of an ASE database in the order of their ids; the frame number is the row's id less one.

    Calculated forces are the stored ones: constraints of a row are not applied. Stress is given as ASE stores it.

    Raises InputError when the file is no ASE database or a row is damaged.
    """
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
        try:
            present = {row[1] for row in connection.execute("PRAGMA table_info(systems)")}
            missing = sorted({"numbers", "positions", "cell", "pbc"} - present)
            if missing:
                raise InputError(f"{path}: an sqlite file, but no ASE database: its table systems lacks {missing}")
            names = [name for name in (*_COLUMNS, *_MORE) if name in present]
            rows = connection.execute(f"SELECT {', '.join(names)} FROM systems ORDER BY id").fetchall()
        finally:
            connection.close()
    except (sqlite3.Error, OverflowError) as error:
        raise InputError(
            f"{path}: cannot be read as an ASE database ({error}); it may be damaged, get it again"
        ) from error
    if not rows:
        raise InputError(f"{path}: the database has no rows, needs at least one")
    return [_frame(dict(zip(names, row, strict=True)), str(path)) for row in rows]


def _frame(row: dict[str, Any], file: str) -> Frame:
    number = int(row.pop("id")) - 1
    where = f"{file} frame {number}"
    try:
        atomic_numbers = _array(row.pop("numbers"), np.dtype("<i4"))
        pbc = int(row.pop("pbc"))
        positions = _array(row.pop("positions")).reshape(-1, 3)
        cell = _array(row.pop("cell")).reshape(3, 3)
        values: dict[str, Any] = {}
        for key in ("forces", "stress", "dipole", *_ARRAYS):
            if (blob := row.pop(key, None)) is not None:
                values[key] = _array(blob)
        if "forces" in values:
            values["forces"] = values["forces"].reshape(-1, 3)
        extra = _mapping(row.pop("key_value_pairs", None)) | _mapping(row.pop("data", None))
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise InputError(f"{where}: the row is damaged or of an unknown version ({error})") from error
    values |= {key: value for key, value in row.items() if value is not None}
    for key, value in extra.items():
        values[key if key not in values else f"data.{key}"] = value
    return Frame(
        file=file,
        number=number,
        atomic_numbers=atomic_numbers.astype(np.int64),
        positions=positions,
        cell=cell,
        pbc=(np.array([pbc]) & np.array([1, 2, 4])).astype(bool),
        values=values,
    )


def _array(blob: Any, dtype: np.dtype | None = None) -> NDArray:
    if isinstance(blob, str):
        raise ValueError("an array is stored as text: a database older than ASE 3.12")
    return np.frombuffer(blob, dtype or np.dtype("<f8")).copy()


def _mapping(stored: Any) -> dict[str, Any]:
    """Key-value pairs or data: JSON text, or version 9's blob of an offset, arrays, and JSON that refers to them."""
    if not stored:
        return {}
    if isinstance(stored, bytes):
        offset = int(np.frombuffer(stored[:8], "<i8")[0])
        tree = json.loads(stored[offset:].decode())
        decoded = _decoded(tree, lambda shape, name, at: _slice(stored, shape, name, at))
    else:
        decoded = _decoded(json.loads(stored), _listed)
    return decoded if isinstance(decoded, dict) else {}


def _decoded(value: Any, array: Callable[[Any, str, Any], NDArray]) -> Any:
    if isinstance(value, dict):
        if "__ndarray__" in value:
            return array(*value["__ndarray__"])
        return {key: _decoded(item, array) for key, item in value.items() if not key.startswith("__")}
    if isinstance(value, list):
        items = [_decoded(item, array) for item in value]
        if items and all(isinstance(item, (int, float, list)) for item in items):
            return _regular(items)
        return items
    return value


def _regular(items: list[Any]) -> Any:
    try:
        array = np.array(items)
    except ValueError:
        return items
    return array if array.dtype.kind in "fiub" else items


def _slice(blob: bytes, shape: Any, name: str, at: Any) -> NDArray:
    if name not in _TYPES:
        raise ValueError(f"array type {name!r}")
    dtype = np.dtype(name).newbyteorder("<")
    count = int(np.prod(shape, dtype=np.int64))
    return np.frombuffer(blob, dtype, count, int(at)).reshape(shape).astype(name)


def _listed(shape: Any, name: str, data: Any) -> NDArray:
    if name not in _TYPES:
        raise ValueError(f"array type {name!r}")
    return np.array(data, dtype=name).reshape(shape)
