"""The three sums of `nn.pair_attention`: fused kernels on the CPU, plain tensors elsewhere.

Channels are vector lanes; no (E, H, F) intermediate is made. Each result is written by one thread in one order, so
results repeat bit for bit. Tensors are contiguous and of one dtype.
"""

from __future__ import annotations

from functools import cache
from typing import Any

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

# The words of a kernel's table: progress, shape, edges, then the tensors (0 for filters of ones).
_COUNTER, _CHUNK, _N_ROWS, _HEADS, _WIDTH, _STARTS, _ORDER, _FROM, _TO, _PAIR, _A, _Q, _K, _W, _OUT = range(15)


def _fused(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.float64)


def edge_products(query: Tensor, key: Tensor, filters: Tensor | None, edges: Any) -> Tensor:
    """sum over c of q[i, h, c] w[p, h, c] k[j, h, c]: (E, H)."""
    if not _fused(query):
        product = query.index_select(0, edges.centre) * key.index_select(0, edges.neighbour)
        return (product if filters is None else product * filters.index_select(0, edges.pair)).sum(2)
    out = query.new_empty(len(edges.centre), query.shape[1])
    where = (None, None, edges.neighbour, edges.centre, edges.pair)
    _run("edge", len(out), query.shape, where, (None, query, key, filters, out))
    return out


def weighted_sums(alpha: Tensor, values: Tensor, filters: Tensor | None, edges: Any, backward: bool) -> Tensor:
    """sum over the edges of atom i of alpha[e, h] w[p, h, c] v[j, h, c]; `backward`, i and j exchanged: (N, H, F)."""
    centre, neighbour = (edges.neighbour, edges.centre) if backward else (edges.centre, edges.neighbour)
    if not _fused(values):
        terms = values.index_select(0, neighbour) * alpha.unsqueeze(2)
        terms = terms if filters is None else terms * filters.index_select(0, edges.pair)
        return torch.zeros_like(values).index_add(0, centre, terms)
    out = torch.empty_like(values)
    order = edges.order
    starts, by = (order.neighbour_starts, order.by_neighbour) if backward else (order.starts, None)
    _run(
        "atom", len(out), values.shape, (starts, by, neighbour, centre, edges.pair), (alpha, None, values, filters, out)
    )
    return out


def pair_products(alpha: Tensor, query: Tensor, key: Tensor, edges: Any) -> Tensor:
    """sum over the edges of pair p of alpha[e, h] q[i, h, c] k[j, h, c]: (P, H, F)."""
    n_pairs = len(edges.pair_starts) - 1
    if not _fused(query):
        terms = query.index_select(0, edges.centre) * key.index_select(0, edges.neighbour) * alpha.unsqueeze(2)
        return query.new_zeros(n_pairs, *query.shape[1:]).index_add(0, edges.pair, terms)
    out = query.new_empty(n_pairs, *query.shape[1:])
    where = (edges.pair_starts, edges.by_pair, edges.neighbour, edges.centre, edges.pair)
    _run("pair", n_pairs, query.shape, where, (alpha, query, key, None, out))
    return out


def _run(kind: str, n_rows: int, shape: torch.Size, where: Any, tensors: Any) -> None:
    if not n_rows:
        return
    out = tensors[-1]
    words = [0, max(1, n_rows // (8 * torch.get_num_threads())), n_rows, shape[1], shape[2]]
    words += [0 if tensor is None else tensor.data_ptr() for tensor in (*where, *tensors)]
    launch(_kernel(kind, out.dtype), words, len(where[2]) * shape[1] * shape[2] > 50_000)


@cache
def _kernel(kind: str, dtype: torch.dtype) -> int:
    scalar, wide = scalar_type(dtype), 2 * register_bytes() // dtype.itemsize

    def edge_kernel(data):
        _edge_rows(words_of(data), zeros(scalar, wide), zeros(scalar, 4), zeros(scalar, 1))

    def atom_kernel(data):
        _sum_rows(words_of(data), zeros(scalar, wide), zeros(scalar, 4), zeros(scalar, 1))

    def pair_kernel(data):
        _pair_rows(words_of(data), zeros(scalar, wide), zeros(scalar, 4), zeros(scalar, 1))

    return compiled({"edge": edge_kernel, "atom": atom_kernel, "pair": pair_kernel}[kind]).address


@njit(forceinline=True)
def _edge_rows(words, wide, narrow, single):
    n_rows, chunk, heads, width = at(words, _N_ROWS), at(words, _CHUNK), at(words, _HEADS), at(words, _WIDTH)
    summed, gathered, pair = pointer(at(words, _TO), 0), pointer(at(words, _FROM), 0), pointer(at(words, _PAIR), 0)
    out, size = pointer(at(words, _OUT), single), heads * width
    while True:
        begin = draw(words, _COUNTER, chunk)
        if begin >= n_rows:
            break
        for edge in range(begin, min(begin + chunk, n_rows)):
            i, j, p = at(summed, edge) * size, at(gathered, edge) * size, at(pair, edge) * size
            for head in range(heads):
                first, stop = head * width, (head + 1) * width
                result, first = _product(words, i, j, p, first, stop, wide)
                some, first = _product(words, i, j, p, first, stop, narrow)
                last, first = _product(words, i, j, p, first, stop, single)
                put(out, edge * heads + head, result + some + last)


@njit(forceinline=True)
def _product(words, i, j, p, begin, stop, zero):
    """The inner product over as many whole vectors of columns from `begin` on as fit, and where they end."""
    q, k, w = pointer(at(words, _Q), zero), pointer(at(words, _K), zero), pointer(at(words, _W), zero)
    filtered = at(words, _W) != 0
    column, result = begin, zero
    while column + lanes_of(zero) <= stop:
        values = load(k, j + column, zero)
        if filtered:
            values = multiply(load(w, p + column, zero), values)
        result = multiply_add(load(q, i + column, zero), values, result)
        column += lanes_of(zero)
    return total(result), column


@njit(forceinline=True)
def _sum_rows(words, wide, narrow, single):
    n_rows, chunk, heads, width = at(words, _N_ROWS), at(words, _CHUNK), at(words, _HEADS), at(words, _WIDTH)
    while True:
        begin = draw(words, _COUNTER, chunk)
        if begin >= n_rows:
            break
        for row in range(begin, min(begin + chunk, n_rows)):
            for head in range(heads):
                stop = (head + 1) * width
                column = _sum_columns(words, row, head, head * width, stop, wide)
                column = _sum_columns(words, row, head, column, stop, narrow)
                _sum_columns(words, row, head, column, stop, single)


@njit(forceinline=True)
def _sum_columns(words, row, head, begin, stop, zero):
    """Sums the edges of one atom in as many whole vectors of columns from `begin` on as fit; returns where they end."""
    heads, size = at(words, _HEADS), at(words, _HEADS) * at(words, _WIDTH)
    starts, order = pointer(at(words, _STARTS), 0), pointer(at(words, _ORDER), 0)
    gathered, pair = pointer(at(words, _FROM), 0), pointer(at(words, _PAIR), 0)
    alpha, k = pointer(at(words, _A), zero), pointer(at(words, _K), zero)
    w, out = pointer(at(words, _W), zero), pointer(at(words, _OUT), zero)
    ordered, filtered = at(words, _ORDER) != 0, at(words, _W) != 0
    column = begin
    while column + lanes_of(zero) <= stop:
        result = zero
        for position in range(at(starts, row), at(starts, row + 1)):
            edge = at(order, position) if ordered else position
            values = load(k, at(gathered, edge) * size + column, zero)
            if filtered:
                values = multiply(load(w, at(pair, edge) * size + column, zero), values)
            result = multiply_add(at(alpha, edge * heads + head), values, result)
        store(out, row * size + column, result)
        column += lanes_of(zero)
    return column


@njit(forceinline=True)
def _pair_rows(words, wide, narrow, single):
    n_rows, chunk, heads, width = at(words, _N_ROWS), at(words, _CHUNK), at(words, _HEADS), at(words, _WIDTH)
    while True:
        begin = draw(words, _COUNTER, chunk)
        if begin >= n_rows:
            break
        for row in range(begin, min(begin + chunk, n_rows)):
            for head in range(heads):
                stop = (head + 1) * width
                column = _pair_columns(words, row, head, head * width, stop, wide)
                column = _pair_columns(words, row, head, column, stop, narrow)
                _pair_columns(words, row, head, column, stop, single)


@njit(forceinline=True)
def _pair_columns(words, row, head, begin, stop, zero):
    """Sums the edges of one pair in as many whole vectors of columns from `begin` on as fit; returns where they end."""
    heads, size = at(words, _HEADS), at(words, _HEADS) * at(words, _WIDTH)
    starts, order = pointer(at(words, _STARTS), 0), pointer(at(words, _ORDER), 0)
    gathered, summed = pointer(at(words, _FROM), 0), pointer(at(words, _TO), 0)
    alpha, q = pointer(at(words, _A), zero), pointer(at(words, _Q), zero)
    k, out = pointer(at(words, _K), zero), pointer(at(words, _OUT), zero)
    column = begin
    while column + lanes_of(zero) <= stop:
        result = zero
        for position in range(at(starts, row), at(starts, row + 1)):
            edge = at(order, position)
            scaled = multiply(at(alpha, edge * heads + head), load(q, at(summed, edge) * size + column, zero))
            result = multiply_add(scaled, load(k, at(gathered, edge) * size + column, zero), result)
        store(out, row * size + column, result)
        column += lanes_of(zero)
    return column
