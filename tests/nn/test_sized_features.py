"""Features of irreps with different numbers of channels: sizes, linear layers, gates, and their layer norm."""

from __future__ import annotations

import pytest
import torch

from fireassay.errors import InputError
from fireassay.nn.equivariant_norm import EquivariantLayerNorm
from fireassay.nn.mlp import SILU_NORM
from fireassay.nn.sized_features import SIGMOID_NORM, SizedIrreps, SizedLinear, add, gate
from fireassay.nn.so3 import Irrep, Irreps, rotation_matrix

SIZES = SizedIrreps.parse("5x0e+3x0o+2x1o")


def random(sizes: SizedIrreps, seed: int = 0, n: int = 7):
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(n, irrep.dim, channels, generator=generator, dtype=torch.float64)
        for irrep, channels in zip(*sizes, strict=True)
    )


def turned(features, sizes: SizedIrreps, matrix: torch.Tensor):
    return tuple(rotation_matrix(irrep, matrix) @ x for irrep, x in zip(sizes.irreps, features, strict=True))


def test_sizes():
    assert SizedIrreps(Irreps("0e+0o+1o"), (5, 3, 2)) == SIZES
    assert SIZES.only(Irreps("1o+0e")) == SizedIrreps.parse("5x0e+2x1o")
    assert SIZES.times(2) == SizedIrreps.parse("10x0e+6x0o+4x1o")
    assert SIZES.with_gates() == SizedIrreps.parse("10x0e+3x0o+2x1o")
    assert (SIZES.size(Irrep(1, -1)), SIZES.size(Irrep(2, 1))) == (2, 0)


@pytest.mark.parametrize("text", ["", "0e", "4x0e+4x0e", "0x0e", "4*0e", "4x0e,2x1o"])
def test_sizes_of_another_form_are_refused(text):
    with pytest.raises(InputError):
        SizedIrreps.parse(text)


@pytest.mark.parametrize("improper", [1.0, -1.0])
def test_layers_turn_with_their_input(improper):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0] * improper
    norm = EquivariantLayerNorm(SIZES).to(torch.float64)
    linear = SizedLinear(SIZES, SIZES.with_gates(), generator).to(torch.float64)
    with torch.no_grad():
        for parameter in (*norm.parameters(), *linear.parameters()):
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)

    def network(x):
        return gate(linear(norm(x)), SIZES)

    features = random(SIZES)
    for got, expected in zip(
        network(turned(features, SIZES, matrix)), turned(network(features), SIZES, matrix), strict=True
    ):
        torch.testing.assert_close(got, expected)
        assert got.abs().max() > 0.1


def test_gate_by_hand():
    scalars, odd, vectors = random(SIZES.with_gates())
    got = gate((scalars, odd, vectors), SIZES)
    torch.testing.assert_close(got[0], torch.nn.functional.silu(scalars[:, :, :5]) * SILU_NORM)
    torch.testing.assert_close(got[1], odd * torch.sigmoid(scalars[:, :, 5:8]) * SIGMOID_NORM)
    torch.testing.assert_close(got[2], vectors * torch.sigmoid(scalars[:, :, 8:]) * SIGMOID_NORM)


def test_linear_makes_what_its_input_has():
    generator = torch.Generator().manual_seed(0)
    linear = SizedLinear(SIZES, SizedIrreps.parse("4x0e+4x1e+4x1o"), generator)
    assert linear.sizes == SizedIrreps.parse("4x0e+4x1o")
    assert linear.bias is not None
    assert tuple(linear.bias.shape) == (4,)
    assert SizedLinear(SIZES, SizedIrreps.parse("4x1o"), generator).bias is None
    wide = SizedLinear(SizedIrreps.parse("200x1o"), SizedIrreps.parse("300x1o"), generator, gain=2.0)
    assert 0.98 < wide.weights[0].std().item() * 200**0.5 / 2 < 1.02


def test_layer_norm_has_unit_mean_square():
    features = tuple(4.0 * x + 1.0 for x in random(SIZES))
    scalars, odd, vectors = EquivariantLayerNorm(SIZES).to(torch.float64)(features)
    torch.testing.assert_close(scalars.mean(2), torch.zeros(7, 1, dtype=torch.float64), atol=1e-12, rtol=0)
    for x in (scalars, odd, vectors):
        torch.testing.assert_close(x.square().mean((1, 2)), torch.ones(7, dtype=torch.float64), atol=1e-4, rtol=0)
    assert odd.mean(2).abs().max() > 0.1
    torch.testing.assert_close(vectors[:, 1, 0] / vectors[:, 2, 1], features[2][:, 1, 0] / features[2][:, 2, 1])


def test_layer_norm_of_nothing_is_nothing():
    vectors = torch.zeros(2, 3, 2, dtype=torch.float64, requires_grad=True)
    norm = EquivariantLayerNorm(SizedIrreps.parse("2x1o")).to(torch.float64)
    (out,) = norm((vectors,))
    (gradient,) = torch.autograd.grad(out.sum(), vectors)
    assert not out.any()
    assert bool(gradient.isfinite().all())


def test_add():
    some = random(SIZES.only(Irreps("0e+1o")), 1)
    every = random(SIZES, 2)
    got = add(some, every, SIZES.only(Irreps("0e+1o")), SIZES)
    torch.testing.assert_close(got, (some[0] + every[0], every[1], some[1] + every[2]))
