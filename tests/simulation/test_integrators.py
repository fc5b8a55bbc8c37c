"""Velocity Verlet, Berendsen and BAOAB against ASE, against exact statistics, and against their own order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase import units as ase_units
from ase.build import bulk
from ase.md.nose_hoover_chain import NoseHooverChainNVT
from ase.md.nvtberendsen import NVTBerendsen
from ase.md.verlet import VelocityVerlet as AseVelocityVerlet

from fireassay.data.graph import Graph
from fireassay.errors import InputError
from fireassay.interop.ase import FireassayCalculator, atoms_of, structure_of
from fireassay.potential import Prediction
from fireassay.simulation.integrators import Langevin, Noise, VelocityVerlet
from fireassay.simulation.observers import Recorder
from fireassay.simulation.run import simulate
from fireassay.simulation.state import (
    State,
    from_structures,
    generators,
    kinetic_energy,
    maxwell_boltzmann,
    replicate,
    temperature,
)
from fireassay.simulation.thermostats import Berendsen, NoseHooverChain, VelocityRescaling
from fireassay.units import ACCELERATION, BOLTZMANN
from toys import Pair


class Springs:
    """Every atom on a spring of its own, k in eV/Å^2, at the origin: R x n independent oscillators."""

    cutoff = 0.0

    species, dtype = None, torch.float64

    def __init__(self, stiffness: float = 2.0) -> None:
        self.stiffness = stiffness

    def predict(self, graph: Graph, forces: bool = True, stress: bool = False) -> Prediction:
        x = graph.positions
        energy = torch.zeros(graph.n_structures, dtype=x.dtype).index_add(0, graph.structure, x.square().sum(1))
        return Prediction(energy * (self.stiffness / 2), -self.stiffness * x)


def crystal(noise: float = 0.05, seed: int = 0) -> Atoms:
    """32 argon atoms in a triclinic periodic cell, off their sites."""
    atoms = bulk("Ar", "fcc", a=4.2, cubic=True).repeat((2, 2, 2))
    atoms.set_cell(atoms.cell[:] @ np.array([[1, 0.05, 0], [0, 1, 0.03], [0, 0, 1.0]]), scale_atoms=True)
    atoms.positions += np.random.default_rng(seed).normal(0, noise, atoms.positions.shape)
    return atoms


def cluster(n: int = 8, seed: int = 0) -> Atoms:
    """n argon atoms without periodicity."""
    return Atoms("Ar" * n, crystal(seed=seed).positions[:n])


def moving(atoms: list[Atoms], target: float = 300.0, **options: bool) -> State:
    state = from_structures([structure_of(a) for a in atoms])
    return maxwell_boltzmann(state, target, generators(7, len(atoms)), **options)


@pytest.mark.parametrize("make", [crystal, cluster])
@pytest.mark.parametrize("thermostat", ["none", "berendsen", "chain"])
def test_one_replica_follows_ase_step_by_step(make, thermostat):
    potential, steps, timestep = Pair(cutoff=4.5), 60, 2.0
    state = moving([make()])
    atoms = atoms_of(structure_of(make()))
    atoms.calc = FireassayCalculator(potential)
    fs = ACCELERATION**0.5  # ASE's femtosecond and k_B are of CODATA 2014, ours of 2018: 3e-9 apart
    atoms.set_velocities(state.velocities.numpy() / fs)
    state = state._replace(degrees_of_freedom=torch.tensor([3.0 * len(atoms)], dtype=torch.float64))  # ASE counts 3n
    target = 900.0 * BOLTZMANN / ase_units.kB
    integrator, dynamics = {
        "none": lambda: (VelocityVerlet(timestep), AseVelocityVerlet(atoms, timestep * fs)),
        "berendsen": lambda: (
            Berendsen(timestep, 900.0, 40.0),
            NVTBerendsen(atoms, timestep * fs, temperature_K=target, taut=40 * fs),
        ),
        "chain": lambda: (
            NoseHooverChain(timestep, 900.0, 40.0),
            NoseHooverChainNVT(atoms, timestep * fs, temperature_K=target, tdamp=40 * fs),
        ),
    }[thermostat]()
    theirs, speeds = [atoms.get_positions()], [atoms.get_velocities() * fs]
    for _ in range(steps):
        dynamics.run(1)
        theirs.append(atoms.get_positions())
        speeds.append(atoms.get_velocities() * fs)
    recorder = Recorder(1, ("positions", "velocities"))
    run = simulate(potential, state, integrator, steps, observers=[recorder], skin=0.3)
    assert run.rebuilds > 2

    np.testing.assert_allclose(run.arrays["positions"], theirs, rtol=0, atol=1e-9)
    np.testing.assert_allclose(run.arrays["velocities"], speeds, rtol=0, atol=1e-9)
    assert fs == pytest.approx(ase_units.fs, rel=1e-8)
    assert np.abs(theirs[-1] - theirs[0]).max() > 0.3


def test_energy_error_falls_with_the_square_of_the_time_step():
    potential = Pair(cutoff=4.5)
    state = moving([crystal(seed=k) for k in range(4)], 100.0)
    spread = {}
    for timestep in (8.0, 4.0, 2.0):
        recorder = Recorder(1, ("total_energy",))
        simulate(potential, state, VelocityVerlet(timestep), round(800 / timestep), observers=[recorder])
        spread[timestep] = recorder.arrays()["total_energy"].std(0).mean()
    assert 3.4 < spread[8.0] / spread[4.0] < 4.6
    assert 3.4 < spread[4.0] / spread[2.0] < 4.6


def test_velocity_verlet_is_reversible():
    potential, state = Pair(cutoff=4.5), moving([crystal()])
    there = simulate(potential, state, VelocityVerlet(2.0), 100).state
    back = simulate(potential, there._replace(velocities=-there.velocities), VelocityVerlet(2.0), 100).state
    assert (there.positions - state.positions).abs().max() > 0.1
    torch.testing.assert_close(back.positions, state.positions, rtol=0, atol=1e-9)


def test_berendsen_approaches_its_target_exponentially():
    state = moving([cluster(seed=k) for k in range(3)], 200.0, exact=True)

    class Free(Springs):
        def __init__(self):
            super().__init__(0.0)

    recorder = Recorder(1, ("temperature",))
    simulate(Free(), state, Berendsen(1.0, 800.0, 100.0), 200, observers=[recorder])
    measured = recorder.arrays()["temperature"]
    expected = 800 - 600 * (1 - 1 / 100) ** np.arange(201)  # dT/dt = (T0 - T) / τ, in steps of Δt
    np.testing.assert_allclose(measured, np.repeat(expected[:, None], 3, 1), rtol=1e-9)


def test_the_thermostat_keeps_the_centre_of_mass_in_place_as_ase_does():
    class Windy(Pair):
        def predict(self, graph, forces=True, stress=False, *, differentiable=False):
            said = super().predict(graph, forces, stress, differentiable=differentiable)
            assert said.forces is not None
            return said._replace(forces=said.forces + torch.tensor([0.01, 0, 0], dtype=said.forces.dtype))

    atoms = cluster()
    atoms.numbers[::3] = 2
    state = moving([atoms])._replace(degrees_of_freedom=torch.tensor([24.0], dtype=torch.float64))
    atoms.calc = FireassayCalculator(Windy(cutoff=4.5))
    fs = ACCELERATION**0.5
    atoms.set_velocities(state.velocities.numpy() / fs)
    NVTBerendsen(atoms, fs, temperature_K=500.0 * BOLTZMANN / ase_units.kB, taut=50 * fs).run(40)
    run = simulate(Windy(cutoff=4.5), state, Berendsen(1.0, 500.0, 50.0), 40)
    np.testing.assert_allclose(run.state.positions.numpy(), atoms.positions, rtol=0, atol=1e-9)
    free = simulate(Windy(cutoff=4.5), state, Berendsen(1.0, 500.0, 50.0, fix_centre_of_mass=False), 40)
    assert float((free.state.positions - run.state.positions).mean(0)[0]) > 1e-3


def covariance(timestep: float, stiffness: float, mass: float, friction: float, target: float) -> np.ndarray:
    """The stationary covariance of (x, v) of BAOAB on a harmonic oscillator, from its linear map: C = A C A' + B B'."""
    h, a = timestep, -stiffness * ACCELERATION / mass
    kick, drift = np.array([[1, 0], [h / 2 * a, 1]]), np.array([[1, h / 2], [0, 1]])
    c = np.exp(-friction * h)
    ou = np.diag([1, c])
    before, after = ou @ drift @ kick, kick @ drift
    step = after @ before
    source = after @ np.array([[0], [np.sqrt((1 - c * c) * BOLTZMANN * ACCELERATION * target / mass)]])
    solved = np.linalg.solve(np.eye(4) - np.kron(step, step), (source @ source.T).ravel())
    return solved.reshape(2, 2)


def test_baoab_covariance_is_what_its_docstring_claims():
    omega2 = 2.0 * ACCELERATION / 12.0
    exact = BOLTZMANN * 300 / 2.0
    for timestep in (1.0, 10.0, 20.0):
        cov = covariance(timestep, 2.0, 12.0, 0.02, 300)
        assert cov[0, 0] == pytest.approx(exact, rel=1e-9)
        thermal = BOLTZMANN * ACCELERATION * 300 / 12.0
        assert cov[1, 1] == pytest.approx(thermal * (1 - omega2 * timestep**2 / 4), rel=1e-9)


def test_langevin_samples_the_oscillator_within_its_statistical_error():
    timestep, friction, target, n = 15.0, 0.02, 300.0, 200
    carbon = Atoms("C" * n, np.zeros((n, 3)))
    state = replicate(structure_of(carbon), 10)
    state = maxwell_boltzmann(state, target, generators(1, 10), translation=True, rotation=True)
    integrator = Langevin(timestep, target, friction, Noise(generators(2, 10)))
    recorder = Recorder(10, ("positions", "velocities"))
    run = simulate(Springs(), state, integrator, 1000, observers=[recorder])
    assert run.state.degrees_of_freedom.tolist() == [3 * n] * 10
    cov = covariance(timestep, 2.0, 12.011, friction, target)
    for name, expected in (("positions", cov[0, 0]), ("velocities", cov[1, 1])):
        x2 = recorder.arrays()[name][30:].reshape(71, -1) ** 2  # frames 150 fs apart, 6000 oscillators
        per_oscillator = x2.mean(0)
        error = per_oscillator.std() / np.sqrt(len(per_oscillator))
        assert abs(per_oscillator.mean() - expected) < 4 * error, name
        assert error < 0.01 * expected
    naive = BOLTZMANN * ACCELERATION * target / 12.011
    assert abs(naive - cov[1, 1]) > 4 * error  # so the test can tell the exact value from the continuous one


def test_langevin_brings_every_element_to_one_temperature():
    atoms = crystal()
    atoms.numbers[::2] = 2
    state = replicate(structure_of(atoms), 8)
    state = maxwell_boltzmann(state, 50.0, generators(3, 8))
    integrator = Langevin(2.0, 300.0, 0.02, Noise(generators(4, 8)))
    recorder = Recorder(20, ("velocities",))
    simulate(Pair(cutoff=4.5), state, integrator, 3000, observers=[recorder])
    squared = (recorder.arrays()["velocities"][30:] ** 2).sum(2) * state.masses.numpy()
    kinetic = squared / (3 * BOLTZMANN * ACCELERATION)  # (T, N) K
    for light in (True, False):
        chosen = kinetic[:, (state.atomic_numbers == 2).numpy() == light].reshape(len(kinetic), 8, -1).mean((0, 2))
        error = chosen.std(ddof=1) / np.sqrt(8)
        assert abs(chosen.mean() - 300) < 4 * error + 0.01 * 300, light
        assert error < 10


def test_a_batch_moves_as_its_singles_do():
    potential = Pair(cutoff=4.5)
    starts = [crystal(seed=1), cluster(5, seed=2), cluster(8, seed=3), cluster(1)]
    starts[1].numbers[:] = 10
    state = from_structures([structure_of(a) for a in starts])
    state = maxwell_boltzmann(state, 400.0, generators(5, 4), translation=True)
    for build in (
        lambda keep: VelocityVerlet(2.0),
        lambda keep: Berendsen(2.0, 900.0, 50.0),
        lambda keep: Langevin(2.0, 900.0, 0.01, Noise([generators(6, 4)[k] for k in keep])),
        lambda keep: VelocityRescaling(2.0, 900.0, 50.0, Noise([generators(6, 4)[k] for k in keep])),
        lambda keep: NoseHooverChain(2.0, 900.0, 50.0),
    ):
        together = simulate(potential, state, build(range(4)), 50).state
        for row in range(4):
            alone = maxwell_boltzmann(
                from_structures([structure_of(starts[row])]), 400.0, [generators(5, 4)[row]], translation=True
            )
            single = simulate(potential, alone, build([row]), 50).state
            rows = together.structure == row
            torch.testing.assert_close(together.positions[rows], single.positions, rtol=0, atol=1e-10)
            torch.testing.assert_close(together.energy[row : row + 1], single.energy, rtol=0, atol=1e-10)


def test_the_seed_decides_and_replicas_are_independent():
    def run(seed: int) -> torch.Tensor:
        state = maxwell_boltzmann(replicate(structure_of(cluster()), 400), 300.0, generators(seed, 400))
        integrator = Langevin(2.0, 300.0, 0.02, Noise(generators(seed + 1, 400)))
        return simulate(Springs(0.0), state, integrator, 20).state.velocities

    first = run(11)
    assert torch.equal(first, run(11))
    assert not torch.equal(first, run(12))
    flat = first.reshape(400, -1)
    correlation = torch.corrcoef(flat)[~torch.eye(400, dtype=torch.bool)]
    assert abs(float(correlation.mean())) < 4 / (400 * 24**0.5)
    assert float(correlation.std()) == pytest.approx(24**-0.5, rel=0.1)


def test_float32_states_stay_float32_and_close_to_float64():
    potential = Pair(cutoff=4.5)
    double = moving([cluster()])
    half = {k: v.float() for k, v in double._asdict().items() if v is not None and v.is_floating_point()}
    single = double._replace(**{**half, "energy": double.energy})
    for integrator in (VelocityVerlet(1.0), Berendsen(1.0, 500.0, 100.0)):
        a = simulate(potential, double, integrator, 20).state
        b = simulate(potential, single, integrator, 20).state
        assert b.positions.dtype == b.velocities.dtype == b.forces.dtype == torch.float32
        torch.testing.assert_close(a.positions, b.positions.double(), rtol=0, atol=1e-4)


def test_noise_needs_one_generator_per_replica():
    state = moving([cluster(), cluster()])
    with pytest.raises(InputError, match="1 noise generators for 2 replicas"):
        simulate(Springs(), state, Langevin(1.0, 300.0, 0.01, Noise(generators(0, 1))), 1)


def test_an_unknown_element_is_refused_before_the_first_step():
    class Picky(Pair):
        species = (6, 8)

    with pytest.raises(InputError, match=r"\[18\] are unknown"):
        simulate(Picky(), moving([cluster()]), VelocityVerlet(1.0), 1)


def test_temperature_of_a_start_is_exact_on_request():
    state = moving([crystal(), cluster()], 700.0, exact=True)
    torch.testing.assert_close(temperature(state), torch.full((2,), 700.0, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["rescaling", "chain"])
def test_the_kinetic_energy_is_canonical(kind: str):
    """K of f degrees of freedom has mean f kT/2 and variance f (kT)²/2; the centre of mass stays at rest."""
    replicas, target, steps = 16, 600.0, 2000
    state = maxwell_boltzmann(replicate(structure_of(crystal()), replicas), 300.0, generators(1, replicas))
    integrator = {
        "rescaling": lambda: VelocityRescaling(2.0, target, 40.0, Noise(generators(2, replicas))),
        "chain": lambda: NoseHooverChain(2.0, target, 40.0),
    }[kind]()
    recorder = Recorder(10, ("kinetic_energy",))
    done = simulate(Pair(cutoff=4.5), state, integrator, steps, observers=[recorder])
    kinetic = recorder.arrays()["kinetic_energy"][40:]
    freedom, thermal = float(state.degrees_of_freedom[0]), BOLTZMANN * target
    means, variances = kinetic.mean(0), kinetic.var(0)
    error = means.std(ddof=1) / np.sqrt(replicas)
    assert abs(means.mean() - freedom * thermal / 2) < 4 * error + 2e-3 * thermal
    spread = variances.std(ddof=1) / np.sqrt(replicas)
    assert abs(variances.mean() - freedom * thermal**2 / 2) < 4 * spread
    assert spread < 0.1 * variances.mean()
    momentum = (done.state.velocities * done.state.masses.unsqueeze(1)).reshape(replicas, -1, 3).sum(1)
    assert momentum.abs().max() < 1e-9


def test_the_chain_conserves_its_energy():
    potential, state = Pair(cutoff=4.5), moving([crystal(seed=k) for k in range(2)], 300.0)
    spread = {}
    for timestep in (4.0, 2.0):
        chain, totals = NoseHooverChain(timestep, 300.0, 100.0), []

        class Watch(Recorder):
            def see(self, state, step, failed=(), chain=chain, totals=totals):
                super().see(state, step, failed)
                totals.append((state.energy + kinetic_energy(state) + chain.energy(state)).numpy())

        simulate(potential, state, chain, round(400 / timestep), observers=[Watch(1, ("total_energy",))])
        spread[timestep] = np.array(totals).std(0).mean()
    assert 3.0 < spread[4.0] / spread[2.0] < 5.0


def test_a_chain_needs_links():
    with pytest.raises(InputError, match="needs a link"):
        NoseHooverChain(1.0, 300.0, 100.0, links=0)


def test_velocity_rescaling_is_canonical_for_few_degrees_of_freedom():
    """Two free atoms in a box have three: where one normal number more or less would be seen in the mean."""

    class Free:
        cutoff, species, dtype = 0.0, None, torch.float64

        def predict(self, graph: Graph, forces: bool = True, stress: bool = False) -> Prediction:
            return Prediction(graph.positions.new_zeros(graph.n_structures), torch.zeros_like(graph.positions))

    gas = structure_of(Atoms("Ar2", [[0, 0, 0], [10, 10, 10]], cell=[20, 20, 20], pbc=True))
    state = maxwell_boltzmann(replicate(gas, 3000), 100.0, generators(0, 3000))
    assert state.degrees_of_freedom[0] == 3
    state = state._replace(velocities=state.velocities * 2)  # far from what it will be
    run = simulate(Free(), state, VelocityRescaling(2.0, 100.0, 10.0, Noise(generators(1, 3000))), 60)
    kinetic = kinetic_energy(run.state).numpy() / (1.5 * BOLTZMANN * 100.0)
    assert kinetic.mean() == pytest.approx(1.0, abs=4 * np.sqrt(2 / 3 / 3000))
    assert kinetic.var() == pytest.approx(2 / 3, rel=0.15)


def test_a_chain_forgets_replicas_that_begin_anew():
    state = moving([cluster(), cluster()])
    chain = NoseHooverChain(2.0, 300.0, 40.0)
    after = simulate(Springs(), state, chain, 20).state
    assert float(chain.energy(after).abs().min()) > 0
    chain.forget([1])
    energy = chain.energy(after)
    assert float(energy[1]) == 0.0
    assert float(energy[0]) != 0.0
