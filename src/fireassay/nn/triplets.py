"""Sums over triplets k -> j -> i of edges, weighted by functions of the angle at j, without a list of triplets.

A function of an angle in Legendre polynomials separates by the addition theorem, (2l + 1) P_l(cos θ) = Y_l · Y_l': the
edges of an atom are summed once with their harmonics, and every edge reads its own sum there. The cost grows with the
number of edges, not with that of triplets, and what belongs to i itself (k = i) is taken off again.
"""

from __future__ import annotations

from math import isqrt
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from fireassay.errors import InputError
from fireassay.nn.autograd import is_wanted
from fireassay.nn.edge_pairs import EdgePairs
from fireassay.nn.triplets_numba import Star, channel_step, star_gradients, star_second_gradients, star_sums


class Triplets(NamedTuple):
    """The edges that make triplets: edges starts[j]:starts[j+1] have the centre j."""

    centre: Tensor  # (E,) int64, ascending
    starts: Tensor  # (N+1,) int64
    reverse: Tensor  # (E,) int64, the edge j -> i of each edge i -> j
    pairs: EdgePairs

    @classmethod
    def of(cls, centre: Tensor, starts: Tensor, pairs: EdgePairs | None) -> Triplets:
        """Raises InputError without `pairs`: when an edge has no reverse."""
        if pairs is None:
            raise InputError("triplets need every edge i -> j with its reverse j -> i; this graph has one without")
        reverse = torch.empty_like(centre)
        first, last = pairs.order.view(-1, 2).unbind(1)
        reverse[first], reverse[last] = last, first
        return cls(centre, starts, reverse, pairs)


def triplet_sum(
    features: Tensor,
    radial: Tensor,
    harmonics: Tensor,
    triplets: Triplets,
    implementation: Literal["auto", "reference", "fused"] = "auto",
) -> Tensor:
    """What each message j -> i collects from the messages k -> j: (E, C).

        out[ji, c] = sum over k != i and l of  (2l + 1) P_l(cos kji) radial[l, kj, c] features[kj, c]

    An edge i -> j holds the message j -> i, features (E, C); k = i is the reverse edge, not another image of atom i.
    radial (L, E/2, C), one row for both edges of a pair; harmonics (E, L^2) of the edges in the component
    normalisation, |Y_l|^2 = 2l + 1. Differentiable to every order, in all three. The fused kernels serve float32 and
    float64 on the CPU, the reference everything else. Raises InputError when the shapes do not fit.
    """
    n_edges, channels = features.shape
    degrees = isqrt(harmonics.shape[1])
    expected = (degrees, len(triplets.pairs.first), channels)
    if tuple(radial.shape) != expected or tuple(harmonics.shape) != (n_edges, degrees**2):
        raise InputError(
            f"features {tuple(features.shape)} and harmonics {tuple(harmonics.shape)} need radial weights of the shape "
            f"{expected}, got {tuple(radial.shape)}"
        )
    fits = features.device.type == "cpu" and features.dtype in (torch.float32, torch.float64)
    if implementation == "reference" or (implementation == "auto" and not fits):
        return triplet_sum_reference(features, radial, harmonics, triplets)
    spare = -channels % channel_step(features.dtype)
    if spare:
        features, radial = (torch.nn.functional.pad(tensor, (0, spare)) for tensor in (features, radial))
    # Made contiguous out here: a copy that a Function saves would be cut off from the graph of higher derivatives.
    factors = (tensor.contiguous() for tensor in (features, radial, harmonics))
    out: Tensor = _TripletSum.apply(*factors, triplets)  # type: ignore[assignment]
    return out[:, :channels] if spare else out


def triplet_sum_reference(features: Tensor, radial: Tensor, harmonics: Tensor, triplets: Triplets) -> Tensor:
    """The same degree by degree in torch; for any device."""
    n_atoms, channels = len(triplets.starts) - 1, features.shape[1]
    out = torch.zeros_like(features)
    for degree, weights in enumerate(radial):
        m = 2 * degree + 1
        messages = weights.index_select(0, triplets.pairs.pair) * features  # (E, C)
        y = harmonics[:, degree**2 : (degree + 1) ** 2].unsqueeze(2)  # (E, m, 1)
        total = messages.new_zeros(n_atoms, m, channels).index_add(0, triplets.centre, y * messages.unsqueeze(1))
        out = out + (y * total.index_select(0, triplets.centre)).sum(1) - m * messages
    return out.index_select(0, triplets.reverse)


def _star(triplets: Triplets) -> Star:
    return Star(triplets.starts, triplets.reverse, triplets.pairs.pair)


class _TripletSum(torch.autograd.Function):
    """The sum by the fused kernel; its gradient is `_Gradient`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, y: Tensor, triplets: Triplets) -> Tensor:
        ctx.save_for_backward(x, a, y)
        ctx.triplets = triplets
        return star_sums(_star(triplets), x, a, y)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return (*_Gradient.apply(*ctx.saved_tensors, gradients[0].contiguous(), ctx.triplets), None)  # type: ignore[misc]


class _Gradient(torch.autograd.Function):
    """Gradients to features, radial weights and harmonics for the gradient g (E, C) of the sum."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, a: Tensor, y: Tensor, g: Tensor, triplets: Triplets
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(x, a, y, g)
        ctx.triplets, ctx.of_harmonics = triplets, y.grad_fn
        gx, ga, gy = star_gradients(_star(triplets), x, a, y, g)
        return gx, ga[:, :, 0] + ga[:, :, 1], gy

    @staticmethod
    def backward(ctx: Any, *directions: Tensor) -> tuple[Tensor | None, ...]:
        factors, triplets = ctx.saved_tensors, ctx.triplets
        if torch.is_grad_enabled():
            return (*_composed_second(factors, directions, triplets), None)
        wanted = ctx.needs_input_grad[2] and is_wanted(ctx.of_harmonics)
        ux, ua, uy = (direction.contiguous() for direction in directions)
        x, a, y, g = factors
        dx, da, dy, dg = star_second_gradients(_star(triplets), x, a, y, g, (ux, ua, uy), wanted)
        return dx, da[:, :, 0] + da[:, :, 1], dy, dg, None


def _composed_second(
    factors: tuple[Tensor, ...], directions: tuple[Tensor, ...], triplets: Triplets
) -> tuple[Tensor, ...]:
    """The second derivative by the reference, which can be differentiated again."""
    # Views, since one factor may depend on another: what is wanted are the partial derivatives.
    tracked = [f.view_as(f) if f.requires_grad else f.detach().requires_grad_() for f in factors]
    x, a, y, g = tracked
    first = torch.autograd.grad(triplet_sum_reference(x, a, y, triplets), (x, a, y), g, create_graph=True)
    return torch.autograd.grad(first, tracked, directions, create_graph=True)
