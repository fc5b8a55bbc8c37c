"""Fused CPU kernels of the sums over triplets: one atom at a time, whose sums stay in the nearest cache.

With x the features of the edges of an atom, A their radial weights, Y their harmonics, g the gradient of the result of
their reverse edges, and a component m of degree l,

    S[m] = sum over edges of Y[m] A[l] x        out = sum over m of Y[m] S[m] - sum over l of (2l + 1) A[l] x
    Z[m] = sum over edges of Y[m] g             h[l] = sum over m of l of Y[m] Z[m] - (2l + 1) g
    dx = sum over l of A[l] h[l]                dA[l] = x h[l]        dY[m] = sum over channels of A[l] x Z[m] + g S[m]

The third kernel is the derivative of the second and, for g, of the first along directions of x, A and Y. Channels are
vector lanes. Every result is written by one thread in one order, so results repeat bit for bit.

Tensors are contiguous, on the CPU, of one dtype; the number of channels is a multiple of `channel_step`.
"""

from __future__ import annotations

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
    put,
    register_bytes,
    scalar_type,
    store,
    total,
    words_of,
    zeros,
)

# The words of a kernel's table: progress, shape, edges, then the tensors (0 when a kernel does without).
_COUNTER, _TICKET, _CHUNK, _SCRATCH, _N_ATOMS, _N_EDGES, _N_PAIRS, _CHANNELS, _DEGREES = range(9)
_STARTS, _REVERSE, _PAIR, _X, _A, _Y, _G, _UX, _UA, _UY = range(9, 19)
_OUT, _OUT_X, _OUT_A, _OUT_Y, _N_WORDS = range(19, 24)


class Star(NamedTuple):
    """The edges of each atom, starts[j]:starts[j+1], the reverse of each, and its row of the radial weights."""

    starts: Tensor  # (N+1,) int64
    reverse: Tensor  # (E,) int64
    pair: Tensor  # (E,) int64


@njit(forceinline=True)
def _scratch(words, zero):
    """This thread's own memory, four sets of sums."""
    degrees = at(words, _DEGREES)
    size = degrees * degrees * lanes_of(zero) * 8
    first = at(words, _SCRATCH) + draw(words, _TICKET, 1) * 4 * size
    return (
        pointer(first, zero),
        pointer(first + size, zero),
        pointer(first + 2 * size, zero),
        pointer(first + 3 * size, zero),
    )


@njit(forceinline=True)
def _clear(words, sums, zero):
    for m in range(at(words, _DEGREES) * at(words, _DEGREES)):
        store(sums, m * lanes_of(zero), zero)


@njit(forceinline=True)
def _product(words, degree, edge, channel, zero):
    """A x of one edge."""
    x, a, pair = pointer(at(words, _X), zero), pointer(at(words, _A), zero), pointer(at(words, _PAIR), 0)
    channels = at(words, _CHANNELS)
    row = (degree * at(words, _N_PAIRS) + at(pair, edge)) * channels + channel
    return multiply(load(a, row, zero), load(x, edge * channels + channel, zero))


@njit(forceinline=True)
def _product_change(words, degree, edge, channel, zero):
    """The derivative of A x of one edge along the directions."""
    x, a, pair = pointer(at(words, _X), zero), pointer(at(words, _A), zero), pointer(at(words, _PAIR), 0)
    ux, ua, channels = pointer(at(words, _UX), zero), pointer(at(words, _UA), zero), at(words, _CHANNELS)
    row, here = (degree * at(words, _N_PAIRS) + at(pair, edge)) * channels + channel, edge * channels + channel
    first = multiply(load(ua, row, zero), load(x, here, zero))
    return multiply_add(load(a, row, zero), load(ux, here, zero), first)


@njit(forceinline=True)
def _add(sums, y, at0, at1, at2, at3, degree, b0, b1, b2, b3, zero):
    """sums[m] += Y[m] b for the components of one degree of four edges, whose harmonics begin at at0 ... at3."""
    for m in range(degree * degree, (degree + 1) * (degree + 1)):
        result = load(sums, m * lanes_of(zero), zero)
        result = multiply_add(at(y, at0 + m), b0, result)
        result = multiply_add(at(y, at1 + m), b1, result)
        result = multiply_add(at(y, at2 + m), b2, result)
        result = multiply_add(at(y, at3 + m), b3, result)
        store(sums, m * lanes_of(zero), result)


@njit(forceinline=True)
def _collect(words, sums, y, begin, end, channel, kind, zero):
    """Adds Y times A x (kind 0), its change along the directions (kind 1) or g (kind 2) of the edges to the sums."""
    degrees, channels = at(words, _DEGREES), at(words, _CHANNELS)
    reverse, g = pointer(at(words, _REVERSE), 0), pointer(at(words, _G), zero)
    width, last = degrees * degrees, end - 1
    for e0 in range(begin, end, 4):
        e1, e2, e3 = min(e0 + 1, last), min(e0 + 2, last), min(e0 + 3, last)
        b0, b1, b2, b3 = zero, zero, zero, zero
        for degree in range(degrees):
            if kind == 0:
                b0 = _product(words, degree, e0, channel, zero)
                b1 = _product(words, degree, e1, channel, zero)
                b2 = _product(words, degree, e2, channel, zero)
                b3 = _product(words, degree, e3, channel, zero)
            elif kind == 1:
                b0 = _product_change(words, degree, e0, channel, zero)
                b1 = _product_change(words, degree, e1, channel, zero)
                b2 = _product_change(words, degree, e2, channel, zero)
                b3 = _product_change(words, degree, e3, channel, zero)
            elif degree == 0:
                b0 = load(g, at(reverse, e0) * channels + channel, zero)
                b1 = load(g, at(reverse, e1) * channels + channel, zero)
                b2 = load(g, at(reverse, e2) * channels + channel, zero)
                b3 = load(g, at(reverse, e3) * channels + channel, zero)
            if e0 + 1 >= end:
                b1 = zero
            if e0 + 2 >= end:
                b2 = zero
            if e0 + 3 >= end:
                b3 = zero
            _add(sums, y, e0 * width, e1 * width, e2 * width, e3 * width, degree, b0, b1, b2, b3, zero)


@njit(forceinline=True)
def _read(words, sums, begin, end, channel, zero):
    """The result of the reverse of every edge of an atom."""
    degrees, channels, lanes = at(words, _DEGREES), at(words, _CHANNELS), lanes_of(zero)
    reverse, out = pointer(at(words, _REVERSE), 0), pointer(at(words, _OUT), zero)
    y, width, last = pointer(at(words, _Y), zero), degrees * degrees, end - 1
    for e0 in range(begin, end, 4):
        e1, e2, e3 = min(e0 + 1, last), min(e0 + 2, last), min(e0 + 3, last)
        r0, r1, r2, r3 = zero, zero, zero, zero
        for degree in range(degrees):
            own = -(2.0 * degree + 1.0)
            r0 = multiply_add(own, _product(words, degree, e0, channel, zero), r0)
            r1 = multiply_add(own, _product(words, degree, e1, channel, zero), r1)
            r2 = multiply_add(own, _product(words, degree, e2, channel, zero), r2)
            r3 = multiply_add(own, _product(words, degree, e3, channel, zero), r3)
        for m in range(width):
            value = load(sums, m * lanes, zero)
            r0 = multiply_add(at(y, e0 * width + m), value, r0)
            r1 = multiply_add(at(y, e1 * width + m), value, r1)
            r2 = multiply_add(at(y, e2 * width + m), value, r2)
            r3 = multiply_add(at(y, e3 * width + m), value, r3)
        store(out, at(reverse, e0) * channels + channel, r0)
        store(out, at(reverse, e1) * channels + channel, r1)
        store(out, at(reverse, e2) * channels + channel, r2)
        store(out, at(reverse, e3) * channels + channel, r3)


@njit(forceinline=True)
def _back(words, s, z, begin, end, channel, zero):
    """The gradients of the edges of an atom."""
    degrees, channels, lanes = at(words, _DEGREES), at(words, _CHANNELS), lanes_of(zero)
    pair, reverse = pointer(at(words, _PAIR), 0), pointer(at(words, _REVERSE), 0)
    x, a, y, g = (
        pointer(at(words, _X), zero),
        pointer(at(words, _A), zero),
        pointer(at(words, _Y), zero),
        pointer(at(words, _G), zero),
    )
    out_x, out_a = pointer(at(words, _OUT_X), zero), pointer(at(words, _OUT_A), zero)
    out_y = pointer(at(words, _OUT_Y), zero)
    for edge in range(begin, end):
        here, harmonics = edge * channels + channel, edge * degrees * degrees
        slot = 2 * at(pair, edge) + (1 if at(reverse, edge) < edge else 0)
        xe, ge = load(x, here, zero), load(g, at(reverse, edge) * channels + channel, zero)
        result = zero
        for degree in range(degrees):
            ae = load(a, (degree * at(words, _N_PAIRS) + at(pair, edge)) * channels + channel, zero)
            product, h = multiply(ae, xe), multiply(-(2.0 * degree + 1.0), ge)
            for m in range(degree * degree, (degree + 1) * (degree + 1)):
                zm = load(z, m * lanes, zero)
                h = multiply_add(at(y, harmonics + m), zm, h)
                change = total(multiply_add(ge, load(s, m * lanes, zero), multiply(product, zm)))
                if channel > 0:
                    change += at(out_y, harmonics + m)
                put(out_y, harmonics + m, change)
            result = multiply_add(ae, h, result)
            store(out_a, (degree * at(words, _N_EDGES) + slot) * channels + channel, multiply(xe, h))
        store(out_x, here, result)


@njit(forceinline=True)
def _back_change(words, s, ds, z, dz, begin, end, channel, zero):
    """The derivatives of the gradients of the edges of an atom, and of the results of their reverse edges."""
    degrees, channels, lanes = at(words, _DEGREES), at(words, _CHANNELS), lanes_of(zero)
    pair, reverse = pointer(at(words, _PAIR), 0), pointer(at(words, _REVERSE), 0)
    x, a, y, g = (
        pointer(at(words, _X), zero),
        pointer(at(words, _A), zero),
        pointer(at(words, _Y), zero),
        pointer(at(words, _G), zero),
    )
    ux, ua, uy = pointer(at(words, _UX), zero), pointer(at(words, _UA), zero), pointer(at(words, _UY), zero)
    out, out_x = pointer(at(words, _OUT), zero), pointer(at(words, _OUT_X), zero)
    out_a, out_y, wanted = pointer(at(words, _OUT_A), zero), pointer(at(words, _OUT_Y), zero), at(words, _OUT_Y) != 0
    for edge in range(begin, end):
        here, there = edge * channels + channel, at(reverse, edge) * channels + channel
        harmonics, slot = edge * degrees * degrees, 2 * at(pair, edge) + (1 if at(reverse, edge) < edge else 0)
        xe, dxe, ge = load(x, here, zero), load(ux, here, zero), load(g, there, zero)
        result, summed = zero, zero
        for degree in range(degrees):
            row = (degree * at(words, _N_PAIRS) + at(pair, edge)) * channels + channel
            ae, dae, own = load(a, row, zero), load(ua, row, zero), -(2.0 * degree + 1.0)
            product, moved = multiply(ae, xe), multiply_add(ae, dxe, multiply(dae, xe))
            h, dh = multiply(own, ge), zero
            summed = multiply_add(own, moved, summed)
            for m in range(degree * degree, (degree + 1) * (degree + 1)):
                zm, dzm, dsm = load(z, m * lanes, zero), load(dz, m * lanes, zero), load(ds, m * lanes, zero)
                ym, dym = at(y, harmonics + m), at(uy, harmonics + m)
                h = multiply_add(ym, zm, h)
                dh = multiply_add(dym, zm, multiply_add(ym, dzm, dh))
                summed = multiply_add(dym, load(s, m * lanes, zero), multiply_add(ym, dsm, summed))
                if wanted:
                    change = total(multiply_add(moved, zm, multiply_add(product, dzm, multiply(ge, dsm))))
                    if channel > 0:
                        change += at(out_y, harmonics + m)
                    put(out_y, harmonics + m, change)
            result = multiply_add(dae, h, multiply_add(ae, dh, result))
            where = (degree * at(words, _N_EDGES) + slot) * channels + channel
            store(out_a, where, multiply_add(dxe, h, multiply(xe, dh)))
        store(out_x, here, result)
        store(out, there, summed)


@njit(forceinline=True)
def _atoms(words, kernel, zero):
    """Every atom in turn: the sum (kernel 0), its gradients (1) or their derivatives (2)."""
    s, z, ds, dz = _scratch(words, zero)
    y, uy = pointer(at(words, _Y), zero), pointer(at(words, _UY), zero)
    starts, n_atoms, chunk = pointer(at(words, _STARTS), 0), at(words, _N_ATOMS), at(words, _CHUNK)
    while True:
        first = draw(words, _COUNTER, chunk)
        if first >= n_atoms:
            break
        for atom in range(first, min(first + chunk, n_atoms)):
            begin, end = at(starts, atom), at(starts, atom + 1)
            for channel in range(0, at(words, _CHANNELS), lanes_of(zero)):
                _clear(words, s, zero)
                _collect(words, s, y, begin, end, channel, 0, zero)
                if kernel == 0:
                    _read(words, s, begin, end, channel, zero)
                    continue
                _clear(words, z, zero)
                _collect(words, z, y, begin, end, channel, 2, zero)
                if kernel == 1:
                    _back(words, s, z, begin, end, channel, zero)
                    continue
                _clear(words, ds, zero)
                _collect(words, ds, uy, begin, end, channel, 0, zero)
                _collect(words, ds, y, begin, end, channel, 1, zero)
                _clear(words, dz, zero)
                _collect(words, dz, uy, begin, end, channel, 2, zero)
                _back_change(words, s, ds, z, dz, begin, end, channel, zero)


@cache
def _kernel(kind: int, dtype: torch.dtype, lanes: int) -> int:
    """The address of a kernel for vectors of `lanes` channels; the first call on a machine compiles it."""
    scalar = scalar_type(dtype)

    def triplet_kernel(data):
        _atoms(words_of(data), 0, zeros(scalar, lanes))

    def triplet_gradient_kernel(data):
        _atoms(words_of(data), 1, zeros(scalar, lanes))

    def triplet_second_kernel(data):
        _atoms(words_of(data), 2, zeros(scalar, lanes))

    return compiled((triplet_kernel, triplet_gradient_kernel, triplet_second_kernel)[kind]).address


def channel_step(dtype: torch.dtype) -> int:
    """The number of channels must be a multiple of this: one vector register, at least 16 bytes."""
    return register_bytes() // dtype.itemsize


def _run(kind: int, star: Star, tensors: dict[int, Tensor | None]) -> None:
    x, a, y = tensors[_X], tensors[_A], tensors[_Y]
    assert x is not None
    assert a is not None
    assert y is not None
    n_atoms, threads, step = len(star.starts) - 1, torch.get_num_threads(), channel_step(x.dtype)
    registers = (2, 1) if kind == 2 else (4, 2, 1)  # the last kernel has more sums at hand than registers for four
    lanes = step * next(n for n in registers if x.shape[1] % (n * step) == 0)
    scratch = torch.empty(threads * 4 * y.shape[1] * lanes, dtype=torch.float64)
    words = [0] * _N_WORDS
    words[_CHUNK], words[_SCRATCH] = max(1, n_atoms // (8 * threads)), scratch.data_ptr()
    words[_N_ATOMS:_STARTS] = [n_atoms, len(x), a.shape[1], x.shape[1], len(a)]
    words[_STARTS:_X] = [tensor.data_ptr() for tensor in star]
    for slot, tensor in tensors.items():
        words[slot] = 0 if tensor is None else tensor.data_ptr()
    launch(_kernel(kind, x.dtype, lanes), words, x.numel() * y.shape[1] > 200_000)


def star_sums(star: Star, x: Tensor, a: Tensor, y: Tensor) -> Tensor:
    """The sums (E, C) of features (E, C), radial weights (L, E/2, C) and harmonics (E, L^2)."""
    out = torch.empty_like(x)
    _run(0, star, {_X: x, _A: a, _Y: y, _OUT: out})
    return out


def _for_both(a: Tensor) -> Tensor:
    return a.new_empty(*a.shape[:2], 2, a.shape[2])


def star_gradients(star: Star, x: Tensor, a: Tensor, y: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients to features (E, C), radial weights, one for each edge of a pair (L, E/2, 2, C), harmonics (E, L^2)."""
    out_x, out_a, out_y = torch.empty_like(x), _for_both(a), torch.empty_like(y)
    _run(1, star, {_X: x, _A: a, _Y: y, _G: g, _OUT_X: out_x, _OUT_A: out_a, _OUT_Y: out_y})
    return out_x, out_a, out_y


def star_second_gradients(
    star: Star, x: Tensor, a: Tensor, y: Tensor, g: Tensor, directions: tuple[Tensor, Tensor, Tensor], of_y: bool
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """The gradients of <directions, gradients> to x, a (L, E/2, 2, C), y (only if `of_y`) and g."""
    out, out_x, out_a = torch.empty_like(x), torch.empty_like(x), _for_both(a)
    out_y = torch.empty_like(y) if of_y else None
    tensors = {_X: x, _A: a, _Y: y, _G: g, _UX: directions[0], _UA: directions[1], _UY: directions[2]}
    _run(2, star, {**tensors, _OUT: out, _OUT_X: out_x, _OUT_A: out_a, _OUT_Y: out_y})
    return out_x, out_a, out_y, out
