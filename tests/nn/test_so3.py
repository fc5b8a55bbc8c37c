"""Irreps, harmonics and Clebsch-Gordan tensors against numbers recorded from e3nn, and against their own laws."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from fireassay.errors import InputError
from fireassay.nn.so3 import (
    Irrep,
    Irreps,
    clebsch_gordan,
    rotation_matrix,
    sign_of_e3nn_0_4,
    spherical_harmonics,
)

TRIPLES = [(a, b, c) for a in range(5) for b in range(5) for c in range(abs(a - b), min(4, a + b) + 1)]


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    return dict(np.load(Path(__file__).parents[1] / "reference" / "e3nn.npz"))


def rotation(seed: int = 0) -> torch.Tensor:
    matrix = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))[0]
    return matrix * torch.linalg.det(matrix)


def test_irreps_are_written_as_they_are_read():
    irreps = Irreps("0e+1o+2e")
    assert str(irreps) == "0e+1o+2e"
    assert Irreps(str(irreps)) == irreps == Irreps([Irrep(0, 1), "1o", "2e"])
    assert (irreps.dim, irreps.l_max, irreps[1:]) == (9, 2, (Irrep(1, -1), Irrep(2, 1)))
    assert irreps.slices == (slice(0, 1), slice(1, 4), slice(4, 9))
    assert Irreps.harmonics(3) == Irreps("0e+1o+2e+3o")
    assert Irreps("").dim == 0
    for twin in (copy.deepcopy(irreps), pickle.loads(pickle.dumps(irreps))):
        assert twin == irreps
        assert twin.slices == irreps.slices


def test_irreps_sort_as_those_of_e3nn():
    assert str(Irreps("1e+0o+1o+0e+2o+2e+1o").sorted()) == "0o+0e+1o+1o+1e+2o+2e"  # e3nn 0.4.4 and 0.6.0


def test_product_of_irreps():
    assert Irreps(Irrep.parse("1o").product(Irrep.parse("2o"))) == Irreps("1e+2e+3e")


@pytest.mark.parametrize("text", ["1", "e1", "2x0e", "-1o", "1oo", "0e+"])
def test_an_unreadable_irrep_is_refused(text: str):
    with pytest.raises(InputError, match="is not an irrep"):
        Irreps(text)


@pytest.mark.reference
@pytest.mark.parametrize("degrees", TRIPLES)
def test_clebsch_gordan_is_that_of_e3nn(recorded, degrees: tuple[int, int, int]):
    ours = clebsch_gordan(*degrees).numpy()
    np.testing.assert_allclose(ours, recorded["wigner_{}_{}_{}".format(*degrees)], atol=1e-14)


@pytest.mark.reference
def test_the_signs_of_e3nn_0_4(recorded):
    assert [list(t) for t in TRIPLES if sign_of_e3nn_0_4(*t) == -1] == recorded["signs_0_4"].tolist()


@pytest.mark.parametrize("degrees", [(1, 1, 1), (2, 3, 2), (3, 3, 4), (5, 4, 6)])
def test_clebsch_gordan_is_invariant(degrees: tuple[int, int, int]):
    tensor = clebsch_gordan(*degrees)
    matrices = [rotation_matrix(degree, rotation()) for degree in degrees]
    turned = torch.einsum("abc,ai,bj,ck->ijk", tensor, *matrices)
    torch.testing.assert_close(turned, tensor, atol=1e-12, rtol=0)
    assert float(tensor.norm()) == pytest.approx(1, abs=1e-14)


def test_degrees_that_do_not_couple_are_refused():
    with pytest.raises(InputError, match="triangle"):
        clebsch_gordan(1, 1, 3)


@pytest.mark.reference
@pytest.mark.parametrize("degree", range(7))
def test_harmonics_are_those_of_e3nn(recorded, degree: int):
    vectors = torch.from_numpy(recorded["vectors"])
    ours = spherical_harmonics(degree, vectors)[:, degree**2 :]
    np.testing.assert_allclose(ours.numpy(), recorded[f"harmonics_{degree}"], atol=2e-14)
    single = spherical_harmonics(degree, vectors.float())[:, degree**2 :]
    np.testing.assert_allclose(single.numpy(), recorded[f"harmonics_{degree}"], atol=1e-5)


def test_harmonics_do_not_depend_on_length():
    vectors = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(spherical_harmonics(4, 7.3 * vectors), spherical_harmonics(4, vectors))


@pytest.mark.parametrize("l_max", [0, 1, 3])
def test_derivatives_of_harmonics(l_max: int):
    vectors = torch.randn(4, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: spherical_harmonics(l_max, v), vectors)
    assert torch.autograd.gradgradcheck(lambda v: spherical_harmonics(l_max, v), vectors)


def test_third_derivative_of_harmonics():
    vectors = torch.randn(2, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True)

    def second(v: torch.Tensor) -> torch.Tensor:
        (first,) = torch.autograd.grad(spherical_harmonics(3, v).pow(2)[:, 5:11].sum(), v, create_graph=True)
        return torch.autograd.grad(first.pow(2).sum(), v, create_graph=True)[0]

    assert torch.autograd.gradcheck(second, vectors)


@pytest.mark.parametrize("shape", [(0, 3), (1, 3)])
def test_no_edge_and_no_direction(shape: tuple[int, int]):
    vectors = torch.zeros(shape, requires_grad=True)
    harmonics = spherical_harmonics(3, vectors)
    assert harmonics.shape == (shape[0], 16)
    harmonics.sum().backward()
    assert vectors.grad is not None
    assert bool(torch.isfinite(vectors.grad).all())


def test_inference_mode_leaves_nothing_behind():
    with torch.inference_mode():
        spherical_harmonics(9, torch.ones(1, 3))
    vectors = torch.ones(1, 3, requires_grad=True)
    (first,) = torch.autograd.grad(spherical_harmonics(9, vectors)[:, 3].sum(), vectors, create_graph=True)
    (first * torch.tensor([1.0, 0.0, 0.0])).sum().backward()
    assert vectors.grad is not None
    assert float(vectors.grad.abs().max()) > 1e-3


@pytest.mark.reference
@pytest.mark.parametrize("degree", range(5))
def test_rotation_matrices_are_those_of_e3nn(recorded, degree: int):
    matrix = rotation_matrix(Irrep(degree, 1), torch.from_numpy(recorded["rotation"]))
    np.testing.assert_allclose(matrix.numpy(), recorded[f"matrix_{degree}"], atol=3e-14)


def test_rotation_matrix_of_a_reflection():
    vectors = torch.randn(6, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    mirror = -rotation(4)
    block = spherical_harmonics(3, vectors)[:, 9:]
    turned = spherical_harmonics(3, vectors @ mirror.T)[:, 9:]
    torch.testing.assert_close(turned, block @ rotation_matrix(3, mirror).T)
    torch.testing.assert_close(rotation_matrix(Irrep(3, 1), mirror), -rotation_matrix(Irrep(3, -1), mirror))


def test_the_blocks_from_which_a_layer_reaches_its_targets():
    both = Irreps("0o+0e+1o+1e+2o+2e+3o+3e")
    assert both.leading_to(Irreps("0e"), Irreps.harmonics(2)) == Irreps("0e+1o+2e")
    assert both.leading_to(Irreps("0e+1o+2e"), Irreps.harmonics(2)) == Irreps("0e+1o+1e+2o+2e+3o+3e")
    assert both.leading_to(Irreps("1e"), Irreps.harmonics(1)) == Irreps("0o+1o+1e+2o")
    assert Irreps("0o+2e").leading_to(Irreps("0e"), Irreps.harmonics(1)) == ()
