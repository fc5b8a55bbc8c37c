from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fireassay.data.readers import read
from fireassay.errors import InputError
from samples import Bomb, deepmd


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
    with pytest.raises(InputError, match=r"force.npy: shape \(3, 6\), needs \(3, 9\) numbers"):
        read(tmp_path / "a")
    np.save(tmp_path / "a/set.001/force.npy", np.array([Bomb(tmp_path / "crater")], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="pickle"):
        read(tmp_path / "a")
    assert not (tmp_path / "crater").exists()
    (tmp_path / "a/type_map.raw").unlink()
    with pytest.raises(InputError, match=r"type_map\.raw is missing"):
        read(tmp_path / "a")
