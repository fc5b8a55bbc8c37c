"""Trajectories on disk: what ASE and h5py read of them, in every format, whole and after an interruption."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import units as ase_units
from ase.build import bulk
from ase.io import read
from ase.io.trajectory import Trajectory

from fireassay.errors import InputError
from fireassay.interop.ase import structure_of
from fireassay.simulation.integrators import Langevin, Noise, VelocityVerlet
from fireassay.simulation.observers import Recorder
from fireassay.simulation.run import simulate
from fireassay.simulation.state import State, generators, maxwell_boltzmann, replicate
from fireassay.simulation.trajectory import Thermodynamics, TrajectoryWriter, _rows
from fireassay.units import GIGAPASCAL, KJ_PER_MOL
from toys import Pair


def argon(replicas: int = 2) -> State:
    atoms = bulk("Ar", "fcc", a=5.3, cubic=True)
    atoms.rattle(0.05, seed=1)
    return maxwell_boltzmann(replicate(structure_of(atoms), replicas), 60.0, generators(0, replicas))


class Stopping(Pair):
    """Interrupts at one call."""

    stop: int | None = None
    calls = 0

    def frozen(self):
        return self

    def predict(self, *arguments, **options):
        self.calls += 1
        if self.calls == self.stop:
            raise KeyboardInterrupt
        return super().predict(*arguments, **options)


def files(folder: Path, suffix: str) -> list[Path]:
    folder.mkdir(exist_ok=True)
    return [folder / f"t-{k}{suffix}" for k in range(2)]


def run(folder: Path, suffix: str, stop: int | None = None, n_steps: int = 100):
    potential = Stopping(cutoff=6.0)
    potential.stop = stop
    recorder = Recorder(7, ("positions", "velocities", "forces", "potential_energy"))
    observers = (
        TrajectoryWriter(files(folder, suffix), 7),
        recorder,
        Thermodynamics(folder / "thermo.csv", 7),
    )
    thermostat = Langevin(2.0, 60.0, 0.02, Noise(generators(1, 2)))
    done = simulate(
        potential,
        argon(),
        thermostat,
        n_steps,
        observers=observers,
        checkpoint=folder / "run.npz",
        every=0.0,
        stress=True,
    )
    return done, recorder.arrays()


def frames_of(path: Path) -> dict[str, np.ndarray]:
    """Positions, velocities, forces, energies, steps of a file, read by a package that is not ours."""
    if path.suffix == ".h5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(path) as file:
            every = file["particles/all"]
            return {
                "positions": every["position/value"][:],
                "velocities": every["velocity/value"][:],
                "forces": every["force/value"][:] * KJ_PER_MOL,
                "energy": file["observables/potential_energy/value"][:],
                "step": every["position/step"][:],
                "cell": every["box/edges/value"][:],
            }
    found = read(path, ":")
    assert isinstance(found, list)
    return {
        "positions": np.array([a.positions for a in found]),
        "velocities": np.array([a.get_velocities() for a in found]) * ase_units.fs,
        "forces": np.array([a.get_forces() for a in found]),
        "energy": np.array([a.get_potential_energy() for a in found]),
        "step": np.array([a.info["step"] for a in found]),
        "cell": np.array([a.cell.array for a in found]),
    }


@pytest.mark.parametrize("suffix", [".xyz", ".traj", ".h5"])
def test_what_is_read_back_is_what_was_seen(suffix: str, tmp_path: Path):
    _, seen = run(tmp_path, suffix)
    assert not (tmp_path / "run.npz").exists()
    for k, path in enumerate(files(tmp_path, suffix)):
        found = frames_of(path)
        assert found["step"].tolist() == list(range(0, 101, 7))
        rows = slice(4 * k, 4 * k + 4)
        for name in ("positions", "velocities", "forces"):
            np.testing.assert_allclose(found[name], seen[name][:, rows], atol=2e-6, err_msg=name)
        np.testing.assert_allclose(found["energy"], seen["potential_energy"][:, k], atol=1e-8)
        np.testing.assert_allclose(found["cell"], np.broadcast_to(np.eye(3) * 5.3, (15, 3, 3)), atol=1e-8)
    if suffix != ".h5":
        found = read(files(tmp_path, suffix)[1], "-1")
        assert found.info["time_fs"] == pytest.approx(2.0 * 98)  # type: ignore[union-attr]
        assert len(found.get_stress()) == 6  # type: ignore[union-attr]


@pytest.mark.parametrize("suffix", [".xyz", ".traj", ".h5"])
@pytest.mark.parametrize("stop", [5, 40, 88])
def test_an_interrupted_run_leaves_the_same_frames(suffix: str, stop: int, tmp_path: Path):
    whole, again = tmp_path / "whole", tmp_path / "again"
    run(whole, suffix)
    with pytest.raises(KeyboardInterrupt):
        run(again, suffix, stop)
    for path in files(again, suffix):  # what was written after the state was saved is to be forgotten
        if suffix == ".xyz" and path.exists():
            with open(path, "a", encoding="utf-8") as file:
                file.write("4\nhalf a fra")
        if suffix == ".traj" and path.exists() and len(read(path, ":")) > 1:
            with Trajectory(path, "a") as file:
                file.write(bulk("Cu"))
    run(again, suffix)
    for first, second in zip(files(whole, suffix), files(again, suffix), strict=True):
        expected, found = frames_of(first), frames_of(second)
        for name, values in expected.items():
            assert np.array_equal(values, found[name]), name
        if suffix == ".xyz":
            assert first.read_bytes() == second.read_bytes()
        if suffix == ".traj":
            assert first.stat().st_size == second.stat().st_size
    assert (whole / "thermo.csv").read_bytes() == (again / "thermo.csv").read_bytes()


def test_the_table_holds_pressures_and_volumes(tmp_path: Path):
    done, _ = run(tmp_path, ".xyz")
    rows = np.genfromtxt(tmp_path / "thermo.csv", delimiter=",", names=True)
    assert rows["step"].tolist() == [k for k in range(0, 101, 7) for _ in range(2)]
    assert rows["volume_A3"] == pytest.approx(5.3**3)
    assert np.isfinite(rows["pressure_GPa"]).all()
    state = done.state
    assert state.stress is not None
    kinetic = (state.masses * state.velocities.square().sum(1)).view(2, 4).sum(1) / 9.648533212e-3 / (3 * 5.3**3)
    last = kinetic - state.stress.diagonal(dim1=1, dim2=2).mean(1)
    assert torch.isfinite(last).all()
    assert abs(float(last[0] / GIGAPASCAL) - rows["pressure_GPa"][-2]) < 0.2  # two steps later


def test_a_replica_that_fails_leaves_a_shorter_file(tmp_path: Path):
    from fireassay.simulation.criteria import TemperatureRange

    state = argon()
    hot = state._replace(velocities=torch.where((state.structure == 1).unsqueeze(1), 3.0, 1.0) * state.velocities)
    paths = files(tmp_path, ".xyz")
    limit = TemperatureRange(0.0, 250.0)
    done = simulate(
        Pair(cutoff=6.0), hot, VelocityVerlet(2.0), 40, observers=[TrajectoryWriter(paths, 10)], criteria=[limit]
    )
    assert [f.replica for f in done.failures] == [1]
    assert [len(read(p, ":")) for p in paths] == [5, 1]


def test_what_cannot_be_written_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"written as \.xyz, \.extxyz, \.traj, \.h5, \.h5md"):
        TrajectoryWriter([tmp_path / "a.dcd"], 1)
    with pytest.raises(InputError, match="1 trajectory files for 2 replicas"):
        simulate(
            Pair(cutoff=6.0), argon(), VelocityVerlet(1.0), 1, observers=[TrajectoryWriter([tmp_path / "a.xyz"], 1)]
        )
    with pytest.raises(InputError, match="stride 0"):
        TrajectoryWriter([tmp_path / "a.xyz"], 0)


def test_a_file_that_was_cut_is_not_continued(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, ".xyz", 60)
    files(tmp_path, ".xyz")[0].write_text("")
    with pytest.raises(InputError, match="is shorter than when the run was saved"):
        run(tmp_path, ".xyz")


def test_numbers_of_every_size_are_written_as_python_writes_them():
    rng = np.random.default_rng(0)
    numbers = np.array([1, 79, 8, 17, 6, 6])
    values = rng.normal(size=(6, 9)) * 10.0 ** rng.integers(-9, 9, (6, 9))
    values[0, :4] = [0.0, -0.0, 1e-9, -0.999999999]
    lines = _rows(numbers, values).decode().splitlines()
    for symbol, line, row in zip(["H", "Au", "O", "Cl", "C", "C"], lines, values.tolist(), strict=True):
        words = line.split(" ")
        assert words[0] == symbol
        assert all(len(word.split(".")[1]) == 8 for word in words[1:])
        np.testing.assert_allclose([float(word) for word in words[1:]], row, atol=6e-9, rtol=1e-15)
    huge = values.copy()
    huge[2, 3] = 3e15
    huge[4, 4] = np.nan
    assert "nan" in _rows(numbers, huge).decode()
    assert _rows(numbers[:1], huge[:1]) == _rows(numbers[:1], values[:1])


@pytest.fixture
def terminable() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("terminable")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("suffix", [".xyz", ".traj", ".h5"])
def test_a_stop_in_the_middle_of_writing_neither_loses_nor_doubles_a_frame(
    suffix: str, number: signal.Signals, tmp_path: Path
):
    class Interrupting:
        """An observer beside the writer that is interrupted once, after the writer has seen the step."""

        def begin(self, state, n_steps, timestep):
            pass

        def see(self, state, step, failed=()):
            if step == 21 and not (tmp_path / "done").exists():
                (tmp_path / "done").touch()
                os.kill(os.getpid(), number)

        def arrays(self):
            return {}

        def checkpoint(self):
            return {}

        def restore(self, tensors):
            pass

    def go():
        observers = [TrajectoryWriter(files(tmp_path, suffix), 7), Interrupting()]
        saved = {"checkpoint": tmp_path / "run.npz", "every": 1e9}
        return simulate(Pair(cutoff=6.0), argon(), VelocityVerlet(2.0), 60, observers=observers, **saved)  # type: ignore[arg-type]

    with pytest.raises(KeyboardInterrupt):
        go()
    go()
    for path in files(tmp_path, suffix):
        assert frames_of(path)["step"].tolist() == list(range(0, 61, 7))
