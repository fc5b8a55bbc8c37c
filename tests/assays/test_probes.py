"""Planted faults are caught and named; sound potentials pass."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.eos import EquationOfState
from ase.units import GPa

from fireassay.assays import probes
from fireassay.assays.assay import Subject
from fireassay.assays.probes import ProbesSettings, softening
from fireassay.assays.probes.curves import _flips, _hole
from fireassay.assays.probes.inquiry import Inquiry
from fireassay.data.graph import Graph, edge_vectors, sum_over_neighbours
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.interop.ase import CalculatorPredictor, structure_of
from fireassay.potential import LocalPotential, Potential, Prediction
from fireassay.records.probes import Probe, ProbesResult

FAST = ProbesSettings(points=60, duration=100.0)


class Well(LocalPotential):
    """Lennard-Jones in argon's size with a C2 switch to zero, or cut where it is with `hard`."""

    def __init__(self, cutoff: float = 8.0, epsilon: float = 0.0104, sigma: float = 3.4, hard: bool = False) -> None:
        super().__init__()
        self.arguments = {"cutoff": cutoff, "epsilon": epsilon, "sigma": sigma, "hard": hard}
        self.cutoff, self.hard = cutoff, hard
        self.epsilon = torch.nn.Parameter(torch.tensor(epsilon, dtype=torch.float64))
        self.sigma = torch.nn.Parameter(torch.tensor(sigma, dtype=torch.float64))

    def local(self, graph: Graph) -> tuple[torch.Tensor, torch.Tensor]:
        r = edge_vectors(graph).norm(dim=1)
        x = ((r - 0.6 * self.cutoff) / (0.4 * self.cutoff)).clamp(0.0, 1.0)
        switch = torch.ones_like(r) if self.hard else 1 - 10 * x**3 + 15 * x**4 - 6 * x**5
        six = (self.sigma / r) ** 6
        pair = 4 * self.epsilon * (six**2 - six) * switch
        energy = sum_over_neighbours(torch.where(r < self.cutoff, pair, 0.0), graph) / 2
        return energy, energy.unsqueeze(1)


class Changed(Potential):
    """A well whose predictions are changed."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.inner, self.fault, self.calls = Well(hard=fault == "hard cutoff"), fault, 0
        self.arguments, self.cutoff = {"fault": fault}, self.inner.cutoff

    def energy(self, graph: Graph) -> torch.Tensor:
        energy = self.inner.energy(graph)
        r = edge_vectors(graph).norm(dim=1)
        owner = graph.structure[graph.centre]

        def per_structure(values: torch.Tensor) -> torch.Tensor:
            return energy.new_zeros(len(energy)).index_add(0, owner, values.to(energy.dtype))

        if self.fault == "hole":  # deep enough to beat the wall, from two thirds of a diameter inwards
            inside = (2.4 - r).clamp(min=0.0)
            return energy - per_structure(0.2 * inside**3 * (self.inner.sigma / r) ** 12)
        if self.fault == "float32 jumps":
            return energy + ((4096 * energy).round() / 4096 - energy).detach()
        if self.fault == "batch":
            return energy * (1 + 1e-2 * torch.arange(len(energy)))
        if self.fault == "atom order":
            odd = (graph.centre % 2 == 0) & (graph.neighbour % 2 == 0)
            return energy + per_structure(odd * torch.exp(-r))
        return energy

    def predict(
        self, graph: Graph, forces: bool = True, stress: bool = False, *, differentiable: bool = False
    ) -> Prediction:
        found = super().predict(graph, forces, stress, differentiable=differentiable)
        if found.forces is None:
            return found
        size = found.forces.std()
        if self.fault == "scaled":
            return found._replace(forces=1.02 * found.forces)
        if self.fault == "gradient":
            return found._replace(forces=-found.forces)
        if self.fault == "noise":
            self.calls += 1
            noise = torch.randn(found.forces.shape, generator=torch.Generator().manual_seed(self.calls))
            return found._replace(forces=found.forces + 0.02 * size * noise.to(found.forces))
        if self.fault == "frozen noise":
            return found._replace(forces=found.forces + 0.02 * size * torch.sin(1e7 * graph.positions))
        if self.fault == "stress" and found.stress is not None:
            return found._replace(stress=-found.stress)
        if self.fault == "field":
            axis = graph.positions.new_tensor([0.0, 0.0, 1.0]).expand_as(graph.positions)
            return found._replace(forces=found.forces + 0.05 * torch.linalg.cross(graph.positions, axis))
        return found


def argon(molecule: bool = False) -> Structure:
    if molecule:
        grid = np.stack(np.meshgrid(*[np.arange(2)] * 3), -1).reshape(-1, 3)
        return Structure(np.full(8, 18), 3.9 * grid + 0.1 * np.random.default_rng(0).normal(size=(8, 3)))
    return structure_of(bulk("Ar", "fcc", a=5.3, cubic=True))


def by_name(found: ProbesResult) -> dict[str, Probe]:
    assert len({probe.name for probe in found.probes}) == len(found.probes)
    return {probe.name: probe for probe in found.probes}


def result(predictor: Potential, start: Structure, settings: ProbesSettings = FAST) -> ProbesResult:
    return probes.run(Subject(predictor=predictor, start=start), settings)


@pytest.mark.parametrize("molecule", [False, True])
def test_a_sound_potential_passes(molecule: bool) -> None:
    found = result(Well(), argon(molecule))
    by_name(found)
    assert {probe.name: probe.sentence for probe in found.probes if probe.verdict not in ("sound", "not asked")} == {}
    assert len([probe for probe in found.probes if probe.verdict == "sound"]) >= 15


FAULTS = {
    "hole": ("short-range wall", "Ar-Ar falls in"),
    "stress": ("stress against energies", "opposite sign"),
    "noise": ("repeated calls", "differ"),
    "frozen noise": ("noise of the forces", "irregularly"),
    "scaled": ("forces against energies", "1.0200 times"),
    "gradient": ("forces against energies", "-1.0000 times"),
    "hard cutoff": ("continuity", "jumps"),
    "batch": ("batch against single", "differ"),
    "atom order": ("order of atoms", "differ"),
    "float32 jumps": ("continuity", "jumps"),
    "field": ("symmetry of the Hessian", "transpose"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("molecule", [False, True])
def test_planted_faults_are_named(fault: str, molecule: bool) -> None:
    if fault == "stress" and molecule:
        return
    found = by_name(result(Changed(fault), argon(molecule)))
    name, words = FAULTS[fault]
    assert found[name].verdict in ("broken", "doubtful")
    assert words in found[name].sentence
    assert found[name].meaning
    if fault in ("scaled", "gradient", "stress", "field", "noise", "batch", "atom order"):
        assert found[name].verdict == "broken"
    if fault == "scaled":
        assert found["symmetry of the Hessian"].verdict == "sound"
        assert found["noise of the forces"].verdict == "sound"


def copper() -> ProbesResult:
    start = structure_of(bulk("Cu", cubic=True))
    predictor = CalculatorPredictor(EMT(), nan_on_failure=True)
    settings = ProbesSettings(points=40, duration=50.0)
    return probes.run(Subject(predictor=predictor, start=start), settings)


def test_a_crystal_against_ase() -> None:
    """Bulk modulus by ASE's equation of state, elastic constants and modes by its stresses and forces."""
    found = copper()
    assert {p.verdict for p in found.probes} == {"sound", "not asked"}
    assert found.bulk is not None
    atoms = bulk("Cu", cubic=True)
    volumes, energies = [], []
    for x in np.linspace(0.97, 1.03, 9):
        scaled = atoms.copy()
        scaled.set_cell(atoms.cell * x, scale_atoms=True)
        scaled.calc = EMT()
        volumes.append(scaled.get_volume())
        energies.append(scaled.get_potential_energy())
    fit = EquationOfState(volumes, energies, eos="birchmurnaghan")
    _, _, modulus = fit.fit()
    at_start = -atoms.get_volume() * _slope_of_pressure(atoms) / GPa
    assert found.bulk.bulk_modulus == pytest.approx(at_start, rel=0.02)
    assert found.bulk.bulk_modulus == pytest.approx(modulus / GPa, rel=0.1)  # at another volume, the equilibrium's
    assert found.bulk.elastic is not None
    c = found.bulk.elastic
    assert c[0, 0] == pytest.approx(c[1, 1], rel=1e-3)
    assert (c[0, 0] + 2 * c[0, 1]) / 3 == pytest.approx(found.bulk.bulk_modulus, rel=0.02)
    assert found.bulk.frequencies is not None
    assert np.abs(np.sort(np.abs(found.bulk.frequencies))[:3]).max() < 0.05  # translations
    hessian = np.zeros((12, 12))
    for k in range(12):
        sides = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions.flat[k] += sign * 0.01
            moved.calc = EMT()
            sides.append(moved.get_forces().ravel())
        hessian[:, k] = -(sides[0] - sides[1]) / 0.02
    squares = np.linalg.eigvalsh((hessian + hessian.T) / 2 / atoms.get_masses()[0])
    highest = np.sqrt(squares[-1] * 9.648533212e27) / (2 * np.pi) / 1e12  # eV/(Å² amu) to s⁻²
    assert found.bulk.frequencies[-1] == pytest.approx(highest, rel=1e-3)


def _slope_of_pressure(atoms) -> float:
    values = []
    for x in (0.999, 1.001):
        scaled = atoms.copy()
        scaled.set_cell(atoms.cell * x, scale_atoms=True)
        scaled.calc = EMT()
        values.append((scaled.get_volume(), -scaled.get_stress()[:3].mean()))
    return (values[1][1] - values[0][1]) / (values[1][0] - values[0][0])


def test_holes_and_flips() -> None:
    x = np.linspace(0.4, 3.0, 261)
    well = (1 / x) ** 12 - 2 * (1 / x) ** 6
    assert _hole(x, well, 1.0) is None
    force = -np.gradient(well, x)
    assert _flips(force) == 0
    torn = np.where(x < 0.6, well - 1e6 * (0.6 - x) ** 2, well)
    assert _hole(x, torn, 1.0) is not None
    bond = well + 1.5 * np.exp(-30 * (x - 1.5) ** 2)  # behind a barrier, and still a bond
    assert _hole(x, bond + 0.8, 1.0) is None
    dip = well - 60 * np.exp(-800 * (x - 0.75) ** 2)  # in the wall, at a length that bonds may have
    found = _hole(x, dip, 1.0)
    assert found is not None
    assert 0.75 < found[1] < 0.85
    shallow = np.where(x < 0.65, well[np.argmin(np.abs(x - 0.65))] - 5 * (0.65 - x), well)
    found = _hole(x, shallow, 1.0)
    assert found is not None
    assert found[0] == pytest.approx(well[np.argmin(np.abs(x - 0.65))] - well.min(), rel=0.1)
    wavy = 0.2 * np.sin(6 * x)
    assert _flips(-np.gradient(wavy, x)) > 2


def test_an_element_without_parameters_is_no_fault() -> None:
    start = structure_of(bulk("Cu", cubic=True))
    predictor = CalculatorPredictor(EMT(), nan_on_failure=True)
    settings = ProbesSettings(points=20, duration=0.0, bulk_atoms=0, elements=["Cu", "Zn"])
    found = by_name(probes.run(Subject(predictor=predictor, start=start), settings))
    assert found["short-range wall"].verdict == "sound"
    assert "Cu-Zn, Zn-Zn cannot be calculated" in found["short-range wall"].sentence


def test_bad_input_is_one_line() -> None:
    with pytest.raises(InputError, match="'Zz' is no chemical element"):
        result(Well(), argon(), ProbesSettings(elements=["Zz"]))

    class Failing(Well):
        def local(self, graph: Graph) -> tuple[torch.Tensor, torch.Tensor]:
            energy, descriptor = super().local(graph)
            return energy * torch.nan, descriptor

    with pytest.raises(InputError, match="the calculation at the start fails"):
        result(Failing(), argon())


def test_forces_that_are_too_weak_where_they_are_large():
    """A softened surface: forces fall behind the true ones by a tenth to a third where they are large."""
    rng = np.random.default_rng(0)
    start = structure_of(bulk("Cu", cubic=True))
    frames = []
    for amplitude in rng.uniform(0.02, 0.25, 40):
        atoms = bulk("Cu", cubic=True)
        atoms.positions += rng.normal(0, amplitude, atoms.positions.shape)
        atoms.calc = EMT()
        frames.append(labelled_copy(atoms))

    class Soft(CalculatorPredictor):
        def __init__(self, factor: float) -> None:
            super().__init__(EMT())
            self.factor = factor

        def predict(self, graph, forces=True, stress=False):
            found = super().predict(graph, forces, stress)
            return found._replace(forces=None if found.forces is None else found.forces * self.factor)

    for factor, verdict in ((1.0, "sound"), (0.9, "doubtful"), (0.6, "broken")):
        subject = Subject(predictor=Soft(factor), start=start, test={"hot": frames})
        (probe,) = softening.probes(Inquiry.of(subject, FAST))
        assert (probe.verdict, probe.value) == (verdict, pytest.approx(factor))
        assert ("too soft" in probe.meaning) == (verdict != "sound")
    (none,) = softening.probes(Inquiry.of(Subject(predictor=Soft(1.0), start=start), FAST))
    assert none.verdict == "not asked"
    assert "give data.test" in none.sentence


def labelled_copy(atoms):
    forces = atoms.get_forces()
    found = structure_of(atoms)
    return dataclasses.replace(found, forces=forces, energy=None, stress=None)
