"""Equivariant features whose irreps have different numbers of channels: one tensor (N, 2l+1, C_l) for each irrep.

"128x0e+64x1o+32x2e" of e3nn. Layers leave out irreps that nothing reaches; linear layers carry a bias on even scalars.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import sqrt
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from fireassay.errors import InputError
from fireassay.nn.mlp import SILU_NORM
from fireassay.nn.so3 import Irrep, Irreps

# 1 / sqrt(<sigmoid(z)^2>) for z of the standard normal distribution, e3nn's estimate as in `mlp`; the integral gives
# 1.84623.
SIGMOID_NORM: Final = 1.8467055342154763
SCALAR: Final = Irrep(0, 1)

Features = tuple[Tensor, ...]  # one (N, 2l+1, C_l) for each irrep, in the order of its `SizedIrreps`


class SizedIrreps(NamedTuple):
    """Distinct irreps and the number of channels of each."""

    irreps: Irreps
    channels: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> SizedIrreps:
        """From "128x0e+64x1o". Raises InputError for another form, a repeated irrep or no channels."""
        parts = [re.fullmatch(r"\s*(\d+)x(\d+[eo])\s*", part) for part in text.split("+")]
        if not all(parts):
            raise InputError(f"{text!r} are not irreps with channels: expected a form such as 128x0e+64x1o+32x2e")
        sized = cls(Irreps(p[2] for p in parts if p), tuple(int(p[1]) for p in parts if p))
        if len(set(sized.irreps)) < len(sized.irreps) or min(sized.channels) < 1:
            raise InputError(f"{text!r} must name each irrep once, with at least one channel")
        return sized

    def size(self, irrep: Irrep) -> int:
        """The channels of an irrep, 0 when it is absent."""
        return dict(zip(self.irreps, self.channels, strict=True)).get(irrep, 0)

    def only(self, wanted: Sequence[Irrep]) -> SizedIrreps:
        """Those of the irreps that are wanted, in the order they have here."""
        kept = [(irrep, n) for irrep, n in zip(self.irreps, self.channels, strict=True) if irrep in wanted]
        return SizedIrreps(Irreps(irrep for irrep, _ in kept), tuple(n for _, n in kept))

    def times(self, factor: int) -> SizedIrreps:
        """The same irreps with `factor` times the channels."""
        return self._replace(channels=tuple(factor * n for n in self.channels))

    def with_gates(self) -> SizedIrreps:
        """What `gate` takes to make these: one more even scalar for every channel that is gated."""
        gates = sum(n for irrep, n in zip(self.irreps, self.channels, strict=True) if irrep != SCALAR)
        return SizedIrreps(
            self.irreps,
            tuple(n + gates * (irrep == SCALAR) for irrep, n in zip(self.irreps, self.channels, strict=True)),
        )


def add(one: Features, two: Features, of_one: SizedIrreps, of_two: SizedIrreps) -> Features:
    """The sum of features of two sets of irreps; the second has all the irreps of the first, or more."""
    given = dict(zip(of_one.irreps, one, strict=True))
    return tuple(x + given[irrep] if irrep in given else x for irrep, x in zip(of_two.irreps, two, strict=True))


def gate(features: Features, sizes: SizedIrreps) -> Features:
    """Features of `sizes.with_gates()` to features of `sizes`: SiLU of even scalars, all else times sigmoids.

    The even scalars hold those of the output first, then the gates in the order of the irreps. Activations carry
    e3nn's normalisation (Weiler et al. 2018; Equiformer, "Gate").
    """
    place = sizes.irreps.index(SCALAR)
    widths = [n for irrep, n in zip(sizes.irreps, sizes.channels, strict=True) if irrep != SCALAR]
    scalars, *gates = features[place].split([sizes.channels[place], *widths], 2)
    sigmoids = iter(gates)
    return tuple(
        nn.functional.silu(scalars) * SILU_NORM if k == place else x * (torch.sigmoid(next(sigmoids)) * SIGMOID_NORM)
        for k, x in enumerate(features)
    )


class SizedLinear(nn.Module):
    """Mixes the channels of each irrep, with a bias on even scalars.

    Of `sizes_out` the irreps are made that the input has: `sizes`. `weights` holds one (C_in, C_out) for each, drawn
    from the normal distribution of variance gain^2 / C_in, `bias` is zero at first.
    """

    def __init__(
        self,
        sizes_in: SizedIrreps,
        sizes_out: SizedIrreps,
        generator: torch.Generator,
        bias: bool = True,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.sizes = sizes_out.only(sizes_in.irreps)
        self.sources = [sizes_in.irreps.index(irrep) for irrep in self.sizes.irreps]
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(fan, n, generator=generator) * (gain / sqrt(fan)))
            for fan, n in zip((sizes_in.channels[k] for k in self.sources), self.sizes.channels, strict=True)
        )
        biased = bias and SCALAR in self.sizes.irreps
        self.bias = nn.Parameter(torch.zeros(self.sizes.size(SCALAR))) if biased else None

    def forward(self, features: Features) -> Features:
        """Features of `sizes_in` to features of `sizes`."""
        return tuple(
            self.shifted(features[k] @ weight, irrep)
            for k, weight, irrep in zip(self.sources, self.weights, self.sizes.irreps, strict=True)
        )

    def shifted(self, values: Tensor, irrep: Irrep) -> Tensor:
        """With the bias, where the irrep has one."""
        return values if self.bias is None or irrep != SCALAR else values + self.bias
