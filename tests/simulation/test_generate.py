from __future__ import annotations

import json
import lzma
from pathlib import Path

import numpy as np
import pytest
from ase.calculators.emt import EMT

from fireassay.data.readers import read
from fireassay.simulation import generate as module
from fireassay.simulation.generate import PLANS, Walk, generate, label, start_3bpa, walk_cuau

SHORT = Walk("test_300K", 300.0, 3, seed=7, timestep=2.0, equilibration=20.0, stride=10.0)


def test_a_walk_is_decided_by_its_seed() -> None:
    first, second = walk_cuau(SHORT), walk_cuau(SHORT)
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a.positions, b.positions)
    other = walk_cuau(Walk("test_300K", 300.0, 3, seed=8, timestep=2.0, equilibration=20.0, stride=10.0))
    assert not np.allclose(first[0].positions, other[0].positions)


def test_the_centre_of_mass_stays_and_labels_are_unconstrained() -> None:
    frames = walk_cuau(SHORT)
    centres = np.array([frame.get_center_of_mass() for frame in frames])
    assert np.ptp(centres, axis=0).max() < 1e-5  # positions are rounded to 1e-6
    assert np.ptp([frame.positions for frame in frames], axis=0).max() > 0.05
    assert all(not frame.constraints for frame in frames)


def test_labels_belong_to_the_rounded_positions() -> None:
    (frame, *_) = walk_cuau(SHORT)
    assert np.array_equal(frame.positions, frame.positions.round(6))
    again = frame.copy()
    again.calc = EMT()
    assert frame.get_potential_energy() == again.get_potential_energy()
    assert np.array_equal(frame.get_forces(), again.get_forces())
    assert np.array_equal(frame.get_stress(), again.get_stress())


def test_label_does_not_touch_its_argument() -> None:
    atoms = walk_cuau(SHORT)[0]
    atoms.positions += 1e-7
    before = atoms.positions.copy()
    label(atoms, EMT())
    assert np.array_equal(atoms.positions, before)


def test_the_coarse_conformer_is_the_molecule() -> None:
    assert start_3bpa().get_chemical_formula() == "C12H12N2O"


def test_files_and_provenance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.PLANS, "cuau-emt", (walk_cuau, [SHORT]))
    paths = generate("cuau-emt", tmp_path / "set")
    assert [path.name for path in paths] == ["test_300K.xyz.xz", "isolated_atoms.xyz.xz", "provenance.json"]
    assert lzma.decompress(paths[0].read_bytes()).startswith(b"32\n")
    structures = read(paths[0])
    assert len(structures) == 3
    assert all(s.stress is not None and s.provenance.temperature == 300.0 for s in structures)
    record = json.loads(paths[2].read_text())
    assert record["walks"][0]["seed"] == 7
    assert record["command"] == "fireassay data make cuau-emt"


def test_plans_never_share_a_seed() -> None:
    for _, walks in PLANS.values():
        assert len({walk.seed for walk in walks}) == len(walks)
