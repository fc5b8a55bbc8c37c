"""The comparison of all architectures: its presets differ in the model alone, it runs, and repeats nothing."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from fireassay.config import load_config, preset_names
from fireassay.models import MODELS

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "compare_architectures.py"


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compare_architectures", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_model_has_a_preset_and_they_differ_in_model_and_learning_rate_alone():
    names = [f"compare-{model.replace('_', '-')}" for model in MODELS]
    assert sorted(names) == [name for name in preset_names() if name.startswith("compare-")]
    contents = []
    for name, model in zip(names, MODELS, strict=True):
        config = load_config(name)
        assert config.model.type == model
        content = config.model_dump(exclude={"name", "description", "model"})
        content["training"]["optimiser"]["lr"] = None
        contents.append(content)
    assert all(content == contents[0] for content in contents)


def test_it_runs_and_repeats_nothing(script, tmp_path, monkeypatch, capsys):
    reported = []
    monkeypatch.setattr(script, "write_report", lambda folders, target, **_: reported.append(folders) or target)
    given = ["--output", str(tmp_path), "--only", "painn", "--acac", str(tmp_path / "nowhere"), "--threads", "1"]
    given += ["--seconds", "0.1", "--limit", "4", "--duration", "3", "--replicas", "1", "--quiet"]
    assert script.main(given) == 0
    assert "acetylacetone is left out" in capsys.readouterr().err
    folder = tmp_path / "runs" / "3bpa-xtb" / "painn"
    assert reported == [[folder]]
    written = [folder / name for name in ("potential.safetensors", "assays/accuracy.json", "cost.json")]
    before = [path.stat().st_mtime_ns for path in written]
    table = (tmp_path / "comparison.md").read_text()
    assert script.main(given) == 0
    assert [path.stat().st_mtime_ns for path in written] == before
    assert (tmp_path / "comparison.md").read_text() == table
    (line,) = [line for line in table.splitlines() if line.startswith("| painn")]
    assert "–" not in line
    assert line.count("|") == len(script.HEADER) + 1


def test_an_unknown_model_is_refused(script, capsys):
    with pytest.raises(SystemExit):
        script.main(["--only", "pain"])
    assert "no model 'pain'" in capsys.readouterr().err
