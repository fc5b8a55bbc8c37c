"""npz archives: the dialects of (r)MD17, sGDML and EGraFFBench, and molecules of many sizes in one row of atoms."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fireassay.data.declared import declared_units
from fireassay.data.frame import ATOMIC_NUMBERS, Content, Frame, shape_of
from fireassay.errors import InputError, nearest

POSITIONS = ("coords", "R", "pos", "positions", "coordinates", "xyz")
NUMBERS = (
    "nuclear_charges",
    "z",
    "atomic_numbers",
    "atomic_number",
    "Z",
    "numbers",
    "species",
    "elements",
    "symbols",
    "atom_types",
)
CELLS = ("cell", "lattice", "cells", "box", "boxes")
COUNTS = ("N", "n_atoms", "natoms", "num_atoms", "n_nodes")
MOLECULES = ("batch", "idx", "idx_m", "mol_id", "molecule", "molecule_id")
LABELS: Final = {
    "energy": ("energies", "E", "energy"),
    "forces": ("forces", "F", "force"),
}
_OF_ATOMS = frozenset(LABELS["forces"])
_OF_FRAMES = frozenset({"stress", "virial", "virials", "dipole", "dipoles"})  # never a value for each atom
_SGDML = frozenset({"type", "R", "z", "F"})  # its data sets name their type; E may be absent
_GROWTH: Final = (100, 2 << 30)  # an archive may unpack to so many times its size, or to so many bytes


def read_npz(path: Path) -> Content:
    """All frames of an npz archive with positions (S, N, 3) and atomic numbers (N,) or (S, N), zero for padding.

    Molecules of many sizes may follow one another: positions (M, 3) with M the sum of their numbers of atoms, which
    are under one of `COUNTS`, or follow from a molecule's number for each atom under one of `MOLECULES`. Atomic numbers
    may be symbols. A cell (3, 3) or (S, 3, 3) has lattice vectors in rows, except in sGDML's data sets, which have
    them in columns of `lattice`; without `pbc` a frame with a cell is periodic. Arrays of length S, or M where
    molecules follow one another, are split into frames, others appear in all. Units under names such as e_unit are
    taken.

    Raises InputError for object arrays (pickles are never loaded), damaged archives, missing or ill-shaped arrays.
    """
    arrays = load_arrays(path)
    if not arrays:
        raise InputError(f"{path}: the archive is empty, needs positions and atomic numbers")
    return Content(
        str(path), "npz", frames_of(arrays, str(path)), LABELS, units=declared_units(arrays), notes=_notes(arrays)
    )


def _notes(arrays: Mapping[str, NDArray]) -> tuple[str, ...]:
    if "lattice" in arrays and arrays.keys() >= _SGDML:
        return ("lattice has its vectors in columns, as sGDML writes it",)
    return ()


def frames_of(arrays: Mapping[str, NDArray], file: str, first: int = 0) -> list[Frame]:
    """The frames of arrays in one of the layouts of `read_npz`, counted from `first`."""
    rest = dict(arrays)
    transposed = rest.keys() >= _SGDML
    positions = _taken(rest, POSITIONS, "positions", file)
    numbers = _atomic_numbers(_taken(rest, NUMBERS, "atomic numbers", file), file)
    if positions.dtype.kind not in "fi" or positions.ndim not in (2, 3) or positions.shape[-1] != 3:
        raise InputError(f"{file}: positions have shape {positions.shape}, need (frames, atoms, 3)")
    if positions.size == 0:
        raise InputError(f"{file}: positions have shape {positions.shape}: no frames or no atoms")
    if positions.ndim == 2:
        sizes = _sizes(rest, numbers, len(positions), file)
        if sizes is not None:
            return _joined(rest, positions, numbers, sizes, file, first)
        positions = positions[None]
    n_frames, n_atoms = positions.shape[:2]
    if numbers.shape not in {(n_atoms,), (n_frames, n_atoms)}:
        raise InputError(
            f"{file}: atomic numbers have shape {numbers.shape}, need ({n_atoms},) or ({n_frames}, {n_atoms})"
        )
    numbers = np.broadcast_to(numbers, (n_frames, n_atoms))
    cells, periodic = _cells(rest, n_frames, transposed, file)
    per_frame = {key: value for key, value in rest.items() if value.ndim and value.shape[0] == n_frames}
    constant = {key: value[()] if value.ndim == 0 else value for key, value in rest.items() if key not in per_frame}
    frames = []
    for k in range(n_frames):
        values: dict[str, Any] = {key: value[k] for key, value in per_frame.items()}
        frames.append(_frame(file, first + k, numbers[k], positions[k], cells[k], periodic[k], values | constant))
    return frames


def _sizes(arrays: dict[str, NDArray], numbers: NDArray, n_atoms: int, file: str) -> NDArray[np.int64] | None:
    """Numbers of atoms of molecules that follow one another; None when the rows are a single molecule.

    Raises InputError when they do not sum to the number of rows.
    """
    if numbers.shape != (n_atoms,):
        return None
    for name in COUNTS:
        value = arrays.get(name)
        if value is None or value.dtype.kind not in "iu" or value.ndim > 1 or value.size == 0:
            continue
        sizes = np.atleast_1d(value).astype(np.int64)
        if int(sizes.sum()) != n_atoms or int(sizes.min()) < 1:
            raise InputError(
                f"{file}: {name} sums to {int(sizes.sum())} atoms with at least {int(sizes.min())} in each, but there "
                f"are {n_atoms} positions"
            )
        del arrays[name]
        return sizes
    for name in MOLECULES:
        value = arrays.get(name)
        if value is not None and value.dtype.kind in "iu" and value.shape == (n_atoms,) and (np.diff(value) >= 0).all():
            del arrays[name]
            return np.unique(value, return_counts=True)[1]
    return None


def _joined(
    arrays: dict[str, NDArray], positions: NDArray, numbers: NDArray, sizes: NDArray, file: str, first: int
) -> list[Frame]:
    """Frames of molecules that follow one another."""
    n_frames, n_atoms = len(sizes), len(positions)
    cells, periodic = _cells(arrays, n_frames, False, file)
    per_frame = {key: v for key, v in arrays.items() if v.ndim and v.shape[0] == n_frames and key not in _OF_ATOMS}
    per_atom = {key: v for key, v in arrays.items() if v.ndim and v.shape[0] == n_atoms and key not in per_frame}
    split = per_frame.keys() | per_atom.keys()
    constant = {key: value[()] if value.ndim == 0 else value for key, value in arrays.items() if key not in split}
    ends = np.cumsum(sizes)
    frames = []
    for k, (start, end) in enumerate(zip(ends - sizes, ends, strict=True)):
        values: dict[str, Any] = {key: value[k] for key, value in per_frame.items()}
        values |= {key: value[start:end] for key, value in per_atom.items()}
        frames.append(
            _frame(file, first + k, numbers[start:end], positions[start:end], cells[k], periodic[k], values | constant)
        )
    return frames


def load_arrays(path: Path) -> dict[str, NDArray]:
    """The arrays of an npz archive, pickles refused.

    Raises InputError when the archive is damaged, holds an object array, or unpacks to far more than its size.
    """
    name = ""
    try:
        with path.open("rb") as file:
            _check_growth(path)
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise InputError(
                    f"{path}: a single array {archive.shape}; save positions and atomic numbers with savez"
                )
            arrays: dict[str, NDArray] = {}
            for name in archive.files:
                arrays[name] = archive[name]
            return arrays
    except InputError:
        raise
    except (ValueError, OSError, EOFError, KeyError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        if "allow_pickle" in str(error):
            raise InputError(
                f"{path}: {f'the array {name!r}' if name else 'the file'} is a pickle, which can run code and is "
                "never loaded; save plain number arrays"
            ) from error
        raise InputError(f"{path}: cannot be read as npz ({error}); it may be damaged or cut short") from error


def _check_growth(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        return
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > max(_GROWTH[0] * size, _GROWTH[1]):
        raise InputError(f"{path}: {size / 1e6:.3g} MB that unpack to {unpacked / 1e9:.3g} GB; save it again, smaller")


def _taken(arrays: dict[str, NDArray], names: tuple[str, ...], what: str, file: str) -> NDArray:
    present = [name for name in names if name in arrays]
    if len(present) != 1:
        found = f"has both {present}" if present else f"has {sorted(arrays)}{nearest(names[0], arrays)}"
        raise InputError(f"{file}: {found}, needs {what} under exactly one of {list(names)}")
    return arrays.pop(present[0])


def _atomic_numbers(numbers: NDArray, file: str) -> NDArray[np.int64]:
    """Atomic numbers of an array of numbers or of symbols; an empty symbol is padding."""
    if numbers.dtype.kind in "US":
        symbols, place = np.unique(numbers, return_inverse=True)
        known = []
        for symbol in symbols.tolist():
            text = (symbol.decode("ascii", "replace") if isinstance(symbol, bytes) else symbol).strip()
            number = 0 if not text else int(text) if text.isdigit() else ATOMIC_NUMBERS.get(text.capitalize())
            if number is None:
                raise InputError(f"{file}: {text!r} is no chemical element")
            known.append(number)
        return np.array(known, dtype=np.int64)[place].reshape(numbers.shape)
    if numbers.dtype.kind not in "iuf" or not np.array_equal(numbers, np.rint(numbers)):
        raise InputError(f"{file}: atomic numbers are {numbers.dtype.name}, need whole numbers or symbols")
    return np.maximum(numbers, 0).astype(np.int64) if numbers.dtype.kind != "u" else numbers.astype(np.int64)


def _cells(arrays: dict[str, NDArray], n_frames: int, transposed: bool, file: str) -> tuple[NDArray, NDArray]:
    name = next((name for name in CELLS if name in arrays), None)
    if name is None:
        cell = np.zeros((3, 3))
    else:
        cell = np.asarray(arrays.pop(name))
        if cell.dtype.kind not in "fiu":
            raise InputError(f"{file}: {name} is {cell.dtype.name}, needs numbers")
        cell = cell.astype(np.float64)
        if cell.shape == (3,):
            cell = np.diag(cell)
        elif cell.shape == (n_frames, 3):
            cell = cell[:, None, :] * np.eye(3)
        elif cell.shape == (n_frames, 9):
            cell = cell.reshape(n_frames, 3, 3)
        if cell.shape not in {(3, 3), (n_frames, 3, 3)}:
            raise InputError(f"{file}: {name} has shape {cell.shape}, needs (3, 3) or ({n_frames}, 3, 3)")
        if name == "lattice" and transposed:
            cell = cell.swapaxes(-1, -2)
    cells = np.broadcast_to(cell, (n_frames, 3, 3))
    pbc = np.asarray(arrays.pop("pbc", np.any(cells != 0, axis=(1, 2))[:, None]))
    if pbc.dtype.kind not in "biuf":
        raise InputError(f"{file}: pbc is {pbc.dtype.name}, needs true and false")
    pbc = pbc.astype(bool)
    if pbc.ndim < 2 and pbc.size == 1:
        pbc = np.broadcast_to(pbc.reshape(1), (3,))
    elif pbc.shape == (n_frames,) and n_frames != 3:
        pbc = pbc[:, None]
    if pbc.shape not in {(3,), (n_frames, 1), (n_frames, 3)}:
        raise InputError(f"{file}: pbc has shape {pbc.shape}, needs (3,) or ({n_frames}, 3)")
    return cells, np.broadcast_to(pbc, (n_frames, 3))


def _frame(
    file: str, number: int, numbers: NDArray, positions: NDArray, cell: NDArray, pbc: NDArray, values: dict[str, Any]
) -> Frame:
    atoms = numbers != 0
    if not atoms.all():
        n = len(numbers)
        values = {
            key: value[atoms] if shape_of(value)[:1] == (n,) and key not in _OF_FRAMES else value
            for key, value in values.items()
        }
        numbers, positions = numbers[atoms], positions[atoms]
    return Frame(
        file, number, np.array(numbers), np.array(positions, dtype=np.float64), np.array(cell), np.array(pbc), values
    )
