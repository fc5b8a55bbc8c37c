"""H5MD trajectories (de Buyl, Colberg, Höfling, Comput. Phys. Commun. 185, 1546, 2014), as `fireassay simulate` writes.

Each group of particles with positions and a species that is an atomic number is a system; forces come from its `force`,
energies from observables/potential_energy where there is one system. Velocities stay in the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fireassay.data.formats.trial import GROWTH, SMALL
from fireassay.data.frame import Content, Frame
from fireassay.errors import InputError
from fireassay.units import EV, HARTREE, KCAL_PER_MOL, KJ_PER_MOL

_LENGTHS: Final = {"Angstrom": 1.0, "Å": 1.0, "nm": 10.0, "": 1.0}
_ENERGIES: Final = {"eV": EV, "kJ mol-1": KJ_PER_MOL, "kcal mol-1": KCAL_PER_MOL, "Hartree": HARTREE}
_FORCES: Final = {
    f"{energy} {length}-1": factor / size
    for energy, factor in _ENERGIES.items()
    for length, size in (("Angstrom", 1.0), ("nm", 10.0))
}


def is_h5md(file: Any) -> bool:
    """Whether an open HDF5 file says that it is H5MD and has particles."""
    return "h5md" in file and "particles" in file


def read_h5md(file: Any, path: Path) -> Content:
    """Frames in eV and Å. Raises InputError without positions or atomic numbers, and for units that are not known."""
    systems = {name: group for name, group in file["particles"].items() if "position/value" in group}
    if not systems:
        raise InputError(f"{path}: no group of particles has positions; found {list(file['particles'])[:10]}")
    frames: list[Frame] = []
    for name, group in systems.items():
        where = f"{path} particles/{name}"
        positions = _scaled(group["position/value"], _LENGTHS, where)
        if positions.ndim != 3 or positions.shape[2] != 3 or not positions.size:
            raise InputError(f"{where}: positions have shape {positions.shape}, need (frames, atoms, 3)")
        numbers = _numbers(group, positions.shape[:2], where)
        cells, pbc = _box(group, len(positions), where)
        columns: dict[str, NDArray] = {}
        if "force/value" in group:
            columns["forces"] = _scaled(group["force/value"], _FORCES, where)
        if len(systems) == 1 and "observables/potential_energy/value" in file:
            columns["energy"] = _scaled(file["observables/potential_energy/value"], _ENERGIES, where)
        for label, array in columns.items():
            if len(array) != len(positions):
                raise InputError(f"{where}: {len(array)} values of {label} for {len(positions)} frames; needs as many")
        for k in range(len(positions)):
            values = {label: array[k] for label, array in columns.items()}
            values = {label: float(v) if np.ndim(v) == 0 else v for label, v in values.items()}
            frames.append(Frame(str(path), len(frames), numbers, positions[k], cells[k], pbc, values))
    units = {"length": "Å", "energy": "eV", "forces": "eV/Å"}
    return Content(
        str(path), "H5MD", frames, {"energy": ("energy",), "forces": ("forces",)}, units, {}, (), settled=True
    )


def _scaled(dataset: Any, known: dict[str, float], where: str) -> NDArray[np.float64]:
    """The values in eV and Å. Raises InputError when their unit is not known."""
    unit = dataset.attrs.get("unit", "")
    unit = unit.decode() if isinstance(unit, bytes) else str(unit)
    if unit not in known:
        names = ", ".join(filter(None, known))
        raise InputError(f"{where}: {dataset.name} is in {unit or 'no unit'}; known are {names}")
    return np.asarray(_inside(dataset, where), dtype=np.float64) * known[unit]


def _inside(dataset: Any, where: str) -> NDArray[Any]:
    """The values of a dataset that lies in this file. Raises InputError for another, and for sizes that cannot be."""
    file = Path(dataset.file.filename)
    if f"{file} " not in f"{where} " or dataset.external or dataset.is_virtual:
        raise InputError(f"{where}: {dataset.name} leads into another file; copy its values into this one")
    if dataset.nbytes > max(SMALL, GROWTH * file.stat().st_size):
        raise InputError(f"{where}: {dataset.name} claims {dataset.nbytes / 1e9:.3g} GB, far more than the file")
    return dataset[()]


def _numbers(group: Any, shape: tuple[int, int], where: str) -> NDArray[np.int64]:
    item = group.get("species")
    if item is None:
        raise InputError(f"{where}: there is no species, which has to be the atomic number of every atom")
    values = np.asarray(_inside(item["value"] if "value" in getattr(item, "keys", dict)() else item, where))
    values = values[0] if values.ndim == 2 and len(values) else values
    if values.dtype.kind not in "iu" or values.shape != shape[1:]:
        raise InputError(f"{where}: species has shape {values.shape}, need whole numbers ({shape[1]},), atomic numbers")
    return values.astype(np.int64)


def _box(group: Any, n_frames: int, where: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Cells (T, 3, 3) and periodicity."""
    if "box" not in group:
        return np.zeros((n_frames, 3, 3)), np.zeros(3, dtype=bool)
    box = group["box"]
    words = [w.decode() if isinstance(w, bytes) else str(w) for w in np.atleast_1d(box.attrs.get("boundary", "none"))]
    pbc = np.array([w == "periodic" for w in (words * 3 if len(words) == 1 else words)], dtype=bool)
    if "edges" not in box or len(pbc) != 3:
        return np.zeros((n_frames, 3, 3)), np.zeros(3, dtype=bool)
    edges = box["edges"]
    values = _scaled(edges["value"] if "value" in getattr(edges, "keys", dict)() else edges, _LENGTHS, where)
    moving = values.ndim == 3 or (values.ndim == 2 and values.shape != (3, 3))
    cells = values if moving else values[None]
    if cells.shape[1:] == (3,):
        cells = cells[:, :, None] * np.eye(3)
    if cells.shape[1:] != (3, 3) or len(cells) not in (1, n_frames):
        raise InputError(
            f"{where}: box edges have shape {values.shape}, need 3 or 3 x 3 numbers, for each frame or once"
        )
    return np.broadcast_to(cells, (n_frames, 3, 3)).copy(), pbc
