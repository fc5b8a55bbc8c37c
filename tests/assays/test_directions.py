"""What a filter is in every layer of every architecture, and what is no weight at all."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from architectures import ARCHITECTURES, build
from fireassay.assays.directions import CONSTANTS, draw, frozen_of, like, weights_of
from fireassay.models.equiformer import GraphAttention
from fireassay.models.so3krates import FilteredAttention
from fireassay.potential import Baseline

MODELS = sorted(ARCHITECTURES)


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_is_a_weight_or_a_constant_and_every_filter_belongs_to_one_output(name):
    """Axes within a filter are those of the inputs, by the layer's own account of its outputs."""
    model = Baseline(build(name), {1: -1.0, 8: -2.0}, trainable_scale=True, trainable_shift=True)
    weights = {w.name: w for w in weights_of(model, tuple(CONSTANTS))}
    frozen = {f.name for f in frozen_of(model, tuple(CONSTANTS))}
    assert not set(weights) & frozen
    assert set(weights) | frozen == {n for n, _ in model.named_parameters()}
    modules = dict(model.named_modules())
    for full, weight in weights.items():
        module, short = modules[full.rpartition(".")[0]], full.rpartition(".")[2]
        shape = weight.parameter.shape
        if isinstance(module, nn.Linear) and short == "weight":
            assert weight.axes == (1,)  # of (out, in)
            assert shape == (module.out_features, module.in_features)
        elif isinstance(module, GraphAttention) and short == "dot":
            assert weight.axes == (1,)
            assert shape[0] == module.n_heads
        elif weight.parameter.ndim == 1:
            assert weight.axes == (0,)
        else:
            assert weight.axes == (-2,), full
            if isinstance(module, FilteredAttention):
                assert shape[0] * shape[1] == build(name).arguments["channels"]  # heads, in, out


@pytest.mark.parametrize("name", MODELS)
def test_the_axes_of_a_linear_layer_are_those_of_its_inputs_by_its_behaviour(name):
    """Changing one filter changes one output, in every matrix that torch or a network of ours multiplies by."""
    found = 0
    for module in build(name).modules():
        if not isinstance(module, nn.Linear):
            continue
        (weight,) = [w for w in weights_of(module) if w.name == "weight"]
        x = torch.randn(3, module.in_features)
        before = module(x)
        with torch.no_grad():
            weight.parameter[0] += 1.0  # the first filter: all along axis 1
        assert ((module(x) - before).abs() > 1e-6).any(0).nonzero().flatten().tolist() == [0]
        found += 1
    has_linear = name in ("dimenetpp", "equiformer", "painn", "physnet", "so3krates", "torchmd_et")
    assert (found > 0) == has_linear


def test_a_readout_with_one_output_is_one_filter():
    torch.manual_seed(0)
    model = nn.Linear(9, 1, bias=False)
    weights = weights_of(model)
    directions, _ = draw(weights, "filter", 1, torch.Generator().manual_seed(0))
    trained = model.weight.detach().double()
    ratio = like(directions[0], weights)[0] / trained
    assert float(directions.norm()) == pytest.approx(float(trained.norm()))
    assert float(ratio.abs().std()) > 0.1  # element by element it would be one throughout


def test_constants_are_frozen_with_a_reason_and_may_be_moved():
    model = Baseline(build("physnet"), {1: -1.0, 8: -2.0}, trainable_scale=True, trainable_shift=False)
    frozen = {f.name: f for f in frozen_of(model, tuple(CONSTANTS))}
    assert frozen["scale"].reason == "scale of the energies of a species"
    assert frozen["shift"].reason == "not trained"
    for short in ("energy_scale", "charge_scale", "charge_shift", "dispersion.raw"):
        assert frozen[f"potential.{short}"].weights == dict(model.named_parameters())[f"potential.{short}"].numel()
    moved = {w.name for w in weights_of(model, ())}
    assert {"scale", "potential.charge_shift"} <= moved
    assert frozen_of(model, ("*readout*",))[-1].reason in ("matches *readout*", "not trained")
