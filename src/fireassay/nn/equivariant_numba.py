"""Fused CPU kernels of the equivariant linear layer, with the weights of the atom's species on request.

One kernel serves the layer and its gradient to the features (the transposed weights, input and output exchanged),
another the gradient to the weights; these three are closed under differentiation. Four rows (an atom and a component)
are multiplied at a time, with output channels as vector lanes. Every result is written by one thread in one order.

Tensors are contiguous, on the CPU, of one dtype; channels are multiples of `channel_step`.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    multiply,
    multiply_add,
    pointer,
    register_bytes,
    scalar_type,
    store,
    words_of,
    zeros,
)

# The words of a kernel's table: progress, shape, atoms, coupling, then the tensors.
_COUNTER, _CHUNK, _N_ATOMS, _N_SPECIES, _ORDER, _STARTS, _C_IN, _C_OUT, _M_IN, _M_OUT, _N_BLOCKS, _N_PATHS = range(12)
_DIM, _ROW, _FIRST, _PATH, _SOURCE, _TARGET, _SIZE, _SCALE, _X, _W, _G, _OUT, _N_WORDS = range(12, 25)


class SpeciesOrder(NamedTuple):
    """Atoms by species: order[starts[z] : starts[z+1]] are those of species z."""

    species: Tensor  # (N,) int64
    order: Tensor  # (N,) int64
    starts: Tensor  # (Z+1,) int64


class Blocks:
    """Which input blocks make each output block, and by which weight; `scale` multiplies each path.

    rows_in and rows_out (B,) are where the blocks begin on the M axes, dims (B_out,) the sizes of output blocks.
    """

    def __init__(
        self,
        rows_in: Sequence[int],
        rows_out: Sequence[int],
        dims: Sequence[int],
        m_in: int,
        m_out: int,
        paths: Sequence[tuple[int, int]],
        scales: Sequence[float],
    ) -> None:
        by_output = sorted(range(len(paths)), key=lambda p: paths[p][1])
        first = [sum(o < block for _, o in paths) for block in range(len(rows_out) + 1)]
        self.shape = (m_in, m_out, len(rows_out), len(paths))
        self._lists = (
            dims,
            rows_out,
            first,
            by_output,
            [rows_in[i] for i, _ in paths],
            [rows_out[o] for _, o in paths],
            [dims[o] for _, o in paths],
        )
        self._scales = torch.tensor(scales, dtype=torch.float64)
        self._tensors: dict[torch.dtype, list[Tensor]] = {}

    def addresses(self, dtype: torch.dtype) -> list[int]:
        """Where the tables lie; they live as long as this object."""
        if dtype not in self._tensors:
            tables = [torch.tensor(values, dtype=torch.int64) for values in self._lists]
            self._tensors[dtype] = [*tables, self._scales.to(dtype)]
        return [tensor.data_ptr() for tensor in self._tensors[dtype]]


@njit(forceinline=True)
def _rows(words, species, begin, end, zero):
    """The output rows of the atoms begin to end of one species."""
    order, w = pointer(at(words, _ORDER), 0), pointer(at(words, _W), zero)
    x, out, scales = pointer(at(words, _X), zero), pointer(at(words, _OUT), zero), pointer(at(words, _SCALE), zero)
    c_in, c_out, m_in, m_out = at(words, _C_IN), at(words, _C_OUT), at(words, _M_IN), at(words, _M_OUT)
    dims, rows, first = pointer(at(words, _DIM), 0), pointer(at(words, _ROW), 0), pointer(at(words, _FIRST), 0)
    paths, source = pointer(at(words, _PATH), 0), pointer(at(words, _SOURCE), 0)
    table = species * at(words, _N_PATHS) * c_in * c_out
    for block in range(at(words, _N_BLOCKS)):
        dim, start, stop = at(dims, block), at(first, block), at(first, block + 1)
        scale = at(scales, at(paths, start)) if stop > start else at(scales, 0)
        n_rows = (end - begin) * dim
        atom, m = begin, 0
        for row in range(0, n_rows, 4):
            atom0 = atom if at(words, _ORDER) == 0 else at(order, atom)
            x0, y0 = (atom0 * m_in + m) * c_in, (atom0 * m_out + at(rows, block) + m) * c_out
            x1, y1, x2, y2, x3, y3 = x0, y0, x0, y0, x0, y0
            for k in range(1, 5):
                m += 1
                if m == dim:
                    m, atom = 0, atom + 1
                if k < 4 and row + k < n_rows:
                    atom0 = atom if at(words, _ORDER) == 0 else at(order, atom)
                    x3, y3 = (atom0 * m_in + m) * c_in, (atom0 * m_out + at(rows, block) + m) * c_out
                    if k == 1:
                        x1, y1 = x3, y3
                    if k <= 2:
                        x2, y2 = x3, y3
            for channel in range(0, c_out, lanes_of(zero)):
                r0, r1, r2, r3 = zero, zero, zero, zero
                for p in range(start, stop):
                    path = at(paths, p)
                    shift = at(source, path) * c_in
                    weight = table + path * c_in * c_out + channel
                    for c in range(c_in):
                        column = load(w, weight + c * c_out, zero)
                        r0 = multiply_add(at(x, x0 + shift + c), column, r0)
                        r1 = multiply_add(at(x, x1 + shift + c), column, r1)
                        r2 = multiply_add(at(x, x2 + shift + c), column, r2)
                        r3 = multiply_add(at(x, x3 + shift + c), column, r3)
                store(out, y0 + channel, multiply(scale, r0))
                store(out, y1 + channel, multiply(scale, r1))
                store(out, y2 + channel, multiply(scale, r2))
                store(out, y3 + channel, multiply(scale, r3))


@njit(forceinline=True)
def _product(words, zero):
    """The layer: chunks of atoms, cut where the species changes."""
    starts, chunk, n_atoms = pointer(at(words, _STARTS), 0), at(words, _CHUNK), at(words, _N_ATOMS)
    while True:
        begin = draw(words, _COUNTER, chunk)
        if begin >= n_atoms:
            break
        end = min(begin + chunk, n_atoms)
        if at(words, _N_SPECIES) == 0:
            _rows(words, 0, begin, end, zero)
        for species in range(at(words, _N_SPECIES)):
            left, right = max(begin, at(starts, species)), min(end, at(starts, species + 1))
            if left < right:
                _rows(words, species, left, right, zero)


@njit(forceinline=True)
def _weight_gradient(words, zero):
    """Sums over atoms of input times output gradient: one path, four input channels and all of its atoms at a time."""
    order, starts = pointer(at(words, _ORDER), 0), pointer(at(words, _STARTS), 0)
    x, g, out = pointer(at(words, _X), zero), pointer(at(words, _G), zero), pointer(at(words, _OUT), zero)
    scales = pointer(at(words, _SCALE), zero)
    source, target, size = pointer(at(words, _SOURCE), 0), pointer(at(words, _TARGET), 0), pointer(at(words, _SIZE), 0)
    c_in, c_out, m_in, m_out = at(words, _C_IN), at(words, _C_OUT), at(words, _M_IN), at(words, _M_OUT)
    n_paths, n_species, steps = at(words, _N_PATHS), at(words, _N_SPECIES), at(words, _C_IN) // 4
    n_units = max(n_species, 1) * n_paths * steps
    while True:
        unit = draw(words, _COUNTER, 1)
        if unit >= n_units:
            break
        table = unit // steps
        c, path = 4 * (unit - table * steps), table % n_paths
        begin = 0 if n_species == 0 else at(starts, table // n_paths)
        end = at(words, _N_ATOMS) if n_species == 0 else at(starts, table // n_paths + 1)
        where = (table * c_in + c) * c_out
        for channel in range(0, c_out, lanes_of(zero)):
            r0, r1, r2, r3 = zero, zero, zero, zero
            for position in range(begin, end):
                atom = position if at(words, _ORDER) == 0 else at(order, position)
                from_x = (atom * m_in + at(source, path)) * c_in + c
                from_g = (atom * m_out + at(target, path)) * c_out + channel
                for m in range(at(size, path)):
                    column = load(g, from_g + m * c_out, zero)
                    r0 = multiply_add(at(x, from_x + m * c_in), column, r0)
                    r1 = multiply_add(at(x, from_x + m * c_in + 1), column, r1)
                    r2 = multiply_add(at(x, from_x + m * c_in + 2), column, r2)
                    r3 = multiply_add(at(x, from_x + m * c_in + 3), column, r3)
            scale = at(scales, path)
            store(out, where + channel, multiply(scale, r0))
            store(out, where + c_out + channel, multiply(scale, r1))
            store(out, where + 2 * c_out + channel, multiply(scale, r2))
            store(out, where + 3 * c_out + channel, multiply(scale, r3))


@cache
def _kernel(gradient: bool, dtype: torch.dtype, lanes: int) -> int:
    """The address of a kernel for vectors of `lanes` channels; the first call on a machine compiles it."""
    scalar = scalar_type(dtype)

    def linear_kernel(data):
        _product(words_of(data), zeros(scalar, lanes))

    def linear_weight_kernel(data):
        _weight_gradient(words_of(data), zeros(scalar, lanes))

    return compiled(linear_weight_kernel if gradient else linear_kernel).address


def channel_step(dtype: torch.dtype) -> int:
    """The numbers of channels must be multiples of this: one vector register, at least 16 bytes."""
    return register_bytes() // dtype.itemsize


def _words(blocks: Blocks, atoms: SpeciesOrder | None, x: Tensor, c_in: int, c_out: int) -> list[int]:
    n_atoms = x.shape[0]
    m_in, m_out, n_blocks, n_paths = blocks.shape
    order = (0, 0, 0) if atoms is None else (len(atoms.starts) - 1, atoms.order.data_ptr(), atoms.starts.data_ptr())
    chunk = max(4, n_atoms // (4 * torch.get_num_threads()))
    words = [0, chunk, n_atoms, *order, c_in, c_out, m_in, m_out, n_blocks, n_paths, *blocks.addresses(x.dtype)]
    return [*words, x.data_ptr(), 0, 0, 0]


def _run(gradient: bool, words: list[int], dtype: torch.dtype) -> None:
    step, c_out = channel_step(dtype), words[_C_OUT]
    work = words[_N_ATOMS] * words[_N_PATHS] * words[_C_IN] * c_out
    launch(_kernel(gradient, dtype, step * (2 if c_out % (2 * step) == 0 else 1)), words, work > 300_000)


def product(blocks: Blocks, x: Tensor, weight: Tensor, atoms: SpeciesOrder | None) -> Tensor:
    """x (N, M_in, C_in) and weight ([Z,] P, C_in, C_out) to (N, M_out, C_out)."""
    out = x.new_empty(x.shape[0], blocks.shape[1], weight.shape[-1])
    words = _words(blocks, atoms, x, x.shape[2], weight.shape[-1])
    words[_W], words[_OUT] = weight.data_ptr(), out.data_ptr()
    _run(False, words, x.dtype)
    return out


def weight_gradient(blocks: Blocks, x: Tensor, g: Tensor, atoms: SpeciesOrder | None) -> Tensor:
    """The gradient ([Z,] P, C_in, C_out) to the weights for the gradient g (N, M_out, C_out) of the output."""
    lead = () if atoms is None else (len(atoms.starts) - 1,)
    out = x.new_empty(*lead, blocks.shape[3], x.shape[2], g.shape[2])
    words = _words(blocks, atoms, x, x.shape[2], g.shape[2])
    words[_G], words[_OUT] = g.data_ptr(), out.data_ptr()
    _run(True, words, x.dtype)
    return out
