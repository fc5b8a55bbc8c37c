from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from fireassay.data.neighbours import (
    batched_neighbour_list,
    binned_neighbour_list,
    completed_cell,
    neighbour_list,
)
from fireassay.data.structure import Structure
from fireassay.errors import InputError

TRICLINIC = np.array([[3.1, 0.2, -0.1], [1.4, 2.9, 0.3], [-0.8, 0.9, 4.2]])


def rotation(seed: int = 0) -> np.ndarray:
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return q * np.sign(np.diag(r))


def structure(n: int, cell: np.ndarray, pbc: tuple[bool, bool, bool], seed: int = 0, spread: float = 1.0) -> Structure:
    rng = np.random.default_rng(seed)
    box = cell if np.abs(np.linalg.det(cell)) > 1e-6 else np.eye(3) * 4
    positions = rng.uniform(-spread / 2, 0.5 + spread / 2, (n, 3)) @ box
    return Structure(np.ones(n, dtype=np.int64), positions, cell, np.array(pbc))


CASES = {
    "molecule": structure(12, np.zeros((3, 3)), (False, False, False)),
    "molecule in a box": structure(12, np.eye(3) * 4, (False, False, False)),
    "triclinic": structure(6, TRICLINIC, (True, True, True)),
    "rotated": structure(6, TRICLINIC @ rotation(), (True, True, True)),
    "left-handed": structure(6, TRICLINIC[[1, 0, 2]], (True, True, True)),
    "slab": structure(8, TRICLINIC, (True, True, False)),
    "slab along x": structure(8, TRICLINIC @ rotation(3), (False, True, True)),
    "slab without a third vector": structure(8, TRICLINIC * [[1], [1], [0]], (True, True, False)),
    "wire": structure(7, TRICLINIC @ rotation(5), (False, True, False)),
    "one atom": structure(1, TRICLINIC, (True, True, True)),
    "one atom in a wire": structure(1, TRICLINIC, (False, False, True)),
    "far outside the cell": structure(5, TRICLINIC, (True, True, True), spread=13.0),
    "needle": structure(4, np.array([[1.1, 0, 0], [0.7, 1.3, 0], [0.5, -0.4, 30.0]]), (True, True, True)),
    "alone": Structure(np.array([1]), np.zeros((1, 3))),
}

Pairs = Counter[tuple[int, ...]]


def brute_force(s: Structure, cutoff: float) -> Pairs:
    """Every pair and every image that could be in reach, one by one."""
    full = completed_cell(s.cell, s.pbc)
    inverse = np.linalg.inv(full)
    heights = 1 / np.linalg.norm(inverse, axis=0)
    span = np.ptp(s.positions @ inverse, axis=0)
    most = [int(np.ceil(cutoff / h + w)) if p else 0 for h, w, p in zip(heights, span, s.pbc, strict=True)]
    found: Pairs = Counter()
    for image in itertools.product(*(range(-k, k + 1) for k in most)):
        vectors = s.positions[None] + np.array(image) @ np.where(s.pbc[:, None], s.cell, 0) - s.positions[:, None]
        for i, j in zip(*np.nonzero(np.linalg.norm(vectors, axis=2) < cutoff), strict=True):
            if i != j or any(image):
                found[int(i), int(j), *image] += 1
    return found


def pairs(centre: object, neighbour: object, shift: object) -> Pairs:
    rows = np.column_stack([np.asarray(centre), np.asarray(neighbour), np.asarray(shift).reshape(-1, 3)])
    return Counter(tuple(int(x) for x in row) for row in rows)


def batch(structures: list[Structure], dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    return (
        torch.tensor(np.concatenate([s.positions for s in structures]), dtype=dtype),
        torch.tensor(np.stack([s.cell for s in structures]), dtype=dtype),
        torch.tensor(np.stack([s.pbc for s in structures])),
        torch.repeat_interleave(torch.arange(len(structures)), torch.tensor([len(s) for s in structures])),
    )


@pytest.mark.parametrize("cutoff", [0.9, 2.5, 7.3])  # below, beyond half, beyond several boxes
@pytest.mark.parametrize("name", CASES)
def test_every_method_agrees_with_brute_force(name: str, cutoff: float) -> None:
    s = CASES[name]
    expected = brute_force(s, cutoff)
    assert pairs(*neighbour_list(s, cutoff)) == expected
    for method in (batched_neighbour_list, binned_neighbour_list):
        assert pairs(*method(*batch([s]), cutoff)) == expected


def test_the_cases_are_not_vacuous() -> None:
    counts = {name: sum(brute_force(s, 7.3).values()) for name, s in CASES.items()}
    assert min(count for name, count in counts.items() if name != "alone") > 0


@pytest.mark.parametrize("method", [batched_neighbour_list, binned_neighbour_list])
def test_a_batch_is_the_sum_of_its_structures(method: object) -> None:
    structures = list(CASES.values())
    centre, neighbour, shift = method(*batch(structures), 3.0)  # type: ignore[operator]
    assert (centre.diff() >= 0).all()
    starts = np.cumsum([0, *(len(s) for s in structures)])
    expected: Pairs = Counter()
    for start, s in zip(starts, structures, strict=False):
        expected.update({(i + start, j + start, *image): n for (i, j, *image), n in brute_force(s, 3.0).items()})
    assert pairs(centre, neighbour, shift) == expected
    assert centre.dtype == neighbour.dtype == shift.dtype == torch.int64


def test_molecules_of_different_size_in_one_batch() -> None:
    structures = [structure(n, np.zeros((3, 3)), (False,) * 3, seed=n) for n in (1, 7, 3, 12)]
    assert pairs(*batched_neighbour_list(*batch(structures), 2.0)) == pairs(
        *binned_neighbour_list(*batch(structures), 2.0)
    )


def test_float32_finds_the_same_pairs() -> None:
    s = CASES["triclinic"]
    assert pairs(*binned_neighbour_list(*batch([s], torch.float32), 3.0)) == brute_force(s, 3.0)


def test_large_random_box_against_vesin() -> None:
    cell = np.diag([22.0, 19.0, 27.0]) + 1.5 * np.random.default_rng(2).normal(size=(3, 3))
    s = structure(700, cell, (True, True, True), seed=8)
    assert pairs(*binned_neighbour_list(*batch([s]), 4.0)) == pairs(*neighbour_list(s, 4.0))


def test_large_molecule_takes_another_way_with_the_same_result() -> None:
    s = structure(500, np.zeros((3, 3)), (False,) * 3)
    assert pairs(*batched_neighbour_list(*batch([s]), 0.6)) == pairs(*binned_neighbour_list(*batch([s]), 0.6))


def test_vectors_follow_the_convention() -> None:
    s = CASES["far outside the cell"]
    centre, neighbour, shift = neighbour_list(s, 3.0)
    vectors = s.positions[neighbour] + shift @ s.cell - s.positions[centre]
    assert len(centre) > 0
    assert (np.linalg.norm(vectors, axis=1) < 3.0).all()
    assert (np.lexsort((neighbour, centre)) == np.arange(len(centre))).all()


@pytest.mark.parametrize("pbc", list(itertools.product([True, False], repeat=3)))
def test_completed_cell_is_invertible_and_normal(pbc: tuple[bool, bool, bool]) -> None:
    periodic = np.array(pbc)
    full = completed_cell(TRICLINIC, periodic)
    assert np.array_equal(full[periodic], TRICLINIC[periodic])
    free = full[~periodic]
    assert np.allclose(free @ free.T, np.eye(len(free)))
    assert np.allclose(free @ full[periodic].T, 0)


@pytest.mark.parametrize("cutoff", [0.0, -2.0, float("nan"), float("inf")])
def test_bad_cutoff(cutoff: float) -> None:
    with pytest.raises(InputError, match="cutoff"):
        neighbour_list(CASES["molecule"], cutoff)
    with pytest.raises(InputError, match="cutoff"):
        batched_neighbour_list(*batch([CASES["molecule"]]), cutoff)


@pytest.mark.parametrize(
    "lengths", [(1e7, 5, 5), (2e3, 2e3, 5), (1e5, 1e5, 5), (1e6, 1e6, 1e6), (0.5, 0.5, 1e5), (5.0, 5.0, 5.0)]
)
@pytest.mark.parametrize("pbc", [(True, True, True), (True, False, True), (False, False, False)])
def test_cells_of_any_shape(lengths: tuple[float, float, float], pbc: tuple[bool, bool, bool]) -> None:
    """A library that divides such a cell into bins ends the process, which no exception tells of."""
    cell, flags = np.diag(np.array(lengths, dtype=np.float64)), np.array(pbc)
    positions = np.array([[0.1, 0.1, 0.1], [0.9, 0.9, 0.9], [0.99, 0.99, 0.02]]) * np.array(lengths)
    centre, neighbour, shift = neighbour_list(Structure(np.array([6, 6, 6]), positions, cell, flags), 6.0)
    counts = [int(np.ceil(6.0 / length)) + 1 if flag else 0 for length, flag in zip(lengths, pbc, strict=True)]
    images = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in counts], indexing="ij"), -1).reshape(-1, 3)
    expected = 0
    for i in range(3):
        for j in range(3):
            lengths_ij = np.linalg.norm(positions[j] + images @ cell - positions[i], axis=1)
            expected += int(((lengths_ij < 6.0) & ((i != j) | images.any(1))).sum())
    assert len(centre) == expected
    vectors = positions[neighbour] + shift @ cell - positions[centre]
    assert (np.linalg.norm(vectors, axis=1) < 6.0).all()


def test_a_cell_too_narrow_is_one_line() -> None:
    structure = Structure(np.array([6]), np.zeros((1, 3)), np.diag([1e-6, 1e-6, 5.0]), np.ones(3, dtype=bool))
    with pytest.raises(InputError, match=r"a cell 1e-06 Å high"):
        neighbour_list(structure, 6.0)
