"""Fused CPU kernels of the channel-wise tensor product together with the linear layer after it.

For four edges at a time the product lies in the nearest cache, a block of rows (edge, component) by columns (path,
channel) for each irrep, and is multiplied with the weights there; the gradient makes such blocks from that of the
layer's output, by the transposed weights, and takes them on to features and environment. So the largest array of the
layer, the product of all edges, is never written. See `tensor_product_numba` for the product itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal, NamedTuple

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
from fireassay.nn.tensor_product_numba import Rows, Terms, address, vector_lanes

# The words of a kernel's table: progress, shape, coupling, blocks of the product, then the operands.
_COUNTER, _TICKET, _CHUNK, _SCRATCH, _ROOM, _N_ATOMS, _CHANNELS, _SIZE, _N_ROWS, _N_PAIRS, _M_ENV, _STARTS = range(12)
_ROWS, _SOURCE, _TARGET, _ENTRIES, _COMPONENT, _VALUES = range(12, 18)
_N_BLOCKS, _DIM, _WIDTH, _FIRST, _PLACE, _STEP = range(18, 24)
_X, _X_STEP, _Y, _X2, _X2_STEP, _Y2, _W, _OUT, _G, _OUT_X, _OUT_X_STEP, _OUT_Y, _OUT_W, _OUT_SIZE, _N_WORDS = range(
    24, 39
)
_PARTS = 16  # partial sums of the gradient to the weights, whatever the number of threads


class Blocks:
    """The product as blocks, one per irrep: of `dims` components, each with `paths` times as many columns as channels.

    Four edges' worth of a block lies in `first` floats' distance from the beginning, edge by edge.
    """

    def __init__(self, dims: Sequence[int], paths: Sequence[int], channels: int) -> None:
        self.dims, self.widths = list(dims), [n * channels for n in paths]
        widths, self.columns = self.widths, sum(self.widths)
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


@njit(forceinline=True)
def _contract(words, y, atom, a, zero):
    """A[channel, k] = sum over the entries of pair k of V y, for one atom."""
    entries, component = pointer(at(words, _ENTRIES), 0), pointer(at(words, _COMPONENT), 0)
    values, channels, where = pointer(at(words, _VALUES), zero), at(words, _CHANNELS), 0
    for channel in range(0, channels, lanes_of(zero)):
        base, n = atom * at(words, _M_ENV) * channels + channel, 0
        for k in range(at(words, _N_PAIRS)):
            result = zero
            while n < at(entries, k + 1):
                result = multiply_add(at(values, n), load(y, base + at(component, n) * channels, zero), result)
                n += 1
            store(a, where, result)
            where += lanes_of(zero)


@njit(forceinline=True)
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


@njit(forceinline=True)
def _pairs(words, x, step, first, n1, n2, n3, row, offset, a, set_of, r0, r1, r2, r3, zero):
    """Adds the pairs of a row for four edges; the results lie in registers."""
    rows, source = pointer(at(words, _ROWS), 0), pointer(at(words, _SOURCE), 0)
    for k in range(at(rows, row), at(rows, row + 1)):
        component = at(source, k)
        distance = at(step, component)
        base = at(x, component) + first * distance + offset
        weight = load(a, set_of + k * lanes_of(zero), zero)
        r0 = multiply_add(weight, load(pointer(base, zero), 0, zero), r0)
        r1 = multiply_add(weight, load(pointer(base + n1 * distance, zero), 0, zero), r1)
        r2 = multiply_add(weight, load(pointer(base + n2 * distance, zero), 0, zero), r2)
        r3 = multiply_add(weight, load(pointer(base + n3 * distance, zero), 0, zero), r3)
    return r0, r1, r2, r3


@njit(forceinline=True)
def _block(words, first, rest, a, b, z, zero):
    """The products of four edges, or of as many as there are, into z."""
    n1, n2, n3 = min(1, rest), min(2, rest), min(3, rest)  # spare edges of four repeat the last
    x, x_step = pointer(at(words, _X), 0), pointer(at(words, _X_STEP), 0)
    x2, x2_step = pointer(at(words, _X2), 0), pointer(at(words, _X2_STEP), 0)
    place, step = pointer(at(words, _PLACE), 0), pointer(at(words, _STEP), 0)
    set_of = 0
    for channel in range(0, at(words, _CHANNELS), lanes_of(zero)):
        offset = channel * at(words, _SIZE)
        for row in range(at(words, _N_ROWS)):
            r0, r1, r2, r3 = zero, zero, zero, zero
            r0, r1, r2, r3 = _pairs(words, x, x_step, first, n1, n2, n3, row, offset, a, set_of, r0, r1, r2, r3, zero)
            if at(words, _X2) != 0:
                r0, r1, r2, r3 = _pairs(
                    words, x2, x2_step, first, n1, n2, n3, row, offset, b, set_of, r0, r1, r2, r3, zero
                )
            here, far = at(place, row) + channel, at(step, row)
            store(z, here, r0)
            store(z, here + far, r1)
            store(z, here + 2 * far, r2)
            store(z, here + 3 * far, r3)
        set_of += at(words, _N_PAIRS) * lanes_of(zero)


@njit(forceinline=True)
def _contract_both(words, atom, a, b, zero):
    """A of the environments and, when there is a second pair of factors, B of the second ones."""
    _contract(words, pointer(at(words, _Y), zero), atom, a, zero)
    if at(words, _X2) != 0:
        _contract(words, pointer(at(words, _Y2), zero), atom, b, zero)


@njit(forceinline=True)
def _forward(words, zero):
    """The layer's output for the edges of every atom."""
    scratch, channels = at(words, _SCRATCH) + draw(words, _TICKET, 1) * at(words, _ROOM), at(words, _CHANNELS)
    room = at(words, _N_PAIRS) * channels * at(words, _SIZE)
    a, b, z = pointer(scratch, zero), pointer(scratch + room, zero), pointer(scratch + 2 * room, zero)
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
                _contract_both(words, atom, a, b, zero)
            for first in range(at(starts, atom), last, 4):
                rest = last - first - 1
                _block(words, first, rest, a, b, z, zero)
                for block in range(at(words, _N_BLOCKS)):
                    target = first * at(dim, block) * channels
                    _matrix(
                        min(4, rest + 1) * at(dim, block), at(width, block), z, at(begin, block),
                        pointer(at(w, block), zero), pointer(at(out, block), zero), target, channels, zero,
                    )  # fmt: skip


@njit(forceinline=True)
def _outer(rows, width, left, begin, right, source, out, target, channels, zero):
    """out += left^T @ right for `rows` rows of `width` and of `channels` numbers; `width` is a multiple of channels."""
    for c in range(0, width, 4):
        i1, i2, i3 = min(c + 1, width - 1), min(c + 2, width - 1), min(c + 3, width - 1)
        for channel in range(0, channels, lanes_of(zero)):
            y0, y1 = target + c * channels + channel, target + i1 * channels + channel
            y2, y3 = target + i2 * channels + channel, target + i3 * channels + channel
            r0, r1, r2, r3 = load(out, y0, zero), load(out, y1, zero), load(out, y2, zero), load(out, y3, zero)
            x, where = begin, source + channel
            for _ in range(rows):
                column = load(right, where, zero)
                r0 = multiply_add(at(left, x + c), column, r0)
                r1 = multiply_add(at(left, x + i1), column, r1)
                r2 = multiply_add(at(left, x + i2), column, r2)
                r3 = multiply_add(at(left, x + i3), column, r3)
                x += width
                where += channels
            store(out, y0, r0)
            store(out, y1, r1)
            store(out, y2, r2)
            store(out, y3, r3)


@njit(forceinline=True)
def _weights(words, zero):
    """The gradient to the weights, in as many sums as there are parts of the atoms."""
    scratch, channels = at(words, _SCRATCH) + draw(words, _TICKET, 1) * at(words, _ROOM), at(words, _CHANNELS)
    room = at(words, _N_PAIRS) * channels * at(words, _SIZE)
    a, b, z = pointer(scratch, zero), pointer(scratch + room, zero), pointer(scratch + 2 * room, zero)
    starts, n_atoms, chunk = pointer(at(words, _STARTS), 0), at(words, _N_ATOMS), at(words, _CHUNK)
    dim, width, begin = pointer(at(words, _DIM), 0), pointer(at(words, _WIDTH), 0), pointer(at(words, _FIRST), 0)
    g, out = pointer(at(words, _G), 0), pointer(at(words, _OUT_W), zero)
    while True:
        start = draw(words, _COUNTER, chunk)
        if start >= n_atoms:
            break
        base = (start // chunk) * at(words, _OUT_SIZE)
        for atom in range(start, min(start + chunk, n_atoms)):
            last = at(starts, atom + 1)
            if at(starts, atom) < last:
                _contract_both(words, atom, a, b, zero)
            for first in range(at(starts, atom), last, 4):
                rest = last - first - 1
                _block(words, first, rest, a, b, z, zero)
                target = base
                for block in range(at(words, _N_BLOCKS)):
                    _outer(
                        min(4, rest + 1) * at(dim, block), at(width, block), z, at(begin, block),
                        pointer(at(g, block), zero), first * at(dim, block) * channels, out, target, channels, zero,
                    )  # fmt: skip
                    target += at(width, block) * channels


@njit(forceinline=True)
def _back(words, first, rest, a, b, z, zero):
    """From the gradient z of the products of four edges to those of their features, and to B, the sums of x z."""
    n1, n2, n3 = min(1, rest), min(2, rest), min(3, rest)
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


@njit(forceinline=True)
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


@njit(forceinline=True)
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
                _contract(words, pointer(at(words, _Y), zero), atom, a, zero)
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
                _back(words, first, rest, a, b, z, zero)
            _expand(words, atom, b, zero)


@cache
def _kernel(name: Literal["forward", "backward", "weights"], dtype: torch.dtype, lanes: int) -> int:
    """The address of a kernel for vectors of `lanes` channels; the first call on a machine compiles it."""
    scalar = scalar_type(dtype)

    def mixed_product_kernel(data):
        _forward(words_of(data), zeros(scalar, lanes))

    def mixed_product_gradient_kernel(data):
        _backward(words_of(data), zeros(scalar, lanes))

    def mixed_product_weights_kernel(data):
        _weights(words_of(data), zeros(scalar, lanes))

    kernels = {
        "forward": mixed_product_kernel,
        "backward": mixed_product_gradient_kernel,
        "weights": mixed_product_weights_kernel,
    }
    return compiled(kernels[name]).address


class Task(NamedTuple):
    """What all kernels of a layer share; edges starts[i] to starts[i+1] belong to atom i."""

    direct: Terms
    transposed: Terms  # with features and product exchanged
    blocks: Blocks
    starts: Tensor
    x_rows: Rows

    def run(
        self,
        name: Literal["forward", "backward", "weights"],
        x: Sequence[Tensor],
        y: Tensor,
        lists: dict[int, Sequence[Tensor]],
        tensors: dict[int, Tensor],
        second: tuple[Sequence[Tensor], Tensor] | None = None,
    ) -> None:
        """Runs a kernel; `lists` are operands of several arrays, `second` another pair of features and environments."""
        terms = self.transposed if name == "backward" else self.direct
        n_rows, n_pairs, m_env = terms.shape
        n_atoms, channels, threads, size = len(self.starts) - 1, y.shape[2], torch.get_num_threads(), y.element_size()
        room = 2 * n_pairs * channels + self.blocks.room + 64
        scratch = torch.empty(threads * room, dtype=y.dtype)
        chunk = -(-n_atoms // _PARTS) if name == "weights" else n_atoms // (8 * threads)
        words = [0] * _N_WORDS
        words[_CHUNK:_ROWS] = [
            max(1, chunk), scratch.data_ptr(), room * size, n_atoms, channels, size, n_rows, n_pairs, m_env,
            self.starts.data_ptr(),
        ]  # fmt: skip
        words[_ROWS:_N_BLOCKS] = terms.addresses(y.dtype)
        words[_N_BLOCKS:_X] = [self.blocks.n, *self.blocks.addresses()]
        tables = dict(zip((_X, _X_STEP), self.x_rows.addresses(x, channels), strict=True))
        if second is not None:
            tables[_X2], tables[_X2_STEP] = self.x_rows.addresses(second[0], channels)
            tensors = {**tensors, _Y2: second[1]}
        if _OUT_X in lists:
            tables[_OUT_X], tables[_OUT_X_STEP] = self.x_rows.addresses(lists.pop(_OUT_X), channels)
        tables.update({slot: np.array([t.data_ptr() for t in operand]) for slot, operand in lists.items()})
        words[_OUT_SIZE] = self.blocks.columns * channels
        for slot, table in tables.items():
            words[slot] = address(table)
        for slot, tensor in {**tensors, _Y: y}.items():
            words[slot] = tensor.data_ptr()
        launch(_kernel(name, y.dtype, vector_lanes(channels, y.dtype)), words, n_atoms * n_pairs * channels > 20_000)


Second = tuple[Sequence[Tensor], Tensor]


def mixed(
    task: Task, x: Sequence[Tensor], y: Tensor, weights: Sequence[Tensor], second: Second | None = None
) -> list[Tensor]:
    """The products of features x with environments y (N, M, C), times the weights (P C, C) of each irrep: (E, 2l+1, C).

    Those of a `second` pair (x, y) are added.
    """
    out = [y.new_empty(x[0].shape[0], dim, y.shape[2]) for dim in task.blocks.dims]
    task.run("forward", x, y, {_W: weights, _OUT: out}, {}, second)
    return out


def mixed_gradients(
    task: Task, x: Sequence[Tensor], y: Tensor, weights: Sequence[Tensor], g: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """The gradients to the features, arrays like x, and to the environments, for gradients g of `mixed`."""
    turned = [weight.t().contiguous() for weight in weights]
    out, out_y = [torch.empty_like(array) for array in x], torch.empty_like(y)
    task.run("backward", x, y, {_W: turned, _G: g, _OUT_X: out}, {_OUT_Y: out_y})
    return *out, out_y


def weight_gradients(
    task: Task, x: Sequence[Tensor], y: Tensor, g: Sequence[Tensor], second: Second | None = None
) -> list[Tensor]:
    """The gradients to the weights for gradients g of `mixed`, those by way of a `second` pair (x, y) added."""
    channels = y.shape[2]
    sums = y.new_zeros(_PARTS, task.blocks.columns, channels)
    task.run("weights", x, y, {_G: g}, {_OUT_W: sums}, second)
    return list(sums.sum(0).split(task.blocks.widths))
