"""The how-to "Add a failure criterion" does what it says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "how-to" / "add-a-criterion.md").read_text(encoding="utf-8")
BLOCKS: dict[str, str] = {
    title: textwrap.dedent(code) for title, code in re.findall(r'```python title="(.*?)"\n(.*?)```', PAGE, re.DOTALL)
}


def test_the_page_has_what_this_test_is_about():
    assert list(BLOCKS) == ["evaporation.py", "test_evaporation.py", "setting", "published", "criteria"]


def test_its_test_passes(tmp_path):
    for name in ("evaporation.py", "test_evaporation.py"):
        (tmp_path / name).write_text(BLOCKS[name], encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_evaporation.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.fixture
def clone(tmp_path):
    """The package's source, to be changed as the page says."""
    package = tmp_path / "clone" / "fireassay"
    shutil.copytree(ROOT / "src" / "fireassay", package, copy_function=shutil.copy2)
    criteria = package / "simulation" / "criteria.py"
    code = BLOCKS["evaporation.py"].partition("@dataclass")[2]
    needed = criteria.read_text(encoding="utf-8").replace(
        "from fireassay.simulation.state import ", "from fireassay.simulation.state import sum_per_replica, ", 1
    )
    criteria.write_text(f"{needed}\n\n@dataclass{code}", encoding="utf-8")
    return package


def changed(clone: Path, *steps: str) -> None:
    path = clone / "assays" / "stability.py"
    text = path.read_text(encoding="utf-8")
    code = {name: textwrap.indent(BLOCKS[name], "    ") for name in ("setting", "published", "criteria")}
    limit, end = '    "closest_approach": None,\n', "    return criteria, n_bonds\n"
    places = {
        "import": ("    ClosestApproach,\n", "    ClosestApproach,\n    Evaporation,\n"),
        "setting": ("    closest_approach: float", f"{code['setting']}    closest_approach: float"),
        "published": (limit, limit + code["published"]),
        "criteria": (end, code["criteria"] + end),
    }
    for step in steps:
        before, after = places[step]
        assert text.count(before) == 1, step
        text = text.replace(before, after)
    path.write_text(text, encoding="utf-8")


def run(clone: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(clone.parent)}
    command = [sys.executable, "-m", "fireassay", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_module_refuses_a_setting_that_the_published_protocol_does_not_know(clone):
    changed(clone, "import", "setting", "criteria")
    done = run(clone, "presets", "list")
    assert done.returncode != 0
    assert "radius_of_gyration" in done.stderr
    changed(clone, "published")
    assert run(clone, "config", "validate", "demo-mace", "assays.stability.radius_of_gyration=6").returncode == 0


def test_the_stability_assay_takes_it(clone, project):
    changed(clone, "import", "setting", "published", "criteria")
    project.train()
    done = run(clone, "assay", project.run, "stability", "stability.radius_of_gyration=0.5", "-q")
    assert done.returncode == 0, done.stderr
    record = json.loads((project.run / "assays" / "stability.json").read_text(encoding="utf-8"))["result"]
    assert "evaporation" in record["protocol"]["criteria"]
    assert record["protocol"]["settings"]["radius_of_gyration"] == 0.5
    assert {failure["criterion"] for failure in record["failures"]} == {"evaporation"}
