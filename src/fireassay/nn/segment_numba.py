"""A fused CPU kernel of the segment sum: every row is written once, by one thread, in the order of its elements."""

from __future__ import annotations

from functools import cache

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
    register_bytes,
    scalar_type,
    store,
    words_of,
    zeros,
)

_COUNTER, _CHUNK, _N_ROWS, _WIDTH, _STARTS, _ORDER, _X, _OUT = range(8)


def row_sums(x: Tensor, starts: Tensor, order: Tensor | None) -> Tensor:
    """Elements (E, ...) to the sums (N, ...) of the rows order[starts[i]:starts[i+1]], or without `order` of the
    elements starts[i]:starts[i+1] themselves. All tensors contiguous, on the CPU."""
    out = x.new_empty(len(starts) - 1, *x.shape[1:])
    n_rows, width = len(out), x[:1].numel()
    if not out.numel() or not width:
        return out.zero_()
    tensors = (starts, order, x, out)
    words = [0, max(1, n_rows // (8 * torch.get_num_threads())), n_rows, width]
    words += [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
    launch(_kernel(x.dtype), words, x.numel() > 100_000)
    return out


@cache
def _kernel(dtype: torch.dtype) -> int:
    scalar, lanes = scalar_type(dtype), register_bytes() // dtype.itemsize
    wide = 4 * lanes

    def segment_sum_kernel(data):
        _rows(words_of(data), zeros(scalar, wide), zeros(scalar, lanes), zeros(scalar, 1))

    return compiled(segment_sum_kernel).address


@njit(forceinline=True)
def _rows(words, wide, narrow, single):
    starts, width = pointer(at(words, _STARTS), 0), at(words, _WIDTH)
    n_rows, chunk = at(words, _N_ROWS), at(words, _CHUNK)
    while True:
        begin = draw(words, _COUNTER, chunk)
        if begin >= n_rows:
            break
        for row in range(begin, min(begin + chunk, n_rows)):
            first, stop = at(starts, row), at(starts, row + 1)
            done = _columns(words, row, first, stop, 0, width, wide)
            done = _columns(words, row, first, stop, done, width, narrow)
            _columns(words, row, first, stop, done, width, single)


@njit(forceinline=True)
def _columns(words, row, first, stop, begin, width, zero):
    """Sums as many whole vectors of columns from `begin` on as fit, and returns where they end."""
    order, x, out = pointer(at(words, _ORDER), 0), pointer(at(words, _X), zero), pointer(at(words, _OUT), zero)
    ordered = at(words, _ORDER) != 0
    column = begin
    while column + lanes_of(zero) <= width:
        result = zero
        for position in range(first, stop):
            element = at(order, position) if ordered else position
            result = multiply_add(1.0, load(x, element * width + column, zero), result)
        store(out, row * width + column, result)
        column += lanes_of(zero)
    return column
