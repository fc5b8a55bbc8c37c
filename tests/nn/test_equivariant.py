"""Linear layers and the gate: equivariance, the fused kernels against the definition, normalisation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import ortho_group
from torch import Tensor

from fireassay.errors import InputError
from fireassay.nn.equivariant import EquivariantLinear, Gate, species_order
from fireassay.nn.mlp import SILU_NORM, TANH_NORM
from fireassay.nn.so3 import Irreps, rotation_matrix

IN, OUT = Irreps("1o+0e+1o+0o+2e"), Irreps("0e+1o+0e+2e+1e")


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def rotate(irreps: Irreps, features: Tensor, rotation: Tensor) -> Tensor:
    parts = [
        torch.einsum("ab,nbc->nac", rotation_matrix(irrep, rotation), features[:, block])
        for irrep, block in zip(irreps, irreps.slices, strict=True)
    ]
    return torch.cat(parts, 1)


def rotations() -> list[Tensor]:
    proper = ortho_group.rvs(3, random_state=np.random.default_rng(0))
    proper = proper * np.sign(np.linalg.det(proper))
    return [torch.from_numpy(proper), torch.from_numpy(-proper)]


def layer(n_species: int | None, channels: tuple[int, int] = (8, 16), **options) -> tuple[EquivariantLinear, Tensor]:
    linear = EquivariantLinear(IN, OUT, *channels, generator(), n_species, **options).double()
    return linear, torch.randn(11, IN.dim, channels[0], generator=generator(), dtype=torch.float64)


def rows(n_species: int | None) -> Tensor | None:
    return None if n_species is None else torch.randint(n_species, (11,), generator=generator())


@pytest.mark.parametrize("n_species", [None, 3])
@pytest.mark.parametrize("channels", [(8, 16), (3, 5)])
def test_linear_is_equivariant(n_species, channels):
    linear, x = layer(n_species, channels)
    y = linear(x, rows(n_species))
    for rotation in rotations():
        turned = linear(rotate(IN, x, rotation), rows(n_species))
        torch.testing.assert_close(turned, rotate(OUT, y, rotation), rtol=0, atol=1e-12)
    assert (y[:, OUT.slices[4]] == 0).all()  # 1e has no input
    assert (y[:, :9].abs() > 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_species", [None, 3])
@pytest.mark.parametrize("n_atoms", [0, 1, 2, 5, 11])
def test_the_kernels_agree_with_the_definition(n_atoms, n_species, dtype):
    linear, x = layer(n_species, (32, 48))
    linear, x, species = linear.to(dtype), x[:n_atoms].to(dtype).requires_grad_(), rows(n_species)
    species = None if species is None else species[:n_atoms]
    seeds = torch.randn(n_atoms, OUT.dim, 48, generator=generator(), dtype=torch.float64).to(dtype)

    def orders(y: Tensor) -> list[Tensor]:
        gx, gw = torch.autograd.grad((y * seeds).sum(), (x, linear.weight), create_graph=True)
        second = torch.autograd.grad((gx**3).sum() + (gw**3).sum(), (x, linear.weight))
        return [y, gx, gw, *second]

    tolerance = 1e-4 if dtype == torch.float32 else 1e-12
    for fused, definition in zip(orders(linear(x, species)), orders(linear.reference(x, species)), strict=True):
        scale = definition.abs().max().item() if definition.numel() else 1
        torch.testing.assert_close(fused, definition, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("n_species", [None, 2])
def test_linear_is_differentiable_to_the_third_order(n_species):
    linear, x = layer(n_species, (4, 4))
    x, weight, species = x[:3].requires_grad_(), linear.weight, rows(n_species)
    species = None if species is None else species_order(species[:3], 2)

    def gradient(x: Tensor, weight: Tensor) -> Tensor:
        y = torch.func.functional_call(linear, {"weight": weight}, (x, species))
        return torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)[0]

    assert torch.autograd.gradcheck(gradient, (x, weight), fast_mode=True)
    assert torch.autograd.gradgradcheck(gradient, (x, weight), fast_mode=True)


def test_species_pick_their_weights():
    linear, x = layer(3)
    species = rows(3)
    for z in range(3):
        one, _ = layer(None)
        one.weight = torch.nn.Parameter(linear.weight[z])
        torch.testing.assert_close(linear(x, species)[species == z], one(x)[species == z])


def test_one_hot_attributes_may_count_as_inputs():
    (a, x), (b, _) = layer(4), layer(4, count_species=True)
    torch.testing.assert_close(a(x, rows(4)), 2 * b(x, rows(4)))


def test_variance_is_kept():
    linear = EquivariantLinear(Irreps("0e+0e+1o"), Irreps("0e+1o"), 64, 256, generator())
    y = linear(torch.randn(400, 5, 64, generator=generator()))
    assert abs(y[:, :1].var().item() - 1) < 0.1
    assert abs(y[:, 1:].var().item() - 1) < 0.1


def test_nothing_to_map():
    with pytest.raises(InputError, match="share no irrep"):
        EquivariantLinear(Irreps("0e"), Irreps("1o"), 4, 4, generator())


def test_gate():
    gate = Gate(Irreps("0e+0o+1o+2e"))
    assert str(gate.irreps_in) == "0e+0e+0e+0o+1o+2e"
    x = torch.randn(6, gate.irreps_in.dim, 4, generator=generator(), dtype=torch.float64)
    y = gate(x)
    silu = torch.nn.functional.silu
    torch.testing.assert_close(y[:, 0], SILU_NORM * silu(x[:, 0]))
    torch.testing.assert_close(y[:, 1], TANH_NORM * torch.tanh(x[:, 3]))
    torch.testing.assert_close(y[:, 2:5], SILU_NORM * silu(x[:, 1:2]) * x[:, 4:7])
    torch.testing.assert_close(y[:, 5:], SILU_NORM * silu(x[:, 2:3]) * x[:, 7:])
    for rotation in rotations():
        turned = gate(rotate(gate.irreps_in, x, rotation))
        torch.testing.assert_close(turned, rotate(gate.irreps_out, y, rotation), rtol=0, atol=1e-12)


def test_gate_is_twice_differentiable():
    gate = Gate(Irreps("0e+0o+1o"))
    x = torch.randn(2, gate.irreps_in.dim, 3, generator=generator(), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(gate, x)
    assert torch.autograd.gradgradcheck(gate, x)


def test_gate_refuses_another_order():
    with pytest.raises(InputError, match="even scalars, then odd"):
        Gate(Irreps("1o+0e"))
