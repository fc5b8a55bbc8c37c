"""The .cfg files of moment tensor potentials (MLIP-2, MLIP-3): configurations with energy, forces and plus-stress.

PlusStress is the virial -dE/dε in eV in the order xx yy zz yz xz xy. Types are numbers; their elements are in no file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fireassay.data.formats.compressed import open_text
from fireassay.data.formats.elements import numbers_of_types
from fireassay.data.frame import Content, Frame
from fireassay.errors import InputError

MARK: Final = "BEGIN_CFG"
_TITLES = ("size", "supercell", "atomdata:", "energy", "plusstress:", "feature")


def read_mtp(path: Path, elements: Sequence[str] | None = None) -> Content:
    """All configurations of a .cfg file; `elements` are those of the types 0, 1, ...

    Raises InputError when `elements` are missing or too few, or a configuration is damaged or cut short.
    """
    frames: list[Frame] = []
    with open_text(path) as text:
        for number, lines in enumerate(_configurations(text, path)):
            try:
                frames.append(_frame(str(path), number, lines, elements))
            except InputError:
                raise
            except (ValueError, IndexError) as error:
                raise InputError(f"{path} frame {number}: the configuration is damaged ({error})") from error
    if not frames:
        raise InputError(f"{path}: the file has no configurations, needs at least one")
    return Content(str(path), "MTP cfg", frames, {"virial": ("PlusStress",)})


def _configurations(text: Any, path: Path) -> Iterator[list[str]]:
    lines: list[str] | None = None
    count = 0
    for line in text:
        word = line.strip()
        if word == MARK:
            lines = []
        elif word == "END_CFG" and lines is not None:
            yield lines
            lines, count = None, count + 1
        elif lines is not None:
            lines.append(line)
    if lines is not None:
        raise InputError(f"{path}: ends within configuration {count}; it is cut short, get it again")


def _frame(file: str, number: int, lines: list[str], elements: Sequence[str] | None) -> Frame:
    parts: dict[str, list[str]] = {}
    values: dict[str, Any] = {}
    title = ""
    for line in lines:
        words = line.split()
        first = words[0].casefold() if words else ""
        if first == "feature":
            values[words[1]] = " ".join(words[2:])
            title = ""
        elif first in _TITLES:
            title = first
            parts[title] = [" ".join(words[1:])]
        elif title and words:
            parts[title].append(line)
    n = int(parts["size"][1]) if "size" in parts else 0
    head, *rows = parts.get("atomdata:", [""])
    columns = head.split()
    if not n or len(rows) != n or "type" not in columns:
        raise ValueError(f"{len(rows)} atoms of a Size of {n}, with the columns {columns}")
    table = np.array([[float(word) for word in row.split()] for row in rows])
    if table.ndim != 2 or table.shape[1] != len(columns):
        raise ValueError(f"rows of {table.shape[1:]} numbers for the columns {columns}")
    column = {name: table[:, k] for k, name in enumerate(columns)}
    cell = np.zeros((3, 3))
    vectors = parts.get("supercell", [""])[1:]
    if vectors:
        given = np.array([[float(word) for word in row.split()] for row in vectors])
        cell[: len(given)] = given
    positions = _three(column, ("cartes_x", "cartes_y", "cartes_z"))
    if positions is None:
        direct = _three(column, ("direct_x", "direct_y", "direct_z"))
        if direct is None:
            raise ValueError(f"no positions among the columns {columns}")
        positions = direct @ cell
    forces = _three(column, ("fx", "fy", "fz"))
    if forces is not None:
        values["forces"] = forces
    if "energy" in parts:
        values["energy"] = float(parts["energy"][1].split()[0])
    if "plusstress:" in parts:
        values["PlusStress"] = _virial(parts["plusstress:"])
    pbc = np.arange(3) < len(vectors)
    where = f"{file} frame {number}"
    return Frame(file, number, numbers_of_types(column["type"], elements, 0, where), positions, cell, pbc, values)


def _three(column: dict[str, NDArray], names: tuple[str, ...]) -> NDArray | None:
    return np.stack([column[name] for name in names], axis=1) if all(name in column for name in names) else None


def _virial(part: list[str]) -> NDArray:
    components = dict(zip(part[0].split(), [float(word) for word in part[1].split()], strict=True))
    return np.array([components[name] for name in ("xx", "yy", "zz", "yz", "xz", "xy")])
