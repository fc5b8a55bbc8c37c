"""Reference labels computed on the spot: GFN2-xTB for molecules, classical potentials of ASE for metals and argon."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final

import numpy as np
from ase import Atoms
from ase.calculators.calculator import CalculatorError
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from fireassay.data.electronic_state import as_ase
from fireassay.data.structure import Structure
from fireassay.errors import InputError, nearest
from fireassay.progress import Progress, Silent
from fireassay.simulation.generate import xtb


def emt() -> Any:
    """Effective medium theory of Jacobsen, Stoltze and Nørskov (Surf. Sci. 366, 394, 1996): Al Cu Ag Au Ni Pd Pt."""
    return EMT()


def argon() -> Any:
    """Lennard-Jones argon, ε = 10.3 meV and σ = 3.405 Å, cut smoothly between 2.5 and 3 σ."""
    sigma = 3.405
    return LennardJones(epsilon=0.0103, sigma=sigma, ro=2.5 * sigma, rc=3 * sigma, smooth=True)


ORACLES: Final[dict[str, Callable[[], Any]]] = {"gfn2-xtb": xtb, "emt": emt, "argon": argon}


def oracle(name: str) -> Any:
    """The ASE calculator called `name`, one of `ORACLES`.

    Raises InputError for an unknown name, ImportError with the command that helps when tblite is missing.
    """
    if name not in ORACLES:
        raise InputError(f"oracle {name!r} is unknown{nearest(name, ORACLES)}; known are {list(ORACLES)}")
    return ORACLES[name]()


def label(
    structures: Iterable[Structure], calculator: Any, *, stress: bool = False, progress: Progress | None = None
) -> list[Structure]:
    """The structures with energy (eV), forces (eV/Å) and, on request, stress (eV/Å^3) of an ASE calculator.

    Other labels are dropped, so that no structure carries two levels of theory. Charge and spin are told to the
    calculator (`fireassay.data.electronic_state.as_ase`); a classical potential has no use for them. Raises InputError
    naming the frame when the calculator fails, does not know an element, or has no stress for this cell.
    """
    structures, progress = list(structures), progress or Silent()
    labelled = []
    progress.start("labelling", len(structures))
    try:
        for structure in structures:
            labelled.append(_labelled(structure, calculator, stress))
            progress.advance()
    finally:
        progress.stop()
    return labelled


def _labelled(structure: Structure, calculator: Any, stress: bool) -> Structure:
    state = as_ase(structure.charge, structure.spin, len(structure))
    atoms = Atoms(structure.atomic_numbers, structure.positions, cell=structure.cell, pbc=structure.pbc, **state)
    atoms.calc = calculator
    try:
        forces = np.array(atoms.get_forces(), dtype=np.float64)
        energy = float(atoms.get_potential_energy())
        tensor = np.array(atoms.get_stress(voigt=False), dtype=np.float64) if stress else None
    except (CalculatorError, NotImplementedError, ValueError) as error:
        raise InputError(
            f"{structure.where}: {type(calculator).__name__} cannot label it ({type(error).__name__}: {error}); "
            "leave the frame out or choose another oracle"
        ) from error
    return replace(structure, energy=energy, forces=forces, stress=tensor)
