"""Sums of a function of the distance over pairs of atoms."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class AtomPairs(NamedTuple):
    """Pairs of atoms at a distance. A `mutual` pair counts for both of its atoms, another one for `i` alone."""

    i: Tensor  # (P,) int64
    j: Tensor  # (P,) int64
    distances: Tensor  # (P,) Å
    mutual: bool


def sum_over_pairs(pairs: AtomPairs, n_atoms: int, at_i: Tensor, at_j: Tensor | None = None) -> Tensor:
    """For each atom (n_atoms,) the sum over its pairs of `at_i` (P,) where it is i and of `at_j`, by default the same,
    where it is j."""
    out = at_i.new_zeros(n_atoms).index_add(0, pairs.i, at_i)
    return out.index_add(0, pairs.j, at_i if at_j is None else at_j) if pairs.mutual else out
