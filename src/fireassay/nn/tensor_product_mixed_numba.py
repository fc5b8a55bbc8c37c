"""Fused CPU kernels of the channel-wise tensor product together with the linear layer after it.

For four edges at a time the product lies in the nearest cache, a block of rows (edge, component) by columns (path,
channel) for each irrep, and is multiplied with the weights there; the gradient makes such blocks from that of the
layer's output, by the transposed weights, and takes them on to features and environment. So the largest array of the
layer, the product of all edges, is never written. See `tensor_product_numba` for the product itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
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
    scalar_type,
    store,
    words_of,
    zeros,
)
from fireassay.nn.tensor_product_numba import Rows, Terms, vector_lanes

# The words of a kernel's table: progress, shape, coupling, blocks of the product, then the operands.
_COUNTER, _TICKET, _CHUNK, _SCRATCH, _ROOM, _N_ATOMS, _CHANNELS, _SIZE, _N_ROWS, _N_PAIRS, _M_ENV, _STARTS = range(12)
_ROWS, _SOURCE, _TARGET, _ENTRIES, _COMPONENT, _VALUES = range(12, 18)
_N_BLOCKS, _DIM, _WIDTH, _FIRST, _PLACE, _STEP = range(18, 24)
_X, _X_STEP, _Y, _W, _OUT, _G, _OUT_X, _OUT_X_STEP, _OUT_Y, _N_WORDS = range(24, 34)


class Blocks:
    """The product as blocks, one per irrep: of `dims` components, each with `paths` times as many columns as channels.

    Four edges' worth of a block lies in `first` floats' distance from the beginning, edge by edge.
    """

    def __init__(self, dims: Sequence[int], paths: Sequence[int], channels: int) -> None:
        widths = [n * channels for n in paths]
        sizes = [dim * width for dim, width in zip(dims, widths, strict=True)]
        first = np.concatenate([[0], np.cumsum([4 * size for size in sizes])])
        self.room, self.n = int(first[-1]), len(dims)
        place = [
            start + row * channels for start, size in zip(first, sizes, strict=False) for row in range(size // channels)
        ]
        step = [size for size in sizes for _ in range(size // channels)]
        columns = (dims, widths, first[:-1], place, step)
        self._tables = [torch.tensor(np.asarray(column), dtype=torch.int64) for column in columns]

    def addresses(self) -> list[int]:
        """Where the tables lie; they live as long as this object."""
        return [table.data_ptr() for table in self._tables]


@njit
def _contract(words, atom, a, zero):
    """A[channel, k] = sum over the entries of pair k of V y, for one atom."""
    entries, component = pointer(at(words, _ENTRIES), 0), pointer(at(words, _COMPONENT), 0)
    values, y = pointer(at(words, _VALUES), zero), pointer(at(words, _Y), zero)
    channels, where = at(words, _CHANNELS), 0
    for channel in range(0, channels, lanes_of(zero)):
        base, n = atom * at(words, _M_ENV) * channels + channel, 0
        for k in range(at(words, _N_PAIRS)):
            result = zero
            while n < at(entries, k + 1):
                result = multiply_add(at(values, n), load(y, base + at(component, n) * channels, zero), result)
                n += 1
            store(a, where, result)
            where += lanes_of(zero)


@njit
def _matrix(rows, width, left, begin, right, out, target, channels, zero):
    """out = left @ right for `rows` rows of `width` numbers and `channels` columns; out is contiguous."""
    for row in range(0, rows, 4):
        i1, i2, i3 = min(row + 1, rows - 1), min(row + 2, rows - 1), min(row + 3, rows - 1)
        x0, x1, x2, x3 = begin + row * width, begin + i1 * width, begin + i2 * width, begin + i3 * width
        for channel in range(0, channels, lanes_of(zero)):
            r0, r1, r2, r3 = zero, zero, zero, zero
            where = channel
            for c in range(width):
                column = load(right, where, zero)
                r0 = multiply_add(at(left, x0 + c), column, r0)
                r1 = multiply_add(at(left, x1 + c), column, r1)
                r2 = multiply_add(at(left, x2 + c), column, r2)
                r3 = multiply_add(at(left, x3 + c), column, r3)
                where += channels
            store(out, target + row * channels + channel, r0)
            store(out, target + i1 * channels + channel, r1)
            store(out, target + i2 * channels + channel, r2)
            store(out, target + i3 * channels + channel, r3)


@njit
def _block(words, first, n1, n2, n3, a, z, zero):
    """The products of four edges, into z."""
    rows, source = pointer(at(words, _ROWS), 0), pointer(at(words, _SOURCE), 0)
    x, x_step = pointer(at(words, _X), 0), pointer(at(words, _X_STEP), 0)
    place, step, channels = pointer(at(words, _PLACE), 0), pointer(at(words, _STEP), 0), at(words, _CHANNELS)
    set_of = 0
    for channel in range(0, channels, lanes_of(zero)):
        offset = channel * at(words, _SIZE)
        for row in range(at(words, _N_ROWS)):
            r0, r1, r2, r3 = zero, zero, zero, zero
            for k in range(at(rows, row), at(rows, row + 1)):
                component = at(source, k)
                distance = at(x_step, component)
                base = at(x, component) + first * distance + offset
                weight = load(a, set_of + k * lanes_of(zero), zero)
                r0 = multiply_add(weight, load(pointer(base, zero), 0, zero), r0)
                r1 = multiply_add(weight, load(pointer(base + n1 * distance, zero), 0, zero), r1)
                r2 = multiply_add(weight, load(pointer(base + n2 * distance, zero), 0, zero), r2)
                r3 = multiply_add(weight, load(pointer(base + n3 * distance, zero), 0, zero), r3)
            here, far = at(place, row) + channel, at(step, row)
            store(z, here, r0)
            store(z, here + far, r1)
            store(z, here + 2 * far, r2)
            store(z, here + 3 * far, r3)
        set_of += at(words, _N_PAIRS) * lanes_of(zero)


@njit
def _forward(words, zero):
    """The layer's output for the edges of every atom."""
    scratch = at(words, _SCRATCH) + draw(words, _TICKET, 1) * at(words, _ROOM)
    channels = at(words, _CHANNELS)
    a, z = pointer(scratch, zero), pointer(scratch + at(words, _N_PAIRS) * channels * at(words, _SIZE), zero)
    starts, n_atoms, chunk = pointer(at(words, _STARTS), 0), at(words, _N_ATOMS), at(words, _CHUNK)
    dim, width, begin = pointer(at(words, _DIM), 0), pointer(at(words, _WIDTH), 0), pointer(at(words, _FIRST), 0)
    w, out = pointer(at(words, _W), 0), pointer(at(words, _OUT), 0)
    while True:
        start = draw(words, _COUNTER, chunk)
        if start >= n_atoms:
            break
        for atom in range(start, min(start + chunk, n_atoms)):
            last = at(starts, atom + 1)
            if at(starts, atom) < last:
                _contract(words, atom, a, zero)
            for first in range(at(starts, atom), last, 4):
                rest = last - first - 1  # spare edges of four repeat the last
                _block(words, first, min(1, rest), min(2, rest), min(3, rest), a, z, zero)
                for block in range(at(words, _N_BLOCKS)):
                    target = first * at(dim, block) * channels
                    _matrix(
                        min(4, rest + 1) * at(dim, block), at(width, block), z, at(begin, block),
                        pointer(at(w, block), zero), pointer(at(out, block), zero), target, channels, zero,
                    )  # fmt: skip


@njit
def _back(words, first, n1, n2, n3, a, b, z, zero):
    """From the gradient z of the products of four edges to those of their features, and to B, the sums of x z."""
    rows, source, channels = pointer(at(words, _ROWS), 0), pointer(at(words, _SOURCE), 0), at(words, _CHANNELS)
    x, x_step = pointer(at(words, _X), 0), pointer(at(words, _X_STEP), 0)
    out, out_step = pointer(at(words, _OUT_X), 0), pointer(at(words, _OUT_X_STEP), 0)
    place, step = pointer(at(words, _PLACE), 0), pointer(at(words, _STEP), 0)
    set_of = 0
    for channel in range(0, channels, lanes_of(zero)):
        offset = channel * at(words, _SIZE)
        for row in range(at(words, _N_ROWS)):
            distance = at(x_step, row)
            base = at(x, row) + first * distance + offset
            x0, x1, x2, x3 = load(pointer(base, zero), 0, zero), zero, zero, zero
            if n1 > 0:
                x1 = load(pointer(base + distance, zero), 0, zero)
            if n2 > 1:
                x2 = load(pointer(base + 2 * distance, zero), 0, zero)
            if n3 > 2:
                x3 = load(pointer(base + 3 * distance, zero), 0, zero)
            r0, r1, r2, r3 = zero, zero, zero, zero
            for k in range(at(rows, row), at(rows, row + 1)):
                where = set_of + k * lanes_of(zero)
                here, far = at(place, at(source, k)) + channel, at(step, at(source, k))
                weight, change = load(a, where, zero), load(b, where, zero)
                z0, z1 = load(z, here, zero), load(z, here + n1 * far, zero)
                z2, z3 = load(z, here + n2 * far, zero), load(z, here + n3 * far, zero)
                r0, change = multiply_add(weight, z0, r0), multiply_add(x0, z0, change)
                r1, change = multiply_add(weight, z1, r1), multiply_add(x1, z1, change)
                r2, change = multiply_add(weight, z2, r2), multiply_add(x2, z2, change)
                r3, change = multiply_add(weight, z3, r3), multiply_add(x3, z3, change)
                store(b, where, change)
            distance = at(out_step, row)
            base = at(out, row) + first * distance + offset
            store(pointer(base, zero), 0, r0)
            store(pointer(base + n1 * distance, zero), 0, r1)
            store(pointer(base + n2 * distance, zero), 0, r2)
            store(pointer(base + n3 * distance, zero), 0, r3)
        set_of += at(words, _N_PAIRS) * lanes_of(zero)


@njit
def _expand(words, atom, b, zero):
    """The gradient to the environment of one atom from B."""
    entries, component = pointer(at(words, _ENTRIES), 0), pointer(at(words, _COMPONENT), 0)
    values, out = pointer(at(words, _VALUES), zero), pointer(at(words, _OUT_Y), zero)
    channels, where = at(words, _CHANNELS), 0
    for channel in range(0, channels, lanes_of(zero)):
        base, n = atom * at(words, _M_ENV) * channels + channel, 0
        for m in range(at(words, _M_ENV)):
            store(out, base + m * channels, zero)
        for k in range(at(words, _N_PAIRS)):
            change = load(b, where, zero)
            while n < at(entries, k + 1):
                target = base + at(component, n) * channels
                store(out, target, multiply_add(at(values, n), change, load(out, target, zero)))
                n += 1
            where += lanes_of(zero)


@njit
def _backward(words, zero):
    """The gradients to the features of every edge and the environment of every atom."""
    scratch, channels = at(words, _SCRATCH) + draw(words, _TICKET, 1) * at(words, _ROOM), at(words, _CHANNELS)
    set_size = at(words, _N_PAIRS) * channels
    a, b = pointer(scratch, zero), pointer(scratch + set_size * at(words, _SIZE), zero)
    z = pointer(scratch + 2 * set_size * at(words, _SIZE), zero)
    starts, n_atoms, chunk = pointer(at(words, _STARTS), 0), at(words, _N_ATOMS), at(words, _CHUNK)
    dim, width, begin = pointer(at(words, _DIM), 0), pointer(at(words, _WIDTH), 0), pointer(at(words, _FIRST), 0)
    w, g = pointer(at(words, _W), 0), pointer(at(words, _G), 0)
    while True:
        start = draw(words, _COUNTER, chunk)
        if start >= n_atoms:
            break
        for atom in range(start, min(start + chunk, n_atoms)):
            last = at(starts, atom + 1)
            if at(starts, atom) < last:
                _contract(words, atom, a, zero)
            for where in range(0, set_size, lanes_of(zero)):
                store(b, where, zero)
            for first in range(at(starts, atom), last, 4):
                rest = last - first - 1
                for block in range(at(words, _N_BLOCKS)):
                    _matrix(
                        min(4, rest + 1) * at(dim, block), channels, pointer(at(g, block), zero),
                        first * at(dim, block) * channels, pointer(at(w, block), zero), z, at(begin, block),
                        at(width, block), zero,
                    )  # fmt: skip
                _back(words, first, min(1, rest), min(2, rest), min(3, rest), a, b, z, zero)
            _expand(words, atom, b, zero)


@cache
def _kernel(backward: bool, dtype: torch.dtype, lanes: int) -> int:
    """The address of a kernel for vectors of `lanes` channels; the first call on a machine compiles it."""
    scalar = scalar_type(dtype)

    def mixed_product_kernel(data):
        _forward(words_of(data), zeros(scalar, lanes))

    def mixed_product_gradient_kernel(data):
        _backward(words_of(data), zeros(scalar, lanes))

    return compiled(mixed_product_gradient_kernel if backward else mixed_product_kernel).address


def _run(
    backward: bool,
    terms: Terms,
    blocks: Blocks,
    starts: Tensor,
    y: Tensor,
    tables: dict[int, np.ndarray],
    tensors: dict[int, Tensor],
) -> None:
    n_rows, n_pairs, m_env = terms.shape
    n_atoms, channels, threads, size = len(starts) - 1, y.shape[2], torch.get_num_threads(), y.element_size()
    lanes, room = vector_lanes(channels, y.dtype), 2 * n_pairs * channels + blocks.room + 64
    scratch = torch.empty(threads * room, dtype=y.dtype)
    words = [0] * _N_WORDS
    words[_CHUNK:_ROWS] = [
        max(1, n_atoms // (8 * threads)), scratch.data_ptr(), room * size, n_atoms, channels, size, n_rows, n_pairs,
        m_env, starts.data_ptr(),
    ]  # fmt: skip
    words[_ROWS:_N_BLOCKS] = terms.addresses(y.dtype)
    words[_N_BLOCKS:_X] = [blocks.n, *blocks.addresses()]
    words[_Y] = y.data_ptr()
    for slot, table in tables.items():
        words[slot] = table.ctypes.data
    for slot, tensor in tensors.items():
        words[slot] = tensor.data_ptr()
    launch(_kernel(backward, y.dtype, lanes), words, n_atoms * n_pairs * channels > 20_000)


def _addresses(tensors: Sequence[Tensor]) -> np.ndarray:
    return np.array([tensor.data_ptr() for tensor in tensors], dtype=np.int64)


def mixed(
    terms: Terms,
    blocks: Blocks,
    starts: Tensor,
    x: Sequence[Tensor],
    x_rows: Rows,
    y: Tensor,
    weights: Sequence[Tensor],
    dims: Sequence[int],
) -> list[Tensor]:
    """The products of features x with environments y (N, M, C), times the weights (P C, C) of each irrep: (E, 2l+1, C).

    Edges starts[i] to starts[i+1] belong to atom i.
    """
    out = [y.new_empty(x[0].shape[0], dim, y.shape[2]) for dim in dims]
    tables = dict(zip((_X, _X_STEP), x_rows.addresses(x, y.shape[2]), strict=True))
    tables[_W], tables[_OUT] = _addresses(weights), _addresses(out)
    _run(False, terms, blocks, starts, y, tables, {})
    return out


def mixed_gradients(
    transposed: Terms,
    blocks: Blocks,
    starts: Tensor,
    x: Sequence[Tensor],
    x_rows: Rows,
    y: Tensor,
    weights: Sequence[Tensor],
    g: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    """The gradients to the features, arrays like x, and to the environments, for gradients g of `mixed`, whose weights
    are given transposed (C, P C). `transposed` are the terms with features and product exchanged."""
    out, out_y = [torch.empty_like(array) for array in x], torch.empty_like(y)
    tables = dict(zip((_X, _X_STEP), x_rows.addresses(x, y.shape[2]), strict=True))
    tables[_OUT_X], tables[_OUT_X_STEP] = x_rows.addresses(out, y.shape[2])
    tables[_W], tables[_G] = _addresses(weights), _addresses(g)
    _run(True, transposed, blocks, starts, y, tables, {_OUT_Y: out_y})
    return *out, out_y
