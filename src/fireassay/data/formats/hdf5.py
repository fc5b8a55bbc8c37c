"""HDF5 files: SPICE, ANI-1x, ANI-2x, QM7-X, DeePMD, H5MD, and any in which groups hold positions and atomic numbers.

A group that has both is a system, whatever its depth; its place in the file is the label `group` of its frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fireassay.data.declared import unit_of
from fireassay.data.formats.deepmd import is_deepmd_group, natural, read_deepmd_groups
from fireassay.data.formats.extras import required, try_reading
from fireassay.data.formats.h5md import is_h5md, read_h5md
from fireassay.data.formats.npz import LABELS, NUMBERS, POSITIONS, frames_of
from fireassay.data.formats.trial import GROWTH, SMALL
from fireassay.data.frame import Content, Frame
from fireassay.data.keys import is_gradient
from fireassay.errors import InputError

_POSITIONS = (*POSITIONS, "conformations", "atXYZ", "geometries")
_NUMBERS = (*NUMBERS, "atNUM")
_DEPTH: Final = 12
_WIDEST: Final = 16  # numbers an atom; wider arrays, such as bond orders of all pairs, stay in the file
GROUP: Final = "hdf5_group"


class _Layout(NamedTuple):
    """A known collection: the datasets that mark it, its names of the labels, and its units."""

    name: str
    marks: frozenset[str]
    names: dict[str, tuple[str, ...]]
    units: dict[str, str]


_LAYOUTS: Final = (
    _Layout(
        "SPICE",
        frozenset({"conformations", "dft_total_energy"}),
        {"energy": ("dft_total_energy",), "forces": ("dft_total_gradient",)},
        {"energy": "Hartree", "length": "Bohr", "forces": "-Hartree/Bohr"},
    ),
    _Layout(
        "ANI-1x",
        frozenset({"coordinates", "wb97x_dz.energy"}),
        {"energy": ("wb97x_dz.energy",), "forces": ("wb97x_dz.forces",)},
        {"energy": "Hartree", "length": "Å", "forces": "Hartree/Å"},
    ),
    _Layout(
        "ANI-2x",
        frozenset({"coordinates", "species", "energies"}),
        {"energy": ("energies",), "forces": ("forces",)},
        {"energy": "Hartree", "length": "Å", "forces": "Hartree/Å"},
    ),
    _Layout(
        "QM7-X",
        frozenset({"atXYZ", "atNUM"}),
        {"energy": ("ePBE0+MBD",), "forces": ("totFOR",)},
        {"energy": "eV", "length": "Å", "forces": "eV/Å"},
    ),
)


def read_hdf5(path: Path, elements: Sequence[str] | None = None) -> Content:
    """All frames of an HDF5 file, groups in the order of the file; nothing but arrays and texts is taken.

    A group is read like an npz archive. Units under the attributes `units` or `unit` of positions, energies and forces
    are taken; SPICE, ANI and QM7-X have known ones, and SPICE's gradient is turned into forces by the sign of its unit.

    Raises InputError when h5py is missing, the file is damaged, or no group has positions and atomic numbers.
    """
    h5py = required("h5py", path)
    try_reading("hdf5", path)
    try:
        with h5py.File(path, "r") as file:
            if is_h5md(file):
                return read_h5md(file, path)
            groups = list(_groups(file, h5py, ""))
            systems = {name: group for name, group in groups if is_deepmd_group(group)}
            if systems:
                return read_deepmd_groups(systems, str(path), elements)
            return _content(path, [(name, group) for name, group in groups if _is_system(group)], h5py, list(file))
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read as HDF5 ({error}); it may be damaged or cut short") from error


def _groups(group: Any, h5py: Any, name: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """All groups from the root down; links to other files are not followed."""
    yield name or "/", group
    if depth >= _DEPTH:
        return
    for key in sorted(group, key=natural):
        link = group.get(key, getlink=True)
        if isinstance(link, h5py.HardLink) and group.get(key, getclass=True) is h5py.Group:
            yield from _groups(group[key], h5py, f"{name}/{key}".lstrip("/"), depth + 1)


def _is_system(group: Any) -> bool:
    return any(name in group for name in _POSITIONS) and any(name in group for name in _NUMBERS)


def _content(path: Path, systems: list[tuple[str, Any]], h5py: Any, top: list[str]) -> Content:
    if not systems:
        raise InputError(
            f"{path}: no group has positions (one of {list(_POSITIONS)}) and atomic numbers (one of {list(_NUMBERS)}); "
            f"found at the top: {top[:10]}"
        )
    first = systems[0][1]
    layout = next((layout for layout in _LAYOUTS if all(mark in first for mark in layout.marks)), None)
    names = layout.names if layout else LABELS
    frames: list[Frame] = []
    left: set[str] = set()
    units: dict[str, str] = {}
    for name, group in systems:
        arrays, wide = _arrays(group, h5py, f"{path} {name}")
        left |= wide
        units |= _units(group, names)
        of_group = frames_of(_renamed(arrays), f"{path} {name}")
        for frame in of_group:
            values = {**frame.values, GROUP: name}
            frames.append(
                Frame(str(path), len(frames), frame.atomic_numbers, frame.positions, frame.cell, frame.pbc, values)
            )
    notes = [f"{layout.name}'s layout"] if layout else []
    if left:
        notes.append(f"left in the file, as they have more than {_WIDEST} numbers an atom: {', '.join(sorted(left))}")
    return Content(
        str(path),
        "HDF5",
        frames,
        {**names, "group": (GROUP,)},
        units,
        layout.units if layout else {},
        tuple(notes),
        settled=layout is not None,
    )


def _arrays(group: Any, h5py: Any, where: str) -> tuple[dict[str, NDArray], set[str]]:
    arrays: dict[str, NDArray] = {}
    wide: set[str] = set()
    positions = next(group[name] for name in _POSITIONS if name in group)
    rows = positions.size / 3
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            continue
        item = group[name]
        if not isinstance(item, h5py.Dataset) or item.external or item.is_virtual:
            continue
        if item.size is not None and item.size > _WIDEST * max(rows, 1) + 64:
            wide.add(name)
            continue
        if item.nbytes > max(SMALL, GROWTH * Path(item.file.filename).stat().st_size):
            raise InputError(
                f"{where}: {name} claims {item.nbytes / 1e9:.3g} GB, far more than the file; it is damaged"
            )
        value = item[()]
        array = np.asarray(value)
        if array.dtype.kind == "O" and all(isinstance(text, (bytes, str)) for text in array.reshape(-1)):
            texts = [t.decode("utf-8", "replace") if isinstance(t, bytes) else t for t in array.reshape(-1).tolist()]
            array = np.array(texts).reshape(array.shape)
        if array.dtype.kind == "S":
            array = np.char.decode(array, "utf-8", "replace")
        if array.dtype.kind in "fiubU":
            arrays[name] = array
    if positions.name.rsplit("/", 1)[-1] not in arrays:
        raise InputError(f"{where}: positions have the type {positions.dtype}, need numbers")
    for name, value in group.attrs.items():
        array = np.asarray(value)
        if array.ndim == 0 and array.dtype.kind in "fiubU":
            arrays.setdefault(name, array)
    return arrays, wide


def _renamed(arrays: dict[str, NDArray]) -> dict[str, NDArray]:
    """Positions and atomic numbers under names that `frames_of` knows."""
    for names, known in ((_POSITIONS, "positions"), (_NUMBERS, "atomic_numbers")):
        present = [name for name in names if name in arrays]
        if len(present) == 1:
            arrays[known] = arrays.pop(present[0])
    return arrays


def _units(group: Any, names: dict[str, tuple[str, ...]]) -> dict[str, str]:
    """Units that the attributes of datasets declare."""
    found: dict[str, str] = {}
    for quantity, keys in {"length": _POSITIONS, "energy": names["energy"], "forces": names["forces"]}.items():
        for key in keys:
            item = group.get(key) if key in group else None
            text = None if item is None else next((item.attrs[a] for a in ("units", "unit") if a in item.attrs), None)
            text = text.decode() if isinstance(text, bytes) else text
            if isinstance(text, str) and text.strip():
                unit = unit_of(quantity, text)
                found[quantity] = f"-{unit}" if quantity == "forces" and is_gradient(key) else unit
    return found
