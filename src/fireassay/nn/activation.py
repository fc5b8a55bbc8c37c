"""Activations whose second derivative, which training on forces asks for, takes a few passes instead of dozens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def silu(x: Tensor) -> Tensor:
    """x σ(x) elementwise, with torch's numbers, differentiable to every order.

    Torch's own composes the derivative of any gradient that is to be differentiated again of elementary operations.
    """
    return _Silu.apply(x)  # type: ignore[return-value]


class _Silu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.nn.functional.silu(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _SiluGradient.apply(gradients[0], *ctx.saved_tensors)  # type: ignore[return-value]


class _SiluGradient(torch.autograd.Function):
    """g s (1 + x (1 - s)) with s = σ(x); its derivative in x is g s (1 - s) (2 + x (1 - 2 s))."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(g, x)
        return torch.ops.aten.silu_backward(g, x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (u,), (g, x) = gradients, ctx.saved_tensors
        s = torch.sigmoid(x)
        if torch.is_grad_enabled():
            return _SiluGradient.apply(u, x), u * g * s * (1 - s) * (2 + x * (1 - 2 * s))  # type: ignore[return-value]
        curvature = torch.rsub(s, 1, alpha=2).mul_(x).add_(2)
        return torch.ops.aten.silu_backward(u, x), torch.ops.aten.sigmoid_backward(u * g, s).mul_(curvature)
