"""From atomic numbers to the rows of per-species tables."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fireassay.errors import InputError

N_ELEMENTS = 119


class SpeciesIndex(nn.Module):
    """Atomic numbers to 0..Z-1 in the order of `species`.

    Raises InputError for an empty, repeated or impossible species, and for an atom of an element that is not known.
    """

    index: Tensor

    def __init__(self, species: Sequence[int]) -> None:
        super().__init__()
        self.species = tuple(int(z) for z in species)
        wrong = [z for z in self.species if not 0 < z < N_ELEMENTS]
        if not self.species or wrong or len(set(self.species)) != len(self.species):
            raise InputError(f"species {list(self.species)} must be distinct atomic numbers from 1 to {N_ELEMENTS - 1}")
        index = torch.full((N_ELEMENTS,), -1)
        index[list(self.species)] = torch.arange(len(self.species))
        self.register_buffer("index", index, persistent=False)

    def __len__(self) -> int:
        return len(self.species)

    def forward(self, atomic_numbers: Tensor) -> Tensor:
        """(N,) int64 to (N,) int64."""
        rows = self.index.index_select(0, atomic_numbers)
        if rows.numel() and int(rows.min()) < 0:
            unknown = sorted(set(atomic_numbers[rows < 0].tolist()))
            raise InputError(
                f"atomic numbers {unknown} are unknown to the potential, which knows {list(self.species)}; "
                "leave these frames out or train with them"
            )
        return rows


def one_hot(rows: Tensor, n_species: int, dtype: torch.dtype) -> Tensor:
    """Species rows (N,) to (N, Z)."""
    return nn.functional.one_hot(rows, n_species).to(dtype)
