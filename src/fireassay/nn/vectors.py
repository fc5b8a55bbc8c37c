"""Vector features (N, 3, C) beside scalars (N, C)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fireassay.nn.dense import dense


def norms(vectors: Tensor, epsilon: float = 0.0) -> Tensor:
    """sqrt(|v|^2 + epsilon) of vectors (N, 3, C): (N, C). Without an epsilon its gradient is zero where v vanishes."""
    squares = vectors.square().sum(1)
    if epsilon > 0:
        return (squares + epsilon).sqrt()
    some = squares > 0
    return torch.where(some, torch.where(some, squares, 1.0).sqrt(), 0.0)


class GatedEquivariant(nn.Module):
    """s' = a_s(s, |V v|), v' = a_v(s, |V v|) U v: the gated equivariant block of PaiNN (fig. 3).

    (N, C_in) and (N, 3, C_in) to (N, C_out) and (N, 3, C_out), or without `vectors` to scalars alone, which then have
    no bias of their own.
    """

    def __init__(
        self, channels_in: int, channels_out: int, epsilon: float, vectors: bool, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.channels_out, self.epsilon = channels_out, epsilon
        self.measured = dense(channels_in, channels_in, generator, bias=False)  # V
        self.gated = dense(channels_in, channels_out, generator, bias=False) if vectors else None  # U
        n_out = channels_out * (2 if vectors else 1)
        self.context = nn.Sequential(
            dense(2 * channels_in, channels_in, generator),
            nn.SiLU(),
            dense(channels_in, n_out, generator, bias=vectors),
        )

    def forward(self, scalars: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor | None]:
        """The new scalars, and the new vectors if there are any."""
        context = self.context(torch.cat([scalars, norms(self.measured(vectors), self.epsilon)], 1))
        if self.gated is None:
            return context, None
        scalars, gates = context.split(self.channels_out, 1)
        return scalars, gates.unsqueeze(1) * self.gated(vectors)
