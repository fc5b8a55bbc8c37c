"""A function of one variable with many outputs, tabulated: the radial network of a potential, for inference.

A quintic spline on uniform knots, kept as one polynomial per interval: few knots, so that the table stays in a cache,
and four continuous derivatives. The gradient is exactly that of the interpolant, so that energy is conserved.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from math import factorial
from typing import Any

import numpy as np
import torch
from numba import njit
from scipy.interpolate import BSpline, make_interp_spline
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fireassay.errors import InputError
from fireassay.nn.simd import (
    at,
    compiled,
    draw,
    lanes_of,
    launch,
    load,
    multiply,
    multiply_add,
    pointer,
    put,
    scalar_type,
    store,
    total,
    words_of,
    zeros,
)

_COUNTER, _CHUNK, _N_EDGES, _WIDTH, _TABLE, _ORDER, _INTERVAL, _FRACTION, _SCALE, _OUT, _GRADIENT = range(11)
_LINE = 64  # bytes: the columns are padded to whole cache lines
_DEGREE = 5
_FEWEST, _MOST = 32, 2**12  # knots; their indices fit an int16, which numpy sorts by radix


class RoughFunction(InputError):
    """A function that no table of the most knots represents to the tolerance."""


def tabulated(network: nn.Module, cutoff: float) -> nn.Module:
    """A `RadialTable` of a network of distances (E,) in Å, or the network itself where a table cannot be exact enough.

    Large weights make a network of SiLUs one of kinks, far from any polynomial: it is slower, and right.
    """
    try:
        return RadialTable(network, cutoff)
    except RoughFunction:
        return network


class RadialTable(nn.Module):
    """R(r), (E,) -> (E, K), from a table on [0, cutoff]; constant beyond the cutoff.

    `function` maps distances (n,) in Å to values (n, K), row by row, and is differentiable; a module is copied and
    evaluated in float64, any other function must take float64. Without `knots` there are as many as it takes for
    value and derivative, checked between the knots, to err by less than `tolerance` of their largest magnitude.
    `dtype` is that of the table; by default that of the module's parameters, else float64. The first interval is
    extrapolated to r = 0, where a radial basis may not be defined.

    The result can be differentiated once in r; a second derivative raises RuntimeError. Raises RoughFunction when the
    function is not finite or too rough to be tabulated, InputError for a shape, a cutoff or knots that cannot be.
    """

    table: Tensor  # (intervals, 6, K), the coefficients of t^0 ... t^5

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        cutoff: float,
        knots: int | None = None,
        tolerance: float = 1e-7,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not cutoff > 0 or (knots is not None and not 2 * _DEGREE <= knots <= _MOST):
            raise InputError(f"a table needs a cutoff above 0 and {2 * _DEGREE} to {_MOST} knots: {cutoff}, {knots}")
        weight = next(function.parameters(), None) if isinstance(function, nn.Module) else None
        dtype = dtype or (torch.float64 if weight is None else weight.dtype)
        device = torch.device("cpu") if weight is None else weight.device
        exact = copy.deepcopy(function).to("cpu", torch.float64) if isinstance(function, nn.Module) else function
        n, spline = (knots, _spline(exact, cutoff, knots)) if knots else _refined(exact, cutoff, tolerance)
        coefficients = _coefficients(spline, cutoff, n)
        self.cutoff, self.spacing, self.width = float(cutoff), cutoff / n, coefficients.shape[2]
        table = torch.from_numpy(coefficients).to(device, dtype)
        if not bool(torch.isfinite(table).all()):
            raise RoughFunction(f"the radial function has no table in {dtype}, in which it is not finite")
        padded = nn.functional.pad(table, (0, -self.width % (_LINE // dtype.itemsize)))
        self.register_buffer("table", padded.contiguous(), persistent=False)

    def forward(self, distances: Tensor) -> Tensor:
        """R (E, K) of distances (E,) in Å, in the dtype of the table."""
        out: Tensor = _Interpolation.apply(distances, self.table, self.cutoff, self.spacing)  # type: ignore[assignment]
        return out if out.shape[1] == self.width else out[:, : self.width].contiguous()


def _values(function: Callable[[Tensor], Tensor], r: Tensor) -> Tensor:
    values = function(r)
    if values.ndim != 2 or values.shape[0] != len(r):
        raise InputError(f"the radial function gave {tuple(values.shape)}: needs values of shape ({len(r)}, K)")
    if not bool(torch.isfinite(values).all()):
        raise RoughFunction("the radial function is not finite everywhere, so that it has no table")
    return values


def _refined(function: Callable[[Tensor], Tensor], cutoff: float, tolerance: float) -> tuple[int, BSpline]:
    """Knots and spline that err by less than the tolerance. Gives up where even a smooth function needed too many."""
    n = _FEWEST
    while True:
        spline = _spline(function, cutoff, n)
        error = _error(function, spline, cutoff, n)
        if error <= tolerance:
            return n, spline
        more = (error / tolerance) ** (1 / _DEGREE)  # times the knots, were the spline's order of convergence reached
        if n == _MOST or not n * more < 1.5 * _MOST:
            raise RoughFunction(f"the radial function is too rough: {_MOST} knots err by more than {tolerance:g}")
        n = min(int(n * min(max(more, 1.2), 4)), _MOST)


def _spline(function: Callable[[Tensor], Tensor], cutoff: float, n: int) -> BSpline:
    """The spline through h, 2h, ..., cutoff; the origin is left out."""
    knots = torch.arange(1, n + 1, dtype=torch.float64) * (cutoff / n)
    with torch.no_grad():
        return make_interp_spline(knots.numpy(), _values(function, knots).numpy(), k=_DEGREE)


def _coefficients(spline: BSpline, cutoff: float, n: int) -> np.ndarray:
    """The polynomial of each interval in t = (r - left) / h: (n - 1, 6, K)."""
    h = cutoff / n
    left = np.arange(1, n) * h
    return np.stack([spline(left, order) * (h**order / factorial(order)) for order in range(_DEGREE + 1)], 1)


def _error(function: Callable[[Tensor], Tensor], spline: BSpline, cutoff: float, n: int) -> float:
    """The largest error of values and of derivatives, relative to their largest magnitude, between the knots.

    The derivative is that of a random combination of the outputs, which takes a single backward pass.
    """
    r = torch.from_numpy((np.arange(1, n) + 0.3) * (cutoff / n)).requires_grad_()
    with torch.enable_grad():
        values = _values(function, r)
        mix = np.random.default_rng(0).standard_normal(values.shape[1])
        (slope,) = torch.autograd.grad((values @ torch.from_numpy(mix)).sum(), r)
    truth = values.detach().numpy(), slope.numpy()
    guess = spline(r.detach().numpy()), spline(r.detach().numpy(), 1) @ mix
    errors = [np.abs(g - t).max() / max(np.abs(t).max(), 1e-300) for g, t in zip(guess, truth, strict=True)]
    return float(np.max(errors))  # NaN where one is


class _Interpolation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, distances: Tensor, table: Tensor, cutoff: float, spacing: float) -> Tensor:
        x = distances.detach().to(torch.float64).clamp(max=cutoff) / spacing - 1
        interval = x.floor().clamp(0, len(table) - 1)
        fraction = (x - interval).to(table.dtype)
        interval = interval.to(torch.int64)
        scale = (distances.detach() < cutoff).to(table.dtype) / spacing
        ctx.save_for_backward(table, interval, fraction, scale)
        ctx.dtype = distances.dtype
        if _fused(table):
            out = table.new_empty(len(x), table.shape[2])
            _run(False, table, interval, fraction, scale, out, None)
            return out
        powers = fraction.unsqueeze(1) ** torch.arange(_DEGREE + 1, device=table.device)
        return torch.bmm(powers.unsqueeze(1), table[interval]).squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        table, interval, fraction, scale = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        if _fused(table):
            out = table.new_empty(len(interval))
            _run(True, table, interval, fraction, scale, out, gradient)
        else:
            order = torch.arange(1, _DEGREE + 1, device=table.device)
            powers = order * fraction.unsqueeze(1) ** (order - 1)
            out = (torch.bmm(table[interval, 1:], gradient.unsqueeze(2)).squeeze(2) * powers).sum(1) * scale
        return out.to(ctx.dtype), None, None, None


def _fused(table: Tensor) -> bool:
    return table.device.type == "cpu" and table.dtype in (torch.float32, torch.float64)


def _run(
    gradient_kernel: bool,
    table: Tensor,
    interval: Tensor,
    fraction: Tensor,
    scale: Tensor,
    out: Tensor,
    gradient: Tensor | None,
) -> None:
    """Walks the edges by interval, so that the polynomials in use stay in the nearest cache."""
    order = torch.from_numpy(np.argsort(interval.numpy().astype(np.int16), kind="stable"))
    tensors = (table, order, interval, fraction, scale, out)
    words = [0, 16, len(interval), table.shape[2], *(tensor.data_ptr() for tensor in tensors)]
    words.append(0 if gradient is None else gradient.data_ptr())
    launch(_kernel(gradient_kernel, table.dtype), words, len(interval) * table.shape[2] > 200_000)


@cache
def _kernel(gradient: bool, dtype: torch.dtype) -> int:
    scalar, lanes = scalar_type(dtype), _LINE // dtype.itemsize

    def value_kernel(data):
        _value_loop(words_of(data), zeros(scalar, lanes))

    def gradient_kernel(data):
        _gradient_loop(words_of(data), zeros(scalar, lanes))

    return compiled(gradient_kernel if gradient else value_kernel).address


@njit(forceinline=True)
def _value_loop(words, zero):
    width, n_edges, chunk = at(words, _WIDTH), at(words, _N_EDGES), at(words, _CHUNK)
    order, interval = pointer(at(words, _ORDER), 0), pointer(at(words, _INTERVAL), 0)
    fraction, table = pointer(at(words, _FRACTION), zero), pointer(at(words, _TABLE), zero)
    out = pointer(at(words, _OUT), zero)
    while True:
        begin = draw(words, _COUNTER, chunk)
        if begin >= n_edges:
            break
        for position in range(begin, min(begin + chunk, n_edges)):
            edge = at(order, position)
            t = at(fraction, edge)
            first = at(interval, edge) * (_DEGREE + 1) * width
            for k in range(0, width, lanes_of(zero)):
                result = load(table, first + _DEGREE * width + k, zero)
                for power in range(_DEGREE - 1, -1, -1):
                    result = multiply_add(t, result, load(table, first + power * width + k, zero))
                store(out, edge * width + k, result)


@njit(forceinline=True)
def _gradient_loop(words, zero):
    width, n_edges, chunk = at(words, _WIDTH), at(words, _N_EDGES), at(words, _CHUNK)
    order, interval = pointer(at(words, _ORDER), 0), pointer(at(words, _INTERVAL), 0)
    fraction, table = pointer(at(words, _FRACTION), zero), pointer(at(words, _TABLE), zero)
    scale, out = pointer(at(words, _SCALE), zero), pointer(at(words, _OUT), zero)
    gradient = pointer(at(words, _GRADIENT), zero)
    while True:
        begin = draw(words, _COUNTER, chunk)
        if begin >= n_edges:
            break
        for position in range(begin, min(begin + chunk, n_edges)):
            edge = at(order, position)
            t = at(fraction, edge)
            first = at(interval, edge) * (_DEGREE + 1) * width
            result = zero
            for k in range(0, width, lanes_of(zero)):
                slope = multiply(float(_DEGREE), load(table, first + _DEGREE * width + k, zero))
                for power in range(_DEGREE - 1, 0, -1):
                    term = multiply(float(power), load(table, first + power * width + k, zero))
                    slope = multiply_add(t, slope, term)
                result = multiply_add(load(gradient, edge * width + k, zero), slope, result)
            put(out, edge, total(result) * at(scale, edge))
