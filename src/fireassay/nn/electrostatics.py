"""Point charges: their conservation, and their Coulomb energy with a damped core and a smooth end.

After PhysNet (Unke and Meuwly, J. Chem. Theory Comput. 15, 3678, 2019). Charges in e, distances in Å, energies in eV.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from fireassay.nn.pairwise import AtomPairs, sum_over_pairs

COULOMB: Final = 14.399645351950548  # e^2 / (4 π ε0) in eV Å, the value of PhysNet's public code


def conserve_locally(charges: Tensor, pairs: AtomPairs, weights: Tensor) -> Tensor:
    """Charges (N,) e that sum to zero: each atom's raw charge is taken off itself and its neighbours.

    q_i = q~_i - Σ_j w_ij q~_j / (1 + Σ_k w_jk), with the sum over j including i itself under a weight of one. `weights`
    w (P,) of the pairs vanish smoothly where the pairs end. Structures that no pair connects do not see each other,
    an isolated atom is neutral, and far fragments are neutral each.
    """
    shares = charges / (1 + sum_over_pairs(pairs, len(charges), weights))
    at_i, at_j = (weights * shares.index_select(0, ends) for ends in (pairs.j, pairs.i))
    return charges - shares - sum_over_pairs(pairs, len(charges), at_i, at_j)


def conserve_totally(charges: Tensor, structure: Tensor, n_structures: int, total: Tensor | float = 0.0) -> Tensor:
    """Charges (N,) e that sum to `total`, one or (S,), in each structure: the excess is spread evenly (published).

    `structure` (N,) int64 is that of each atom. Every atom of a structure sees every other, however far.
    """
    sums = charges.new_zeros(n_structures).index_add(0, structure, charges)
    sizes = charges.new_zeros(n_structures).index_add(0, structure, torch.ones_like(charges))
    return charges + ((total - sums) / sizes.clamp(min=1)).index_select(0, structure)


def coulomb_energies(charges: Tensor, pairs: AtomPairs, cutoff: float, damped: float) -> Tensor:
    """Coulomb energies (N,) in eV of charges (N,) e, half of each pair's.

    Within `damped` Å, 1 / d goes over to 1 / sqrt(d^2 + 1 Å^2), which is finite at d = 0, by a step with two continuous
    derivatives. Either is shifted to go to zero with its slope at `cutoff`, at least `damped`; nothing lies beyond.
    """
    d = pairs.distances
    x = (d / damped).clamp(max=1.0)
    square = x * x
    slow = (x * 6 - 15) * x + 10  # the step is x^3 times this
    step = square * x * slow
    shielded = (d * d + 1).sqrt()
    bare = torch.where(d < damped, square * slow / damped, 1 / d.clamp(min=damped))  # the step over d
    bare = bare + step * (d / cutoff**2 - 2 / cutoff)
    potential = bare + (1 - step) * (1 / shielded + shielded / cutoff**2 - 2 / cutoff)
    product = charges.index_select(0, pairs.i) * charges.index_select(0, pairs.j)
    energies = torch.where(d < cutoff, (COULOMB / 2) * product * potential, 0.0)
    return sum_over_pairs(pairs, len(charges), energies)
