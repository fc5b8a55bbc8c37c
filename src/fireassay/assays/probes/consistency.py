"""Does the answer depend on how the question is put? Order, batches, orientation, precision."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np
import torch

from fireassay.assays.probes.inquiry import Answer, Array, Inquiry, attempted, judged, left_out
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.potential import Potential
from fireassay.records.probes import Probe

GROUP: Final = "consistency"
_SOUND, _BROKEN = 2e-4, 1e-2
_LARGEST: Final = 400  # atoms of a supercell

Undo = Callable[[Array], Array]


def probes(inquiry: Inquiry) -> list[Probe]:
    """Each way to ask for the same thing, against asking once."""
    first = inquiry.ask([inquiry.base])
    found = [_repeated(inquiry, first), *_batches(inquiry), _order(inquiry, first), *_moved(inquiry, first)]
    found += [_supercell(inquiry, first), *_twins(inquiry)]
    return found


def _difference(inquiry: Inquiry, energy: float, forces: Array, expected_energy: float, expected: Array) -> float:
    """The largest difference of a force, or of the energy over what moves atoms by 0.1 Å, by the size of the forces."""
    by_force = np.abs(forces - expected).max() / inquiry.scale
    by_energy = abs(energy - expected_energy) / (0.1 * inquiry.scale * np.sqrt(3 * len(expected)))
    return float(max(by_force, by_energy))


def _probe(name: str, value: float, what: str, meaning: str) -> Probe:
    exactly = "bit for bit" if value == 0 else f"to {value:.2g} of the forces" if value <= _SOUND else ""
    sentence = f"{what} agree {exactly}" if exactly else f"{what} differ by {value:.2g} of the forces"
    return judged(name, GROUP, value, _SOUND, _BROKEN, sentence, meaning)


def _repeated(inquiry: Inquiry, first: Answer) -> Probe:
    again = [inquiry.ask([inquiry.base]) for _ in range(3)]
    values = [_difference(inquiry, a.energy[0], a.forces[0], first.energy[0], first.forces[0]) for a in again]
    return _probe(
        "repeated calls",
        max(values),
        "repeated calls",
        "the potential answers at random: forces are sampled, or memory is not initialised",
    )


def _companions(inquiry: Inquiry) -> list[Structure]:
    """The base among others of other positions, and another size where a part of it can be asked for."""
    base = inquiry.base
    others = [
        replace(base, positions=base.positions + 0.05 * inquiry.rng.normal(size=base.positions.shape)) for _ in range(3)
    ]
    if not base.pbc.any() and len(base) > 2 and base.charge is None and base.spin is None:
        half = len(base) // 2
        others.append(Structure(base.atomic_numbers[:half], base.positions[:half]))
    return [base, *others]


def _batches(inquiry: Inquiry) -> list[Probe]:
    structures = _companions(inquiry)
    alone, together = inquiry.ask(structures, together=1), inquiry.ask(structures)
    turned = inquiry.ask(structures[::-1])

    def largest(answer: Answer, order: int) -> float:
        pairs = zip(answer.energy[::order], answer.forces[::order], alone.energy, alone.forces, strict=True)
        return max(_difference(inquiry, *pair) for pair in pairs)

    return [
        _probe(
            "batch against single",
            largest(together, 1),
            "structures in a batch and alone",
            "structures of a batch influence each other: training and simulation of many replicas are wrong",
        ),
        _probe(
            "order of structures",
            largest(turned, -1),
            "structures in another order",
            "results depend on where a structure stands in a batch",
        ),
    ]


def _order(inquiry: Inquiry, first: Answer) -> Probe:
    base, order = inquiry.base, inquiry.rng.permutation(len(inquiry.base))
    shuffled = replace(base, atomic_numbers=base.atomic_numbers[order], positions=base.positions[order])
    found = inquiry.ask([shuffled])
    value = _difference(inquiry, found.energy[0], found.forces[0], first.energy[0], first.forces[0][order])
    return _probe("order of atoms", value, "atoms in another order", "equal atoms are not equal to the potential")


def _moved(inquiry: Inquiry, first: Answer) -> list[Probe]:
    base = inquiry.base
    q, _ = np.linalg.qr(inquiry.rng.normal(size=(3, 3)))
    q *= np.sign(np.linalg.det(q))
    mirror = np.diag([1.0, 1.0, -1.0])

    def turned(matrix: Array) -> Structure:
        return replace(base, positions=base.positions @ matrix.T, cell=base.cell @ matrix.T)

    shift = inquiry.rng.normal(size=3)
    cases: list[tuple[str, str, Structure, Undo, str]] = [
        ("rotation", "rotated atoms", turned(q), lambda f: f @ q,
         "molecules tumble for no reason, and angular momentum is not conserved"),
        ("reflection", "mirrored atoms", turned(mirror), lambda f: f @ mirror,
         "left-handed and right-handed molecules differ in energy"),
        ("translation", "translated atoms", replace(base, positions=base.positions + shift), lambda f: f,
         "the place of the molecule matters, and momentum is not conserved"),
    ]  # fmt: skip
    if base.pbc.any():
        cells = inquiry.rng.integers(-2, 3, size=(len(base), 3)) * base.pbc
        wrapped = replace(base, positions=base.positions + cells @ base.cell)
        cases.append(("lattice translation", "atoms moved by lattice vectors", wrapped, lambda f: f,
                      "atoms that leave the cell are not the same: trajectories must not be wrapped"))  # fmt: skip
    found = []
    for name, what, structure, undo, meaning in cases:
        answer = inquiry.ask([structure])
        value = _difference(inquiry, answer.energy[0], undo(answer.forces[0]), first.energy[0], first.forces[0])
        found.append(_probe(name, value, what, meaning))
    return found


def _supercell(inquiry: Inquiry, first: Answer) -> Probe:
    name, base = "supercell", inquiry.base
    if not base.pbc.any():
        return left_out(name, GROUP, "the start is not periodic")
    if 2 * len(base) > _LARGEST:
        return left_out(name, GROUP, f"the start has more than {_LARGEST // 2} atoms")
    axis = int(np.flatnonzero(base.pbc)[0])
    cell = base.cell.copy()
    cell[axis] *= 2
    doubled = replace(
        base,
        atomic_numbers=np.tile(base.atomic_numbers, 2),
        positions=np.concatenate([base.positions, base.positions + base.cell[axis]]),
        cell=cell,
        charge=None if base.charge is None else 2 * base.charge,
        spin=None,
    )
    answer = inquiry.ask([doubled])
    expected = np.tile(first.forces[0], (2, 1))
    value = _difference(inquiry, answer.energy[0], answer.forces[0], 2 * first.energy[0], expected)
    return _probe(name, value, "two cells and one", "energies depend on the size of the cell: it is too small for it")


def _twins(inquiry: Inquiry) -> list[Probe]:
    """The frozen twin and the other precision, where there are weights."""
    potential = inquiry.subject.predictor
    names = ("frozen against eager", "single against double precision")
    if not isinstance(potential, Potential):
        return [left_out(name, GROUP, "a calculator has one form only") for name in names]
    structures = _companions(inquiry)
    expected = inquiry.ask(structures)
    found = []
    meanings = (
        "simulations, which use the frozen twin, run another potential than was trained",
        "single precision is not enough for this potential; use double precision in simulations",
    )
    makers = (
        lambda: potential.frozen(),
        lambda: copy.deepcopy(potential).to(torch.float32 if potential.dtype == torch.float64 else torch.float64),
    )
    for name, make, meaning in zip(names, makers, meanings, strict=True):
        try:
            answer = attempted(inquiry, structures, make())
        except InputError as error:
            answer = str(error)
        if isinstance(answer, str):
            found.append(left_out(name, GROUP, answer))
            continue
        pairs = zip(answer.energy, answer.forces, expected.energy, expected.forces, strict=True)
        value = max(_difference(inquiry, *pair) for pair in pairs)
        found.append(_probe(name, value, name.replace(" against ", " and "), meaning))
    return found
