"""Distances on the scale of two atoms' covalent radii, for radial bases (the models after MACE-MP-0)."""

from __future__ import annotations

import torch
from ase.data import covalent_radii
from torch import Tensor, nn


class AgnesiTransform(nn.Module):
    """1 / (1 + a s^q / (1 + s^(q - p))) with s = d / r_0 and r_0 half the sum of the covalent radii.

    From 1 at d = 0 down to 0 (Witt et al., J. Chem. Phys. 159, 164101, 2023, section on radial transformations).
    """

    radii: Tensor
    a: Tensor
    p: Tensor
    q: Tensor

    def __init__(self, a: float = 1.0805, p: float = 4.5791, q: float = 0.9183) -> None:
        super().__init__()
        self.register_buffer("radii", torch.tensor(covalent_radii, dtype=torch.get_default_dtype()))
        for name, value in (("a", a), ("p", p), ("q", q)):
            self.register_buffer(name, torch.tensor(value))

    def forward(self, distances: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Distances (E,) in Å between atoms of the atomic numbers `first` and `second` (E,) to (E,)."""
        scale = (self.radii[first] + self.radii[second]) / 2
        s = (distances / scale).clamp(min=1e-6)
        return 1 / (1 + self.a * s**self.q / (1 + s ** (self.q - self.p)))


class SoftTransform(nn.Module):
    """Distances that level off at 3/4 of the sum r_0 of the covalent radii: p + (d - p) (1 + tanh(α (d - m))) / 2.

    p = 3/4 r_0, m the middle of p and 4/3 r_0, and α = `steepness` over their difference (mace-torch).
    """

    radii: Tensor
    steepness: Tensor

    def __init__(self, steepness: float = 4.0) -> None:
        super().__init__()
        self.register_buffer("radii", torch.tensor(covalent_radii, dtype=torch.get_default_dtype()))
        self.register_buffer("steepness", torch.tensor(steepness))

    def forward(self, distances: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Distances (E,) in Å between atoms of the atomic numbers `first` and `second` (E,) to (E,) in Å."""
        total = self.radii[first] + self.radii[second]
        low, high = 3 / 4 * total, 4 / 3 * total
        rise = torch.tanh(self.steepness / (high - low) * (distances - (low + high) / 2))
        return low + (distances - low) * (1 + rise) / 2
