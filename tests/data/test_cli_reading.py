"""What hints say is typed after the verb in question: the same overrides on every verb that reads data."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fireassay.cli import app

GRADIENT = "2\nProperties=species:S:1:pos:R:3:dft_total_gradient:R:3 energy=-1.0\nC 0 0 0 0 0 0.5\nO 0 0 1.1 0 0 -0.5\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "a.xyz").write_text(GRADIENT * 3)
    return tmp_path / "a.xyz"


def hinted(text: str) -> list[str]:
    """The overrides of the first advice of a text, as a shell gives them."""
    quoted = re.findall(r'"data\.[a-z]+=[^"]*"', text.split(" or ")[0])
    return [word for override in quoted for word in shlex.split(override)]


def test_the_hint_of_inspect_is_typed_after_inspect(path: Path) -> None:
    run = CliRunner().invoke
    first = run(app, ["data", "inspect", str(path), "--json"])
    overrides = hinted(json.loads(first.output)["findings"][0])
    assert overrides == ["data.keys={forces: dft_total_gradient}", "data.units={forces: -eV/Å}"]
    again = run(app, ["data", "inspect", str(path), *overrides, "--json"])
    assert json.loads(again.output)["coverage"]["forces"] == 1.0
    assert not any("gradient" in finding for finding in json.loads(again.output)["findings"])


def test_and_after_convert(path: Path) -> None:
    target = path.with_name("b.xyz")
    overrides = ["data.keys={forces: dft_total_gradient}", "data.units={forces: -eV/Å}"]
    result = CliRunner().invoke(app, ["data", "convert", str(path), str(target), *overrides])
    assert result.exit_code == 0, result.output
    assert "C 0.0 0.0 0.0 -0.0 -0.0 -0.5" in target.read_text()


@pytest.mark.parametrize(
    "override", ["data.train=x", "training.epochs=3", "data.keys={force: x}", "data.accept=[unit]"]
)
def test_other_overrides_are_refused(override: str, path: Path) -> None:
    result = CliRunner().invoke(app, ["data", "inspect", str(path), override])
    assert result.exit_code == 2


def test_several_files_are_inspected_together(path: Path) -> None:
    other = path.with_name("c.xyz")
    other.write_text(GRADIENT)
    result = CliRunner().invoke(app, ["data", "inspect", str(path), str(other), "--json"])
    assert json.loads(result.output)["frames"] == 4


def test_a_sample_says_that_it_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIREASSAY_CACHE", str(tmp_path))
    result = CliRunner().invoke(app, ["data", "inspect", "3bpa-xtb/train_300K", "--sample", "100", "--json", "-q"])
    found = json.loads(result.output)
    assert found["frames"] == 500
    assert found["notes"][-1] == "statistics are those of 100 of 500 frames"
    assert str(tmp_path) in found["notes"][0]
    whole = json.loads(CliRunner().invoke(app, ["data", "inspect", "3bpa-xtb/train_300K", "--json"]).output)
    for name in ("atoms", "elements", "compositions", "coverage", "keys"):
        assert found[name] == whole[name], name


def test_labels_under_another_key_are_not_lost_in_converting(path: Path) -> None:
    result = CliRunner().invoke(app, ["data", "convert", str(path), str(path.with_name("d.xyz"))])
    assert result.exit_code == 2
    assert "dft_total_gradient" in result.output
    bare = path.with_name("e.xyz")
    bare.write_text("2\n\nC 0 0 0\nO 0 0 1.1\n")
    assert CliRunner().invoke(app, ["data", "convert", str(bare), str(path.with_name("f.db"))]).exit_code == 0
