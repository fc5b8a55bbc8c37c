"""Layer norm of equivariant features: each irrep of an atom by its root mean square over channels and components."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fireassay.nn.sized_features import SCALAR, Features, SizedIrreps


class EquivariantLayerNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) times a weight per channel, for each irrep of each atom (Equiformer).

    Even scalars are taken relative to their mean, and get a bias, as in the layer norm of Ba et al. 2016. `weights`
    holds one (C,) for each irrep, initially one.
    """

    def __init__(self, sizes: SizedIrreps, eps: float = 1e-5) -> None:
        super().__init__()
        self.sizes, self.eps = sizes, eps
        self.weights = nn.ParameterList(nn.Parameter(torch.ones(n)) for n in sizes.channels)
        self.bias = nn.Parameter(torch.zeros(sizes.size(SCALAR))) if SCALAR in sizes.irreps else None

    def forward(self, features: Features) -> Features:
        """Features of `sizes` to features of `sizes`."""
        parts = zip(features, self.weights, self.sizes.irreps, strict=True)
        return tuple(self._normalised(x, weight, irrep == SCALAR) for x, weight, irrep in parts)

    def _normalised(self, x: Tensor, weight: Tensor, scalar: bool) -> Tensor:
        if scalar:
            return nn.functional.layer_norm(x, (x.shape[2],), weight, self.bias, self.eps)
        return x * ((x * x).mean((1, 2), keepdim=True) + self.eps).rsqrt() * weight
