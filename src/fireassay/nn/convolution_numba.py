"""Fused CPU kernels of the equivariant convolution: no (E, M, C) intermediate, no atomics on results.

For a block of edges the Clebsch-Gordan entries are first contracted with the harmonics, A[k] = sum V Y, with edges as
vector lanes; k runs over the coupled pairs (input component, output component) of each path. What is left per edge
is, with channels as vector lanes and p the path of a row,

    out[o] += sum over rows of o  w[p] * sum over pairs k of the row  A[k] x[in(k)]

The gradient to the features is the same sum with input and output exchanged, over the edges by neighbour;
`segment_sum` computes both, `edge_gradients` the gradients to harmonics and weights. Both can give their derivative
along directions (dx, dy, dw) of the three factors instead, which is what double backward needs. Each atom's and each
edge's result is written by one thread in one order, so results repeat bit for bit.

Tensors are contiguous, on the CPU, of one dtype; the number of channels is a multiple of `channel_step`.
"""

from __future__ import annotations

from functools import cache
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
    prefetch,
    put,
    register_bytes,
    scalar_type,
    store,
    total,
    words_of,
    zeros,
)

# The words of a kernel's table: progress, shape, edges, coupling, then the tensors (0 when a kernel does without).
_COUNTER, _TICKET, _CHUNK, _SCRATCH, _N_ATOMS, _N_EDGES, _CHANNELS, _M_IN, _M_OUT, _N_PATHS, _M_SH, _N_PAIRS = range(12)
_STARTS, _ORDER, _FROM, _TO, _SHARED, _ROWS, _TARGET, _PAIRS, _SOURCE, _ENTRIES, _HARMONIC, _VALUES = range(12, 24)
_X, _Y, _W, _G, _DX, _DY, _DW, _OUT, _OUT_Y, _OUT_W, _N_WORDS = range(24, 35)
_COUPLED = (_M_SH, _N_PAIRS, _ENTRIES, _HARMONIC, _VALUES)
_GROUP = 8  # edges that share one load and store of an output row
_AT_X, _AT_W, _AT_G = 16, 32, 48  # in a block of edges, where each one's features, weights and gradients begin
_LINE = 64  # bytes: the edges of a block fill one cache line per component


class Terms(NamedTuple):
    """The non-zero coefficients of a coupling, one array element each, in any order."""

    source: np.ndarray  # component of the gathered features
    harmonic: np.ndarray  # component of the harmonics
    target: np.ndarray  # component of the result
    path: np.ndarray  # index of the weight
    value: np.ndarray  # float64

    def transposed(self) -> Terms:
        """The same with input and output exchanged."""
        return self._replace(source=self.target, target=self.source)


class Tables:
    """Terms grouped for the kernels: a path holds rows, one per result component; rows hold pairs; pairs entries."""

    def __init__(self, terms: Terms, m_in: int, m_out: int, m_sh: int, n_paths: int) -> None:
        order = np.lexsort((terms.harmonic, terms.source, terms.target, terms.path))
        target, path, source = (a[order] for a in (terms.target, terms.path, terms.source))
        change = np.stack([np.diff(a, prepend=-1) != 0 for a in (target, path, source)])
        rows, pairs = np.flatnonzero(change[:2].any(0)), np.flatnonzero(change.any(0))
        self.shape = (m_in, m_out, n_paths, m_sh, len(pairs))
        self._whole = (
            np.searchsorted(path[rows], np.arange(n_paths + 1)),  # first row of each path
            target[rows],
            np.append(np.searchsorted(pairs, rows), len(pairs)),  # first pair of each row
            source[pairs],
            np.append(pairs, len(order)),  # first entry of each pair
            terms.harmonic[order],
        )
        self._values = terms.value[order]
        self._tensors: dict[torch.dtype, list[Tensor]] = {}

    def addresses(self, dtype: torch.dtype) -> list[int]:
        """Where the tables lie; they live as long as this object."""
        if dtype not in self._tensors:
            whole = [torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64)) for array in self._whole]
            self._tensors[dtype] = [*whole, torch.from_numpy(self._values).to(dtype)]
        return [tensor.data_ptr() for tensor in self._tensors[dtype]]


class Edges(NamedTuple):
    """Edges in segments: segment i holds order[starts[i]:starts[i+1]], or without `order` the edges themselves."""

    starts: Tensor  # (N+1,) int64
    order: Tensor | None  # (E,) int64
    gathered: Tensor  # (E,) int64: the atom whose features an edge reads, by edge
    summed: Tensor  # (E,) int64: the atom to which an edge adds, by edge
    shared: Tensor | None = None  # (E,) int64: the row of the weights that an edge uses, by edge, if not its own


@njit(forceinline=True)
def _scratch_bytes(m_sh, n_pairs):
    return (8 + m_sh + 3 * n_pairs) * _LINE


@njit(forceinline=True)
def _scratch(words, zero):
    """This thread's own memory: where the edges of a block lie, their harmonics, and three sets of A, by lanes."""
    m_sh, size = at(words, _M_SH), at(words, _N_PAIRS) * _LINE
    base = at(words, _SCRATCH) + draw(words, _TICKET, 1) * _scratch_bytes(m_sh, at(words, _N_PAIRS))
    block, by_lane, first = pointer(base, 0), pointer(base + 8 * _LINE, zero), base + (8 + m_sh) * _LINE
    return block, by_lane, pointer(first, zero), pointer(first + size, zero), pointer(first + 2 * size, zero)


@njit(forceinline=True)
def _block(words, first, count, block, zero):
    """Writes where `count` edges from `first` on lie in y, x, w and g; lanes to spare repeat the last edge."""
    channels = at(words, _CHANNELS)
    order, gathered, summed = pointer(at(words, _ORDER), 0), pointer(at(words, _FROM), 0), pointer(at(words, _TO), 0)
    for lane in range(lanes_of(zero)):
        edge = first + min(lane, count - 1)
        edge = edge if at(words, _ORDER) == 0 else at(order, edge)
        put(block, lane, edge * at(words, _M_SH))
        put(block, _AT_X + lane, at(gathered, edge) * at(words, _M_IN) * channels)
        weight_row = edge if at(words, _SHARED) == 0 else at(pointer(at(words, _SHARED), 0), edge)
        put(block, _AT_W + lane, weight_row * at(words, _N_PATHS) * channels)
        put(block, _AT_G + lane, at(summed, edge) * at(words, _M_OUT) * channels)


@njit(forceinline=True)
def _fetch_weights(words, count, block, zero):
    """Asks for the weights of a block of edges, which come in no order that the machine could foresee."""
    w, size = pointer(at(words, _W), zero), at(words, _N_PATHS) * at(words, _CHANNELS)
    for lane in range(count):
        base = at(block, _AT_W + lane)
        for i in range(base, base + size, lanes_of(zero)):
            prefetch(w, i)


@njit(forceinline=True)
def _add_edges(words, atom, begin, end, block, a, lane_zero, zero):
    """Adds the edges begin to end of a block to the result of one atom."""
    channels, m_out, lanes = at(words, _CHANNELS), at(words, _M_OUT), lanes_of(lane_zero)
    rows, target = pointer(at(words, _ROWS), 0), pointer(at(words, _TARGET), 0)
    pairs, source = pointer(at(words, _PAIRS), 0), pointer(at(words, _SOURCE), 0)
    x, w, out = pointer(at(words, _X), zero), pointer(at(words, _W), zero), pointer(at(words, _OUT), zero)
    for channel in range(0, channels, lanes_of(zero)):
        for path in range(at(words, _N_PATHS)):
            for row in range(at(rows, path), at(rows, path + 1)):
                first, stop = at(pairs, row), at(pairs, row + 1)
                here = (atom * m_out + at(target, row)) * channels + channel
                result = load(out, here, zero)
                for lane in range(begin, end):
                    base = at(block, _AT_X + lane) + channel
                    inner = zero
                    k = first
                    while k < stop:
                        xk = load(x, base + at(source, k) * channels, zero)
                        inner = multiply_add(at(a, k * lanes + lane), xk, inner)
                        k += 1
                    weight = load(w, at(block, _AT_W + lane) + path * channels + channel, zero)
                    result = multiply_add(weight, inner, result)
                store(out, here, result)


@njit(forceinline=True)
def _add_edges_tangent(words, atom, begin, end, block, a, b, lane_zero, zero):
    """As `_add_edges` for the derivative: w (A dx + B x) + dw A x, with B from the direction of the harmonics."""
    channels, m_out, lanes = at(words, _CHANNELS), at(words, _M_OUT), lanes_of(lane_zero)
    rows, target = pointer(at(words, _ROWS), 0), pointer(at(words, _TARGET), 0)
    pairs, source = pointer(at(words, _PAIRS), 0), pointer(at(words, _SOURCE), 0)
    x, w, out = pointer(at(words, _X), zero), pointer(at(words, _W), zero), pointer(at(words, _OUT), zero)
    dx, dw, moving = pointer(at(words, _DX), zero), pointer(at(words, _DW), zero), at(words, _DX) != 0
    for channel in range(0, channels, lanes_of(zero)):
        for path in range(at(words, _N_PATHS)):
            for row in range(at(rows, path), at(rows, path + 1)):
                first, stop = at(pairs, row), at(pairs, row + 1)
                here = (atom * m_out + at(target, row)) * channels + channel
                result = load(out, here, zero)
                for lane in range(begin, end):
                    base = at(block, _AT_X + lane) + channel
                    inner = zero
                    change = zero
                    k = first
                    while k < stop:
                        where = base + at(source, k) * channels
                        xk = load(x, where, zero)
                        inner = multiply_add(at(a, k * lanes + lane), xk, inner)
                        change = multiply_add(at(b, k * lanes + lane), xk, change)
                        if moving:
                            change = multiply_add(at(a, k * lanes + lane), load(dx, where, zero), change)
                        k += 1
                    weight = at(block, _AT_W + lane) + path * channels + channel
                    result = multiply_add(load(w, weight, zero), change, result)
                    result = multiply_add(load(dw, weight, zero), inner, result)
                store(out, here, result)


@njit(forceinline=True)
def _segments(words, lane_zero, zero):
    """The sum over the edges of every atom, or its derivative when directions are given."""
    block, by_lane, a, b, _ = _scratch(words, lane_zero)
    tangent = at(words, _DY) != 0
    starts, out = pointer(at(words, _STARTS), 0), pointer(at(words, _OUT), zero)
    y, dy = pointer(at(words, _Y), zero), pointer(at(words, _DY), zero)
    size, n_atoms, chunk = at(words, _M_OUT) * at(words, _CHANNELS), at(words, _N_ATOMS), at(words, _CHUNK)
    while True:
        atom = draw(words, _COUNTER, chunk)
        if atom >= n_atoms:
            break
        for i in range(atom, min(atom + chunk, n_atoms)):
            for c in range(i * size, (i + 1) * size, lanes_of(zero)):
                store(out, c, zero)
            first = at(starts, i)
            while first < at(starts, i + 1):
                count = min(lanes_of(lane_zero), at(starts, i + 1) - first)
                _block(words, first, count, block, lane_zero)
                _fetch_weights(words, count, block, lane_zero)
                contract(words, _COUPLED, 1, y, block, by_lane, a, lane_zero)
                if tangent:
                    contract(words, _COUPLED, 1, dy, block, by_lane, b, lane_zero)
                for begin in range(0, count, _GROUP):
                    end = min(begin + _GROUP, count)
                    if tangent:
                        _add_edges_tangent(words, i, begin, end, block, a, b, lane_zero, zero)
                    else:
                        _add_edges(words, i, begin, end, block, a, lane_zero, zero)
                first += count


@njit(forceinline=True)
def _edge_block(words, count, block, a, da, lane_zero, zero):
    """Gradients of the weights, and of A, of a block of edges."""
    channels, lanes = at(words, _CHANNELS), lanes_of(lane_zero)
    rows, target = pointer(at(words, _ROWS), 0), pointer(at(words, _TARGET), 0)
    pairs, source = pointer(at(words, _PAIRS), 0), pointer(at(words, _SOURCE), 0)
    x, w, g = pointer(at(words, _X), zero), pointer(at(words, _W), zero), pointer(at(words, _G), zero)
    out_w = pointer(at(words, _OUT_W), zero)
    for channel in range(0, channels, lanes_of(zero)):
        for lane in range(count):
            x_base, g_base = at(block, _AT_X + lane) + channel, at(block, _AT_G + lane) + channel
            second = lane > 0 and at(block, _AT_W + lane) == at(block, _AT_W + lane - 1)
            for path in range(at(words, _N_PATHS)):
                where = at(block, _AT_W + lane) + path * channels + channel
                weight = load(w, where, zero)
                gradient = load(out_w, where, zero) if second else zero
                for row in range(at(rows, path), at(rows, path + 1)):
                    gr = load(g, g_base + at(target, row) * channels, zero)
                    scaled = multiply(weight, gr)
                    inner = zero
                    for k in range(at(pairs, row), at(pairs, row + 1)):
                        xk = load(x, x_base + at(source, k) * channels, zero)
                        inner = multiply_add(at(a, k * lanes + lane), xk, inner)
                        change = total(multiply(scaled, xk))
                        if channel > 0:
                            change += at(da, k * lanes + lane)
                        put(da, k * lanes + lane, change)
                    gradient = multiply_add(gr, inner, gradient)
                store(out_w, where, gradient)


@njit(forceinline=True)
def _edge_block_tangent(words, count, block, a, b, da, lane_zero, zero):
    """As `_edge_block` for the derivative along dx, dw and, as B, the direction of the harmonics."""
    channels, lanes = at(words, _CHANNELS), lanes_of(lane_zero)
    rows, target = pointer(at(words, _ROWS), 0), pointer(at(words, _TARGET), 0)
    pairs, source = pointer(at(words, _PAIRS), 0), pointer(at(words, _SOURCE), 0)
    x, w, g = pointer(at(words, _X), zero), pointer(at(words, _W), zero), pointer(at(words, _G), zero)
    dx, dw, moving = pointer(at(words, _DX), zero), pointer(at(words, _DW), zero), at(words, _DX) != 0
    out_w = pointer(at(words, _OUT_W), zero)
    for channel in range(0, channels, lanes_of(zero)):
        for lane in range(count):
            x_base, g_base = at(block, _AT_X + lane) + channel, at(block, _AT_G + lane) + channel
            second = lane > 0 and at(block, _AT_W + lane) == at(block, _AT_W + lane - 1)
            for path in range(at(words, _N_PATHS)):
                where = at(block, _AT_W + lane) + path * channels + channel
                weight, turn = load(w, where, zero), load(dw, where, zero)
                gradient = load(out_w, where, zero) if second else zero
                for row in range(at(rows, path), at(rows, path + 1)):
                    gr = load(g, g_base + at(target, row) * channels, zero)
                    scaled, turned = multiply(weight, gr), multiply(turn, gr)
                    inner = zero
                    for k in range(at(pairs, row), at(pairs, row + 1)):
                        here = x_base + at(source, k) * channels
                        xk = load(x, here, zero)
                        inner = multiply_add(at(b, k * lanes + lane), xk, inner)
                        product = multiply(turned, xk)
                        if moving:
                            dxk = load(dx, here, zero)
                            inner = multiply_add(at(a, k * lanes + lane), dxk, inner)
                            product = multiply_add(scaled, dxk, product)
                        change = total(product)
                        if channel > 0:
                            change += at(da, k * lanes + lane)
                        put(da, k * lanes + lane, change)
                    gradient = multiply_add(gr, inner, gradient)
                store(out_w, where, gradient)


@njit(forceinline=True)
def _edges(words, lane_zero, zero):
    """The gradients of every edge, or their derivative when directions are given."""
    block, by_lane, a, b, da = _scratch(words, lane_zero)
    tangent = at(words, _DY) != 0
    y, dy, out_y = pointer(at(words, _Y), zero), pointer(at(words, _DY), zero), pointer(at(words, _OUT_Y), zero)
    n_edges, lanes = at(words, _N_EDGES), lanes_of(lane_zero)
    while True:
        first = draw(words, _COUNTER, lanes)
        if first >= n_edges:
            break
        count = min(lanes, n_edges - first)
        _block(words, first, count, block, lane_zero)
        contract(words, _COUPLED, 1, y, block, by_lane, a, lane_zero)
        if tangent:
            contract(words, _COUPLED, 1, dy, block, by_lane, b, lane_zero)
            _edge_block_tangent(words, count, block, a, b, da, lane_zero, zero)
        else:
            _edge_block(words, count, block, a, da, lane_zero, zero)
        expand(words, _COUPLED, 1, da, block, count, by_lane, out_y, lane_zero)


@cache
def _kernel(edges: bool, dtype: torch.dtype, lanes: int) -> int:
    """The address of a kernel for vectors of `lanes` channels; the first call on a machine compiles it."""
    scalar, by_edge = scalar_type(dtype), _LINE // dtype.itemsize

    def segment_kernel(data):
        _segments(words_of(data), zeros(scalar, by_edge), zeros(scalar, lanes))

    def edge_kernel(data):
        _edges(words_of(data), zeros(scalar, by_edge), zeros(scalar, lanes))

    return compiled(edge_kernel if edges else segment_kernel).address


def channel_step(dtype: torch.dtype) -> int:
    """The number of channels must be a multiple of this: one vector register, at least 16 bytes."""
    return register_bytes() // dtype.itemsize


def _lanes(channels: int, dtype: torch.dtype) -> int:
    """As many lanes, up to four registers, as divide the channels."""
    step = channel_step(dtype)
    return next(step * n for n in (4, 2, 1) if channels % (step * n) == 0)


def _run(edge_kernel: bool, tables: Tables, edges: Edges, tensors: dict[int, Tensor | None]) -> None:
    x, w = tensors[_X], tensors[_W]
    assert x is not None
    assert w is not None
    n_edges, n_atoms, channels = len(edges.gathered), len(edges.starts) - 1, x.shape[2]
    m_in, m_out, n_paths, m_sh, n_pairs = tables.shape
    threads = torch.get_num_threads()
    scratch = torch.empty(threads * _scratch_bytes.py_func(m_sh, n_pairs), dtype=torch.uint8)
    words = [0] * _N_WORDS
    chunk = max(1, n_atoms // (8 * threads))
    words[_TICKET:_STARTS] = [
        0, chunk, scratch.data_ptr(), n_atoms, n_edges, channels, m_in, m_out, n_paths, m_sh, n_pairs,
    ]  # fmt: skip
    words[_STARTS:_ROWS] = [0 if tensor is None else tensor.data_ptr() for tensor in edges]
    words[_ROWS:_X] = tables.addresses(x.dtype)
    for slot, tensor in tensors.items():
        words[slot] = 0 if tensor is None else tensor.data_ptr()
    launch(_kernel(edge_kernel, x.dtype, _lanes(channels, x.dtype)), words, n_edges * n_pairs * channels > 200_000)


Direction = tuple[Tensor | None, Tensor, Tensor]


def segment_sum(
    tables: Tables, edges: Edges, x: Tensor, y: Tensor, w: Tensor, direction: Direction | None = None
) -> Tensor:
    """The sums (N, M_out, C), or their derivative along (dx, dy, dw); None in place of dx stands for zero."""
    out = x.new_empty(len(edges.starts) - 1, tables.shape[1], x.shape[2])
    dx, dy, dw = direction or (None, None, None)
    _run(False, tables, edges, {_X: x, _Y: y, _W: w, _DX: dx, _DY: dy, _DW: dw, _OUT: out})
    return out


def edge_gradients(
    tables: Tables, edges: Edges, x: Tensor, y: Tensor, w: Tensor, g: Tensor, direction: Direction | None = None
) -> tuple[Tensor, Tensor]:
    """Gradients to harmonics (E, M_sh) and weights (E, P, C) for the gradient g (N, M_out, C) of the sums, or their
    derivative along (dx, dy, dw).

    Edges that share a row of the weights come in pairs, one after the other in the order.
    """
    out_y, out_w = torch.empty_like(y), torch.empty_like(w)
    dx, dy, dw = direction or (None, None, None)
    tensors = {_X: x, _Y: y, _W: w, _G: g, _DX: dx, _DY: dy, _DW: dw, _OUT_Y: out_y, _OUT_W: out_w}
    _run(True, tables, edges, tensors)
    return out_y, out_w
