from __future__ import annotations

import numpy as np
import pytest

from fireassay.data.baseline import average_neighbours, fit_e0, given_e0, isolated_atoms, read_e0, statistics
from fireassay.data.datasets import Dataset
from fireassay.data.readers import read
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from samples import shared

E0 = {1: -13.5, 6: -1030.0, 8: -2040.0}


def frame(numbers: list[int], noise: float = 0.0, energy: bool = True) -> Structure:
    positions = np.arange(float(len(numbers)))[:, None] * np.array([[1.1, 0.2, 0.0]])
    total = sum(E0[z] for z in numbers) + noise
    return Structure(np.array(numbers), positions, energy=total if energy else None)


def test_fit_recovers_exact_sums() -> None:
    fit = fit_e0([frame([1, 1, 8]), frame([6, 1, 1, 1, 1]), frame([6, 8, 8]), frame([1], energy=False)])
    assert fit.e0 == pytest.approx(E0)
    assert (fit.rank, fit.n_species, fit.n_frames, fit.n_compositions) == (3, 3, 3, 3)
    assert fit.residual_rms == pytest.approx(0, abs=1e-9)
    assert "minimum-norm" not in str(fit)


def test_condition_is_that_of_the_composition_matrix() -> None:
    frames = [frame([1, 1, 8]), frame([6, 1, 1, 1, 1]), frame([6, 8, 8])]
    assert fit_e0(frames).condition == pytest.approx(np.linalg.cond([[2, 0, 1], [4, 1, 0], [0, 1, 2]]))


def test_one_composition_gives_the_minimum_norm_solution_and_says_so() -> None:
    frames = [frame([1, 1, 8], noise) for noise in (0.3, -0.3)]
    fit = fit_e0(frames)
    assert fit.rank == 1
    assert "minimum-norm" in str(fit)
    total = 2 * E0[1] + E0[8]
    assert fit.e0 == pytest.approx({1: 2 * total / 5, 8: total / 5})  # along the composition (2, 1)
    assert fit.residual_rms == pytest.approx(0.1)


def test_no_energies_to_fit() -> None:
    with pytest.raises(InputError, match="no frame has an energy"):
        fit_e0([frame([1], energy=False)])


def test_isolated_atoms_and_their_contradiction() -> None:
    atoms = [frame([1]), frame([8]), frame([1, 8])]
    assert isolated_atoms(atoms) == pytest.approx({1: -13.5, 8: -2040.0})
    with pytest.raises(InputError, match="isolated H"):
        isolated_atoms([frame([1]), frame([1], noise=0.1)])


def test_given_energies_are_checked() -> None:
    assert given_e0(E0, [1, 6]) == E0
    with pytest.raises(InputError, match="lack O"):
        given_e0({1: -13.5}, [1, 8])
    with pytest.raises(InputError, match="not all finite"):
        given_e0({1: float("nan")}, [1])


def test_read_e0_from_real_files() -> None:
    e0 = read_e0(shared("3bpa/iso_atoms.xyz"))
    assert sorted(e0) == [1, 6, 7, 8]
    assert e0[6] == pytest.approx(-1029.489, abs=1e-3)
    keys = {"energy": "energy_xtb", "forces": "forces_xtb"}
    assert read_e0(shared("3bpa/iso_atoms.xyz"), {"energy": "energy", "forces": "forces_dft"}) == e0
    assert sorted(read_e0(shared("solvent_xtb/solvent_xtb_train_200.xyz.xz"), keys)) == [1, 6, 8]


def test_read_e0_without_atoms() -> None:
    with pytest.raises(InputError, match="no frame of a single atom"):
        read_e0("cuau-emt/test_300K")


def test_fit_on_real_compositions_finds_energies_near_the_atoms() -> None:
    structures = read(shared("ethanol_rmd17_level/train_eth_meth.xyz.xz"))
    fit = fit_e0(structures)
    assert (fit.rank, fit.n_species) == (2, 3)
    assert fit.residual_rms < 0.05


def test_statistics_by_hand() -> None:
    forces = np.array([[3.0, 0, 0], [0, 4.0, 0], [0, 0, 0]])
    first = Structure(np.array([1, 8, 1]), np.arange(9.0).reshape(3, 3), energy=-2060.0, forces=forces)
    second = frame([1, 8, 1], energy=False)
    summary = statistics([first, second], E0)
    assert summary.energy_per_atom_mean == pytest.approx((-2060.0 + 27.0 + 2040.0) / 3)
    assert summary.energy_per_atom_std == pytest.approx(0)
    assert summary.force_rms == pytest.approx(np.sqrt(25 / 9))
    assert summary.force_rms_by_species == pytest.approx({1: np.sqrt(9 / 6), 8: np.sqrt(16 / 3)})
    assert summary.force_max == 4.0
    assert summary.average_atoms == 3.0


def test_statistics_without_labels_are_none() -> None:
    summary = statistics([frame([1, 8], energy=False)])
    assert summary.energy_per_atom_mean is None
    assert summary.force_rms is None
    assert summary.force_rms_by_species == {}


def test_average_neighbours() -> None:
    pair = Structure(np.array([1, 1, 1]), np.array([[0.0, 0, 0], [1, 0, 0], [9, 0, 0]]))
    assert average_neighbours(Dataset([pair], 2.0)) == pytest.approx(2 / 3)
