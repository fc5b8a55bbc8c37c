"""The equivariant convolution: gather, weighted tensor product and segment sum in one function.

    out[i, m3, c] = sum over edges e: i -> j, and over m1, m2, of  V[m1, m2, m3] features[j, m1, c] Y[e, m2] w[e, p, c]

where V holds Clebsch-Gordan coefficients and p is the path to which m3 belongs: the 'uvu' tensor product of e3nn
(NequIP, eq. 5-8; MACE, eq. 8), one output block per path.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from fireassay.errors import InputError
from fireassay.nn.so3 import Irrep, Irreps, clebsch_gordan


class Coupling:
    """Which blocks of the features couple with which harmonics to what: the constant of a convolution.

    `paths` holds (block of irreps_in, block of irreps_sh, output irrep); the output has one block per path, in the
    order of the paths. `coefficients`, one per path, multiply the Clebsch-Gordan tensor of norm one; by default
    sqrt(2 l_out + 1), which gives the numbers of e3nn's TensorProduct with irrep_normalization='component'.
    """

    def __init__(
        self,
        irreps_in: Irreps,
        irreps_sh: Irreps,
        paths: Sequence[tuple[int, int, Irrep]],
        coefficients: Sequence[float] | None = None,
    ) -> None:
        if coefficients is not None and len(coefficients) != len(paths):
            raise InputError(f"{len(coefficients)} coefficients for {len(paths)} paths: give one per path")
        self.irreps_in, self.irreps_sh = irreps_in, irreps_sh
        self.paths = tuple((i, j, out) for i, j, out in paths)
        for i, j, out in self.paths:
            if out not in irreps_in[i].product(irreps_sh[j]):
                raise InputError(f"{irreps_in[i]} x {irreps_sh[j]} does not contain {out}: remove this path")
        self.irreps_out = Irreps(out for _, _, out in self.paths)
        self.coefficients = tuple(coefficients or (sqrt(out.dim) for _, _, out in self.paths))

    @classmethod
    def of(cls, irreps_in: Irreps, irreps_sh: Irreps, allowed: Irreps | Sequence[Irrep]) -> Coupling:
        """Every path from irreps_in x irreps_sh into the irreps of `allowed`.

        Order: over the blocks of irreps_in, then of irreps_sh, then the degrees of their product, followed by a
        stable sort by output irrep. Output blocks, and the weights of MACE, have this order; the weights of NequIP
        have the order before sorting.
        """
        paths = [
            (i, j, out)
            for i, left in enumerate(irreps_in)
            for j, right in enumerate(irreps_sh)
            for out in left.product(right)
            if out in allowed
        ]
        return cls(irreps_in, irreps_sh, sorted(paths, key=lambda path: path[2]))

    def tensor(self, path: int) -> Tensor:
        """The dense coefficients (2l1+1, 2l2+1, 2l3+1) of one path, float64, its coefficient included."""
        i, j, out = self.paths[path]
        return self.coefficients[path] * clebsch_gordan(self.irreps_in[i].l, self.irreps_sh[j].l, out.l)


class EdgeOrder(NamedTuple):
    """The edges by centre and by neighbour: edges starts[i]:starts[i+1] belong to centre i, and the edges
    by_neighbour[neighbour_starts[j]:neighbour_starts[j+1]] to neighbour j."""

    starts: Tensor  # (N+1,) int64
    by_neighbour: Tensor  # (E,) int64
    neighbour_starts: Tensor  # (N+1,) int64


def edge_order(centre: Tensor, neighbour: Tensor, n_atoms: int) -> EdgeOrder:
    """The order of the edges for a graph of `n_atoms`, built once and shared by all layers; `centre` is sorted."""

    def starts(atoms: Tensor) -> Tensor:
        out = atoms.new_zeros(n_atoms + 1)
        torch.cumsum(torch.bincount(atoms, minlength=n_atoms), 0, out=out[1:])
        return out

    return EdgeOrder(starts(centre), torch.argsort(neighbour, stable=True), starts(neighbour))


def convolution(
    features: Tensor,
    harmonics: Tensor,
    weights: Tensor,
    centre: Tensor,
    neighbour: Tensor,
    coupling: Coupling,
    edges: EdgeOrder | None = None,
) -> Tensor:
    """Messages summed over the neighbours of each atom: (N, M_out, C).

    features (N, M_in, C), harmonics (E, M_sh), weights (E, P, C), centre (E,) ascending and neighbour (E,) int64.
    `edges` is `edge_order(centre, neighbour, N)` when it is already known. Differentiable to every order.
    """
    return convolution_reference(features, harmonics, weights, centre, neighbour, coupling)


def convolution_reference(
    features: Tensor, harmonics: Tensor, weights: Tensor, centre: Tensor, neighbour: Tensor, coupling: Coupling
) -> Tensor:
    """The definition, one batched matrix product per path; for any device."""
    gathered = features.index_select(0, neighbour)  # (E, M_in, C)
    blocks = []
    for index, (i, j, _) in enumerate(coupling.paths):
        tensor = coupling.tensor(index).to(harmonics)
        matrix = torch.einsum("em,amb->eba", harmonics[:, coupling.irreps_sh.slices[j]], tensor)
        message = torch.bmm(matrix, gathered[:, coupling.irreps_in.slices[i]])
        blocks.append(message * weights[:, index].unsqueeze(1))
    messages = torch.cat(blocks, 1)  # (E, M_out, C)
    return messages.new_zeros(features.shape[0], *messages.shape[1:]).index_add(0, centre, messages)
