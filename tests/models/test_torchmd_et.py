"""What is particular to the equivariant transformer: its layer against the equations, its options, what attention is
for."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

from fireassay.data.graph import Graph, edge_vectors, from_structures
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.models.torchmd_et import Attention, Filter, TorchMDET
from fireassay.testing import assert_potential_contract

SMALL: dict[str, Any] = {"species": [1, 8], "cutoff": 4.0, "n_layers": 2, "channels": 8, "n_heads": 2, "n_basis": 6}


def graph(n: int = 4, seed: int = 1) -> Graph:
    rng = np.random.default_rng(seed)
    return from_structures([Structure(rng.choice([1, 8], n), rng.uniform(0, 3.5, (n, 3)))], 4.0)


def radial(model: TorchMDET, d: Tensor) -> tuple[Tensor, Tensor]:
    """Eqs. 1 and 2: the radial functions (B,) and the cutoff function of one distance."""
    cut = (1 + torch.cos(torch.pi * d / model.cutoff)) / 2
    basis = model.basis.basis
    return cut * torch.exp(-basis.widths * (torch.exp(-5 / model.cutoff * d) - basis.means) ** 2), cut  # type: ignore[operator]


def layer_written_out(
    model: TorchMDET, layer: Attention, x: Tensor, v: Tensor, given: Graph, smooth: bool
) -> tuple[Tensor, Tensor]:
    """Edge by edge and head by head, an atom being its own neighbour at the distance of zero."""
    n, heads = given.n_atoms, layer.n_heads
    normed = layer.norm(x)
    q, k, s = (part(normed).view(n, heads, -1) for part in (layer.query, layer.key, layer.value))
    values = torch.nn.functional.pad(layer.vector_value(normed), (0, 2 * x.shape[1]))[:, : 2 * x.shape[1]]
    s2, s1 = values.chunk(2, 1)
    edges = [*zip(given.centre.tolist(), given.neighbour.tolist(), edge_vectors(given), strict=True)]
    y, w = torch.zeros_like(x), torch.zeros_like(v)
    for i, j, r in [*edges, *((a, a, torch.zeros(3, dtype=torch.float64)) for a in range(n))]:
        d = torch.linalg.vector_norm(r)
        functions, cut = radial(model, d)
        d_k, d_x = (silu(part.linear(functions)).view(heads, -1) for part in (layer.key_filter, layer.value_filter))
        d_w = silu(layer.vector_filter.linear(functions)) * (cut if smooth else 1)
        d2, d1 = torch.nn.functional.pad(d_w, (0, 2 * x.shape[1] - len(d_w))).chunk(2)
        alpha = silu((q[i] * k[j] * d_k).sum(1, keepdim=True)) * cut
        y[i] += (alpha * s[j] * d_x).flatten()
        w[i] += v[j] * (s1[j] * d1) + torch.outer(r / d if d > 0 else r, s2[j] * d2)
    out = layer.out(y)
    if layer.mix is None:
        return x + out, w
    w3, w2, w1 = out.chunk(3, 1)
    u1, u2, u3 = layer.mix(v).chunk(3, 2)
    return x + w3 + w2 * (u1 * u2).sum(1), v + w1.unsqueeze(1) * u3 + w


@pytest.mark.parametrize("smooth", [True, False])
def test_a_layer_is_its_equations(smooth):
    model, given, generator = TorchMDET(**SMALL, smooth=smooth).to(torch.float64), graph(), torch.Generator()
    seen: list[Any] = []
    for layer in model.layers:
        layer.register_forward_hook(lambda module, inputs, output: seen.append((module, inputs, output)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        model.local(given)
        n = given.n_atoms
        for module, (x, v, _), (x_next, v_next) in seen:
            v = x.new_zeros(len(x), 3, x.shape[1]) if v is None else v
            expected = layer_written_out(model, module, x[:n], v[:n], given, smooth)
            torch.testing.assert_close(x_next[:n], expected[0])
            torch.testing.assert_close(v_next[:n], expected[1])
    assert len(seen) == 2


@pytest.mark.parametrize("options", [{"trainable_basis": True}, {"n_layers": 1}, {"epsilon": 0.0}, {"n_heads": 1}])
def test_options_obey_the_contract(options):
    assert_potential_contract(lambda: TorchMDET(**{**SMALL, **options}), laws=["forces", "continuity", "isolated_atom"])


def test_the_published_form_jumps_only_at_the_cutoff():
    def make() -> TorchMDET:
        return TorchMDET(**SMALL, smooth=False).requires_grad_(False)

    def biased() -> TorchMDET:
        model = make()
        for layer in cast(list[Attention], list(model.layers)):
            cast(Filter, layer.vector_filter).linear.bias.fill_(0.3)  # zero at first, as published
        return model

    assert_potential_contract(biased, laws=["rotation", "forces", "isolated_atom"])
    with pytest.raises(AssertionError, match="continuity"):
        assert_potential_contract(biased, laws=["continuity"])


def test_heads_attend_apart():
    """The same weights in one head and in two: the coefficients, and so the energies, are others."""
    one, two = (TorchMDET(**{**SMALL, "n_heads": heads}).to(torch.float64) for heads in (1, 2))
    two.load_state_dict(one.state_dict())
    energies = [model.local(graph())[0] for model in (one, two)]
    assert (energies[0] - energies[1]).abs().max() > 1e-4


def test_channels_are_divided_among_the_heads():
    with pytest.raises(InputError, match="channels"):
        TorchMDET(**{**SMALL, "n_heads": 3})
