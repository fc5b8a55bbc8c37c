"""What importing a foreign model has in common: its conventions read off, its predictions compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from ase.data import atomic_numbers as number_of
from torch import Tensor

from fireassay.data.graph import from_structures
from fireassay.errors import InputError
from fireassay.interop.worker import Export
from fireassay.nn.so3 import clebsch_gordan, spherical_harmonics
from fireassay.potential import LocalPotential, Potential

TOLERANCE: Final = 1e-5
FLOOR: Final = 0.1  # eV and eV/Å, below which differences are absolute


class Agreement(NamedTuple):
    """Largest differences from the foreign model on S structures: of energies relative to the larger of 0.1 eV and the
    energy beyond that of isolated atoms, of forces relative to the larger of 0.1 eV/Å and the largest component."""

    n_structures: int
    energy: float
    forces: float

    def __str__(self) -> str:
        return (
            f"agrees on {self.n_structures} structures within {self.energy:.1e} in energies and {self.forces:.1e} in "
            "forces, relative"
        )


class Imported(NamedTuple):
    """A potential that was imported, how it agrees with its original, and the versions of the packages over there."""

    potential: LocalPotential
    agreement: Agreement
    versions: Mapping[str, str]


ENDINGS = {".model": "mace", ".pt": "mace", ".ckpt": "nequip", ".nequip.zip": "nequip", ".pth": "nequip"}


def kind_of(file: Path) -> str:
    """ "mace" or "nequip", by the file's ending. Raises InputError for another ending."""
    for ending, kind in ENDINGS.items():
        if file.name.endswith(ending):
            return kind
    raise InputError(f"{file} has none of the endings {', '.join(ENDINGS)}; say what it is with --kind mace or nequip")


def finished(potential: LocalPotential, export: Export) -> Imported:
    """The potential, which is in float64, compared with its original and in the original's precision.

    Raises InputError when they differ.
    """
    agreement = compared(potential, export)
    return Imported(potential.to(dtype_of(export.need("dtype"))), agreement, export.need("versions"))


def compared(potential: Potential, export: Export) -> Agreement:
    """The imported potential, in float64, against the foreign model's own predictions.

    Raises InputError when energies or forces differ by more than `TOLERANCE`: what is imported would be another model.
    """
    double = potential.to(torch.float64)
    energy = forces = 0.0
    for frame in export.frames:
        graph = from_structures([frame], potential.cutoff)
        lonely = graph._replace(centre=graph.centre[:0], neighbour=graph.neighbour[:0], shift=graph.shift[:0])
        isolated = float(double.predict(lonely, forces=False).energy[0])
        prediction = double.predict(graph)
        assert frame.energy is not None
        assert frame.forces is not None
        assert prediction.forces is not None
        scale = max(abs(frame.energy - isolated), FLOOR)
        energy = max(energy, abs(float(prediction.energy[0]) - frame.energy) / scale)
        error = np.abs(prediction.forces.numpy() - frame.forces).max()
        forces = max(forces, float(error / max(np.abs(frame.forces).max(), FLOOR)))
    agreement = Agreement(len(export.frames), energy, forces)
    if not max(energy, forces) <= TOLERANCE:  # also when NaN
        raise InputError(
            f"the imported potential differs from the {export.need('package')} model by {energy:.1e} in energies and "
            f"{forces:.1e} in forces, relative: the model has a feature unknown to this import; please report it"
        )
    return agreement


def coupling_signs(export: Export) -> Callable[[int, int, int], int]:
    """The signs of the foreign e3nn's Clebsch-Gordan tensors relative to ours, by degrees (l1, l2, l3).

    Raises InputError when its tensors or its spherical harmonics differ from ours by more than a sign.
    """
    arrays = export.arrays
    points = torch.from_numpy(arrays["harmonics/points"])
    values = arrays["harmonics/values"]
    degree = round(values.shape[1] ** 0.5) - 1
    if np.abs(spherical_harmonics(degree, points).numpy() - values).max() > 1e-6:
        raise InputError(
            "the spherical harmonics of the foreign e3nn are not ours; this import needs e3nn 0.4 or later"
        )
    signs: dict[tuple[int, int, int], int] = {}
    for name, tensor in export.under("wigner").items():
        a, b, c = (int(part) for part in name.split("/"))
        overlap = float((clebsch_gordan(a, b, c) * tensor).sum())
        if abs(abs(overlap) - 1) > 1e-5:
            raise InputError(f"the foreign Clebsch-Gordan tensor of degrees {a}, {b}, {c} is not ours up to a sign")
        signs[a, b, c] = round(overlap)

    def sign(l1: int, l2: int, l3: int) -> int:
        return signs[l1, l2, l3]

    return sign


def same(values: Sequence[Any], what: str) -> Any:
    """The value that all of `values` are. Raises InputError when they differ."""
    if any(value != values[0] for value in values):
        raise InputError(f"{what} differ between layers, {list(values)}, which is not supported by this import")
    return values[0]


def elements(names: Sequence[str], what: str) -> list[int]:
    """Atomic numbers of type names. Raises InputError for names that are not element symbols."""
    unknown = [name for name in names if name not in number_of]
    if unknown:
        raise InputError(f"{what} are {list(names)}, of which {unknown} are no chemical symbols; not supported")
    return [int(number_of[name]) for name in names]


def whole(value: float, what: str) -> int:
    """A number that must be whole. Raises InputError for another."""
    if value != int(value):
        raise InputError(f"{what} is {value}; only whole numbers are supported")
    return int(value)


def dtype_of(name: str) -> torch.dtype:
    """torch.float32 or torch.float64. Raises InputError for another name."""
    known: Mapping[str, torch.dtype] = {"float32": torch.float32, "float64": torch.float64}
    if name not in known:
        raise InputError(f"a model of {name} is not supported; known are {', '.join(known)}")
    return known[name]


def assign(target: Tensor, value: Tensor, what: str) -> None:
    """Copies into a parameter or buffer. Raises InputError when the shapes differ."""
    if target.shape != value.shape:
        raise InputError(f"{what} has the shape {tuple(value.shape)}, expected {tuple(target.shape)}")
    with torch.no_grad():
        target.copy_(value)
