"""MACE's symmetric contraction as a sparse polynomial (Batatia et al., NeurIPS 2022, eqs. 10-11).

    B[n, m, c] = sum over paths k  w[z_n, k, c] * sum over i1..iν  U[k][m, i1..iν] x[n, i1, c] ... x[n, iν, c]

The generalised Clebsch-Gordan tensors U are those of mace-torch (without cuequivariance): coupling trees that add one
factor at a time, each coupling with the 'component' normalisation sqrt(2l + 1). Contracted with equal factors, U is a
polynomial, and only its distinct monomials are kept: `Polynomial`. Weights first become one coefficient per species,
term and channel; the rest is, for every atom and channel,

    B[m] = sum over terms t of row m   a[z, t] * monomial[parent_t] * x[factor_t]
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations_with_replacement, pairwise
from math import comb, sqrt
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fireassay.errors import InputError
from fireassay.nn import symmetric_contraction_numba
from fireassay.nn.autograd import is_wanted
from fireassay.nn.so3 import Irrep, Irreps, clebsch_gordan
from fireassay.nn.symmetric_contraction_numba import Tables

Integers = NDArray[np.int64]
Reals = NDArray[np.float64]


class Path(NamedTuple):
    """One coupling tree: output block, number of factors, and the degrees (out, left, right) of each coupling.

    `index` counts the trees of this block and degree as mace-torch does, those that vanish for equal factors included;
    `siblings` is their number, by which mace-torch divides the initial weights.
    """

    block: int
    degree: int
    couplings: tuple[tuple[int, int, int], ...]
    index: int
    siblings: int


@dataclass(frozen=True, eq=False)
class Polynomial:
    """The constants of a contraction with M inputs, M_out outputs, Q monomials, T terms and K paths.

    Monomial 0 is one and monomial q > 0 is monomial parent[q] < q times x[factor[q]]; degrees[d] is the slice of those
    of degree d, all below the correlation order. Terms starts[m] to starts[m+1] belong to output m. `basis` holds, for
    each output block, the coefficients (terms of the block, paths of the block).
    """

    irreps_in: Irreps
    irreps_out: Irreps
    correlation: int
    parent: Integers  # (Q,)
    factor: Integers  # (Q,)
    degrees: tuple[slice, ...]
    starts: Integers  # (M_out + 1,)
    term_parent: Integers  # (T,)
    term_factor: Integers  # (T,)
    basis: tuple[Reals, ...]
    paths: tuple[Path, ...]  # ordered by block, degree, index

    def terms(self, block: int, degree: int) -> Iterator[tuple[int, tuple[int, ...], Reals]]:
        """The terms of one degree of an output block: component, ascending factors, coefficients (its paths,)."""
        columns = [
            k for k, path in enumerate(path for path in self.paths if path.block == block) if path.degree == degree
        ]
        first = self.irreps_out.slices[block].start
        begin = self.starts[first]
        for component in range(self.irreps_out[block].dim):
            for term in range(self.starts[first + component], self.starts[first + component + 1]):
                factors, monomial = [int(self.term_factor[term])], int(self.term_parent[term])
                while monomial:
                    factors.append(int(self.factor[monomial]))
                    monomial = int(self.parent[monomial])
                if len(factors) == degree:
                    yield component, tuple(sorted(factors)), self.basis[block][term - begin, columns]

    def __reduce__(self) -> tuple[Any, ...]:
        return polynomial, (self.irreps_in, self.irreps_out, self.correlation)


class SymmetricContraction(nn.Module):
    """Products of up to `correlation` copies of the features, mixed with weights of the atom's species.

    `weight` (Z, K, C) has one row per path of `polynomial.paths`, and a normal distribution of standard deviation
    1 / (number of paths of the same output and degree). Features are (N, M, C), one block per irrep.

    Raises InputError when a block of irreps_in occurs twice or the correlation order is not positive.
    """

    def __init__(
        self,
        irreps_in: Irreps,
        irreps_out: Irreps,
        correlation: int,
        channels: int,
        n_species: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if correlation < 1 or len(set(irreps_in)) < len(irreps_in):
            raise InputError(
                f"a symmetric contraction needs a positive order and distinct input irreps, got {correlation} and "
                f"{irreps_in}; mix equal irreps first"
            )
        self.irreps_in, self.irreps_out, self.correlation = irreps_in, irreps_out, correlation
        self.polynomial = polynomial(irreps_in, irreps_out, correlation)
        weight = torch.randn(n_species, len(self.polynomial.paths), channels, generator=generator)
        siblings = torch.tensor([float(path.siblings) for path in self.polynomial.paths])
        self.weight = nn.Parameter(weight / siblings.unsqueeze(1))

    def coefficients(self) -> Tensor:
        """The coefficient of every term (Z, T, C)."""
        blocks, first = [], 0
        for matrix in _basis(self.polynomial, self.weight.dtype, self.weight.device):
            blocks.append(matrix @ self.weight[:, first : first + matrix.shape[1]])
            first += matrix.shape[1]
        return torch.cat(blocks, 1)

    def forward(self, features: Tensor, species: Tensor) -> Tensor:
        """(N, M, C) and species rows (N,) to (N, M_out, C)."""
        return contract(features, self.coefficients(), species, self.polynomial)

    def frozen(self) -> FrozenContraction:
        """The same map with the coefficients of the present weights."""
        return FrozenContraction(self.coefficients().detach(), self.polynomial)


class FrozenContraction(nn.Module):
    """A symmetric contraction whose weights do not change."""

    def __init__(self, coefficients: Tensor, polynomial: Polynomial) -> None:
        super().__init__()
        self.polynomial = polynomial
        self.register_buffer("coefficients", coefficients, persistent=False)

    coefficients: Tensor

    def forward(self, features: Tensor, species: Tensor) -> Tensor:
        """(N, M, C) and species rows (N,) to (N, M_out, C)."""
        return contract(features, self.coefficients, species, self.polynomial)


def contract(features: Tensor, coefficients: Tensor, species: Tensor, polynomial: Polynomial) -> Tensor:
    """The polynomial of features (N, M, C) with coefficients (Z, T, C) of each atom's species (N,): (N, M_out, C).

    Twice differentiable in features and coefficients.
    """
    if not symmetric_contraction_numba.supports(features):
        return contract_reference(features, coefficients, species, polynomial)
    tables = _tables(polynomial)
    return _Contract.apply(features.contiguous(), coefficients.contiguous(), species, tables)  # type: ignore[return-value]


class _Contract(torch.autograd.Function):
    """The fused polynomial."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, coefficients: Tensor, species: Tensor, tables: Tables) -> Tensor:
        ctx.save_for_backward(features, coefficients, species)
        ctx.tables, ctx.source = tables, coefficients.grad_fn
        return symmetric_contraction_numba.values(tables, features, coefficients, species)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        features, coefficients, species = ctx.saved_tensors
        wanted = ctx.needs_input_grad[1] and is_wanted(ctx.source)
        result = _Gradient.apply(features, coefficients, gradients[0].contiguous(), species, ctx.tables, wanted)
        to_features, to_coefficients = result  # type: ignore[misc]
        return to_features, to_coefficients, None, None


class _Gradient(torch.autograd.Function):
    """The gradients of the polynomial; its own derivatives are those that training on forces needs."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        coefficients: Tensor,
        gradient: Tensor,
        species: Tensor,
        tables: Tables,
        wanted: bool,
    ) -> tuple[Tensor, Tensor | None]:
        ctx.save_for_backward(features, coefficients, gradient, species)
        ctx.tables = tables
        ctx.set_materialize_grads(False)
        kernels = symmetric_contraction_numba
        to_features = kernels.gradient(tables, features, coefficients, species, gradient)
        if not wanted:
            return to_features, None
        return to_features, kernels.coefficient_gradient(tables, len(coefficients), features, species, gradient)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, along: Tensor | None, of_coefficients: Tensor | None) -> tuple[Tensor | None, ...]:
        features, coefficients, gradient, species = ctx.saved_tensors
        kernels, tables = symmetric_contraction_numba, ctx.tables
        to_features = to_coefficients = to_gradient = None
        if along is not None:
            along = along.contiguous()
            to_gradient, to_features = kernels.tangent(tables, features, coefficients, species, gradient, along)
            if ctx.needs_input_grad[1]:
                to_coefficients = kernels.coefficient_gradient(
                    tables, len(coefficients), features, species, gradient, along
                )
        if of_coefficients is not None:
            direction = of_coefficients.contiguous()
            values = kernels.values(tables, features, direction, species)
            slope = kernels.gradient(tables, features, direction, species, gradient)
            to_gradient = values if to_gradient is None else to_gradient + values
            to_features = slope if to_features is None else to_features + slope
        return to_features, to_coefficients, to_gradient, None, None, None


@cache
def _tables(polynomial: Polynomial) -> Tables:
    return Tables(polynomial, polynomial.irreps_in.dim)


def contract_reference(features: Tensor, coefficients: Tensor, species: Tensor, polynomial: Polynomial) -> Tensor:
    """The definition, for any device."""
    constants = _indices(polynomial, features.device)
    monomials = torch.ones_like(features[:, :1])
    for degree in polynomial.degrees[1:]:
        products = monomials.index_select(1, constants.parent[degree]) * features.index_select(
            1, constants.factor[degree]
        )
        monomials = torch.cat([monomials, products], 1)
    factors = monomials.index_select(1, constants.term_parent), features.index_select(1, constants.term_factor)
    terms = factors[0] * factors[1] * coefficients.index_select(0, species)
    out = features.new_zeros(features.shape[0], len(polynomial.starts) - 1, features.shape[2])
    return out.index_add(1, constants.row, terms)


class _Indices(NamedTuple):
    parent: Tensor
    factor: Tensor
    term_parent: Tensor
    term_factor: Tensor
    row: Tensor  # (T,), the output of each term


@cache
def _indices(polynomial: Polynomial, device: torch.device) -> _Indices:
    row = np.repeat(np.arange(len(polynomial.starts) - 1), np.diff(polynomial.starts))
    arrays = (polynomial.parent, polynomial.factor, polynomial.term_parent, polynomial.term_factor, row)
    return _Indices(*(torch.from_numpy(array).to(device) for array in arrays))


@cache
def _basis(polynomial: Polynomial, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(matrix).to(device, dtype) for matrix in polynomial.basis)


@cache
def polynomial(irreps_in: Irreps, irreps_out: Irreps, correlation: int) -> Polynomial:
    """The polynomial of a contraction; kept for the life of the process."""
    monomials = _Monomials(irreps_in.dim, correlation)
    paths: list[Path] = []
    columns: list[Reals] = []  # (2l + 1, all monomials)
    forest = {degree: _trees(irreps_in, irreps_out, degree) for degree in range(1, correlation + 1)}
    for block, irrep in enumerate(irreps_out):
        for degree, every in forest.items():
            trees = [tree for tree in every if tree[0] == irrep]
            for index, (_, couplings, values) in enumerate(trees):
                if values.any():
                    paths.append(Path(block, degree, couplings, index, len(trees)))
                    columns.append(monomials.widened(values, degree))
    used: list[Integers] = []
    basis = []
    shuffle = np.random.default_rng(0)  # neighbouring terms write to different places, so that no store waits
    for block, irrep in enumerate(irreps_out):
        own = [column for path, column in zip(paths, columns, strict=True) if path.block == block]
        stacked = np.stack(own, -1) if own else np.zeros((irrep.dim, monomials.count, 0))
        rows = [shuffle.permutation(np.flatnonzero(component.any(-1))) for component in stacked]
        used += rows
        basis.append(np.concatenate([component[row] for component, row in zip(stacked, rows, strict=True)]))
    tree = monomials.tree(np.concatenate(used), correlation)
    starts = np.cumsum([0, *map(len, used)])
    return Polynomial(irreps_in, irreps_out, correlation, *tree[:3], starts, *tree[3:], tuple(basis), tuple(paths))


class _Monomials:
    """All monomials of M variables up to a degree, in one numbering: ascending degree, then lexicographic."""

    def __init__(self, size: int, highest: int) -> None:
        self.factors = [q for d in range(highest + 1) for q in combinations_with_replacement(range(size), d)]
        self.number = {q: i for i, q in enumerate(self.factors)}
        self.count = len(self.factors)

    def widened(self, values: Reals, degree: int) -> Reals:
        """Coefficients (m, monomials of one degree) among all monomials: (m, count)."""
        first = next(i for i, q in enumerate(self.factors) if len(q) == degree)
        out = np.zeros((len(values), self.count))
        out[:, first : first + values.shape[1]] = values
        return out

    def tree(self, terms: Integers, highest: int) -> tuple[Integers, Integers, tuple[slice, ...], Integers, Integers]:
        """Parents and factors of the fewest monomials from which the terms are one product away."""
        needed: set[tuple[int, ...]] = {()}
        split: dict[tuple[int, ...], tuple[tuple[int, ...], int]] = {}
        wanted = {self.factors[t] for t in terms}
        for degree in range(highest, 0, -1):
            here = sorted(q for q in wanted | needed if len(q) == degree)
            for q in here:
                options = [(q[:i] + q[i + 1 :], q[i]) for i in range(degree)]
                split[q] = next((o for o in options if o[0] in needed), options[-1])
                needed.add(split[q][0])
        kept = sorted(needed, key=lambda q: (len(q), q))
        number = {q: i for i, q in enumerate(kept)}
        ends = np.cumsum([0, *(sum(len(q) == d for q in kept) for d in range(highest))])
        degrees = tuple(slice(int(a), int(b)) for a, b in pairwise(ends))

        def pairs(monomials: list[tuple[int, ...]]) -> tuple[Integers, Integers]:
            chosen = [split.get(q, ((), 0)) for q in monomials]
            return np.array([number[p] for p, _ in chosen], np.int64), np.array([f for _, f in chosen], np.int64)

        return (*pairs(kept), degrees, *pairs([self.factors[t] for t in terms]))


Tree = tuple[Irrep, tuple[tuple[int, int, int], ...], Reals]


def _trees(irreps_in: Irreps, irreps_out: Irreps, degree: int) -> list[Tree]:
    """Every coupling tree of `degree` factors into irreps_out: irrep, couplings, polynomial (2l + 1, monomials).

    The order is mace-torch's: over the trees of one factor less, sorted by irrep, then the blocks of irreps_in, then
    the irreps of their product. At degree four mace-torch keeps only intermediate irreps of the harmonics' parity.
    """
    trees: list[Tree] = [
        (irrep, (), np.eye(irreps_in.dim)[block]) for irrep, block in zip(irreps_in, irreps_in.slices, strict=True)
    ]
    trees.sort(key=lambda tree: tree[0])
    for n in range(2, degree + 1):
        multiply, size = _multiplication(irreps_in.dim, n), comb(irreps_in.dim + n - 1, n)
        farthest = irreps_out.l_max + (degree - n) * irreps_in.l_max
        grown: list[Tree] = []
        for irrep, couplings, values in trees:
            for right, block in zip(irreps_in, irreps_in.slices, strict=True):
                for out in irrep.product(right):
                    natural = out.p == (-1) ** out.l
                    if out.l > farthest or (n == degree and out not in irreps_out) or (degree == 4 and not natural):
                        continue
                    added = (*couplings, (out.l, irrep.l, right.l))
                    grown.append((out, added, _product(out, irrep, right, values, multiply[:, block], size)))
        trees = sorted(grown, key=lambda tree: tree[0])
    return trees


def _product(out: Irrep, left: Irrep, right: Irrep, values: Reals, multiply: Integers, size: int) -> Reals:
    """The component `out` (2l + 1, size) of a polynomial (2 l_left + 1, monomials) times a block of variables."""
    if not values.any():
        return np.zeros((out.dim, size))
    coupling = clebsch_gordan(out.l, left.l, right.l).numpy() * sqrt(out.dim)
    entries = np.einsum("mab,aq->mqb", coupling, values)
    product = [np.bincount(multiply.ravel(), row.ravel(), minlength=size) for row in entries]
    return np.where(np.abs(product) < 1e-12, 0.0, product)


@cache
def _multiplication(size: int, degree: int) -> Integers:
    """The number, among the monomials of `degree` in `size` variables, of monomial q of one degree less times x_i."""
    number = {q: i for i, q in enumerate(combinations_with_replacement(range(size), degree))}
    lower = combinations_with_replacement(range(size), degree - 1)
    return np.array([[number[tuple(sorted((*q, i)))] for i in range(size)] for q in lower], np.int64)
