"""Configurations: every preset is valid, mistakes are named in one line, and nothing in a file is executed."""

from __future__ import annotations

import json
import os
import pickle
import struct

import numpy as np
import pytest
import safetensors.torch
import torch

from architectures import build
from fireassay.config import (
    Config,
    describe,
    json_schema,
    load_config,
    load_potential,
    parse_yaml,
    preset_names,
    rebuild,
    resolved_yaml,
    save_potential,
    validated,
)
from fireassay.data.graph import from_structures
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.models import MODELS
from fireassay.potential import Baseline, Potential, Sum

MINIMAL = {"data": {"train": "train.xyz"}, "model": {"type": "nequip", "cutoff": 4.0, "channels": 4, "n_layers": 2}}
WATER = Structure(np.array([8, 1, 1]), np.array([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]))


def network(name: str = "nequip") -> Potential:
    return Baseline(build(name), {1: -13.6, 8: -2041.3}, scale=1.7)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid_and_says_what_it_is(name):
    config = load_config(name)
    assert config.description
    assert Config.model_validate(parse_yaml(resolved_yaml(config), name)).training == config.training


def test_resolving_twice_changes_nothing(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(resolved_yaml(validated(Config, MINIMAL, "minimal")))
    assert resolved_yaml(load_config(path)) == path.read_text()


def test_overrides_are_yaml(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(MINIMAL))
    config = load_config(
        path, ["training.epochs=7", "data.test={300K: a.xyz}", "model.parity=false", "training.optimiser.lr=1e-3"]
    )
    assert config.training.epochs == 7
    assert config.data.test == {"300K": "a.xyz"}
    assert config.model["parity"] is False
    assert config.training.optimiser.lr == 1e-3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.optimizer={lr: 0.1}", r"training\.optimizer.*did you mean 'optimiser'"),
        ("trainig.epochs=3", r"trainig.*did you mean 'training'"),
        ("model.n_layer=3", r"n_layer.*did you mean 'n_layers'"),
        ("model.type=nequipp", r"nequipp.*did you mean 'nequip'"),
        ("assays={acuracy: {}}", r"acuracy.*did you mean 'accuracy'"),
        ("assays={landscape: {poinst: 3}}", r"poinst.*did you mean 'points'"),
        ("training.epochs=-1", r"training\.epochs.*greater than 0.*-1"),
        ("training.optimiser.lr=fast", r"training\.optimiser\.lr.*fast"),
        ("dtype=float16", r"dtype.*float16"),
        ("training.epochs", r"not an override"),
        ("training.epochs.x=1", r"not a section|Input should be"),
        ("data.train=!!python/object/apply:os.system [true]", r"plain YAML"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(tmp_path, override, message):
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({**MINIMAL, "training": {"epochs": 2}}))
    with pytest.raises(InputError, match=message) as caught:
        load_config(path, [override])
    assert "\n" not in str(caught.value)


def test_yaml_tags_duplicates_and_nonsense_are_refused(tmp_path):
    marker = tmp_path / "executed"
    for text in (
        f"!!python/object/apply:os.mkdir ['{marker}']",
        f"a: !!python/object/apply:os.mkdir ['{marker}']",
        "a: 1\na: 2",
        "a: [1, 2",
        "\t- x",
    ):
        with pytest.raises(InputError, match=r"here\.yaml"):
            parse_yaml(text, "here.yaml")
    assert not marker.exists()


def test_a_file_that_is_no_config(tmp_path):
    for content in (b"", b"just text", b"\xff\xfe\x00", b"[1, 2]"):
        path = tmp_path / "config.yaml"
        path.write_bytes(content)
        with pytest.raises(InputError):
            load_config(path)
    with pytest.raises(InputError, match="demo-mace"):
        load_config("demo-mac")


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_potential_file_gives_the_same_potential(tmp_path, name, dtype):
    potential = network(name).to(dtype)
    save_potential(potential, tmp_path / "p.safetensors", {"name": name})
    loaded = load_potential(tmp_path / "p.safetensors")
    graph = from_structures([WATER], 4.0, dtype)
    expected, found = potential.eval().predict(graph), loaded.predict(graph)
    assert torch.equal(found.energy, expected.energy)
    assert torch.equal(found.forces, expected.forces)


def test_wrapped_potentials_are_described_and_rebuilt():
    potential = Sum([network(), network()])
    description = json.loads(json.dumps(describe(potential)))
    assert [term["type"] for term in description["arguments"]["potentials"]] == ["baseline", "baseline"]
    assert json.loads(json.dumps(describe(rebuild(description)))) == description


def test_damaged_and_foreign_potential_files_are_one_line(tmp_path):
    path = tmp_path / "p.safetensors"
    save_potential(network(), path)
    whole = path.read_bytes()
    header = json.loads(whole[8 : 8 + struct.unpack("<Q", whole[:8])[0]])
    tensors = safetensors.torch.load(whole)
    metadata = header["__metadata__"]
    hostile = {"type": "os.system", "arguments": {"command": "true"}}
    variants = {
        "cut short": whole[: len(whole) // 2],
        "empty": b"",
        "pickle": pickle.dumps({"a": 1}),
        "other version": safetensors.torch.save(tensors, {**metadata, "version": "2"}),
        "other format": safetensors.torch.save(tensors, {"format": "pt"}),
        "other type": safetensors.torch.save(tensors, {**metadata, "potential": json.dumps(hostile)}),
        "bad json": safetensors.torch.save(tensors, {**metadata, "potential": "{"}),
        "missing weights": safetensors.torch.save(dict(list(tensors.items())[1:]), metadata),
    }
    for content in variants.values():
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"p\.safetensors|type is") as caught:
            load_potential(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"gone\.safetensors"):
        load_potential(tmp_path / "gone.safetensors")


def test_loading_a_torch_pickle_executes_nothing(tmp_path):
    marker = tmp_path / "executed"

    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(marker),))

    path = tmp_path / "model.safetensors"
    torch.save(Bomb(), path)
    with pytest.raises(InputError):
        load_potential(path)
    assert not marker.exists()


def test_the_schema_spells_out_models_and_assays():
    schema = json_schema()
    types = [entry["properties"]["type"]["const"] for entry in schema["properties"]["model"]["oneOf"]]
    assert types == list(MODELS)
    assert "n_directions" in json.dumps(schema["properties"]["assays"])
