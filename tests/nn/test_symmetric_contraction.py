"""The symmetric contraction against dense tensors, its fused kernels against the definition and finite differences."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from fireassay.errors import InputError
from fireassay.nn.so3 import Irreps, clebsch_gordan, rotation_matrix
from fireassay.nn.symmetric_contraction import SymmetricContraction, contract, contract_reference, polynomial

SIZES = [("0e", 1, 2), ("0e+1o", 2, 2), ("0e+1o+2e", 3, 3), ("1o+0e", 4, 1)]


def inputs(out: str, correlation: int, l_max: int, channels: int = 4, n: int = 9, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(correlation)
    p = polynomial(Irreps.harmonics(l_max), Irreps(out), correlation)
    features = torch.randn(n, (l_max + 1) ** 2, channels, generator=generator, dtype=dtype)
    coefficients = torch.randn(3, len(p.term_parent), channels, generator=generator, dtype=dtype)
    species = torch.randint(3, (n,), generator=generator)
    return features, coefficients, species, p


def test_two_factors_are_a_clebsch_gordan_product():
    module = SymmetricContraction(Irreps("0e+1o+2e"), Irreps("2e"), 2, 4, 1, torch.Generator().manual_seed(0))
    path = next(k for k, p in enumerate(module.polynomial.paths) if p.couplings == ((2, 1, 1),))
    with torch.no_grad():
        module.weight.zero_()
        module.weight[0, path] = 1
    x = torch.randn(5, 9, 4, generator=torch.Generator().manual_seed(1))
    tensor = clebsch_gordan(2, 1, 1).float() * 5**0.5
    expected = torch.einsum("mab,nac,nbc->nmc", tensor, x[:, 1:4], x[:, 1:4])
    torch.testing.assert_close(module(x, torch.zeros(5, dtype=torch.int64)), expected)


@pytest.mark.parametrize(("out", "correlation", "l_max"), SIZES)
def test_it_turns_with_its_input(out, correlation, l_max):
    generator = torch.Generator().manual_seed(2)
    module = SymmetricContraction(Irreps.harmonics(l_max), Irreps(out), correlation, 4, 3, generator).double()
    features, _, species, _ = inputs(out, correlation, l_max)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]

    def turned(irreps: Irreps, x: torch.Tensor) -> torch.Tensor:
        matrix = torch.block_diag(*(rotation_matrix(irrep, rotation) for irrep in irreps))
        return torch.einsum("ab,nbc->nac", matrix, x)

    got = module(turned(Irreps.harmonics(l_max), features), species)
    expected = turned(Irreps(out), module(features, species))
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("out", "correlation", "l_max"), SIZES)
@pytest.mark.parametrize(("dtype", "channels"), [(torch.float64, 6), (torch.float32, 36), (torch.float32, 64)])
def test_the_kernels_agree_with_the_definition(out, correlation, l_max, dtype, channels):
    """Values, gradients, and the gradients of a function of the gradient, over more atoms than one chunk."""
    features, coefficients, species, p = inputs(out, correlation, l_max, channels, 220, dtype)
    tolerance = 1e-11 if dtype == torch.float64 else 3e-5
    results = []
    for function in (contract, contract_reference):
        x, a = features.clone().requires_grad_(), coefficients.clone().requires_grad_()
        value = function(x, a, species, p)
        slope_x, slope_a = torch.autograd.grad(value.pow(2).sum(), (x, a), create_graph=True)
        loss = slope_x.pow(2).sum() + slope_a.pow(2).mean() + value.sum()
        results.append([value, slope_x, slope_a, *torch.autograd.grad(loss, (x, a))])
    for got, expected in zip(*results, strict=True):
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(got / expected.abs().max(), expected / expected.abs().max(), rtol=0, atol=tolerance)


@pytest.mark.parametrize(("out", "correlation", "l_max"), [("0e+1o", 2, 1), ("0e+1o", 3, 1), ("0e", 4, 1)])
def test_derivatives_against_finite_differences(out, correlation, l_max):
    features, coefficients, species, p = inputs(out, correlation, l_max, channels=2, n=3)
    arguments = (features.requires_grad_(), coefficients.requires_grad_())
    assert torch.autograd.gradcheck(lambda x, a: contract(x, a, species, p), arguments, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x, a: contract(x, a, species, p), arguments, fast_mode=True)


def test_forces_do_not_pay_for_the_gradient_of_the_coefficients(monkeypatch):
    """Only a backward pass that reaches the weights asks for it."""
    from fireassay.nn import symmetric_contraction_numba as kernels

    calls = []
    original = kernels.coefficient_gradient
    monkeypatch.setattr(kernels, "coefficient_gradient", lambda *a: calls.append(1) or original(*a))
    module = SymmetricContraction(Irreps.harmonics(2), Irreps("0e"), 3, 4, 2, torch.Generator().manual_seed(0))
    x = torch.randn(3, 9, 4, generator=torch.Generator().manual_seed(1), requires_grad=True)
    (slope,) = torch.autograd.grad(module(x, torch.tensor([0, 1, 1])).sum(), x, create_graph=True)
    assert not calls
    slope.pow(2).sum().backward()
    assert len(calls) == 1
    assert module.weight.grad is not None


def test_no_atoms():
    features, coefficients, species, p = inputs("0e+1o", 3, 2, n=0)
    out = contract(features.requires_grad_(), coefficients.requires_grad_(), species, p)
    assert out.shape == (0, 4, 4)
    out.sum().backward()
    assert coefficients.grad is not None
    assert not coefficients.grad.any()


def test_paths_and_terms_are_as_many_as_mace_has_and_as_are_needed():
    p = polynomial(Irreps.harmonics(3), Irreps("0e+1o+2e"), 3)
    siblings = {(path.block, path.degree): path.siblings for path in p.paths}
    assert siblings == {
        (0, 1): 1, (0, 2): 4, (0, 3): 23, (1, 1): 1, (1, 2): 6, (1, 3): 51, (2, 1): 1, (2, 2): 7, (2, 3): 65,
    }  # fmt: skip
    assert len(p.term_parent) == 887
    assert all(matrix.any(0).all() and matrix.any(1).all() for matrix in p.basis)


def test_copies_share_the_constants():
    module = SymmetricContraction(Irreps.harmonics(1), Irreps("0e"), 2, 4, 1, torch.Generator().manual_seed(0))
    assert copy.deepcopy(module).polynomial is module.polynomial
    assert pickle.loads(pickle.dumps(module)).polynomial is module.polynomial


def test_repeated_input_irreps_are_refused():
    with pytest.raises(InputError, match="distinct input irreps"):
        SymmetricContraction(Irreps("0e+0e"), Irreps("0e"), 2, 4, 1, torch.Generator())
