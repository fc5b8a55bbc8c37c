"""The edges of a graph and their pairs agree with the edge list they come from."""

from __future__ import annotations

import torch

from fireassay.nn.connectivity import Connectivity
from fireassay.nn.convolution import Coupling, convolution_reference
from fireassay.nn.segment import segment_sum
from fireassay.nn.so3 import Irreps

CENTRE, NEIGHBOUR = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([1, 2, 0, 2, 0, 1])
SHIFT = torch.zeros(6, 3, dtype=torch.int64)


def test_what_depends_on_the_distance_has_one_row_per_pair():
    around = Connectivity.of(CENTRE, NEIGHBOUR, SHIFT, 3)
    lengths = torch.tensor([1.0, 2, 1, 3, 2, 3])
    assert around.per_pair(lengths).tolist() == [1, 2, 3]
    assert torch.equal(around.per_edge(around.per_pair(lengths)), lengths)


def test_one_edge_without_its_reverse_means_no_pairs():
    around = Connectivity.of(CENTRE[:5], NEIGHBOUR[:5], SHIFT[:5], 3)
    values = torch.arange(5.0)
    assert around.pairs is None
    assert torch.equal(around.per_edge(around.per_pair(values)), values)


def test_sums_by_centre_and_by_neighbour():
    around = Connectivity.of(CENTRE[:5], NEIGHBOUR[:5], SHIFT[:5], 4)
    values = torch.tensor([1.0, 2, 4, 8, 16])
    assert segment_sum(values, around.centres).tolist() == [3, 12, 16, 0]
    assert segment_sum(values, around.neighbours).tolist() == [20, 1, 10, 0]


def test_its_convolution_is_the_definition():
    generator = torch.Generator().manual_seed(0)
    features, weights = (torch.randn(3, n, 4, generator=generator, dtype=torch.float64) for n in (4, 2))
    harmonics = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    both = Irreps("0e+1o")
    coupling = Coupling(both, both, [(0, 0, both[0]), (1, 0, both[1])])
    around = Connectivity.of(CENTRE, NEIGHBOUR, SHIFT, 3)
    expected = convolution_reference(features, harmonics, around.per_edge(weights), CENTRE, NEIGHBOUR, coupling)
    torch.testing.assert_close(around.convolve(features, harmonics, weights, coupling), expected)
