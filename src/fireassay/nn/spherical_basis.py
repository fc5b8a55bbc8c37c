"""Spherical Bessel functions that vanish at the cutoff: the radial part of DimeNet's basis of distance and angle."""

from __future__ import annotations

from functools import cache
from math import ceil, pi
from typing import Any

import numpy as np
import torch
from numpy.polynomial import chebyshev
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import spherical_jn
from torch import Tensor, nn

from fireassay.nn.cutoff import polynomial_cutoff


class SphericalBesselBasis(nn.Module):
    """u(x) / x · j_l(z_ln x) / sqrt(j_{l+1}(z_ln)^2 / 2) with x = d / cutoff, z_ln the n-th positive root of j_l.

    DimeNet's eq. 6, without its angular factor and its constant sqrt(2 / cutoff^3), under the envelope u of eq. 8 and
    the further 1 / x that its authors' code has: it diverges at d = 0, where a distance of 1e-5 cutoff is taken.
    Exactly zero with two derivatives at and beyond the cutoff. Degrees l = 0..l_max, n = 1..n_basis, no parameters.
    """

    def __init__(self, cutoff: float, l_max: int = 6, n_basis: int = 6, p: int = 6) -> None:
        super().__init__()
        self.cutoff, self.l_max, self.n_basis, self.p = float(cutoff), l_max, n_basis, p

    def forward(self, distances: Tensor) -> Tensor:
        """Distances (E,) in Å to (l_max + 1, E, n_basis)."""
        x = distances / self.cutoff
        coefficients, derivative = _series(self.l_max, self.n_basis, distances.device)
        place = 2 * x.clamp(max=1.0).to(torch.float64) - 1
        values: Tensor = _Chebyshev.apply(place, coefficients, derivative)  # type: ignore[assignment]
        envelope = polynomial_cutoff(x, 1.0, self.p) / x.clamp(min=1e-5)
        values = values.to(x.dtype) * envelope.unsqueeze(1)  # (E, L n_basis)
        return values.unflatten(1, (self.l_max + 1, self.n_basis)).transpose(0, 1)


@cache
def spherical_bessel_roots(l_max: int, n: int) -> NDArray[np.float64]:
    """The first `n` positive roots of j_0 ... j_{l_max}: (l_max + 1, n), float64.

    Those of j_0 are k π, and between two neighbouring roots of j_{l-1} lies just one of j_l.
    """
    rows = [np.arange(1, n + l_max + 1) * pi]
    for degree in range(1, l_max + 1):
        brackets = zip(rows[-1], rows[-1][1:], strict=False)
        rows.append(np.array([brentq(lambda x: spherical_jn(degree, x), a, b, xtol=1e-15) for a, b in brackets]))  # noqa: B023
    return np.array([row[:n] for row in rows], dtype=np.float64)


@cache
def _coefficients(l_max: int, n: int) -> NDArray[np.float64]:
    """Chebyshev coefficients (K, (l_max + 1) n) of the normalised j_l(z_ln x) in 2 x - 1, exact to rounding.

    The functions are entire and oscillate with frequencies up to z / 2 in this variable; beyond that degree their
    coefficients fall faster than any power.
    """
    roots = spherical_bessel_roots(l_max, n)
    degree = ceil(roots.max() / 2) + 30
    columns = []
    for order, row in enumerate(roots):
        norms = np.abs(spherical_jn(order + 1, row)) / np.sqrt(2)
        for root, norm in zip(row, norms, strict=True):
            column = chebyshev.chebinterpolate(lambda t: spherical_jn(order, root * (t + 1) / 2), degree)  # noqa: B023
            columns.append(column / norm)
    matrix = np.stack(columns, 1)
    needed = np.flatnonzero(np.abs(matrix).max(1) > 1e-16 * np.abs(matrix).max())
    return matrix[: needed[-1] + 1]


@cache
def _series(l_max: int, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The coefficients (K, M) and the matrix (K, K) that takes coefficients to those of the derivative, float64."""
    matrix = _coefficients(l_max, n)
    derivative = np.zeros((len(matrix), len(matrix)))
    derivative[:-1] = chebyshev.chebder(np.eye(len(matrix)))
    return torch.from_numpy(matrix).to(device), torch.from_numpy(derivative).to(device)


class _Chebyshev(torch.autograd.Function):
    """Sum over k of T_k(t) coefficients[k]: (E,) in [-1, 1] and (K, M) to (E, M); its derivative is of the same kind.

    In float64 whatever the model's dtype: the terms are larger than their sum.
    """

    @staticmethod
    def forward(ctx: Any, t: Tensor, coefficients: Tensor, derivative: Tensor) -> Tensor:
        order = torch.arange(len(coefficients), dtype=t.dtype, device=t.device)
        polynomials = torch.cos(torch.acos(t).unsqueeze(1) * order)
        ctx.save_for_backward(t, coefficients, derivative, polynomials)
        return polynomials @ coefficients

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        t, coefficients, derivative, polynomials = ctx.saved_tensors
        slopes = derivative @ coefficients
        if torch.is_grad_enabled():
            values: Tensor = _Chebyshev.apply(t, slopes, derivative)  # type: ignore[assignment]
        else:
            values = polynomials @ slopes
        return (gradients[0] * values).sum(1), None, None
