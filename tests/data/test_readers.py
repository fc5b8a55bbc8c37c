from __future__ import annotations

import os
import pickle
import sqlite3
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.db import connect
from ase.io import write

from fireassay.data.readers import read
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.units import BOHR, GIGAPASCAL, HARTREE, KCAL_PER_MOL

SHARED = Path(__file__).parents[3] / "shared" / "data"


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"real data {name} is not beside the checkout (../shared/data)")
    return path


def water(k: int = 0, periodic: bool = False) -> Atoms:
    rng = np.random.default_rng(k)
    atoms = Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]] + 0.02 * rng.normal(size=(3, 3)))
    if periodic:
        atoms.set_cell([[5, 0, 0], [1, 6, 0], [0.5, 0.2, 7]])
        atoms.pbc = True
    results: dict[str, Any] = {"energy": -10.0 - k, "forces": rng.normal(size=(3, 3))}
    if periodic:
        results["stress"] = rng.normal(size=6)
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


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


def text(
    rows: list[str], comment: str = "Properties=species:S:1:pos:R:3:forces:R:3 energy=-1.0", n: int | None = None
) -> str:
    return "\n".join([str(len(rows) if n is None else n), comment, *rows]) + "\n"


ROWS = ["O 0 0 0 0.1 0 0", "H 0.96 0 0 -0.1 0 0"]


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
        (text([ROWS[0], "H 0.96 0 0 nan 0 0"]), "forces has values that are not finite"),
        (text(ROWS, "Properties=species:S:1:pos:R:3:forces:R:3 energy=nan"), "energy is nan"),
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
    with pytest.raises(InputError, match="folder without DeePMD"):
        read(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        read(tmp_path / "absent.xyz")
    with pytest.raises(InputError, match="has no split 'train_301K'"):
        read("cuau-emt/train_301K")


@pytest.mark.parametrize("name", ["a.json", "POSCAR", "a.traj", "a.cif"])
def test_other_formats_are_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text('{"coords": [[0, 0, 0]]}')
    with pytest.raises(InputError, match=f"{name}: the format is not known; read are extended XYZ"):
        read(path)


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


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


def test_a_pickle_in_a_database_is_data_at_most(tmp_path: Path) -> None:
    path, crater = tmp_path / "a.db", tmp_path / "crater"
    connect(path).write(water())
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE systems SET data = ?", (pickle.dumps(Bomb(crater)),))
    with pytest.raises(InputError, match="damaged"):
        read(path)
    assert not crater.exists()


def test_a_database_is_not_written_to(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    connect(path).write(water(), data={"extra": np.arange(4.0)})
    before = path.read_bytes()
    listed = {p.name for p in tmp_path.iterdir()}
    read(path)
    assert path.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == listed


def test_labels_in_the_data_of_a_database(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    atoms = water()
    forces, atoms.calc = atoms.get_forces(), None
    connect(path).write(atoms, energy_xtb=-7.5, source="train.3", data={"forces_xtb": forces})
    with pytest.raises(InputError, match=r"keys=\{energy: energy_xtb, forces: forces_xtb\}"):
        read(path)
    (s,) = read(path, keys={"energy": "energy_xtb", "forces": "forces_xtb", "group": "source"})
    assert s.energy == -7.5
    assert s.forces is not None
    assert np.allclose(s.forces, forces)
    assert s.provenance.group == "train.3"


@pytest.mark.parametrize("damage", ["cut", "no table", "text"])
def test_damaged_database(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    if damage == "no table":
        sqlite3.connect(path).execute("CREATE TABLE other (x INTEGER)").connection.close()
    elif damage == "text":
        path.write_text("not a database, but called one\n" * 20)
    else:
        for k in range(50):
            connect(path).write(water(k))
        path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(InputError) as caught:
        read(path)
    assert "\n" not in str(caught.value)


def arrays(dialect: str, s: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    x = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]) + 0.02 * rng.normal(size=(s, 3, 3))
    names = {
        "rmd17": ("coords", "nuclear_charges", "energies", "forces"),
        "sgdml": ("R", "z", "E", "F"),
        "egraff": ("pos", "atomic_numbers", "energy", "forces"),
    }[dialect]
    energy = rng.normal(size=s if dialect == "rmd17" else (s, 1))
    return dict(zip(names, (x, np.array([8, 1, 1], dtype=np.uint8), energy, rng.normal(size=(s, 3, 3))), strict=True))


@pytest.mark.parametrize("dialect", ["rmd17", "sgdml", "egraff"])
def test_npz_dialects(dialect: str, tmp_path: Path) -> None:
    content = arrays(dialect)
    if dialect == "egraff":
        content |= {"cell": np.diag([8.0, 9.0, 10.0]), "pbc": np.array([True, True, False])}
    path = tmp_path / "a.npz"
    np.savez(path, **content)  # type: ignore[arg-type]
    structures = read(path)
    positions, numbers, energies, forces = list(content.values())[:4]
    assert len(structures) == 4
    for k, s in enumerate(structures):
        assert np.array_equal(s.positions, positions[k])
        assert s.atomic_numbers.tolist() == numbers.tolist()
        assert s.energy == energies.reshape(-1)[k]
        assert s.forces is not None
        assert np.array_equal(s.forces, forces[k])
        assert s.pbc.tolist() == ([True, True, False] if dialect == "egraff" else [False] * 3)
        assert s.provenance.frame == k


def test_npz_with_padding_and_lattice_in_columns(tmp_path: Path) -> None:
    content = arrays("sgdml")
    content["z"] = np.array([[8, 1, 1], [8, 1, 0], [8, 0, 1], [8, 1, 1]])
    content["lattice"] = np.array([[5.0, 1.0, 0.5], [0, 6.0, 0.2], [0, 0, 7.0]])
    path = tmp_path / "a.npz"
    np.savez(path, **content)  # type: ignore[arg-type]
    structures = read(path)
    assert [len(s) for s in structures] == [3, 2, 2, 3]
    assert structures[2].forces is not None
    assert np.array_equal(structures[2].forces, content["F"][2, [0, 2]])
    assert structures[0].cell[1].tolist() == [1.0, 6.0, 0.0]
    assert structures[0].pbc.all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"R": np.zeros((4, 3, 2))}, "positions have shape"),
        ({"R": np.full((4, 3, 3), np.nan)}, "not finite"),
        ({"z": np.array([8, 1])}, "atomic numbers have shape"),
        ({"z": np.array([8, 1, 300])}, "atomic numbers .300. are no elements"),
        ({"F": np.zeros((4, 2, 3))}, r"forces under 'F'.*needs \(3, 3\)"),
        ({"F": np.zeros((3, 3, 3))}, r"forces under 'F'.*needs \(3, 3\)"),
        ({"E": np.full(4, np.inf)}, "energy is inf"),
        ({"E": np.array(["a", "b", "c", "d"])}, "energy under 'E'"),
        ({"coords": np.zeros((4, 3, 3))}, "has both"),
        ({"energy": np.zeros(4)}, "energy could be any of"),
        ({"cell": np.zeros((2, 2))}, "cell has shape"),
    ],
)
def test_bad_npz(change: dict[str, np.ndarray], says: str, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **(arrays("sgdml") | change))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=says):
        read(path)


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.95])
def test_truncated_npz(fraction: float, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, **arrays("sgdml"))  # type: ignore[arg-type]
    content = path.read_bytes()
    path.write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(InputError, match="damaged or cut short"):
        read(path)


def deepmd(folder: Path, sets: int = 2, virial: bool = True) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    folder.mkdir(parents=True)
    (folder / "type.raw").write_text("0\n1\n1\n")
    (folder / "type_map.raw").write_text("O\nH\n")
    box = np.array([[5, 0, 0], [1, 6, 0], [0.5, 0.2, 7]])
    for k in range(sets):
        (folder / f"set.{k:03d}").mkdir()
        x = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]) + 0.02 * rng.normal(size=(3, 3, 3))
        w = rng.normal(size=(3, 3, 3))
        content = {
            "coord": x.reshape(3, 9),
            "box": np.tile(box.reshape(9), (3, 1)),
            "energy": np.arange(3.0) + 10 * k,
            "force": rng.normal(size=(3, 9)),
            "virial": (w + w.swapaxes(1, 2)).reshape(3, 9),
        }
        for name, array in content.items():
            if name != "virial" or virial:
                np.save(folder / f"set.{k:03d}" / f"{name}.npy", array)
    return content


def test_deepmd_folders(tmp_path: Path) -> None:
    last = deepmd(tmp_path / "b", sets=2)
    deepmd(tmp_path / "a", sets=1, virial=False)
    structures = read(tmp_path)
    assert [s.provenance.group for s in structures] == ["a"] * 3 + ["b"] * 6
    assert [s.energy for s in structures] == [0, 1, 2, 0, 1, 2, 10, 11, 12]
    s = structures[-1]
    assert s.atomic_numbers.tolist() == [8, 1, 1]
    assert np.array_equal(s.positions, last["coord"][2].reshape(3, 3))
    assert s.forces is not None
    assert np.array_equal(s.forces, last["force"][2].reshape(3, 3))
    assert s.stress is not None
    assert np.allclose(s.stress, -last["virial"][2].reshape(3, 3) / 210.0)  # volume of the box: 5 * 6 * 7
    assert structures[0].stress is None
    assert len(read(tmp_path / "a")) == 3


def test_bad_deepmd(tmp_path: Path) -> None:
    deepmd(tmp_path / "a")
    np.save(tmp_path / "a/set.001/force.npy", np.zeros((3, 6)))
    with pytest.raises(InputError, match=r"force.npy: shape \(3, 6\), needs \(3, 9\)"):
        read(tmp_path / "a")
    np.save(tmp_path / "a/set.001/force.npy", np.array([Bomb(tmp_path / "crater")], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="pickle"):
        read(tmp_path / "a")
    assert not (tmp_path / "crater").exists()
    (tmp_path / "a/type_map.raw").unlink()
    with pytest.raises(InputError, match=r"type_map\.raw is missing"):
        read(tmp_path / "a")


def test_units_are_converted(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    content = arrays("sgdml")
    np.savez(path, **content)  # type: ignore[arg-type]
    (s,) = read(path, units={"energy": "kcal/mol"}, index=2)
    assert s.forces is not None
    assert s.energy == pytest.approx(content["E"][2, 0] * KCAL_PER_MOL)
    assert np.allclose(s.forces, content["F"][2] * KCAL_PER_MOL)
    assert np.array_equal(s.positions, content["R"][2])
    (s,) = read(path, units={"energy": "Hartree", "length": "Bohr"}, index=[1])
    assert s.forces is not None
    assert np.allclose(s.positions, content["R"][1] * BOHR)
    assert np.allclose(s.forces, content["F"][1] * HARTREE / BOHR)
    s = read(path, units={"energy": "Hartree", "forces": "kcal/mol/Å"})[0]
    assert s.forces is not None
    assert np.allclose(s.forces, content["F"][0] * KCAL_PER_MOL)


def test_stress_and_virial_conventions(tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    comment = 'Lattice="5 0 0 1 6 0 0.5 0.2 7" Properties=species:S:1:pos:R:3:forces:R:3 energy=1 '
    tensor = np.array([[1.0, 6, 5], [6, 2, 4], [5, 4, 3]])
    path.write_text(text(ROWS, comment + 'stress="1 2 3 4 5 6"'))
    voigt = read(path)[0].stress
    assert voigt is not None
    assert np.array_equal(voigt, tensor)
    path.write_text(text(ROWS, comment + 'stress="1 6 5 6 2 4 5 4 3"'))
    s = read(path, units={"stress": "GPa"})[0]
    assert s.stress is not None
    assert np.allclose(s.stress, tensor * GIGAPASCAL)
    path.write_text(text(ROWS, comment + 'virial="1 6 5 6 2 4 5 4 3"'))
    s = read(path)[0]
    assert s.stress is not None
    assert np.allclose(s.stress, -tensor / 210)
    path.write_text(text(ROWS, comment + 'virial="1 6 5 -6 2 4 5 4 3"'))
    with pytest.raises(InputError, match="not symmetric"):
        read(path)


@pytest.mark.parametrize(
    ("units", "says"),
    [
        ({"energi": "eV"}, "did you mean 'energy'"),
        ({"energy": "kcal"}, "'kcal' is no unit of energy"),
        ({"length": "parsec"}, "known are"),
        ({"forces": "eV"}, "no unit of forces"),
    ],
)
def test_bad_units(units: dict[str, str], says: str, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **arrays("sgdml"))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=says):
        read(path, units=units)


def test_keys_are_mapped_and_never_guessed(tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    comment = "Properties=species:S:1:pos:R:3:forces_xtb:R:3 energy_xtb=-5.5 T=350 part=hot"
    path.write_text(text(ROWS, comment))
    with pytest.raises(
        InputError, match=r"no energies and no forces.*energy_xtb: float.*keys=\{energy: energy_xtb, forces"
    ):
        read(path)
    keys = {"energy": "energy_xtb", "forces": "forces_xtb", "temperature": "T", "group": "part"}
    (s,) = read(path, keys=keys)
    assert s.energy == -5.5
    assert s.provenance.temperature == 350.0
    assert s.provenance.group == "hot"
    with pytest.raises(InputError, match="no forces read, but 'forces_xtb' looks like it"):
        read(path, keys={"energy": "energy_xtb"})
    assert read(path, keys={"energy": "energy_xtb", "forces": None})[0].forces is None
    with pytest.raises(InputError, match=r"no key 'energy_xbt' for energy \(did you mean 'energy_xtb'\?\)"):
        read(path, keys={"energy": "energy_xbt"})
    with pytest.raises(InputError, match="'enrgy' is no label"):
        read(path, keys={"enrgy": "energy_xtb"})
    assert read(path, labels=False)[0].energy is None


def test_a_frame_without_a_label_has_none(tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    path.write_text(
        text(ROWS) + text(ROWS, "Properties=species:S:1:pos:R:3:forces:R:3") + text(["O 0 0 0"], "energy=-3")
    )
    first, second, third = read(path)
    assert (first.energy, second.energy, third.energy) == (-1.0, None, -3.0)
    assert third.forces is None


def test_stress_under_another_name_warns(tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    path.write_text(text(ROWS, "Properties=species:S:1:pos:R:3:forces:R:3 energy=1 dft_stress=" + '"1 2 3 4 5 6"'))
    with pytest.warns(UserWarning, match="no stress read, but 'dft_stress' looks like it"):
        read(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(path, keys={"stress": None})


def test_plain_xyz_with_unnamed_force_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    path.write_text(text(ROWS, "a comment without keys"))
    with pytest.raises(InputError, match="forces: columns_5_to_7"):
        read(path)
    forces = read(path, keys={"forces": "columns_5_to_7"})[0].forces
    assert forces is not None
    assert forces[0, 0] == 0.1


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
        ("rmd17/rmd17_aspirin_train_01.npz", 1000, 21, 29.08 * KCAL_PER_MOL, {"units": {"energy": "kcal/mol"}}),
        ("ethanol_ccsd_t/ethanol_ccsd_t-train.npz", 1000, 9, 1.193, {"units": {"energy": "kcal/mol"}}),
        ("md17/aspirin_train.npz", 950, 21, 1.204, {}),
        ("lips/lips_1000.npz", 1000, 83, 0.610, {}),
        ("gete/gete_300.npz", 300, 200, 0.486, {}),
        ("deepmd_water", 400, 192, 0.814, {}),
        ("snap_db/snap-Ni.db", 461, 32, 0.763, {"keys": {"group": "source"}}),
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
    with pytest.raises(InputError, match=r"look like kcal/mol.*units=\{energy: kcal/mol\}"):
        read(shared(name))


def test_pickled_graphs_are_refused() -> None:
    with pytest.raises(InputError, match="never loaded"):
        read(shared("lips/ocp_style_lmdb_200/data.lmdb"))
