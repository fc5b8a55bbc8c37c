"""Runs: planted failures, replicas that leave, interruption and exact resume, last frames."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from fireassay.data.graph import Graph
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.interop.ase import structure_of
from fireassay.potential import Prediction, Predictor
from fireassay.simulation.criteria import (
    ClosestApproach,
    EnergyJump,
    TemperatureRange,
    bond_criterion,
    connectivity,
)
from fireassay.simulation.integrators import Langevin, Noise, VelocityVerlet
from fireassay.simulation.observers import LastFrames, Recorder
from fireassay.simulation.run import Renewal, Simulation, _renewed, simulate
from fireassay.simulation.state import State, from_structures, generators, maxwell_boltzmann, replicate
from fireassay.simulation.thermostats import Berendsen, NoseHooverChain, VelocityRescaling
from toys import Pair


class Free:
    """No forces at all, unless the planted fault says otherwise: f(graph, forces, energy) may change both in place."""

    cutoff = 3.0

    species, dtype = None, torch.float64

    def __init__(self, fault=None) -> None:
        self.fault, self.calls = fault, 0

    def predict(self, graph: Graph, forces: bool = True, stress: bool = False) -> Prediction:
        self.calls += 1
        pull = torch.zeros_like(graph.positions)
        energy = torch.zeros(graph.n_structures, dtype=pull.dtype)
        if self.fault is not None:
            self.fault(graph, pull, energy, self.calls)
        return Prediction(energy, pull)


def water() -> Structure:
    return structure_of(Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]))


def at_rest(n: int = 3) -> State:
    return replicate(water(), n)


def one_failure(run: Simulation, replica: int, criterion: str):
    assert [f.replica for f in run.failures] == [replica]
    failure = run.failures[0]
    assert failure.criterion == criterion
    return failure


def test_a_bond_that_is_pulled_apart():
    state = at_rest()
    state.velocities[3 + 1, 0] = 0.1  # replica 1, atom 1 leaves at 0.1 Å/fs: 0.96 + 0.1 t > 2 at the 11th fs
    bonds = bond_criterion([water()] * 3, state)
    assert bonds is not None
    frames = LastFrames(4, 3)
    run = simulate(Free(), state, VelocityVerlet(1.0), 30, criteria=[bonds], observers=[frames])
    failure = one_failure(run, 1, "bond_length")
    assert failure.atoms == (0, 1)
    assert (failure.step, failure.time, failure.limit, failure.unit) == (11, 11.0, 2.0, "Å")
    assert failure.value == pytest.approx(2.06)
    assert run.state.replica.tolist() == [0, 2]
    assert run.replica_steps == 2 * 30 + 11
    arrays = run.arrays
    assert arrays["last_step"][:, 1].tolist() == [3, 6, 9, 11]
    assert arrays["last_step"][:, 0].tolist() == [21, 24, 27, 30]
    np.testing.assert_allclose(arrays["last_positions"][:, 4, 0], 0.96 + 0.1 * np.array([3, 6, 9, 11]))


def test_long_bonds_are_judged_by_their_stretch():
    disulphide = structure_of(Atoms("HSSH", [[0, 0, 1.34], [0, 0, 0], [2.05, 0, 0], [2.05, 1.34, 0]]))
    assert sorted(map(tuple, connectivity(disulphide).pairs.tolist())) == [(0, 1), (1, 2), (2, 3)]
    state = replicate(disulphide, 1)
    bonds = bond_criterion([disulphide], state)
    assert bonds is not None
    assert sorted(bonds.limit.tolist()) == pytest.approx([2.0, 2.0, 2.55])
    with pytest.raises(InputError, match=r"1 bonds start beyond their limit, one at 2.05 Å of 2.00"):
        bond_criterion([disulphide], state, 2.0, None)
    absolute = bond_criterion([disulphide], state, 2.1, None)
    assert absolute is not None
    assert absolute.limit.tolist() == [2.1, 2.1, 2.1]
    stretched = bond_criterion([disulphide], state, None, 0.5)
    assert stretched is not None
    assert sorted(stretched.limit.tolist()) == pytest.approx([1.84, 1.84, 2.55])
    with pytest.raises(InputError, match="longest length or a stretch"):
        bond_criterion([disulphide], state, None, None)


def test_bonds_across_a_boundary_are_followed_without_wrapping():
    atoms = Atoms("N2", [[0.3, 1, 1], [4.2, 1, 1]], cell=[5, 5, 5], pbc=True)
    structure = structure_of(atoms)
    found = connectivity(structure)
    assert found.length == pytest.approx([1.1])
    state = replicate(structure, 2)
    state.velocities[:] = torch.tensor([0.3, 0, 0])  # both leave the cell together: no failure
    state.velocities[2, 0] = 0.2  # the second replica's bond closes by 0.1 Å/fs, then opens
    bonds = bond_criterion([structure] * 2, state)
    assert bonds is not None
    run = simulate(Free(), state, VelocityVerlet(1.0), 60, criteria=[bonds])
    assert one_failure(run, 1, "bond_length").step in (31, 32)  # |1.1 - 0.1 t| > 2, to rounding


def test_metals_have_no_bonds():
    structure = structure_of(bulk("Cu", cubic=True))
    assert len(connectivity(structure).pairs) == 0
    assert bond_criterion([structure], replicate(structure, 1)) is None


def test_atoms_that_meet():
    state = at_rest()
    state.velocities[6 + 2] = torch.tensor([0.24, -0.93, 0]) * 0.05  # replica 2: H towards O
    run = simulate(Free(), state, VelocityVerlet(1.0), 30, criteria=[ClosestApproach(0.5)])
    failure = one_failure(run, 2, "closest_approach")
    assert failure.atoms == (0, 2)
    assert failure.value < 0.5 == failure.limit


def test_closest_approach_sees_with_a_predictor_that_needs_no_edges():
    class Blind(Free):
        cutoff = 0.0
        species, dtype = None, torch.float64

    state = at_rest()
    state.velocities[2] = torch.tensor([0.24, -0.93, 0]) * 0.05
    run = simulate(Blind(), state, VelocityVerlet(1.0), 30, criteria=[ClosestApproach(0.5)], reach=0.5)
    one_failure(run, 0, "closest_approach")


def test_too_hot_and_too_cold():
    state = maxwell_boltzmann(at_rest(), torch.tensor([300.0, 0.01, 50_000.0]), generators(0, 3), exact=True)
    run = simulate(Free(), state, VelocityVerlet(0.1), 1, criteria=[TemperatureRange()])
    assert [(f.replica, f.limit) for f in run.failures] == [(1, 0.1), (2, 10_000.0)]
    assert run.failures[1].value == pytest.approx(50_000)
    assert run.failures[1].unit == "K"


def test_an_energy_that_jumps():
    def fault(graph, pull, energy, call):
        if call == 5:
            energy[1] = 0.9

    run = simulate(Free(fault), at_rest(), VelocityVerlet(1.0), 10, criteria=[EnergyJump(0.2)])
    failure = one_failure(run, 1, "energy_jump")
    assert failure.step == 4  # call 1 is of the start
    assert failure.value == pytest.approx(0.3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("where", ["forces", "energy"])
def test_numbers_that_are_not_finite_end_one_replica_only(bad, where):
    def fault(graph, pull, energy, call):
        if call == 4:
            (pull if where == "forces" else energy)[1] = bad

    run = simulate(Free(fault), at_rest(), VelocityVerlet(1.0), 8)
    failure = one_failure(run, 0 if where == "forces" else 1, "not_finite")
    assert failure.atoms == ((1,) if where == "forces" else ())
    assert run.state.n_replicas == 2
    assert bool(torch.isfinite(run.state.positions).all())


def test_an_explosion_ends_in_a_failure_and_not_in_a_crash():
    def fault(graph, pull, energy, call):
        pull[1] = 1e300

    crystal = structure_of(bulk("Ar", a=5.3, cubic=True))
    for structure in (water(), crystal):
        run = simulate(Free(fault), replicate(structure, 2), VelocityVerlet(1.0), 8)
        assert run.failures[0].criterion == "not_finite"


def test_a_run_ends_when_nobody_is_left():
    potential = Free(lambda graph, pull, energy, call: energy.fill_(float("nan")))
    run = simulate(potential, at_rest(), VelocityVerlet(1.0), 1000)
    assert run.n_steps == 0
    assert run.state.n_replicas == 0
    assert [(f.replica, f.criterion, f.time) for f in run.failures] == [(k, "not_finite", 0.0) for k in range(3)]
    assert potential.calls == 1


def test_a_replica_without_forces_at_its_start_leaves_the_others(tmp_path):
    def fault(graph, pull, energy, call):
        if call == 1:
            pull[4] = float("nan")

    recorder, frames = Recorder(1, ("potential_energy",)), LastFrames(2, 1)
    run = simulate(Free(fault), at_rest(), VelocityVerlet(1.0), 5, observers=[recorder, frames])
    assert one_failure(run, 1, "not_finite").atoms == (1,)
    assert run.failures[0].step == 0
    assert run.state.replica.tolist() == [0, 2]
    assert bool(torch.isfinite(run.state.positions).all())
    assert run.arrays["last_step"][-1].tolist() == [5, 0, 5]


def hot(n: int = 6) -> State:
    atoms = bulk("Ar", "fcc", a=4.2, cubic=True)
    small = Atoms("Ne3", [[0, 0, 0], [2, 0, 0], [0, 2, 0]])
    state = from_structures([structure_of(atoms if k % 2 else small) for k in range(n)])
    return maxwell_boltzmann(state, 600.0, generators(1, n))


def test_the_survivors_do_not_notice_who_leaves():
    """To the last bit here; a network may group its sums differently in a smaller batch, which costs rounding."""

    def noise() -> Noise:
        return Noise(generators(2, 6))

    state = hot()
    free = simulate(
        Pair(cutoff=4.0), state, Langevin(2.0, 600.0, 0.01, noise()), 40, observers=[Recorder(1, ("positions",))]
    )

    class Faulty(Predictor):
        cutoff = 4.0
        species, dtype = None, torch.float64

        def __init__(self):
            self.inner, self.calls = Pair(cutoff=4.0), 0

        def predict(self, graph, forces=True, stress=False):
            said = self.inner.predict(graph, forces, stress)
            self.calls += 1
            energy = said.energy.clone()
            if self.calls in (10, 25):
                energy[0 if self.calls == 10 else 2] = float("nan")  # replica 0 at step 9, replica 3 at step 24
            return said._replace(energy=energy)

    run = simulate(Faulty(), state, Langevin(2.0, 600.0, 0.01, noise()), 40, observers=[Recorder(1, ("positions",))])
    assert [(f.replica, f.step) for f in run.failures] == [(0, 9), (3, 24)]
    assert run.state.replica.tolist() == [1, 2, 4, 5]
    last = torch.isin(state.structure, run.state.replica).numpy()
    assert np.array_equal(run.arrays["positions"][:, last], free.arrays["positions"][:, last])
    gone = (state.structure == 0).numpy()
    assert np.isnan(run.arrays["positions"][10:, gone]).all()
    assert np.isfinite(run.arrays["positions"][:10, gone]).all()


class Interrupted(Predictor):
    """A potential during whose n-th call somebody presses Ctrl-C."""

    cutoff = 4.0

    species, dtype = None, torch.float64

    def __init__(self, at: int | None) -> None:
        self.inner, self.at, self.calls = Pair(cutoff=4.0, epsilon=0.5), at, 0

    def predict(self, graph: Graph, forces: bool = True, stress: bool = False) -> Prediction:
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return self.inner.predict(graph, forces, stress)


@pytest.mark.parametrize("kind", ["nve", "berendsen", "langevin", "rescaling", "chain"])
def test_an_interrupted_run_resumes_to_the_same_bits(kind: str, tmp_path: Path):
    def integrator():
        if kind == "langevin":
            return Langevin(2.0, 900.0, 0.02, Noise(generators(3, 6), block=7))
        if kind == "rescaling":
            return VelocityRescaling(2.0, 900.0, 50.0, Noise(generators(3, 6), block=7))
        if kind == "chain":
            return NoseHooverChain(2.0, 900.0, 50.0)
        return VelocityVerlet(2.0) if kind == "nve" else Berendsen(2.0, 900.0, 50.0)

    def run(at: int | None, path: Path | None) -> Simulation:
        state = hot()
        observers = [Recorder(3, ("temperature", "positions")), LastFrames(5, 4)]
        criteria = [ClosestApproach(1.9), EnergyJump(5.0), TemperatureRange(0.1, 1e5)]
        return simulate(
            Interrupted(at), state, integrator(), 60, criteria=criteria, observers=observers, checkpoint=path
        )

    whole = run(None, None)
    assert whole.failures, "a failure on the way makes the test harder"
    path = tmp_path / "run.npz"
    for at in (5, 17, 18):
        with pytest.raises(KeyboardInterrupt):
            run(at, path)
        assert path.exists()
    resumed = run(None, path)
    assert not path.exists()
    assert resumed.failures == whole.failures
    for one, other in zip(whole.state, resumed.state, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)
    for name, array in whole.arrays.items():
        assert np.array_equal(array, resumed.arrays[name], equal_nan=True), name
    assert resumed.replica_steps == whole.replica_steps


def test_bonds_are_still_followed_after_a_failure_and_a_resume(tmp_path: Path):
    class Halted(Free):
        def predict(self, graph, forces=True, stress=False):
            if self.calls == self.fault:
                self.fault = None
                raise KeyboardInterrupt
            self.calls += 1
            zero = torch.zeros_like(graph.positions)
            return Prediction(zero.new_zeros(graph.n_structures), zero)

    state = at_rest()
    state.velocities[1, 0] = 0.1  # replica 0 breaks at 11 fs
    state.velocities[6 + 2, 1] = 0.05  # replica 2 later, by its other bond
    bonds = bond_criterion([water()] * 3, state)
    assert bonds is not None
    whole = simulate(Free(), state, VelocityVerlet(1.0), 40, criteria=[bonds])
    assert [(f.replica, f.atoms) for f in whole.failures] == [(0, (0, 1)), (2, (0, 2))]
    path = tmp_path / "run.npz"
    with pytest.raises(KeyboardInterrupt):
        simulate(Halted(15), state, VelocityVerlet(1.0), 40, criteria=[bonds], checkpoint=path)
    assert (
        simulate(Free(), state, VelocityVerlet(1.0), 40, criteria=[bonds], checkpoint=path).failures == whole.failures
    )


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path):
    path = tmp_path / "run.npz"
    with pytest.raises(KeyboardInterrupt):
        simulate(Interrupted(5), hot(), VelocityVerlet(2.0), 60, checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(InputError, match="left by another run"):
        simulate(Interrupted(None), hot(), VelocityVerlet(1.0), 60, checkpoint=path)
    with pytest.raises(InputError, match="left by another run"):
        simulate(Interrupted(None), hot(), Berendsen(2.0, 300.0, 50.0), 60, checkpoint=path)
    assert path.read_bytes() == before
    path.write_bytes(before[:100])
    with pytest.raises(InputError, match="cut short"):
        simulate(Interrupted(None), hot(), VelocityVerlet(2.0), 60, checkpoint=path)


def test_the_list_is_rebuilt_when_needed_and_never_lies():
    potential, seen = Pair(cutoff=4.0), []

    class Watched(Predictor):
        cutoff = 4.0
        species, dtype = None, torch.float64

        def predict(self, graph, forces=True, stress=False):
            seen.append((graph, potential.predict(graph, forces, stress)))
            return seen[-1][1]

    run = simulate(Watched(), hot(), VelocityVerlet(2.0), 80, skin=0.6)
    assert 2 < run.rebuilds < 60
    fresh = simulate(potential, hot(), VelocityVerlet(2.0), 80, skin=1e-9)
    assert fresh.rebuilds == 81
    torch.testing.assert_close(run.state.positions, fresh.state.positions, rtol=0, atol=1e-9)
    for graph, _ in seen:
        assert bool((graph.centre.diff() >= 0).all())


def test_records_refuse_unknown_names():
    with pytest.raises(InputError, match="did you mean 'temperature'"):
        Recorder(1, ("temprature",))


def test_progress_is_told_of_every_step_and_of_who_is_left():
    class Told:
        def __init__(self):
            self.total, self.done, self.notes, self.stopped = 0, 0, [], False

        def start(self, description, total, done=0):
            self.total, self.done = total, done

        def advance(self, steps=1, note=""):
            self.done += steps
            self.notes.append(note)

        def stop(self):
            self.stopped = True

    def fault(graph, pull, energy, call):
        if call == 3:
            energy[0] = float("nan")

    told = Told()
    simulate(Free(fault), at_rest(), VelocityVerlet(1.0), 50, progress=told)
    assert (told.done, told.total, told.stopped) == (50, 50, True)
    assert told.notes[-1] == "2 of 3 replicas alive"


def test_a_calculation_that_fails_ends_its_replica_and_says_why(tmp_path):
    class Failing(Free):
        failures: dict[int, str] = {}  # noqa: RUF012

        def predict(self, graph, forces=True, stress=False):
            said = super().predict(graph, forces, stress)
            self.failures = {}
            if self.calls == 6:
                said.energy[1] = float("nan")
                self.failures = {1: "SCF: not converged"}
            return said

    run = simulate(Failing(), replicate(water(), 4), VelocityVerlet(1.0), 10)
    (failure,) = run.failures
    assert (failure.replica, failure.criterion, failure.step) == (1, "calculation_failed", 5)
    assert failure.message == "SCF: not converged"
    assert run.state.n_replicas == 3


def short_lived(stop: int | None = None):
    """Fast replicas of free water, each of which ends within a few steps by its temperature or a bond."""

    class Stopping(Free):
        def predict(self, graph, forces=True, stress=False):
            if stop is not None and self.calls + 1 == stop:
                raise KeyboardInterrupt
            return super().predict(graph, forces, stress)

    return Stopping()


def renewed_run(checkpoint: Path | None = None, stop: int | None = None, times: int = 3, n_steps: int = 60):
    state = maxwell_boltzmann(at_rest(4), 3000.0, generators(0, 4))
    bonds = bond_criterion([water()] * 4, state, None, 0.35)
    assert bonds is not None
    recorder = Recorder(1, ("positions",))
    chain = NoseHooverChain(1.0, 3000.0, 100.0)
    renewal = Renewal(state, 3000.0, 5, times)
    run = simulate(
        short_lived(stop), state, chain, n_steps, criteria=[bonds], observers=[recorder], renewal=renewal,
        checkpoint=checkpoint, every=0.0,
    )  # fmt: skip
    return run, recorder.arrays()["positions"]


def test_beside_a_single_atom_a_molecule_begins_anew_with_its_translation_too():
    """All replicas of such a batch have 3n degrees of freedom, and keep them."""
    atom = replace(water(), atomic_numbers=np.array([18]), positions=np.zeros((1, 3)))
    state = from_structures([water(), atom])
    state = maxwell_boltzmann(state, 3000.0, generators(0, 2), translation=True)
    births = torch.tensor([[7, 1], [0, 0]])
    again = _renewed(state, [0], births, Renewal(state, 3000.0, 5, 3))
    momentum = (again.masses.unsqueeze(1) * again.velocities)[:3].sum(0)
    assert momentum.norm() > 1e-3
    assert torch.equal(again.velocities[3:], state.velocities[3:])


def test_failed_replicas_begin_anew_until_they_have_done_so_often_enough(tmp_path: Path):
    run, seen = renewed_run()
    lives: dict[int, list[int]] = {}
    for failure in run.failures:
        lives.setdefault(failure.replica, []).append(failure.step)
        assert failure.time == failure.step * 1.0
    ended = [replica for replica, ages in lives.items() if len(ages) == 4]
    assert ended, "some replica has used up its lives"
    assert all(replica not in run.state.replica.tolist() for replica in ended)
    for replica, ages in lives.items():
        assert sum(ages) <= 60
        step = 0
        for age in ages[:-1] if replica in ended else ages:
            step += age
            if step < 60:  # one step after the start, where all replicas begin
                away = seen[step + 1, 3 * replica : 3 * replica + 3] - water().positions
                assert np.abs(away).max() < 0.2
    assert any(len(set(ages[1:])) > 1 for ages in lives.values()), "each life has its own velocities"
    alone, _ = renewed_run(times=0)
    assert {f.replica: f.step for f in reversed(run.failures)} == {f.replica: f.step for f in alone.failures} | {
        f.replica: f.step for f in reversed(run.failures) if f.replica not in {g.replica for g in alone.failures}
    }


def test_the_thermostat_is_told_who_begins_anew():
    class Listening(NoseHooverChain):
        def forget(self, replicas):
            heard.extend(replicas)
            super().forget(replicas)

    heard: list[int] = []
    state = maxwell_boltzmann(at_rest(4), 3000.0, generators(0, 4))
    bonds = bond_criterion([water()] * 4, state, None, 0.35)
    assert bonds is not None
    run = simulate(
        Free(), state, Listening(1.0, 3000.0, 100.0), 60, criteria=[bonds], renewal=Renewal(state, 3000.0, 5, 100)
    )
    assert heard == [failure.replica for failure in run.failures]
    assert run.state.n_replicas == 4


def test_an_interrupted_run_whose_replicas_begin_anew_resumes_to_the_same_bits(tmp_path: Path):
    whole, seen = renewed_run()
    file = tmp_path / "run.npz"
    with pytest.raises(KeyboardInterrupt):
        renewed_run(file, stop=40)
    resumed, again = renewed_run(file)
    assert resumed.failures == whole.failures
    assert np.array_equal(seen, again, equal_nan=True)
    assert torch.equal(resumed.state.velocities, whole.state.velocities)
    assert torch.equal(resumed.state.forces, whole.state.forces)
