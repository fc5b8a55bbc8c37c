"""The table of a radial network against the network itself and against finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fireassay.errors import InputError
from fireassay.nn.radial_table import RadialTable, RoughFunction, tabulated

CUTOFF = 5.0


class Radial(nn.Module):
    """Bessel functions and an envelope through a small network, as NequIP and MACE have it."""

    def __init__(self, width: int = 48, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first = nn.Parameter(torch.randn(8, 32, generator=generator))
        self.second = nn.Parameter(torch.randn(32, width, generator=generator) / 32**0.5)

    def forward(self, r: Tensor) -> Tensor:
        x = (r / CUTOFF).clamp(max=1).unsqueeze(1)
        envelope = 1 - 28 * x**6 + 48 * x**7 - 21 * x**8
        basis = torch.sin(torch.arange(1, 9, device=r.device) * torch.pi * x) / r.unsqueeze(1) * envelope
        return nn.functional.silu(basis @ self.first) @ self.second


def distances(n: int = 300, seed: int = 0) -> Tensor:
    return 0.4 + 4.8 * torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-7), (torch.float32, 5e-7)])
@pytest.mark.parametrize("width", [48, 5])
def test_value_and_gradient_are_those_of_the_network(dtype: torch.dtype, tolerance: float, width: int):
    network = Radial(width).to(torch.float64)
    table = RadialTable(network, CUTOFF, dtype=dtype)
    r = distances().requires_grad_()
    upstream = torch.randn(300, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = network(r)
    (slope,) = torch.autograd.grad(expected, r, upstream)
    values = table(r)
    (ours,) = torch.autograd.grad(values, r, upstream.to(dtype))
    values, expected = values.detach(), expected.detach()
    assert values.dtype == dtype
    assert float((values - expected).abs().max() / expected.abs().max()) < tolerance
    assert float((ours - slope).abs().max() / slope.abs().max()) < 2 * tolerance


def test_the_gradient_is_that_of_the_interpolant():
    table = RadialTable(Radial(8), CUTOFF, knots=12, dtype=torch.float64)  # far from the network, and still consistent
    assert torch.autograd.gradcheck(table, distances(20).requires_grad_())


def test_neighbouring_intervals_join_smoothly():
    table = RadialTable(Radial(8), CUTOFF, knots=20, dtype=torch.float64)
    knots = torch.arange(2, 20, dtype=torch.float64) * table.spacing
    slopes = []
    for side in (-1e-9, 1e-9):
        r = (knots + side).requires_grad_()
        slopes.append(torch.autograd.grad(table(r).sum(), r)[0])
    torch.testing.assert_close(slopes[0], slopes[1], atol=1e-5, rtol=1e-6)


def test_beyond_the_cutoff_and_near_zero():
    table = RadialTable(Radial(8), CUTOFF)
    r = torch.tensor([5.0, 6.0, 80.0, 0.0, 1e-3], requires_grad=True)
    values = table(r)
    (slope,) = torch.autograd.grad(values.sum(), r)
    assert float(values[:3].detach().abs().max()) < 1e-6
    assert slope[:3].tolist() == [0, 0, 0]
    assert bool(torch.isfinite(values).all())
    assert table(torch.zeros(0)).shape == (0, 8)


def test_a_second_derivative_raises():
    table = RadialTable(Radial(8), CUTOFF)
    r = distances(4).requires_grad_()
    (slope,) = torch.autograd.grad((table(r) ** 2).sum(), r, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(slope.sum(), r)


def test_the_torch_path_is_the_fused_one(monkeypatch):
    table = RadialTable(Radial(40), CUTOFF, dtype=torch.float64)
    results = []
    for fused in (True, False):
        monkeypatch.setattr("fireassay.nn.radial_table._fused", lambda _, fused=fused: fused)
        r = distances().requires_grad_()
        values = table(r)
        results.append((values, *torch.autograd.grad(values.sin().sum(), r)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)


def test_the_network_keeps_its_dtype_and_the_table_follows_it():
    network = Radial(8)
    assert RadialTable(network, CUTOFF).table.dtype == torch.float32 == network.first.dtype
    assert RadialTable(lambda r: r.unsqueeze(1) ** 2, CUTOFF).table.dtype == torch.float64


def test_what_cannot_be_tabulated_is_refused():
    with pytest.raises(RoughFunction, match="finite"):
        RadialTable(lambda r: torch.log(r - 1).unsqueeze(1), CUTOFF)
    with pytest.raises(RoughFunction, match="float32, in which"):
        RadialTable(lambda r: 1e60 * r.unsqueeze(1), CUTOFF, dtype=torch.float32)
    with pytest.raises(RoughFunction, match="too rough"):
        RadialTable(lambda r: (r - 2.345).abs().unsqueeze(1), CUTOFF)
    with pytest.raises(InputError, match="cutoff above 0"):
        RadialTable(Radial(8), 0.0)
    with pytest.raises(InputError, match="values of shape"):
        RadialTable(lambda r: r, CUTOFF)


def test_a_derivative_that_is_not_finite_is_no_table():
    """The values are finite everywhere, the slope at the first point between the knots is not."""
    with pytest.raises(RoughFunction):
        RadialTable(lambda r: (r - CUTOFF * 1.3 / 32).abs().sqrt().unsqueeze(1), CUTOFF)


@pytest.mark.parametrize("factor", [1.0, 12.0, 15.0])
def test_the_knots_that_an_accurate_table_needs_are_found(factor):
    """Up to the most there can be: a function just within their reach is tabulated, one beyond is not."""
    network = Radial(8).to(torch.float64)
    with torch.no_grad():
        network.first *= factor
    r = distances()
    table = tabulated(network, CUTOFF)
    assert isinstance(table, RadialTable) == (factor < 15)
    error = (table(r) - network(r)).abs().max() / network(r).abs().max()
    assert float(error.detach()) < 1e-7
    if factor == 12:
        assert len(table.table) > 3000
