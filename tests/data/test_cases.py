"""Kinds of trouble that people report, each with neighbours: the right values, or one line that says how to go on."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.db import connect
from ase.io import write as write_ase

from fireassay.data.advice import units_option
from fireassay.data.baseline import isolated_atoms
from fireassay.data.checks import STOPS
from fireassay.data.frame import SYMBOLS
from fireassay.data.inspect import inspect
from fireassay.data.readers import read, read_checked
from fireassay.errors import InputError
from fireassay.units import ENERGY, KCAL_PER_MOL, LENGTH
from format_files import crystals, labels
from samples import SHARED

CASES = SHARED.parent / "cases" / "data"
HEAD = "Properties=species:S:1:pos:R:3:forces:R:3"
CU = ["Cu 0.05 0 0 -0.3 0 0", "Cu 1.8 1.8 0.02 0.3 0 0"]
CO = ["C 0 0 0 0 0 -0.5", "O 0 0 1.1 0 0 0.5"]


def xyz(path: Path, *comments: str, rows: list[str] = CO) -> Path:
    path.write_text("".join(f"{len(rows)}\n{comment}\n" + "".join(f"{row}\n" for row in rows) for comment in comments))
    return path


def kinds(path: Path, **options: Any) -> set[str]:
    return {finding.kind for finding in read_checked(path, accept=list(STOPS), **options).findings}


# 2: the sign of forces


def test_a_gradient_is_hinted_at_with_its_sign_and_read_with_it(tmp_path: Path) -> None:
    path = xyz(tmp_path / "a.xyz", "Properties=species:S:1:pos:R:3:dft_total_gradient:R:3 energy=-1.0")
    with pytest.raises(InputError, match=r'"data.keys=\{forces: dft_total_gradient\}" "data.units=\{forces: -eV/Å\}"'):
        read(path)
    keys = {"forces": "dft_total_gradient"}
    with pytest.raises(InputError, match=r"named like a gradient.*data.units=\{forces: -eV/Å\}.*data.accept=\[sign\]"):
        read(path, keys)
    forces = read(path, keys, {"forces": "-eV/Å"})[0].forces
    assert forces is not None
    assert forces[0, 2] == 0.5
    taken = read(path, keys, accept=["sign"])[0].forces
    assert taken is not None
    assert taken[0, 2] == -0.5


@pytest.mark.parametrize("name", ["grad", "energy_gradient", "dE_dx_grad", "GRADIENTS"])
def test_names_of_gradients(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"units=\{forces: -eV/Å\}"):
        read(xyz(tmp_path / "a.xyz", f"Properties=species:S:1:pos:R:3:{name}:R:3 energy=-1.0"))


@pytest.mark.parametrize("source", ["3bpa-xtb/train_300K", "cuau-emt/train_300K"])
def test_forty_frames_with_the_sign_turned_are_refused(source: str, tmp_path: Path) -> None:
    lines = []
    for s in read(source, index=":40"):
        assert s.forces is not None
        cell = f'Lattice="{" ".join(map(str, s.cell.ravel()))}" ' if s.pbc.any() else ""
        lines.append(f"{len(s)}\n{cell}{HEAD} energy={s.energy}\n")
        rows = zip(s.atomic_numbers, s.positions, s.forces, strict=True)
        lines += [f"{SYMBOLS[int(z)]} {' '.join(map(str, (*x, *-f)))}\n" for z, x, f in rows]
    path = tmp_path / "turned.xyz"
    path.write_text("".join(lines))
    with pytest.raises(InputError, match=r"sign of a gradient.*data.units=\{forces: -eV/Å\}"):
        read(path)
    again = read(path, units={"forces": "-eV/Å"})[3].forces
    expected = read(source, index=3)[0].forces
    assert again is not None
    assert expected is not None
    np.testing.assert_allclose(again, expected)


# 3: keys in another case, forms of pbc


@pytest.mark.parametrize(
    ("comment", "pbc"),
    [
        ('lattice="3.6 0 0 0 3.6 0 0 0 3.7"', "TTT"),
        ('LATTICE="3.6 0 0 0 3.6 0 0 0 3.7" PBC="T T F"', "TTF"),
        ("Lattice='3.6 0 0 0 3.6 0 0 0 3.7' pbc='T F T'", "TFT"),
        ('Lattice="3.6 0 0 0 3.6 0 0 0 3.7" pbc="1 1 0"', "TTF"),
        ('Lattice="3.6 0 0 0 3.6 0 0 0 3.7" pbc=110', "TTF"),
        ('Lattice="3.6 0 0 0 3.6 0 0 0 3.7" pbc=011', "FTT"),
        ('Lattice="3.6 0 0 0 3.6 0 0 0 3.7" pbc=TTF', "TTF"),
        ('Lattice="3.6 0 0 0 3.6 0 0 0 3.7" pbc=[T, T, F]', "TTF"),
        ('Lattice="3.6 0 0 0 3.6 0 0 0 3.7" pbc=[True, False, True]', "TFT"),
        ('Lattice="3.6 0 0 0 3.6 0 0 0 3.7" Pbc=[true,true,false]', "TTF"),
        ('Lattice="3.6 0 0 0 3.6 0 0 0 3.7" pbc="True,True,False"', "TTF"),
        ('Lattice="3.6 0 0 0 3.6 0 0 0 3.7" pbc=F', "FFF"),
        ("Lattice=[[3.6, 0, 0], [0, 3.6, 0], [0, 0, 3.7]]", "TTT"),
        ("Lattice=[3.6, 0, 0, 0, 3.6, 0, 0, 0, 3.7]", "TTT"),
        ("Lattice={3.6 0 0 0 3.6 0 0 0 3.7}", "TTT"),
        ('Lattice="3.6 3.6 3.7"', "TTT"),
    ],
)
def test_cells_and_periodicity_however_they_are_written(comment: str, pbc: str, tmp_path: Path) -> None:
    (s,) = read(xyz(tmp_path / "a.xyz", f"{comment} {HEAD} energy=-7", rows=CU))
    assert s.cell.tolist() == np.diag([3.6, 3.6, 3.7]).tolist()
    assert "".join("T" if flag else "F" for flag in s.pbc) == pbc


@pytest.mark.parametrize(
    ("comment", "says"),
    [
        ('Lattice="3 0 0 0 3 0 0 0 3" lattice="3 0 0 0 3 0 0 0 4"', "has Lattice and lattice, needs one of them"),
        ('cell="3 0 0 0 3 0 0 0 3"', "has no Lattice but 'cell' with 9 numbers; write it as Lattice="),
        ('unit_cell="3 0 0 0 3 0 0 0 3"', "has no Lattice but 'unit_cell'"),
        ('Lattice="3 0 0 0 3 0 0 0 3" pbc="T T maybe"', "is not three of T and F"),
        ('Lattice="3 0 0 0 3 0 0 0 3" pbc="T T"', "is not three of T and F"),
        ('Lattice="3 3 3 90 90 90"', "is not nine numbers"),
        ("energy=-8", "gives 'energy' twice"),
    ],
)
def test_what_is_not_understood_is_refused(comment: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        read(xyz(tmp_path / "a.xyz", f"{comment} {HEAD} energy=-7", rows=CU))


@pytest.mark.parametrize(
    ("properties", "says"),
    [
        ("species:S:1:pos:R:3:forces:R:3:forces:R:3", "names the column 'forces' twice"),
        ("species:R:1:pos:R:3:forces:R:3", "in column 'species' is not a number"),
        ("species:L:1:pos:R:3:forces:R:3", "in column 'species' is not T or F"),
        ("species:S:2:pos:R:3:forces:R:2", "species is"),
        ("species:S:1:pos:S:3:forces:R:3", "pos has shape"),
        ("species:S:1:pos:R:3:forces:X:3", "type one of S R I L"),
        ("species:S:1:pos:R:3:forces:SR:3", "type one of S R I L"),
        ("species:S:1:pos:R:0:forces:R:6", "type one of S R I L"),
        ("species:S:1:pos:R:-3:forces:R:6", "type one of S R I L"),
        ("species:S:1:Pos:R:3:pos:R:3", "Properties names Pos and pos, needs one of them"),
    ],
)
def test_wrong_properties_get_a_line(properties: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        read(xyz(tmp_path / "a.xyz", f"Properties={properties} energy=-1"))


def test_a_column_and_a_key_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'forces' is a column and a key"):
        read(xyz(tmp_path / "a.xyz", f"{HEAD} forces=3 energy=-1"))


# 4, 11: labels that are not there


def test_a_stress_without_a_cell_is_left_out_and_said_once(tmp_path: Path) -> None:
    path = xyz(tmp_path / "a.xyz", *[f'{HEAD} energy=-1.0 stress="0 0 0 0 0 0" pbc="F F F"'] * 3)
    reading = read_checked(path)
    assert all(s.stress is None for s in reading.structures)
    assert [f.sentence for f in reading.findings] == [
        f"{path}: 3 of 3 frames have a stress but no periodic cell: their stress is left out"
    ]
    virial = xyz(tmp_path / "b.xyz", f'{HEAD} energy=-1.0 virial="1 0 0 0 1 0 0 0 1"')
    assert read(virial)[0].stress is None
    unperiodic = xyz(
        tmp_path / "c.xyz", f'Lattice="9 0 0 0 9 0 0 0 9" pbc="F F F" {HEAD} energy=-1 stress="1 1 1 0 0 0"'
    )
    assert read(unperiodic)[0].stress is None


def test_nan_is_a_missing_label_of_a_frame_or_an_atom(tmp_path: Path) -> None:
    from fireassay.data.graph import labels_of

    some = ["C 0 0 0 nan nan nan", "O 0 0 1.1 0 0 0.5"]
    text = f"2\n{HEAD} energy=nan\n" + "\n".join(CO) + f"\n2\n{HEAD} energy=-1\n" + "\n".join(some) + "\n"
    text += f'2\nLattice="9 0 0 0 9 0 0 0 9" {HEAD} energy=-1 stress="nan nan nan nan nan nan"\n' + "\n".join(
        ["C 0 0 0 nan 0 0", "O 0 0 1.1 0 nan 0"]
    )
    path = tmp_path / "a.xyz"
    path.write_text(text)
    reading = read_checked(path)
    first, second, third = reading.structures
    assert (first.energy, second.energy, third.forces, third.stress) == (None, -1.0, None, None)
    assert second.forced.tolist() == [False, True]
    found = labels_of(reading.structures)
    assert found.has_energy.tolist() == [False, True, True]
    assert found.has_forces.tolist() == [True, True, False, True, False, False]
    assert bool(found.forces.isfinite().all())
    said = [f.sentence for f in reading.findings if f.kind == "missing"]
    assert any("energy is NaN in 1 of 3 frames" in line for line in said)
    assert any("forces is NaN in 2 of 3 frames, 1 of their atoms alone" in line for line in said)
    assert inspect(path).coverage["energy"] == pytest.approx(2 / 3)


# 5, 6: units


UNITS = [
    {"length": "Bohr"},
    {"energy": "Hartree"},
    {"energy": "Hartree", "length": "Bohr"},
    {"energy": "Hartree", "forces": "Hartree/Bohr"},
    {"energy": "kcal/mol"},
    {"energy": "kJ/mol"},
    {"energy": "kJ/mol", "length": "nm"},
    {"forces": "-eV/Å"},
    {"energy": "kcal/mol", "forces": "-kcal/mol/Å"},
    {"energy": "Hartree", "length": "Bohr", "forces": "-Hartree/Bohr"},
]


@pytest.mark.parametrize("units", UNITS, ids=str)
def test_units_are_found_by_physics_and_checked_after_conversion(units: dict[str, str], tmp_path: Path) -> None:
    energy, length = ENERGY[units.get("energy", "eV")], LENGTH[units.get("length", "Å")]
    above, _, below = units.get("forces", f"{units.get('energy', 'eV')}/{units.get('length', 'Å')}").rpartition("/")
    forces = ENERGY[above.removeprefix("-")] / LENGTH[below] * (-1 if above.startswith("-") else 1)
    frames = read("3bpa-xtb/train_300K", index=":40")
    path = tmp_path / "a.npz"
    np.savez(
        path,
        z=frames[0].atomic_numbers,
        R=np.stack([s.positions for s in frames]) / length,
        E=np.array([s.energy for s in frames]) / energy,
        F=np.stack([s.forces for s in frames if s.forces is not None]) / forces,
    )
    with pytest.raises(InputError, match=re.escape(units_option(units))):
        read(path)
    assert len(read(path, units=units)) == 40
    wrong = {"energy": "kcal/mol"} if "energy" not in units else {"energy": "eV", "length": "Å"}
    with pytest.raises(InputError, match=r"data.units=.*data.accept=\["):
        read(path, units=wrong)


def sgdml(path: Path, **units: str) -> Path:
    frames = read("3bpa-xtb/train_300K", index=":20")
    np.savez(
        path,
        type="d",
        name="x",
        theory="x",
        z=frames[0].atomic_numbers,
        R=np.stack([s.positions for s in frames]),
        E=np.array([s.energy for s in frames]) / KCAL_PER_MOL,
        F=np.stack([s.forces for s in frames if s.forces is not None]) / KCAL_PER_MOL,
        **units,  # type: ignore[arg-type]
    )
    return path


def test_declared_units_are_taken_and_conflicts_refused(tmp_path: Path) -> None:
    path = sgdml(tmp_path / "a.npz", r_unit="Ang", e_unit="kcal/mol")
    expected = read("3bpa-xtb/train_300K", index=0)[0].energy
    assert read(path)[0].energy == pytest.approx(expected)
    assert read(path, units={"energy": "kcal/mol"})[0].energy == pytest.approx(expected)
    with pytest.raises(InputError, match="declares energy in kcal/mol, but is to be read in eV"):
        read(path, units={"energy": "eV"})
    assert inspect(path).units["energy read in"] == "kcal/mol (declared)"
    strange = sgdml(tmp_path / "b.npz", e_unit="furlong")
    with pytest.raises(InputError, match=r"declares energy in 'furlong'.*data.units=\{energy: eV\}"):
        read(strange)
    assert read(strange, units={"energy": "kcal/mol"})[0].energy == pytest.approx(expected)


@pytest.mark.parametrize("unit", ["kcal/mol", "kcal mol^-1", "KCAL/MOL", "kcal mol-1", "kcal per mol"])
def test_units_in_other_words(unit: str, tmp_path: Path) -> None:
    path = sgdml(tmp_path / "a.npz", e_unit=unit)
    assert read(path)[0].energy == pytest.approx(read("3bpa-xtb/train_300K", index=0)[0].energy)


def test_units_of_schnetpack_metadata(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    frames = read("3bpa-xtb/train_300K", index=":20")
    connection: Any = connect(path, use_lock_file=False)
    with connection as database:
        database.metadata = {
            "_property_unit_dict": {"energy": "kcal/mol", "forces": "kcal/mol/Ang"},
            "_distance_unit": "Ang",
        }
        for s in frames:
            assert s.energy is not None
            assert s.forces is not None
            data = {"energy": np.array([s.energy / KCAL_PER_MOL]), "forces": s.forces / KCAL_PER_MOL}
            database.write(Atoms(s.atomic_numbers, s.positions), data=data)
    (first, *_) = read(path)
    assert first.energy == pytest.approx(frames[0].energy)
    assert first.forces is not None
    np.testing.assert_allclose(first.forces, frames[0].forces)


# 7: what inspect warns of stops or is said in training


def test_two_levels_of_theory(tmp_path: Path) -> None:
    columns = "Properties=species:S:1:pos:R:3:forces:R:3:REF_forces:R:3"
    rows = ["C 0 0 0 0 0 -0.9 0 0 -0.5", "O 0 0 1.1 0 0 0.9 0 0 0.5"]
    path = xyz(tmp_path / "a.xyz", *[f"{columns} energy=-9 REF_energy=-1"] * 2, rows=rows)
    with pytest.raises(InputError, match=r"two levels of theory.*; say which is meant.*REF_forces.*accept=\[levels\]"):
        read(path)
    assert read(path, {"energy": "REF_energy", "forces": "REF_forces"})[0].energy == -1.0
    assert read(path, {"energy": "energy", "forces": "forces"})[0].energy == -9.0
    assert read(path, accept=["levels"])[0].energy == -9.0
    twice = xyz(tmp_path / "c.xyz", f"{HEAD} energy=-1 Energy=-2")
    with pytest.raises(InputError, match="energy under energy and Energy, with other values"):
        read(twice)
    same = [row.replace("0.9 0 0 0.5", "0.5 0 0 0.5").replace("-0.9 0 0 -0.5", "-0.5 0 0 -0.5") for row in rows]
    assert kinds(xyz(tmp_path / "b.xyz", f"{columns} energy=-1 REF_energy=-1", rows=same)) == set()


def test_labels_under_another_key_in_a_part_of_the_frames(tmp_path: Path) -> None:
    path = xyz(tmp_path / "a.xyz", f"{HEAD} energy=-1", f"{HEAD} dft_energy=-2", f"{HEAD} energy=-3")
    with pytest.raises(InputError, match=r"1 of 3 frames have no 'energy' but 'dft_energy'.*\[energy, dft_energy\]"):
        read(path)
    assert [s.energy for s in read(path, {"energy": ["energy", "dft_energy"]})] == [-1.0, -2.0, -3.0]
    assert [s.energy for s in read(path, accept=["partial"])] == [-1.0, None, -3.0]


def alloy(path: Path, key: str, change) -> Path:
    frames = crystals()
    lines = []
    for atoms in frames:
        energy, forces, _ = labels(atoms)
        value = " ".join(map(str, np.ravel(change(atoms.get_stress(voigt=False), atoms)).tolist()))
        lattice = " ".join(map(str, atoms.cell.array.ravel().tolist()))
        lines.append(f'{len(atoms)}\nLattice="{lattice}" {HEAD} energy={energy} {key}="{value}"\n')
        rows = zip(atoms.get_chemical_symbols(), atoms.positions.tolist(), forces.tolist(), strict=True)
        lines += [f"{symbol} {' '.join(map(str, (*x, *f)))}\n" for symbol, x, f in rows]
    path.write_text("".join(lines))
    return path


GPA = 160.2176634
VASP = [0, 4, 8, 1, 5, 2]


@pytest.mark.parametrize(
    ("change", "units"),
    [
        (lambda s, a: -10 * GPA * s, {"stress": "-kbar"}),
        (lambda s, a: GPA * s, {"stress": "GPa"}),
        (lambda s, a: -s, {"stress": "-eV/Å^3"}),
        (lambda s, a: -10 * GPA * s.ravel()[VASP], {"stress": "-kbar", "stress_order": "VASP"}),
        (lambda s, a: s.ravel()[VASP], {"stress_order": "VASP"}),
    ],
    ids=["kbar", "GPa", "sign", "VASP", "order"],
)
def test_stresses_of_another_convention_stop_and_are_read_as_advised(change, units, tmp_path: Path) -> None:
    path = alloy(tmp_path / "a.xyz", "stress", change)
    with pytest.raises(InputError, match=r"data.units=.*accept=\[stress\]"):
        read(path)
    for s, atoms in zip(read(path, units=units), crystals(), strict=True):
        assert s.stress is not None
        np.testing.assert_allclose(s.stress, atoms.get_stress(voigt=False), atol=1e-12)


def test_virials_of_either_sign(tmp_path: Path) -> None:
    path = alloy(tmp_path / "a.xyz", "virial", lambda s, a: -s * a.get_volume())
    s, atoms = read(path)[0], crystals()[0]
    assert s.stress is not None
    np.testing.assert_allclose(s.stress, atoms.get_stress(voigt=False))
    turned = alloy(tmp_path / "b.xyz", "virial", lambda s, a: s * a.get_volume())
    with pytest.raises(InputError, match=r"data.units=\{virial: -eV\}"):
        read(turned)
    s = read(turned, units={"virial": "-eV"})[0]
    assert s.stress is not None
    np.testing.assert_allclose(s.stress, atoms.get_stress(voigt=False))


def test_stress_and_virial_that_contradict_each_other(tmp_path: Path) -> None:
    text = alloy(tmp_path / "a.xyz", "stress", lambda s, a: s).read_text()
    path = tmp_path / "b.xyz"
    path.write_text(text.replace("stress=", 'virial="1 0 0 0 1 0 0 0 1" stress='))
    with pytest.raises(InputError, match=r"stress and virial contradict each other in 12 frames.*virial: null"):
        read(path)
    assert read(path, {"virial": None})[0].stress is not None
    assert read(path, {"stress": None, "virial": "virial"}, accept=["stress"])[0].stress is not None


@pytest.mark.parametrize(("off", "outcome"), [(0.0, "none"), (0.002, "said"), (0.2, "refused")])
def test_a_virial_that_is_not_symmetric(off: float, outcome: str, tmp_path: Path) -> None:
    def skewed(s: np.ndarray, atoms: Atoms) -> np.ndarray:
        tensor = s.copy()
        tensor[0, 1] += off * np.abs(s).max()
        return tensor

    path = alloy(tmp_path / "a.xyz", "stress", skewed)
    if outcome == "refused":
        with pytest.raises(InputError, match=r"is not symmetric.*data.keys=\{stress: null\}"):
            read(path)
        return
    said = [finding.sentence for finding in read_checked(path).findings if finding.kind == "asymmetry"]
    assert bool(said) == (outcome == "said")


# 8, 9, 10, 12


def flat(path: Path, count: int = 50, **more: np.ndarray) -> Path:
    rng = np.random.default_rng(0)
    sizes = rng.integers(2, 9, count)
    n = int(sizes.sum())
    x = np.concatenate([np.arange(3 * size).reshape(size, 3) + 0.1 * k for k, size in enumerate(sizes)])
    arrays = {"N": sizes, "Z": rng.integers(1, 9, n), "R": x, "id": np.arange(count), "energy": rng.normal(size=count)}
    np.savez(path, **(arrays | {"F": rng.normal(size=(n, 3))} | more))  # type: ignore[arg-type]
    return path


def test_molecules_one_after_another_in_an_npz(tmp_path: Path) -> None:
    path = flat(tmp_path / "a.npz")
    content = np.load(path)
    structures = read(path)
    assert [len(s) for s in structures] == content["N"].tolist()
    assert np.array_equal(np.concatenate([s.positions for s in structures]), content["R"])
    assert np.array_equal([s.energy for s in structures], content["energy"])
    assert np.array_equal(np.concatenate([s.forces for s in structures if s.forces is not None]), content["F"])
    index = np.repeat(np.arange(50), content["N"])
    arrays = {key: content[key] for key in content if key != "N"} | {"batch": index}
    np.savez(tmp_path / "b.npz", **arrays)
    assert [len(s) for s in read(tmp_path / "b.npz")] == content["N"].tolist()
    with pytest.raises(InputError, match=r"N sums to \d+ atoms .* but there are \d+ positions"):
        read(flat(tmp_path / "c.npz", N=np.full(50, 3)))


def test_elements_by_symbol_in_an_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", z=np.array(["C", "O"]), R=np.array([[[0, 0, 0], [0, 0, 1.1]]]), E=np.zeros(1))
    assert read(tmp_path / "a.npz")[0].atomic_numbers.tolist() == [6, 8]
    np.savez(tmp_path / "b.npz", z=np.array(["C", "Q"]), R=np.zeros((1, 2, 3)), E=np.zeros(1))
    with pytest.raises(InputError, match="'Q' is no chemical element"):
        read(tmp_path / "b.npz")


@pytest.mark.parametrize(
    ("comment", "seen"),
    [
        ('Lattice="20 0 0 0 20 0 0 0 20" pbc="T T T"', True),
        ('Lattice="5 0 0 0 5 0 0 0 5" pbc="T T T" config_type=IsolatedAtom', True),
        ('Lattice="5 0 0 0 5 0 0 0 5" pbc="T T T" config_type=isolated_atom', True),
        ('Lattice="5 0 0 0 5 0 0 0 5" pbc="T T T" config_type=bulk', False),
        ('Lattice="9 0 0 0 9 0 0 0 3" pbc="T T T"', False),
        ('Lattice="9 0 0 0 9 0 0 0 3" pbc="T T F"', True),
        ("config_type=gas", True),
        ('Lattice="20 0 0 0 20 0 0 0 20" pbc="T T T" charge=1', False),
    ],
)
def test_isolated_atoms_in_boxes(comment: str, seen: bool, tmp_path: Path) -> None:
    path = xyz(tmp_path / "a.xyz", f"{comment} {HEAD} energy=-0.5", rows=["Cu 0 0 0 0 0 0"])
    assert isolated_atoms(read(path)) == ({29: -0.5} if seen else {})


def test_lists_in_a_database_and_rows_without_a_calculator(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    connection: Any = connect(path, use_lock_file=False)
    with connection as database:
        for k in range(3):
            data = {"F": [[0.0, 0.0, 0.5 + k], [0.0, 0.0, -0.5 - k]], "nested": {"words": ["a", "b"]}}
            database.write(molecule("CO"), total_energy=-1.0 - k, data=data)
    with pytest.raises(InputError, match=r"data.keys=\{energy: total_energy, forces: F\}"):
        read(path)
    structures = read(path, {"energy": "total_energy", "forces": "F"})
    assert [s.energy for s in structures] == [-1.0, -2.0, -3.0]
    assert structures[1].forces is not None
    assert structures[1].forces[0, 2] == 1.5


def test_a_database_with_a_write_ahead_log_shows_all_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    connect(path, use_lock_file=False).write(crystals(1)[0])
    writer = sqlite3.connect(path)
    writer.execute("PRAGMA journal_mode=WAL")
    writer.execute("PRAGMA wal_autocheckpoint=0")
    connect(path, use_lock_file=False).write(crystals(2)[1])
    writer.execute("UPDATE systems SET energy = energy")
    writer.commit()
    assert (tmp_path / "a.db-wal").stat().st_size > 0
    listed = sorted(p.name for p in tmp_path.iterdir())
    assert len(read(path)) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == listed
    writer.close()


def test_charges_of_equal_atoms_are_explained(tmp_path: Path) -> None:
    path = xyz(tmp_path / "a.xyz", f"{HEAD} energy=-1 total_charge=0 total_spin=1", f"{HEAD} energy=13 charge=1 spin=2")
    found = inspect(path)
    assert found.charges == {"0": 1, "1": 1}
    assert found.spins == {"1": 1, "2": 1}
    assert any("CO with a charge of 0 and 1" in line for line in found.findings)


def test_temperatures_and_groups_as_they_are_written(tmp_path: Path) -> None:
    path = xyz(
        tmp_path / "a.xyz", f"{HEAD} energy=-1 temperature=300K config_type=1_11", f"{HEAD} energy=-1 temperature=600"
    )
    first, second = read(path)
    assert (first.provenance.temperature, first.provenance.group) == (300.0, "1_11")
    assert second.provenance.temperature == 600.0
    with pytest.raises(InputError, match="'temperature' is text, needs one number, or text such as 300K"):
        read(xyz(tmp_path / "b.xyz", f"{HEAD} energy=-1 temperature=warm"))


def test_numbers_with_underscores_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'1_0' in column 'pos' is not a number"):
        read(xyz(tmp_path / "a.xyz", f"{HEAD} energy=-1", rows=["C 0 0 1_0 0 0 0", CO[1]]))


# the files that were handed in


def test_the_handed_in_files_give_right_values_or_one_line() -> None:
    if not CASES.exists():
        pytest.skip("the cases are not beside the checkout (../shared/cases)")
    expected = {
        "02_lower_lattice.xyz": lambda s: s[1].pbc.all() and s[1].cell[0, 0] == 3.7,
        "04_stress_no_cell.xyz": lambda s: all(x.stress is None for x in s),
        "05_gradient.xyz": "units=.forces: -eV",
        "09_two_levels.xyz": "two levels",
        "12_isolated_in_box.xyz": lambda s: isolated_atoms(s) == {29: -0.5},
        "14_charges.xyz": lambda s: [x.charge for x in s] == [0, 1, 0],
        "15_nan_label.xyz": lambda s: [x.energy for x in s] == [None, -1.1],
    }
    for name, right in expected.items():
        if isinstance(right, str):
            with pytest.raises(InputError, match=right):
                read(CASES / name)
        else:
            assert right(read(CASES / name)), name


def test_ase_reads_the_same_from_what_is_written_in_its_way(tmp_path: Path) -> None:
    write_ase(tmp_path / "a.xyz", crystals(), format="extxyz")
    for s, atoms in zip(read(tmp_path / "a.xyz"), crystals(), strict=True):
        np.testing.assert_allclose(s.positions, atoms.positions, atol=1e-8)
        assert s.stress is not None
        np.testing.assert_allclose(s.stress, atoms.get_stress(voigt=False), atol=1e-8)
