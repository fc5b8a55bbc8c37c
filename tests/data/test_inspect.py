from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from fireassay.data.inspect import inspect
from fireassay.errors import InputError
from samples import shared


def molecules(path: Path, count: int = 6, cell: float | None = None, net: float = 0.0, stress: bool = False) -> Path:
    rng = np.random.default_rng(0)
    frames = []
    for k in range(count):
        atoms = Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]] + 0.05 * rng.normal(size=(3, 3)))
        if cell is not None:
            atoms.set_cell(np.eye(3) * cell)
            atoms.pbc = True
        forces = rng.normal(size=(3, 3))
        forces += net - forces.mean(axis=0)
        results = {"energy": -14.0 + 0.1 * k, "forces": forces}
        if stress:
            results["stress"] = np.full(6, 0.01 * (k - 2))
        atoms.info |= {"config_type": "liquid" if k % 2 else "gas", "temperature": 300.0 + 300 * (k % 2)}
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    for symbol, energy in (("H", -0.5), ("O", -12.0)):
        frames.append(Atoms(symbol))
        frames[-1].calc = SinglePointCalculator(frames[-1], energy=energy)
    write(path, frames, format="extxyz")
    return path


def test_what_is_found_in_a_small_file(tmp_path: Path) -> None:
    found = inspect(molecules(tmp_path / "a.xyz"))
    assert (found.frames, found.format, found.compositions) == (8, "extended XYZ", 3)
    assert found.atoms == {"fewest in a frame": 1, "most in a frame": 3, "in all": 20}
    assert found.elements == {"H": {"atoms": 13, "frames": 7}, "O": {"atoms": 7, "frames": 7}}
    assert found.coverage == pytest.approx({"energy": 1.0, "forces": 0.75, "stress": 0.0})
    assert found.isolated_atoms == {"H": -0.5, "O": -12.0}
    assert found.energy["mean per atom less isolated atoms"] == pytest.approx((-14 + 0.25 + 13) / 3)
    assert found.groups == {"gas": 3, "liquid": 3}
    assert found.temperatures == {"300": 3, "600": 3}
    assert found.forces["net force, largest"] == pytest.approx(0, abs=1e-6)
    assert {key.name: key.read_as for key in found.keys}["forces"] == "forces"
    assert any("only 75 % of the frames have forces" in text for text in found.findings)
    assert found.problems == []


def test_it_is_plain_json_and_text(tmp_path: Path) -> None:
    found = inspect(molecules(tmp_path / "a.xyz", cell=20.0, stress=True))
    assert json.loads(found.to_json())["elements"]["H"]["atoms"] == 13
    text = found.to_text()
    for title in ("Keys", "Labels", "Elements", "Periodicity", "Stress", "Findings"):
        assert title in text
    assert max(map(len, text.splitlines())) < 400


def test_a_molecule_in_a_vacuum_box_is_noticed(tmp_path: Path) -> None:
    found = inspect(molecules(tmp_path / "a.xyz", cell=20.0))
    assert any("molecules in vacuum" in text for text in found.findings)
    dense = inspect(molecules(tmp_path / "b.xyz", cell=4.0))
    assert dense.periodicity == {"periodic": 6, "not periodic": 2}


def test_net_forces_and_duplicates_are_noticed(tmp_path: Path) -> None:
    path = molecules(tmp_path / "a.xyz", net=0.2)
    path.write_text(path.read_text() + path.read_text())
    found = inspect(path)
    assert found.forces["net force, largest"] == pytest.approx(0.6 * np.sqrt(3))
    assert any("net forces up to 1.04" in text for text in found.findings)
    assert found.duplicates["identical to an earlier frame"] == 8


def test_unusable_frames_are_problems_not_the_end(tmp_path: Path) -> None:
    path = molecules(tmp_path / "a.xyz")
    broken = "2\nProperties=species:S:1:pos:R:3:forces:R:3 energy=1\nH 0 0 0 0 0 0\nH {} 0 0 0 0 0\n"
    path.write_text(path.read_text() + broken.format("nan") + broken.format("0.01"))
    found = inspect(path)
    assert len(found.problems) == 2
    assert "frame 8" in found.problems[0]
    assert "frame 9" in found.problems[1]
    assert found.frames == 10


def test_unread_labels_are_pointed_out_with_the_mapping(tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    path.write_text("1\nProperties=species:S:1:pos:R:3:forces_xtb:R:3 energy_xtb=-1\nH 0 0 0 0 0 0\n" * 2)
    found = inspect(path)
    assert "nothing to train on" in found.findings[0]
    assert any("keys={energy: energy_xtb}" in text for text in found.findings)
    assert any("keys={forces: forces_xtb}" in text for text in found.findings)
    again = inspect(path, keys={"energy": "energy_xtb", "forces": "forces_xtb"})
    assert again.coverage["energy"] == again.coverage["forces"] == 1.0


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text("3\ncut")
    with pytest.raises(InputError):
        inspect(tmp_path / "a.xyz")


def test_mixed_units_between_energies_and_forces(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    t = np.linspace(0, 3, 40)
    x = np.zeros((40, 2, 3))
    x[:, 1, 0] = 2.0 + 0.2 * np.sin(t)
    x[:, 1, 1] = 0.05 * t
    r = np.linalg.norm(x[:, 1], axis=1)
    forces = np.zeros((40, 2, 3))
    forces[:, 1] = -8.0 * (r - 2.0)[:, None] * x[:, 1] / r[:, None]
    forces[:, 0] = -forces[:, 1]
    np.savez(path, R=x, z=np.array([14, 14]), E=4.0 * (r - 2.0) ** 2 * 23.06, F=forces)
    found = inspect(path)
    assert any(
        "energies change by 23" in text and "units={energy: kcal/mol, forces: eV/Å}" in text for text in found.findings
    )


def test_real_revised_md17_looks_like_kcal_and_shows_the_old_labels() -> None:
    found = inspect(shared("rmd17/rmd17_aspirin_train_01.npz"))
    text = "\n".join(found.findings)
    assert "units={energy: kcal/mol}" in text
    assert "old_energies" in text
    assert "old_forces" in text


def test_real_formate_on_copper_has_net_forces() -> None:
    found = inspect(shared("fcu/fcu_ev5.xyz.gz"))
    assert found.forces["net force, largest"] > 1.2
    assert found.fitted_e0["fit"].startswith("fitted on 200 energies of 1 compositions: rank 1 of 4")


def test_real_trajectory_of_gete_is_correlated() -> None:
    found = inspect(shared("gete/gete_300.npz"))
    assert found.duplicates["near (below 0.01 Å)"] > 250
    assert any("split by blocks" in text for text in found.findings)


def test_stress_of_the_wrong_sign_is_noticed(tmp_path: Path) -> None:
    plain = inspect("cuau-emt/test_300K")
    assert not any("stress" in text for text in plain.findings)
    turned = inspect("cuau-emt/test_300K", units={"stress": "-eV/Å^3"})
    assert any("is -" in text and "units={stress: eV/Å^3}" in text for text in turned.findings)
    foreign = inspect("cuau-emt/test_300K", units={"stress": "GPa"})
    assert any("its sign is the expected one" in text for text in foreign.findings)
