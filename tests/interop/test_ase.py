"""ASE both ways: EMT through a predictor and back through a calculator is still EMT."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.calculator import CalculationFailed, Calculator, PropertyNotImplementedError
from ase.calculators.emt import EMT
from ase.calculators.fd import calculate_numerical_stress
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from ase.stress import full_3x3_to_voigt_6_stress

from fireassay.data.graph import Graph, from_structures
from fireassay.errors import InputError
from fireassay.interop.ase import CalculatorPredictor, FireassayCalculator, atoms_of, structure_of
from fireassay.potential import Potential, Prediction, Predictor, failures_of
from toys import Network, Pair


class Wrapped(Potential):
    """A third party's calculator as a `Potential`: what it takes to send it back through `FireassayCalculator`."""

    cutoff = 0.0

    def __init__(self, calculator: Calculator) -> None:
        super().__init__()
        self.arguments = {}
        self.inner = CalculatorPredictor(calculator)

    def energy(self, graph: Graph) -> torch.Tensor:
        return self.inner.predict(graph).energy

    def predict(self, graph, forces=True, stress=False, *, differentiable=False) -> Prediction:
        return self.inner.predict(graph, forces, stress)


def systems() -> list[Atoms]:
    crystal = bulk("Cu", cubic=True) * (2, 1, 1)
    crystal.symbols[[0, 3]] = "Au"
    crystal.set_cell(crystal.cell[:] @ np.array([[1, 0.03, 0], [0, 1.02, 0], [0.01, 0, 0.99]]), scale_atoms=True)
    crystal.rattle(0.1, seed=1)
    slab = fcc111("Al", (2, 2, 3), vacuum=6.0)
    slab.rattle(0.05, seed=2)
    return [crystal, slab, Atoms("Pt3", [[0, 0, 0], [2.6, 0, 0], [0.3, 2.7, 0.2]])]


def test_emt_through_both_directions_is_emt():
    for atoms in systems():
        there = atoms.copy()
        there.calc = FireassayCalculator(Wrapped(EMT()))
        atoms.calc = EMT()
        assert there.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
        assert there.get_potential_energy(force_consistent=True) == there.get_potential_energy()
        np.testing.assert_allclose(there.get_forces(), atoms.get_forces(), atol=1e-10)
        if atoms.pbc.all():
            np.testing.assert_allclose(there.get_stress(), atoms.get_stress(), atol=1e-12)
            assert np.abs(atoms.get_stress()).min() > 1e-5


def test_a_batch_of_strangers_is_given_to_a_calculator_one_by_one():
    frames = systems()
    graph = from_structures([structure_of(a) for a in frames], 3.0)
    found = CalculatorPredictor(EMT()).predict(graph)
    assert isinstance(CalculatorPredictor(EMT()), Predictor)
    assert found.stress is None
    assert found.forces is not None
    start = 0
    for row, atoms in enumerate(frames):
        atoms.calc = EMT()
        assert float(found.energy[row]) == pytest.approx(atoms.get_potential_energy())
        np.testing.assert_allclose(found.forces[start : start + len(atoms)].numpy(), atoms.get_forces(), atol=1e-12)
        start += len(atoms)
    single = CalculatorPredictor(EMT()).predict(graph.to(dtype=torch.float32), forces=False)
    assert single.forces is None
    assert single.energy.dtype == torch.float64


def test_a_calculator_without_stress_says_so():
    class NoStress(EMT):
        implemented_properties = ("energy", "forces")

        def get_property(self, name, atoms=None, allow_calculation=True):
            if name == "stress":
                raise PropertyNotImplementedError("stress not present")
            return super().get_property(name, atoms, allow_calculation)

    graph = from_structures([structure_of(systems()[0])], 3.0)
    with pytest.raises(InputError, match="NoStress gives no stress for"):
        CalculatorPredictor(NoStress()).predict(graph, stress=True)
    assert CalculatorPredictor(NoStress()).predict(graph).forces is not None


class Moody(EMT):
    """Fails on three atoms, by whatever exception is asked for."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def calculate(self, atoms=None, properties=("energy",), system_changes=("positions",)):
        if len(atoms) == 3:
            raise self.error
        super().calculate(atoms, properties, system_changes)


@pytest.mark.parametrize(
    "error",
    [CalculationFailed("did not\nconverge"), RuntimeError("SCF"), AssertionError(), ValueError("x"), KeyError("y")],
)
def test_failed_calculations_end_one_structure_or_all(error):
    graph = from_structures([structure_of(a) for a in systems()], 3.0)
    with pytest.raises(InputError, match=f"Moody failed for Pt3: {type(error).__name__}") as caught:
        CalculatorPredictor(Moody(error)).predict(graph)
    assert "\n" not in str(caught.value)
    lenient = CalculatorPredictor(Moody(error), nan_on_failure=True)
    found = lenient.predict(graph)
    assert torch.isnan(found.energy).tolist() == [False, False, True]
    assert found.forces is not None
    assert torch.isnan(found.forces).any(1).tolist() == [False] * 20 + [True] * 3
    assert list(failures_of(lenient)) == [2]
    lenient.predict(from_structures([structure_of(systems()[0])], 3.0))
    assert failures_of(lenient) == {}
    assert failures_of(Pair()) == {}


def test_an_interrupt_is_no_failure():
    with pytest.raises(KeyboardInterrupt):
        CalculatorPredictor(Moody(KeyboardInterrupt()), nan_on_failure=True).predict(
            from_structures([structure_of(systems()[2])], 3.0)
        )


def test_a_calculator_without_forces_or_with_other_shapes_is_refused_whatever_is_asked():
    class Energies(EMT):
        implemented_properties = ("energy",)

        def get_property(self, name, atoms=None, allow_calculation=True):
            if name == "forces":
                raise PropertyNotImplementedError("forces")
            return super().get_property(name, atoms, allow_calculation)

    class Odd(EMT):
        def get_forces(self, atoms=None, *_):
            return np.zeros((1, 3))

    graph = from_structures([structure_of(systems()[0])], 3.0)
    with pytest.raises(InputError, match="Energies gives no energy and forces"):
        CalculatorPredictor(Energies(), nan_on_failure=True).predict(graph)
    with pytest.raises(InputError, match=r"forces of shape \(1, 3\); needs \(8, 3\)"):
        CalculatorPredictor(Odd(), nan_on_failure=True).predict(graph)


def test_stress_exists_in_crystals_only_whatever_the_box():
    """The stress of a molecule in a box would fall with the box's volume."""
    crystal, slab, molecule = systems()
    boxed = molecule.copy()
    boxed.center(vacuum=5.0)
    assert not boxed.pbc.any()
    graph = from_structures([structure_of(a) for a in (crystal, slab, molecule, boxed)], 3.0)
    found = CalculatorPredictor(EMT()).predict(graph, stress=True)
    assert found.stress is not None
    assert torch.isfinite(found.stress).all((1, 2)).tolist() == [True, True, False, False]
    boxed.calc = FireassayCalculator(Pair())
    boxed.get_forces()
    with pytest.raises(PropertyNotImplementedError, match="a periodic direction"):
        boxed.get_stress()


def test_a_calculator_without_stress_gives_none_to_an_assay():
    class NoStress(EMT):
        implemented_properties = ("energy", "forces")

    graph = from_structures([structure_of(systems()[0])], 3.0)
    found = CalculatorPredictor(NoStress(), nan_on_failure=True).predict(graph, stress=True)
    assert found.stress is None
    assert torch.isfinite(found.energy).all()


def test_misspelt_keywords_are_refused():
    with pytest.raises(InputError, match=r"no keyword 'skinn' \(did you mean 'skin'\?\)"):
        FireassayCalculator(Pair(), skinn=0.3)
    assert FireassayCalculator(Pair(), label="here").label == "here"


def test_calculator_equals_the_potential():
    potential = Network([13, 29, 79, 78], cutoff=4.0)
    for atoms in systems():
        atoms.calc = FireassayCalculator(potential)
        graph = from_structures([structure_of(atoms)], 4.0)
        periodic = bool(atoms.pbc.all())
        expected = potential.double().predict(graph, stress=periodic)
        assert expected.forces is not None
        assert expected.atom_energies is not None
        assert atoms.get_potential_energy() == pytest.approx(float(expected.energy[0]), abs=1e-5)
        np.testing.assert_allclose(atoms.get_forces(), expected.forces.numpy(), atol=1e-5)
        np.testing.assert_allclose(atoms.get_potential_energies(), expected.atom_energies.numpy(), atol=1e-5)
        if periodic:
            assert expected.stress is not None
            voigt = full_3x3_to_voigt_6_stress(expected.stress[0].numpy())
            np.testing.assert_allclose(atoms.get_stress(), voigt, atol=1e-6)
        potential.float()


def test_stress_against_finite_strain():
    atoms = systems()[0]
    atoms.calc = FireassayCalculator(Pair(cutoff=4.0))
    np.testing.assert_allclose(atoms.get_stress(), calculate_numerical_stress(atoms, eps=1e-5), atol=1e-8)
    assert np.abs(atoms.get_stress()).min() > 5e-5


def test_neighbours_are_reused_until_atoms_or_cell_have_moved():
    atoms = systems()[0]
    calculator = FireassayCalculator(Pair(cutoff=4.0), skin=0.4)
    atoms.calc = calculator
    reference = atoms.copy()
    for step in range(12):
        atoms.positions[:, 0] += 0.05 * (-1) ** np.arange(len(atoms))
        if step == 8:
            atoms.set_cell(atoms.cell[:] * 1.01)
        reference.set_cell(atoms.cell)
        reference.positions = atoms.positions
        reference.calc = FireassayCalculator(Pair(cutoff=4.0))
        np.testing.assert_allclose(atoms.get_forces(), reference.get_forces(), atol=1e-12)
    assert 2 < calculator._neighbours.rebuilds < 6


def test_stress_is_computed_with_the_forces_once_it_has_been_asked_for():
    calls = []

    class Counted(Pair):
        def predict(self, graph, forces=True, stress=False, *, differentiable=False):
            calls.append(stress)
            return super().predict(graph, forces, stress, differentiable=differentiable)

    atoms = systems()[0]
    atoms.calc = FireassayCalculator(Counted(cutoff=4.0))
    for _ in range(2):
        atoms.get_forces()
        atoms.get_stress()
        atoms.rattle(0.01)
    assert calls == [False, True, True]


def test_a_molecule_has_no_stress():
    atoms = systems()[2]
    atoms.calc = FireassayCalculator(Pair())
    with pytest.raises(PropertyNotImplementedError, match="needs a cell with a volume"):
        atoms.get_stress()
    assert np.isfinite(atoms.get_forces()).all()


def test_unknown_elements_are_refused():
    atoms = Atoms("He")
    atoms.calc = FireassayCalculator(Network([6]))
    with pytest.raises(InputError, match=r"\[2\] are unknown"):
        atoms.get_potential_energy()


def test_ase_relaxes_atoms_and_cell_with_it():
    atoms = bulk("Ar", a=5.0, cubic=True)
    atoms.rattle(0.05, seed=0)
    potential = Wrapped(LennardJones(epsilon=0.0103, sigma=3.4, rc=8.0, smooth=True))
    atoms.calc = FireassayCalculator(potential)
    BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-3, steps=200)
    assert np.abs(atoms.get_stress()).max() < 1e-3
    assert np.abs(atoms.get_forces()).max() < 1e-3


def test_structures_and_atoms_there_and_back():
    for atoms in systems():
        assert structure_of(atoms).energy is None
        atoms.calc = EMT()
        atoms.set_constraint(FixAtoms([0]))
        atoms.get_forces()
        structure = structure_of(atoms)
        assert structure.energy == atoms.get_potential_energy()
        np.testing.assert_array_equal(structure.forces, atoms.get_forces(apply_constraint=False))
        back = atoms_of(structure)
        assert back.calc is None
        atoms.set_constraint()
        assert back == atoms
        atoms.positions[0] += 0.1  # results are of other positions now
        assert structure_of(atoms).energy is None
