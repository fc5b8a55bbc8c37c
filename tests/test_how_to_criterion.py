"""The how-to "Add a failure criterion" does what it says."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from pages import Clone, blocks

BLOCKS = blocks("add-a-criterion.md")


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
    """The package's source with the criterion in its place."""
    found, criteria = Clone(tmp_path / "clone"), "simulation/criteria.py"
    found.insert(criteria, "sum_per_replica, ", after="from fireassay.simulation.state import ")
    path = found.package / criteria
    code = BLOCKS["evaporation.py"].partition("@dataclass")[2]
    path.write_text(f"{path.read_text(encoding='utf-8')}\n\n@dataclass{code}", encoding="utf-8")
    return found


STEPS = {
    "import": {"code": "    Evaporation,\n", "after": "    ClosestApproach,\n"},
    "setting": {"code": BLOCKS["setting"], "before": "    closest_approach: float", "indent": 4},
    "published": {"code": BLOCKS["published"], "after": '    "closest_approach": None,\n', "indent": 4},
    "criteria": {"code": BLOCKS["criteria"], "before": "    return criteria, n_bonds\n", "indent": 4},
}


def changed(clone: Clone, *steps: str) -> None:
    for step in steps:
        clone.insert("assays/stability.py", **STEPS[step])


def test_the_module_refuses_a_setting_that_the_published_protocol_does_not_know(clone):
    changed(clone, "import", "setting", "criteria")
    done = clone.fireassay("presets", "list")
    assert done.returncode != 0
    assert "radius_of_gyration" in done.stderr
    changed(clone, "published")
    assert clone.fireassay("config", "validate", "demo-mace", "assays.stability.radius_of_gyration=6").returncode == 0


def test_the_stability_assay_takes_it(clone, project):
    changed(clone, "import", "setting", "published", "criteria")
    project.train()
    done = clone.fireassay("assay", project.run, "stability", "stability.radius_of_gyration=0.5", "-q")
    assert done.returncode == 0, done.stderr
    record = json.loads((project.run / "assays" / "stability.json").read_text(encoding="utf-8"))["result"]
    assert "evaporation" in record["protocol"]["criteria"]
    assert record["protocol"]["settings"]["radius_of_gyration"] == 0.5
    assert {failure["criterion"] for failure in record["failures"]} == {"evaporation"}
