"""Radial basis functions of the distance between two atoms."""

from __future__ import annotations

from math import exp, pi, sqrt

import torch
from torch import Tensor, nn

from fireassay.nn.cutoff import cosine_cutoff, polynomial_cutoff


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

    def forward(self, distances: Tensor, transformed: Tensor | None = None) -> Tensor:
        """Distances (E,) in Å to (E, B); the Bessel functions take `transformed` (E,) instead where it is given, the
        envelope the distances themselves."""
        safe = (distances if transformed is None else transformed).clamp(min=1e-5 * self.cutoff)  # sin(x) / x is one
        radial = polynomial_cutoff(distances, self.cutoff, self.p) * (self.prefactor / safe)
        return torch.sin(safe.unsqueeze(1) * (self.frequencies * (pi / self.cutoff))) * radial.unsqueeze(1)


class ExponentialBasis(nn.Module):
    """Gaussians in exp(-α d): exp(-β_k (exp(-α d) - μ_k)^2) (PhysNet, eq. 8; TorchMD-NET, eq. 5 with α = 5 / cutoff).

    `means` μ (B,) are equally spaced from exp(-α cutoff) to 1, `widths` β (B,) are all (2 (1 - exp(-α cutoff)) / B)^-2;
    trained if `trainable`. There is no envelope: multiply by one.
    """

    means: Tensor
    widths: Tensor

    def __init__(self, cutoff: float, n_basis: int, alpha: float = 1.0, trainable: bool = False) -> None:
        super().__init__()
        self.alpha = float(alpha)
        end = exp(-alpha * cutoff)
        means = torch.linspace(end, 1.0, n_basis)
        widths = torch.full((n_basis,), (2 / n_basis * (1 - end)) ** -2)
        if trainable:
            self.means, self.widths = nn.Parameter(means), nn.Parameter(widths)
        else:
            self.register_buffer("means", means)
            self.register_buffer("widths", widths)

    def forward(self, distances: Tensor) -> Tensor:
        """Distances (E,) in Å to (E, B)."""
        offset = torch.exp(-self.alpha * distances).unsqueeze(1) - self.means
        return torch.exp(-self.widths * offset.square())


class SineBasis(nn.Module):
    """sin(n π d / cutoff) / d for n = 1..n_basis (PaiNN, section 4.1; DimeNet, eq. 6), without an envelope."""

    frequencies: Tensor

    def __init__(self, cutoff: float, n_basis: int) -> None:
        super().__init__()
        frequencies = torch.arange(1, n_basis + 1) * (pi / cutoff)
        self.register_buffer("frequencies", frequencies)
        self.smallest = 1e-5 * float(cutoff)  # where sin(x) / x is one to rounding

    def forward(self, distances: Tensor) -> Tensor:
        """Distances (E,) in Å to (E, B)."""
        safe = distances.clamp(min=self.smallest).unsqueeze(1)
        return torch.sin(safe * self.frequencies) / safe


class GaussianBasis(nn.Module):
    """exp(-(d - μ_k)^2 / 2 σ_k^2) with μ (B,) equally spaced from 0 to the cutoff and σ (B,) their spacing (SchNet
    with the width of schnetpack); trained if `trainable`. Without an envelope. Needs two functions or more."""

    means: Tensor
    widths: Tensor

    def __init__(self, cutoff: float, n_basis: int, trainable: bool = False) -> None:
        super().__init__()
        means = torch.linspace(0.0, cutoff, n_basis)
        widths = torch.full((n_basis,), float(cutoff) / (n_basis - 1))
        if trainable:
            self.means, self.widths = nn.Parameter(means), nn.Parameter(widths)
        else:
            self.register_buffer("means", means)
            self.register_buffer("widths", widths)

    def forward(self, distances: Tensor) -> Tensor:
        """Distances (E,) in Å to (E, B)."""
        return torch.exp(-0.5 * ((distances.unsqueeze(1) - self.means) / self.widths).square())


class CutBasis(nn.Module):
    """A radial basis times the cosine cutoff, with the cutoff itself in the last column, which a bias may need."""

    def __init__(self, basis: nn.Module, cutoff: float) -> None:
        super().__init__()
        self.basis, self.cutoff = basis, float(cutoff)

    def forward(self, distances: Tensor) -> Tensor:
        """Distances (E,) in Å to (E, B+1)."""
        cut = cosine_cutoff(distances, self.cutoff).unsqueeze(1)
        return torch.cat([self.basis(distances) * cut, cut], 1)
