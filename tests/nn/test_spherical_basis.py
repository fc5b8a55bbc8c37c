"""The spherical Bessel basis against scipy's functions and its own definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import spherical_jn

from fireassay.nn.spherical_basis import SphericalBesselBasis, spherical_bessel_roots

CUTOFF = 4.2


def test_roots_are_the_first_ones_in_order():
    roots = spherical_bessel_roots(7, 9)
    assert roots.shape == (8, 9)
    for degree, row in enumerate(roots):
        np.testing.assert_allclose(spherical_jn(degree, row), 0, atol=1e-15)
        grid = np.linspace(1e-3, row[-1] + 1e-6, 20_000)
        assert np.count_nonzero(np.diff(np.sign(spherical_jn(degree, grid)))) == 9
    np.testing.assert_allclose(roots[0], np.arange(1, 10) * np.pi)
    np.testing.assert_allclose(roots[1, 0], 4.493409457909064)  # Abramowitz and Stegun, table 10.6


@pytest.mark.parametrize(("l_max", "n_basis"), [(0, 1), (6, 6), (7, 20)])
def test_values_are_those_of_scipy(l_max, n_basis):
    d = np.concatenate([[1e-4, 1e-2], np.linspace(0.05, CUTOFF, 400)])
    got = SphericalBesselBasis(CUTOFF, l_max, n_basis)(torch.from_numpy(d))
    x = d / CUTOFF
    envelope = 1 - 28 * x**6 + 48 * x**7 - 21 * x**8
    roots = spherical_bessel_roots(l_max, n_basis)
    for degree in range(l_max + 1):
        for n, root in enumerate(roots[degree]):
            norm = np.sqrt(quad(lambda r, z=root, k=degree: r * r * spherical_jn(k, z * r) ** 2, 0, 1, limit=200)[0])
            expected = envelope * spherical_jn(degree, root * x) / norm
            np.testing.assert_allclose(got[degree, :, n].numpy() * x, expected, rtol=0, atol=1e-12 * norm**-1)


def test_float32_is_as_good_as_its_rounding():
    d = torch.linspace(0.3, CUTOFF, 200, dtype=torch.float64)
    basis = SphericalBesselBasis(CUTOFF)
    single, double = basis.to(torch.float32)(d.float()), basis(d)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=0, atol=2e-6 * double.abs().max().item())


def test_derivatives():
    d = torch.tensor([0.02, 0.4, 1.9, 4.1, 4.2, 5.0], dtype=torch.float64, requires_grad=True)
    basis = SphericalBesselBasis(CUTOFF, 6, 3)
    distances = d[1:].detach().requires_grad_()
    assert torch.autograd.gradcheck(basis, distances)
    assert torch.autograd.gradgradcheck(basis, distances)
    (slope,) = torch.autograd.grad(basis(d).square().sum(), d)
    assert slope.isfinite().all()


def test_it_ends_at_the_cutoff_with_two_derivatives():
    d = torch.tensor([CUTOFF, CUTOFF + 0.1, 9.0], dtype=torch.float64, requires_grad=True)
    value = SphericalBesselBasis(CUTOFF)(d)
    assert value.abs().max() == 0
    for _ in range(2):
        (value,) = torch.autograd.grad(value.sum(), d, create_graph=True)
        assert value.abs().max() < 1e-12
