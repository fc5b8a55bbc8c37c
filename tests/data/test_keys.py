from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from fireassay.data.readers import read
from fireassay.errors import InputError
from samples import ROWS, text


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
    assert read(path, keys=keys | {"temperature": "kelvin"})[0].provenance.temperature is None


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
