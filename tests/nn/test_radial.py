"""The Bessel basis, both packages' forms, orthonormality, safety at both ends; Gaussians of exponentials."""

from __future__ import annotations

from math import exp, pi, sqrt

import pytest
import torch

from fireassay.nn.radial import BesselBasis, CutBasis, ExponentialBasis, GaussianBasis, SineBasis

CUTOFF = 4.5


@pytest.mark.parametrize("orthonormal", [False, True])
def test_both_published_forms(orthonormal):
    d = torch.linspace(0.1, CUTOFF - 0.1, 50, dtype=torch.float64)
    x = d / CUTOFF
    envelope = 1 - 28 * x**6 + 48 * x**7 - 21 * x**8
    n = torch.arange(1, 9, dtype=torch.float64)
    prefactor = sqrt(2 / CUTOFF) if orthonormal else 2 / CUTOFF  # MACE, NequIP
    published = prefactor * torch.sin(n * pi * x[:, None]) / d[:, None] * envelope[:, None]
    got = BesselBasis(CUTOFF, 8, 6, orthonormal=orthonormal).double()(d)
    torch.testing.assert_close(got, published, rtol=0, atol=1e-13)


def test_functions_are_orthonormal_without_the_envelope():
    d = torch.linspace(1e-6, CUTOFF, 4001, dtype=torch.float64)
    basis = BesselBasis(CUTOFF, 4, p=300, orthonormal=True).double()(d)  # an envelope of one almost everywhere
    gram = torch.trapezoid(basis[:, :, None] * basis[:, None] * d[:, None, None] ** 2, d, dim=0)
    torch.testing.assert_close(gram, torch.eye(4, dtype=torch.float64), rtol=0, atol=0.02)


def test_two_derivatives_are_finite_at_zero_and_vanish_at_the_cutoff():
    d = torch.tensor([0.0, 1e-12, 1e-3, CUTOFF, CUTOFF + 1], dtype=torch.float64, requires_grad=True)
    order = BesselBasis(CUTOFF, 8, 6, trainable=True).double()(d).sum(1)
    for _ in range(3):
        assert torch.isfinite(order).all()
        assert (order[3:].abs() < 1e-13).all()
        assert (order[4:] == 0).all()
        (order,) = torch.autograd.grad(order.sum(), d, create_graph=True)


def test_frequencies_are_parameters_only_when_trained():
    assert not list(BesselBasis(CUTOFF).parameters())
    basis = BesselBasis(CUTOFF, 3, trainable=True).double()
    d = torch.rand(5, dtype=torch.float64) * CUTOFF
    assert basis.frequencies.tolist() == [1, 2, 3]
    assert torch.autograd.gradcheck(
        lambda f: torch.func.functional_call(basis, {"frequencies": f}, d), basis.frequencies
    )


@pytest.mark.parametrize("alpha", [1.0, 5 / CUTOFF])
def test_gaussians_of_exponentials(alpha):
    basis = ExponentialBasis(CUTOFF, 6, alpha, trainable=True).double()
    means = torch.linspace(exp(-alpha * CUTOFF), 1, 6, dtype=torch.float64)
    d = -torch.log(means[1:]) / alpha
    values = basis(d)
    torch.testing.assert_close(values[torch.arange(5), torch.arange(1, 6)], torch.ones(5, dtype=torch.float64))
    # Neighbouring centres are (1 - end) / (B - 1) apart, widths those of 2 (1 - end) / B.
    torch.testing.assert_close(values[1, 1].item(), exp(-((6 / 5 / 2) ** 2)), rtol=1e-6, atol=0)
    assert len(list(basis.parameters())) == 2
    assert not list(ExponentialBasis(CUTOFF, 6).parameters())


def test_sines_without_an_envelope():
    d = torch.linspace(0.1, CUTOFF, 40, dtype=torch.float64)
    expected = torch.sin(torch.arange(1, 6) * pi * d[:, None] / CUTOFF) / d[:, None]
    basis = SineBasis(CUTOFF, 5).double()
    torch.testing.assert_close(basis(d), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        basis(d[:1] * 0)[0], torch.arange(1, 6) * pi / CUTOFF, rtol=1e-6, atol=0, check_dtype=False
    )


@pytest.mark.parametrize("trainable", [False, True])
def test_gaussians_of_the_distance(trainable):
    basis = GaussianBasis(CUTOFF, 4, trainable).double()
    spacing = CUTOFF / 3
    d = torch.tensor([0.0, spacing, 2.5 * spacing], dtype=torch.float64)
    steps = torch.tensor([[0, 1, 2, 3], [1, 0, 1, 2], [2.5, 1.5, 0.5, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(basis(d), torch.exp(-0.5 * steps**2), rtol=1e-6, atol=1e-9)
    assert len(list(basis.parameters())) == 2 * trainable


def test_a_cut_basis_carries_its_cutoff():
    d = torch.tensor([0.0, CUTOFF / 2, CUTOFF, CUTOFF + 1], dtype=torch.float64)
    basis, cut = GaussianBasis(CUTOFF, 4).double(), torch.tensor([[1.0], [0.5], [0.0], [0.0]], dtype=torch.float64)
    torch.testing.assert_close(CutBasis(basis, CUTOFF)(d), torch.cat([basis(d) * cut, cut], 1))
