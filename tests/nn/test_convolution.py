"""The convolution: its definition against e3nn, the fused kernels against the definition, to every order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fireassay.errors import InputError
from fireassay.nn import convolution as convolution_module
from fireassay.nn import simd
from fireassay.nn.convolution import Coupling, convolution, edge_order
from fireassay.nn.convolution_numba import segment_sum
from fireassay.nn.edge_pairs import edge_pairs
from fireassay.nn.so3 import Irrep, Irreps, rotation_matrix, spherical_harmonics

SMALL = Coupling.of(Irreps("0e+1o"), Irreps.harmonics(1), Irreps("0e+1o+1e"))
LARGE = Coupling.of(Irreps("0e+1o+1e+2e"), Irreps.harmonics(3), Irreps("0e+1o+2e+2o"))
Problem = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def problem(coupling: Coupling, n_atoms: int, n_edges: int, channels: int, dtype=torch.float64, seed=0) -> Problem:
    """Random factors and edges; the last atom is nobody's centre and the first nobody's neighbour."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    centre = torch.randint(0, max(1, n_atoms - 1), (n_edges,), generator=generator).sort()[0]
    neighbour = torch.randint(min(1, n_atoms - 1), n_atoms, (n_edges,), generator=generator)
    n_paths = len(coupling.paths)
    factors = random(n_atoms, coupling.irreps_in.dim, channels), random(n_edges, coupling.irreps_sh.dim)
    return (*factors, random(n_edges, n_paths, channels), centre, neighbour)


def derivatives(problem: Problem, coupling: Coupling, implementation: str, seed: int = 1) -> list[Tensor]:
    """Value, gradients, and the gradients of a random combination of the gradients."""
    generator = torch.Generator().manual_seed(seed)

    def random(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like.dtype)

    out = convolution(*problem, coupling, implementation=implementation)  # type: ignore[arg-type]
    upstream = random(out).requires_grad_()
    first = torch.autograd.grad(out, problem[:3], upstream, create_graph=True)
    mixed = sum((random(gradient) * gradient).sum() for gradient in first)
    assert isinstance(mixed, Tensor)
    return [out, *first, *torch.autograd.grad(mixed, (*problem[:3], upstream))]


def assert_close(ours: list[Tensor], theirs: list[Tensor], tolerance: float) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        scale = float(b.detach().abs().max()) if b.numel() else 0.0
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * scale)


@pytest.mark.reference
@pytest.mark.parametrize("implementation", ["reference", "dense", "fused"])
def test_one_edge_per_atom_is_the_tensor_product_of_e3nn(implementation):
    recorded = np.load(Path(__file__).parents[1] / "reference" / "e3nn.npz")
    irreps_in = Irreps("0e+1o+1e")
    coupling = Coupling.of(irreps_in, Irreps("0e+1o+2e"), Irreps("0e+1o+1e+2e"))
    assert [(i, j, k) for k, (i, j, _) in enumerate(coupling.paths)] == [tuple(p) for p in recorded["product_paths"]]
    assert [tuple(irrep) for irrep in coupling.irreps_out] == [tuple(irrep) for irrep in recorded["product_irreps"]]

    def by_component(flat: np.ndarray, irreps: Irreps, channels: int) -> Tensor:
        blocks = [
            flat[:, channels * block.start : channels * block.stop].reshape(len(flat), channels, -1)
            for block in irreps.slices
        ]
        return torch.from_numpy(np.concatenate(blocks, 2)).transpose(1, 2)

    atoms = torch.arange(6)
    out = convolution(
        by_component(recorded["product_x"], irreps_in, 3),
        torch.from_numpy(recorded["product_harmonics"]),
        torch.from_numpy(recorded["product_weights"]).reshape(6, -1, 3),
        atoms,
        atoms,
        coupling,
        implementation=implementation,
    )
    torch.testing.assert_close(out, by_component(recorded["product_out"], coupling.irreps_out, 3), atol=1e-13, rtol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 3e-6)])
@pytest.mark.parametrize("channels", [1, 24, 64, 128])
def test_fused_kernels_are_the_definition(dtype: torch.dtype, tolerance: float, channels: int):
    given = problem(LARGE, 9, 70, channels, dtype)
    assert_close(derivatives(given, LARGE, "fused"), derivatives(given, LARGE, "reference"), tolerance)


@pytest.mark.parametrize("coupling", [SMALL, LARGE])
def test_all_paths_in_one_product_are_the_definition(coupling: Coupling):
    given = problem(coupling, 9, 70, 5)
    assert_close(derivatives(given, coupling, "dense"), derivatives(given, coupling, "reference"), 1e-13)


@pytest.mark.parametrize(("n_atoms", "n_edges"), [(1, 0), (3, 0), (1, 4), (2, 1), (4, 300)])
def test_graphs_at_the_edge(n_atoms: int, n_edges: int):
    given = problem(SMALL, n_atoms, n_edges, 8)
    assert_close(derivatives(given, SMALL, "fused"), derivatives(given, SMALL, "reference"), 1e-13)


def test_gradients_against_finite_differences():
    given = problem(SMALL, 3, 5, 2)

    def function(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        return convolution(x, y, w, *given[3:], SMALL, implementation="fused")

    assert torch.autograd.gradcheck(function, given[:3])
    assert torch.autograd.gradgradcheck(function, given[:3])


def test_third_derivatives():
    given = problem(SMALL, 3, 4, 2)

    def second(implementation: str) -> list[Tensor]:
        out = convolution(*given, SMALL, implementation=implementation)  # type: ignore[arg-type]
        first = torch.autograd.grad((out**3).sum(), given[:3], create_graph=True)
        again = torch.autograd.grad(torch.stack([(g**2).sum() for g in first]).sum(), given[:3], create_graph=True)
        return list(torch.autograd.grad(torch.stack([(g**2).sum() for g in again]).sum(), given[:3]))

    assert_close(second("fused"), second("reference"), 1e-12)


@pytest.mark.parametrize("absent", [0, 1, 2])
def test_a_factor_that_needs_no_gradient(absent: int):
    given = list(problem(SMALL, 5, 20, 4))
    given[absent] = given[absent].detach()
    wanted = [factor for factor in given[:3] if factor.requires_grad]

    def second(implementation: str) -> list[Tensor]:
        out = convolution(*given, SMALL, implementation=implementation)  # type: ignore
        first = torch.autograd.grad((out**2).sum(), wanted, create_graph=True)
        return [*first, *torch.autograd.grad((first[0] ** 2).sum(), wanted)]

    assert_close(second("fused"), second("reference"), 1e-13)


def test_strided_factors_and_upstream_gradient():
    x, y, w, centre, neighbour = problem(SMALL, 5, 20, 4)
    views = x.transpose(0, 1).contiguous().transpose(0, 1), y.T.contiguous().T, w.transpose(1, 2).contiguous()
    strided = (views[0], views[1], views[2].transpose(1, 2), centre, neighbour)
    assert not any(view.is_contiguous() for view in strided[:3])
    results = []
    for given in (strided, (x, y, w, centre, neighbour)):
        out = convolution(*given, SMALL, implementation="fused")  # type: ignore
        upstream = torch.ones(out.shape[::-1], dtype=out.dtype).permute(2, 1, 0) * out.detach()
        results.append([out, *torch.autograd.grad(out, (x, y, w), upstream)])
    assert_close(results[0], results[1], 1e-15)


def test_the_result_repeats_bit_for_bit_on_any_number_of_threads():
    given = problem(LARGE, 40, 600, 32, torch.float32)
    before, runs = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 2):
            torch.set_num_threads(threads)
            runs.append(derivatives(given, LARGE, "fused"))
    finally:
        torch.set_num_threads(before)
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))


def test_without_the_threads_of_torch(monkeypatch):
    given = problem(LARGE, 40, 600, 32)
    expected, before = derivatives(given, LARGE, "fused"), torch.get_num_threads()
    monkeypatch.setattr(simd, "_torch_threads", lambda: None)
    try:
        torch.set_num_threads(3)
        assert all(torch.equal(a, b) for a, b in zip(derivatives(given, LARGE, "fused"), expected, strict=True))
    finally:
        torch.set_num_threads(before)


def test_given_edge_order_and_coefficients():
    x, y, w, centre, neighbour = problem(SMALL, 5, 20, 4)
    order = edge_order(centre, neighbour, 5)
    assert order.starts.tolist() == [int((centre < i).sum()) for i in range(6)]
    assert neighbour[order.by_neighbour].tolist() == sorted(neighbour.tolist())
    halved = Coupling(SMALL.irreps_in, SMALL.irreps_sh, SMALL.paths, [c / 2 for c in SMALL.coefficients])
    out = convolution(x, y, w, centre, neighbour, halved, order)
    torch.testing.assert_close(2 * out, convolution(x, y, w, centre, neighbour, SMALL))


@pytest.mark.parametrize("channels", [3, 64, 128])
def test_weights_shared_by_the_two_directions_of_an_edge(channels: int):
    n_atoms, generator = 12, torch.Generator().manual_seed(6)
    upper = torch.triu_indices(n_atoms, n_atoms, 1)
    upper = upper[:, torch.rand(upper.shape[1], generator=generator) < 0.8]
    centre, neighbour = torch.cat([upper, upper.flip(0)], 1)
    order = torch.argsort(centre * n_atoms + neighbour)
    centre, neighbour = centre[order], neighbour[order]
    pairs = edge_pairs(centre, neighbour, torch.zeros(len(centre), 3, dtype=torch.int64))
    assert pairs is not None
    x, y, w, _, _ = problem(LARGE, n_atoms, len(centre), channels)
    shared = w.detach()[: len(centre) // 2].requires_grad_()
    results = []
    for given, how, implementation in (
        (shared, pairs, "fused"),
        (shared.index_select(0, pairs.pair), None, "fused"),
        (shared, pairs, "reference"),
    ):
        out = convolution(x, y, given, centre, neighbour, LARGE, pairs=how, implementation=implementation)  # type: ignore
        first = torch.autograd.grad((out**2).sum(), (x, y, shared), create_graph=True)
        mixed = torch.stack([(g**2).sum() for g in first]).sum()
        results.append([out, *first, *torch.autograd.grad(mixed, (x, y, shared))])
    assert_close(results[0], results[1], 1e-13)
    assert_close(results[0], results[2], 1e-13)


def test_equivariance():
    generator = torch.Generator().manual_seed(5)
    turn = -torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]
    x, _, w, centre, neighbour = problem(LARGE, 6, 30, 4)
    vectors = torch.randn(30, 3, generator=generator, dtype=torch.float64)

    def turned(values: Tensor, irreps: Irreps) -> Tensor:
        matrix = torch.block_diag(*(rotation_matrix(irrep, turn) for irrep in irreps))
        return torch.einsum("ab,nbc->nac", matrix, values)

    out = convolution(x, spherical_harmonics(3, vectors), w, centre, neighbour, LARGE)
    moved = spherical_harmonics(3, vectors @ turn.T)
    after = convolution(turned(x, LARGE.irreps_in), moved, w, centre, neighbour, LARGE)
    assert float(out.detach().abs().max()) > 1
    torch.testing.assert_close(after, turned(out, LARGE.irreps_out), atol=1e-11, rtol=0)


def test_what_the_backward_pass_does_not_need_is_not_computed(monkeypatch):
    x, y, w, centre, neighbour = problem(SMALL, 5, 20, 4)
    calls = []
    monkeypatch.setattr(convolution_module, "segment_sum", lambda *a: calls.append(1) or segment_sum(*a))
    for wanted, expected in (((y,), 1), ((x, y), 2)):
        calls.clear()
        out = convolution(2 * x, y, w, centre, neighbour, SMALL)
        torch.autograd.grad((out**2).sum(), wanted)
        assert len(calls) == expected


def test_no_path_leaves_nothing():
    x, y, _, centre, neighbour = problem(SMALL, 5, 20, 4)
    none = Coupling.of(SMALL.irreps_in, SMALL.irreps_sh, Irreps("3e"))
    assert convolution(x, y, x.new_zeros(20, 0, 4), centre, neighbour, none).shape == (5, 0, 4)


def test_input_that_does_not_fit_is_refused():
    x, y, w, centre, neighbour = problem(SMALL, 5, 20, 4)
    with pytest.raises(InputError, match="harmonics have the shape"):
        convolution(x, y[:, :3], w, centre, neighbour, SMALL)
    with pytest.raises(InputError, match=r"weights are torch\.float32"):
        convolution(x, y, w.float(), centre, neighbour, SMALL)
    with pytest.raises(InputError, match="does not contain 2e"):
        Coupling(Irreps("0e"), Irreps("1o"), [(0, 0, Irrep(2, 1))])
    with pytest.raises(InputError, match="one per path"):
        Coupling(SMALL.irreps_in, SMALL.irreps_sh, SMALL.paths, [1.0])


def test_factors_that_are_not_contiguous_keep_their_derivatives():
    generator = torch.Generator().manual_seed(0)
    coupling = Coupling.of(Irreps("0e+1o"), Irreps.harmonics(1), Irreps("0e+1o"))
    centre, neighbour = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([1, 2, 0, 2, 0, 1])
    shapes = [(3, 8, 4), (4, 6), (8, 6, len(coupling.paths))]
    factors = [torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes]

    def strided(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        out = convolution(x.transpose(1, 2), y.T, w.permute(1, 2, 0), centre, neighbour, coupling)
        return out.transpose(1, 2)

    def gradients(*leaves: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(strided(*leaves).pow(3).sum(), leaves, create_graph=True)

    assert torch.autograd.gradgradcheck(strided, factors, fast_mode=True)
    assert torch.autograd.gradgradcheck(gradients, factors, fast_mode=True)
