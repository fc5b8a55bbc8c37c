"""The npz dialects of (r)MD17, sGDML and EGraFFBench: one composition or one row of atomic numbers per frame."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fireassay.data.frame import Frame
from fireassay.errors import InputError, nearest

_POSITIONS = ("coords", "R", "pos", "positions", "coordinates", "xyz")
_NUMBERS = ("nuclear_charges", "z", "atomic_numbers", "Z", "numbers")
_CELLS = ("cell", "lattice", "cells", "box")


def read_npz(path: Path) -> list[Frame]:
    """All frames of an npz archive with positions (S, N, 3) and atomic numbers (N,) or (S, N), zero for padding.

    A cell (3, 3) or (S, 3, 3) has lattice vectors in rows, except sGDML's `lattice`, which has them in columns;
    without `pbc` a frame with a cell is periodic. Arrays of length S are split into frames, others appear in all.

    Raises InputError for object arrays (pickles are never loaded), damaged archives, missing or ill-shaped arrays.
    """
    arrays = load_arrays(path)
    if not arrays:
        raise InputError(f"{path}: the archive is empty, needs positions and atomic numbers")
    positions = _taken(arrays, _POSITIONS, "positions", path)
    numbers = _taken(arrays, _NUMBERS, "atomic numbers", path)
    if positions.ndim == 2:
        positions = positions[None]
    if positions.ndim != 3 or positions.shape[2] != 3 or positions.dtype.kind not in "fi":
        raise InputError(f"{path}: positions have shape {positions.shape}, need (frames, atoms, 3)")
    n_frames, n_atoms = positions.shape[:2]
    if n_frames == 0 or n_atoms == 0:
        raise InputError(f"{path}: positions have shape {positions.shape}: no frames or no atoms")
    if numbers.shape not in {(n_atoms,), (n_frames, n_atoms)} or numbers.dtype.kind not in "iuf":
        raise InputError(
            f"{path}: atomic numbers have shape {numbers.shape}, need ({n_atoms},) or ({n_frames}, {n_atoms})"
        )
    numbers = np.broadcast_to(numbers.astype(np.int64), (n_frames, n_atoms))
    cells, periodic = _cells(arrays, n_frames, path)
    per_frame = {key: value for key, value in arrays.items() if value.ndim and value.shape[0] == n_frames}
    constant = {key: value[()] if value.ndim == 0 else value for key, value in arrays.items() if key not in per_frame}
    frames = []
    for k in range(n_frames):
        values: dict[str, Any] = {key: value[k] for key, value in per_frame.items()}
        frames.append(_frame(str(path), k, numbers[k], positions[k], cells[k], periodic[k], values | constant))
    return frames


def load_arrays(path: Path) -> dict[str, NDArray]:
    """The arrays of an npz archive, pickles refused.

    Raises InputError when the archive is damaged or holds an object array.
    """
    name = ""
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            arrays: dict[str, NDArray] = {}
            for name in archive.files:
                arrays[name] = archive[name]
            return arrays
    except (ValueError, OSError, EOFError, KeyError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        if "allow_pickle" in str(error):
            raise InputError(
                f"{path}: {f'the array {name!r}' if name else 'the file'} is a pickle, which can run code and is "
                "never loaded; save plain number arrays"
            ) from error
        raise InputError(f"{path}: cannot be read as npz ({error}); it may be damaged or cut short") from error


def _taken(arrays: dict[str, NDArray], names: tuple[str, ...], what: str, path: Path) -> NDArray:
    present = [name for name in names if name in arrays]
    if len(present) != 1:
        found = f"has both {present}" if present else f"has {sorted(arrays)}{nearest(names[0], arrays)}"
        raise InputError(f"{path}: {found}, needs {what} under exactly one of {list(names)}")
    return arrays.pop(present[0])


def _cells(arrays: dict[str, NDArray], n_frames: int, path: Path) -> tuple[NDArray, NDArray]:
    name = next((name for name in _CELLS if name in arrays), None)
    if name is None:
        cell = np.zeros((3, 3))
    else:
        cell = np.asarray(arrays.pop(name), dtype=np.float64)
        if cell.shape == (3,):
            cell = np.diag(cell)
        if cell.shape not in {(3, 3), (n_frames, 3, 3)}:
            raise InputError(f"{path}: {name} has shape {cell.shape}, needs (3, 3) or ({n_frames}, 3, 3)")
        if name == "lattice":
            cell = cell.swapaxes(-1, -2)
    cells = np.broadcast_to(cell, (n_frames, 3, 3))
    pbc = np.asarray(arrays.pop("pbc", np.any(cells != 0, axis=(1, 2))[:, None]), dtype=bool)
    if pbc.ndim == 1 and pbc.shape == (1,):
        pbc = np.broadcast_to(pbc, (3,))
    if pbc.shape not in {(3,), (n_frames, 1), (n_frames, 3)}:
        raise InputError(f"{path}: pbc has shape {pbc.shape}, needs (3,) or ({n_frames}, 3)")
    return cells, np.broadcast_to(pbc, (n_frames, 3))


def _frame(
    file: str, number: int, numbers: NDArray, positions: NDArray, cell: NDArray, pbc: NDArray, values: dict[str, Any]
) -> Frame:
    atoms = numbers != 0
    if not atoms.all():
        n = len(numbers)
        values = {
            key: value[atoms] if isinstance(value, np.ndarray) and value.shape[:1] == (n,) else value
            for key, value in values.items()
        }
        numbers, positions = numbers[atoms], positions[atoms]
    return Frame(
        file, number, np.array(numbers), np.array(positions, dtype=np.float64), np.array(cell), np.array(pbc), values
    )
