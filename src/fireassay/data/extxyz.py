"""Extended XYZ, plain or compressed, read strictly: what the file says is kept, what it does not say is not guessed.

The format: https://github.com/libAtoms/extxyz. Nothing in a file is evaluated; `_JSON` values are parsed as JSON.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from fireassay.data.frame import ATOMIC_NUMBERS, Frame
from fireassay.errors import InputError

_MAGIC = {b"\x1f\x8b": gzip.open, b"\xfd7zXZ\x00": lzma.open, b"BZh": bz2.open}
_KEY = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|([^\s="]+))\s*(=?)\s*')
_BARE = re.compile(r"[^\s]+")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_BOOLEANS = {"T": True, "F": False, "True": True, "False": False, "true": True, "false": False}
_PLAIN = [("species", "S", 1), ("pos", "R", 3)]

Column = tuple[str, str, int]


def read_extxyz(path: Path) -> list[Frame]:
    """All frames of an extended or plain XYZ file, compressed by gzip, xz, bzip2 or not at all.

    A frame with a Lattice and no pbc is periodic, one without Lattice is not. Columns that the Properties do not
    name appear under "columns_5_to_7" and the like.

    Raises InputError with file, frame and line for anything that is cut short or malformed.
    """
    frames: list[Frame] = []
    try:
        with _opened(path) as text:
            frames.extend(_frames(text, str(path)))
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not UTF-8 text after {len(frames)} frames; extended XYZ is text, is this another format?"
        ) from error
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path}: the compressed file is damaged or cut short after {len(frames)} frames ({error}); get it again"
        ) from error
    if not frames:
        raise InputError(f"{path}: the file is empty, needs at least one frame in extended XYZ")
    return frames


def _opened(path: Path) -> TextIO:
    with path.open("rb") as raw:
        head = raw.read(6)
    for magic, opener in _MAGIC.items():
        if head.startswith(magic):
            return opener(path, "rt", encoding="utf-8")  # type: ignore[return-value]
    return path.open(encoding="utf-8")


def _frames(text: TextIO | io.StringIO, file: str) -> Iterator[Frame]:
    line = number = 0
    lines = iter(text)
    for head in lines:
        line += 1
        if not head.strip():
            continue
        where = f"{file} frame {number} (line {line})"
        if not head.strip().isdigit():
            raise InputError(f"{where}: found {_excerpt(head)}, needs the number of atoms of an XYZ frame")
        n = int(head)
        comment = next(lines, None)
        if comment is None:
            raise InputError(f"{where}: the file ends after the number of atoms; it is cut short, get it again")
        block = list(islice(lines, n))
        if len(block) < n:
            raise InputError(
                f"{where}: announces {n} atoms but the file ends after {len(block)}; it is cut short, "
                "get it again or remove the frame"
            )
        yield _frame(comment, block, file, number, line)
        line += 1 + n
        number += 1


def _frame(comment: str, block: list[str], file: str, number: int, line: int) -> Frame:
    where = f"{file} frame {number} (line {line})"
    if not block:
        raise InputError(f"{where}: has no atoms; remove the frame")
    values = parse_comment(comment, f"{file} frame {number} (line {line + 1})")
    columns = _columns(values.pop("Properties", None), where)
    rows = [row.split() for row in block]
    width = sum(count for _, _, count in columns) if columns is not None else len(rows[0])
    if set(map(len, rows)) != {width}:
        k = next(k for k, row in enumerate(rows) if len(row) != width)
        raise InputError(
            f"{file} frame {number} (line {line + 2 + k}): atom {k} has {len(rows[k])} columns, needs {width}; "
            "the frame is cut short or its number of atoms is wrong"
        )
    table = list(zip(*rows, strict=True))
    arrays = _arrays(table, columns or _unnamed(width, where), file, number, line)
    lattice, pbc = values.pop("Lattice", None), values.pop("pbc", None)
    return Frame(
        file=file,
        number=number,
        atomic_numbers=_species(arrays, where),
        positions=_positions(arrays, where),
        cell=_cell(lattice, where),
        pbc=_pbc(pbc, lattice is not None, where),
        values=values | arrays,
        line=line,
    )


def _columns(properties: Any, where: str) -> list[Column] | None:
    if properties is None:
        return None
    parts = str(properties).split(":")
    triples = list(zip(parts[::3], parts[1::3], parts[2::3], strict=False))
    if len(parts) % 3 or not all(kind in "SRIL" and count.isdigit() for _, kind, count in triples):
        raise InputError(f"{where}: Properties={properties!r} is not a list of name:type:columns, type one of S R I L")
    return [(name, kind, int(count)) for name, kind, count in triples]


def _unnamed(width: int, where: str) -> list[Column]:
    if width < 4:
        raise InputError(f"{where}: {width} columns, an XYZ frame needs at least element x y z")
    if width == 4:
        return _PLAIN
    return [*_PLAIN, (f"columns_5_to_{width}" if width > 5 else "column_5", "?", width - 4)]


def _arrays(
    table: list[tuple[str, ...]], columns: list[Column], file: str, number: int, line: int
) -> dict[str, NDArray]:
    arrays: dict[str, NDArray] = {}
    first = 0
    for name, kind, count in columns:
        chosen = table[first : first + count]
        first += count
        try:
            array = _converted(chosen, kind)
        except (ValueError, KeyError, OverflowError) as error:
            k, token = _culprit(chosen, kind)
            raise InputError(
                f"{file} frame {number} (line {line + 2 + k}): {token!r} in column {name!r} is not "
                f"{ {'R': 'a number', 'I': 'an integer', 'L': 'T or F'}.get(kind, 'readable') }"
            ) from error
        arrays[name] = array[:, 0] if count == 1 else array
    return arrays


def _converted(columns: list[tuple[str, ...]], kind: str) -> NDArray:
    if kind == "?":
        try:
            return _converted(columns, "R")
        except ValueError:
            return _converted(columns, "S")
    if kind == "R":
        try:
            return np.array([list(map(float, column)) for column in columns], dtype=np.float64).T.copy()
        except ValueError:  # Fortran writes 1.0D-3
            return np.array(
                [[float(t.replace("D", "E").replace("d", "e")) for t in column] for column in columns]
            ).T.copy()
    if kind == "I":
        return np.array([list(map(int, column)) for column in columns], dtype=np.int64).T.copy()
    if kind == "L":
        return np.array([[_BOOLEANS[token] for token in column] for column in columns], dtype=bool).T.copy()
    return np.array(columns, dtype=str).T.copy()


def _culprit(columns: list[tuple[str, ...]], kind: str) -> tuple[int, str]:
    for k in range(len(columns[0])):
        for column in columns:
            try:
                _converted([(column[k],)], kind)
            except (ValueError, KeyError, OverflowError):
                return k, column[k]
    return 0, columns[0][0]


def _species(arrays: dict[str, NDArray], where: str) -> NDArray[np.int64]:
    names = arrays.pop("species", None)
    if names is None:
        numbers = next((arrays.pop(key) for key in ("Z", "numbers", "atomic_numbers") if key in arrays), None)
        if numbers is None:
            raise InputError(f"{where}: Properties names no species column; found {sorted(arrays)}")
        return numbers.astype(np.int64)
    if names.dtype.kind in "iu":
        return names.astype(np.int64)
    try:
        return np.array([ATOMIC_NUMBERS[name] for name in names.tolist()], dtype=np.int64)
    except KeyError:
        return _species_written_otherwise(names, where)


def _species_written_otherwise(names: NDArray, where: str) -> NDArray[np.int64]:
    """Atomic numbers in the species column, or symbols in another case."""
    numbers = []
    for name in names.tolist():
        number = int(name) if name.isdigit() else ATOMIC_NUMBERS.get(name.capitalize())
        if number is None:
            raise InputError(f"{where}: {name!r} is no chemical element")
        numbers.append(number)
    return np.array(numbers, dtype=np.int64)


def _positions(arrays: dict[str, NDArray], where: str) -> NDArray[np.float64]:
    key = "pos" if "pos" in arrays else "positions"
    if key not in arrays:
        raise InputError(f"{where}: Properties names no pos column; found {sorted(arrays)}")
    positions = arrays.pop(key)
    if positions.ndim != 2 or positions.shape[1] != 3 or positions.dtype.kind not in "fi":
        raise InputError(f"{where}: pos has shape {positions.shape}, needs three columns of numbers")
    return positions.astype(np.float64)


def _cell(lattice: Any, where: str) -> NDArray[np.float64]:
    if lattice is None:
        return np.zeros((3, 3))
    cell = np.asarray(lattice)
    if cell.dtype.kind not in "fi" or cell.size not in (3, 9):
        raise InputError(f"{where}: Lattice={lattice!r} is not nine numbers, three lattice vectors one after another")
    return np.diag(cell.astype(np.float64)) if cell.size == 3 else cell.astype(np.float64).reshape(3, 3)


def _pbc(pbc: Any, has_lattice: bool, where: str) -> NDArray[np.bool_]:
    if pbc is None:
        return np.full(3, has_lattice)
    flags = np.asarray(pbc)
    if flags.dtype.kind not in "bi" or flags.size not in (1, 3):
        raise InputError(f'{where}: pbc={pbc!r} is not three of T and F, such as pbc="T T F"')
    return np.broadcast_to(flags.astype(bool).reshape(-1), 3).copy()


def parse_comment(comment: str, where: str) -> dict[str, Any]:
    """The key=value pairs of a frame's second line, as numbers, booleans, strings, arrays or JSON values.

    A line without any "=" is free text, kept under "comment".

    Raises InputError for a value that is not closed.
    """
    values: dict[str, Any] = {}
    comment = comment.strip()
    if "=" not in comment:
        return {"comment": _typed(comment, quoted=True)} if comment else values
    at = 0
    while at < len(comment):
        match = _KEY.match(comment, at)
        if match is None:
            raise InputError(f"{where}: cannot read the comment line at {_excerpt(comment[at:])}, needs key=value")
        at = match.end()
        key = match[1] if match[1] is not None else match[2]
        if not match[3]:
            values[key] = True
            continue
        text, quoted, at = _value(comment, at, where)
        values[key] = text if key == "Properties" else _typed(text, quoted)
    return values


def _value(comment: str, at: int, where: str) -> tuple[str, bool, int]:
    opening = comment[at : at + 1]
    if opening == '"':
        match = _QUOTED.match(comment, at)
        if match is None:
            raise InputError(f"{where}: the quotation mark at {_excerpt(comment[at:])} is not closed")
        return re.sub(r"\\(.)", r"\1", match[1]), True, match.end()
    if opening and opening in "[{":
        closing = {"[": "]", "{": "}"}[opening]
        depth = 0
        for end in range(at, len(comment)):
            depth += (comment[end] == opening) - (comment[end] == closing)
            if depth == 0:
                return comment[at : end + 1], False, end + 1
        raise InputError(f"{where}: the bracket at {_excerpt(comment[at:])} is not closed")
    match = _BARE.match(comment, at)
    return (match[0], False, match.end()) if match else ("", False, at)


def _typed(text: str, quoted: bool) -> Any:
    if text.startswith("_JSON"):
        return _json(text[5:].strip(), text)
    if text[:1] in "[{" and text:
        parsed = _json(text, None)
        if parsed is not None:
            return parsed
        text = text.strip("[]{}")
    tokens = text.replace(",", " ").split() if quoted or "," not in text else [text]
    if not tokens:
        return text
    converted = [_scalar(token) for token in tokens]
    kinds = {type(value) for value in converted}
    if str in kinds or (bool in kinds and len(kinds) > 1):
        return text
    return converted[0] if len(converted) == 1 else np.array(converted)


def _json(text: str, otherwise: Any) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return otherwise
    if isinstance(value, list):
        try:
            array = np.array(value)
        except ValueError:
            return value
        return array if array.dtype.kind in "fiub" else value
    return value


def _scalar(token: str) -> bool | int | float | str:
    if token in _BOOLEANS:
        return _BOOLEANS[token]
    try:
        return int(token)
    except ValueError:
        pass
    try:
        return float(token)
    except ValueError:
        pass
    try:
        return float(token.replace("D", "E").replace("d", "e")) if token[:1] in "+-.0123456789" else token
    except ValueError:
        return token


def _excerpt(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= 40 else text[:40] + "...")
