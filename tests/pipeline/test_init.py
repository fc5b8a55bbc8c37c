"""Configurations written for data files: they are valid, they say why, and they train."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import write
from typer.testing import CliRunner

from fireassay.cli import app
from fireassay.config import Config, load_config
from fireassay.data.readers import read
from fireassay.errors import InputError
from fireassay.model_settings import MODEL_SETTINGS
from fireassay.pipeline.init import Files, correlated_frames, write_config
from fireassay.pipeline.train import run_training
from fireassay.progress import Silent
from fireassay.units import ENERGY

runner = CliRunner()


def copper(n: int, seed: int = 0, walk: bool = False) -> list[Atoms]:
    """Rattled copper cells, drawn afresh or each from the one before."""
    rng, frames, atoms = np.random.default_rng(seed), [], bulk("Cu", cubic=True)
    for _ in range(n):
        atoms = atoms.copy() if walk else bulk("Cu", cubic=True)
        atoms.positions += rng.normal(0, 0.02 if walk else 0.08, atoms.positions.shape)
        frames.append(atoms)
    return frames


def labelled(frames: list[Atoms], factor: float = 1.0, names: tuple[str, str] = ("energy", "forces")) -> list[Atoms]:
    out = []
    for atoms in frames:
        atoms = atoms.copy()
        atoms.calc = EMT()
        energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False)
        atoms.calc = None
        atoms.info[names[0]] = energy * factor
        atoms.arrays[names[1]] = forces * factor
        atoms.info["stress"] = stress.ravel() * factor
        out.append(atoms)
    return out


def made(path: Path, frames: list[Atoms]) -> str:
    write(path, frames, format="extxyz")
    return str(path)


def config(tmp_path: Path, files: Files, **more) -> tuple[Config, str, list[str]]:
    text, notes = write_config(files, timed=False, **more)
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
    return load_config(tmp_path / "c.yaml"), text, notes


def test_a_crystal_with_stress(tmp_path):
    found, text, _ = config(tmp_path, Files(made(tmp_path / "cu.xyz", labelled(copper(30))), {"hot": "hot.xyz"}))
    assert found.name == "cu-mace"
    assert found.data.test == {"hot": "hot.xyz"}
    assert found.data.validation.method == "random"
    assert found.training.loss.stress.weight > found.training.loss.forces.weight > 0
    assert found.baseline.e0 == "fit"
    assert 4.0 <= found.model.cutoff <= 6.0
    assert "neighbours on average" in text


def test_what_the_file_calls_its_labels_is_found(tmp_path):
    file = made(tmp_path / "cu.xyz", labelled(copper(20), names=("energy_pbe", "my_forces")))
    found, _, notes = config(tmp_path, Files(file))
    assert found.data.keys == {"energy": "energy_pbe", "forces": "my_forces"}
    assert any("energy_pbe" in note for note in notes)


def test_two_candidates_are_asked_about_with_what_to_type(tmp_path):
    frames = labelled(copper(20), names=("energy_pbe", "forces"))
    for atoms in frames:
        atoms.info["energy_hse"] = atoms.info["energy_pbe"] - 1
    file = made(tmp_path / "cu.xyz", frames)
    with pytest.raises(InputError, match="--key energy=energy_hse") as caught:
        write_config(Files(file), timed=False)
    assert "--key energy=energy_pbe" in str(caught.value)
    assert config(tmp_path, Files(file, keys={"energy": "energy_hse"}))[0].data.keys == {"energy": "energy_hse"}


def test_units_that_the_data_look_like_are_written(tmp_path):
    frames = read("3bpa-xtb/train_300K")[:40]
    atoms = [Atoms(s.atomic_numbers, s.positions) for s in frames]
    for a, s in zip(atoms, frames, strict=True):
        a.info["energy"] = s.energy / ENERGY["kcal/mol"]
        a.arrays["forces"] = s.forces / ENERGY["kcal/mol"]
    found, _, notes = config(tmp_path, Files(made(tmp_path / "m.xyz", atoms)))
    assert found.data.units is not None
    assert found.data.units["energy"] == "kcal/mol"
    assert any("kcal/mol" in note for note in notes)


def test_a_trajectory_is_split_by_blocks_and_groups_are_kept_whole(tmp_path):
    walk = labelled(copper(60, walk=True))
    found, text, _ = config(tmp_path, Files(made(tmp_path / "walk.xyz", walk)))
    assert found.data.validation.method == "blocks"
    assert found.data.validation.gap > 0
    assert "follow one another" in text
    for number, atoms in enumerate(walk):
        atoms.info["config_type"] = f"g{number // 6}"
    found, _, _ = config(tmp_path, Files(made(tmp_path / "groups.xyz", walk)))
    assert found.data.validation.method == "group"


def test_neighbours_in_a_trajectory_are_told_from_frames_drawn_afresh(tmp_path):
    assert correlated_frames(read(made(tmp_path / "a.xyz", labelled(copper(40))))) is None
    length = correlated_frames(read(made(tmp_path / "b.xyz", labelled(copper(80, walk=True)))))
    assert length is not None
    assert 3 < length <= 40


def test_isolated_atoms_are_used_or_warned_of(tmp_path):
    alone = Atoms("Cu", [[0, 0, 0]])
    alone.info["energy"] = 3.5
    found, _, _ = config(tmp_path, Files(made(tmp_path / "cu.xyz", [alone, *labelled(copper(20))])))
    assert found.baseline.e0 == "isolated"
    gold = labelled(copper(20))
    for atoms in gold:
        atoms.symbols[0] = "Au"
    found, _, notes = config(tmp_path, Files(made(tmp_path / "au.xyz", [alone, *gold])))
    assert found.baseline.e0 == "fit"
    assert any("Au" in note and "--isolated-atoms" in note for note in notes)


def test_energies_alone_and_forces_alone(tmp_path):
    energies = labelled(copper(12))
    for atoms in energies:
        del atoms.arrays["forces"], atoms.info["stress"]
    found, _, _ = config(tmp_path, Files(made(tmp_path / "e.xyz", energies)))
    assert (found.training.loss.forces.weight, found.training.loss.stress.weight) == (0.0, 0.0)
    forces = labelled(copper(12))
    for atoms in forces:
        del atoms.info["energy"], atoms.info["stress"]
    found, _, _ = config(tmp_path, Files(made(tmp_path / "f.xyz", forces)))
    assert found.training.loss.energy.weight == 0.0
    assert found.baseline.e0 == "zero"


@pytest.mark.parametrize("model", sorted(MODEL_SETTINGS))
def test_every_model_can_be_had(tmp_path, model):
    found, _, _ = config(tmp_path, Files(made(tmp_path / "cu.xyz", labelled(copper(12)))), model=model)
    assert found.model.type == model


def test_a_preset_lends_its_recipe_to_any_data(tmp_path):
    file = made(tmp_path / "cu.xyz", labelled(copper(12)))
    found, _, _ = config(tmp_path, Files(file), recipe="tea-1-1-mace")
    assert found.data.train == file
    assert found.data.start is None
    assert found.model.channels == 128  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="demo-mace"):
        write_config(Files(file), recipe="demo-mac")
    with pytest.raises(InputError, match="did you mean 'mace'"):
        write_config(Files(file), model="mac")


def test_what_is_written_trains(tmp_path):
    file = made(tmp_path / "cu.xyz", labelled(copper(12)))
    text, notes = write_config(Files(file), model="painn")
    assert any("an epoch takes about" in note for note in notes)
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
    short = load_config(tmp_path / "c.yaml", ["training.epochs=1"])
    assert run_training(short, tmp_path / "run", Silent()) == tmp_path / "run" / "potential.safetensors"


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made(tmp_path / "cu.xyz", labelled(copper(12)))
    made(tmp_path / "hot.xyz", labelled(copper(3, seed=1)))
    words = ["init", "cu.xyz", "--test", "hot.xyz", "--test", "900K=hot.xyz", "--no-timing"]
    done = runner.invoke(app, words)
    assert done.exit_code == 0, done.stderr
    assert load_config(tmp_path / "config.yaml").data.test == {"hot": "hot.xyz", "900K": "hot.xyz"}
    again = runner.invoke(app, words)
    assert again.exit_code == 2
    assert "--force" in again.stderr
    assert runner.invoke(app, [*words, "--force"]).exit_code == 0
    twice = runner.invoke(app, ["init", "cu.xyz", "--test", "hot.xyz", "--test", "a/hot.xyz", "--force"])
    assert twice.exit_code == 2
    assert "two test files are called 'hot'" in twice.stderr
    gone = runner.invoke(app, ["init", "gone.xyz", "-o", "x.yaml"])
    assert gone.exit_code == 2
    assert not (tmp_path / "x.yaml").exists()
