"""Envelopes that take every edge smoothly to nothing at the cutoff."""

from __future__ import annotations

import torch
from torch import Tensor


def polynomial_cutoff(distances: Tensor, cutoff: float, p: int = 6) -> Tensor:
    """The envelope u(d) of DimeNet (Gasteiger et al. 2020, eq. 8; NequIP, eq. 4) of distances (...) in Å.

    u = 1 - (p+1)(p+2)/2 x^p + p(p+2) x^(p+1) - p(p+1)/2 x^(p+2) with x = d / cutoff; one at d = 0, and exactly zero
    with its first two derivatives at and beyond the cutoff. Evaluated as (1-x)^3 times the first p terms of the series
    of (1-x)^-3, which is the same polynomial without its cancellation near x = 1.
    """
    x = (distances / cutoff).clamp(max=1.0)
    series = x * (p * (p + 1) / 2) + (p - 1) * p / 2 if p > 1 else x * 0 + 1
    for k in range(p - 3, -1, -1):
        series = series * x + (k + 1) * (k + 2) / 2
    rest = 1 - x
    return series * (rest * rest * rest)


def cosine_cutoff(distances: Tensor, cutoff: float) -> Tensor:
    """(1 + cos(π d / cutoff)) / 2 of distances (...) in Å, zero beyond (Behler and Parrinello 2007, eq. 4).

    Zero with its first derivative at the cutoff, so forces are continuous; the second derivative jumps there.
    """
    return (torch.cos((distances / cutoff).clamp(max=1.0) * torch.pi) + 1) / 2
