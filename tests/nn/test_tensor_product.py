"""The channel-wise product against e3nn's convention, its kernels against the definition, and all derivatives."""

from __future__ import annotations

import pytest
import torch

from fireassay.errors import InputError
from fireassay.nn.segment import Segments
from fireassay.nn.so3 import Irreps, clebsch_gordan, rotation_matrix
from fireassay.nn.tensor_product import ChannelwiseProduct, mixed_product, tensor_product

HARMONICS = Irreps.harmonics(2)


def case(irreps="0e+1o+2e", allowed="0e+1o+2e", channels=4, dtype=torch.float64, split=True, seed=0):
    """Features, environment, centres and product for atoms with 5, 0, 1 and 3 edges."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.repeat_interleave(torch.arange(4), torch.tensor([5, 0, 1, 3]))
    starts = torch.tensor([0, 5, 5, 6, 9])
    product = ChannelwiseProduct(Irreps(irreps), HARMONICS, Irreps(allowed))
    sizes = [irrep.dim for irrep in product.irreps_in] if split else [product.irreps_in.dim]
    features = [torch.randn(9, size, channels, generator=generator, dtype=dtype) for size in sizes]
    environment = torch.randn(4, HARMONICS.dim, channels, generator=generator, dtype=dtype)
    return features, environment, Segments(index, None, starts), product


def test_one_path_is_a_clebsch_gordan_contraction():
    features, environment, centres, _ = case(irreps="1o")
    product = ChannelwiseProduct(Irreps("1o"), Irreps("1o"), Irreps("1e"))
    environment = environment[:, 1:4].contiguous()
    (got,) = tensor_product(features, environment, centres, product)
    cross = torch.linalg.cross(features[0], environment[centres.index], dim=1)
    sign = clebsch_gordan(1, 1, 1)[0, 1, 2].sign()
    torch.testing.assert_close(got, sign * cross / 2**0.5)


@pytest.mark.parametrize("channels", [3, 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kernels_agree_with_the_definition(channels, dtype):
    for split in (True, False):
        given = case("0e+1o+1e+2o", "0e+1o+1e+2e", channels, dtype, split)
        fused = tensor_product(*given, implementation="fused")
        reference = tensor_product(*given, implementation="reference")
        assert [irrep for irrep, _ in given[3].targets] == list(Irreps("0e+1o+1e+2e"))
        for a, b in zip(fused, reference, strict=True):
            assert a.shape == b.shape
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("split", [True, False])
def test_first_and_second_derivatives(split):
    features, environment, centres, product = case(channels=2, split=split)

    def function(*factors):
        return tuple(tensor_product(factors[:-1], factors[-1], centres, product, implementation="fused"))

    factors = [tensor.requires_grad_() for tensor in (*features, environment)]
    assert torch.autograd.gradcheck(function, factors)
    assert torch.autograd.gradgradcheck(function, factors)


def test_third_derivatives_agree_with_the_definition():
    features, environment, centres, product = case(channels=2)
    results = []
    for implementation in ("fused", "reference"):
        factors = [tensor.clone().requires_grad_() for tensor in (*features, environment)]
        out = tensor_product(factors[:-1], factors[-1], centres, product, implementation=implementation)
        value = sum((array**3).sum() for array in out)
        for _ in range(3):
            gradients = torch.autograd.grad(value, factors, create_graph=True)
            value = sum((0.01 * gradient).sin().sum() for gradient in gradients)
        results.append(value.detach())
    torch.testing.assert_close(results[0], results[1])


def test_it_is_equivariant():
    features, environment, centres, product = case("0e+1o+2e", "0e+1e+2o+2e")
    q = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0]
    turned = [
        torch.einsum("ab,ebc->eac", rotation_matrix(i, q), x) for i, x in zip(product.irreps_in, features, strict=True)
    ]
    blocks = [
        torch.einsum("ab,nbc->nac", rotation_matrix(irrep, q), environment[:, block])
        for irrep, block in zip(HARMONICS, HARMONICS.slices, strict=True)
    ]
    before = tensor_product(features, environment, centres, product)
    after = tensor_product(turned, torch.cat(blocks, 1), centres, product)
    for (irrep, _), a, b in zip(product.targets, after, before, strict=True):
        torch.testing.assert_close(a, torch.einsum("ab,ebc->eac", rotation_matrix(irrep, q), b))


def mixing(product, channels, dtype=torch.float64):
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(n * channels, channels, generator=generator, dtype=dtype) for _, n in product.targets]


@pytest.mark.parametrize("channels", [3, 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mixed_products_and_their_gradients_agree_with_the_definition(channels, dtype):
    for split in (True, False):
        features, environment, centres, product = case("0e+1o+1e+2o", "1o+1e+2e", channels, dtype, split)
        weights, results = mixing(product, channels, dtype), []
        for implementation in ("fused", "reference"):
            factors = [tensor.clone().requires_grad_() for tensor in (*features, environment, *weights)]
            n = len(features)
            out = mixed_product(factors[:n], factors[n], centres, product, factors[n + 1 :], implementation)
            value = sum((array**2).sum() for array in out)
            results.append([*out, *torch.autograd.grad(value, factors)])
        for a, b in zip(*results, strict=True):
            scale = b.abs().max().item()
            torch.testing.assert_close(a, b, rtol=0, atol=scale * (1e-5 if dtype == torch.float32 else 1e-13))


def test_second_derivatives_of_mixed_products():
    features, environment, centres, product = case("0e+1o", "1o+2e", channels=2)

    def function(*factors):
        return tuple(mixed_product(factors[:2], factors[2], centres, product, factors[3:], implementation="fused"))

    factors = [tensor.requires_grad_() for tensor in (*features, environment, *mixing(product, 2))]
    assert torch.autograd.gradcheck(function, factors)
    assert torch.autograd.gradgradcheck(function, factors)


def test_third_derivatives_of_mixed_products_agree_with_the_definition():
    features, environment, centres, product = case("0e+1o", "1o+2e", channels=4)
    weights, results = mixing(product, 4), []
    for implementation in ("fused", "reference"):
        factors = [tensor.clone().requires_grad_() for tensor in (*features, environment, *weights)]
        out = mixed_product(factors[:2], factors[2], centres, product, factors[3:], implementation)
        value = sum((0.1 * array).sin().sum() for array in out)
        for _ in range(3):
            gradients = torch.autograd.grad(value, factors, create_graph=True)
            value = sum((0.01 * gradient).sin().sum() for gradient in gradients)
        results.append(value.detach())
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("channels", [3, 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_loss_on_forces_has_the_gradient_of_the_definition(channels, dtype):
    features, environment, centres, product = case("0e+1o+2e", "1o+1e+2e", channels, dtype)
    weights, results = mixing(product, channels, dtype), []
    for implementation in ("fused", "reference"):
        factors = [tensor.clone().requires_grad_() for tensor in (*features, environment, *weights)]
        out = mixed_product(factors[:3], factors[3], centres, product, factors[4:], implementation)
        energy = sum((array**2).sum() for array in out)
        forces = torch.autograd.grad(energy, factors[:4], create_graph=True)
        results.append(torch.autograd.grad(energy + sum((force**2).sum() for force in forces), factors))
    for a, b in zip(*results, strict=True):
        scale = b.abs().max().item()
        torch.testing.assert_close(a, b, rtol=0, atol=scale * (1e-5 if dtype == torch.float32 else 1e-13))


def test_shapes_that_do_not_fit_are_refused():
    features, environment, centres, product = case()
    with pytest.raises(InputError, match="9 edges"):
        tensor_product(features[:2], environment, centres, product)
    with pytest.raises(InputError, match="4 channels"):
        tensor_product([x[..., :3] for x in features], environment, centres, product)
