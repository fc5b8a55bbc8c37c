from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixAtoms
from ase.db import connect
from ase.io import write

from fireassay.data.readers import read
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.units import KCAL_PER_MOL
from samples import ROWS, Bomb, arrays, shared, text, water


def assert_same(s: Structure, atoms: Atoms) -> None:
    assert np.array_equal(s.atomic_numbers, atoms.numbers)
    assert np.allclose(s.positions, atoms.positions, atol=1e-8, rtol=0)
    assert np.allclose(s.cell, atoms.cell[:], atol=1e-12)
    assert np.array_equal(s.pbc, atoms.pbc)
    assert s.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    assert s.forces is not None
    assert np.allclose(s.forces, atoms.get_forces(apply_constraint=False), atol=1e-8)
    if atoms.pbc.any():
        assert s.stress is not None
        assert np.allclose(s.stress, atoms.get_stress(voigt=False), atol=1e-8)
    else:
        assert s.stress is None


@pytest.fixture(params=["xyz", "xyz.gz", "xyz.xz", "xyz.bz2", "db"])
def written(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, list[Atoms]]:
    frames = [water(k, periodic=k % 2 == 1) for k in range(4)]
    path = tmp_path / f"frames.{request.param}"
    if request.param == "db":
        database = connect(path)
        for atoms in frames:
            database.write(atoms)
    else:
        write(path, frames, format="extxyz")
    return path, frames


def test_what_ase_writes_is_read(written: tuple[Path, list[Atoms]]) -> None:
    path, frames = written
    structures = read(path)
    assert len(structures) == 4
    for number, (s, atoms) in enumerate(zip(structures, frames, strict=True)):
        assert_same(s, atoms)
        assert s.provenance.file == str(path)
        assert s.provenance.frame == number


@pytest.mark.parametrize("suffix", ["xyz", "db"])
def test_constraints_do_not_zero_forces(suffix: str, tmp_path: Path) -> None:
    atoms = water()
    raw = atoms.get_forces()
    atoms.set_constraint(FixAtoms([0, 1]))
    path = tmp_path / f"fixed.{suffix}"
    if suffix == "db":
        connect(path).write(atoms)
    else:  # as ASE writes an unconstrained copy with move_mask beside it
        write(path, atoms, format="extxyz", columns=["symbols", "positions", "move_mask"], write_results=False)
        lines = path.read_text().splitlines()
        lines[1] = lines[1].replace("move_mask:L:1", "move_mask:L:1:forces:R:3") + " energy=-10.0"
        lines[2:] = [f"{row} {f[0]:.10f} {f[1]:.10f} {f[2]:.10f}" for row, f in zip(lines[2:], raw, strict=True)]
        path.write_text("\n".join(lines) + "\n")
    forces = read(path)[0].forces
    assert forces is not None
    assert np.allclose(forces, raw)
    assert np.abs(forces[:2]).min() > 0


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "empty"),
        ("\n\n", "empty"),
        (text(ROWS, n=3), "announces 3 atoms but the file ends after 2"),
        (text(ROWS) + text(ROWS[:1], n=2), "frame 1 .line 5.: announces 2 atoms but the file ends after 1"),
        (text(ROWS) + "2\n", "frame 1 .line 5.: the file ends after the number of atoms"),
        (text([ROWS[0], "H 0.96 0 0 -0.1"]), r"line 4.: atom 1 has 5 columns, needs 7"),
        (text(["O 0 0 nan 0 0 0", ROWS[1]]), "frame 0: positions has values that are not finite"),
        (text([ROWS[0], "H 0.9 inf 0 0 0 0"]), "positions has values that are not finite"),
        (text([ROWS[0], "H 0.96 0 0 inf 0 0"]), "forces has values that are not finite"),
        (text(ROWS, "Properties=species:S:1:pos:R:3:forces:R:3 energy=inf"), "energy is inf"),
        (
            text(ROWS, 'Lattice="5 0 0 0 nan 0 0 0 5" Properties=species:S:1:pos:R:3:forces:R:3 energy=1'),
            "cell has values",
        ),
        (
            text(ROWS, 'Lattice="5 0 0 0 5 0 0 0 0" Properties=species:S:1:pos:R:3:forces:R:3 energy=1'),
            "spans no volume",
        ),
        (text(ROWS, 'Lattice="5 0 0" pbc="T X" Properties=species:S:1:pos:R:3:forces:R:3'), "pbc="),
        (text(ROWS, 'Lattice="5 0 0 0" Properties=species:S:1:pos:R:3:forces:R:3'), "Lattice="),
        (text(ROWS, 'Lattice="5 0 0 Properties=species:S:1:pos:R:3'), "not closed"),
        (text(ROWS, "Properties=species:S:1:pos energy=1"), "Properties="),
        (text(["O 0 0 0 0.1 0 x", ROWS[1]]), r"line 3.: 'x' in column 'forces' is not a number"),
        (text(["Xx 0 0 0 0.1 0 0", ROWS[1]]), "'Xx' is no chemical element"),
        (text([ROWS[0], "H 0.05 0 0 0 0 0"]), "atoms 0 and 1 are 0.050 Å apart"),
        (
            text(ROWS, "Properties=species:S:1:pos:R:3:forces:R:3 energy=high"),
            "energy under 'energy' is text, needs one number",
        ),
        (
            text(["O 0 0 0 1", "H 1 0 0 1"], "Properties=species:S:1:pos:R:3:forces:R:1 energy=1"),
            r"forces under 'forces'.*needs \(2, 3\)",
        ),
        ("hello\n", "needs the number of atoms"),
        ("-3\nx\n", "needs the number of atoms"),
    ],
)
def test_bad_xyz_gets_one_line(content: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.xyz"
    path.write_text(content)
    with pytest.raises(InputError, match=says) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert "bad.xyz" in str(caught.value)


@pytest.mark.parametrize("suffix", [".xyz.gz", ".xyz.xz", ".xyz.bz2"])
@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_damaged_compression(suffix: str, damage: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    write(path, [water(k) for k in range(30)], format="extxyz")
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    else:
        content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(InputError) as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_atoms_on_one_place_across_a_periodic_face(tmp_path: Path) -> None:
    path = tmp_path / "image.xyz"
    rows = ["O 0.02 1 1 0 0 0", "O 4.98 1 1 0 0 0"]
    comment = 'Lattice="5 0 0 0 5 0 0 0 5" Properties=species:S:1:pos:R:3:forces:R:3 energy=1'
    path.write_text(text(rows, comment))
    with pytest.raises(InputError, match=r"frame 0: atoms \d and \d are 0\.040 Å apart"):
        read(path)
    path.write_text(text(rows, comment + ' pbc="F T T"'))
    assert len(read(path)) == 1
    path.write_text(text(["O 0 0 0 0 0 0"], 'Lattice="0.08 0 0 0 5 0 0 0 5" ' + comment.split('" ', 1)[1]))
    with pytest.raises(InputError, match=r"atoms 0 and 0 are 0\.080 Å apart"):
        read(path)


def test_not_text_folder_missing(tmp_path: Path) -> None:
    path = tmp_path / "binary.xyz"
    path.write_bytes(b"2\n\xff\xfe\x00bad\n" * 10)
    with pytest.raises(InputError, match="not UTF-8"):
        read(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="folder without DeePMD"):
        read(tmp_path / "empty")
    with pytest.raises(InputError, match="no such file"):
        read(tmp_path / "absent.xyz")
    with pytest.raises(InputError, match="has no split 'train_301K'"):
        read("cuau-emt/train_301K")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.json", '{"coords": [[0, 0, 0]]}', "a mapping of .'coords'., needs structures of pymatgen"),
        ("a.json", '{"coords": [[0, 0,', "is no JSON"),
        ("notes.md", "# Notes", "the format is not known; read are extended XYZ"),
        ("a.traj", "not a trajectory", "the format is not known"),
        ("POSCAR", "nothing", "ASE cannot read it as vasp"),
        ("a.lmdb", "nothing", "cannot be read as LMDB"),
        ("a.h5", "nothing", "the format is not known"),
    ],
)
def test_other_formats_are_named(name: str, content: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InputError, match=f"{name}: {says}"):
        read(path)


@pytest.mark.parametrize("name", ["a.npz", "a.npy", "a.pkl", "a.pt", "a.xyz", "a.db", "inside.npz", "field.npz"])
def test_a_pickle_is_never_executed(name: str, tmp_path: Path) -> None:
    crater, path = tmp_path / "crater", tmp_path / name
    bomb = np.array([Bomb(crater)], dtype=object)
    geometry = {"R": np.random.default_rng(0).normal(size=(1, 2, 3)), "z": np.array([1, 1])}
    if name == "inside.npz":
        np.savez(path, E=bomb, **geometry)  # type: ignore[arg-type]
    elif name == "field.npz":
        np.savez(path, E=np.zeros(1), F=np.zeros((1, 2, 3)), notes=bomb, **geometry)  # type: ignore[arg-type]
    elif name == "a.npy":
        np.save(path, bomb, allow_pickle=True)
    else:
        path.write_bytes(pickle.dumps(Bomb(crater)))
    with pytest.raises(InputError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert not crater.exists()
    pickle.loads(pickle.dumps(Bomb(crater)))  # the bomb is live: loading it anywhere would have shown
    assert crater.exists()


@pytest.mark.parametrize(
    ("index", "expected"),
    [(None, [0, 1, 2, 3]), (1, [1]), (-1, [3]), (":2", [0, 1]), ("::2", [0, 2]), ("3", [3]), ([2, 0], [2, 0])],
)
def test_index(index: Any, expected: list[int], tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **arrays("sgdml"))  # type: ignore[arg-type]
    assert [s.provenance.frame for s in read(path, index=index)] == expected


@pytest.mark.parametrize("index", ["9:", "a", 17, [5], []])
def test_bad_index(index: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **arrays("sgdml"))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="index"):
        read(path, index=index)


@pytest.mark.parametrize(
    ("name", "frames", "atoms", "force_rms", "options"),
    [
        ("3bpa/train_300K.xyz.xz", 500, 27, 0.948, {}),
        ("fcu/fcu_ev5.xyz.gz", 200, 52, 0.723, {}),
        (
            "rmd17/rmd17_aspirin_train_01.npz",
            1000,
            21,
            29.08 * KCAL_PER_MOL,
            {"units": {"energy": "kcal/mol"}, "keys": {"energy": "energies", "forces": "forces"}},
        ),
        ("ethanol_ccsd_t/ethanol_ccsd_t-train.npz", 1000, 9, 1.193, {"units": {"energy": "kcal/mol"}}),
        ("md17/aspirin_train.npz", 950, 21, 1.204, {}),
        ("lips/lips_1000.npz", 1000, 83, 0.610, {}),
        ("gete/gete_300.npz", 300, 200, 0.486, {}),
        ("deepmd_water", 400, 192, 0.814, {}),
        ("snap_db/snap-Ni.db", 461, 32, 0.763, {"keys": {"group": "source"}, "units": {"stress_order": "VASP"}}),
        ("spice_dipeptides/spice-dipep-dipolar_train.xyz.xz", 495, 48, 1.04, {}),
        ("qmc_hydrogen/testing.xyz.xz", 200, 216, 1.05, {}),
        (
            "solvent_xtb/solvent_xtb_test.xyz.xz",
            1000,
            48,
            None,
            {"keys": {"energy": "energy_xtb", "forces": "forces_xtb"}},
        ),
        ("silicon_gap/testing_database.xyz", 28, 48, None, {"keys": {"forces": "dft_force"}}),
    ],
)
def test_real_files(name: str, frames: int, atoms: int, force_rms: float | None, options: dict[str, Any]) -> None:
    structures = read(shared(name), **options)
    assert (len(structures), len(structures[0])) == (frames, atoms)
    assert all(s.energy is not None and s.forces is not None for s in structures)
    if force_rms is not None:
        rms = np.sqrt(np.mean(np.concatenate([s.forces for s in structures if s.forces is not None]) ** 2))
        assert rms == pytest.approx(force_rms, rel=0.01)


@pytest.mark.parametrize("name", ["rmd17/rmd17_ethanol_train_01.npz", "ethanol_ccsd_t/ethanol_ccsd_t-train.npz"])
def test_real_energies_in_a_foreign_unit_are_refused(name: str) -> None:
    keys = {"energy": "energies", "forces": "forces"} if "rmd17" in name else None
    with pytest.raises(InputError, match=r"look like kcal/mol.*units=\{energy: kcal/mol\}"):
        read(shared(name), keys)


def test_pickled_graphs_are_refused() -> None:
    with pytest.raises(InputError, match="never loaded"):
        read(shared("lips/ocp_style_lmdb_200/data.lmdb"))
