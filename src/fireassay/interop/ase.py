"""ASE, both ways: our potentials as ASE calculators, and anybody's ASE calculator as a predictor.

ASE's units are eV and Å, its stress is positive in tension and in Voigt order xx yy zz yz xz xy: only the order of the
components differs from ours. Total charge and multiplicity are in `Atoms.info`, under the names that files give them
(`fireassay.data.electronic_state.STATES`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress
from torch import Tensor

from fireassay.data.electronic_state import ROUNDING, STATES, as_ase, stated
from fireassay.data.graph import Graph, per_structure, value_of
from fireassay.data.structure import Structure
from fireassay.data.verlet import VerletList
from fireassay.errors import InputError, nearest
from fireassay.potential import Potential, Prediction


def structure_of(atoms: Atoms) -> Structure:
    """The structure of ASE atoms, with the labels that an attached calculator already has for these positions.

    Charge and spin are those of `atoms.info`; initial charges and moments, a guess to start from, are none. Raises
    InputError when `atoms.info` contradicts itself.
    """
    results = (
        dict(atoms.calc.results) if atoms.calc is not None and not atoms.calc.calculation_required(atoms, []) else {}
    )
    stress = results.get("stress")
    return Structure(
        atomic_numbers=atoms.numbers.astype(np.int64),
        positions=atoms.positions.astype(np.float64),
        cell=np.array(atoms.cell.array, dtype=np.float64),
        pbc=np.array(atoms.pbc, dtype=bool),
        energy=None if results.get("energy") is None else float(results["energy"]),
        forces=None if results.get("forces") is None else np.array(results["forces"], dtype=np.float64),
        stress=None if stress is None else voigt_6_to_full_3x3_stress(np.asarray(stress, dtype=np.float64)),
        charge=_in_info(atoms, "charge"),
        spin=_in_info(atoms, "spin"),
    )


def _in_info(atoms: Atoms, quantity: str) -> float | None:
    where = f"the info of {atoms.get_chemical_formula()}"
    found = stated(atoms.info, STATES[quantity], quantity, len(atoms), where)
    return None if found is None else found[1]


def atoms_of(structure: Structure) -> Atoms:
    """ASE atoms of a structure, without its labels; with its charge and spin as by `as_ase`."""
    state = as_ase(structure.charge, structure.spin, len(structure))
    return Atoms(structure.atomic_numbers, structure.positions, cell=structure.cell, pbc=structure.pbc, **state)


_KEYWORDS = ("restart", "label", "atoms", "directory")


class FireassayCalculator(Calculator):
    """A potential as an ASE calculator: energy, free_energy (the same), forces, stress (Voigt) and energies.

    Edges are kept while atoms move by less than `skin` / 2 Å. Stress is computed once it has been asked for, and from
    then on with the forces, in one pass. `energies` come from potentials that are sums over atoms; stress exists for
    atoms that are periodic in some direction: asking in vain raises ASE's PropertyNotImplementedError. A potential
    that uses charge or spin finds them in `atoms.info["charge"]` and `atoms.info["spin"]`, the multiplicity.

    Other keywords are those of ASE's Calculator: restart, label, atoms, directory. Raises InputError for any other,
    when an element is unknown to the potential, and when a potential that uses the charge is given charged atoms whose
    `info` has no charge.
    """

    implemented_properties = ["energy", "free_energy", "forces", "stress", "energies"]  # noqa: RUF012 (ASE's name)

    def __init__(
        self, potential: Potential, *, device: torch.device | str = "cpu", skin: float = 0.5, **parameters: Any
    ) -> None:
        unknown = [name for name in parameters if name not in _KEYWORDS]
        if unknown:
            known = ("device", "skin", *_KEYWORDS)
            raise InputError(f"no keyword {unknown[0]!r}{nearest(unknown[0], known)}; known are {', '.join(known)}")
        super().__init__(**parameters)
        self.potential = potential.frozen().to(device)
        self._dtype, self._device = potential.dtype, torch.device(device)
        self._neighbours = VerletList(potential.cutoff, skin)
        self._with_stress = False

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What has changed since the last calculation; called by ASE, which does not look into `info`."""
        changes = list(super().check_state(atoms, tol))
        if self.atoms is not None and self._state(atoms) != self._state(self.atoms):
            changes.append("info")
        return changes

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Fills `results`; called by ASE."""
        super().calculate(atoms, list(properties), list(system_changes))
        atoms = self.atoms
        assert atoms is not None
        if "numbers" in system_changes:
            self.potential.check_species(sorted(set(atoms.numbers.tolist())))
        solid = _solid(atoms)
        if "stress" in properties:
            if not solid:
                raise PropertyNotImplementedError(
                    "stress needs a cell with a volume and a periodic direction, got pbc "
                    f"{atoms.pbc.tolist()} and cell {atoms.cell.array.tolist()}"
                )
            self._with_stress = True
        prediction = self.potential.predict(self._graph(atoms), forces=True, stress=self._with_stress and solid)
        energy = float(prediction.energy[0])
        self.results = {"energy": energy, "free_energy": energy, "forces": _numpy(prediction.forces)}
        if prediction.stress is not None:
            self.results["stress"] = full_3x3_to_voigt_6_stress(_numpy(prediction.stress)[0])
        if prediction.atom_energies is not None:
            self.results["energies"] = _numpy(prediction.atom_energies)
        elif "energies" in properties:
            raise PropertyNotImplementedError(f"{type(self.potential).__name__} has no energies of single atoms")

    def _graph(self, atoms: Atoms) -> Graph:
        graph, _ = self._neighbours.graph(
            torch.from_numpy(atoms.numbers.astype(np.int64)).to(self._device),
            torch.from_numpy(atoms.positions.astype(np.float64)).to(self._device),
            torch.from_numpy(np.array(atoms.cell.array, dtype=np.float64)).unsqueeze(0).to(self._device),
            torch.from_numpy(np.array(atoms.pbc, dtype=bool)).unsqueeze(0).to(self._device),
            torch.zeros(len(atoms), dtype=torch.int64, device=self._device),
        )
        charge, spin = (per_structure([value]) for value in self._state(atoms))
        return graph._replace(
            positions=graph.positions.to(self._dtype),
            cell=graph.cell.to(self._dtype),
            charge=None if charge is None else charge.to(self._device),
            spin=None if spin is None else spin.to(self._device),
        )

    def _state(self, atoms: Atoms) -> tuple[float | None, float | None]:
        """Charge and multiplicity of the atoms, the latter only when the potential uses it."""
        charge = _in_info(atoms, "charge")
        if "charge" in self.potential.uses and charge is None and abs(atoms.get_initial_charges().sum()) > ROUNDING:
            raise InputError(
                f"the initial charges of {atoms.get_chemical_formula()} sum to "
                f"{atoms.get_initial_charges().sum():g} e, but its info has no charge; say which it is with "
                'atoms.info["charge"]'
            )
        return charge, _in_info(atoms, "spin") if "spin" in self.potential.uses else None


class CalculatorPredictor:
    """Any ASE calculator as a predictor: structures are given to it one by one, without constraints.

    Charge and spin of the graph are told to it as by `fireassay.data.electronic_state.as_ase`. Stress exists for
    structures that are periodic in some direction, and is NaN for others, whatever the calculator says.

    With `nan_on_failure` a calculation that fails, by whatever exception, gives NaN for that structure, so that one
    replica of a simulation ends and the others go on; `failures` says why. A calculator that has no stress then gives
    none (None) instead of an error. Calculators that start from their last result (self-consistent ones) repeat
    themselves to their tolerance only.

    Raises InputError, in one line, when a calculation fails without `nan_on_failure`, when the calculator has no
    energies or forces, or answers with another shape.
    """

    cutoff: float = 0.0
    species: tuple[int, ...] | None = None
    dtype: torch.dtype = torch.float64

    def __init__(self, calculator: Any, *, nan_on_failure: bool = False) -> None:
        self.calculator = calculator
        self.nan_on_failure = nan_on_failure
        self.failures: dict[int, str] = {}

    def predict(self, graph: Graph, forces: bool = True, stress: bool = False) -> Prediction:
        """Energy (S,) float64; forces (N, 3) and stress (S, 3, 3) in the dtype of the positions."""
        self.failures = {}
        stress = stress and not (self.nan_on_failure and self._lacks_stress())
        ends = torch.bincount(graph.structure, minlength=graph.n_structures).cumsum(0).tolist()
        host = graph.to("cpu", torch.float64)
        results = []
        for row, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            atoms = Atoms(
                host.atomic_numbers[start:end].numpy(),
                host.positions[start:end].detach().numpy(),
                cell=host.cell[row].detach().numpy(),
                pbc=host.pbc[row].numpy(),
                **as_ase(value_of(host.charge, row), value_of(host.spin, row), end - start),
            )
            try:
                results.append(self._one(atoms, forces, stress))
            except InputError as error:
                if not self.nan_on_failure or isinstance(error, _Unable):
                    raise
                self.failures[row] = str(error)
                results.append((float("nan"), np.full((end - start, 3), np.nan), np.full((3, 3), np.nan)))
        like = graph.positions
        return Prediction(
            energy=torch.tensor([r[0] for r in results], dtype=torch.float64, device=like.device),
            forces=torch.from_numpy(np.concatenate([r[1] for r in results])).to(like) if forces else None,
            stress=torch.from_numpy(np.stack([r[2] for r in results])).to(like) if stress else None,
        )

    def _lacks_stress(self) -> bool:
        return "stress" not in self.calculator.implemented_properties

    def _one(self, atoms: Atoms, forces: bool, stress: bool) -> tuple[float, np.ndarray, np.ndarray]:
        atoms.calc = self.calculator
        what = "energy and forces" if forces else "energy"
        try:
            pull = np.array(atoms.get_forces(), dtype=np.float64) if forces else np.full((len(atoms), 3), np.nan)
            energy = float(atoms.get_potential_energy())
        except PropertyNotImplementedError as error:
            raise _Unable(f"{self._name} gives no {what} ({error}); a predictor needs both") from error
        except Exception as error:  # whatever a package raises when it does not converge
            raise InputError(f"{self._name} failed for {atoms.get_chemical_formula()}: {one_line(error)}") from error
        if pull.shape != (len(atoms), 3):
            raise _Unable(f"{self._name} gives forces of shape {pull.shape}; needs {(len(atoms), 3)}")
        return energy, pull, self._stress(atoms) if stress and _solid(atoms) else np.full((3, 3), np.nan)

    def _stress(self, atoms: Atoms) -> np.ndarray:
        try:
            return np.array(atoms.get_stress(voigt=False), dtype=np.float64).reshape(3, 3)
        except Exception as error:
            raise InputError(
                f"{self._name} gives no stress for {atoms.get_chemical_formula()} with pbc {atoms.pbc.tolist()} "
                f"({one_line(error)}); ask for forces only, or use a calculator that has stress"
            ) from error

    @property
    def _name(self) -> str:
        return type(self.calculator).__name__


class _Unable(InputError):
    """The calculator cannot do this at all: no failure of one structure."""


def one_line(error: Exception) -> str:
    """The kind of an error and what it says, in one line of at most 300 characters."""
    words = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return words if len(words) <= 300 else f"{words[:297]}..."


def _solid(atoms: Atoms) -> bool:
    """As `Structure.solid`."""
    return bool(atoms.pbc.any()) and abs(float(np.linalg.det(atoms.cell.array))) > 1e-12


def _numpy(tensor: Tensor | None) -> np.ndarray:
    assert tensor is not None
    return tensor.detach().cpu().numpy().astype(np.float64)
