"""What the kernels of products with harmonics share: Clebsch-Gordan entries contracted with the harmonics of a block of
edges, edges as vector lanes, and the transpose.

Of a kernel's table, `words`, `places` says where the numbers of harmonics and of coupled pairs stand, and the addresses
of the entries of each pair, of their harmonics and of their values. The harmonics of the edge of a lane begin at
`stride` times what `rows` holds for it; `by_lane` is room for one cache line per harmonic.
"""

from __future__ import annotations

from numba import njit

from fireassay.nn.simd import at, lanes_of, load, multiply_add, pointer, put, store


@njit(forceinline=True)
def contract(words, places, stride, harmonics, rows, by_lane, a, zero):
    """A[k] = sum over entries of V Y for a block of edges."""
    m_sh, lanes = at(words, places[0]), lanes_of(zero)
    entries, harmonic = pointer(at(words, places[2]), 0), pointer(at(words, places[3]), 0)
    values = pointer(at(words, places[4]), zero)
    for lane in range(lanes):
        base = at(rows, lane) * stride
        for m in range(m_sh):
            put(by_lane, m * lanes + lane, at(harmonics, base + m))
    n = 0
    for k in range(at(words, places[1])):
        result = zero
        while n < at(entries, k + 1):
            result = multiply_add(at(values, n), load(by_lane, at(harmonic, n) * lanes, zero), result)
            n += 1
        store(a, k * lanes, result)


@njit(forceinline=True)
def expand(words, places, stride, da, rows, count, by_lane, gradients, zero):
    """The transpose of `contract`: gradients of A become gradients of the harmonics of the first `count` edges."""
    m_sh, lanes = at(words, places[0]), lanes_of(zero)
    entries, harmonic = pointer(at(words, places[2]), 0), pointer(at(words, places[3]), 0)
    values = pointer(at(words, places[4]), zero)
    for m in range(m_sh):
        store(by_lane, m * lanes, zero)
    n = 0
    for k in range(at(words, places[1])):
        gradient = load(da, k * lanes, zero)
        while n < at(entries, k + 1):
            where = at(harmonic, n) * lanes
            store(by_lane, where, multiply_add(at(values, n), gradient, load(by_lane, where, zero)))
            n += 1
    for lane in range(count):
        base = at(rows, lane) * stride
        for m in range(m_sh):
            put(gradients, base + m, at(by_lane, m * lanes + lane))
