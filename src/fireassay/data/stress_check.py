"""Whether the stress of a file has the sign and the unit that it is read with, from its forces alone.

A pair potential is fitted to the forces. The stress that it implies has the same sign and size as the true one for
the components that change shape and not volume, which no density-dependent energy contributes to. A stress with the
wrong sign gives a slope near -1, one in GPa read as eV/Å^3 a slope near 160.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fireassay.data.neighbours import neighbour_list
from fireassay.data.similarity import Consistency
from fireassay.data.structure import Structure

_CUTOFF: Final = 6.0  # Å
_FUNCTIONS: Final = 12
_NEAREST: Final = 1.5  # Å, where the first function sits
_ATOMS: Final = 1500  # of the sample
_OVERDETERMINED: Final = 5  # force components for each function that is fitted to them
_SPECIES: Final = 8  # more elements have more pairs than the sample can tell apart
_SHAPE: Final = np.array([[0, 1], [0, 2], [1, 2]])
_COMPONENTS: Final = ("xy", "xz", "yz")  # of _SHAPE
_SHEAR: Final = {"voigt": ("yz", "xz", "xy"), "vasp": ("xy", "yz", "xz"), "lammps": ("xy", "xz", "yz")}


def stress_consistency(structures: Sequence[Structure]) -> Consistency | None:
    """Slope and correlation of the stress against that of a pair potential fitted to the forces.

    Of deviatoric components, over a sample of frames. None when fewer than 3 periodic frames have both labels or the
    forces are not explained to a half by pairs.
    """
    both = _implied(structures)
    if both is None:
        return None
    implied, given = (_shape_part(tensors) for tensors in both)
    if not implied.any() or not given.any():
        return None
    slope = float(implied @ given / (implied @ implied))
    return Consistency(slope, float(np.corrcoef(implied, given)[0, 1]), len(both[0]))


def better_order(structures: Sequence[Structure], order: str) -> str | None:
    """The order of six components in which the shear fits the forces, where that is not the `order` it is read in.

    The correlation with the stress of a pair potential has to be clear in the other order and far lower in this one.
    """
    both = _implied(structures)
    if both is None:
        return None
    implied, given = (tensors[:, _SHAPE[:, 0], _SHAPE[:, 1]] for tensors in both)  # xy xz yz
    if implied.size < 12 or not implied.any() or not given.any():
        return None
    stored = given[:, [_COMPONENTS.index(name) for name in _SHEAR[order]]]  # as in the file
    fits = {}
    for name, components in _SHEAR.items():
        read = stored[:, [components.index(component) for component in _COMPONENTS]]
        fits[name] = float(np.corrcoef(implied.ravel(), read.ravel())[0, 1])
    best = max(fits, key=lambda name: abs(fits[name]))
    clear = abs(np.arctanh(np.clip(fits[best], -0.999, 0.999))) * np.sqrt(implied.size - 3) > 4
    return best if clear and abs(fits[best]) > 0.6 and abs(fits[order]) < 0.5 * abs(fits[best]) else None


def _implied(structures: Sequence[Structure]) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Stresses (K, 3, 3) of a pair potential fitted to the forces of K frames, and those that the frames have."""
    sample = _sample([s for s in structures if s.stress is not None and s.pbc.all() and s.forced.all()])
    species = sorted({int(z) for s in sample for z in s.atomic_numbers})
    if len(sample) < 3 or len(species) > _SPECIES:
        return None
    designs = [_design(s, species) for s in sample]
    matrix = np.concatenate([forces for forces, _ in designs])
    wanted = np.concatenate([s.forces.ravel() for s in sample if s.forces is not None])
    if len(wanted) < _OVERDETERMINED * np.count_nonzero(matrix.any(axis=0)):
        return None
    weights = np.linalg.lstsq(matrix, wanted, rcond=None)[0]
    if not wanted.any() or np.sum((wanted - matrix @ weights) ** 2) > 0.5 * np.sum(wanted**2):
        return None
    given = np.stack([s.stress for s in sample if s.stress is not None])
    return np.stack([stress @ weights for _, stress in designs]), given


def _sample(structures: list[Structure]) -> list[Structure]:
    """Frames spread over the data set, with about `_ATOMS` atoms in all."""
    if not structures:
        return []
    size = float(np.mean([len(s) for s in structures]))
    count = int(np.clip(_ATOMS / size, 3, len(structures))) if len(structures) >= 3 else len(structures)
    return [structures[k] for k in np.linspace(0, len(structures) - 1, count).astype(int)]


def _design(s: Structure, species: Sequence[int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Forces (3N, P) and stress (3, 3, P) of unit weight of each function of each pair of elements."""
    centre, neighbour, shift = neighbour_list(s, _CUTOFF)
    vectors = s.positions[neighbour] + shift @ s.cell - s.positions[centre]
    distances = np.linalg.norm(vectors, axis=1)
    units = vectors / distances[:, None]
    places = np.linspace(_NEAREST, _CUTOFF, _FUNCTIONS)
    push = np.exp(-(((distances[:, None] - places) / (places[1] - places[0])) ** 2) / 2)  # -dφ/dr
    push *= ((1 - (distances / _CUTOFF) ** 2) ** 2)[:, None]
    n = len(species)
    index: NDArray[np.int64] = np.searchsorted(species, s.atomic_numbers).astype(np.int64)
    kind = np.sort(index[np.stack([centre, neighbour], axis=1)], axis=1)
    columns = (kind[:, 0] * n + kind[:, 1])[:, None] * _FUNCTIONS + np.arange(_FUNCTIONS)  # (E, F)
    width = n * n * _FUNCTIONS
    forces = np.zeros((len(s), 3, width))
    stress = np.zeros((3, 3, width))
    for a in range(3):
        np.add.at(forces[:, a], (centre[:, None], columns), -units[:, a, None] * push)
        for b in range(3):
            np.add.at(stress[a, b], columns, -0.5 * (vectors[:, a] * units[:, b])[:, None] * push)
    return forces.reshape(-1, width), stress / abs(np.linalg.det(s.cell))


def _shape_part(tensors: NDArray[np.float64]) -> NDArray[np.float64]:
    shear = tensors[:, _SHAPE[:, 0], _SHAPE[:, 1]]
    normal = np.diff(np.diagonal(tensors, axis1=1, axis2=2), axis=1)
    normal = normal - normal.mean(axis=0)  # what the shape of all cells makes, many-body terms decide
    return np.concatenate([shear.ravel(), normal.ravel()])
