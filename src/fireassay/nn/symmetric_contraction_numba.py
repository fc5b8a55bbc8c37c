"""Fused CPU kernels of the symmetric contraction: one atom and one block of channels at a time, channels as lanes.

With monomials m[q] = m[p] x[f] and terms a[t] m[p] x[f] (p and f the parent and the factor of q or t), `values` is the
polynomial and `gradient` its gradient to x, by a sweep back through the monomials. Along a direction u of x a monomial
changes by m'[q] = m'[p] x[f] + m[p] u[f]; `tangent` gives the change of the polynomial and of its gradient, which is
what double backward needs. `coefficient_gradient` is the gradient of either to the coefficients, summed over the atoms
of a species in chunks of fixed size, so that it does not depend on the number of threads.
"""
# Intrinsics are called without their first parameter, the typing context:
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportAttributeAccessIssue=false
# pyright: reportArgumentType=false, reportIndexIssue=false, reportOperatorIssue=false

from __future__ import annotations

from functools import cache
from math import gcd
from typing import Protocol

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
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
    words_of,
    zeros,
)

# The words of a kernel's table: progress, shape, constants, then the tensors (0 when a kernel does without).
_COUNTER, _TICKET, _SCRATCH, _ITEMS, _CHANNELS, _M, _M_OUT, _N_MONOMIALS, _N_TERMS = range(9)
_PARENT, _FACTOR, _STARTS, _TERM_PARENT, _TERM_FACTOR, _SPECIES, _ORDER, _CHUNKS = range(9, 17)
_X, _A, _G, _U, _OUT, _OUT_X, _N_WORDS = range(17, 24)
_CHUNK = 64  # atoms of one species that share a partial sum


class Constants(Protocol):
    """What the kernels need of a polynomial."""

    @property
    def parent(self) -> NDArray[np.int64]: ...
    @property
    def factor(self) -> NDArray[np.int64]: ...
    @property
    def starts(self) -> NDArray[np.int64]: ...
    @property
    def term_parent(self) -> NDArray[np.int64]: ...
    @property
    def term_factor(self) -> NDArray[np.int64]: ...


@njit(forceinline=True)
def _scratch(words, zero):
    """This thread's own memory: m, the gradient to m, m', the gradient to m', and the gradient to x."""
    size = at(words, _N_MONOMIALS) * lanes_of(zero)
    whole = 4 * size + at(words, _M) * lanes_of(zero)
    mine = pointer(at(words, _SCRATCH), zero)
    first = draw(words, _TICKET, 1) * whole
    for lane in range(lanes_of(zero)):
        put(mine, first + lane, 1.0)
    store(mine, first + 2 * size, zero)
    return mine, first, first + size, first + 2 * size, first + 3 * size, first + 4 * size


@njit(forceinline=True)
def _monomials(words, x, here, scratch, m, zero):
    """Writes the monomials of the features at `here`; the first one, one, is there."""
    channels, lanes = at(words, _CHANNELS), lanes_of(zero)
    parent, factor = pointer(at(words, _PARENT), 0), pointer(at(words, _FACTOR), 0)
    for q in range(1, at(words, _N_MONOMIALS)):
        xf = load(x, here + at(factor, q) * channels, zero)
        store(scratch, m + q * lanes, multiply(xf, load(scratch, m + at(parent, q) * lanes, zero)))


@njit(forceinline=True)
def _changes(words, x, u, here, scratch, m, d, zero):
    """Writes the changes of the monomials along u; that of the first one, zero, is there."""
    channels, lanes = at(words, _CHANNELS), lanes_of(zero)
    parent, factor = pointer(at(words, _PARENT), 0), pointer(at(words, _FACTOR), 0)
    for q in range(1, at(words, _N_MONOMIALS)):
        p, f = at(parent, q) * lanes, here + at(factor, q) * channels
        change = multiply(load(scratch, d + p, zero), load(x, f, zero))
        store(scratch, d + q * lanes, multiply_add(load(scratch, m + p, zero), load(u, f, zero), change))


@njit(forceinline=True)
def _values(words, zero):
    """The polynomial."""
    scratch, m, _, _, _, _ = _scratch(words, zero)
    channels, lanes, m_out = at(words, _CHANNELS), lanes_of(zero), at(words, _M_OUT)
    starts, species = pointer(at(words, _STARTS), 0), pointer(at(words, _SPECIES), 0)
    parent, factor = pointer(at(words, _TERM_PARENT), 0), pointer(at(words, _TERM_FACTOR), 0)
    x, a, out = pointer(at(words, _X), zero), pointer(at(words, _A), zero), pointer(at(words, _OUT), zero)
    blocks = channels // lanes
    while True:
        item = draw(words, _COUNTER, 1)
        if item >= at(words, _ITEMS):
            break
        n, c = item // blocks, item % blocks * lanes
        here, table = n * at(words, _M) * channels + c, at(species, n) * at(words, _N_TERMS) * channels + c
        _monomials(words, x, here, scratch, m, zero)
        for r in range(m_out):
            result = zero
            for t in range(at(starts, r), at(starts, r + 1)):
                xf = load(x, here + at(factor, t) * channels, zero)
                monomial = multiply(xf, load(scratch, m + at(parent, t) * lanes, zero))
                result = multiply_add(load(a, table + t * channels, zero), monomial, result)
            store(out, (n * m_out + r) * channels + c, result)


@njit(forceinline=True)
def _gradient(words, zero):
    """The gradient to x for the gradient g of the polynomial."""
    scratch, m, gm, _, _, gx = _scratch(words, zero)
    channels, lanes, m_out = at(words, _CHANNELS), lanes_of(zero), at(words, _M_OUT)
    starts, species = pointer(at(words, _STARTS), 0), pointer(at(words, _SPECIES), 0)
    parent, factor = pointer(at(words, _PARENT), 0), pointer(at(words, _FACTOR), 0)
    term_parent, term_factor = pointer(at(words, _TERM_PARENT), 0), pointer(at(words, _TERM_FACTOR), 0)
    x, a, g = pointer(at(words, _X), zero), pointer(at(words, _A), zero), pointer(at(words, _G), zero)
    out, blocks = pointer(at(words, _OUT_X), zero), channels // lanes
    while True:
        item = draw(words, _COUNTER, 1)
        if item >= at(words, _ITEMS):
            break
        n, c = item // blocks, item % blocks * lanes
        here, table = n * at(words, _M) * channels + c, at(species, n) * at(words, _N_TERMS) * channels + c
        _monomials(words, x, here, scratch, m, zero)
        for q in range(at(words, _N_MONOMIALS)):
            store(scratch, gm + q * lanes, zero)
        for i in range(at(words, _M)):
            store(scratch, gx + i * lanes, zero)
        for r in range(m_out):
            gr = load(g, (n * m_out + r) * channels + c, zero)
            for t in range(at(starts, r), at(starts, r + 1)):
                _pull(words, x, here, scratch, m, gm, gx, at(term_parent, t), at(term_factor, t),
                      multiply(gr, load(a, table + t * channels, zero)), zero)  # fmt: skip
        for q in range(at(words, _N_MONOMIALS) - 1, 0, -1):
            _pull(words, x, here, scratch, m, gm, gx, at(parent, q), at(factor, q),
                  load(scratch, gm + q * lanes, zero), zero)  # fmt: skip
        for i in range(at(words, _M)):
            store(out, here + i * channels, load(scratch, gx + i * lanes, zero))


@njit(forceinline=True)
def _pull(words, x, here, scratch, m, gm, gx, p, f, weight, zero):
    """Adds the gradient of weight * m[p] * x[f] to those of m[p] and x[f]."""
    channels, lanes = at(words, _CHANNELS), lanes_of(zero)
    gp, gf = gm + p * lanes, gx + f * lanes
    store(scratch, gp, multiply_add(weight, load(x, here + f * channels, zero), load(scratch, gp, zero)))
    store(scratch, gf, multiply_add(weight, load(scratch, m + p * lanes, zero), load(scratch, gf, zero)))


@njit(forceinline=True)
def _tangent(words, zero):
    """The change of the polynomial along u, and the gradient to x of g times that change."""
    scratch, m, gm, d, gd, gx = _scratch(words, zero)
    channels, lanes, m_out = at(words, _CHANNELS), lanes_of(zero), at(words, _M_OUT)
    starts, species = pointer(at(words, _STARTS), 0), pointer(at(words, _SPECIES), 0)
    parent, factor = pointer(at(words, _PARENT), 0), pointer(at(words, _FACTOR), 0)
    term_parent, term_factor = pointer(at(words, _TERM_PARENT), 0), pointer(at(words, _TERM_FACTOR), 0)
    x, u, a = pointer(at(words, _X), zero), pointer(at(words, _U), zero), pointer(at(words, _A), zero)
    g, out, out_x = pointer(at(words, _G), zero), pointer(at(words, _OUT), zero), pointer(at(words, _OUT_X), zero)
    blocks = channels // lanes
    while True:
        item = draw(words, _COUNTER, 1)
        if item >= at(words, _ITEMS):
            break
        n, c = item // blocks, item % blocks * lanes
        here, table = n * at(words, _M) * channels + c, at(species, n) * at(words, _N_TERMS) * channels + c
        _monomials(words, x, here, scratch, m, zero)
        _changes(words, x, u, here, scratch, m, d, zero)
        for q in range(at(words, _N_MONOMIALS)):
            store(scratch, gm + q * lanes, zero)
            store(scratch, gd + q * lanes, zero)
        for i in range(at(words, _M)):
            store(scratch, gx + i * lanes, zero)
        for r in range(m_out):
            gr, result = load(g, (n * m_out + r) * channels + c, zero), zero
            for t in range(at(starts, r), at(starts, r + 1)):
                p, f = at(term_parent, t), at(term_factor, t)
                coefficient = load(a, table + t * channels, zero)
                change = multiply(load(scratch, d + p * lanes, zero), load(x, here + f * channels, zero))
                uf = load(u, here + f * channels, zero)
                change = multiply_add(load(scratch, m + p * lanes, zero), uf, change)
                result = multiply_add(coefficient, change, result)
                weight = multiply(gr, coefficient)
                store(scratch, gm + p * lanes, multiply_add(weight, uf, load(scratch, gm + p * lanes, zero)))
                _pull(words, x, here, scratch, d, gd, gx, p, f, weight, zero)
            store(out, (n * m_out + r) * channels + c, result)
        for q in range(at(words, _N_MONOMIALS) - 1, 0, -1):
            p, f, weight = at(parent, q), at(factor, q), load(scratch, gd + q * lanes, zero)
            uf = load(u, here + f * channels, zero)
            store(scratch, gm + p * lanes, multiply_add(weight, uf, load(scratch, gm + p * lanes, zero)))
            _pull(words, x, here, scratch, d, gd, gx, p, f, weight, zero)
            _pull(words, x, here, scratch, m, gm, gx, p, f, load(scratch, gm + q * lanes, zero), zero)
        for i in range(at(words, _M)):
            store(out_x, here + i * channels, load(scratch, gx + i * lanes, zero))


@njit(forceinline=True)
def _coefficient_gradient(words, zero):
    """The gradient to the coefficients, of the polynomial or with u of its change, one partial sum per chunk."""
    scratch, m, _, d, _, _ = _scratch(words, zero)
    channels, lanes, m_out, n_terms = at(words, _CHANNELS), lanes_of(zero), at(words, _M_OUT), at(words, _N_TERMS)
    starts, order, chunks = (
        pointer(at(words, _STARTS), 0),
        pointer(at(words, _ORDER), 0),
        pointer(at(words, _CHUNKS), 0),
    )
    parent, factor = pointer(at(words, _TERM_PARENT), 0), pointer(at(words, _TERM_FACTOR), 0)
    x, u, g = pointer(at(words, _X), zero), pointer(at(words, _U), zero), pointer(at(words, _G), zero)
    out, blocks, moving = pointer(at(words, _OUT), zero), channels // lanes, at(words, _U) != 0
    while True:
        item = draw(words, _COUNTER, 1)
        if item >= at(words, _ITEMS):
            break
        chunk, c = item // blocks, item % blocks * lanes
        table = chunk * n_terms * channels + c
        for t in range(n_terms):
            store(out, table + t * channels, zero)
        for position in range(at(chunks, chunk), at(chunks, chunk + 1)):
            n = at(order, position)
            here = n * at(words, _M) * channels + c
            _monomials(words, x, here, scratch, m, zero)
            if moving:
                _changes(words, x, u, here, scratch, m, d, zero)
            for r in range(m_out):
                gr = load(g, (n * m_out + r) * channels + c, zero)
                for t in range(at(starts, r), at(starts, r + 1)):
                    p, f = at(parent, t) * lanes, here + at(factor, t) * channels
                    if moving:
                        value = multiply(load(scratch, d + p, zero), load(x, f, zero))
                        value = multiply_add(load(scratch, m + p, zero), load(u, f, zero), value)
                    else:
                        value = multiply(load(scratch, m + p, zero), load(x, f, zero))
                    where = table + t * channels
                    store(out, where, multiply_add(gr, value, load(out, where, zero)))


@cache
def _kernel(name: str, dtype: torch.dtype, lanes: int) -> int:
    """The address of a kernel for vectors of `lanes` channels; the first call on a machine compiles it."""
    scalar = scalar_type(dtype)

    def values_kernel(data):
        _values(words_of(data), zeros(scalar, lanes))

    def gradient_kernel(data):
        _gradient(words_of(data), zeros(scalar, lanes))

    def tangent_kernel(data):
        _tangent(words_of(data), zeros(scalar, lanes))

    def coefficient_gradient_kernel(data):
        _coefficient_gradient(words_of(data), zeros(scalar, lanes))

    kernels = {
        "values": values_kernel,
        "gradient": gradient_kernel,
        "tangent": tangent_kernel,
        "coefficient_gradient": coefficient_gradient_kernel,
    }
    return compiled(kernels[name]).address


def _lanes(channels: int, dtype: torch.dtype) -> int:
    return gcd(channels, 2 * register_bytes() // dtype.itemsize)


def supports(features: Tensor) -> bool:
    """Whether the kernels can do these features (N, M, C): on the CPU, with channels in multiples of 16 bytes."""
    on_cpu = features.device.type == "cpu" and features.dtype in (torch.float32, torch.float64)
    return on_cpu and features.shape[2] * features.dtype.itemsize % 16 == 0


class Tables:
    """The constants of a polynomial with M inputs as the kernels want them."""

    def __init__(self, polynomial: Constants, m: int) -> None:
        p = polynomial
        arrays = (p.parent, p.factor, p.starts, p.term_parent, p.term_factor)
        self._tensors = [torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64)) for array in arrays]
        self.addresses = [tensor.data_ptr() for tensor in self._tensors]
        self.m, self.m_out, self.n_monomials, self.n_terms = m, len(p.starts) - 1, len(p.parent), len(p.term_parent)

    def run(self, name: str, items: int, tensors: dict[int, Tensor | None]) -> None:
        """Runs a kernel on the items (atoms or chunks of atoms) and on each block of channels."""
        x = tensors[_X]
        assert x is not None
        lanes, channels = _lanes(x.shape[2], x.dtype), x.shape[2]
        scratch = x.new_empty(torch.get_num_threads() * (4 * self.n_monomials + self.m) * lanes)
        words = [0] * _N_WORDS
        items *= channels // lanes
        words[_SCRATCH:_PARENT] = [
            scratch.data_ptr(),
            items,
            channels,
            self.m,
            self.m_out,
            self.n_monomials,
            self.n_terms,
        ]
        words[_PARENT:_SPECIES] = self.addresses
        for slot, tensor in tensors.items():
            words[slot] = 0 if tensor is None else tensor.data_ptr()
        launch(_kernel(name, x.dtype, lanes), words, x.numel() * self.n_terms > 100_000)


def values(tables: Tables, x: Tensor, a: Tensor, species: Tensor) -> Tensor:
    """The polynomial of x (N, M, C) with coefficients a (Z, T, C): (N, M_out, C)."""
    out = x.new_empty(x.shape[0], tables.m_out, x.shape[2])
    tables.run("values", len(x), {_X: x, _A: a, _SPECIES: species, _OUT: out})
    return out


def gradient(tables: Tables, x: Tensor, a: Tensor, species: Tensor, g: Tensor) -> Tensor:
    """The gradient to x for the gradient g (N, M_out, C) of the values."""
    out = torch.empty_like(x)
    tables.run("gradient", len(x), {_X: x, _A: a, _SPECIES: species, _G: g, _OUT_X: out})
    return out


def tangent(tables: Tables, x: Tensor, a: Tensor, species: Tensor, g: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """The changes of the values and of `gradient` along u (N, M, C)."""
    out, out_x = torch.empty_like(g), torch.empty_like(x)
    tables.run("tangent", len(x), {_X: x, _A: a, _SPECIES: species, _G: g, _U: u, _OUT: out, _OUT_X: out_x})
    return out, out_x


def coefficient_gradient(
    tables: Tables, n_species: int, x: Tensor, species: Tensor, g: Tensor, u: Tensor | None = None
) -> Tensor:
    """The gradient (Z, T, C) to the coefficients of g times the values, or of g times their change along u."""
    order = torch.argsort(species, stable=True)
    counts = torch.bincount(species, minlength=n_species)
    n_chunks = (counts + _CHUNK - 1) // _CHUNK
    of_species = torch.repeat_interleave(torch.arange(n_species), n_chunks)
    within = torch.arange(len(of_species)) - (n_chunks.cumsum(0) - n_chunks)[of_species]
    starts = (counts.cumsum(0) - counts)[of_species] + within * _CHUNK
    chunks = torch.cat([starts, starts.new_tensor([len(x)])])
    partial = x.new_empty(len(of_species), tables.n_terms, x.shape[2])
    tensors = {_X: x, _G: g, _U: u, _ORDER: order, _CHUNKS: chunks, _OUT: partial}
    tables.run("coefficient_gradient", len(of_species), tensors)
    return x.new_zeros(n_species, tables.n_terms, x.shape[2]).index_add(0, of_species, partial)
