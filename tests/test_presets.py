"""Every preset loads, builds its network and trains: each of its settings has its effect in a few steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fireassay.config import Data, Validation, load_config, preset_names, preset_text
from fireassay.data.datasets import Dataset
from fireassay.potential import Baseline
from fireassay.training.fit import fit
from fireassay.training.recipe import Recipe
from training.toy_frames import labelled_frames

PAPERS = {
    "egraffbench": [
        "11-nequip",
        "12-allegro",
        "13-botnet",
        "14-mace",
        "15-equiformer",
        "16-torchmd-et",
        "17-dimenetpp",
        "18-painn",
    ],
    "tea": ["1-1-mace", *(f"1-2-so3krates-{n}" for n in ("i", "ii", "iii", "iv")), "1-6-physnet"],
    "nequip-vii": ["md17", "revmd17", "ccsd", "water-ices", "formate", "lipo", "lips", "water"],
}
S1 = ["no-rescaling", "rescaling", "rescaling-bessel", "3-layer", "4-layer"]
S1 += [f"{layers}-layer{kind}" for layers in (2, 5) for kind in ("", "-baseline", "-amsgrad-only", "-ema-only")]
S4 = ["no-rescaling", "rescaling", "rescaling-opt", "rescaling-bessel", "v1-l3", "v3-l3"]
S4 += [f"v2-l{row}" for row in ("0", "1", "2", "3", "3-none", "3-swa-wc", "3-ema", "3-amsgrad")]
PAPERS["data-efficiency"] = [*(f"s1-nequip-{row}" for row in S1), *(f"s4-mace-{row}" for row in S4)]
OF_PAPERS = [f"{paper}-{row}" for paper, rows in PAPERS.items() for row in rows]
LARGE = ("egraffbench-12-allegro", "egraffbench-15-equiformer")  # seconds a step
FROM_DATA: dict[str, Any] = {"species": [1, 6, 8], "average_neighbours": 4.0, "seed": 0}


def shortened(recipe: Recipe) -> Recipe:
    """The recipe for two epochs of two steps; phases begin in the second."""
    content = recipe.model_dump()
    for phase in ("swa", "stage_two"):
        if content[phase] is not None:
            content[phase]["start_epoch"] = 2
    return Recipe.model_validate({**content, "epochs": 2, "batch_size": 2, "validation_batch_size": 2})


def test_every_table_has_its_presets():
    found = [name for name in preset_names() if name.startswith(tuple(f"{paper}-" for paper in PAPERS))]
    assert sorted(OF_PAPERS) == found


def test_names_are_unique():
    names = [load_config(name).name for name in preset_names()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", OF_PAPERS)
def test_a_preset_of_a_paper_is_called_as_its_file_and_says_what_the_paper_leaves_open(name):
    assert load_config(name).name == name
    comment = preset_text(name).partition("name: ")[0]
    assert "On data of your own: data.train=FILE." in comment.replace("\n#", "")
    assert max(map(len, preset_text(name).splitlines())) <= 120


@pytest.mark.parametrize("name", preset_names())
def test_with_data_of_ones_own_a_preset_is_a_recipe_alone(name):
    config = load_config(name, ["data.train=own.xyz"])
    assert config.data.model_copy(update={"validation": Validation()}) == Data(train="own.xyz")
    assert config.baseline.e0 != "isolated"


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_builds_its_network(name):
    config = load_config(name)
    network = config.model.build(**FROM_DATA)
    assert network.species == (1, 6, 8)
    asked = {key: value for key, value in config.model.model_dump(exclude_unset=True).items() if key != "type"}
    given = json.loads(json.dumps(network.arguments))
    assert {key: given[key] for key in asked} == asked


def trained(name: str, folder: Path) -> None:
    config = load_config(name)
    network = config.model.build(**FROM_DATA)
    base = config.baseline
    e0 = {1: -1.0, 6: -2.0, 8: -3.0}
    potential = Baseline(network, e0, 0.5, 0.0, base.trainable_scale, base.trainable_shift)
    before = {key: value.clone() for key, value in potential.named_parameters() if value.requires_grad}
    data = Dataset(labelled_frames(4), network.cutoff)
    result = fit(
        potential, data, Dataset(labelled_frames(2, seed=1), network.cutoff), shortened(config.training), folder
    )
    assert result.epochs == 2
    assert result.last["loss"] is not None
    assert result.last["loss"] < 1e9
    changed = [
        key for key, value in potential.named_parameters() if value.requires_grad and not value.equal(before[key])
    ]
    assert len(changed) > 0.9 * len(before)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in OF_PAPERS]
)
def test_every_preset_of_a_paper_trains(name, tmp_path):
    trained(name, tmp_path)
