"""Radial basis functions of the distance between two atoms."""

from __future__ import annotations

from math import pi, sqrt

import torch
from torch import Tensor, nn

from fireassay.nn.cutoff import polynomial_cutoff


class BesselBasis(nn.Module):
    """Bessel functions under a polynomial envelope: c sin(k_n π d / cutoff) / d · u(d) (NequIP, eq. 4; MACE, eq. 10).

    `frequencies` (B,) are the dimensionless k_n, initially 1..B and trained if `trainable`. The prefactor c is
    2 / cutoff as in NequIP, or sqrt(2 / cutoff), which normalises the functions on the sphere, as in MACE
    (`orthonormal`). Finite at d = 0; exactly zero with two derivatives at and beyond the cutoff.
    """

    frequencies: Tensor

    def __init__(
        self, cutoff: float, n_basis: int = 8, p: int = 6, trainable: bool = False, orthonormal: bool = False
    ) -> None:
        super().__init__()
        self.cutoff, self.p = float(cutoff), int(p)
        self.prefactor = sqrt(2 / cutoff) if orthonormal else 2 / cutoff
        frequencies = torch.arange(1, n_basis + 1).to(torch.get_default_dtype())
        if trainable:
            self.frequencies = nn.Parameter(frequencies)
        else:
            self.register_buffer("frequencies", frequencies)

    def forward(self, distances: Tensor) -> Tensor:
        """Distances (E,) in Å to (E, B)."""
        safe = distances.clamp(min=1e-5 * self.cutoff)  # where sin(x) / x is one to rounding
        radial = polynomial_cutoff(distances, self.cutoff, self.p) * (self.prefactor / safe)
        return torch.sin(safe.unsqueeze(1) * (self.frequencies * (pi / self.cutoff))) * radial.unsqueeze(1)
