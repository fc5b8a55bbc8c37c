"""Averages of the weights: over steps (`Ema`) and over epochs (`Swa`)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn


class Ema:
    """Exponential moving average: shadow += (1 - decay) (weights - shadow) at each step.

    With `warm_up` the decay of step t (from 1) is min(decay, (1 + t) / (10 + t)), so that a young average is not held
    back by the initial weights.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float, warm_up: bool) -> None:
        self._parameters: list[Tensor] = list(parameters)
        self.decay, self.warm_up = decay, warm_up
        self.steps = 0
        self.shadow = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the weights after one more step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps)) if self.warm_up else self.decay
        torch._foreach_lerp_(self.shadow, self._parameters, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]


class Swa:
    """Mean of the weights at the ends of epochs, kept as a float64 sum and a count."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = list(parameters)
        self.count = 0
        self.sums = [torch.zeros_like(parameter, dtype=_wide(parameter)) for parameter in self._parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the weights of one more epoch."""
        self.count += 1
        for total, parameter in zip(self.sums, self._parameters, strict=True):
            total.add_(parameter)

    def mean(self) -> list[Tensor]:
        """The averaged weights, in the parameters' dtypes; needs at least one update."""
        return [
            (total / self.count).to(parameter.dtype)
            for total, parameter in zip(self.sums, self._parameters, strict=True)
        ]


@contextlib.contextmanager
def replaced(parameters: Sequence[nn.Parameter], values: Sequence[Tensor] | None) -> Iterator[None]:
    """The parameters hold `values` inside the block, and afterwards exactly what they held before. None: no change."""
    if values is None:
        yield
        return
    kept = [parameter.detach().clone() for parameter in parameters]
    try:
        assign(parameters, values)
        yield
    finally:
        assign(parameters, kept)


@torch.no_grad()
def assign(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    """Copies `values` into `parameters`."""
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)


def _wide(parameter: Tensor) -> torch.dtype:
    return torch.float64 if parameter.device.type in ("cpu", "cuda") else parameter.dtype
