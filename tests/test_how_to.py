"""The how-to "Add an architecture" does what it says: its code runs as printed, its mistakes are found."""

from __future__ import annotations

import importlib
import json
import re
import runpy
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import architectures
from fireassay import models
from fireassay.errors import InputError
from fireassay.model_settings import settings_of
from fireassay.potential import LocalPotential
from fireassay.potential_file import load_potential, save_potential
from fireassay.settings import validated
from fireassay.testing import assert_potential_contract
from pages import blocks

PAGE = (Path(__file__).parents[1] / "docs" / "how-to" / "add-a-model.md").read_text()
FILES = blocks("add-a-model.md")
MISTAKES = re.findall(r"^\| `(.+?)` \| `(.+?)` \| law (\d+) \((\w+)\) \|$", PAGE, re.MULTILINE)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A new folder with the files of the page, from which Python imports."""
    for name, code in FILES.items():
        (tmp_path / name).write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in FILES:
        sys.modules.pop(Path(name).stem, None)


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]


def broken(code: str, mistake: str, right: str) -> type[LocalPotential]:
    assert code.count(right) == 1
    module = ModuleType("broken")
    exec(compile(code.replace(right, mistake), "broken", "exec"), module.__dict__)
    return module.SchNetLike


def test_the_page_has_what_this_test_is_about():
    assert list(FILES) == ["schnet_like.py", "test_schnet_like.py", "train_schnet_like.py"]
    assert len(MISTAKES) == 4


@pytest.mark.contract
def test_its_contract_test_passes(folder):
    importlib.import_module("test_schnet_like").test_contract()


def test_its_training_runs_and_learns(folder, capsys):
    out = runpy.run_path("train_schnet_like.py")
    assert out["result"].epochs == 3
    assert losses(folder)[-1] < 0.8 * losses(folder)[0]
    assert capsys.readouterr().out.splitlines()[-1] == "torch.Size([2]) torch.Size([54, 3]) torch.Size([54, 16])"


@pytest.mark.contract
def test_a_file_among_the_models_is_found_by_the_contract_test(folder, monkeypatch):
    """tests/test_contract.py takes its models from `_found`, which is asked here with one more file in the package."""
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(folder)])
    (folder / "test_schnet_like.py").unlink()
    (folder / "train_schnet_like.py").unlink()
    found = architectures._found()
    sys.modules.pop("fireassay.models.schnet_like")
    assert set(found) == {*architectures.ARCHITECTURES, "schnet_like"}
    monkeypatch.setitem(architectures.ARCHITECTURES, "schnet_like", found["schnet_like"])
    laws = ["shapes", "rotation", "isolated_atom"]
    assert assert_potential_contract(lambda: architectures.build("schnet_like"), laws=laws) == laws


def test_one_line_gives_it_a_name_in_configurations(folder, monkeypatch):
    kind = importlib.import_module("schnet_like").SchNetLike
    monkeypatch.setitem(models.MODELS, "schnet_like", kind)
    (section,) = re.findall(r"`model: (\{type: schnet_like.*?\})`", PAGE)
    settings = settings_of("schnet_like", kind)
    model = validated(settings, yaml.safe_load(section), "model").build(species=[1, 8], average_neighbours=5.0, seed=3)
    assert isinstance(model, kind)
    assert model.arguments["channels"] == 32
    assert model.arguments["seed"] == 3
    with pytest.raises(InputError, match="did you mean 'channels'"):
        validated(settings, {"type": "schnet_like", "chanels": 32}, "model")
    save_potential(model, folder / "model.safetensors")
    assert load_potential(folder / "model.safetensors").arguments == model.arguments


@pytest.mark.contract
@pytest.mark.parametrize(("mistake", "right", "number", "law"), MISTAKES)
def test_the_contract_finds_each_mistake(mistake, right, number, law):
    kind = broken(FILES["schnet_like.py"], mistake, right)
    with pytest.raises(AssertionError, match=rf"law {number} \({law}\)"):
        assert_potential_contract(lambda: kind(species=[1, 8], cutoff=4.0, channels=8))
