"""Extended XYZ, plain or compressed, read strictly: what the file says is kept, what it does not say is not guessed.

The format: https://github.com/libAtoms/extxyz. Nothing in a file is evaluated; `_JSON` values are parsed as JSON. The
rows of many frames are converted in one go where all columns after the element are numbers, those of large files by
compiled code; anything else, and anything that fails, is read frame by frame, which also says what is wrong where.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from fireassay.data.formats import xyz_scan
from fireassay.data.formats.compressed import open_text, position
from fireassay.data.formats.extxyz_comment import BOOLEANS, excerpt, parse_comment, real, whole
from fireassay.data.frame import ATOMIC_NUMBERS, Content, Frame
from fireassay.errors import InputError

_FLAGS = {**BOOLEANS, "t": True, "f": False, "1": True, "0": False}
_PLAIN = [("species", "S", 1), ("pos", "R", 3)]
_SPECIES = ("species", "symbols", "element", "elements")
_NUMBERS = ("z", "numbers", "atomic_numbers")
_POSITIONS = ("pos", "positions")
_CELL_NAMES = re.compile(r"(unit_?)?cell|lattice(_?(vectors?|matrix))?|box|simulation_?cell|supercell", re.IGNORECASE)
_CHUNK: Final = 1 << 20  # characters of rows that are converted together
_LARGE: Final = 24 << 20  # bytes from which on a file is scanned by compiled code: it takes seconds to compile, once
_SCANNED: Final = 8 << 20  # bytes of it at a time

Column = tuple[str, str, int]


class _Block(NamedTuple):
    """The lines of one frame, and where they stand in the file."""

    number: int
    line: int
    comment: str
    rows: list[str]


class _Scanned(NamedTuple):
    """Frames that lie whole in a buffer of bytes: their places, and the first frame's number and the buffer's line."""

    buffer: NDArray[np.uint8]
    places: NDArray[np.int64]  # (K, 6)
    number: int
    line: int

    def block(self, k: int) -> _Block:
        """Frame k as lines of text."""
        text = self.text(k, xyz_scan.ROWS, xyz_scan.ROWS_END).replace("\r\n", "\n").removesuffix("\n")
        return _Block(self.number + k, self.line_of(k), self.comment(k), text.split("\n"))

    def comment(self, k: int) -> str:
        """The second line of frame k."""
        return self.text(k, xyz_scan.COMMENT, xyz_scan.COMMENT_END)

    def text(self, k: int, begin: int, end: int) -> str:
        """The text between two of the frame's places. Raises UnicodeDecodeError."""
        return self.buffer[self.places[k, begin] : self.places[k, end]].tobytes().decode("utf-8")

    def line_of(self, k: int) -> int:
        """The line of the file, from 1, on which frame k begins."""
        return self.line + int(self.places[k, xyz_scan.LINE]) + 1


class _Rest(io.RawIOBase):
    """Bytes that were read already, and after them those of a file."""

    def __init__(self, held: bytes, file: BinaryIO) -> None:
        self._held, self._file = memoryview(held), file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills the buffer."""
        content = self._held[: len(buffer)] if len(self._held) else self._file.read(len(buffer))
        self._held = self._held[len(content) :]
        buffer[: len(content)] = content
        return len(content)


def read_extxyz(path: Path) -> Content:
    """All frames of an extended or plain XYZ file, compressed by gzip, xz, bzip2 or not at all.

    A frame with a Lattice and no pbc is periodic, one without Lattice is not. Lattice, pbc and Properties may be
    written in any case. Columns that the Properties do not name appear under "columns_5_to_7" and the like.

    Raises InputError with file, frame and line for anything that is cut short or malformed, for a key or column that
    is given twice, and for a cell under another name than Lattice.
    """
    frames = [frame for content in stream_extxyz(path) for frame in content.frames]
    return Content(str(path), "extended XYZ", frames)


def stream_extxyz(path: Path) -> Iterator[Content]:
    """The frames of a file piece by piece, of a few megabytes each. Raises as `read_extxyz`, where it comes to it."""
    empty, place = True, 0
    with open_text(path) as text:
        large = path.stat().st_size >= _LARGE
        for piece in _pieces(text, str(path)) if large else _chunks(text, str(path)):
            made = _scanned_frames(piece, str(path)) if isinstance(piece, _Scanned) else _frames(piece, str(path))
            frames = list(made)
            empty = empty and not frames
            at = position(text)
            yield Content(str(path), "extended XYZ", frames, size=max(0, at - place))
            place = max(place, at)
    if empty:
        raise InputError(f"{path}: the file is empty, needs at least one frame in extended XYZ")


def _pieces(text: TextIO, file: str) -> Iterator[_Scanned | list[_Block]]:
    """The frames of a large file as scanned bytes, up to the first that is not as frames usually are."""
    number = line = 0
    held = b""
    last = False
    while held or not last:
        wanted = max(_SCANNED, len(held))  # twice as much where it is not enough for one frame
        if not last:
            read = text.buffer.read(wanted)
            held, last = held + read, len(read) < wanted
        buffer = np.frombuffer(held, dtype=np.uint8)
        found = xyz_scan.scan(buffer, last)
        if len(found.places):
            yield _Scanned(buffer, found.places, number, line)
        number, line, held = number + len(found.places), line + found.lines, held[found.end :]
        if found.odd:
            rest = io.TextIOWrapper(io.BufferedReader(_Rest(held, text.buffer)), encoding="utf-8")
            yield from _chunks(rest, file, number, line)
            return


def _chunks(text: TextIO | io.StringIO, file: str, number: int = 0, line: int = 0) -> Iterator[list[_Block]]:
    """The frames of a file in groups of about `_CHUNK` characters; what is read before an error comes first.

    `number` frames and `line` lines of the file were before the text.
    """
    blocks: list[_Block] = []
    size = 0
    try:
        for block in _blocks(text, file, number, line):
            blocks.append(block)
            size += len(block.rows) * len(block.rows[0])
            if size > _CHUNK:
                yield blocks
                blocks, size = [], 0
    except InputError:
        if blocks:
            yield blocks
        raise
    if blocks:
        yield blocks


def _blocks(text: TextIO | io.StringIO, file: str, number: int, line: int) -> Iterator[_Block]:
    lines = iter(text)
    for head in lines:
        line += 1
        if not head.strip():
            continue
        where = f"{file} frame {number} (line {line})"
        if not (head.isascii() and head.strip().isdigit()):
            raise InputError(f"{where}: found {excerpt(head)}, needs the number of atoms of an XYZ frame")
        n = _count(head, where)
        comment = next(lines, None)
        if comment is None:
            raise InputError(f"{where}: the file ends after the number of atoms; it is cut short, get it again")
        block = list(islice(lines, n))
        if len(block) < n:
            raise InputError(
                f"{where}: announces {n} atoms but the file ends after {len(block)}; it is cut short, "
                "get it again or remove the frame"
            )
        if not block:
            raise InputError(f"{where}: has no atoms; remove the frame")
        yield _Block(number, line, comment, block)
        line += 1 + n
        number += 1


def _count(head: str, where: str) -> int:
    text = head.strip()
    if len(text) > 12:
        raise InputError(f"{where}: announces {excerpt(text)} atoms, more than any file holds; it is damaged")
    return int(text)


def _frames(blocks: list[_Block], file: str) -> Iterator[Frame]:
    heads = _Heads((file, block.number, block.line, block.comment) for block in blocks)
    arrays: dict[int, dict[str, NDArray]] = {}
    for columns, members in _by_columns(heads).items():
        converted = _converted_together([blocks[k].rows for k in members], columns)
        arrays |= dict(zip(members, converted or (), strict=False))
    return heads.frames(arrays, blocks.__getitem__)


def _scanned_frames(scanned: _Scanned, file: str) -> Iterator[Frame]:
    n = len(scanned.places)
    heads = _Heads((file, scanned.number + k, scanned.line_of(k), scanned.comment(k)) for k in range(n))
    arrays: dict[int, dict[str, NDArray]] = {}
    for columns, members in _by_columns(heads).items():
        places = scanned.places[members]
        width = sum(count for _, _, count in columns)
        numbers, table, sound = xyz_scan.rows_of(scanned.buffer, places, width)
        values = _of_table(table, columns)
        if values is None:
            continue
        values = {columns[0][0]: numbers, **values}
        first = 0
        for k, size, plain in zip(members, places[:, xyz_scan.COUNT].tolist(), sound.tolist(), strict=True):
            if plain:
                arrays[k] = {name: array[first : first + size] for name, array in values.items()}
            first += size
    return heads.frames(arrays, scanned.block)


class _Heads(list["_Head"]):
    """The heads of frames, up to the first that cannot be read: its error is raised when its turn comes."""

    def __init__(self, lines: Iterable[tuple[str, int, int, str]]) -> None:
        super().__init__()
        self._error: InputError | None = None
        try:
            for line in lines:
                self.append(_Head.of(*line))
        except InputError as error:
            self._error = error

    def frames(self, arrays: Mapping[int, dict[str, NDArray]], block: Callable[[int], _Block]) -> Iterator[Frame]:
        """The frames in their order: of arrays, elements as numbers, where there are any, else of the block's lines."""
        for k, head in enumerate(self):
            yield _frame(head, arrays[k], symbols=True) if k in arrays else _alone(head, block(k))
        if self._error is not None:
            raise self._error


def _by_columns(heads: list[_Head]) -> dict[tuple[Column, ...], list[int]]:
    """Numbers of frames by their columns, where all of these but the element are numbers."""
    groups: dict[tuple[Column, ...], list[int]] = {}
    for k, head in enumerate(heads):
        if head.columns is not None and _numbers_only(head.columns):
            groups.setdefault(head.columns, []).append(k)
    return groups


@lru_cache(maxsize=256)
def _numbers_only(columns: tuple[Column, ...]) -> bool:
    (name, kind, count), *others = columns
    names = [name.casefold() for name, _, _ in columns]
    return (
        name.casefold() in _SPECIES
        and (kind, count) == ("S", 1)
        and bool(others)
        and all(kind in "RI" and count for _, kind, count in others)
        and len(set(names)) == len(names)
    )


def _converted_together(rows: list[list[str]], columns: tuple[Column, ...]) -> list[dict[str, NDArray]] | None:
    """The arrays of several frames of equal columns; None when anything in them is not as it should be."""
    width = sum(count for _, _, count in columns)
    tokens = "".join([row if row.endswith("\n") else row + "\n" for block in rows for row in block]).split()
    n = sum(map(len, rows))
    if len(tokens) != n * width:
        return None
    names = tokens[::width]
    starts = [row.split(None, 1)[0] for block in rows for row in block if not row.isspace()]
    if starts != names or not set(names) <= ATOMIC_NUMBERS.keys():
        return None
    del tokens[::width]
    table = _parsed(" ".join(tokens), n * (width - 1))
    if table is None:
        return None
    arrays = _of_table(table.reshape(n, width - 1), columns)
    if arrays is None:
        return None
    species: dict[tuple[str, ...], NDArray] = {}
    found = []
    end = 0
    for block in rows:
        start, end = end, end + len(block)
        of_frame = tuple(names[start:end])
        if of_frame not in species:
            species[of_frame] = np.array([ATOMIC_NUMBERS[name] for name in of_frame], dtype=np.int64)
        found.append({columns[0][0]: species[of_frame], **{name: a[start:end] for name, a in arrays.items()}})
    return found


def _of_table(table: NDArray[np.float64], columns: tuple[Column, ...]) -> dict[str, NDArray] | None:
    """The columns after the element, of a table of all; None when one that is to be whole is not."""
    arrays: dict[str, NDArray] = {}
    first = 0
    for name, kind, count in columns[1:]:
        array = np.ascontiguousarray(table[:, first : first + count])
        first += count
        if kind == "I":
            whole = np.rint(array)
            if not (np.array_equal(whole, array) and np.abs(whole).max(initial=0) < 2**53):
                return None
            array = whole.astype(np.int64)
        arrays[name] = array[:, 0] if count == 1 else array
    return arrays


def _parsed(text: str, count: int) -> NDArray[np.float64] | None:
    """The numbers of a text; None when it is anything but `count` numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        try:
            numbers = np.fromstring(text, dtype=np.float64, sep=" ")
        except (DeprecationWarning, ValueError):
            return None
    return numbers if len(numbers) == count else None


class _Head(NamedTuple):
    """What the comment line of a frame says, its cell and columns taken out of the values."""

    file: str
    number: int
    line: int
    values: dict[str, Any]
    columns: tuple[Column, ...] | None
    cell: NDArray[np.float64]
    pbc: NDArray[np.bool_]

    @property
    def where(self) -> str:
        return f"{self.file} frame {self.number} (line {self.line})"

    @classmethod
    def of(cls, file: str, number: int, line: int, comment: str) -> _Head:
        """What a comment line says. Raises InputError for cells, flags and columns of other forms."""
        where = f"{file} frame {number} (line {line})"
        values = parse_comment(comment, f"{file} frame {number} (line {line + 1})")
        properties, lattice, pbc = (_taken(values, present, where) for present in _special(tuple(values)))
        if lattice is None:
            _refuse_other_cell(values, where)
        return cls(
            file,
            number,
            line,
            values,
            _columns(properties, where),
            _cell(lattice, where),
            _pbc(pbc, lattice is not None, where),
        )


@lru_cache(maxsize=256)
def _special(keys: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """The keys that stand for Properties, Lattice and pbc, in whatever case they are written."""
    return tuple(tuple(key for key in keys if key.casefold() == name) for name in ("properties", "lattice", "pbc"))


def _taken(values: dict[str, Any], present: tuple[str, ...], where: str) -> Any:
    """The value of a key that the format knows, taken out of the others."""
    if len(present) > 1:
        raise InputError(f"{where}: has {' and '.join(present)}, needs one of them; remove the other")
    return values.pop(present[0]) if present else None


def _refuse_other_cell(values: Mapping[str, Any], where: str) -> None:
    for key, value in values.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "fi" and _CELL_NAMES.fullmatch(key):
            raise InputError(
                f'{where}: has no Lattice but {key!r} with {value.size} numbers; write it as Lattice="ax ay az bx by '
                f"bz cx cy cz\", such as with sed 's/{key}=/Lattice=/'"
            )


def _alone(head: _Head, block: _Block) -> Frame:
    rows = [row.split() for row in block.rows]
    columns = head.columns
    width = sum(count for _, _, count in columns) if columns is not None else len(rows[0])
    if set(map(len, rows)) != {width}:
        k = next(k for k, row in enumerate(rows) if len(row) != width)
        raise InputError(
            f"{head.file} frame {head.number} (line {head.line + 2 + k}): atom {k} has {len(rows[k])} columns, needs "
            f"{width}; the frame is cut short or its number of atoms is wrong"
        )
    table = list(zip(*rows, strict=True))
    return _frame(head, _arrays(table, columns or _unnamed(width, head.where), head.file, head.number, head.line))


def _frame(head: _Head, arrays: dict[str, NDArray], symbols: bool = False) -> Frame:
    """The frame of a head and its columns, the elements among these as `symbols` that were looked up."""
    numbers, positions = _species(arrays, head), _positions(arrays, head)
    if not head.values.keys().isdisjoint(arrays):
        twice = sorted(head.values.keys() & arrays.keys())
        raise InputError(f"{head.where}: {twice[0]!r} is a column and a key of the comment line; rename one of them")
    return (Frame.unchecked if symbols else Frame)(
        file=head.file,
        number=head.number,
        atomic_numbers=numbers,
        positions=positions,
        cell=head.cell,
        pbc=head.pbc,
        values=head.values | arrays,
        line=head.line,
    )


def _columns(properties: Any, where: str) -> tuple[Column, ...] | None:
    if properties is None:
        return None
    columns = _named_columns(str(properties))
    if columns is None:
        raise InputError(f"{where}: Properties={properties!r} is not a list of name:type:columns, type one of S R I L")
    names = [name for name, _, _ in columns]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{where}: Properties names the column {twice!r} twice; rename one of them")
    return columns


@lru_cache(maxsize=256)
def _named_columns(properties: str) -> tuple[Column, ...] | None:
    """The columns of a text such as species:S:1:pos:R:3; None when it is none."""
    parts = properties.strip().split(":")
    triples = list(zip(parts[::3], parts[1::3], parts[2::3], strict=False))
    if len(parts) % 3 or not all(
        name and kind in ("S", "R", "I", "L") and count.isascii() and count.isdigit() and 0 < int(count[:4]) < 1000
        for name, kind, count in triples
    ):
        return None
    return tuple((name, kind, int(count)) for name, kind, count in triples)


def _unnamed(width: int, where: str) -> list[Column]:
    if width < 4:
        raise InputError(f"{where}: {width} columns, an XYZ frame needs at least element x y z")
    if width == 4:
        return _PLAIN
    return [*_PLAIN, (f"columns_5_to_{width}" if width > 5 else "column_5", "?", width - 4)]


def _arrays(
    table: list[tuple[str, ...]], columns: tuple[Column, ...] | list[Column], file: str, number: int, line: int
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
        return np.array([list(map(real, column)) for column in columns], dtype=np.float64).T.copy()
    if kind == "I":
        return np.array([list(map(whole, column)) for column in columns], dtype=np.int64).T.copy()
    if kind == "L":
        return np.array([[BOOLEANS[token] for token in column] for column in columns], dtype=bool).T.copy()
    return np.array(columns, dtype=str).T.copy()


def _culprit(columns: list[tuple[str, ...]], kind: str) -> tuple[int, str]:
    for k in range(len(columns[0])):
        for column in columns:
            try:
                _converted([(column[k],)], kind)
            except (ValueError, KeyError, OverflowError):
                return k, column[k]
    return 0, columns[0][0]


@lru_cache(maxsize=256)
def _named(columns: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the columns that have one of these names, in any case."""
    return tuple(name for name in columns if name.casefold() in names)


def _column(arrays: dict[str, NDArray], names: tuple[str, ...], head: _Head) -> NDArray | None:
    """The column of one of these names in any case, taken out of the others."""
    present = _named(tuple(arrays), names)
    if len(present) > 1:
        raise InputError(f"{head.where}: Properties names {' and '.join(present)}, needs one of them; rename the other")
    return arrays.pop(present[0]) if present else None


def _species(arrays: dict[str, NDArray], head: _Head) -> NDArray[np.int64]:
    names = _column(arrays, _SPECIES, head)
    if names is not None and names.dtype == np.int64 and names.ndim == 1:
        return names
    where = head.where
    if names is None:
        names = _column(arrays, _NUMBERS, head)
        if names is None:
            raise InputError(f"{where}: Properties names no species column; found {sorted(arrays)}")
    if names.ndim != 1 or names.dtype.kind not in "iufU":
        raise InputError(f"{where}: species is {names.dtype.name} of shape {names.shape}, needs one symbol an atom")
    if names.dtype.kind == "f" and not np.array_equal(names, np.rint(names)):
        raise InputError(f"{where}: atomic numbers are not whole, such as {names[names != np.rint(names)][0]:g}")
    if names.dtype.kind != "U":
        return names.astype(np.int64)
    try:
        return np.array([ATOMIC_NUMBERS[name] for name in names.tolist()], dtype=np.int64)
    except KeyError:
        return _species_written_otherwise(names, where)


def _species_written_otherwise(names: NDArray, where: str) -> NDArray[np.int64]:
    """Atomic numbers in the species column, or symbols in another case."""
    numbers = []
    for name in names.tolist():
        number = int(name) if name.isascii() and name.isdigit() else ATOMIC_NUMBERS.get(name.capitalize())
        if number is None or number > len(ATOMIC_NUMBERS):
            raise InputError(f"{where}: {name!r} is no chemical element")
        numbers.append(number)
    return np.array(numbers, dtype=np.int64)


def _positions(arrays: dict[str, NDArray], head: _Head) -> NDArray[np.float64]:
    positions = _column(arrays, _POSITIONS, head)
    if positions is None:
        raise InputError(f"{head.where}: Properties names no pos column; found {sorted(arrays)}")
    if positions.ndim != 2 or positions.shape[1] != 3 or positions.dtype.kind not in "fi":
        raise InputError(f"{head.where}: pos has shape {positions.shape}, needs three columns of numbers")
    return positions.astype(np.float64, copy=False)


def _cell(lattice: Any, where: str) -> NDArray[np.float64]:
    if lattice is None:
        return np.zeros((3, 3))
    cell = np.asarray(lattice)
    if cell.dtype.kind not in "fi" or cell.shape not in {(3,), (9,), (3, 3)}:
        raise InputError(f"{where}: Lattice={lattice!r} is not nine numbers, three lattice vectors one after another")
    return np.diag(cell.astype(np.float64)) if cell.size == 3 else cell.astype(np.float64).reshape(3, 3)


def _pbc(pbc: str | None, has_lattice: bool, where: str) -> NDArray[np.bool_]:
    if pbc is None:
        return np.full(3, has_lattice)
    flags = _periodic(str(pbc))
    if flags is None:
        raise InputError(f'{where}: pbc={pbc!r} is not three of T and F, such as pbc="T T F"')
    return np.array(flags)


@lru_cache(maxsize=256)
def _periodic(pbc: str) -> tuple[bool, ...] | None:
    """Three flags of a text such as "T T F", "1 1 0", "TTF", [true, true, false]; one flag stands for all."""
    tokens = [token.strip("\"'") for token in pbc.strip("[](){}").replace(",", " ").split()]
    if len(tokens) == 1 and tokens[0] not in _FLAGS and len(tokens[0]) == 3:
        tokens = list(tokens[0])
    if len(tokens) not in (1, 3) or not set(tokens) <= _FLAGS.keys():
        return None
    return tuple(_FLAGS[token] for token in (tokens * 3)[:3])
