"""Equivariant maps of an atom's features: linear layers, with weights per species on request, and the gate.

Features are (N, M, C): N atoms, M = sum of 2l + 1 over the blocks of an `Irreps`, C channels.
"""

from __future__ import annotations

from math import sqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fireassay.errors import InputError
from fireassay.nn.convolution import row_starts
from fireassay.nn.equivariant_numba import Blocks, SpeciesOrder, channel_step, product, weight_gradient
from fireassay.nn.mlp import SILU_NORM, TANH_NORM
from fireassay.nn.so3 import Irrep, Irreps


class EquivariantLinear(nn.Module):
    """Mixes the blocks of equal irrep and their channels; the self-interaction of NequIP and of MACE.

    `paths` are the pairs (block of irreps_in, block of irreps_out) of equal irrep, ordered by the first, then the
    second; `weight` is (P, C_in, C_out), or (Z, P, C_in, C_out) when `n_species` is given: the weights are then those
    of the atom's species, which is e3nn's FullyConnectedTensorProduct with one-hot attributes. Weights are drawn from
    the standard normal distribution and scaled by gain / sqrt(fan in), the number of input channels of the irrep;
    `count_species` counts the one-hot attributes too, as e3nn does. A block of irreps_out without a path is zero.
    Differentiable to every order.
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
        gain: float = 1.0,
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
        counted = n_species if n_species is not None and count_species else 1
        fan = [irreps_in.count(irreps_in[i]) * channels_in * counted for i, _ in self.paths]
        scales = [gain / sqrt(size) for size in fan]
        rows_in, rows_out = ([s.start for s in irreps.slices] for irreps in (irreps_in, irreps_out))
        sizes_in, sizes_out = ([block.dim for block in irreps] for irreps in (irreps_in, irreps_out))
        back = [(o, i) for i, o in self.paths]
        self._maps = _Maps(
            Blocks(rows_in, rows_out, sizes_out, irreps_in.dim, irreps_out.dim, self.paths, scales),
            Blocks(rows_out, rows_in, sizes_in, irreps_out.dim, irreps_in.dim, back, scales),
        )
        self.scales = scales

    def forward(self, features: Tensor, species: Tensor | SpeciesOrder | None = None) -> Tensor:
        """(N, M_in, C_in) to (N, M_out, C_out).

        `species`, when the weights need them, are their rows (N,) or, shared by several layers, `species_order`.
        """
        if isinstance(species, Tensor):
            species = species_order(species, self.weight.shape[0])
        if features.device.type != "cpu" or features.dtype not in (torch.float32, torch.float64):
            return self.reference(features, None if species is None else species.species)
        weight, step = self.weight, channel_step(features.dtype)
        spare_in, spare_out = -self.channels_in % step, -self.channels_out % step
        if spare_in or spare_out:
            features = nn.functional.pad(features, (0, spare_in))
            weight = nn.functional.pad(weight, (0, spare_out, 0, spare_in))
        out = _linear(features, weight, species, self._maps)
        return out[..., : self.channels_out].contiguous() if spare_out else out

    def reference(self, features: Tensor, species: Tensor | None = None) -> Tensor:
        """As `forward`, by one matrix product per path, on any device; `species` (N,) are rows of the weight."""
        blocks = [features.new_zeros(len(features), b.dim, self.channels_out) for b in self.irreps_out]
        for path, (i, o) in enumerate(self.paths):
            x, weight = features[:, self.irreps_in.slices[i]], self.weight[..., path, :, :] * self.scales[path]
            if species is None:
                blocks[o] = blocks[o] + x @ weight
            else:
                every = torch.einsum("nmc,zcd->nzmd", x, weight)
                own = torch.arange(len(species), device=species.device) * every.shape[1] + species
                blocks[o] = blocks[o] + every.flatten(0, 1).index_select(0, own)
        return torch.cat(blocks, 1)


def species_order(species: Tensor, n_species: int) -> SpeciesOrder:
    """The atoms sorted by their rows (N,) in the per-species tables, built once and shared by all layers."""
    return SpeciesOrder(species, torch.argsort(species, stable=True), row_starts(species, n_species))


class _Maps(NamedTuple):
    direct: Blocks
    transposed: Blocks

    def exchanged(self) -> _Maps:
        return _Maps(self.transposed, self.direct)


def _linear(x: Tensor, weight: Tensor, atoms: SpeciesOrder | None, maps: _Maps) -> Tensor:
    # Made contiguous out here: a copy that a Function saves would be cut off from the graph of higher derivatives.
    return _Linear.apply(x.contiguous(), weight.contiguous(), atoms, maps)  # type: ignore[return-value]


class _Linear(torch.autograd.Function):
    """L(x, W); its gradients are L with input and output exchanged, and `_WeightGradient`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, atoms: SpeciesOrder | None, maps: _Maps) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.atoms, ctx.maps = atoms, maps
        return product(maps.direct, x, weight, atoms)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        (x, weight), (g,), atoms, maps = ctx.saved_tensors, gradients, ctx.atoms, ctx.maps
        gx = _linear(g, weight.transpose(-1, -2), atoms, maps.exchanged()) if ctx.needs_input_grad[0] else None
        gw = _WeightGradient.apply(x, g.contiguous(), atoms, maps) if ctx.needs_input_grad[1] else None
        return gx, gw, None, None


class _WeightGradient(torch.autograd.Function):
    """dS/dW of S = sum of g L(x, W); bilinear in x and g."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, g: Tensor, atoms: SpeciesOrder | None, maps: _Maps) -> Tensor:
        ctx.save_for_backward(x, g)
        ctx.atoms, ctx.maps = atoms, maps
        return weight_gradient(maps.direct, x, g, atoms)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        (x, g), (u,), atoms, maps = ctx.saved_tensors, gradients, ctx.atoms, ctx.maps
        gx = _linear(g, u.transpose(-1, -2), atoms, maps.exchanged()) if ctx.needs_input_grad[0] else None
        gg = _linear(x, u, atoms, maps) if ctx.needs_input_grad[1] else None
        return gx, gg, None, None


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
