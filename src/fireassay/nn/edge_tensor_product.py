"""Depth-wise tensor products of the features of an edge with its harmonics, for irreps of different sizes.

    out[e, m3, k] = w[e, k] * sum over m1, m2 of  V[m1, m2, m3] x[e, m1, c] Y[e, m2]

where k runs over the paths into an irrep and the channels c of each path's input: the 'uvu' tensor product of e3nn,
in which no channels mix (Equiformer, section 4.2, "DTP"). V are Clebsch-Gordan coefficients times sqrt(2 l3 + 1).

`edge_product` is the product itself; `attended_product` sums it over the neighbours of each atom, times one weight of
the edge for each head, and needs no (E, 2l+1, K) array.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from fireassay.nn.edge_pairs import EdgePairs
from fireassay.nn.segment import Segments, gather, segment_sum
from fireassay.nn.sized_features import Features, SizedIrreps
from fireassay.nn.so3 import Irrep, Irreps, clebsch_gordan


class Path(NamedTuple):
    """One coupling of a block of the features with a block of the harmonics."""

    source: int  # block of the input
    harmonic: int  # block of the harmonics
    target: int  # block of the output
    columns: slice  # channels of the target that the path fills
    weights: slice  # columns of the weights


class EdgeCoupling:
    """Every path from the irreps of the features and of the harmonics into the `allowed` irreps.

    Paths are ordered by the input's irreps, then the harmonics', then the degrees of their product; so are the columns
    of the weights, and within an irrep of the output its channels. Output irreps, `sizes_out`, are ordered by degree,
    even before odd.
    """

    def __init__(self, sizes_in: SizedIrreps, harmonics: Irreps, allowed: Sequence[Irrep]) -> None:
        self.sizes_in, self.harmonics = sizes_in, harmonics
        found = [
            (i, j, out)
            for i, left in enumerate(sizes_in.irreps)
            for j, right in enumerate(harmonics)
            for out in left.product(right)
            if out in allowed
        ]
        targets = sorted({out for _, _, out in found}, key=lambda irrep: (irrep.l, -irrep.p))
        filled, n_weights, paths = dict.fromkeys(targets, 0), 0, []
        for i, j, out in found:
            n, k = sizes_in.channels[i], filled[out]
            paths.append(Path(i, j, targets.index(out), slice(k, k + n), slice(n_weights, n_weights + n)))
            filled[out], n_weights = k + n, n_weights + n
        self.paths, self.n_weights = tuple(paths), n_weights
        self.sizes_out = SizedIrreps(Irreps(targets), tuple(filled.values()))

    def tensor(self, path: Path) -> Tensor:
        """The coefficients V (2l1+1, 2l2+1, 2l3+1) of a path, float64."""
        out = self.sizes_out.irreps[path.target]
        left, right = self.sizes_in.irreps[path.source], self.harmonics[path.harmonic]
        return sqrt(out.dim) * clebsch_gordan(left.l, right.l, out.l)


def reaching(sizes: SizedIrreps, harmonics: Irreps, wanted: Sequence[Irrep]) -> SizedIrreps:
    """The irreps of features whose product with the harmonics has something wanted."""
    return sizes.only([a for a in sizes.irreps if any(out in wanted for b in harmonics for out in a.product(b))])


def edge_product(
    features: Features, harmonics: Tensor, coupling: EdgeCoupling, weights: Tensor, pairs: EdgePairs | None = None
) -> Features:
    """Features of every edge, (E, 2l+1, C_l) each, to (E, 2l+1, K_l) each.

    harmonics (E, M), weights (E, n_weights); with `pairs` those of the pairs (E/2, n_weights), each for both of its
    edges. Differentiable to every order.
    """
    weights = weights if pairs is None else weights.index_select(0, pairs.pair)
    return edge_product_reference(features, harmonics, coupling, weights)


def attended_product(
    features: Features, harmonics: Tensor, coupling: EdgeCoupling, attention: Tensor, segments: Segments
) -> Features:
    """The products of unit weights of every edge, times attention (E, H), summed over each atom's edges.

    Features (E, 2l+1, C_l) each to (N, H, 2l+1, K_l) each. Differentiable to every order.
    """
    return attended_product_reference(features, harmonics, coupling, attention, segments)


def edge_product_reference(
    features: Features, harmonics: Tensor, coupling: EdgeCoupling, weights: Tensor | None
) -> Features:
    """The definition, one batched matrix product per path; for any device. Without weights they are one."""
    blocks: list[list[Tensor]] = [[] for _ in coupling.sizes_out.irreps]
    for path in coupling.paths:
        y = harmonics[:, coupling.harmonics.slices[path.harmonic]]
        matrix = torch.einsum("em,amb->eba", y, coupling.tensor(path).to(y))
        product = torch.bmm(matrix, features[path.source])
        blocks[path.target].append(product if weights is None else product * weights[:, path.weights].unsqueeze(1))
    return tuple(torch.cat(parts, 2) for parts in blocks)


def attended_product_reference(
    features: Features, harmonics: Tensor, coupling: EdgeCoupling, attention: Tensor, segments: Segments
) -> Features:
    """The definition, for any device."""
    products = edge_product_reference(features, harmonics, coupling, None)
    return tuple(segment_sum(attention[:, :, None, None] * product.unsqueeze(1), segments) for product in products)


def segment_softmax(logits: Tensor, envelope: Tensor, segments: Segments) -> Tensor:
    """u_e exp(a_e) / sum over the row's elements of u exp(a), (E, H) of logits (E, H) and envelope (E,) >= 0.

    Elements with an envelope of zero neither get nor take anything; a row of only such elements is zero throughout.
    Where the largest envelope of a row is below 1e-12 the result is less than that, so that all derivatives stay
    finite.
    """
    u = envelope.unsqueeze(1)
    shift = (logits + u.clamp(min=1e-12).log()).detach()
    index = segments.index.unsqueeze(1).expand_as(shift)
    top = shift.new_full((len(segments.starts) - 1, shift.shape[1]), -torch.inf)
    top = top.scatter_reduce(0, index, shift, "amax")
    weights = u * torch.exp(logits - top.index_select(0, segments.index))
    return weights / gather(segment_sum(weights, segments).clamp(min=0.5), segments)
