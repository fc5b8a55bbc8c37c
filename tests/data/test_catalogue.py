from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT

from fireassay.data.catalogue import EMBEDDED, find, folder, load, provenance, splits
from fireassay.data.inspect import inspect
from fireassay.data.readers import read
from fireassay.data.similarity import duplicates
from fireassay.data.structure import Structure
from fireassay.errors import InputError

SIZES = {
    "3bpa-xtb": {
        "train_300K": 500,
        "test_300K": 300,
        "test_600K": 300,
        "test_1200K": 300,
        "isolated_atoms": 4,
        "ground_state": 1,
    },
    "cuau-emt": {"train_300K": 100, "test_300K": 50, "test_900K": 50, "isolated_atoms": 2},
}
PARTS = [(name, split) for name, sizes in SIZES.items() for split in sizes]


def ase_atoms(s: Structure) -> Atoms:
    return Atoms(s.atomic_numbers, s.positions, cell=s.cell, pbc=s.pbc)


def test_four_megabytes_in_all() -> None:
    sizes = [path.stat().st_size for name in EMBEDDED for path in folder(name).iterdir()]
    assert 100_000 < sum(sizes) < 4_000_000


@pytest.mark.parametrize("name", EMBEDDED)
def test_splits_and_their_sizes(name: str) -> None:
    assert splits(name) == sorted(SIZES[name])
    assert {split: len(load(name, split)) for split in splits(name)} == SIZES[name]


@pytest.mark.parametrize("name", EMBEDDED)
def test_provenance_names_command_oracle_and_licence(name: str) -> None:
    record = provenance(name)
    assert record["command"] == f"fireassay data make {name}"
    assert record["licence"] == "MIT"
    assert record["units"]["energy"] == "eV"
    planned = {split: sum(w["frames"] for w in record["walks"] if w["split"] == split) for split in SIZES[name]}
    assert {split: n for split, n in planned.items() if n} == {s: n for s, n in SIZES[name].items() if planned[s]}
    assert json.dumps(record)


@pytest.mark.parametrize(("name", "split"), PARTS)
def test_all_frames_are_labelled(name: str, split: str) -> None:
    structures = read(f"{name}/{split}")
    assert all(s.energy is not None and s.forces is not None for s in structures)
    if name == "cuau-emt" and split != "isolated_atoms":
        assert all(s.stress is not None and s.pbc.all() for s in structures)
    if split[-1] == "K":
        temperature = float(split.split("_")[1][:-1])
        assert {s.provenance.temperature for s in structures} == {temperature}


@pytest.mark.parametrize("name", EMBEDDED)
def test_splits_share_no_frame(name: str) -> None:
    frames = [s for split in splits(name) if split.endswith("K") for s in load(name, split)]
    found = duplicates(frames)
    assert len(found.identical) == len(found.near) == 0


@pytest.mark.parametrize(("name", "split"), [part for part in PARTS if part[1].endswith("K")])
def test_inspection_finds_nothing_wrong(name: str, split: str) -> None:
    found = inspect(f"{name}/{split}")
    assert found.problems == []
    assert found.findings == []
    assert found.forces["net force, largest"] < 1e-3
    assert 0.3 < found.forces["root mean square"] < 3


def test_emt_gives_the_labels_again() -> None:
    for s in load("cuau-emt", "test_900K")[::7]:
        atoms = ase_atoms(s)
        atoms.calc = EMT()
        assert s.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
        assert np.allclose(s.forces, atoms.get_forces(), atol=1e-6)  # type: ignore[arg-type]
        assert np.allclose(s.stress, atoms.get_stress(voigt=False), atol=1e-6)  # type: ignore[arg-type]


@pytest.mark.oracle
def test_tblite_gives_the_labels_again() -> None:
    tblite = pytest.importorskip("tblite.ase", reason="tblite is not installed")
    for split in ("test_300K", "test_1200K", "ground_state"):
        s = load("3bpa-xtb", split)[-1]
        atoms = ase_atoms(s)
        atoms.calc = tblite.TBLite(method="GFN2-xTB", accuracy=0.1, verbosity=0)
        assert s.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-5)
        assert np.allclose(s.forces, atoms.get_forces(), atol=1e-4)  # type: ignore[arg-type]


def bonds(s: Structure) -> set[tuple[int, int]]:
    """Pairs nearer than 1.3 times the sum of rough covalent radii."""
    radii = {1: 0.32, 6: 0.75, 7: 0.71, 8: 0.66}
    r = np.array([radii[int(z)] for z in s.atomic_numbers])
    distances = np.linalg.norm(s.positions[:, None] - s.positions[None], axis=2)
    near = np.argwhere(distances < 1.3 * (r[:, None] + r[None]))
    return {(int(a), int(b)) for a, b in near if a < b}


@pytest.mark.parametrize("split", ["train_300K", "test_300K", "test_600K", "test_1200K"])
def test_the_molecule_stays_whole_at_every_temperature(split: str) -> None:
    (ground,) = load("3bpa-xtb", "ground_state")
    expected = bonds(ground)
    assert len(expected) == 28  # 27 atoms and two rings
    changed = [k for k, s in enumerate(load("3bpa-xtb", split)) if bonds(s) != expected]
    assert changed == []


def test_the_ground_state_is_relaxed_and_lowest() -> None:
    (ground,) = load("3bpa-xtb", "ground_state")
    assert np.abs(ground.forces).max() < 2e-3  # type: ignore[arg-type]
    assert ground.energy is not None
    assert all(s.energy is not None and s.energy > ground.energy for s in load("3bpa-xtb", "train_300K"))


def test_hotter_frames_have_more_energy_and_larger_forces() -> None:
    energies, forces = [], []
    for temperature in (300, 600, 1200):
        frames = load("3bpa-xtb", f"test_{temperature}K")
        energies.append(np.mean([s.energy for s in frames if s.energy is not None]))
        forces.append(np.sqrt(np.mean([s.forces**2 for s in frames if s.forces is not None])))
    (ground,) = load("3bpa-xtb", "ground_state")
    assert ground.energy is not None
    # equipartition: 3N - 6 modes hold kT/2 each in potential energy, to a third for so soft a molecule
    for temperature, energy in zip((300, 600, 1200), energies, strict=True):
        assert energy - ground.energy == pytest.approx(75 / 2 * 8.617e-5 * temperature, rel=0.35)
    assert forces[0] < forces[1] < forces[2]


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match="did you mean '3bpa-xtb'"):
        load("3bpa-xbt", "train_300K")
    with pytest.raises(InputError, match="no split 'train_30K'"):
        load("cuau-emt", "train_30K")
    assert find("some/other/file.xyz") is None


def test_a_file_of_that_name_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cuau-emt").mkdir()
    (tmp_path / "cuau-emt" / "train_300K").write_text("1\nenergy=-1.0\nH 0 0 0\n")
    monkeypatch.chdir(tmp_path)
    assert read("cuau-emt/train_300K")[0].energy == -1.0
