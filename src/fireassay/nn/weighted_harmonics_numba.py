"""Fused CPU kernels of harmonics weighted channel by channel, for each edge or summed over the edges of each centre.

With F = sum over e, m, c of Y[e, m] w[e, l(m), c] g[r(e), m, c], where row r(e) of g is that of the edge or of its
centre, one kernel makes dF/dg and another dF/dY and dF/dw together; they are closed under differentiation. The first
can add a second pair (Y, w), which is what double backward needs. Tensors are contiguous, on the CPU, of one dtype.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from numba import njit
from torch import Tensor

from fireassay.nn.simd import (
    at,
    compiled,
    draw,
    lanes_of,
    launch,
    load,
    multiply_add,
    pointer,
    put,
    register_bytes,
    scalar_type,
    store,
    total,
    words_of,
    zeros,
)

# The words of a kernel's table: progress, shape, edges, then the operands (0 when a kernel does without).
_COUNTER, _CHUNK, _N, _CHANNELS, _M, _L, _STARTS, _INDEX, _FIRST = range(9)
_Y, _W, _Y2, _W2, _G, _OUT, _OUT_Y, _OUT_W, _N_WORDS = range(9, 18)


class Places(NamedTuple):
    """To which row each edge belongs; None for rows that are the edges themselves."""

    index: Tensor  # (E,) int64, ascending
    starts: Tensor  # (N+1,) int64


@njit(forceinline=True)
def _add(words, y, w, edge, m, block, channel, result, zero):
    """result + Y[e, m] w[e, l, c]."""
    weight = (edge * at(words, _L) + block) * at(words, _CHANNELS) + channel
    return multiply_add(at(y, edge * at(words, _M) + m), load(w, weight, zero), result)


@njit(forceinline=True)
def _sums(words, zero):
    """The weighted harmonics of every edge, or their sums."""
    y, w, out = pointer(at(words, _Y), zero), pointer(at(words, _W), zero), pointer(at(words, _OUT), zero)
    y2, w2, twice = pointer(at(words, _Y2), zero), pointer(at(words, _W2), zero), at(words, _Y2) != 0
    starts, first, channels = pointer(at(words, _STARTS), 0), pointer(at(words, _FIRST), 0), at(words, _CHANNELS)
    n_rows, chunk, size = at(words, _N), at(words, _CHUNK), at(words, _M)
    while True:
        start = draw(words, _COUNTER, chunk)
        if start >= n_rows:
            break
        for row in range(start, min(start + chunk, n_rows)):
            begin = row if at(words, _STARTS) == 0 else at(starts, row)
            end = row + 1 if at(words, _STARTS) == 0 else at(starts, row + 1)
            for channel in range(0, channels, lanes_of(zero)):
                for block in range(at(words, _L)):
                    for m in range(at(first, block), at(first, block + 1)):
                        result = zero
                        for edge in range(begin, end):
                            result = _add(words, y, w, edge, m, block, channel, result, zero)
                            if twice:
                                result = _add(words, y2, w2, edge, m, block, channel, result, zero)
                        store(out, (row * size + m) * channels + channel, result)


@njit(forceinline=True)
def _gradients(words, zero):
    """The gradients to the harmonics and the weights of every edge."""
    y, w, g = pointer(at(words, _Y), zero), pointer(at(words, _W), zero), pointer(at(words, _G), zero)
    out_y, out_w = pointer(at(words, _OUT_Y), zero), pointer(at(words, _OUT_W), zero)
    index, first, channels = pointer(at(words, _INDEX), 0), pointer(at(words, _FIRST), 0), at(words, _CHANNELS)
    n_edges, chunk, size, blocks = at(words, _N), at(words, _CHUNK), at(words, _M), at(words, _L)
    while True:
        start = draw(words, _COUNTER, chunk)
        if start >= n_edges:
            break
        for edge in range(start, min(start + chunk, n_edges)):
            base = (edge if at(words, _INDEX) == 0 else at(index, edge)) * size * channels
            for block in range(blocks):
                weight = (edge * blocks + block) * channels
                for m in range(at(first, block), at(first, block + 1)):
                    dot = zero
                    for channel in range(0, channels, lanes_of(zero)):
                        dot = multiply_add(
                            load(w, weight + channel, zero), load(g, base + m * channels + channel, zero), dot
                        )
                    put(out_y, edge * size + m, total(dot))
                for channel in range(0, channels, lanes_of(zero)):
                    result = zero
                    for m in range(at(first, block), at(first, block + 1)):
                        result = multiply_add(
                            at(y, edge * size + m), load(g, base + m * channels + channel, zero), result
                        )
                    store(out_w, weight + channel, result)


@cache
def _kernel(gradient: bool, dtype: torch.dtype, lanes: int) -> int:
    """The address of a kernel for vectors of `lanes` channels; the first call on a machine compiles it."""
    scalar = scalar_type(dtype)

    def weighted_harmonics_kernel(data):
        _sums(words_of(data), zeros(scalar, lanes))

    def weighted_harmonics_gradient_kernel(data):
        _gradients(words_of(data), zeros(scalar, lanes))

    return compiled(weighted_harmonics_gradient_kernel if gradient else weighted_harmonics_kernel).address


def _run(gradient: bool, w: Tensor, first: Tensor, places: Places | None, n: int, operands: dict[int, Tensor]) -> None:
    n_edges, blocks, channels = w.shape
    lanes = register_bytes() // w.element_size()
    while channels % lanes:
        lanes //= 2
    words = [0] * _N_WORDS
    words[_CHUNK:_STARTS] = [max(1, n // (8 * torch.get_num_threads())), n, channels, operands[_Y].shape[1], blocks]
    if places is not None:
        words[_STARTS], words[_INDEX] = places.starts.data_ptr(), places.index.data_ptr()
    words[_FIRST] = first.data_ptr()
    for slot, tensor in {**operands, _W: w}.items():
        words[slot] = tensor.data_ptr()
    launch(_kernel(gradient, w.dtype, lanes), words, n_edges * words[_M] * channels > 100_000)


def sums(
    y: Tensor, w: Tensor, first: Tensor, places: Places | None, second: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Y w by edge (E, M, C) or by centre (N, M, C), plus that of a `second` pair (Y, w); y (E, M), w (E, L, C).

    Block l has the components first[l] to first[l+1].
    """
    n_rows = len(y) if places is None else len(places.starts) - 1
    out = w.new_empty(n_rows, y.shape[1], w.shape[2])
    operands = {_Y: y, _OUT: out}
    if second is not None:
        operands[_Y2], operands[_W2] = second
    _run(False, w, first, places, n_rows, operands)
    return out


def gradients(y: Tensor, w: Tensor, g: Tensor, first: Tensor, places: Places | None) -> tuple[Tensor, Tensor]:
    """The gradients to harmonics (E, M) and weights (E, L, C) for the gradient g of `sums`."""
    out_y, out_w = torch.empty_like(y), torch.empty_like(w)
    _run(True, w, first, places, len(y), {_Y: y, _G: g, _OUT_Y: out_y, _OUT_W: out_w})
    return out_y, out_w
