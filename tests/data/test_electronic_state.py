"""Total charge and spin: how files say them, what is refused, and whom they set apart."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import write

from fireassay.data.baseline import isolated_atoms
from fireassay.data.electronic_state import ambiguity, as_ase, counted, unseen
from fireassay.data.graph import Graph, from_structures
from fireassay.data.inspect import inspect
from fireassay.data.readers import read
from fireassay.data.similarity import duplicates
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from samples import text

ROWS = ["C 0 0 0 0 0 -0.5", "O 0 0 1.1 0 0 0.5"]
PROPERTIES = "Properties=species:S:1:pos:R:3:forces:R:3 energy=-1.0"


def carbon_monoxide(charge: float | None, spin: float | None = None, energy: float | None = -1.0) -> Structure:
    return Structure(np.array([6, 8]), np.array([[0, 0, 0], [0, 0, 1.1]]), energy=energy, charge=charge, spin=spin)


def xyz(tmp_path: Path, *comments: str, rows: list[str] | None = None) -> Path:
    path = tmp_path / "a.xyz"
    path.write_text("".join(text(rows or ROWS, f"{PROPERTIES} {comment}") for comment in comments), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("comment", "charge", "spin"),
    [
        ("", None, None),
        ("charge=0", 0.0, None),
        ("charge=+1 spin=2", 1.0, 2.0),
        ("total_charge=-1 total_spin=2", -1.0, 2.0),
        ("charge=0.5", 0.5, None),
        ("charge=1 total_charge=1.0 multiplicity=2 spin_multiplicity=2", 1.0, 2.0),
        ("charge=nan spin=nan", None, None),
        ('charge="0" spin="3"', 0.0, 3.0),
    ],
)
def test_the_usual_keys_are_read_and_missing_is_missing(comment, charge, spin, tmp_path):
    (s,) = read(xyz(tmp_path, comment))
    assert (s.charge, s.spin) == (charge, spin)


def test_each_frame_may_use_another_of_the_names(tmp_path):
    frames = read(xyz(tmp_path, "charge=1", "total_charge=-1", ""))
    assert [s.charge for s in frames] == [1.0, -1.0, None]


@pytest.mark.parametrize(
    ("comment", "says"),
    [
        ("charge=1 total_charge=0", r"frame 0.*charge is 1 and total_charge is 0.*keys=\{charge: charge\}"),
        ("spin=1 multiplicity=3", r"spin is 1 and multiplicity is 3.*keys=\{spin: spin\}"),
        (
            "charge=neutral",
            r"charge under 'charge' is 'neutral', needs one number; leave it with .data.keys=\{charge: null\}",
        ),
        ("spin=T", r"spin under 'spin' is True, needs one number; leave it with .data.keys=\{spin: null\}"),
        ('charge="1 2 3"', r"charge under 'charge' is an array of shape \(3,\), needs one number"),
        ("charge=inf", "charge is inf e, needs a finite number"),
        ("charge=-inf", "charge is -inf e, needs a finite number"),
        ("charge=15", "charge is 15 e, needs a finite number up to the nuclei's 14 e"),
        ("spin=0", r"spin is 0, needs a multiplicity 2S \+ 1.*units=\{spin: 2S\}.*keys=\{spin: null\}"),
        ("spin=inf", "spin is inf"),
        ("charge=0 spin=2", r"14 electrons cannot have the multiplicity 2S \+ 1 = 2 of 'spin'.*units=\{spin: 2S\}"),
        ("charge=1 spin=1", "13 electrons cannot have the multiplicity"),
    ],
)
def test_contradictions_and_impossible_values_are_refused_in_one_line(comment, says, tmp_path):
    path = xyz(tmp_path, comment)
    with pytest.raises(InputError, match=says) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert read(path, keys={"charge": None, "spin": None})[0].charge is None


def test_the_advice_works(tmp_path):
    path = xyz(tmp_path, "charge=1 total_charge=0 spin=2")
    assert read(path, keys={"charge": "charge"})[0].charge == 1
    assert read(path, keys={"charge": "total_charge", "spin": None})[0].charge == 0
    assert read(xyz(tmp_path, "charge=0 spin=2"), units={"spin": "2S"})[0].spin == 3
    assert read(xyz(tmp_path, "charge=0 spin=0"), units={"spin": "2s"})[0].spin == 1
    with pytest.raises(InputError, match=r"multiplicity 2S \+ 1 = 2 of 'spin'; leave it with .data.keys=\{spin"):
        read(xyz(tmp_path, "charge=0 spin=1"), units={"spin": "2S"})
    assert read(xyz(tmp_path, "charge=0 spin=-1"), units={"spin": "S"})[0].spin == 3
    with pytest.raises(InputError, match="'µB' is no unit of spin; known are"):
        read(path, units={"spin": "µB"})
    with pytest.raises(InputError, match="has no key 'q' for charge"):
        read(path, keys={"charge": "q"})


def test_periodic_and_fractional_electrons_are_not_counted(tmp_path):
    lattice = 'Lattice="6 0 0 0 6 0 0 0 6"'
    assert read(xyz(tmp_path, f"{lattice} charge=0 spin=2"))[0].spin == 2
    assert read(xyz(tmp_path, f"{lattice} charge=0 spin=3.2"))[0].spin == 3.2
    assert read(xyz(tmp_path, "charge=0.5 spin=2"))[0].charge == 0.5


def test_keys_are_mapped_and_mapped_values_per_atom_are_summed(tmp_path):
    path = tmp_path / "a.xyz"
    columns = "Properties=species:S:1:pos:R:3:initial_charges:R:1:moments:R:1 energy=-1 q_total=-1"
    path.write_text(text(["C 0 0 0 -0.33334 0.7001", "O 0 0 1.1 -0.66665 0.3"], columns), encoding="utf-8")
    (s,) = read(path, keys={"charge": "initial_charges", "spin": "moments"}, units={"spin": "2S"})
    assert (s.charge, s.spin) == (-1.0, 2.0)
    with pytest.raises(
        InputError, match=r"spin under 'moments' has a value per atom; read moments.*units=\{spin: 2S\}"
    ):
        read(path, keys={"charge": "q_total", "spin": "moments"})


def test_a_column_of_partial_charges_under_a_standard_name_is_no_total_charge(tmp_path):
    path = tmp_path / "a.xyz"
    columns = "Properties=species:S:1:pos:R:3:charge:R:1 energy=-1 total_charge=1"
    rows = ["C 0 0 0 0.3", "O 0 0 1.1 -0.3"]
    path.write_text(text(rows, columns) + text(["C 0 0 0 0.0"], columns), encoding="utf-8")
    assert [s.charge for s in read(path)] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("comments", "says"),
    [
        (["q=0", "q=1"], r"no charge read, but 'q' looks like it; read it with .data.keys=\{charge: q\}"),
        (["mol_charge=-1"], r"'mol_charge' looks like it"),
        (["n_unpaired=0", "n_unpaired=2"], r"no spin read, but 'n_unpaired' looks like it"),
    ],
)
def test_a_state_under_another_name_warns(comments, says, tmp_path):
    path = xyz(tmp_path, *comments)
    with pytest.warns(UserWarning, match=says):
        read(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(path, keys={"charge": None, "spin": None})


@pytest.mark.parametrize("comment", ["q=0", "charge_density_cutoff=4", "n_unpaired=0", "charge_weight=0.7 spinach=ok"])
def test_what_sets_nothing_apart_does_not_warn(comment, tmp_path):
    assert read(xyz(tmp_path, comment))[0].charge is None


def test_charges_in_every_format(tmp_path):
    atoms = Atoms("CO", [[0, 0, 0], [0, 0, 1.1]])
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.zeros((2, 3)))
    atoms.info |= {"charge": -1, "spin": 2}
    write(tmp_path / "a.xyz", atoms, format="extxyz")
    connect(tmp_path / "a.db").write(atoms, total_charge=-1, spin_multiplicity=2)
    positions = np.tile(atoms.positions, (3, 1, 1))
    state = {"charge": np.array([-1, -1, np.nan]), "multiplicity": np.array([[2.0], [np.nan], [1.0]])}
    np.savez(tmp_path / "a.npz", R=positions, z=atoms.numbers, E=np.zeros(3), F=np.zeros((3, 2, 3)), **state)
    folder = tmp_path / "deepmd" / "set.000"
    folder.mkdir(parents=True)
    (folder.parent / "type.raw").write_text("0\n1\n", encoding="utf-8")
    (folder.parent / "type_map.raw").write_text("C\nO\n", encoding="utf-8")
    (folder.parent / "nopbc").touch()
    for name, array in {"coord": positions.reshape(3, 6), "energy": np.zeros(3), **state}.items():
        np.save(folder / f"{name}.npy", array)
    for name in ("a.xyz", "a.db", "a.npz", "deepmd"):
        first, *rest = read(tmp_path / name)
        assert (first.charge, first.spin) == (-1.0, 2.0), name
        assert [(s.charge, s.spin) for s in rest] == [(-1.0, None), (None, 1.0)][: len(rest)]


def test_the_magnetic_moment_of_a_database_is_a_spin(tmp_path):
    atoms = Atoms("O2", [[0, 0, 0], [0, 0, 1.2]])
    atoms.set_initial_charges([0.25, 0.75])
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, magmom=2.0)
    connect(tmp_path / "a.db").write(atoms)
    (s,) = read(tmp_path / "a.db", keys={"spin": "magmom", "charge": None}, units={"spin": "2S"})
    assert s.spin == 3.0
    with pytest.warns(UserWarning, match="'initial_charges' looks like it"):
        assert read(tmp_path / "a.db")[0].charge is None


def test_graphs_carry_them():
    frames = [carbon_monoxide(-1, 2), carbon_monoxide(None), carbon_monoxide(0.5)]
    graph = from_structures(frames, 3.0, torch.float32)
    assert graph.charge is not None
    assert graph.spin is not None
    assert graph.charge.dtype == torch.float64
    assert graph.charge[[0, 2]].tolist() == [-1, 0.5]
    assert graph.charge.isnan().tolist() == [False, True, False]
    assert graph.spin.isnan().tolist() == [False, True, True]
    plain = from_structures([carbon_monoxide(None)], 3.0)
    assert (plain.charge, plain.spin) == (None, None)
    assert isinstance(plain.to("cpu", torch.float32), Graph)


def test_frames_of_one_composition_that_differ_are_refused():
    mixed = [carbon_monoxide(0), carbon_monoxide(1)]
    found = ambiguity(mixed)
    assert found.refusal is not None
    assert "CO with a charge of 0 and 1: a potential that does not use charge" in found.refusal
    assert "PhysNet" in found.refusal
    assert "data.keys={charge: null}" in found.refusal
    assert "\n" not in found.refusal
    assert ambiguity(mixed, {"charge"}) == (None, None)
    assert ambiguity([carbon_monoxide(0), carbon_monoxide(1, energy=None)]) == (None, None)  # nothing to contradict
    swapped = replace(carbon_monoxide(1), atomic_numbers=np.array([8, 6]))
    assert ambiguity([carbon_monoxide(0), swapped]).refusal is not None
    spins = ambiguity([carbon_monoxide(0, 1), carbon_monoxide(0, 3)], {"charge"})
    assert spins.refusal is not None
    assert "spin of 1 and 3" in spins.refusal


def test_a_spin_that_follows_from_a_charge_in_use_is_no_contradiction():
    frames = [carbon_monoxide(0, 1), carbon_monoxide(1, 2)]
    found = ambiguity(frames, {"charge"})
    assert found.refusal is None
    assert found.warning is not None
    assert "spin differs between frames (1 in 1, 2 in 1 frames)" in found.warning
    both = ambiguity(frames)
    assert both.refusal is not None
    assert "a charge of 0 and 1 and a spin of 1 and 2: " in both.refusal
    assert "data.keys={charge: null, spin: null}" in both.refusal
    assert ambiguity(frames, {"charge", "spin"}) == (None, None)


def test_frames_of_different_compositions_that_differ_are_warned_of():
    hydroxide = Structure(np.array([8, 1]), np.array([[0, 0, 0], [0, 0, 1.0]]), energy=-2.0, charge=-1)
    found = ambiguity([carbon_monoxide(0), carbon_monoxide(0), hydroxide])
    assert found.refusal is None
    assert found.warning is not None
    assert "charge differs between frames (-1 in 1, 0 in 2 frames)" in found.warning
    assert ambiguity([hydroxide, carbon_monoxide(None)]).warning is not None
    assert ambiguity([carbon_monoxide(0), carbon_monoxide(None)]) == (None, None)
    assert ambiguity([hydroxide, hydroxide]) == (None, None)
    partly = ambiguity([hydroxide, carbon_monoxide(None)], {"charge"})
    assert partly.warning is not None
    assert "1 of 2 frames have no charge" in partly.warning


def test_states_that_training_frames_lack_are_named():
    training = [carbon_monoxide(0, 1), carbon_monoxide(1, 2)]
    assert unseen(training, training) is None
    assert unseen([carbon_monoxide(None)], training) is None
    line = unseen(training, [carbon_monoxide(2, 1), carbon_monoxide(0, 1)])
    assert line is not None
    assert "1 of 2 frames have a charge of 2, training frames have 0, 1" in line
    assert counted(training, "charge") == {0.0: 1, 1.0: 1}


def test_inspect_reports_values_coverage_and_contradictions(tmp_path):
    found = inspect(xyz(tmp_path, "charge=0 spin=1", "charge=1 spin=2", "", "charge=0 spin=2"))
    assert found.charges == {"0": 1, "1": 1}
    assert found.spins == {"1": 1, "2": 1}
    assert found.coverage["charge"] == pytest.approx(2 / 3)
    assert any("with a charge of 0 and 1" in line for line in found.findings)
    assert any("cannot have the multiplicity" in line for line in found.problems)
    assert "Charge (e)" in found.to_text()
    assert {key.name: key.read_as for key in found.keys}["spin"] == "spin"
    assert "charge" not in inspect(xyz(tmp_path, "")).coverage


def test_another_charge_is_no_duplicate_and_an_ion_no_isolated_atom():
    pair = [carbon_monoxide(0), carbon_monoxide(1)]
    assert len(duplicates(pair).identical) == 0
    assert len(duplicates([pair[0], pair[0]]).identical) == 1
    atom = Structure(np.array([11]), np.zeros((1, 3)), energy=-1.0, charge=0)
    assert isolated_atoms([atom, replace(atom, energy=4.1, charge=1)]) == {11: -1.0}


def test_calculators_find_the_state_where_they_look():
    state: dict[str, Any] = as_ase(-1.0, 2.0, 3)
    atoms = Atoms("OH2", **state)
    assert atoms.info == {"charge": -1, "spin": 2}
    assert atoms.get_initial_charges().sum() == pytest.approx(-1)
    assert atoms.get_initial_magnetic_moments().sum() == pytest.approx(1)
    assert as_ase(None, None, 3) == {"info": {}}
    assert as_ase(0.5, None, 1)["info"] == {"charge": 0.5}
