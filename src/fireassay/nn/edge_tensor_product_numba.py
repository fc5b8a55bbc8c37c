"""Fused CPU kernels of the depth-wise tensor products of edges; see `edge_tensor_product` for what they compute.

As in `convolution_numba`, coefficients are contracted with the harmonics of a block of edges first, A[k] = sum V Y,
with edges as vector lanes; what follows has channels as lanes. Rows are (path, component of the output), each with its
pairs k of (component of the input, A); "back" rows are (path, component of the input), with the same pairs. Each
result is written by one thread in one order.

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

from fireassay.nn.harmonics_numba import contract, expand
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
_COUNTER, _TICKET, _SCRATCH, _BEGIN, _END, _N_PATHS, _N_PAIRS, _M_SH, _N_WEIGHTS, _SHARED, _HEADS = range(11)
_PATHS, _ROWS, _TARGET, _PAIRS, _SOURCE, _BACK_ROWS, _BACK_SOURCE, _BACK_PAIRS, _BACK_TARGET, _BACK_K = range(11, 21)
_ENTRIES, _HARMONIC, _VALUES, _IN, _OUT, _GRADIENT, _Y, _W, _GY, _GW, _STARTS, _ORDER, _N_WORDS = range(21, 34)
_COUPLED = (_M_SH, _N_PAIRS, _ENTRIES, _HARMONIC, _VALUES)
# The columns of the table of paths, and of the tables of blocks (address, components times channels, channels).
_OF_SOURCE, _OF_TARGET, _FIRST_COLUMN, _FIRST_WEIGHT, _N_CHANNELS, _IS_FIRST, _PATH_WORDS = range(7)
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
        back_rows, back_source, back_pairs, back_target, back_k = [0], [], [0], [], []
        for number, path in enumerate(paths):
            head.append([*path[:5], path.source not in {other.source for other in paths[:number]}])
            places = np.full((path.tensor.shape[0], path.tensor.shape[2]), -1)
            for m3 in range(path.tensor.shape[2]):
                for m1 in range(path.tensor.shape[0]):
                    present = np.flatnonzero(path.tensor[m1, :, m3])
                    if len(present):
                        places[m1, m3] = len(source)
                        harmonic.extend(present + path.first_harmonic)
                        values.extend(path.tensor[m1, present, m3])
                        entries.append(len(harmonic))
                        source.append(m1)
                target.append(m3)
                pairs.append(len(source))
            rows.append(len(target))
            for m1, row in enumerate(places):
                back_source.append(m1)
                back_target.extend(np.flatnonzero(row >= 0))
                back_k.extend(row[row >= 0])
                back_pairs.append(len(back_k))
            back_rows.append(len(back_source))
        self.n_paths, self.n_pairs, self.m_sh = len(paths), len(source), m_sh
        self.n_weights = sum(path.channels for path in paths)
        self.divisor = gcd(*(path.channels for path in paths))
        back = (back_rows, back_source, back_pairs, back_target, back_k)
        lists = (np.concatenate(head), rows, target, pairs, source, *back, entries, harmonic)
        self._lists = [torch.from_numpy(np.array(part, dtype=np.int64)) for part in lists]
        self._values = {dtype: torch.tensor(values, dtype=dtype) for dtype in (torch.float32, torch.float64)}

    def addresses(self, dtype: torch.dtype) -> list[int]:
        """Where the tables lie; they live as long as this object."""
        return [tensor.data_ptr() for tensor in (*self._lists, self._values[dtype])]


@njit(forceinline=True)
def _scratch_lines(m_sh, n_pairs, heads):
    """Cache lines of a thread's memory: edges of a block, harmonics, A, its gradient, vectors of up to four lines for
    each edge of a block or component of the output (of which there are fewer), a number for each edge and head."""
    return 8 + m_sh + 2 * n_pairs + 64 + heads


@njit(forceinline=True)
def _scratch(words, lane_zero, zero):
    lines = _scratch_lines(at(words, _M_SH), at(words, _N_PAIRS), at(words, _HEADS))
    base = at(words, _SCRATCH) + draw(words, _TICKET, 1) * lines * _LINE
    edges, by_lane = pointer(base, 0), pointer(base + 8 * _LINE, lane_zero)
    first = base + (8 + at(words, _M_SH)) * _LINE
    second = first + at(words, _N_PAIRS) * _LINE
    vectors = second + at(words, _N_PAIRS) * _LINE
    a, da = pointer(first, lane_zero), pointer(second, lane_zero)
    return edges, by_lane, a, da, pointer(vectors, zero), pointer(vectors + 64 * _LINE, zero)


@njit(forceinline=True)
def _path(words, path, column):
    return at(pointer(at(words, _PATHS), 0), path * _PATH_WORDS + column)


@njit(forceinline=True)
def _block(words, table, block, column):
    return at(words, at(words, table) + block * _BLOCK_WORDS + column)


@njit(forceinline=True)
def _product_path(words, path, first, count, a, lanes, zero):
    """One path of the products of a block of edges."""
    rows, target = pointer(at(words, _ROWS), 0), pointer(at(words, _TARGET), 0)
    pairs, source = pointer(at(words, _PAIRS), 0), pointer(at(words, _SOURCE), 0)
    i, o, n = _path(words, path, _OF_SOURCE), _path(words, path, _OF_TARGET), _path(words, path, _N_CHANNELS)
    x, x_stride = pointer(_block(words, _IN, i, _ADDRESS), zero), _block(words, _IN, i, _STRIDE)
    t, t_stride = pointer(_block(words, _OUT, o, _ADDRESS), zero), _block(words, _OUT, o, _STRIDE)
    width, column = _block(words, _OUT, o, _WIDTH), _path(words, path, _FIRST_COLUMN)
    w, n_weights, begin = pointer(at(words, _W), zero), at(words, _N_WEIGHTS), at(words, _BEGIN)
    shared, first_weight = at(words, _SHARED), _path(words, path, _FIRST_WEIGHT)
    start, stop = at(rows, path), at(rows, path + 1)
    for lane in range(count):
        edge = first + lane
        x_base, t_base = edge * x_stride, (edge - begin) * t_stride + column
        w_base = edge // shared * n_weights + first_weight
        for channel in range(0, n, lanes_of(zero)):
            weight = load(w, w_base + channel, zero)
            for row in range(start, stop):
                inner = zero
                for k in range(at(pairs, row), at(pairs, row + 1)):
                    xk = load(x, x_base + at(source, k) * n + channel, zero)
                    inner = multiply_add(at(a, k * lanes + lane), xk, inner)
                store(t, t_base + at(target, row) * width + channel, multiply(weight, inner))


@njit(forceinline=True)
def _product(words, lane_zero, zero, wide):
    """The products of every edge."""
    edges, by_lane, a, _, _, _ = _scratch(words, lane_zero, zero)
    lanes, y = lanes_of(lane_zero), pointer(at(words, _Y), zero)
    while True:
        first = at(words, _BEGIN) + draw(words, _COUNTER, lanes)
        if first >= at(words, _END):
            break
        count = min(lanes, at(words, _END) - first)
        for lane in range(lanes):
            put(edges, lane, first + min(lane, count - 1))
        contract(words, _COUPLED, at(words, _M_SH), y, edges, by_lane, a, lane_zero)
        for path in range(at(words, _N_PATHS)):
            if _path(words, path, _N_CHANNELS) % lanes_of(wide) == 0:
                _product_path(words, path, first, count, a, lanes, wide)
            else:
                _product_path(words, path, first, count, a, lanes, zero)


@njit(forceinline=True)
def _product_gradient_path(words, path, first, count, scratch, lanes, zero):
    """One path's part of the gradients of a block of edges."""
    a, da = scratch
    rows, source = pointer(at(words, _BACK_ROWS), 0), pointer(at(words, _BACK_SOURCE), 0)
    pairs, target = pointer(at(words, _BACK_PAIRS), 0), pointer(at(words, _BACK_TARGET), 0)
    numbers = pointer(at(words, _BACK_K), 0)
    i, o, n = _path(words, path, _OF_SOURCE), _path(words, path, _OF_TARGET), _path(words, path, _N_CHANNELS)
    x, x_stride = pointer(_block(words, _IN, i, _ADDRESS), zero), _block(words, _IN, i, _STRIDE)
    gx, fresh = pointer(_block(words, _GRADIENT, i, _ADDRESS), zero), _path(words, path, _IS_FIRST)
    g, g_stride = pointer(_block(words, _OUT, o, _ADDRESS), zero), _block(words, _OUT, o, _STRIDE)
    width, column = _block(words, _OUT, o, _WIDTH), _path(words, path, _FIRST_COLUMN)
    w, gw, n_weights = pointer(at(words, _W), zero), pointer(at(words, _GW), zero), at(words, _N_WEIGHTS)
    shared, first_weight, begin = at(words, _SHARED), _path(words, path, _FIRST_WEIGHT), at(words, _BEGIN)
    start, stop = at(rows, path), at(rows, path + 1)
    for lane in range(count):
        edge = first + lane
        w_base = edge // shared * n_weights + first_weight
        second = edge % shared > 0
        for channel in range(0, n, lanes_of(zero)):
            x_base, g_base = edge * x_stride + channel, (edge - begin) * g_stride + column + channel
            weight = load(w, w_base + channel, zero)
            gradient = load(gw, w_base + channel, zero) if second else zero
            for row in range(start, stop):
                where = x_base + at(source, row) * n
                xm = load(x, where, zero)
                scaled, inner = multiply(weight, xm), zero
                for pair in range(at(pairs, row), at(pairs, row + 1)):
                    gr = load(g, g_base + at(target, pair) * width, zero)
                    k = at(numbers, pair) * lanes + lane
                    inner = multiply_add(at(a, k), gr, inner)
                    change = total(multiply(scaled, gr))
                    if channel > 0:
                        change += at(da, k)
                    put(da, k, change)
                gradient = multiply_add(xm, inner, gradient)
                before = zero if fresh else load(gx, where, zero)
                store(gx, where, multiply_add(weight, inner, before))
            store(gw, w_base + channel, gradient)


@njit(forceinline=True)
def _product_gradient(words, lane_zero, zero, wide):
    """Gradients to features, harmonics and weights of every edge."""
    edges, by_lane, a, da, _, _ = _scratch(words, lane_zero, zero)
    lanes, y, gy = lanes_of(lane_zero), pointer(at(words, _Y), zero), pointer(at(words, _GY), zero)
    while True:
        first = at(words, _BEGIN) + draw(words, _COUNTER, lanes)
        if first >= at(words, _END):
            break
        count = min(lanes, at(words, _END) - first)
        for lane in range(lanes):
            put(edges, lane, first + min(lane, count - 1))
        contract(words, _COUPLED, at(words, _M_SH), y, edges, by_lane, a, lane_zero)
        for path in range(at(words, _N_PATHS)):
            if _path(words, path, _N_CHANNELS) % lanes_of(wide) == 0:
                _product_gradient_path(words, path, first, count, (a, da), lanes, wide)
            else:
                _product_gradient_path(words, path, first, count, (a, da), lanes, zero)
        expand(words, _COUPLED, at(words, _M_SH), da, edges, count, by_lane, gy, lane_zero)


@njit(forceinline=True)
def _attended_path(words, path, atom, count, is_new, edges, a, inners, lanes, zero):
    """One path of the sums of an atom over a block of its edges."""
    rows, target = pointer(at(words, _ROWS), 0), pointer(at(words, _TARGET), 0)
    pairs, source = pointer(at(words, _PAIRS), 0), pointer(at(words, _SOURCE), 0)
    attention, heads, step = pointer(at(words, _W), zero), at(words, _HEADS), lanes_of(zero)
    i, o, n = _path(words, path, _OF_SOURCE), _path(words, path, _OF_TARGET), _path(words, path, _N_CHANNELS)
    x, x_stride = pointer(_block(words, _IN, i, _ADDRESS), zero), _block(words, _IN, i, _STRIDE)
    t, t_stride = pointer(_block(words, _OUT, o, _ADDRESS), zero), _block(words, _OUT, o, _STRIDE)
    width, column, n_atoms = _block(words, _OUT, o, _WIDTH), _path(words, path, _FIRST_COLUMN), at(words, _END)
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
                result = zero if is_new else load(t, where, zero)
                for lane in range(count):
                    weight = at(attention, at(edges, lane) * heads + head)
                    result = multiply_add(weight, load(inners, lane * step, zero), result)
                store(t, where, result)
                where += n_atoms * t_stride


@njit(forceinline=True)
def _next_edges(words, begin, last, edges, lanes):
    """Writes the next edges of an atom, at most `lanes`; lanes to spare repeat the last. Returns how many they are."""
    order, count = pointer(at(words, _ORDER), 0), min(lanes, last - begin)
    for lane in range(lanes):
        edge = begin + min(lane, count - 1)
        put(edges, lane, edge if at(words, _ORDER) == 0 else at(order, edge))
    return count


@njit(forceinline=True)
def _attended(words, lane_zero, zero, wide):
    """The sums over the edges of every atom, one for each head."""
    edges, by_lane, a, _, inners, _ = _scratch(words, lane_zero, zero)
    starts, lanes, y = pointer(at(words, _STARTS), 0), lanes_of(lane_zero), pointer(at(words, _Y), zero)
    while True:
        atom = draw(words, _COUNTER, 1)
        if atom >= at(words, _END):
            break
        begin, last, is_new = at(starts, atom), at(starts, atom + 1), True
        while begin < last:
            count = _next_edges(words, begin, last, edges, lanes)
            contract(words, _COUPLED, at(words, _M_SH), y, edges, by_lane, a, lane_zero)
            for path in range(at(words, _N_PATHS)):
                if _path(words, path, _N_CHANNELS) % lanes_of(wide) == 0:
                    _attended_path(words, path, atom, count, is_new, edges, a, inners, lanes, wide)
                else:
                    _attended_path(words, path, atom, count, is_new, edges, a, inners, lanes, zero)
            begin += count
            is_new = False


@njit(forceinline=True)
def _attended_gradient_path(words, path, atom, count, edges, scratch, lanes, zero):
    """One path's part of the gradients of a block of an atom's edges, four heads at a time.

    The scratch holds the path's gradients times attention, by component, then those to attention, by edge and head.
    """
    a, da, mixed, sums = scratch
    rows, target = pointer(at(words, _ROWS), 0), pointer(at(words, _TARGET), 0)
    pairs, source = pointer(at(words, _PAIRS), 0), pointer(at(words, _SOURCE), 0)
    back, component = pointer(at(words, _BACK_ROWS), 0), pointer(at(words, _BACK_SOURCE), 0)
    back_pairs, back_target = pointer(at(words, _BACK_PAIRS), 0), pointer(at(words, _BACK_TARGET), 0)
    numbers = pointer(at(words, _BACK_K), 0)
    attention, heads, step = pointer(at(words, _W), zero), at(words, _HEADS), lanes_of(zero)
    i, o, n = _path(words, path, _OF_SOURCE), _path(words, path, _OF_TARGET), _path(words, path, _N_CHANNELS)
    x, x_stride = pointer(_block(words, _IN, i, _ADDRESS), zero), _block(words, _IN, i, _STRIDE)
    gx, fresh = pointer(_block(words, _GRADIENT, i, _ADDRESS), zero), _path(words, path, _IS_FIRST)
    g, g_stride = pointer(_block(words, _OUT, o, _ADDRESS), zero), _block(words, _OUT, o, _STRIDE)
    width, apart = _block(words, _OUT, o, _WIDTH), at(words, _END) * g_stride
    first = atom * g_stride + _path(words, path, _FIRST_COLUMN)
    start, stop = at(rows, path), at(rows, path + 1)
    for channel in range(0, n, step):
        for lane in range(count):
            edge = at(edges, lane)
            x_base = edge * x_stride + channel
            for head in range(0, heads, 4):
                # Of a last group that is not full, the last head stands in for those that are missing.
                h1, h2, h3 = min(head + 1, heads - 1), min(head + 2, heads - 1), min(head + 3, heads - 1)
                w0, w1 = at(attention, edge * heads + head), at(attention, edge * heads + h1)
                w2, w3 = at(attention, edge * heads + h2), at(attention, edge * heads + h3)
                w1, w2, w3 = w1 * (h1 == head + 1), w2 * (h2 == head + 2), w3 * (h3 == head + 3)
                s0, s1, s2, s3 = zero, zero, zero, zero
                for row in range(start, stop):
                    inner = zero
                    for k in range(at(pairs, row), at(pairs, row + 1)):
                        xk = load(x, x_base + at(source, k) * n, zero)
                        inner = multiply_add(at(a, k * lanes + lane), xk, inner)
                    where = first + at(target, row) * width + channel
                    g0, g1 = load(g, where + head * apart, zero), load(g, where + h1 * apart, zero)
                    g2, g3 = load(g, where + h2 * apart, zero), load(g, where + h3 * apart, zero)
                    result = load(mixed, at(target, row) * step, zero) if head > 0 else zero
                    result = multiply_add(w0, g0, multiply_add(w1, g1, result))
                    result = multiply_add(w2, g2, multiply_add(w3, g3, result))
                    store(mixed, at(target, row) * step, result)
                    s0, s1 = multiply_add(g0, inner, s0), multiply_add(g1, inner, s1)
                    s2, s3 = multiply_add(g2, inner, s2), multiply_add(g3, inner, s3)
                here = lane * heads
                put(sums, here + head, at(sums, here + head) + total(s0))
                if h1 == head + 1:
                    put(sums, here + h1, at(sums, here + h1) + total(s1))
                if h2 == head + 2:
                    put(sums, here + h2, at(sums, here + h2) + total(s2))
                if h3 == head + 3:
                    put(sums, here + h3, at(sums, here + h3) + total(s3))
            for row in range(at(back, path), at(back, path + 1)):
                where = x_base + at(component, row) * n
                xm, result = load(x, where, zero), zero
                if not fresh:
                    result = load(gx, where, zero)
                for pair in range(at(back_pairs, row), at(back_pairs, row + 1)):
                    gr = load(mixed, at(back_target, pair) * step, zero)
                    k = at(numbers, pair) * lanes + lane
                    result = multiply_add(at(a, k), gr, result)
                    change = total(multiply(xm, gr))
                    if channel > 0:
                        change += at(da, k)
                    put(da, k, change)
                store(gx, where, result)


@njit(forceinline=True)
def _attended_gradient(words, lane_zero, zero, wide):
    """Gradients to features, harmonics and attention of every edge."""
    edges, by_lane, a, da, mixed, sums = _scratch(words, lane_zero, zero)
    y, gy, ga = pointer(at(words, _Y), zero), pointer(at(words, _GY), zero), pointer(at(words, _GW), zero)
    starts, lanes, heads = pointer(at(words, _STARTS), 0), lanes_of(lane_zero), at(words, _HEADS)
    while True:
        atom = draw(words, _COUNTER, 1)
        if atom >= at(words, _END):
            break
        begin, last = at(starts, atom), at(starts, atom + 1)
        while begin < last:
            count = _next_edges(words, begin, last, edges, lanes)
            contract(words, _COUPLED, at(words, _M_SH), y, edges, by_lane, a, lane_zero)
            for place in range(count * heads):
                put(sums, place, 0.0)
            for path in range(at(words, _N_PATHS)):
                if _path(words, path, _N_CHANNELS) % lanes_of(wide) == 0:
                    _attended_gradient_path(words, path, atom, count, edges, (a, da, mixed, sums), lanes, wide)
                else:
                    _attended_gradient_path(words, path, atom, count, edges, (a, da, mixed, sums), lanes, zero)
            expand(words, _COUPLED, at(words, _M_SH), da, edges, count, by_lane, gy, lane_zero)
            for lane in range(count):
                for head in range(heads):
                    put(ga, at(edges, lane) * heads + head, at(sums, lane * heads + head))
            begin += count


_KERNELS = {"product": 0, "product_gradient": 1, "attended": 2, "attended_gradient": 3}


@cache
def _kernel(number: int, dtype: torch.dtype, lanes: int, most: int) -> int:
    """The address of a kernel for vectors of `lanes` channels, and of `most` where they fit; the first call on a
    machine compiles it."""
    scalar, by_edge = scalar_type(dtype), _LINE // dtype.itemsize

    def product_kernel(data):
        _product(words_of(data), zeros(scalar, by_edge), zeros(scalar, lanes), zeros(scalar, most))

    def product_gradient_kernel(data):
        _product_gradient(words_of(data), zeros(scalar, by_edge), zeros(scalar, lanes), zeros(scalar, most))

    def attended_kernel(data):
        _attended(words_of(data), zeros(scalar, by_edge), zeros(scalar, lanes), zeros(scalar, most))

    def attended_gradient_kernel(data):
        _attended_gradient(words_of(data), zeros(scalar, by_edge), zeros(scalar, lanes), zeros(scalar, most))

    kernels = (product_kernel, product_gradient_kernel, attended_kernel, attended_gradient_kernel)
    return compiled(kernels[number]).address


def channel_step(dtype: torch.dtype) -> int:
    """All numbers of channels must be multiples of this: one vector register, at least 16 bytes."""
    return register_bytes() // dtype.itemsize


class Slots(NamedTuple):
    """The tensors of a call beside the features; None when it does without."""

    y: Tensor
    w: Tensor
    gy: Tensor | None = None
    gw: Tensor | None = None
    starts: Tensor | None = None
    order: Tensor | None = None


def _run(
    kernel: str,
    tables: Tables,
    blocks: tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]],
    slots: Slots,
    items: range,
    heads: int,
    shared: int,
) -> None:
    """`blocks` are the inputs, the outputs (or their gradients) and the gradients of the inputs."""
    dtype, threads = slots.y.dtype, torch.get_num_threads()
    step = channel_step(dtype)
    lanes = next(step * n for n in (4, 2, 1) if tables.divisor % (step * n) == 0)
    lines = _scratch_lines.py_func(tables.m_sh, tables.n_pairs, heads)
    scratch = torch.empty(threads * lines * _LINE, dtype=torch.uint8)
    shape = (items.start, items.stop, tables.n_paths, tables.n_pairs, tables.m_sh, tables.n_weights, shared, heads)
    words = [0, 0, scratch.data_ptr(), *shape, *tables.addresses(dtype), 0, 0, 0]
    words += [0 if tensor is None else tensor.data_ptr() for tensor in slots]
    for slot, group in zip((_IN, _OUT, _GRADIENT), blocks, strict=True):
        words[slot] = len(words)  # address, what separates edges or atoms, channels of each block
        for t in group:
            words += [t.data_ptr(), t.shape[-1] * t.shape[-2], t.shape[-1]]
    work = len(items) * tables.n_pairs * tables.n_weights
    launch(_kernel(_KERNELS[kernel], dtype, lanes, 4 * step), words, work > 1_000_000)


def product(
    tables: Tables, x: Sequence[Tensor], y: Tensor, w: Tensor, shared: int, out: Sequence[Tensor], edges: range
) -> None:
    """Writes the products of x (E, 2l+1, C) each, y (E, M), w (E / shared, n_weights), of some of the edges, to out,
    (n, 2l+1, K) each."""
    _run("product", tables, (x, out, ()), Slots(y, w), edges, 0, shared)


def product_gradient(
    tables: Tables,
    x: Sequence[Tensor],
    y: Tensor,
    w: Tensor,
    shared: int,
    g: Sequence[Tensor],
    out: tuple[Sequence[Tensor], Tensor, Tensor],
    edges: range,
) -> None:
    """Writes the gradients to x (of blocks with a path), y and w, of some of the edges, for the gradients g
    (n, 2l+1, K) each."""
    gx, gy, gw = out
    _run("product_gradient", tables, (x, g, gx), Slots(y, w, gy, gw), edges, 0, shared)


def attended(
    tables: Tables,
    x: Sequence[Tensor],
    y: Tensor,
    attention: Tensor,
    edges: tuple[Tensor, Tensor | None],
    out: Sequence[Tensor],
) -> None:
    """Writes the attended sums to out (H, N, 2l+1, K) each, of atoms with edges; `edges` are starts (N+1,) and order
    (E,)."""
    slots = Slots(y, attention, None, None, *edges)
    _run("attended", tables, (x, out, ()), slots, range(len(edges[0]) - 1), attention.shape[1], 1)


def attended_gradient(
    tables: Tables,
    x: Sequence[Tensor],
    y: Tensor,
    attention: Tensor,
    edges: tuple[Tensor, Tensor | None],
    g: Sequence[Tensor],
    out: tuple[Sequence[Tensor], Tensor, Tensor],
) -> None:
    """Writes the gradients to x (of blocks with a path), y and attention for the gradients g (H, N, 2l+1, K) each."""
    gx, gy, ga = out
    slots = Slots(y, attention, gy, ga, *edges)
    _run("attended_gradient", tables, (x, g, gx), slots, range(len(edges[0]) - 1), attention.shape[1], 1)
