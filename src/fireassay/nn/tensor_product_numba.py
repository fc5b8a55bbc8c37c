"""Fused CPU kernels of the channel-wise tensor product of edges with the environments of their centres.

For an atom the Clebsch-Gordan entries are first contracted with its environment, A[k, c] = sum V y, where k runs over
the coupled pairs (component of the features, component of the product). What is left for each of its edges is

    z[e, o, c] = sum over the pairs k of o  A[k, c] x[e, in(k), c]

four edges at a time with channels as vector lanes, and A in the nearest cache. The gradient to the features is the
same with x and z exchanged; while z is near, the same pass can sum x z over the atom's edges, pair by pair, and
contract that to the gradient of the environment. This is closed under differentiation; double backward also adds the
products of two pairs (x, y) on the way. Each result is written by one thread in one order, so results repeat bit for
bit.

The features of edges may lie in several arrays: for each component there is an address and a distance between edges.
Tensors are on the CPU, of one dtype, and contiguous.
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
    register_bytes,
    scalar_type,
    store,
    words_of,
    zeros,
)

# The words of a kernel's table: progress, shape, coupling, then the operands.
_COUNTER, _TICKET, _CHUNK, _SCRATCH, _N_ATOMS, _CHANNELS, _SIZE, _N_ROWS, _N_PAIRS, _M_ENV, _STARTS = range(11)
_ROWS, _SOURCE, _TARGET, _ENTRIES, _COMPONENT, _VALUES = range(11, 17)
_X, _X_STEP, _Y, _X2, _X2_STEP, _Y2, _Z, _Z_STEP, _W, _W_STEP, _OUT, _N_WORDS = range(17, 29)


class Terms:
    """The coefficients of a product, grouped: rows, one per component of the product, hold pairs; pairs entries.

    source, component, target (n,) are the components of features, environment and product of each coefficient, of
    which there are m_env of the environment and n_rows of the product.
    """

    def __init__(
        self,
        source: np.ndarray,
        component: np.ndarray,
        target: np.ndarray,
        value: np.ndarray,
        m_env: int,
        n_rows: int,
    ) -> None:
        order = np.lexsort((component, source, target))
        source, component, target = (a[order] for a in (source, component, target))
        pairs = np.flatnonzero((np.diff(source, prepend=-1) != 0) | (np.diff(target, prepend=-1) != 0))
        self.shape = (n_rows, len(pairs), m_env)
        self._whole = (
            np.searchsorted(target[pairs], np.arange(n_rows + 1)),  # first pair of each row
            source[pairs],
            target[pairs],
            np.append(pairs, len(order)),  # first entry of each pair
            component,
        )
        self._values = value[order]
        self._tensors: dict[torch.dtype, list[Tensor]] = {}

    def addresses(self, dtype: torch.dtype) -> list[int]:
        """Where the tables lie; they live as long as this object."""
        if dtype not in self._tensors:
            whole = [torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64)) for array in self._whole]
            self._tensors[dtype] = [*whole, torch.from_numpy(self._values).to(dtype)]
        return [tensor.data_ptr() for tensor in self._tensors[dtype]]


class Rows:
    """Where the components of some features of edges lie: `sizes`, the components in each of their arrays (E, m, C)."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.array = np.repeat(np.arange(len(sizes)), sizes)
        self.place = np.concatenate([np.arange(size) for size in sizes])
        self.sizes = np.asarray(sizes, dtype=np.int64)

        self._bytes: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def addresses(self, arrays: Sequence[Tensor], channels: int) -> tuple[np.ndarray, np.ndarray]:
        """The address of each component of the first edge, and the bytes from one edge to the next."""
        row = channels * arrays[0].element_size()
        if row not in self._bytes:
            self._bytes[row] = self.place * row, self.sizes[self.array] * row
        place, step = self._bytes[row]
        first = np.array([array.data_ptr() for array in arrays], dtype=np.int64)
        return first.take(self.array) + place, step


def address(table: np.ndarray) -> int:
    """Where an array lies; it lives as long as its owner."""
    return table.__array_interface__["data"][0]


@njit(forceinline=True)
def _contract(words, y, atom, channel, a, zero):
    """A[k] = sum over the entries of pair k of V y, for one atom and one vector of channels."""
    entries, component = pointer(at(words, _ENTRIES), 0), pointer(at(words, _COMPONENT), 0)
    values, channels = pointer(at(words, _VALUES), zero), at(words, _CHANNELS)
    base, n = atom * at(words, _M_ENV) * channels + channel, 0
    for k in range(at(words, _N_PAIRS)):
        result = zero
        while n < at(entries, k + 1):
            result = multiply_add(at(values, n), load(y, base + at(component, n) * channels, zero), result)
            n += 1
        store(a, k * lanes_of(zero), result)


@njit(forceinline=True)
def _four(x, step, first, n1, n2, n3, begin, stop, source, a, offset, r0, r1, r2, r3, zero):
    """Adds the pairs begin to stop for four edges; the results lie in registers."""
    for k in range(begin, stop):
        component = at(source, k)
        distance = at(step, component)
        base = at(x, component) + first * distance + offset
        weight = load(a, k * lanes_of(zero), zero)
        r0 = multiply_add(weight, load(pointer(base, zero), 0, zero), r0)
        r1 = multiply_add(weight, load(pointer(base + n1 * distance, zero), 0, zero), r1)
        r2 = multiply_add(weight, load(pointer(base + n2 * distance, zero), 0, zero), r2)
        r3 = multiply_add(weight, load(pointer(base + n3 * distance, zero), 0, zero), r3)
    return r0, r1, r2, r3


@njit(forceinline=True)
def _edges_of_atom(words, begin, end, offset, a, b, zero):
    """The products of the edges begin to end of one atom, for one vector of channels."""
    rows, source = pointer(at(words, _ROWS), 0), pointer(at(words, _SOURCE), 0)
    x, x_step = pointer(at(words, _X), 0), pointer(at(words, _X_STEP), 0)
    x2, x2_step = pointer(at(words, _X2), 0), pointer(at(words, _X2_STEP), 0)
    z, z_step, twice = pointer(at(words, _Z), 0), pointer(at(words, _Z_STEP), 0), at(words, _X2) != 0
    for first in range(begin, end, 4):
        last = end - first - 1  # spare lanes of four repeat the last edge
        n1, n2, n3 = min(1, last), min(2, last), min(3, last)
        for row in range(at(words, _N_ROWS)):
            start, stop = at(rows, row), at(rows, row + 1)
            r0, r1, r2, r3 = zero, zero, zero, zero
            r0, r1, r2, r3 = _four(x, x_step, first, n1, n2, n3, start, stop, source, a, offset, r0, r1, r2, r3, zero)
            if twice:
                r0, r1, r2, r3 = _four(
                    x2, x2_step, first, n1, n2, n3, start, stop, source, b, offset, r0, r1, r2, r3, zero
                )
            distance = at(z_step, row)
            base = at(z, row) + first * distance + offset
            store(pointer(base, zero), 0, r0)
            store(pointer(base + n1 * distance, zero), 0, r1)
            store(pointer(base + n2 * distance, zero), 0, r2)
            store(pointer(base + n3 * distance, zero), 0, r3)


@njit(forceinline=True)
def _products(words, zero):
    """z = A x of the edges of every atom, with a second pair of factors when there is one."""
    lanes, size = lanes_of(zero), at(words, _SIZE)
    room = at(words, _N_PAIRS) * lanes * size
    scratch = at(words, _SCRATCH) + draw(words, _TICKET, 1) * 2 * room
    a, b = pointer(scratch, zero), pointer(scratch + room, zero)
    starts, y, y2 = pointer(at(words, _STARTS), 0), pointer(at(words, _Y), zero), pointer(at(words, _Y2), zero)
    n_atoms, chunk = at(words, _N_ATOMS), at(words, _CHUNK)
    while True:
        begin = draw(words, _COUNTER, chunk)
        if begin >= n_atoms:
            break
        for atom in range(begin, min(begin + chunk, n_atoms)):
            first, last = at(starts, atom), at(starts, atom + 1)
            for channel in range(0, at(words, _CHANNELS), lanes):
                if first < last:
                    _contract(words, y, atom, channel, a, zero)
                    if at(words, _X2) != 0:
                        _contract(words, y2, atom, channel, b, zero)
                    _edges_of_atom(words, first, last, channel * size, a, b, zero)
                if at(words, _W) != 0:
                    base = atom * at(words, _M_ENV) * at(words, _CHANNELS) + channel
                    _environment_of_atom(words, base, first, last, channel * size, zero)


@njit(forceinline=True)
def _environment_of_atom(words, base, first, last, offset, zero):
    """The gradient to the environment of one atom with the edges first to last, for one vector of channels."""
    entries, component = pointer(at(words, _ENTRIES), 0), pointer(at(words, _COMPONENT), 0)
    values, channels, out = pointer(at(words, _VALUES), zero), at(words, _CHANNELS), pointer(at(words, _OUT), zero)
    source, target = pointer(at(words, _SOURCE), 0), pointer(at(words, _TARGET), 0)
    x, x_step = pointer(at(words, _X), 0), pointer(at(words, _X_STEP), 0)
    w, w_step = pointer(at(words, _W), 0), pointer(at(words, _W_STEP), 0)
    for m in range(at(words, _M_ENV)):
        store(out, base + m * channels, zero)
    n = 0
    for k in range(at(words, _N_PAIRS)):
        i, o = at(source, k), at(target, k)
        one, two, here, there = at(x_step, i), at(w_step, o), at(x, i) + offset, at(w, o) + offset
        result, other = zero, zero
        for edge in range(first, last - 1, 2):
            left, right = here + edge * one, there + edge * two
            result = multiply_add(load(pointer(left, zero), 0, zero), load(pointer(right, zero), 0, zero), result)
            left, right = left + one, right + two
            other = multiply_add(load(pointer(left, zero), 0, zero), load(pointer(right, zero), 0, zero), other)
        if (last - first) % 2:
            left, right = here + (last - 1) * one, there + (last - 1) * two
            result = multiply_add(load(pointer(left, zero), 0, zero), load(pointer(right, zero), 0, zero), result)
        result = multiply_add(1.0, other, result)
        while n < at(entries, k + 1):
            where = base + at(component, n) * channels
            store(out, where, multiply_add(at(values, n), result, load(out, where, zero)))
            n += 1


@cache
def _kernel(dtype: torch.dtype, lanes: int) -> int:
    """The address of the kernel for vectors of `lanes` channels; the first call on a machine compiles it."""
    scalar = scalar_type(dtype)

    def tensor_product_kernel(data):
        _products(words_of(data), zeros(scalar, lanes))

    return compiled(tensor_product_kernel).address


def vector_lanes(channels: int, dtype: torch.dtype) -> int:
    """Vectors of at most two registers, of a power of two that divides the channels."""
    lanes = 2 * register_bytes() // dtype.itemsize
    while channels % lanes:
        lanes //= 2
    return lanes


def _run(terms: Terms, starts: Tensor, y: Tensor, operands: dict[int, np.ndarray], tensors: dict[int, Tensor]) -> None:
    n_rows, n_pairs, m_env = terms.shape
    n_atoms, channels, threads = len(starts) - 1, y.shape[2], torch.get_num_threads()
    lanes = vector_lanes(channels, y.dtype)
    scratch = torch.empty(threads * 2 * n_pairs * lanes, dtype=y.dtype)
    words = [0] * _N_WORDS
    words[_CHUNK:_ROWS] = [
        max(1, n_atoms // (8 * threads)), scratch.data_ptr(), n_atoms, channels, y.element_size(), n_rows, n_pairs,
        m_env, starts.data_ptr(),
    ]  # fmt: skip
    words[_ROWS:_X] = terms.addresses(y.dtype)
    words[_Y] = y.data_ptr()
    for slot, table in operands.items():
        words[slot] = address(table)
    for slot, tensor in tensors.items():
        words[slot] = tensor.data_ptr()
    launch(_kernel(y.dtype, lanes), words, n_atoms * n_pairs * channels > 20_000)


def products(
    terms: Terms,
    starts: Tensor,
    x: Sequence[Tensor],
    x_rows: Rows,
    y: Tensor,
    z_rows: Rows,
    second: tuple[Sequence[Tensor], Tensor] | None = None,
) -> list[Tensor]:
    """The products z, an array (E, m, C) for each size of `z_rows`, of the features x with the environments y
    (N, M, C), plus those of a `second` pair (x, y); edges starts[i] to starts[i+1] belong to atom i."""
    out = [y.new_empty(x[0].shape[0], int(size), y.shape[2]) for size in z_rows.sizes]
    operands = dict(zip((_X, _X_STEP), x_rows.addresses(x, y.shape[2]), strict=True))
    operands[_Z], operands[_Z_STEP] = z_rows.addresses(out, y.shape[2])
    tensors = {}
    if second is not None:
        operands[_X2], operands[_X2_STEP] = x_rows.addresses(second[0], y.shape[2])
        tensors[_Y2] = second[1]
    _run(terms, starts, y, operands, tensors)
    return out


def gradients(
    transposed: Terms, starts: Tensor, x: Sequence[Tensor], x_rows: Rows, y: Tensor, z: Sequence[Tensor], z_rows: Rows
) -> tuple[Tensor, ...]:
    """The gradients to the features, arrays like x, and to the environments (N, M, C) for gradients z of the products,
    in one pass over z. `transposed` are the terms with features and product exchanged."""
    out, out_y = [torch.empty_like(array) for array in x], torch.empty_like(y)
    operands = dict(zip((_X, _X_STEP), z_rows.addresses(z, y.shape[2]), strict=True))
    operands[_Z], operands[_Z_STEP] = x_rows.addresses(out, y.shape[2])
    operands[_W], operands[_W_STEP] = x_rows.addresses(x, y.shape[2])
    _run(transposed, starts, y, operands, {_OUT: out_y})
    return *out, out_y
