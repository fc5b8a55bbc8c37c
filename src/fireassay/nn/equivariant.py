"""Equivariant maps of an atom's features: linear layers, with weights per species on request, and the gate.

Features are (N, M, C): N atoms, M = sum of 2l + 1 over the blocks of an `Irreps`, C channels.
"""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn

from fireassay.errors import InputError
from fireassay.nn.mlp import SILU_NORM, TANH_NORM
from fireassay.nn.so3 import Irrep, Irreps


class EquivariantLinear(nn.Module):
    """Mixes the blocks of equal irrep and their channels; the self-interaction of NequIP and of MACE.

    `paths` are the pairs (block of irreps_in, block of irreps_out) of equal irrep, ordered by the first, then the
    second; `weight` is (P, C_in, C_out), or (Z, P, C_in, C_out) when `n_species` is given: the weights are then those
    of the atom's species, which is e3nn's FullyConnectedTensorProduct with one-hot attributes. Weights are drawn from
    the standard normal distribution and scaled by 1 / sqrt(fan in), the number of input channels of the irrep;
    `count_species` counts the one-hot attributes too, as e3nn does. A block of irreps_out without a path is zero.
    """

    def __init__(
        self,
        irreps_in: Irreps,
        irreps_out: Irreps,
        channels_in: int,
        channels_out: int,
        generator: torch.Generator,
        n_species: int | None = None,
        count_species: bool = False,
    ) -> None:
        super().__init__()
        self.irreps_in, self.irreps_out = irreps_in, irreps_out
        self.channels_in, self.channels_out, self.n_species = channels_in, channels_out, n_species
        self.paths = tuple((i, o) for i, a in enumerate(irreps_in) for o, b in enumerate(irreps_out) if a == b)
        if not self.paths:
            raise InputError(f"{irreps_in} and {irreps_out} share no irrep: nothing to map")
        lead = () if n_species is None else (n_species,)
        shape = (*lead, len(self.paths), channels_in, channels_out)
        self.weight = nn.Parameter(torch.randn(shape, generator=generator))
        species = n_species if n_species is not None and count_species else 1
        self._groups = [
            _Group(irrep, irreps_in, irreps_out, self.paths, channels_in * species)
            for irrep in dict.fromkeys(irreps_out)
        ]

    def forward(self, features: Tensor, species: Tensor | None = None) -> Tensor:
        """(N, M_in, C_in) to (N, M_out, C_out); `species` (N,) are rows of the weight if it has any."""
        n = features.shape[0]
        out: list[Tensor] = [features] * len(self.irreps_out)
        for group in self._groups:
            n_in, n_out, dim = len(group.inputs), len(group.outputs), group.dim
            if n_in == 0:
                mixed = features.new_zeros(n, dim, n_out * self.channels_out)
            else:
                blocks = torch.cat([features[:, s].unsqueeze(2) for s in group.inputs], 2)  # (N, dim, n_in, C_in)
                weight = self.weight[..., group.paths, :, :] * group.scale
                weight = weight.unflatten(-3, (n_in, n_out)).transpose(-3, -2)  # (..., n_in, C_in, n_out, C_out)
                weight = weight.flatten(-2).flatten(-3, -2)  # (..., n_in C_in, n_out C_out)
                mixed = _product(blocks.flatten(2), weight, species)
            mixed = mixed.view(n, dim, n_out, self.channels_out)
            for k, position in enumerate(group.outputs):
                out[position] = mixed[:, :, k]
        return torch.cat(out, 1)


class _Group:
    """The blocks of one irrep."""

    def __init__(
        self, irrep: Irrep, irreps_in: Irreps, irreps_out: Irreps, paths: tuple[tuple[int, int], ...], fan: int
    ) -> None:
        self.dim = irrep.dim
        self.inputs = [s for s, block in zip(irreps_in.slices, irreps_in, strict=True) if block == irrep]
        self.scale = 1 / sqrt(max(len(self.inputs), 1) * fan)
        self.outputs = [o for o, block in enumerate(irreps_out) if block == irrep]
        self.paths = [p for p, (i, _) in enumerate(paths) if irreps_in[i] == irrep]  # input by input


def _product(blocks: Tensor, weight: Tensor, species: Tensor | None) -> Tensor:
    """(N, dim, K) times (K, O), or (Z, K, O) with one row of Z per atom."""
    if species is None:
        return blocks @ weight
    every = torch.einsum("ndk,zko->zndo", blocks, weight)
    return every[species, torch.arange(len(species), device=species.device)]


class Gate(nn.Module):
    """The equivariant nonlinearity: SiLU of even scalars, tanh of odd ones, and all else times SiLU of its own gate.

    Input blocks are `irreps_in`: the even scalars of the output, one even scalar per gated block, then the other blocks
    of the output; output blocks are `irreps_out`. Activations carry e3nn's normalisation (NequIP, section "Interaction
    Block"; Weiler et al. 2018).
    """

    def __init__(self, irreps_out: Irreps) -> None:
        super().__init__()
        even = [block for block in irreps_out if block == Irrep(0, 1)]
        odd = [block for block in irreps_out if block == Irrep(0, -1)]
        gated = [block for block in irreps_out if block.l > 0]
        if [*even, *odd, *gated] != list(irreps_out):
            raise InputError(f"a gate needs even scalars, then odd scalars, then the rest, not {irreps_out}")
        self.irreps_in = Irreps([*even, *[Irrep(0, 1)] * len(gated), *odd, *gated])
        self.irreps_out = irreps_out
        self._sizes = (len(even), len(gated), len(odd), Irreps(gated).dim)
        dims = torch.tensor([block.dim for block in gated], dtype=torch.int64)
        self.register_buffer("_gate_of", torch.repeat_interleave(torch.arange(len(gated)), dims), persistent=False)

    _gate_of: Tensor

    def forward(self, features: Tensor) -> Tensor:
        """(N, M of irreps_in, C) to (N, M of irreps_out, C)."""
        even, gates, odd, gated = features.split(self._sizes, 1)
        parts = [nn.functional.silu(even) * SILU_NORM]
        if odd.shape[1]:
            parts.append(torch.tanh(odd) * TANH_NORM)
        if gated.shape[1]:
            gates = nn.functional.silu(gates) * SILU_NORM
            parts.append(gated * gates.index_select(1, self._gate_of))
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]
