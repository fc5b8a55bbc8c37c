"""VASP's ML_AB: the reference configurations of its machine-learned force fields, as text.

The layout: https://www.vasp.at/wiki/ML_AB. Stress is in kbar, positive in compression, in the order
xx yy zz xy yz zx.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from fireassay.data.formats.compressed import open_text
from fireassay.data.frame import ATOMIC_NUMBERS, Content, Frame
from fireassay.errors import InputError

MARK: Final = re.compile(r"^\s*Configuration num\.", re.MULTILINE)
_RULE = re.compile(r"^\s*([-=*])\1{9,}\s*$")
_CELL, _POSITIONS = "primitive lattice vectors", "atomic positions"
_NEEDED: Final = ("atom types and atom numbers", _CELL, _POSITIONS, "total energy", "forces")


def read_ml_ab(path: Path) -> Content:
    """All configurations of an ML_AB file, with energy, forces and stress; `system` is the name that VASP gave.

    Raises InputError when a configuration lacks a section or is cut short.
    """
    frames: list[Frame] = []
    with open_text(path) as text:
        for number, sections in enumerate(_configurations(text)):
            where = f"{path} frame {number}"
            missing = [name for name in _NEEDED if name not in sections]
            if missing:
                raise InputError(f"{where}: the configuration has no section {missing[0]!r}; the file is cut short")
            try:
                frames.append(_frame(str(path), number, sections))
            except (ValueError, IndexError) as error:
                raise InputError(f"{where}: a section of the configuration is damaged ({error})") from error
    if not frames:
        raise InputError(f"{path}: the file has no configurations, needs at least one")
    return Content(
        str(path),
        "VASP ML_AB",
        frames,
        {"group": ("system",)},
        units={"energy": "eV", "length": "Å", "stress": "-kbar"},
    )


def _configurations(text: Any) -> Iterator[dict[str, list[str]]]:
    """Section title -> its lines, for each configuration."""
    sections: dict[str, list[str]] | None = None
    title = ""
    expecting = False
    for line in text:
        if MARK.match(line):
            if sections is not None:
                yield sections
            sections, title, expecting = {}, "", False
        elif sections is None:
            continue
        elif rule := _RULE.match(line):
            expecting = rule[1] in "=*"
        elif expecting and line.strip():
            title, expecting = line.split("(")[0].strip().casefold(), False
            sections[title] = []
        elif title:
            sections[title].append(line)
    if sections is not None:
        yield sections


def _frame(file: str, number: int, sections: dict[str, list[str]]) -> Frame:
    species: list[int] = []
    for line in sections["atom types and atom numbers"]:
        symbol, count = line.split()
        if symbol not in ATOMIC_NUMBERS:
            raise ValueError(f"{symbol!r} is no chemical element")
        if not 0 < int(count) < 10**7:
            raise ValueError(f"{count} atoms of {symbol}")
        species += [ATOMIC_NUMBERS[symbol]] * int(count)
    n = len(species)
    cell, positions = _table(sections[_CELL], 3, _CELL), _table(sections[_POSITIONS], n, _POSITIONS)
    values: dict[str, Any] = {
        "energy": float(sections["total energy"][0].split()[0]),
        "forces": _table(sections["forces"], n, "forces"),
    }
    if "stress" in sections:
        numbers = [float(word) for line in sections["stress"] for word in line.split() if not word.isalpha()]
        if len(numbers) != 6:
            raise ValueError(f"stress has {len(numbers)} numbers, needs 6")
        values["stress"] = np.array(numbers)[[0, 1, 2, 4, 5, 3]]
    if sections.get("system name"):
        values["system"] = sections["system name"][0].strip()
    return Frame(file, number, np.array(species, dtype=np.int64), positions, cell, np.full(3, True), values)


def _table(lines: list[str], rows: int, what: str) -> np.ndarray:
    table = np.array([[float(word) for word in line.split()[:3]] for line in lines if line.strip()])
    if table.shape != (rows, 3):
        raise ValueError(f"{what} has shape {table.shape}, needs ({rows}, 3)")
    return table
