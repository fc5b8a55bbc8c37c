"""What is particular to Equiformer: its parities, its behaviour at the cutoff, and its attention."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from architectures import build
from fireassay.data.graph import from_structures
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.models.equiformer import Equiformer, GraphAttention
from fireassay.testing import assert_potential_contract

NATURAL = {"irreps": "4x0e+2x1o+2x2e", "irreps_head": "2x0e+1x1o+1x2e", "irreps_ffn": "4x0e+2x1o+2x2e"}
SE3 = {name: text.replace("o", "e") for name, text in NATURAL.items()} | {"parity": False}


@pytest.mark.parametrize("options", [NATURAL, {"irreps_ffn": "4x0e", "irreps_head": "3x0e+2x1o"}, {"n_layers": 1}])
def test_forms_that_obey_every_law(options):
    assert_potential_contract(lambda: build("equiformer", **options))


def test_the_form_without_parity_breaks_reflection_only():
    def make():
        return build("equiformer", **SE3)

    with pytest.raises(AssertionError, match="after a reflection"):
        assert_potential_contract(make, laws=["rotation"])
    assert_potential_contract(make, laws=["forces", "stress", "permutation", "continuity", "isolated_atom"])


def test_the_published_form_jumps_at_the_cutoff_only():
    def make():
        return build("equiformer", smooth=False)

    with pytest.raises(AssertionError, match="the energy jumps"):
        assert_potential_contract(make, laws=["continuity"])
    assert_potential_contract(make, laws=["rotation", "forces", "stress", "isolated_atom", "extensivity"])


def cluster(n: int = 6) -> Structure:
    rng = np.random.default_rng(1)
    positions = np.stack(np.meshgrid([0, 1.2], [0, 1.3], [0, 1.4]), -1).reshape(-1, 3)[:n]
    return Structure(rng.choice([1, 8], n), positions + 0.1 * rng.normal(size=(n, 3)))


def test_the_two_forms_meet_where_the_envelope_is_one():
    """Far within the cutoff: an envelope of high degree is one to rounding at half of it."""
    graph = from_structures([cluster()], 12.0)
    smooth, published = (
        build("equiformer", cutoff=12.0, smooth=s, envelope_p=40).to(torch.float64).predict(graph)
        for s in (True, False)
    )
    torch.testing.assert_close(smooth.energy, published.energy, rtol=1e-6, atol=0)
    torch.testing.assert_close(smooth.forces, published.forces, rtol=0, atol=1e-5)


def test_attention_depends_on_the_neighbours():
    """With the inner products of the scores at zero, attention is uniform, and the energy another."""
    model, graph = build("equiformer").to(torch.float64), from_structures([cluster()], 4.0)
    before = model.predict(graph).energy
    with torch.no_grad():
        for block in model.layers:
            block.attention.dot.zero_()
    after = model.predict(graph).energy
    assert (after - before).abs().item() > 1e-6


def test_a_head_has_its_own_attention():
    """Zeroing one head's part of the projection leaves the other's messages only."""
    model, graph = build("equiformer", n_layers=1).to(torch.float64), from_structures([cluster()], 4.0)
    attention = model.layers[0].attention
    assert isinstance(attention, GraphAttention)
    energies = []
    for head in range(2):
        saved = attention.dot.detach().clone()
        with torch.no_grad():
            attention.dot[head] += 1.0
        energies.append(model.predict(graph).energy)
        with torch.no_grad():
            attention.dot.copy_(saved)
    assert (energies[0] - energies[1]).abs().item() > 1e-9


@pytest.mark.parametrize("p", [True, False])
def test_edges_without_their_reverse_are_taken_one_by_one(p):
    """Energies of a graph whose edges are not in pairs are those of the sums over the edges that are there."""
    model, graph = build("equiformer", smooth=p).to(torch.float64), from_structures([cluster()], 4.0)
    keep = torch.ones(graph.n_edges, dtype=torch.bool)
    keep[3] = False
    fewer = graph._replace(centre=graph.centre[keep], neighbour=graph.neighbour[keep], shift=graph.shift[keep])
    far = graph.shift.clone()
    assert model.predict(fewer).energy.item() != model.predict(graph).energy.item()
    assert not far.any()
    # The same edge, made longer than the cutoff, is not there either.
    crystal = graph._replace(cell=40.0 * torch.eye(3, dtype=torch.float64).unsqueeze(0))
    far[3, 0] = 1
    long = crystal._replace(shift=far)
    torch.testing.assert_close(model.predict(long).energy, model.predict(fewer).energy)


def test_the_published_network_has_as_many_live_parameters():
    """The public SE(3) network with l <= 2 for MD17 has 3 496 001; from 175 521 of them no energy can be reached, or
    they only multiply others, or belong to elements that are not there."""
    published = {
        "irreps": "128x0e+64x1e+32x2e",
        "irreps_head": "32x0e+16x1e+8x2e",
        "irreps_ffn": "384x0e+192x1e+96x2e",
    }
    model = Equiformer([1, 6, 8], **published, parity=False)
    assert sum(parameter.numel() for parameter in model.parameters()) == 3_496_001 - 175_521


@pytest.mark.parametrize(
    "wrong",
    [
        {"irreps": "4x1o"},
        {"irreps": "4x0e+4"},
        {"parity": False, "irreps": "4x0e+4x1o"},
        {"n_heads": 0},
        {"irreps_ffn": "4x0e+4x0e"},
    ],
)
def test_wrong_arguments_are_refused(wrong):
    with pytest.raises(InputError):
        build("equiformer", **wrong)
