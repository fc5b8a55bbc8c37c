from __future__ import annotations

import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fireassay.data.readers import read
from fireassay.data.stress_check import better_order, stress_consistency
from fireassay.data.structure import Structure
from fireassay.units import GIGAPASCAL
from samples import shared


@pytest.fixture(scope="module")
def alloy() -> list[Structure]:
    return read("cuau-emt/test_300K")


def with_stress(frames: list[Structure], factor: float) -> list[Structure]:
    return [replace(s, stress=s.stress * factor) for s in frames if s.stress is not None]


def test_the_embedded_alloy_has_the_sign_and_unit_of_ase(alloy: list[Structure]) -> None:
    found = stress_consistency(alloy)
    assert found is not None
    assert found.slope == pytest.approx(1, abs=0.1)
    assert found.correlation > 0.95


@pytest.mark.parametrize("factor", [-1.0, 1 / GIGAPASCAL])
def test_slope_is_the_factor_of_a_mistake(alloy: list[Structure], factor: float) -> None:
    found = stress_consistency(with_stress(alloy, factor))
    assert found is not None
    assert found.slope == pytest.approx(factor, rel=0.1)


def test_nothing_to_say_without_labels(alloy: list[Structure]) -> None:
    assert stress_consistency([replace(s, stress=None) for s in alloy]) is None
    assert stress_consistency([replace(s, forces=np.zeros((32, 3))) for s in alloy]) is None
    assert stress_consistency(alloy[:2]) is None


@pytest.mark.parametrize("name", ["Li", "Li2S"])
def test_deepmd_virials_are_minus_the_strain_derivative(name: str, tmp_path: Path) -> None:
    archive = shared(f"lips20/{name}.tar.xz")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    found = stress_consistency(read(tmp_path))
    assert found is not None
    assert found.slope == pytest.approx(1, abs=0.1)


def test_ase_db_stress_of_molybdenum_has_the_sign_of_ase() -> None:
    path = shared("snap_db/snap-Mo.db")
    found = stress_consistency(read(path))
    assert found is not None
    assert 0.7 < found.slope < 1.5


@pytest.mark.parametrize(
    ("name", "order"),
    [("snap_db/snap-Ni.db", "vasp"), ("snap_db/snap-Mo.db", None), ("mlearn/Cu/test.json", None)],
)
def test_real_stresses_say_in_which_order_they_are(name: str, order: str | None) -> None:
    frames = read(shared(name), accept=["stress"])
    assert better_order(frames, "lammps" if "mlearn" in name else "voigt") == order
