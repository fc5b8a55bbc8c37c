"""Every format gives the numbers that its file was made from, and nothing needs to be said of sound labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from fireassay.data.formats.loading import load
from fireassay.data.inspect import inspect
from fireassay.data.readers import read
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from format_files import ELEMENTS, EXTRAS, FILES, aselmdb, crystals, lammps_dump, ml_ab, mtp, spice


def assert_equal(s: Structure, atoms: Atoms) -> None:
    assert np.array_equal(s.atomic_numbers, atoms.numbers)
    np.testing.assert_allclose(s.positions, atoms.positions, atol=2e-8, rtol=0)
    np.testing.assert_allclose(s.cell, atoms.cell[:], atol=1e-8)
    assert np.array_equal(s.pbc, atoms.pbc)
    results = atoms.calc.results
    if "energy" in results:
        assert s.energy == pytest.approx(results["energy"], abs=1e-8)
    else:
        assert s.energy is None
    assert s.forces is not None
    np.testing.assert_allclose(s.forces, results["forces"], atol=1e-7)
    if s.stress is not None:
        np.testing.assert_allclose(s.stress, atoms.get_stress(voigt=False), atol=1e-8)


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_read_as_it_was_made(name: str, tmp_path: Path) -> None:
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name])
    path = tmp_path / name
    frames = FILES[name](path)
    structures = read(path, elements=ELEMENTS.get(name))
    assert len(structures) == len(frames)
    if name == "mixed":  # system 8 comes before 16, set.2 before set.10
        assert {s.provenance.group for s in structures} == {"8", "16"}
    for s, atoms in zip(structures, frames, strict=True):
        assert_equal(s, atoms)
    stressed = name not in ("deepmd.h5", "mixed", "md.dump") and frames[0].pbc.all()
    assert all((s.stress is not None) == stressed for s in structures)
    if name == "mixed":
        return
    found = inspect(path, elements=ELEMENTS.get(name))
    known = ("of an earlier one", "not read, but named like")
    assert [line for line in found.findings if not any(part in line for part in known)] == []
    assert found.problems == []


@pytest.mark.parametrize("maker", [mtp, lammps_dump])
def test_types_without_elements_are_refused_with_the_way_on(maker, tmp_path: Path) -> None:
    maker(tmp_path / "a.dump")
    with pytest.raises(InputError, match=r'not their elements; name all 2 in order, as in "data.elements=\[Cu, Au\]"'):
        read(tmp_path / "a.dump")
    with pytest.raises(InputError, match="needs one chemical symbol for each type"):
        read(tmp_path / "a.dump", elements=["Cu"])
    with pytest.raises(InputError, match="'Xx' is no chemical element"):
        read(tmp_path / "a.dump", elements=["Xx", "Cu"])


def test_wide_datasets_stay_in_the_file_and_are_named(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    spice(tmp_path / "a.h5")
    (content,) = load(tmp_path / "a.h5")
    assert any("wiberg_lowdin_bond_orders" in note for note in content.notes)
    assert "wiberg_lowdin_bond_orders" not in content.frames[0].values
    assert content.frames[0].values["mbis_quadrupoles"].shape == (27, 3, 3)
    assert {s.provenance.group for s in read(tmp_path / "a.h5")} == {"mol-a", "mol-b"}


def test_lmdb_of_pickles_is_refused(tmp_path: Path) -> None:
    lmdb = pytest.importorskip("lmdb")
    import pickle

    environment = lmdb.open(str(tmp_path / "a.lmdb"), subdir=False, map_size=1 << 20, lock=False)
    with environment, environment.begin(write=True) as transaction:
        transaction.put(b"0", pickle.dumps({"pos": [1.0]}))
        transaction.put(b"length", pickle.dumps(1))
    with pytest.raises(InputError, match=r"pickles, which can run code and are never loaded; in the environment"):
        read(tmp_path / "a.lmdb")


def test_a_folder_of_lmdb_files_is_read_in_order(tmp_path: Path) -> None:
    pytest.importorskip("lmdb")
    for k in range(2):
        aselmdb(tmp_path / f"data.{k:04d}.aselmdb")
    structures = read(tmp_path)
    assert len(structures) == 2 * len(crystals())
    assert structures[0].provenance.file != structures[-1].provenance.file


def test_patterns_and_lists(tmp_path: Path) -> None:
    for name in ("b", "a"):
        FILES["frames.extxyz"](tmp_path / f"{name}.xyz")
    both = read(str(tmp_path / "*.xyz"))
    assert [Path(str(s.provenance.file)).name for s in both] == ["a.xyz"] * 12 + ["b.xyz"] * 12
    assert len(read([tmp_path / "b.xyz", "cuau-emt/test_300K"])) == 12 + 50
    with pytest.raises(InputError, match=r"no file matches the pattern"):
        read(str(tmp_path / "*.extxyz"))


@pytest.mark.parametrize("section", ["Total energy", "Forces", "Atomic positions"])
def test_an_ml_ab_without_a_section_is_refused(section: str, tmp_path: Path) -> None:
    ml_ab(tmp_path / "ML_AB")
    text = (tmp_path / "ML_AB").read_text().replace(section, "Nothing", 1)
    (tmp_path / "ML_AB").write_text(text)
    with pytest.raises(InputError, match=rf"frame 0: the configuration has no section '{section.lower()}'"):
        read(tmp_path / "ML_AB")


def test_the_energy_of_a_traj_is_that_of_its_calculation_with_constraints(tmp_path: Path) -> None:
    frames = FILES["fixed.traj"](tmp_path / "a.traj")
    forces = read(tmp_path / "a.traj")[0].forces
    assert forces is not None
    assert np.abs(forces[:3]).min() > 0
    np.testing.assert_allclose(forces, frames[0].calc.results["forces"])
