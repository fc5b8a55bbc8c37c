from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fireassay.cli import app
from fireassay.data.convert import named, parted
from fireassay.data.readers import read
from fireassay.data.structure import Provenance, Structure
from fireassay.data.writing import write
from fireassay.errors import InputError

GROUPS = (None, "1_11", "T", "a b", "1 2 3", 'he said "x"', "300", "back\\slash")
TARGETS = ("a.xyz", "a.extxyz.xz", "a.xyz.gz", "a.db", "a.npz", "folder")


def frames(sizes: list[int], periodic: bool = True) -> list[Structure]:
    """Frames with every kind of label, each missing somewhere."""
    rng = np.random.default_rng(0)
    found = []
    for k, n in enumerate(sizes):
        forces = rng.normal(size=(n, 3))
        if k == 2:
            forces[0] = np.nan
        stress = 0.01 * rng.normal(size=(3, 3))
        found.append(
            Structure(
                rng.integers(1, 20, n).astype(np.int64),
                rng.uniform(0, 7, (n, 3)),
                np.array([[8.0, 0, 0], [1, 9, 0], [0.5, 0.2, 10]]) if periodic else np.zeros((3, 3)),
                np.full(3, periodic),
                energy=None if k == 1 else float(rng.normal()),
                forces=None if k == 3 else forces,
                stress=stress + stress.T if periodic and k != 4 else None,
                provenance=Provenance("x", k, GROUPS[k % len(GROUPS)], None if k % 2 else 300 + k / 3),
                charge=None if k % 3 else 0.0,
                spin=None if k % 3 or not periodic else 2.0,
            )
        )
    return found


def assert_same(a: Structure, b: Structure) -> None:
    for name in ("atomic_numbers", "positions", "cell", "pbc", "energy", "charge", "spin"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name
    assert (a.provenance.group, a.provenance.temperature) == (b.provenance.group, b.provenance.temperature)
    assert (a.forces is None, a.stress is None) == (b.forces is None, b.stress is None)
    if a.forces is not None and b.forces is not None:
        assert np.array_equal(a.forces, b.forces, equal_nan=True)
    if a.stress is not None and b.stress is not None:
        np.testing.assert_allclose(a.stress, b.stress, rtol=1e-14)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("sizes", [[3] * 8, [2, 3, 4, 1, 9, 4, 3, 6], [1, 1], [3]], ids=str)
@pytest.mark.parametrize("periodic", [True, False])
def test_nothing_is_lost_in_writing_and_reading(target: str, sizes: list[int], periodic: bool, tmp_path: Path) -> None:
    made = frames(sizes, periodic)
    notes = write(made, tmp_path / target)
    back = read(tmp_path / target, labels=False)
    if notes:  # DeePMD sorts frames into systems
        place = {s.positions.tobytes(): k for k, s in enumerate(made)}
        back = sorted(back, key=lambda s: place[s.positions.tobytes()])
    for a, b in zip(made, back, strict=True):
        assert_same(a, b)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    made = frames([3])
    with pytest.raises(InputError, match=r"the suffix '.h5' names no format that is written"):
        write(made, tmp_path / "a.h5")
    write(made, tmp_path / "a.xyz")
    with pytest.raises(InputError, match="exists; name another target"):
        write(made, tmp_path / "a.xyz")
    slab = Structure(made[0].atomic_numbers, made[0].positions, made[0].cell, np.array([True, True, False]))
    with pytest.raises(InputError, match="periodic in some directions only"):
        write([slab], tmp_path / "folder")


def test_names_and_shares_of_parts() -> None:
    assert named(Path("a/out.xyz.gz"), "train") == Path("a/out-train.xyz.gz")
    assert named(Path("folder"), "test") == Path("folder-test")
    made = frames([3] * 20)
    parts = parted(made, {"train": 0.7, "val": 0.1, "test": 0.2}, "random", 1)
    assert {name: len(part) for name, part in parts.items()} == {"train": 14, "val": 2, "test": 4}
    assert {s.provenance.frame for part in parts.values() for s in part} == set(range(20))
    blocks = parted(made, {"train": 0.7, "val": 0.1, "test": 0.2}, "blocks", 1)
    assert [s.provenance.frame for s in blocks["test"]] == [16, 17, 18, 19]
    for shares in ({"a": 0.5, "b": 0.6}, {"a": 1.5, "b": -0.5}):
        with pytest.raises(InputError, match="have to be positive and sum to 1"):
            parted(made, shares, "random", 0)
    with pytest.raises(InputError, match="too few for a part"):
        parted(made[:2], {"a": 0.9, "b": 0.1}, "random", 0)


def test_the_verb(tmp_path: Path) -> None:
    run = CliRunner().invoke
    target = tmp_path / "out.xyz"
    result = run(app, ["data", "convert", "cuau-emt/test_300K", str(target), "--split", "train=0.8,test=0.2"])
    assert result.exit_code == 0, result.output
    assert "out-train.xyz: 40 frames" in result.output
    assert len(read(tmp_path / "out-test.xyz")) == 10
    again = run(app, ["data", "convert", "cuau-emt/test_300K", str(target), "--split", "train=0.8,test=0.2"])
    assert again.exit_code == 2
    turned = tmp_path / "turned.npz"
    source = str(tmp_path / "out-test.xyz")
    assert run(app, ["data", "convert", source, str(turned), "data.units={energy: kcal/mol}"]).exit_code == 0
    energies = [s.energy for s in read(source)]
    assert energies[0] is not None
    converted = read(turned, accept=["units"])[0].energy
    assert converted == pytest.approx(energies[0] * 0.0433641042)
    bad = run(app, ["data", "convert", source, str(tmp_path / "x.db"), "--split", "train"])
    assert bad.exit_code == 2
