"""Fused CPU kernels of the depth-wise tensor products of edges; see `edge_tensor_product` for what they compute.

As in `convolution_numba`, coefficients are contracted with the harmonics of a block of edges first, A[k] = sum V Y,
with edges as vector lanes; what follows has channels as lanes. Rows are (path, component of the output), each with its
pairs k of (component of the input, A). Each result is written by one thread in one order.

Tensors are contiguous, on the CPU, of one dtype; all numbers of channels are multiples of `channel_step`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import gcd
from typing import NamedTuple

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
    multiply,
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

# The words of a kernel's table: progress, shape, tables, then the tensors (0 when a kernel does without).
_COUNTER, _TICKET, _CHUNK, _SCRATCH, _N_ITEMS, _N_PATHS, _N_PAIRS, _M_SH, _N_WEIGHTS, _SHARED, _HEADS = range(11)
_PATHS, _ROWS, _TARGET, _PAIRS, _SOURCE, _ENTRIES, _HARMONIC, _VALUES = range(11, 19)
_IN, _OUT, _GRADIENT, _Y, _W, _GY, _GW, _STARTS, _ORDER, _N_WORDS = range(19, 29)
# The columns of the table of paths, and of the tables of blocks (address, components times channels, channels).
_OF_SOURCE, _OF_TARGET, _FIRST_COLUMN, _FIRST_WEIGHT, _N_CHANNELS, _PATH_WORDS = range(6)
_ADDRESS, _STRIDE, _WIDTH, _BLOCK_WORDS = range(4)
_LINE = 64  # bytes: the edges of a block fill one cache line per component


class PathTerms(NamedTuple):
    """One path: its blocks, where its channels and weights begin, how many they are, its coefficients (m1, m2, m3)."""

    source: int
    target: int
    first_column: int
    first_weight: int
    channels: int
    first_harmonic: int
    tensor: np.ndarray


class Tables:
    """The coefficients of a coupling as the kernels read them."""

    def __init__(self, paths: Sequence[PathTerms], m_sh: int) -> None:
        head, rows, target, pairs, source, entries, harmonic, values = [], [0], [], [0], [], [0], [], []
        for path in paths:
            head.append(path[:5])
            for m3 in range(path.tensor.shape[2]):
                for m1 in range(path.tensor.shape[0]):
                    present = np.flatnonzero(path.tensor[m1, :, m3])
                    if len(present):
                        harmonic.extend(present + path.first_harmonic)
                        values.extend(path.tensor[m1, present, m3])
                        entries.append(len(harmonic))
                        source.append(m1)
                target.append(m3)
                pairs.append(len(source))
            rows.append(len(target))
        self.n_paths, self.n_pairs, self.m_sh = len(paths), len(source), m_sh
        self.n_weights = sum(path.channels for path in paths)
        self.divisor = gcd(*(path.channels for path in paths), *(path.first_column for path in paths))
        lists = (np.concatenate(head), rows, target, pairs, source, entries, harmonic)
        self._lists = [torch.from_numpy(np.array(part, dtype=np.int64)) for part in lists]
        self._values = {dtype: torch.tensor(values, dtype=dtype) for dtype in (torch.float32, torch.float64)}

    def addresses(self, dtype: torch.dtype) -> list[int]:
        """Where the tables lie; they live as long as this object."""
        return [tensor.data_ptr() for tensor in (*self._lists, self._values[dtype])]


@njit
def _contract(words, harmonics, edges, by_lane, a, zero):
    """A[k] = sum over entries of V Y for a block of edges, edges as lanes."""
    m_sh, lanes = at(words, _M_SH), lanes_of(zero)
    entries, harmonic = pointer(at(words, _ENTRIES), 0), pointer(at(words, _HARMONIC), 0)
    values = pointer(at(words, _VALUES), zero)
    for lane in range(lanes):
        base = at(edges, lane) * m_sh
        for m in range(m_sh):
            put(by_lane, m * lanes + lane, at(harmonics, base + m))
    n = 0
    for k in range(at(words, _N_PAIRS)):
        result = zero
        while n < at(entries, k + 1):
            result = multiply_add(at(values, n), load(by_lane, at(harmonic, n) * lanes, zero), result)
            n += 1
        store(a, k * lanes, result)


@njit
def _expand(words, da, edges, count, by_lane, gradients, zero):
    """The transpose of `_contract`: gradients of A, edges as lanes, become gradients of the harmonics."""
    m_sh, lanes = at(words, _M_SH), lanes_of(zero)
    entries, harmonic = pointer(at(words, _ENTRIES), 0), pointer(at(words, _HARMONIC), 0)
    values = pointer(at(words, _VALUES), zero)
    for m in range(m_sh):
        store(by_lane, m * lanes, zero)
    n = 0
    for k in range(at(words, _N_PAIRS)):
        gradient = load(da, k * lanes, zero)
        while n < at(entries, k + 1):
            where = at(harmonic, n) * lanes
            store(by_lane, where, multiply_add(at(values, n), gradient, load(by_lane, where, zero)))
            n += 1
    for lane in range(count):
        base = at(edges, lane) * m_sh
        for m in range(m_sh):
            put(gradients, base + m, at(by_lane, m * lanes + lane))


@njit
def _scratch_lines(m_sh, n_pairs, heads):
    """Cache lines of a thread's memory: edges of a block, harmonics, A, its gradient, then four lines for each edge of
    a block and head."""
    return 8 + m_sh + 2 * n_pairs + 64 * (heads + 1)


@njit
def _scratch(words, lane_zero, zero):
    lines = _scratch_lines(at(words, _M_SH), at(words, _N_PAIRS), at(words, _HEADS))
    base = at(words, _SCRATCH) + draw(words, _TICKET, 1) * lines * _LINE
    edges, by_lane = pointer(base, 0), pointer(base + 8 * _LINE, lane_zero)
    first = base + (8 + at(words, _M_SH)) * _LINE
    second = first + at(words, _N_PAIRS) * _LINE
    free = second + at(words, _N_PAIRS) * _LINE
    return edges, by_lane, pointer(first, lane_zero), pointer(second, lane_zero), pointer(free, zero)


@njit
def _path(words, path, column):
    return at(pointer(at(words, _PATHS), 0), path * _PATH_WORDS + column)


@njit
def _block(words, table, block, column):
    return at(pointer(at(words, table), 0), block * _BLOCK_WORDS + column)


@njit
def _product(words, lane_zero, zero):
    """The products of every edge."""
    edges, by_lane, a, _, _ = _scratch(words, lane_zero, zero)
    n_edges, lanes, shared = at(words, _N_ITEMS), lanes_of(lane_zero), at(words, _SHARED)
    rows, target = pointer(at(words, _ROWS), 0), pointer(at(words, _TARGET), 0)
    pairs, source = pointer(at(words, _PAIRS), 0), pointer(at(words, _SOURCE), 0)
    y, w, n_weights = pointer(at(words, _Y), zero), pointer(at(words, _W), zero), at(words, _N_WEIGHTS)
    while True:
        first = draw(words, _COUNTER, lanes)
        if first >= n_edges:
            break
        count = min(lanes, n_edges - first)
        for lane in range(lanes):
            put(edges, lane, first + min(lane, count - 1))
        _contract(words, y, edges, by_lane, a, lane_zero)
        for path in range(at(words, _N_PATHS)):
            i, o, n = _path(words, path, _OF_SOURCE), _path(words, path, _OF_TARGET), _path(words, path, _N_CHANNELS)
            x, x_stride = pointer(_block(words, _IN, i, _ADDRESS), zero), _block(words, _IN, i, _STRIDE)
            t, t_stride = pointer(_block(words, _OUT, o, _ADDRESS), zero), _block(words, _OUT, o, _STRIDE)
            width, column = _block(words, _OUT, o, _WIDTH), _path(words, path, _FIRST_COLUMN)
            for lane in range(count):
                edge = first + lane
                x_base, t_base = edge * x_stride, edge * t_stride + column
                w_base = edge // shared * n_weights + _path(words, path, _FIRST_WEIGHT)
                for channel in range(0, n, lanes_of(zero)):
                    weight = load(w, w_base + channel, zero)
                    for row in range(at(rows, path), at(rows, path + 1)):
                        inner = zero
                        for k in range(at(pairs, row), at(pairs, row + 1)):
                            xk = load(x, x_base + at(source, k) * n + channel, zero)
                            inner = multiply_add(at(a, k * lanes + lane), xk, inner)
                        store(t, t_base + at(target, row) * width + channel, multiply(weight, inner))


@njit
def _product_gradient(words, lane_zero, zero):
    """Gradients to features, harmonics and weights of every edge."""
    edges, by_lane, a, da, _ = _scratch(words, lane_zero, zero)
    n_edges, lanes, shared = at(words, _N_ITEMS), lanes_of(lane_zero), at(words, _SHARED)
    rows, target = pointer(at(words, _ROWS), 0), pointer(at(words, _TARGET), 0)
    pairs, source = pointer(at(words, _PAIRS), 0), pointer(at(words, _SOURCE), 0)
    y, w, n_weights = pointer(at(words, _Y), zero), pointer(at(words, _W), zero), at(words, _N_WEIGHTS)
    gy, gw = pointer(at(words, _GY), zero), pointer(at(words, _GW), zero)
    while True:
        first = draw(words, _COUNTER, lanes)
        if first >= n_edges:
            break
        count = min(lanes, n_edges - first)
        for lane in range(lanes):
            put(edges, lane, first + min(lane, count - 1))
        _contract(words, y, edges, by_lane, a, lane_zero)
        for path in range(at(words, _N_PATHS)):
            i, o, n = _path(words, path, _OF_SOURCE), _path(words, path, _OF_TARGET), _path(words, path, _N_CHANNELS)
            x, x_stride = pointer(_block(words, _IN, i, _ADDRESS), zero), _block(words, _IN, i, _STRIDE)
            gx = pointer(_block(words, _GRADIENT, i, _ADDRESS), zero)
            g, g_stride = pointer(_block(words, _OUT, o, _ADDRESS), zero), _block(words, _OUT, o, _STRIDE)
            width, column = _block(words, _OUT, o, _WIDTH), _path(words, path, _FIRST_COLUMN)
            for lane in range(count):
                edge = first + lane
                x_base, g_base = edge * x_stride, edge * g_stride + column
                w_base = edge // shared * n_weights + _path(words, path, _FIRST_WEIGHT)
                second = edge % shared > 0
                for channel in range(0, n, lanes_of(zero)):
                    weight = load(w, w_base + channel, zero)
                    gradient = load(gw, w_base + channel, zero) if second else zero
                    for row in range(at(rows, path), at(rows, path + 1)):
                        gr = load(g, g_base + at(target, row) * width + channel, zero)
                        scaled = multiply(weight, gr)
                        inner = zero
                        for k in range(at(pairs, row), at(pairs, row + 1)):
                            where = x_base + at(source, k) * n + channel
                            xk, ak = load(x, where, zero), at(a, k * lanes + lane)
                            inner = multiply_add(ak, xk, inner)
                            store(gx, where, multiply_add(ak, scaled, load(gx, where, zero)))
                            change = total(multiply(scaled, xk))
                            if channel > 0:
                                change += at(da, k * lanes + lane)
                            put(da, k * lanes + lane, change)
                        gradient = multiply_add(gr, inner, gradient)
                    store(gw, w_base + channel, gradient)
        _expand(words, da, edges, count, by_lane, gy, lane_zero)


@njit
def _attended(words, lane_zero, zero):
    """The sums over the edges of every atom, one for each head."""
    edges, by_lane, a, _, inners = _scratch(words, lane_zero, zero)
    starts, order = pointer(at(words, _STARTS), 0), pointer(at(words, _ORDER), 0)
    rows, target = pointer(at(words, _ROWS), 0), pointer(at(words, _TARGET), 0)
    pairs, source = pointer(at(words, _PAIRS), 0), pointer(at(words, _SOURCE), 0)
    y, attention = pointer(at(words, _Y), zero), pointer(at(words, _W), zero)
    lanes, heads, step, n_atoms = lanes_of(lane_zero), at(words, _HEADS), lanes_of(zero), at(words, _N_ITEMS)
    while True:
        atom = draw(words, _COUNTER, 1)
        if atom >= n_atoms:
            break
        first, last = at(starts, atom), at(starts, atom + 1)
        begin = first
        while begin < last:
            count = min(lanes, last - begin)
            for lane in range(lanes):
                edge = begin + min(lane, count - 1)
                put(edges, lane, edge if at(words, _ORDER) == 0 else at(order, edge))
            _contract(words, y, edges, by_lane, a, lane_zero)
            for path in range(at(words, _N_PATHS)):
                i, o, n = (
                    _path(words, path, _OF_SOURCE),
                    _path(words, path, _OF_TARGET),
                    _path(words, path, _N_CHANNELS),
                )
                x, x_stride = pointer(_block(words, _IN, i, _ADDRESS), zero), _block(words, _IN, i, _STRIDE)
                t, t_stride = pointer(_block(words, _OUT, o, _ADDRESS), zero), _block(words, _OUT, o, _STRIDE)
                width, column = _block(words, _OUT, o, _WIDTH), _path(words, path, _FIRST_COLUMN)
                for row in range(at(rows, path), at(rows, path + 1)):
                    for channel in range(0, n, step):
                        for lane in range(count):
                            x_base = at(edges, lane) * x_stride + channel
                            inner = zero
                            for k in range(at(pairs, row), at(pairs, row + 1)):
                                xk = load(x, x_base + at(source, k) * n, zero)
                                inner = multiply_add(at(a, k * lanes + lane), xk, inner)
                            store(inners, lane * step, inner)
                        where = atom * t_stride + at(target, row) * width + column + channel
                        for head in range(heads):
                            result = zero if begin == first else load(t, where, zero)
                            for lane in range(count):
                                weight = at(attention, at(edges, lane) * heads + head)
                                result = multiply_add(weight, load(inners, lane * step, zero), result)
                            store(t, where, result)
                            where += n_atoms * t_stride
            begin += count


@njit
def _attended_gradient(words, lane_zero, zero):
    """Gradients to features, harmonics and attention of every edge."""
    edges, by_lane, a, da, sums = _scratch(words, lane_zero, zero)
    starts, order = pointer(at(words, _STARTS), 0), pointer(at(words, _ORDER), 0)
    rows, target = pointer(at(words, _ROWS), 0), pointer(at(words, _TARGET), 0)
    pairs, source = pointer(at(words, _PAIRS), 0), pointer(at(words, _SOURCE), 0)
    y, attention = pointer(at(words, _Y), zero), pointer(at(words, _W), zero)
    gy, ga = pointer(at(words, _GY), zero), pointer(at(words, _GW), zero)
    lanes, heads, step, n_atoms = lanes_of(lane_zero), at(words, _HEADS), lanes_of(zero), at(words, _N_ITEMS)
    while True:
        atom = draw(words, _COUNTER, 1)
        if atom >= n_atoms:
            break
        last = at(starts, atom + 1)
        begin = at(starts, atom)
        while begin < last:
            count = min(lanes, last - begin)
            for lane in range(lanes):
                edge = begin + min(lane, count - 1)
                put(edges, lane, edge if at(words, _ORDER) == 0 else at(order, edge))
            _contract(words, y, edges, by_lane, a, lane_zero)
            for where in range(0, count * heads * step, step):
                store(sums, where, zero)
            for path in range(at(words, _N_PATHS)):
                i, o, n = (
                    _path(words, path, _OF_SOURCE),
                    _path(words, path, _OF_TARGET),
                    _path(words, path, _N_CHANNELS),
                )
                x, x_stride = pointer(_block(words, _IN, i, _ADDRESS), zero), _block(words, _IN, i, _STRIDE)
                gx = pointer(_block(words, _GRADIENT, i, _ADDRESS), zero)
                g, g_stride = pointer(_block(words, _OUT, o, _ADDRESS), zero), _block(words, _OUT, o, _STRIDE)
                width, column = _block(words, _OUT, o, _WIDTH), _path(words, path, _FIRST_COLUMN)
                for row in range(at(rows, path), at(rows, path + 1)):
                    for channel in range(0, n, step):
                        first = atom * g_stride + at(target, row) * width + column + channel
                        for lane in range(count):
                            edge = at(edges, lane)
                            x_base = edge * x_stride + channel
                            inner = zero
                            for k in range(at(pairs, row), at(pairs, row + 1)):
                                xk = load(x, x_base + at(source, k) * n, zero)
                                inner = multiply_add(at(a, k * lanes + lane), xk, inner)
                            mixed, where, here = zero, first, lane * heads * step
                            for head in range(heads):
                                gr = load(g, where, zero)
                                mixed = multiply_add(at(attention, edge * heads + head), gr, mixed)
                                store(sums, here, multiply_add(gr, inner, load(sums, here, zero)))
                                where += n_atoms * g_stride
                                here += step
                            for k in range(at(pairs, row), at(pairs, row + 1)):
                                place = x_base + at(source, k) * n
                                ak = at(a, k * lanes + lane)
                                store(gx, place, multiply_add(ak, mixed, load(gx, place, zero)))
                                change = total(multiply(mixed, load(x, place, zero)))
                                if channel > 0:
                                    change += at(da, k * lanes + lane)
                                put(da, k * lanes + lane, change)
            _expand(words, da, edges, count, by_lane, gy, lane_zero)
            for lane in range(count):
                for head in range(heads):
                    put(ga, at(edges, lane) * heads + head, total(load(sums, (lane * heads + head) * step, zero)))
            begin += count


_KERNELS = {"product": 0, "product_gradient": 1, "attended": 2, "attended_gradient": 3}


@cache
def _kernel(number: int, dtype: torch.dtype, lanes: int) -> int:
    """The address of a kernel for vectors of `lanes` channels; the first call on a machine compiles it."""
    scalar, by_edge = scalar_type(dtype), _LINE // dtype.itemsize

    def product_kernel(data):
        _product(words_of(data), zeros(scalar, by_edge), zeros(scalar, lanes))

    def product_gradient_kernel(data):
        _product_gradient(words_of(data), zeros(scalar, by_edge), zeros(scalar, lanes))

    def attended_kernel(data):
        _attended(words_of(data), zeros(scalar, by_edge), zeros(scalar, lanes))

    def attended_gradient_kernel(data):
        _attended_gradient(words_of(data), zeros(scalar, by_edge), zeros(scalar, lanes))

    kernels = (product_kernel, product_gradient_kernel, attended_kernel, attended_gradient_kernel)
    return compiled(kernels[number]).address


def channel_step(dtype: torch.dtype) -> int:
    """All numbers of channels must be multiples of this: one vector register, at least 16 bytes."""
    return register_bytes() // dtype.itemsize


def _blocks(tensors: Sequence[Tensor]) -> Tensor:
    """The table of blocks ([H,] E, 2l+1, C): address, what separates edges or atoms, channels."""
    return torch.tensor([[t.data_ptr(), t.shape[-1] * t.shape[-2], t.shape[-1]] for t in tensors], dtype=torch.int64)


def _run(
    kernel: str,
    tables: Tables,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    gradients: Sequence[Tensor],
    n_items: int,
    heads: int,
    shared: int,
    tensors: dict[int, Tensor | None],
) -> None:
    dtype = inputs[0].dtype
    step, threads = channel_step(dtype), torch.get_num_threads()
    lanes = next(step * n for n in (4, 2, 1) if tables.divisor % (step * n) == 0)
    lines = _scratch_lines.py_func(tables.m_sh, tables.n_pairs, heads)
    scratch = torch.empty(threads * lines * _LINE, dtype=torch.uint8)
    held = [_blocks(group) for group in (inputs, outputs, gradients)]
    words = [0] * _N_WORDS
    words[_TICKET:_PATHS] = [
        0, 1, scratch.data_ptr(), n_items, tables.n_paths, tables.n_pairs, tables.m_sh, tables.n_weights, shared, heads,
    ]  # fmt: skip
    words[_PATHS:_IN] = tables.addresses(dtype)
    words[_IN:_Y] = [table.data_ptr() for table in held]
    for slot, tensor in tensors.items():
        words[slot] = 0 if tensor is None else tensor.data_ptr()
    work = len(inputs[0]) * tables.n_pairs * tables.n_weights
    launch(_kernel(_KERNELS[kernel], dtype, lanes), words, work > 1_000_000)


def product(tables: Tables, x: Sequence[Tensor], y: Tensor, w: Tensor, shared: int, out: Sequence[Tensor]) -> None:
    """Writes the products of x (E, 2l+1, C) each, y (E, M), w (E / shared, n_weights) to out (E, 2l+1, K) each."""
    _run("product", tables, x, out, (), len(y), 0, shared, {_Y: y, _W: w})


def product_gradient(
    tables: Tables,
    x: Sequence[Tensor],
    y: Tensor,
    w: Tensor,
    shared: int,
    g: Sequence[Tensor],
    out: tuple[Sequence[Tensor], Tensor, Tensor],
) -> None:
    """Writes the gradients to x (which must hold zeros), y and w for the gradients g (E, 2l+1, K) each."""
    gx, gy, gw = out
    _run("product_gradient", tables, x, g, gx, len(y), 0, shared, {_Y: y, _W: w, _GY: gy, _GW: gw})


def attended(
    tables: Tables,
    x: Sequence[Tensor],
    y: Tensor,
    attention: Tensor,
    edges: tuple[Tensor, Tensor | None],
    out: Sequence[Tensor],
) -> None:
    """Writes the attended sums to out (H, N, 2l+1, K) each; `edges` are starts (N+1,) and order (E,)."""
    tensors = {_Y: y, _W: attention, _STARTS: edges[0], _ORDER: edges[1]}
    _run("attended", tables, x, out, (), len(edges[0]) - 1, attention.shape[1], 1, tensors)


def attended_gradient(
    tables: Tables,
    x: Sequence[Tensor],
    y: Tensor,
    attention: Tensor,
    edges: tuple[Tensor, Tensor | None],
    g: Sequence[Tensor],
    out: tuple[Sequence[Tensor], Tensor, Tensor],
) -> None:
    """Writes the gradients to x (which must hold zeros), y and attention for the gradients g (H, N, 2l+1, K) each."""
    gx, gy, ga = out
    tensors = {_Y: y, _W: attention, _GY: gy, _GW: ga, _STARTS: edges[0], _ORDER: edges[1]}
    _run("attended_gradient", tables, x, g, gx, len(edges[0]) - 1, attention.shape[1], 1, tensors)
