"""Channel-wise tensor products of the features of edges with the environments of their centres.

    out[e, m3, p, c] = sum over m1, m2 of  V[m1, m2, m3] features[e, m1, c] environment[i(e), m2, c]

where V holds Clebsch-Gordan coefficients and p is the path: the 'uuu' tensor product of e3nn (Allegro, eq. 9). The
environment of an atom is a sum of the harmonics of its edges, weighted channel by channel (`environments`).

Features of edges are a list with one array (E, 2l+1, C) per irrep. What a product makes of each irrep is one array
(E, 2l+1, P C), path by path, so that the linear layer on it is one plain matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from fireassay.nn.convolution import Coupling
from fireassay.nn.segment import Segments, gather, segment_sum
from fireassay.nn.so3 import Irrep, Irreps


def targets(coupling: Coupling) -> list[tuple[Irrep, int]]:
    """The irreps that a product makes and the number of paths into each, in the order of its output."""
    return [(irrep, len(list(paths))) for irrep, paths in groupby(coupling.irreps_out)]


def weighted_harmonics(harmonics: Tensor, weights: Tensor, irreps: Irreps) -> list[Tensor]:
    """Y[e, m] w[e, l, c]: harmonics (E, M), one weight per irrep and channel (E, L, C), to one (E, 2l+1, C) per irrep.

    Differentiable to every order in both.
    """
    return [harmonics[:, block].unsqueeze(2) * weights[:, i].unsqueeze(1) for i, block in enumerate(irreps.slices)]


def environments(harmonics: Tensor, weights: Tensor, centres: Segments, irreps: Irreps) -> Tensor:
    """The sum of weighted harmonics (see `weighted_harmonics`) over the edges of each centre: (N, M, C)."""
    return segment_sum(torch.cat(weighted_harmonics(harmonics, weights, irreps), 1), centres)


def tensor_product(
    features: Sequence[Tensor], environment: Tensor, centres: Segments, coupling: Coupling
) -> list[Tensor]:
    """The products of the features, one (E, 2l+1, C) per block of `coupling.irreps_in`, with the environments
    (N, M, C) of their centres: one (E, 2l+1, P C) per irrep of `targets(coupling)`. Differentiable to every order."""
    around = gather(environment, centres)  # (E, M, C)
    outputs, path = [], 0
    for _, n_paths in targets(coupling):
        blocks = []
        for p in range(path, path + n_paths):
            i, j, _ = coupling.paths[p]
            tensor = coupling.tensor(p).to(environment)
            harmonic = around[:, coupling.irreps_sh.slices[j]]
            blocks.append(torch.einsum("eac,ebc,abk->ekc", features[i], harmonic, tensor))
        outputs.append(torch.cat(blocks, 2))
        path += n_paths
    return outputs
