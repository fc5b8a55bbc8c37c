"""Who sees whom: the edges of a graph in every order that a layer asks for, worked out once per forward pass."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from fireassay.nn.convolution import Coupling, EdgeOrder, convolution, edge_order
from fireassay.nn.edge_pairs import EdgePairs, edge_pairs
from fireassay.nn.segment import Segments


class Connectivity(NamedTuple):
    """Directed edges centre i -> neighbour j of N atoms, and the pairs i <-> j where every edge has its reverse.

    What depends on the distance alone is the same for both edges of a pair: it has one row per pair, P = E / 2, or
    where an edge is without its reverse (`pairs` is None) one per edge, P = E.
    """

    centre: Tensor  # (E,) int64, ascending
    neighbour: Tensor  # (E,) int64
    order: EdgeOrder
    pairs: EdgePairs | None

    @classmethod
    def of(cls, centre: Tensor, neighbour: Tensor, shift: Tensor, n_atoms: int) -> Connectivity:
        """From the edges of a `Graph`: centre (E,) ascending, neighbour (E,), shift (E, 3)."""
        order = edge_order(centre, neighbour, n_atoms)
        return cls(centre, neighbour, order, edge_pairs(centre, neighbour, shift, order.by_neighbour))

    @property
    def centres(self) -> Segments:
        """The edges by their centre."""
        return Segments.of_centres(self.centre, self.order)

    @property
    def neighbours(self) -> Segments:
        """The edges by their neighbour."""
        return Segments.of_neighbours(self.neighbour, self.order)

    def per_pair(self, values: Tensor) -> Tensor:
        """(E, ...) to (P, ...): the rows of the edges that stand for their pairs."""
        return values if self.pairs is None else values.index_select(0, self.pairs.first)

    def per_edge(self, values: Tensor) -> Tensor:
        """(P, ...) to (E, ...): the row of each edge's pair."""
        return values if self.pairs is None else values.index_select(0, self.pairs.pair)

    def convolve(self, features: Tensor, harmonics: Tensor, weights: Tensor, coupling: Coupling) -> Tensor:
        """`convolution` of features (N, M_in, C) with harmonics (E, M_sh) and weights (P, paths, C): (N, M_out, C)."""
        return convolution(features, harmonics, weights, self.centre, self.neighbour, coupling, self.order, self.pairs)
