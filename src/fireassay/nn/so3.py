"""Representations of O(3) on plain tensors: irreps, real spherical harmonics, Clebsch-Gordan coefficients.

Conventions, those of e3nn >= 0.5 and pinned by tests against recorded numbers. A vector is (x, y, z) and is itself
the irrep "1o": Y_1(v) = sqrt(3) v. Components of degree l are ordered m = -l..l with y as the polar axis, which is
the textbook order in the axes (y, z, x). Harmonics have the 'component' normalisation, |Y_l(v)|^2 = 2l + 1 on the
sphere. Y(R v) = D(R) Y(v) for a rotation R. Clebsch-Gordan tensors are real, of Frobenius norm one, with the phase of
Racah's formula carried to the real basis by a factor (-i)^l; e3nn 0.4 has the opposite sign for the couplings of
{1, l, l} with l >= 2 in any order, see `sign_of_e3nn_0_4`.

Features have the layout (N, M, C): N atoms, M = sum of (2l + 1) over the irreps, C channels, contiguous in C.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache, cached_property
from math import factorial, sqrt
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from fireassay.errors import InputError


class Irrep(NamedTuple):
    """An irreducible representation of O(3): degree l >= 0 and parity p, +1 (written e) or -1 (written o)."""

    l: int  # noqa: E741  (the field's own name)
    p: int

    @property
    def dim(self) -> int:
        return 2 * self.l + 1

    def __str__(self) -> str:
        return f"{self.l}{'e' if self.p == 1 else 'o'}"

    @classmethod
    def parse(cls, text: str) -> Irrep:
        """Irrep from "1o". Raises InputError for anything else."""
        match = re.fullmatch(r"(\d+)([eo])", text.strip())
        if match is None:
            raise InputError(f"{text!r} is not an irrep: expected a degree and a parity, such as 0e or 1o")
        return cls(int(match[1]), 1 if match[2] == "e" else -1)

    def product(self, other: Irrep) -> Iterator[Irrep]:
        """The irreps of the product of two irreps, by ascending degree."""
        for degree in range(abs(self.l - other.l), self.l + other.l + 1):
            yield Irrep(degree, self.p * other.p)


class Irreps(tuple[Irrep, ...]):
    """An immutable sequence of blocks, one `Irrep` each; every block is carried by the same number of channels.

    Irreps("0e+1o+2e"), Irreps(["0e", Irrep(1, -1)]); the same irrep may occur more than once.
    """

    def __new__(cls, blocks: str | Iterable[Irrep | str] = ()) -> Irreps:
        if isinstance(blocks, str):
            blocks = blocks.split("+") if blocks.strip() else ()
        return super().__new__(cls, (b if isinstance(b, Irrep) else Irrep.parse(b) for b in blocks))

    def __getnewargs__(self) -> tuple[Any, ...]:
        return (tuple(self),)

    @classmethod
    def harmonics(cls, l_max: int) -> Irreps:
        """The irreps of the spherical harmonics up to degree l_max: "0e+1o+2e+..."."""
        return cls(Irrep(degree, (-1) ** degree) for degree in range(l_max + 1))

    @cached_property
    def dim(self) -> int:
        """M, the sum of 2l + 1."""
        return sum(block.dim for block in self)

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """Where each block lies along the M axis."""
        ends = np.cumsum([block.dim for block in self], dtype=int).tolist()
        return tuple(slice(end - block.dim, end) for block, end in zip(self, ends, strict=True))

    @cached_property
    def l_max(self) -> int:
        return max((block.l for block in self), default=0)

    def leading_to(self, targets: Irreps, harmonics: Irreps) -> Irreps:
        """The blocks whose product with the harmonics holds an irrep of `targets`: what a layer that makes `targets` by
        convolution can use."""
        return Irreps(a for a in self if any(out in targets for b in harmonics for out in a.product(b)))

    def sorted(self) -> Irreps:
        """Ascending in degree, odd before even within a degree, as e3nn sorts; stable."""
        return Irreps(sorted(self))

    def __str__(self) -> str:
        return "+".join(map(str, self))

    def __repr__(self) -> str:
        return f"Irreps({str(self)!r})"


@cache
def _coefficients(l1: int, l2: int, l3: int) -> np.ndarray:
    """Clebsch-Gordan coefficients (2l1+1, 2l2+1, 2l3+1) in the complex basis (Racah, Phys. Rev. 62, 438, 1942)."""
    out = np.zeros((2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1))
    triangle = factorial(l3 + l1 - l2) * factorial(l3 - l1 + l2) * factorial(l1 + l2 - l3)
    scale = (2 * l3 + 1) * triangle / factorial(l1 + l2 + l3 + 1)
    for m1 in range(-l1, l1 + 1):
        for m2 in range(max(-l2, -l3 - m1), min(l2, l3 - m1) + 1):
            m3 = m1 + m2
            pairs = ((l1, m1), (l2, m2), (l3, m3))
            root = sqrt(scale * np.prod([float(factorial(j + m) * factorial(j - m)) for j, m in pairs]))
            total = 0.0
            for k in range(max(0, l2 - l3 - m1, l1 - l3 + m2), min(l1 + l2 - l3, l1 - m1, l2 + m2) + 1):
                below = (k, l1 + l2 - l3 - k, l1 - m1 - k, l2 + m2 - k, l3 - l2 + m1 + k, l3 - l1 - m2 + k)
                total += (-1) ** k / float(np.prod([float(factorial(n)) for n in below]))
            out[l1 + m1, l2 + m2, l3 + m3] = root * total
    return out


@cache
def _real_basis(degree: int) -> np.ndarray:
    """Complex harmonics (rows, m = -l..l) in terms of the real ones (columns), times (-i)^l."""
    q = np.zeros((2 * degree + 1, 2 * degree + 1), dtype=np.complex128)
    q[degree, degree] = 1
    for m in range(1, degree + 1):
        q[degree - m, degree + m], q[degree - m, degree - m] = sqrt(0.5), -1j * sqrt(0.5)
        q[degree + m, degree + m], q[degree + m, degree - m] = (-1) ** m * sqrt(0.5), 1j * (-1) ** m * sqrt(0.5)
    return (-1j) ** degree * q


@cache
def _clebsch_gordan(l1: int, l2: int, l3: int) -> np.ndarray:
    if not abs(l1 - l2) <= l3 <= l1 + l2:
        raise InputError(f"degrees {l1}, {l2} and {l3} do not couple: they violate the triangle rule")
    q1, q2, q3 = _real_basis(l1), _real_basis(l2), _real_basis(l3)
    real = np.einsum("ia,jb,kc,ijk->abc", q1, q2, q3.conj(), _coefficients(l1, l2, l3)).real
    real[np.abs(real) < 1e-14] = 0
    return real / np.linalg.norm(real)


def clebsch_gordan(l1: int, l2: int, l3: int) -> Tensor:
    """The invariant tensor (2l1+1, 2l2+1, 2l3+1), float64, of Frobenius norm one; exact zeros where it vanishes.

    It obeys C = C D1(R) D2(R) D3(R) for every rotation R. Raises InputError when the triangle rule forbids it.
    """
    return torch.from_numpy(_clebsch_gordan(l1, l2, l3).copy())


class Paths(Protocol):
    """What couples by paths, each of which has its coefficients."""

    def tensor(self, path: int, /) -> Tensor: ...


@cache
def path_tensor(coupling: Paths, path: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The coefficients of a path where they are needed, brought there once: each copy would stop an accelerator."""
    return coupling.tensor(path).to(device, dtype)


def sign_of_e3nn_0_4(l1: int, l2: int, l3: int) -> int:
    """-1 where `wigner_3j` of e3nn 0.4 differs from ours by its sign, else +1; measured for degrees up to 4.

    Weights of a model made with e3nn 0.4 (every MACE) are multiplied by it on import.
    """
    low, middle, high = sorted((l1, l2, l3))
    return -1 if low == 1 and middle == high >= 2 else 1


@cache
def _raising(degree: int) -> np.ndarray:
    """T (2l-1, 3, 2l+1) such that Y_l = sum of Y_{l-1} v T for solid harmonics; its gradient is l Y_{l-1} T."""
    tensor = _clebsch_gordan(degree - 1, 1, degree)
    pole = np.zeros(2 * degree - 1)
    pole[degree - 1] = sqrt(2 * degree - 1)  # Y_{l-1} at the pole (0, 1, 0)
    return tensor * (sqrt(2 * degree + 1) / np.linalg.norm(pole @ tensor[:, 1]))


@cache
def _raising_tensors(l_max: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(_raising(degree)).flatten(0, 1).to(device, dtype) for degree in range(1, l_max + 1))


@cache
def _gradient_tensor(l_max: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """G (K, 3 M): the gradient of the solid harmonics up to l_max in terms of the K = l_max^2 ones one degree lower."""
    lower, upper = max(l_max, 1) ** 2, (l_max + 1) ** 2
    tensor = np.zeros((lower, 3, upper))
    for degree in range(1, l_max + 1):
        rows, columns = slice((degree - 1) ** 2, degree**2), slice(degree**2, (degree + 1) ** 2)
        tensor[rows, :, columns] = degree * _raising(degree)
    return torch.from_numpy(tensor).flatten(1).to(device, dtype)


class _SolidHarmonics(torch.autograd.Function):
    """r^l Y_l; the gradient of a solid harmonic is made of those one degree lower, so every order is this function."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, l_max: int) -> Tensor:
        ctx.save_for_backward(vectors)
        ctx.l_max = l_max
        previous = vectors.new_ones(vectors.shape[0], 1)
        out = [previous]
        for tensor in _raising_tensors(l_max, vectors.dtype, vectors.device):
            previous = (previous.unsqueeze(2) * vectors.unsqueeze(1)).flatten(1) @ tensor
            out.append(previous)
        return torch.cat(out, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (vectors,) = ctx.saved_tensors
        lower = _SolidHarmonics.apply(vectors, max(ctx.l_max - 1, 0))
        jacobian = lower @ _gradient_tensor(ctx.l_max, vectors.dtype, vectors.device)  # type: ignore[operator]
        return torch.bmm(jacobian.unflatten(1, (3, -1)), gradients[0].unsqueeze(2)).squeeze(2), None


def spherical_harmonics(l_max: int, vectors: Tensor) -> Tensor:
    """Real spherical harmonics (E, (l_max+1)^2) of the directions of `vectors` (E, 3), 'component' normalisation.

    Differentiable to every order. A zero vector has no direction: its harmonics of l > 0 and all gradients are zero.
    """
    squared = (vectors * vectors).sum(1, keepdim=True)
    safe = torch.where(squared > 0, squared, torch.ones_like(squared))
    return _SolidHarmonics.apply(vectors * safe.rsqrt(), l_max)  # type: ignore[return-value]


def rotation_matrix(irrep: Irrep | int, rotation: Tensor) -> Tensor:
    """D (2l+1, 2l+1) of an orthogonal matrix R (3, 3), proper or not, in the dtype of R: Y(R v) = D(R) Y(v).

    An integer degree l means the irrep of the harmonics, parity (-1)^l. D is read off the harmonics of enough fixed
    directions.
    """
    irrep = irrep if isinstance(irrep, Irrep) else Irrep(irrep, (-1) ** irrep)
    determinant = torch.linalg.det(rotation.to(torch.float64)).sign()
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(8 * irrep.dim, 3, generator=generator, dtype=torch.float64)
    proper = rotation.detach().to("cpu", torch.float64) * determinant.cpu()
    block = slice(irrep.l**2, (irrep.l + 1) ** 2)
    before = spherical_harmonics(irrep.l, points)[:, block]
    after = spherical_harmonics(irrep.l, points @ proper.T)[:, block]
    matrix = torch.linalg.lstsq(before, after).solution.T
    return (matrix * (irrep.p if determinant < 0 else 1)).to(rotation)
