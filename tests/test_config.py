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
    json_schema,
    load_config,
    preset_names,
    resolved_yaml,
    validated,
)
from fireassay.data.graph import from_structures
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.models import MODELS
from fireassay.overrides import parse_yaml
from fireassay.potential import Baseline, Potential, Sum
from fireassay.potential_file import describe, load_potential, rebuild, save_potential
from fireassay.records import fingerprint_of_file

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
    assert config.model.parity is False
    assert config.training.optimiser.lr == 1e-3


def test_a_preset_leaves_its_own_data_behind_when_others_are_given():
    config = load_config("demo-mace", ["data.train=mine.xyz", "data.test={hot: hot.xyz}"])
    assert config.data.train == "mine.xyz"
    assert config.data.test == {"hot": "hot.xyz"}
    assert config.data.start is None
    assert config.data.validation.count == 50
    assert load_config("demo-mace", ["data.test={}"]).data.start == "3bpa-xtb/ground_state"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.optimizer={lr: 0.1}", r"training\.optimizer.*did you mean 'optimiser'"),
        ("trainig.epochs=3", r"trainig.*did you mean 'training'"),
        ("model.n_layer=3", r"n_layer.*did you mean 'n_layers'"),
        ("model.type=nequipp", r"nequipp.*did you mean 'nequip'"),
        ("assays={acuracy: {}}", r"acuracy.*did you mean 'accuracy'"),
        ("assays={landscape: {poinst: 3}}", r"poinst.*did you mean 'points'"),
        ("training.epochs=-1", r"training\.epochs.*above 0.*-1"),
        ("training.optimiser.lr=fast", r"training\.optimiser\.lr.*fast"),
        ("dtype=float16", r"dtype.*float16"),
        ("seed=-1", r"seed.*at least 0.*-1"),
        ("device=meta", r"device.*meta"),
        ("threads=0", r"threads"),
        ("model.species=[]", r"species is an empty list"),
        ("baseline.scale=0", r"baseline\.scale.*above 0"),
        ("baseline.scale={H: -1}", r"baseline\.scale\.H.*above 0"),
        ("baseline.e0={Xx: 1}", r"'Xx' is not an element"),
        ("data.units={energy: kcla/mol}", r"kcla/mol.*did you mean 'kcal/mol'"),
        ("data.keys={enrgy: e}", r"enrgy.*did you mean 'energy'"),
        ("assays={stability: {temperature_range: [500, 100]}}", r"temperature_range.*the first has to be the lower"),
        ("assays={stability: {bonds: on, bond_limit: null, bond_stretch: null}}", r"give one of them"),
        ("assays={landscape: {points: 4}}", r"points.*odd"),
        ("assays={landscape: {seed: -1}}", r"seed"),
        ("assays={uncertainty: {seed: -1}}", r"seed"),
        ("assays=3", r"needs a mapping"),
        ("data.test=3", r"data\.test"),
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
    header = json.loads(header["__metadata__"]["fireassay"])
    hostile = {"type": "os.system", "arguments": {"command": "true"}}

    def saved(content=tensors, **changes):
        return safetensors.torch.save(content, {"fireassay": json.dumps({**header, **changes})})

    variants = {
        "cut short": whole[: len(whole) // 2],
        "empty": b"",
        "pickle": pickle.dumps({"a": 1}),
        "other version": saved(version=3),
        "other format": safetensors.torch.save(tensors, {"format": "pt"}),
        "other type": saved(potential=hostile),
        "no architecture": saved(potential=[1]),
        "bad json": safetensors.torch.save(tensors, {"fireassay": "{"}),
        "missing weights": saved(dict(list(tensors.items())[1:])),
    }
    for content in variants.values():
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"p\.safetensors|type is") as caught:
            load_potential(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"gone\.safetensors"):
        load_potential(tmp_path / "gone.safetensors")


def test_files_of_the_first_version_are_read(tmp_path):
    """They had a key for each value in the header, and called the sum of local potentials `local_sum`."""
    path, potential = tmp_path / "p.safetensors", Sum([network()])
    description = describe(potential)
    metadata = {"format": "fireassay-potential", "version": "1", "dtype": "float32", "name": "old"}
    metadata["potential"] = json.dumps({**description, "type": "local_sum"})
    tensors = {name: value.contiguous() for name, value in potential.state_dict().items()}
    path.write_bytes(safetensors.torch.save(tensors, metadata))
    loaded = load_potential(path)
    assert type(loaded) is Sum
    assert json.loads(json.dumps(describe(loaded))) == json.loads(json.dumps(description))
    assert len(fingerprint_of_file(path)) == 16


def test_equal_potentials_have_equal_files(tmp_path):
    for name in ("a", "b"):
        save_potential(network(), tmp_path / name, {"one": "1", "two": "2", "three": "3"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    save_potential(network(), tmp_path / "b", {"name": "another"})
    assert fingerprint_of_file(tmp_path / "a") == fingerprint_of_file(tmp_path / "b")
    other = network()
    with torch.no_grad():
        next(p for p in other.parameters() if p.numel() > 1).view(-1)[0] += 1e-6
    save_potential(other, tmp_path / "b")
    assert fingerprint_of_file(tmp_path / "a") != fingerprint_of_file(tmp_path / "b")


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
    references = [entry["$ref"].rpartition("/")[2] for entry in schema["properties"]["model"]["oneOf"]]
    assert [schema["$defs"][name]["properties"]["type"]["const"] for name in references] == list(MODELS)
    assert "channels" in schema["$defs"]["NequIP"]["properties"]
    assert "n_directions" in json.dumps(schema["properties"]["assays"])
