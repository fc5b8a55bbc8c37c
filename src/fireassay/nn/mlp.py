"""Multilayer perceptrons of scalars, without biases: no input, no output."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Final, Literal

import torch
from torch import Tensor, nn

# 1 / sqrt(<f(z)^2>) for z of the standard normal distribution. These are e3nn's numbers, estimates from 10^6 samples of
# one seed that every published NequIP and MACE carries; the integrals give 1.67653 and 1.59254.
SILU_NORM: Final = 1.6791767923989418
TANH_NORM: Final = 1.5937334472592695


class ScalarMLP(nn.Module):
    """y = W_n ... σ(W_2 σ(W_1 x)) with SiLU (or nothing) between the layers and no biases.

    Each weight (width_in, width_out) is scaled by gain / sqrt(width_in), with a gain of one in the first layer, so
    that parameters of unit variance keep the variance. `gain` is sqrt(2) in nequip's ScalarMLP and `SILU_NORM` in
    e3nn's FullyConnectedNet, which MACE uses; without an activation it is one. Parameters are drawn from a uniform
    or a normal distribution of unit variance.
    """

    def __init__(
        self,
        widths: Sequence[int],
        generator: torch.Generator,
        gain: float = sqrt(2),
        activation: Literal["silu"] | None = "silu",
        distribution: Literal["uniform", "normal"] = "uniform",
    ) -> None:
        super().__init__()
        self.widths, self.activation = tuple(widths), activation
        self.gain = gain if activation else 1.0
        self.weights = nn.ParameterList()
        for rows, columns in zip(self.widths, self.widths[1:], strict=False):
            weight = torch.empty(rows, columns)
            if distribution == "uniform":
                weight.uniform_(-sqrt(3), sqrt(3), generator=generator)
            else:
                weight.normal_(generator=generator)
            self.weights.append(nn.Parameter(weight))

    def matrices(self) -> list[Tensor]:
        """The weights as they multiply."""
        gains = [self.gain if layer else 1.0 for layer in range(len(self.weights))]
        return [weight * (gain / sqrt(weight.shape[0])) for weight, gain in zip(self.weights, gains, strict=True)]

    def forward(self, x: Tensor, *beside: Tensor) -> Tensor:
        """(..., widths[0]) to (..., widths[-1]); the columns of the input may be shared out among several tensors."""
        scaled = [
            weight * ((self.gain if layer else 1.0) / sqrt(weight.shape[0]))
            for layer, weight in enumerate(self.weights)
        ]
        if self.activation is None:  # one matrix, from the narrow end
            product = scaled.pop()
            while scaled:
                product = scaled.pop() @ product
            scaled = [product]
        x = _side_by_side((x, *beside), scaled[0])
        for weight in scaled[1:]:
            x = nn.functional.silu(x) @ weight
        return x


def _side_by_side(parts: Sequence[Tensor], weight: Tensor) -> Tensor:
    """The product of the parts' columns, side by side, with a weight, without an array that holds them all."""
    if len(parts) == 1:
        return parts[0] @ weight
    rows = weight.split([part.shape[-1] for part in parts])
    total = parts[0] @ rows[0]
    for part, block in zip(parts[1:], rows[1:], strict=True):
        total = torch.addmm(total, part, block) if part.ndim == 2 else total + part @ block
    return total
