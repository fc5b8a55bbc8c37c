"""Species rows and what is refused."""

from __future__ import annotations

import pytest
import torch

from fireassay.errors import InputError
from fireassay.nn.embedding import SpeciesIndex, one_hot


def test_rows_follow_the_order_of_species():
    rows = SpeciesIndex((8, 1, 6))(torch.tensor([1, 6, 8, 8]))
    assert rows.tolist() == [1, 2, 0, 0]
    assert one_hot(rows, 3, torch.float64).tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0], [1, 0, 0]]
    assert SpeciesIndex((8,))(torch.zeros(0, dtype=torch.int64)).shape == (0,)


def test_unknown_elements_are_named():
    with pytest.raises(InputError, match=r"\[7, 9\] are unknown .* \[1, 6\]"):
        SpeciesIndex((1, 6))(torch.tensor([1, 9, 7, 7]))


@pytest.mark.parametrize("species", [(), (1, 1), (0,), (119,), (-1,)])
def test_impossible_species(species):
    with pytest.raises(InputError, match="distinct atomic numbers"):
        SpeciesIndex(species)
