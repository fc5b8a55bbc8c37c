from __future__ import annotations

import pickle
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from ase.db import connect

from fireassay.data.readers import read
from fireassay.errors import InputError
from samples import Bomb, water


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


@pytest.mark.parametrize("pbc", [(True, False, False), (False, True, False), (True, False, True)])
def test_mixed_periodicity(pbc: tuple[bool, bool, bool], tmp_path: Path) -> None:
    atoms = water(periodic=True)
    atoms.pbc = pbc
    connect(tmp_path / "a.db").write(atoms)
    assert tuple(read(tmp_path / "a.db", labels=False)[0].pbc) == pbc
