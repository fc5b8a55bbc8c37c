"""ASE databases: sqlite, JSON and LMDB (.aselmdb), read as tables: read-only, nothing constructed but arrays.

The columns are those of ASE's schema, versions 5 to 9 (ase/db/sqlite.py): arrays as little-endian blobs, pbc as bits,
key-value pairs as JSON, data as JSON or, from version 9, as JSON that points into a blob. JSON and LMDB hold the same
rows as JSON, the latter compressed by zlib under the row's id.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fireassay.data.declared import declared_units
from fireassay.data.formats.extras import required, try_reading
from fireassay.data.frame import Content, Frame
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
_ROWS: Final = 2000  # of a database that are read together
_LARGEST: Final = 1 << 30  # bytes of one row in LMDB, unpacked
_ROW_KEYS = frozenset({"numbers", "positions"})
_NOT_VALUES = frozenset(
    {"unique_id", "ctime", "mtime", "user", "constraints", "calculator", "calculator_parameters", "tags", "momenta"}
)


def read_asedb(path: Path) -> Content:
    """All rows of an ASE database in the order of their ids; the frame number is the row's id less one.

    Calculated forces are the stored ones: constraints of a row are not applied. Stress is given as ASE stores it.
    Rows that a journal of another process holds (write-ahead log) are read as well. Units that SchNetPack's metadata
    name are taken.

    Raises InputError when the file is no ASE database or a row is damaged.
    """
    contents = list(stream_asedb(path))
    frames = [frame for content in contents for frame in content.frames]
    return Content(str(path), "ASE database", frames, units=contents[0].units)


def stream_asedb(path: Path) -> Iterator[Content]:
    """The rows of a database in pieces. Raises as `read_asedb` does, where it comes to it."""
    empty = True
    try:
        with _connected(path) as connection:
            present = {row[1] for row in connection.execute("PRAGMA table_info(systems)")}
            missing = sorted({"numbers", "positions", "cell", "pbc"} - present)
            if missing:
                raise InputError(f"{path}: an sqlite file, but no ASE database: its table systems lacks {missing}")
            names = [name for name in (*_COLUMNS, *_MORE) if name in present]
            units = declared_units(_metadata(connection))
            (count,) = connection.execute("SELECT count(*) FROM systems").fetchone()
            share = path.stat().st_size // max(count, 1)
            cursor = connection.execute(f"SELECT {', '.join(names)} FROM systems ORDER BY id")
            while rows := cursor.fetchmany(_ROWS):
                empty = False
                frames = [_frame(dict(zip(names, row, strict=True)), str(path)) for row in rows]
                yield Content(str(path), "ASE database", frames, units=units, size=share * len(rows))
    except (sqlite3.Error, OverflowError) as error:
        raise InputError(
            f"{path}: cannot be read as an ASE database ({error}); it may be damaged, get it again"
        ) from error
    if empty:
        raise InputError(f"{path}: the database has no rows, needs at least one")


@contextmanager
def _connected(path: Path) -> Iterator[sqlite3.Connection]:
    """The database, opened so that nothing beside it is written; with a write-ahead log, a copy of both."""
    log = path.with_name(path.name + "-wal")
    if not (log.exists() and log.stat().st_size):
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
        try:
            yield connection
        finally:
            connection.close()
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy.db"
        shutil.copyfile(path, copy)
        shutil.copyfile(log, copy.with_name("copy.db-wal"))
        connection = sqlite3.connect(copy)
        try:
            yield connection
        finally:
            connection.close()


def _metadata(connection: sqlite3.Connection) -> Mapping[str, Any]:
    try:
        rows = connection.execute("SELECT value FROM information WHERE name = 'metadata'").fetchall()
    except sqlite3.Error:
        return {}
    return _json_mapping(rows[0][0]) if rows else {}


def _json_mapping(text: Any) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def is_json_database(content: Any) -> bool:
    """Whether parsed JSON is an ASE database: rows under their ids."""
    if not isinstance(content, dict) or "ids" not in content:
        return False
    rows = [value for key, value in content.items() if key.isdigit()]
    return bool(rows) and all(isinstance(row, dict) and row.keys() >= _ROW_KEYS for row in rows)


def read_json_database(path: Path, content: Mapping[str, Any]) -> Content:
    """The rows of ASE's JSON database, which is also what `ase.io` writes as .json."""
    frames = [_row(int(key), content[key], str(path)) for key in sorted(filter(str.isdigit, content), key=int)]
    return Content(str(path), "ASE JSON", frames, units=declared_units(content.get("metadata") or {}))


def read_aselmdb(path: Path) -> Content:
    """All rows of an LMDB in ASE's format (.aselmdb), in which OMat24, OMol25 and OC20 are distributed.

    Raises InputError when the package lmdb is missing, the values are pickles, which are never loaded, or are damaged.
    """
    contents = list(stream_aselmdb(path))
    frames = [frame for content in contents for frame in content.frames]
    return replace(contents[0], frames=frames)


def stream_aselmdb(path: Path) -> Iterator[Content]:
    """The rows of an LMDB in pieces. Raises as `read_aselmdb` does, where it comes to it."""
    lmdb = required("lmdb", path)
    try_reading("lmdb", path)
    try:
        environment = lmdb.open(str(path), subdir=path.is_dir(), readonly=True, lock=False, readahead=False)
        with environment, environment.begin() as transaction:
            metadata: Mapping[str, Any] = {}
            numbers: list[int] = []
            for key, value in transaction.cursor():
                if key == b"metadata":
                    metadata = _json_mapping(_unpacked(value, path))
                elif value[:1] == b"\x80" and not key.isdigit():
                    raise _pickled(path)
                elif key.isdigit():
                    numbers.append(int(key))
            if not numbers:
                raise InputError(f"{path}: the database has no rows, needs at least one")
            units, ordered = declared_units(metadata), sorted(numbers)
            for first in range(0, len(ordered), _ROWS):
                part = ordered[first : first + _ROWS]
                values = [transaction.get(str(number).encode()) for number in part]
                if None in values:
                    raise InputError(f"{path}: the numbers of its rows are not written as ASE does; it may be damaged")
                rows = [_lmdb_row(value, path, number) for number, value in zip(part, values, strict=True)]
                frames = [_row(number, row, str(path)) for number, row in zip(part, rows, strict=True)]
                yield Content(str(path), "ASE LMDB", frames, units=units, size=sum(map(len, values)))
    except lmdb.Error as error:
        raise InputError(f"{path}: cannot be read as LMDB ({error}); it may be damaged, get it again") from error


def _lmdb_row(value: bytes, path: Path, number: int) -> Any:
    if value[:1] == b"\x80":
        raise _pickled(path)
    try:
        return json.loads(_unpacked(value, path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} row {number}: is no compressed JSON ({error}); it may be damaged") from error


def _pickled(path: Path) -> InputError:
    return InputError(
        f"{path}: its values are pickles, which can run code and are never loaded; in the environment that wrote them, "
        "build ase.Atoms of each and save them with ase.io.write('frames.xyz', frames, format='extxyz')"
    )


def _unpacked(value: bytes, path: Path) -> bytes:
    decoder = zlib.decompressobj()
    try:
        content = decoder.decompress(value, _LARGEST)
    except zlib.error as error:
        raise InputError(f"{path}: a value is not compressed by zlib ({error}); it may be damaged") from error
    if decoder.unconsumed_tail:
        raise InputError(f"{path}: a row unpacks to more than {_LARGEST >> 20} MB; it is damaged")
    return content


def _row(number: int, row: Any, file: str) -> Frame:
    """A frame of a row in JSON."""
    where = f"{file} frame {number - 1}"
    if not (isinstance(row, dict) and row.keys() >= _ROW_KEYS):
        raise InputError(f"{where}: the row has no numbers and positions; it is damaged or of another format")
    try:
        decoded = {key: _decoded(value, _listed) for key, value in row.items()}
        cell = np.asarray(decoded.get("cell", np.zeros((3, 3))), dtype=np.float64).reshape(3, 3)
        pbc = np.asarray(decoded.get("pbc", False), dtype=bool)
        numbers = np.asarray(decoded["numbers"], dtype=np.int64).reshape(-1)
        positions = np.asarray(decoded["positions"], dtype=np.float64).reshape(-1, 3)
        pbc = np.broadcast_to(pbc, (3,)).copy()
        extra = {**_pairs(decoded.get("key_value_pairs")), **_pairs(decoded.get("data"))}
    except (ValueError, TypeError, KeyError, IndexError, RecursionError, OverflowError) as error:
        raise InputError(f"{where}: the row is damaged or of an unknown version ({error})") from error
    known = {"numbers", "positions", "cell", "pbc", "key_value_pairs", "data", "id"} | _NOT_VALUES
    values = {key: value for key, value in decoded.items() if key not in known and value is not None}
    return Frame(file, number - 1, numbers, positions, cell, pbc, _joined(values, extra))


def _pairs(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


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
    return Frame(
        file=file,
        number=number,
        atomic_numbers=atomic_numbers.astype(np.int64),
        positions=positions,
        cell=cell,
        pbc=(np.array([pbc]) & np.array([1, 2, 4])).astype(bool),
        values=_joined(values, extra),
    )


def _joined(values: dict[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Results of a calculator, then key-value pairs and data under their names, or data.NAME where one is taken."""
    for key, value in extra.items():
        values[key if key not in values else f"data.{key}"] = value
    return values


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
    """JSON with arrays where it holds some, as ASE writes them or as lists of numbers, nested or not."""
    if isinstance(value, dict):
        if "__ndarray__" in value:
            return array(*value["__ndarray__"])
        if value.get("__ase_objtype__") == "cell" and "array" in value:
            return _decoded(value["array"], array)
        return {key: _decoded(item, array) for key, item in value.items() if not key.startswith("__")}
    if isinstance(value, list):
        regular = _regular(value)
        return [_decoded(item, array) for item in value] if regular is value else regular
    return value


def _regular(items: list[Any]) -> Any:
    """The list as an array of numbers; itself when it is none."""
    if not items:
        return items
    try:
        array = np.array(items)
    except (ValueError, OverflowError):
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
