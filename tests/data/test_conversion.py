from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fireassay.data.readers import read
from fireassay.errors import InputError
from fireassay.units import BOHR, GIGAPASCAL, HARTREE, KCAL_PER_MOL
from samples import ROWS, arrays, text


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
    with pytest.raises(InputError, match=r"median pressure is 320 GPa.*accept=\[pressure\]"):
        read(path)
    voigt = read(path, accept=["pressure"])[0].stress
    assert voigt is not None
    assert np.array_equal(voigt, tensor)
    for order, places in {"VASP": [0, 1, 2, 5, 3, 4], "LAMMPS": [0, 1, 2, 5, 4, 3]}.items():
        stored = " ".join(f"{(1, 2, 3, 4, 5, 6)[k]}" for k in places)
        path.write_text(text(ROWS, comment + f'stress="{stored}"'))
        found = read(path, units={"stress_order": order}, accept=["pressure"])[0].stress
        assert np.array_equal(found, tensor), order
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
