"""Dense layers whose weights are drawn from a generator."""

from __future__ import annotations

from math import sqrt
from typing import Literal, cast

import torch
from torch import nn

Initial = Literal["xavier_uniform", "xavier_normal", "fan_in_uniform", "orthogonal", "zeros"]


def dense(
    n_in: int,
    n_out: int,
    generator: torch.Generator,
    bias: bool = True,
    initial: Initial = "xavier_uniform",
    gain: float = 1.0,
) -> nn.Linear:
    """A linear layer, weight (n_out, n_in), whose bias is zero at first and whose weight is drawn as `initial` says.

    Uniform or normal of variance 2 gain^2 / (n_in + n_out) (Glorot and Bengio 2010), uniform within gain / sqrt(n_in)
    (torch's own), a random semi-orthogonal matrix (Saxe et al. 2014) times gain, or zeros.
    """
    layer = cast(nn.Linear, nn.utils.skip_init(nn.Linear, n_in, n_out, bias=bias))
    with torch.no_grad():
        if bias:
            layer.bias.zero_()
        if initial == "xavier_uniform":
            nn.init.xavier_uniform_(layer.weight, gain, generator)
        elif initial == "xavier_normal":
            nn.init.xavier_normal_(layer.weight, gain, generator)
        elif initial == "fan_in_uniform":
            layer.weight.uniform_(-gain / sqrt(n_in), gain / sqrt(n_in), generator=generator)
        elif initial == "orthogonal":
            nn.init.orthogonal_(layer.weight, gain, generator)
        else:
            layer.weight.zero_()
    return layer
