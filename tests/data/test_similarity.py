from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fireassay.data.graph import from_structures
from fireassay.data.readers import read
from fireassay.data.similarity import duplicates, energy_force_consistency
from fireassay.data.structure import Structure
from samples import shared
from toys import Pair


def rotation(rng: np.random.Generator) -> np.ndarray:
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else -q


def walk(count: int, step: float, periodic: bool = False) -> list[Structure]:
    """A random walk of 8 atoms with the energies and forces of a pair potential."""
    rng = np.random.default_rng(3)
    positions = np.array([[x, y, z] for x in (0, 2.0) for y in (0, 2.0) for z in (0, 2.0)])
    potential = Pair(cutoff=3.9)
    frames = []
    for _ in range(count):
        positions = positions + step * rng.normal(size=(8, 3))
        cell = np.eye(3) * 8.0 if periodic else np.zeros((3, 3))
        s = Structure(np.full(8, 18), positions, cell, np.full(3, periodic))
        prediction = potential.predict(from_structures([s], 3.9))
        assert prediction.forces is not None
        frames.append(replace(s, energy=float(prediction.energy[0]), forces=prediction.forces.numpy()))
    return frames


@pytest.mark.parametrize("periodic", [False, True])
def test_energies_and_forces_of_one_potential_are_consistent(periodic: bool) -> None:
    found = energy_force_consistency(walk(30, 0.02, periodic))
    assert found is not None
    assert found.slope == pytest.approx(1, abs=0.01)
    assert found.correlation > 0.999


def test_frames_may_be_turned() -> None:
    rng, turned = np.random.default_rng(5), []
    for s in walk(30, 0.02):
        turn = rotation(rng)
        assert s.forces is not None
        turned.append(replace(s, positions=s.positions @ turn, forces=s.forces @ turn))
    found = energy_force_consistency(turned)
    assert found is not None
    assert found.slope == pytest.approx(1, abs=0.03)
    assert found.correlation > 0.99


def test_slope_is_the_ratio_of_the_units() -> None:
    frames = [replace(s, energy=(s.energy or 0.0) / 27.2) for s in walk(30, 0.02)]
    found = energy_force_consistency(frames)
    assert found is not None
    assert found.slope == pytest.approx(1 / 27.2, rel=0.02)


def test_the_wrong_sign_of_forces_shows_in_the_correlation() -> None:
    frames = [replace(s, forces=-s.forces) for s in walk(30, 0.02) if s.forces is not None]
    found = energy_force_consistency(frames)
    assert found is not None
    assert found.correlation < -0.99


def test_too_little_to_compare() -> None:
    assert energy_force_consistency(walk(4, 0.02)) is None
    assert energy_force_consistency([replace(s, energy=None) for s in walk(20, 0.02)]) is None


def test_duplicates_of_molecules_turned_and_shifted() -> None:
    rng = np.random.default_rng(0)
    frames = walk(6, 0.3)
    exact = replace(frames[1])
    turned = replace(frames[2], positions=frames[2].positions @ rotation(rng) + 5.0)
    nudged = replace(frames[3], positions=frames[3].positions + 0.003 * rng.normal(size=(8, 3)))
    moved = replace(frames[3], positions=frames[3].positions + 0.1 * rng.normal(size=(8, 3)))
    found = duplicates([*frames, exact, turned, nudged, moved])
    assert found.identical.tolist() == [[1, 6]]
    assert found.near.tolist() == [[2, 7], [3, 8]]


def test_duplicates_of_crystals_across_the_cell() -> None:
    rng = np.random.default_rng(0)
    frames = walk(5, 0.3, periodic=True)
    image = replace(frames[2], positions=frames[2].positions + 8.0 * rng.integers(-2, 3, (8, 3)))
    shifted = replace(frames[3], positions=frames[3].positions + np.array([0.5, 0, 0]))
    found = duplicates([*frames, image, shifted])
    assert found.identical.tolist() == []
    assert found.near.tolist() == [[2, 5]]


def test_other_elements_are_no_duplicates() -> None:
    (frame,) = walk(1, 0.1)
    assert len(duplicates([frame, replace(frame, atomic_numbers=np.full(8, 10))]).identical) == 0


def test_real_frames_that_two_files_share() -> None:
    names = [shared(f"3bpa/{name}.xyz.xz") for name in ("train_300K", "train_mixedT")]
    found = duplicates([frame for name in names for frame in read(name)])
    assert len(found.identical) == 31
    assert (found.identical[:, 0] < 500).all()
    assert (found.identical[:, 1] < 667).all()  # the 300 K block of the second file


@pytest.mark.parametrize("name", ["lips/lips_1000.npz", "md17/naphthalene_test.npz", "snap_db/snap-Ni.db"])
def test_real_labels_are_consistent(name: str) -> None:
    found = energy_force_consistency(read(shared(name), accept=["stress"]))  # Ni has VASP's order
    assert found is not None
    assert found.slope == pytest.approx(1, abs=0.03)
    assert found.correlation > 0.99
