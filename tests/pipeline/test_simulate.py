"""`fireassay simulate`, from the command line to the files."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.io import read, write
from typer.testing import CliRunner

from fireassay.cli import app
from fireassay.pipeline.simulate import CHECKPOINT, PREPARED, SimulationSettings

EMT = "ase.calculators.emt:EMT()"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write(tmp_path / "cu.xyz", bulk("Cu", cubic=True) * 2)
    write(tmp_path / "water.xyz", molecule("H2O"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def simulated(*arguments: str, code: int = 0) -> str:
    found = CliRunner().invoke(app, ["simulate", *arguments])
    assert found.exit_code == code, found.output
    assert "Traceback" not in found.output
    return found.output


def test_a_crystal_at_constant_pressure(folder: Path):
    pressed = (EMT, "--start", "cu.xyz", "barostat=flexible", "pressure=2", "replicas=2", "duration=100", "-o", "s")
    said = simulated(*pressed)
    assert "s/trajectory-01.xyz" in said
    record = json.loads((folder / "s/simulation.json").read_text())
    assert record["status"] == "finished"
    assert record["steps"] == 100
    assert record["compressibility"]["unit"] == "1/GPa"
    assert record["compressibility"]["value"] == pytest.approx(1 / 134, rel=0.1)  # EMT copper: 134 GPa
    frames = read(folder / "s/trajectory-00.xyz", ":")
    assert len(frames) == 11
    assert frames[0].get_volume() != frames[-1].get_volume()  # type: ignore[union-attr]
    assert "holds this simulation, finished" in simulated(*pressed)
    other = simulated(EMT, "--start", "cu.xyz", "duration=50", "-o", "s", code=2)
    assert "holds another simulation (duration was 100.0, is 50.0" in other
    simulated(EMT, "--start", "cu.xyz", "duration=50", "-o", "s", "--restart")
    assert [p.name for p in sorted((folder / "s").glob("trajectory*"))] == ["trajectory.xyz"]


def test_a_ramp_and_fixed_atoms(folder: Path):
    simulated(EMT, "--start", "cu.xyz", "temperature=[100, 700]", "duration=400", "fixed=[0, 1]", "time_constant=20")
    table = np.genfromtxt(folder / "simulation/thermo.csv", delimiter=",", names=True)
    assert table["temperature_K"][:10].mean() < table["temperature_K"][-10:].mean() - 200
    frames = read(folder / "simulation/trajectory.xyz", ":")
    moved = frames[-1].positions - frames[0].positions  # type: ignore[union-attr]
    assert np.abs(moved[:2]).max() == 0.0
    assert np.abs(moved[2:]).max() > 0.01


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((EMT,), "a simulation needs a start; give it with --start FILE"),
        ((EMT, "--start", "cu.xyz", "temprature=3"), "did you mean 'temperature'"),
        ((EMT, "--start", "cu.xyz", "temperature=-3"), "needs values above 0"),
        (
            (EMT, "--start", "cu.xyz", "barostat=isotropic", "thermostat=langevin"),
            "barostat needs thermostat=rescaling",
        ),
        ((EMT, "--start", "water.xyz", "barostat=isotropic"), "periodic in all directions"),
        ((EMT, "--start", "cu.xyz", "fixed=[99]"), "none with the index 99"),
        ((EMT, "--start", "cu.xyz", "fixed=[Xx]"), "'Xx' is no element"),
        ((EMT, "--start", "cu.xyz", "fixed=[H]"), "has no H"),
        ((EMT, "--start", "cu.xyz", "fixed=[Cu]"), "some atom of every replica has to move"),
        ((EMT, "--start", "nothing.xyz"), "nothing.xyz"),
        (("runs/none", "--start", "cu.xyz"), "neither a run folder nor a potential file"),
        ((EMT, "--start", "cu.xyz", "bonds=true"), "bonds are to be followed but there are none"),
        ((EMT, "--start", "cu.xyz", "format=dcd"), "format needs 'xyz', 'traj' or 'h5'"),
        ((EMT, "--start", "cu.xyz", "device=moon"), "device"),
        ((), "name what moves the atoms"),
    ],
)
def test_bad_input_is_one_line(folder: Path, arguments: tuple[str, ...], said: str):
    found = simulated(*arguments, code=2)
    assert said in found
    lines = [line for line in found.splitlines() if "threads (" not in line]
    assert len(lines) == 1
    assert not (folder / "simulation" / "trajectory.xyz").exists()
    assert not (folder / "simulation" / "simulation.json").exists()


def test_water_in_emt_fails_at_once(folder: Path):
    """EMT has parameters for neither stress of a molecule nor for boron: a calculator that cannot start says so."""
    write(folder / "b.xyz", molecule("BF3"))
    assert "no calculation succeeds at the start" in simulated(EMT, "--start", "b.xyz", "duration=10", code=2)


def test_an_explosion_ends_its_replica_and_is_named(folder: Path):
    atoms = bulk("Cu", cubic=True) * 2
    atoms.positions[1] = atoms.positions[0] + [0.7, 0, 0]
    write(folder / "close.xyz", atoms)
    said = simulated(EMT, "--start", "close.xyz", "duration=100", "temperature_range=[0, 600]")
    assert "replica 0 ended at" in said
    record = json.loads((folder / "simulation/simulation.json").read_text())
    assert len(record["failures"]) == 1


def test_files_of_others_are_neither_overwritten_nor_discarded(folder: Path):
    place = folder / "s"
    place.mkdir()
    (place / "trajectory.xyz").write_text("mine")
    said = simulated(EMT, "--start", "cu.xyz", "duration=10", "-o", "s", code=2)
    assert "trajectory.xyz exists and belongs to no simulation" in said
    assert "belongs to no simulation" in simulated(
        EMT, "--start", "cu.xyz", "duration=10", "-o", "s", "--restart", code=2
    )
    (place / "trajectory.xyz").rename(place / "trajectory-notes.txt")
    simulated(EMT, "--start", "cu.xyz", "duration=10", "-o", "s")
    simulated(EMT, "--start", "cu.xyz", "duration=20", "-o", "s", "--restart")
    assert (place / "trajectory-notes.txt").read_text() == "mine"
    assert len(read(place / "trajectory.xyz", ":")) == 3


def words(name: str, *more: str) -> list[str]:
    return [EMT, "--start", "cu.xyz", "--output", name, "-q", "duration=1500", "stride=5", *more]


def stopped(name: str, number: signal.Signals, *more: str) -> tuple[int, str]:
    """Exit code and errors of a simulation that was stopped after some frames."""
    command = [sys.executable, "-m", "fireassay", "simulate", *words(name, *more)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    written = Path(name, "trajectory.xyz")
    while process.poll() is None and not (written.exists() and written.stat().st_size > 20_000):
        time.sleep(0.02)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert Path(name, CHECKPOINT).exists()
    return process.returncode, said


def test_an_interrupted_run_goes_on_from_the_start_that_it_was_prepared_with(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    more = ("relax=cell", "barostat=isotropic", "duration=600", "replicas=1")
    simulated(*words("whole", *more))
    stopped("stopped", signal.SIGTERM, *more)

    def elsewhere(*arguments: object, **settings: object) -> None:
        raise AssertionError("would come out different in the last digits")

    monkeypatch.setattr("fireassay.pipeline.simulate.relax", elsewhere)
    monkeypatch.setattr("fireassay.pipeline.simulate._measured_compressibility", elsewhere)
    simulated(*words("stopped", *more))
    for name in ("trajectory.xyz", "thermo.csv"):
        assert Path("stopped", name).read_bytes() == Path("whole", name).read_bytes()
    assert not Path("stopped", PREPARED).exists()


def test_a_relaxation_that_is_not_done_is_told_of(folder: Path, monkeypatch: pytest.MonkeyPatch):
    rattled = bulk("Cu", cubic=True) * 2
    rattled.rattle(0.2, seed=1)
    write("rattled.xyz", rattled)
    monkeypatch.setattr("fireassay.pipeline.simulate._RELAX_STEPS", 2)
    said = simulated(EMT, "--start", "rattled.xyz", "-q", "relax=positions", "duration=2")
    assert "the relaxation is not done after 2 steps" in said


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_request_to_stop_saves_and_the_repeated_command_ends_with_the_same_files(
    folder: Path, number: signal.Signals, code: int
):
    returned, said = stopped("stopped", number)
    assert returned == code, said
    assert "repeat the command to continue" in said
    assert "Traceback" not in said
    assert len(read("stopped/trajectory.xyz", ":")) < 301
    for name in ("stopped", "whole"):
        simulated(*words(name))
    for name in ("trajectory.xyz", "thermo.csv"):
        assert (folder / "stopped" / name).read_bytes() == (folder / "whole" / name).read_bytes()


def test_settings_are_listed_with_their_meaning():
    said = simulated("--settings")
    assert all(f"{name}: " in said for name in SimulationSettings.model_fields)
