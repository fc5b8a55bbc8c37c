from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fireassay.data.readers import read
from fireassay.errors import InputError
from samples import arrays


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
    assert structures[0].cell[1].tolist() == [0.0, 6.0, 0.2]
    assert structures[0].pbc.all()
    np.savez(path, type="d", name="x", **content)  # type: ignore[arg-type]  # as sGDML writes its data sets
    assert read(path)[0].cell[1].tolist() == [1.0, 6.0, 0.0]


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
