"""The Ziegler-Biersack-Littmark repulsion of two nuclei behind their electrons."""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor, nn


class Screening(NamedTuple):
    """Constants of one implementation: length in Å, prefactor e²/4πε0 in eV Å, sum of exponentials."""

    exponent: float
    length: float
    coulomb: float
    coefficients: tuple[float, ...]
    decays: tuple[float, ...]


# Ziegler, Biersack and Littmark, "The Stopping and Range of Ions in Matter" (1985), as LAMMPS and nequip round it, and
# with the trained exponent and length of mace-torch.
LAMMPS: Final = Screening(
    0.23, 0.46850, 14.399645, (0.02817, 0.28022, 0.50986, 0.18175), (0.20162, 0.40290, 0.94229, 3.19980)
)
MACE_TORCH: Final = Screening(
    0.300, 0.4543 * 0.529, 14.3996, (0.1818, 0.5099, 0.2802, 0.02817), (3.2, 0.9423, 0.4028, 0.2016)
)


class ScreenedRepulsion(nn.Module):
    """coulomb z_i z_j / d Σ_k c_k exp(-b_k d (z_i^p + z_j^p) / a), without a cutoff.

    The constants are buffers, so that those of a model that trained them can be set.
    """

    exponent: Tensor  # p
    length: Tensor  # a
    coulomb: Tensor
    coefficients: Tensor  # c
    decays: Tensor  # b

    def __init__(self, screening: Screening = LAMMPS) -> None:
        super().__init__()
        for name, value in screening._asdict().items():
            self.register_buffer(name, torch.tensor(value, dtype=torch.get_default_dtype()))

    def forward(self, distances: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Distances (E,) in Å between atoms of the atomic numbers `first` and `second` (E,) to eV per pair (E,)."""
        a, b = first.to(distances.dtype), second.to(distances.dtype)
        reach = distances * (a**self.exponent + b**self.exponent) / self.length
        screened = torch.exp(-reach.unsqueeze(1) * self.decays) @ self.coefficients
        return self.coulomb * a * b / distances * screened
