"""Everything that computes, on a CUDA device; FIREASSAY_DEVICE=cpu lets the tests try themselves on the CPU."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from architectures import ARCHITECTURES, build
from fireassay.assays import dynamics, landscape, stability, structure, uncertainty
from fireassay.assays.assay import Subject
from fireassay.assays.dynamics import DynamicsSettings
from fireassay.assays.structure import StructureSettings
from fireassay.data.baseline import fit_e0
from fireassay.data.datasets import Dataset
from fireassay.data.fingerprint import fingerprint
from fireassay.data.graph import Graph, from_structures
from fireassay.data.readers import read
from fireassay.data.structure import Structure
from fireassay.errors import Interrupted
from fireassay.interop.ase import FireassayCalculator, atoms_of
from fireassay.interop.imported import finished
from fireassay.interop.mace import mace_potential
from fireassay.interop.worker import read_export
from fireassay.potential import Baseline, Potential, Prediction
from fireassay.potential_file import load_potential, save_potential
from fireassay.records import ErrorTrajectory
from fireassay.simulation.criteria import AtomEnergyJump
from fireassay.simulation.ensemble import Pressing, integrator
from fireassay.simulation.integrators import Langevin, Noise, Ramp, VelocityVerlet
from fireassay.simulation.observers import Recorder
from fireassay.simulation.relax import relax
from fireassay.simulation.run import simulate
from fireassay.simulation.state import generators, maxwell_boltzmann, replicate
from fireassay.simulation.trajectory import TrajectoryWriter
from fireassay.testing import assert_potential_contract
from fireassay.training import fit as fit_module
from fireassay.training.fit import fit
from fireassay.training.recipe import Recipe

DEVICE = torch.device(os.environ.get("FIREASSAY_DEVICE", "cuda"))

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE.type == "cuda" and not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SPECIES = [29, 79]


def frames(n: int = 12) -> list[Structure]:
    return read("cuau-emt/train_300K")[:n]


def potential(name: str = "nequip", dtype: torch.dtype = torch.float64) -> Baseline:
    """A small model on its baseline, on the device."""
    network = build(name, species=SPECIES)
    return Baseline(network, fit_e0(frames()).e0, 0.5).to(DEVICE, dtype)


def host(prediction: Prediction) -> Prediction:
    return Prediction(*(None if value is None else value.detach().cpu().double() for value in prediction))


def close(found: torch.Tensor | None, expected: torch.Tensor | None, relative: float) -> None:
    assert found is not None
    assert expected is not None
    scale = max(float(expected.abs().max()), 1e-3)
    assert float((found - expected).abs().max()) <= relative * scale


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_every_model_keeps_the_contract(name):
    laws = assert_potential_contract(lambda: build(name), device=DEVICE)
    assert len(laws) == 14


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_every_model_says_what_it_says_on_the_cpu(name, dtype):
    """Energy, forces, stress, descriptors and the gradient of a training step, against float64 on the CPU."""
    model = build(name).double()
    there = copy.deepcopy(model).to(DEVICE, dtype)
    rng = np.random.default_rng(0)
    molecule = Structure(np.array([8, 1, 1, 8, 1]), rng.uniform(-2, 2, (5, 3)))
    cell = 4.1 * np.eye(3) + 0.2 * rng.normal(size=(3, 3))
    crystal = Structure(np.array([8, 1, 1]), np.array([[0.1, 0, 0], [2, 2, 0.3], [0.2, 2, 2]]), cell, np.ones(3, bool))
    here = from_structures([molecule, crystal], 4.0)
    graph = here.to(DEVICE, dtype)
    relative = 1e-9 if dtype == torch.float64 else 3e-4
    expected, found = model.predict(here, stress=True), host(there.predict(graph, stress=True))
    frozen = host(there.frozen().predict(graph, stress=True))
    for got, tolerance in ((found, relative), (frozen, max(relative, 1e-4))):
        close(got.energy, expected.energy, tolerance)
        close(got.forces, expected.forces, tolerance)
        close(got.stress[1], expected.stress[1], tolerance)  # type: ignore[index]
        close(got.descriptors, expected.descriptors.double(), 10 * tolerance)  # type: ignore[union-attr]
    for expected_gradient, gradient in zip(_gradients(model, here), _gradients(there, graph), strict=True):
        close(gradient.cpu().double(), expected_gradient, 30 * relative)


def _gradients(model: Potential, graph: Graph) -> list[torch.Tensor]:
    found = model.predict(graph, differentiable=True)
    assert found.forces is not None
    weights = [p for p in model.parameters() if p.requires_grad]
    loss = found.energy.sum() + found.forces.square().sum()
    gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(weights, gradients, strict=True)]


RECIPE = Recipe.model_validate(
    {
        "epochs": 4,
        "batch_size": 3,
        "optimiser": {"lr": 0.01},
        "loss": {"stress": {"weight": 1.0}},
        "ema": {"decay": 0.9},
        "swa": {"start_epoch": 3},
        "checkpoints": {"rest_seconds": 0},
    }
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_fit_that_is_stopped_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch, dtype):
    """Sums on a GPU run in any order, so the course is the same to rounding; the state itself comes back exactly."""
    data = Dataset(frames(9), 4.0), Dataset(frames(12)[9:], 4.0)
    whole = fit(potential(dtype=dtype), *data, RECIPE, tmp_path / "whole", device=DEVICE)
    inner = fit_module.Loop.run

    def stopped(self):
        self.request.signal = 15
        inner(self)

    monkeypatch.setattr(fit_module.Loop, "run", stopped)
    with pytest.raises(Interrupted):
        fit(potential(dtype=dtype), *data, RECIPE, tmp_path / "cut", device=DEVICE)
    monkeypatch.setattr(fit_module.Loop, "run", inner)
    resumed = fit(potential(dtype=dtype), *data, RECIPE, tmp_path / "cut", device=DEVICE)
    relative = 1e-6 if dtype == torch.float64 else 2e-2
    for name, value in whole.last.items():
        if name != "seconds":
            assert resumed.last[name] == pytest.approx(value, rel=relative, abs=1e-12)
    counts = [ErrorTrajectory.load(tmp_path / run / "errors.npz").counts.sum() for run in ("whole", "cut")]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_replicas_move_as_on_the_cpu_and_restart(tmp_path, dtype):
    model = potential("painn", dtype)
    start = read("cuau-emt/train_300K")[0]
    observed = {}
    for where in (DEVICE, torch.device("cpu")):
        state = maxwell_boltzmann(replicate(start, 3, device=where), 300.0, generators(0, 3))
        recorder = Recorder(1, ("total_energy", "temperature"))
        simulate(copy.deepcopy(model).to(where), state, VelocityVerlet(1.0), 20, observers=(recorder,))
        observed[str(where)] = recorder.arrays()
    here, there = observed[str(DEVICE)], observed["cpu"]
    np.testing.assert_allclose(here["temperature"], there["temperature"], rtol=1e-3 if dtype == torch.float32 else 1e-8)
    state = maxwell_boltzmann(replicate(start, 3, device=DEVICE), 300.0, generators(0, 3))
    whole = _langevin(model, state, None)
    with pytest.raises(KeyboardInterrupt):
        _langevin(model, state, tmp_path / "md.npz", stop_at=11)
    again = _langevin(model, state, tmp_path / "md.npz")
    np.testing.assert_allclose(again, whole, rtol=1e-3 if dtype == torch.float32 else 1e-8)


def _langevin(model: Potential, state, checkpoint: Path | None, stop_at: int = 0) -> np.ndarray:
    recorder = Recorder(1, ("temperature",))

    class Stopping(Recorder):
        def see(self, state, step, failed=()):
            super().see(state, step, failed)
            if stop_at and step == stop_at:
                raise KeyboardInterrupt

    watching = Stopping(1, ("potential_energy",))
    thermostat = Langevin(1.0, 300.0, 0.02, Noise(generators(1, 3)))
    simulate(model, state, thermostat, 20, observers=(recorder, watching), checkpoint=checkpoint)
    return recorder.arrays()["temperature"]


@pytest.mark.parametrize("method", ["fire", "lbfgs"])
@pytest.mark.parametrize("cell", [False, True])
def test_relaxation(method, cell):
    rattled = read("cuau-emt/train_300K")[3]
    start = replicate(rattled, 2, device=DEVICE)
    done = relax(potential("painn"), start, force_limit=0.05, max_steps=50, method=method, cell=cell)
    assert done.state.positions.device.type == DEVICE.type
    assert torch.isfinite(done.state.energy).all()


@pytest.mark.parametrize(
    ("thermostat", "barostat"),
    [("berendsen", "none"), ("rescaling", "none"), ("nose_hoover", "none"), ("rescaling", "isotropic"),
     ("rescaling", "flexible")],
)  # fmt: skip
def test_every_ensemble_moves_as_on_the_cpu_and_writes_trajectories(tmp_path, thermostat, barostat):
    model, start = potential("painn"), read("cuau-emt/train_300K")[0]
    fixed = [np.arange(len(start)) < 2] * 3 if barostat == "none" else None
    ends = []
    for where in (DEVICE, torch.device("cpu")):
        state = replicate(start, 3, device=where, fixed=fixed)
        state = maxwell_boltzmann(state, 300.0, generators(0, 3))
        moved = integrator(
            thermostat, 1.0, Ramp(300.0, 400.0, 15), replicas=3, seed=1, pressing=Pressing(barostat, 0.01, 500.0, 1.0)
        )
        writer = TrajectoryWriter([tmp_path / f"{where.type}-{k}.xyz" for k in range(3)], 5)
        run = simulate(
            copy.deepcopy(model).to(where), state, moved, 15, observers=[writer], criteria=[AtomEnergyJump(50.0)]
        )
        ends.append(run.state)
    close(ends[0].positions.cpu(), ends[1].positions, 1e-8)
    close(ends[0].velocities.cpu(), ends[1].velocities, 1e-6)
    close(ends[0].cell.cpu(), ends[1].cell, 1e-8)
    assert len(read(tmp_path / f"{DEVICE.type}-2.xyz")) == 4


def test_structure_and_dynamics():
    start = read("cuau-emt/train_300K")[0]
    subject = Subject(predictor=potential("painn"), start=start, device=DEVICE)
    quick = {"replicas": 2, "equilibration": 5.0, "duration": 40.0}
    assert structure.run(subject, StructureSettings(**quick)).frames == 2 * 5
    assert dynamics.run(subject, DynamicsSettings(**quick)).peak_memory


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_assays(dtype):
    model = potential(dtype=dtype)
    train = frames(8)
    errors = ErrorTrajectory.empty(np.array([len(s) for s in train]), frames=fingerprint(train))
    n_atoms = sum(map(len, train))
    for epoch in range(5):
        errors.add(np.arange(n_atoms), np.random.default_rng(epoch).uniform(0.01, 0.3, n_atoms))
    subject = Subject(
        predictor=model,
        train=train,
        test={"hot": read("cuau-emt/test_900K")[:4]},
        start=train[0],
        errors=errors,
        device=DEVICE,
    )
    lines = landscape.run(subject, landscape.LandscapeSettings(n_directions=2, points=5)).lines["filter"]
    assert np.isfinite(lines.forces).any()
    judged = uncertainty.run(subject, uncertainty.UncertaintySettings(k=3, intervals=False))
    assert judged.splits["hot"].not_finite == 0
    settings = stability.StabilitySettings(replicas=2, duration=10.0, temperature=300.0, drift_duration=4.0)
    assert len(stability.run(subject, settings).time_to_failure) == 2


def test_a_file_is_loaded_onto_the_device(tmp_path):
    model = potential("mace", torch.float32)
    save_potential(model, tmp_path / "p.safetensors")
    loaded = load_potential(tmp_path / "p.safetensors", DEVICE)
    graph = from_structures(frames(2), 4.0, torch.float32, DEVICE)
    close(host(loaded.predict(graph)).forces, host(model.predict(graph)).forces, 1e-5)
    assert {p.device.type for p in loaded.parameters()} == {DEVICE.type}


def test_an_imported_model_moves_to_the_device():
    export = read_export(Path(__file__).parents[1] / "interop" / "exports" / "mace_float64")
    model = finished(mace_potential(export), export).potential.to(DEVICE)
    frame = export.frames[0]
    assert frame.forces is not None
    found = host(model.predict(from_structures([frame], model.cutoff, torch.float64, DEVICE)))
    close(found.forces, torch.from_numpy(frame.forces), 1e-9)


def test_the_calculator():
    model = potential("mace")
    atoms = atoms_of(frames(1)[0])
    atoms.calc = FireassayCalculator(model, device=DEVICE)
    here = FireassayCalculator(copy.deepcopy(model).cpu())
    other = atoms.copy()
    other.calc = here
    np.testing.assert_allclose(atoms.get_forces(), other.get_forces(), atol=1e-6)
    np.testing.assert_allclose(atoms.get_stress(), other.get_stress(), atol=1e-8)
