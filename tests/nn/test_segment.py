"""Gathering and summing by rows, against a loop, at every order of differentiation."""

from __future__ import annotations

import pytest
import torch

from fireassay.nn.convolution import edge_order
from fireassay.nn.segment import Segments, gather, segment_sum

INDEX = torch.tensor([0, 0, 2, 2, 2, 4, 5])  # rows 1, 3 and 6 have no element


def values(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 16), (2, 3, 7), (203,)])
@pytest.mark.parametrize("shuffled", [False, True])
def test_the_definition(shape, dtype, shuffled):
    index = INDEX[torch.randperm(len(INDEX), generator=torch.Generator().manual_seed(0))] if shuffled else INDEX
    segments, x = Segments.of(index, 7), values(len(index), *shape, dtype=dtype)
    expected = torch.stack([x[index == row].sum(0) for row in range(7)])
    torch.testing.assert_close(segment_sum(x, segments), expected)
    assert torch.equal(gather(expected, segments), expected[index])


def test_edges_of_a_graph():
    centre, neighbour = torch.tensor([0, 0, 1, 2, 2]), torch.tensor([1, 2, 0, 0, 1])
    order, x = edge_order(centre, neighbour, 3), values(5, 4)
    for index, segments in (
        (centre, Segments.of_centres(centre, order)),
        (neighbour, Segments.of_neighbours(neighbour, order)),
    ):
        torch.testing.assert_close(segment_sum(x, segments), torch.stack([x[index == k].sum(0) for k in range(3)]))


def test_derivatives_of_every_order():
    segments, x = Segments.of(INDEX.flip(0), 7), values(7, 3).requires_grad_()
    weight = values(7, 3)

    def function(x: torch.Tensor) -> torch.Tensor:
        return (segment_sum(gather(x * x, segments) * weight, segments) ** 3).sum()

    assert torch.autograd.gradcheck(function, x)
    assert torch.autograd.gradgradcheck(function, x)


def test_nothing_to_sum():
    segments = Segments.of(INDEX[:0], 3)
    assert torch.equal(segment_sum(values(0, 4), segments), torch.zeros(3, 4, dtype=torch.float64))
    assert gather(values(3, 4), segments).shape == (0, 4)


def test_every_number_of_threads_gives_the_same_bits():
    index = torch.arange(3000) // 7
    segments, x = Segments.of(index, 430), values(3000, 70, dtype=torch.float32)
    threads, sums = torch.get_num_threads(), []
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        sums.append(segment_sum(x, segments))
    torch.set_num_threads(threads)
    assert torch.equal(sums[0], sums[1])
    assert torch.equal(sums[0], sums[2])
    torch.testing.assert_close(sums[0], x.new_zeros(430, 70).index_add(0, index, x))
