from __future__ import annotations

import numpy as np
import pytest
import torch

from fireassay.data.datasets import Dataset
from fireassay.data.graph import from_structures, labels_of
from fireassay.data.structure import Structure
from fireassay.errors import InputError


def random_structures(count: int, seed: int = 0) -> list[Structure]:
    """Molecules, crystals and a slab of 1 to 8 atoms, some without a label, charge or spin."""
    rng = np.random.default_rng(seed)
    structures = []
    for number in range(count):
        n = int(rng.integers(1, 9))
        periodic = [np.zeros(3, bool), np.ones(3, bool), np.array([True, True, False])][number % 3]
        structures.append(
            Structure(
                rng.choice([1, 6, 8], n),
                rng.uniform(0, 5, (n, 3)),
                cell=np.eye(3) * 4 + rng.uniform(-0.5, 0.5, (3, 3)) if periodic.any() else np.zeros((3, 3)),
                pbc=periodic,
                energy=None if number % 5 == 1 else float(rng.normal()),
                forces=None if number % 4 == 2 else rng.normal(size=(n, 3)),
                stress=rng.normal(size=(3, 3)) if periodic.all() else None,
                charge=None if number % 4 == 3 else float(number % 3 - 1),
                spin=2.0 if number % 6 == 0 else None,
            )
        )
    return structures


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_select_equals_a_graph_built_from_the_same_structures(dtype: torch.dtype) -> None:
    structures = random_structures(20)
    dataset = Dataset(structures, 4.5)
    chosen = [7, 3, 3, 19, 0]
    batch = dataset.select(chosen, dtype)
    graph = from_structures([structures[k] for k in chosen], 4.5, dtype)
    labels = labels_of([structures[k] for k in chosen], dtype)
    assert graph.n_edges > 100
    for got, wanted in zip((*batch.graph, *batch.labels), (*graph, *labels), strict=True):
        assert got.dtype == wanted.dtype
        torch.testing.assert_close(got, wanted, rtol=0, atol=0, equal_nan=True)
    assert batch.graph.charge is not None
    torch.testing.assert_close(
        batch.graph.charge, torch.tensor([torch.nan, torch.nan, torch.nan, torch.nan, -1.0]).double(), equal_nan=True
    )
    assert batch.structures.tolist() == chosen


def test_atom_numbers_are_stable_and_count_structure_by_structure() -> None:
    structures = random_structures(10)
    dataset = Dataset(structures, 3.0)
    starts = np.concatenate([[0], np.cumsum([len(s) for s in structures])])
    assert dataset.select(range(10)).atoms.tolist() == list(range(starts[-1]))
    expected = [*range(starts[4], starts[5]), *range(starts[2], starts[3])]
    assert dataset.select(np.array([4, 2])).atoms.tolist() == expected
    assert dataset.structure_sizes.tolist() == [len(s) for s in structures]


def test_no_edges_at_all() -> None:
    dataset = Dataset([Structure(np.array([1]), np.zeros((1, 3))), Structure(np.array([6]), np.ones((1, 3)))], 5.0)
    batch = dataset.select([1, 0])
    assert batch.graph.n_edges == 0
    assert batch.graph.shift.shape == (0, 3)
    assert batch.graph.atomic_numbers.tolist() == [6, 1]
    assert not batch.labels.has_energy.any()


def test_batches_by_edges_keep_the_order_and_the_budget() -> None:
    dataset = Dataset(random_structures(50, seed=3), 4.5)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    budget = 3 * int(dataset.edge_counts.max()) // 2
    groups = dataset.batches_by_edges(budget, order)
    assert torch.equal(torch.cat(groups), order)
    spent = [int(dataset.edge_counts[group].sum()) for group in groups]
    assert max(spent) <= budget
    for group, following, cost in zip(groups, groups[1:], spent, strict=False):
        assert len(group) >= 1
        assert cost + int(dataset.edge_counts[following[0]]) > budget  # greedy: the next one did not fit


def test_a_structure_over_the_budget_is_alone() -> None:
    dataset = Dataset(random_structures(12, seed=4), 4.5)
    groups = dataset.batches_by_edges(1)
    large = {int(k) for k in torch.nonzero(dataset.edge_counts > 1).flatten()}
    assert large
    assert all(len(group) == 1 for group in groups if large & set(group.tolist()))
    assert sum(len(group) for group in groups) == 12


def test_a_budget_may_be_spent_to_the_last_edge() -> None:
    same = [Structure(np.array([1, 1]), np.array([[0.0, 0, 0], [1, 0, 0]])) for _ in range(5)]  # 2 edges each
    groups = Dataset(same, 2.0).batches_by_edges(4)
    assert [group.tolist() for group in groups] == [[0, 1], [2, 3], [4]]


def test_batches_by_size() -> None:
    dataset = Dataset(random_structures(7), 3.0)
    assert [group.tolist() for group in dataset.batches_by_size(3)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [group.tolist() for group in dataset.batches_by_size(2, [5, 1, 0])] == [[5, 1], [0]]


def test_species() -> None:
    assert Dataset(random_structures(9), 3.0).species == [1, 6, 8]


def test_shifts_beyond_int16_survive() -> None:
    far = Structure(np.array([1, 1]), np.array([[0.0, 0, 0], [2.0e5 + 0.7, 0, 0]]), np.eye(3) * 2.0, np.ones(3, bool))
    graph = Dataset([far], 1.0).select([0]).graph
    assert int(graph.shift.abs().max()) == 100_000


@pytest.mark.parametrize("indices", [[], [3], [-1]])
def test_bad_indices_are_named(indices: list[int]) -> None:
    with pytest.raises(InputError):
        Dataset(random_structures(3), 3.0).select(indices)


@pytest.mark.parametrize("cutoff", [0.0, -1.0, float("nan")])
def test_bad_cutoff(cutoff: float) -> None:
    with pytest.raises(InputError, match="cutoff"):
        Dataset(random_structures(3), cutoff)


def test_empty_data_set() -> None:
    with pytest.raises(InputError, match="at least one structure"):
        Dataset([], 3.0)
