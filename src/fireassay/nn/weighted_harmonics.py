"""The harmonics of edges weighted channel by channel, Y[e, m] w[e, l(m), c], of each edge or summed at its centre.

The first equivariant features of an edge and the environment of an atom (Allegro, eqs. 5 and 7).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from fireassay.nn.segment import Segments, segment_sum
from fireassay.nn.so3 import Irreps
from fireassay.nn.weighted_harmonics_numba import Places, gradients, sums


def weighted_harmonics(
    harmonics: Tensor, weights: Tensor, irreps: Irreps, centres: Segments | None = None, fused: bool = True
) -> Tensor:
    """Harmonics (E, M) and one weight per irrep and channel (E, L, C) to (E, M, C), or with `centres` to the sums over
    the edges of each (N, M, C). Differentiable to every order in both.

    Fused kernels serve float32 and float64 on the CPU for edges sorted by centre, torch everything else.
    """
    fits = weights.device.type == "cpu" and weights.dtype in (torch.float32, torch.float64)
    if not (fused and fits and (centres is None or centres.order is None)):
        blocks = zip(irreps.slices, weights.unbind(1), strict=True)
        every = torch.cat([harmonics[:, block].unsqueeze(2) * w.unsqueeze(1) for block, w in blocks], 1)
        return every if centres is None else segment_sum(every, centres)
    places = None if centres is None else Places(centres.index.contiguous(), centres.starts)
    # Made contiguous out here: a copy that a Function saves would be cut off from the graph of higher derivatives.
    return _Weighted.apply(harmonics.contiguous(), weights.contiguous(), _first(irreps), places)  # type: ignore[return-value]


@cache
def _first(irreps: Irreps) -> Tensor:
    return torch.tensor([0, *(block.stop for block in irreps.slices)])


class _Weighted(torch.autograd.Function):
    """Y w; its gradient is `_Gradient`."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, w: Tensor, first: Tensor, places: Places | None) -> Tensor:
        ctx.save_for_backward(y, w)
        ctx.first, ctx.places = first, places
        return sums(y, w, first, places)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        out = _Gradient.apply(*ctx.saved_tensors, gradients[0].contiguous(), ctx.first, ctx.places)
        return *out, None, None  # type: ignore[misc]


class _Gradient(torch.autograd.Function):
    """The gradients of F = Y w g to Y and w; a gradient (uy, uw) of these makes uy w g + Y uw g."""

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, w: Tensor, g: Tensor, first: Tensor, places: Places | None
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(y, w, g)
        ctx.first, ctx.places = first, places
        return gradients(y, w, g, first, places)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (y, w, g), (uy, uw) = ctx.saved_tensors, (gradient.contiguous() for gradient in grads)
        rest = ctx.first, ctx.places
        if torch.is_grad_enabled():
            dy, dw = _Gradient.apply(uy, uw, g, *rest)  # type: ignore[misc]
            dg = _Weighted.apply(uy, w, *rest) + _Weighted.apply(y, uw, *rest)  # type: ignore[operator]
        else:
            dy, dw = gradients(uy, uw, g, *rest)
            dg = sums(uy, w, *rest, (y, uw))
        return dy, dw, dg, None, None
